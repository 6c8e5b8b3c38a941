# SPDX-License-Identifier: GPL-2.0-only
"""Kernels of the user's own: ``image`` (a bzImage or vmlinux) and ``tree`` (a built kernel tree).

A tree may also be the directory of a build with O=.

How such a kernel was configured is checked as far as it can be known before it boots. The image's
own IKCONFIG has all options, and so has the .config of its tree unless it is newer than the image.
BTF names the structures of what is built in: enough for MPTCP, which is never a module, but not for
its part for IPv6. Without any of these, only the boot can show what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import KernelUnavailable, Malformed
from harness.host import files
from harness.host.architectures import ARCHITECTURES, Arch
from harness.kernels import compression, elf, kconfig, kernel_image, modules
from harness.kernels.cache import Built, Cache, CacheEntry, digest, file_sha256
from harness.kernels.kernel_image import Image, PreparedKernel, assemble, prepared, recognise
from harness.kernels.modules import ModuleSet
from harness.manifest.entries import ImageSource, TreeSource
from harness.text import plural

#: Finds the modules of a release.
FindModules = Callable[[str], ModuleSet]


def prepare(
    name: str,
    source: ImageSource,
    cache: Cache,
    say: Callable[[str], None],
    arch: Arch = Arch.AMD64,
) -> PreparedKernel:
    """The kernel in ``source.image``.

    Without ``source.modules``, the modules are found by the place of the image: in lib/modules
    beside it or beside its boot/, in lib/modules/RELEASE, or in a built tree.
    """

    def find(release: str) -> ModuleSet:
        if source.modules is not None:
            return modules.find(source.modules, release)
        return _beside(source.image, release)

    return from_file(name, source.image, find, cache, say, sha256=source.sha256, arch=arch)


def from_file(
    name: str,
    image: Path,
    find: FindModules,
    cache: Cache,
    say: Callable[[str], None],
    *,
    origin: str = "",
    sha256: str | None = None,
    arch: Arch = Arch.AMD64,
) -> PreparedKernel:
    """The kernel in the file ``image``, with the modules that ``find`` returns for its release.

    An image with the bytes that were last read there is only hashed; with a trusting cache, one
    that was not touched since is not even read.
    """
    origin = origin or str(image)
    seen = files.stamp(image) if image.is_file() else None
    known = _recall(image, cache, arch)
    if known is not None and sha256 in (None, known.sha256):
        entry = _existing(known, find(known.release), image, cache)
        if entry is not None:
            if not cache.trusts:
                _note(known, seen, image, cache, arch)
            return prepared(name, entry, origin=origin)
    with _snapshot(image, cache) as copy:
        actual = file_sha256(copy)
        if sha256 is not None and actual != sha256:
            raise KernelUnavailable(
                f"{image} has the SHA-256 {actual}, but the manifest says {sha256}; correct the "
                f"path or the sum"
            )
        recognised = recognise(elf.mapped(copy), str(image), arch)
        found = find(recognised.release)
        check = functools.partial(check_configuration, image)
        try:
            modules.check_event_channel(found, str(image))
        except KernelUnavailable:
            # Names every missing option, if known.
            check(recognised, kernel_image.unpack(recognised, copy.with_name("vmlinux")), found)
            raise
        known = _Known(actual, recognised.release)

        def build(root: Path) -> Built:
            say(f"unpacking {image}")
            return assemble(root, recognised, found, check)

        entry = cache.entry(_key(known, found), build, say)
    _note(known, seen, image, cache, arch)
    return prepared(name, entry, origin=origin)


@dataclass(frozen=True)
class _Known:
    """The identity of an image's cache entry."""

    sha256: str
    release: str


def _key(image: _Known, found: ModuleSet) -> str:
    used = [[module.name, hashlib.sha256(module.data).hexdigest()] for module in found.modules]
    return f"image-{image.release}-{digest([image.sha256, used])}"


def _memory(image: Path, cache: Cache, arch: Arch) -> Path:
    return cache.root / "images" / f"{digest([str(image), arch.value])}.json"


def _recall(image: Path, cache: Cache, arch: Arch) -> _Known | None:
    """The cached identity of ``image``, a kernel for ``arch``, if the file did not change."""
    noted = files.recall(_memory(image, cache, arch))
    try:
        known = _Known(str(noted["sha256"]), str(noted["release"]))
        if cache.trusts:
            same = noted["stamp"] == files.stamp(image)
        else:
            same = image.is_file() and file_sha256(image) == known.sha256
    except (OSError, LookupError, TypeError):
        return None
    return known if same else None


def _note(known: _Known, seen: files.Stamp | None, image: Path, cache: Cache, arch: Arch) -> None:
    """Note for :func:`_recall` what ``image`` is, which had the stamp ``seen`` before."""
    if seen is not None and files.is_settled(seen) and not cache.is_read_only:
        cache.directory("images")
        files.remember(_memory(image, cache, arch), {"stamp": seen, **asdict(known)})


def _existing(known: _Known, found: ModuleSet, image: Path, cache: Cache) -> CacheEntry | None:
    """The cached kernel; None if there is none, or if ``found`` lacks a module that it needs:
    :func:`from_file` then names every missing option."""
    try:
        modules.check_event_channel(found, str(image))
    except KernelUnavailable:
        return None
    return cache.existing(_key(known, found))


@contextlib.contextmanager
def _snapshot(image: Path, cache: Cache) -> Iterator[Path]:
    """A copy of ``image`` in a directory of its own, because a build may write to the image."""
    if image.is_dir():
        raise KernelUnavailable(
            f"{image} is a directory, not a kernel image; give the file in it, or a built kernel "
            "tree as tree:"
        )
    if not image.is_file():
        kind = "is not a regular file" if image.exists() else "does not exist"
        raise KernelUnavailable(f"{image} {kind}; give a bzImage or vmlinux")
    with cache.scratch() as directory:
        copy = directory / "image"
        try:
            source = image.open("rb")
        except OSError as error:
            raise KernelUnavailable(
                f"{image} cannot be read ({error.strerror}); make it readable for this user"
            ) from error
        with source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        yield copy


def _beside(given: Path, release: str) -> ModuleSet:
    image = given.resolve()
    places = modules.installed_below(image.parent, release)
    if image.parent.name == release:
        places = (image.parent, *places)
    if image.parent.name == "boot":
        places = (*modules.installed_below(image.parent.parent, release), *places)
    for place in places:
        if place.is_dir():
            return modules.of_directory(place)
    tree = modules.tree_of(image)
    return modules.of_tree(tree) if tree else ModuleSet(searched=places)


def prepare_tree(
    name: str,
    source: TreeSource,
    cache: Cache,
    say: Callable[[str], None],
    arch: Arch = Arch.AMD64,
) -> PreparedKernel:
    """The kernel last built in ``source.tree``, copied, because the tree may change afterwards."""
    tree = source.tree
    return from_file(
        name,
        _newest_image(tree, arch),
        lambda _: modules.of_tree(tree),
        cache,
        say,
        origin=f"tree {tree}",
        sha256=source.sha256,
        arch=arch,
    )


def is_tree(directory: Path, arch: Arch) -> bool:
    """Whether ``directory`` is a kernel's tree, built or not, or that of a build with O=."""
    marks = (Path("Kbuild"), *_image_names(arch))
    return any((directory / name).exists() for name in marks) or modules.is_tree(directory)


def _image_names(arch: Arch) -> tuple[Path, ...]:
    vmlinux = (Path("vmlinux"),) if arch is Arch.AMD64 else ()
    return (ARCHITECTURES[arch].tree_image, *vmlinux)


def _newest_image(tree: Path, arch: Arch) -> Path:
    """The image of ``tree``. On x86-64 the newer of bzImage and vmlinux: after ``make vmlinux``,
    bzImage is from an older build."""
    if not tree.is_dir():
        raise KernelUnavailable(f"{tree} is not a directory; give a built kernel tree")
    wanted = ARCHITECTURES[arch]
    names = _image_names(arch)
    built = [path for path in (tree / name for name in names) if path.is_file()]
    if built:
        return max(built, key=lambda path: path.stat().st_mtime_ns)
    if not is_tree(tree, arch):
        raise KernelUnavailable(f"{tree} is not a kernel tree: it has neither Kbuild nor .config")
    command = f"make -C {tree} -j$(nproc)"
    if not (tree / ".config").is_file():
        command = f"cd {tree} && {kconfig.REMEDY}"
    raise KernelUnavailable(
        f"{tree} has no kernel for {wanted.name} ({' or '.join(map(str, names))}); build it with: "
        f"{command}"
    )


#: Markers around the compressed configuration in a kernel (kernel/configs.c, CONFIG_IKCONFIG).
_IKCONFIG, _END = re.compile(rb"IKCFG_ST(?=\x1f\x8b)"), b"IKCFG_ED"
_LONGEST_MARKER = 10
#: Bytes; the configuration of Debian's largest kernel has 0.3 MB.
_LIMIT = 8 << 20
#: Structures of every kernel with a network, and with MPTCP (net/mptcp/protocol.h).
_SOCK, _MPTCP_SOCK = "sock", "mptcp_sock"


@dataclass(frozen=True)
class Configuration:
    """The options that are set, with their values. ``source`` names the source, for people.

    ``known`` are the options about which ``values`` is complete; None for all.
    """

    source: str
    values: Mapping[str, str]
    known: frozenset[str] | None = None


def check_configuration(
    place: Path, image: Image, kernel: elf.Data | None, found: ModuleSet
) -> tuple[str, ...]:
    """Notes about what cannot be tested in the kernel of the file ``place``, for its result.

    ``kernel`` is its ELF file (:func:`kernel_image.unpack`). Raises KernelUnavailable, with every
    missing option, if it could not even boot.
    """
    configuration = configuration_of(place, kernel)
    _check_drivers(place, image.release, kernel, found, configuration)
    if configuration is None:
        return ()
    known = configuration.known
    lacking = tuple(
        tuple(option for option in options if known is None or option.name in known)
        for options in kconfig.missing(configuration.values, (m.name for m in found.modules))
    )
    for_boot, for_tests = lacking
    if unwanted := kconfig.forbidden(configuration.values):
        raise KernelUnavailable(
            f"{place} cannot be tested: according to {configuration.source}, it was built "
            f"with {kconfig.in_words(unwanted)}; configure and build it with: {kconfig.REMEDY}"
        )
    if for_boot:
        raise KernelUnavailable(
            f"{place} cannot be tested: according to {configuration.source}, it was built "
            f"without {kconfig.in_words((*for_boot, *for_tests))}; configure and build it with: "
            f"{kconfig.REMEDY}"
        )
    if for_tests:
        return (
            f"according to {configuration.source}, this kernel was built without "
            f"{kconfig.in_words(for_tests)}; to build one with everything: {kconfig.REMEDY}",
        )
    return ()


def _check_drivers(
    place: Path,
    release: str,
    kernel: elf.Data | None,
    found: ModuleSet,
    configuration: Configuration | None,
) -> None:
    """Raise KernelUnavailable if a driver of the event channel is a module that is missing.

    The image contains the name of a built-in driver. Without a driver, the guest would be silent,
    which explains nothing.
    """
    if kernel is None:
        return
    there = {module.name for module in found.modules}
    lacking = [
        module
        for module, driver in modules.DRIVERS.items()
        if module not in there and not _names(kernel, driver)
    ]
    if (
        configuration and configuration.known is None
    ):  # options that are not set at all are reported elsewhere
        lacking = [name for name in lacking if modules.NEEDED[name] in configuration.values]
    if lacking:
        places = " and ".join(map(str, found.searched)) or "no directory beside the image"
        raise KernelUnavailable(
            f"{place} needs its {plural(len(lacking), 'module')} {' and '.join(lacking)}, with "
            f"which the guest sends its results, but they were not found (searched: {places}); "
            f"give the directory with lib/modules/{release} as --modules DIR (modules: in a "
            f"manifest), or build them in: {kconfig.REMEDY}"
        )


def _names(kernel: elf.Data, driver: bytes) -> bool:
    string = re.compile(b"\0" + re.escape(driver) + b"\0")
    return elf.search(kernel, string, len(driver) + 2) is not None


def configuration_of(place: Path, kernel: elf.Data | None) -> Configuration | None:
    """The configuration of the kernel in the file ``place``, whose ELF file is ``kernel``; None if
    unknown."""
    return (_embedded(kernel) if kernel else None) or _config_beside(place) or _by_btf(kernel)


def _whole(source: str, text: str) -> Configuration | None:
    """The configuration in ``text``; None unless it is for x86-64."""
    values = kconfig.parse(text)
    return Configuration(source, values) if values.get("CONFIG_X86_64") == "y" else None


def _embedded(kernel: elf.Data) -> Configuration | None:
    found = elf.search(kernel, _IKCONFIG, _LONGEST_MARKER)
    if found is None:
        return None
    packed, end, _ = kernel[found.end() : found.end() + _LIMIT].partition(_END)
    if not end:
        return None
    try:
        text = compression.decompress(packed, _LIMIT).decode("utf-8", "replace")
    except Malformed:
        return None
    return _whole("its own IKCONFIG", text)


def _config_beside(place: Path) -> Configuration | None:
    """The .config of the tree in which ``place`` was built, unless it was changed since."""
    image = place.resolve()
    tree = modules.tree_of(image)
    if tree is None:
        return None
    config = tree / ".config"
    try:
        if config.stat().st_mtime_ns > image.stat().st_mtime_ns:
            return None
        return _whole(str(config), config.read_text(errors="replace"))
    except OSError:
        return None


def _by_btf(kernel: elf.Data | None) -> Configuration | None:
    try:
        types = elf.section(kernel, elf.BTF_SECTION) if kernel else b""
        found = elf.btf_structures(types, {_SOCK, _MPTCP_SOCK}) if types else {}
    except Malformed:
        return None
    if _SOCK not in found:  # so missing structures mean nothing
        return None
    values = {"CONFIG_MPTCP": "y"} if _MPTCP_SOCK in found else {}
    return Configuration("its BTF", values, frozenset({"CONFIG_MPTCP"}))
