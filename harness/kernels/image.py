# SPDX-License-Identifier: GPL-2.0-only
"""The sources ``image``, a bzImage or vmlinux of the user's own, and ``tree``, a built kernel tree.

A tree may also be the directory of a build with O=.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.errors import KernelUnavailable
from harness.host import files
from harness.kernels import configured, kconfig, modules
from harness.kernels.cache import Built, Cache, digest
from harness.kernels.elf import Data
from harness.kernels.kernel_image import recognise
from harness.kernels.modules import ModuleSet
from harness.kernels.prepared import PreparedKernel, assemble, prepared
from harness.manifest.kernels_yaml import ImageSource, TreeSource

#: Finds the modules of a release, or that there are none.
FindModules = Callable[[str], ModuleSet]


def prepare(
    name: str, source: ImageSource, cache: Cache, say: Callable[[str], None]
) -> PreparedKernel:
    """The kernel in ``source.image``.

    Without ``source.modules`` those are taken that belong to it by where it lies: in lib/modules
    beside it or beside its boot/, in lib/modules/RELEASE or in a built tree.
    """

    def find(release: str) -> ModuleSet:
        if source.modules is not None:
            return modules.find(source.modules, release)
        return _beside(source.image, release)

    return from_file(name, source.image, find, cache, say, sha256=source.sha256)


def from_file(
    name: str,
    image: Path,
    find: FindModules,
    cache: Cache,
    say: Callable[[str], None],
    *,
    origin: str = "",
    sha256: str | None = None,
) -> PreparedKernel:
    """The kernel in the file ``image`` with the modules that ``find`` gives for its release.

    For a trusting cache an image that was not touched since it was last read is not read again.
    """
    origin = origin or str(image)
    known = _recall(image, cache)
    if known is not None and sha256 in (None, known.sha256):
        found = find(known.release)
        modules.check_event_channel(found, str(image))
        entry = cache.existing(_key(known, found))
        if entry is not None:
            return prepared(name, entry, origin=origin)
    seen = files.stamp(image) if image.is_file() else None
    with _snapshot(image, cache) as data:
        actual = hashlib.sha256(data).hexdigest()
        if sha256 is not None and actual != sha256:
            raise KernelUnavailable(
                f"{image} has the SHA-256 {actual}, the manifest says {sha256}: it is another "
                "image; correct the one or the other"
            )
        recognised = recognise(data, str(image))
        found = find(recognised.release)
        try:
            modules.check_event_channel(found, str(image))
        except KernelUnavailable:
            configured.check(image, recognised, found)  # names all that is missing, if it is known
            raise
        known = _Known(actual, recognised.release)

        def build(root: Path) -> Built:
            say(f"unpacking {image}")
            notes = configured.check(image, recognised, found)
            return replace(assemble(root, recognised, found), notes=notes)

        entry = cache.entry(_key(known, found), build, say)
    if seen is not None and files.is_settled(seen) and not cache.is_read_only:
        cache.directory("images")
        files.remember(_memory(image, cache), {"stamp": seen, **asdict(known)})
    return prepared(name, entry, origin=origin)


@dataclass(frozen=True)
class _Known:
    """What there is to know of an image to find its entry."""

    sha256: str
    release: str


def _key(image: _Known, found: ModuleSet) -> str:
    used = [[module.name, hashlib.sha256(module.data).hexdigest()] for module in found.modules]
    return f"image-{image.release}-{digest([image.sha256, used])}"


def _memory(image: Path, cache: Cache) -> Path:
    return cache.root / "images" / f"{digest(str(image))}.json"


def _recall(image: Path, cache: Cache) -> _Known | None:
    """What was found in ``image``, for a cache that trusts a file which was not touched."""
    if not cache.trusts:
        return None
    known = files.recall(_memory(image, cache))
    try:
        if known["stamp"] == files.stamp(image):
            return _Known(str(known["sha256"]), str(known["release"]))
    except (OSError, LookupError, TypeError):
        pass
    return None


@contextlib.contextmanager
def _snapshot(image: Path, cache: Cache) -> Iterator[Data]:
    """The bytes of ``image`` as they are now, from a copy: a build may write to it meanwhile."""
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
        if copy.stat().st_size == 0:
            yield b""
            return
        with copy.open("rb") as file:
            # Not closed here: views of it live on in the trace of an error, such as a full disk.
            yield mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


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
    name: str, source: TreeSource, cache: Cache, say: Callable[[str], None]
) -> PreparedKernel:
    """The kernel last built in ``source.tree``, as it is now: the tree may change afterwards."""
    tree = source.tree
    return from_file(
        name,
        _newest_image(tree),
        lambda _: modules.of_tree(tree),
        cache,
        say,
        origin=f"tree {tree}",
        sha256=source.sha256,
    )


def _newest_image(tree: Path) -> Path:
    """The newer of bzImage and vmlinux: after ``make vmlinux`` the bzImage is of an older build."""
    if not tree.is_dir():
        raise KernelUnavailable(f"{tree} is not a directory; give a built kernel tree")
    images = (tree / "arch" / "x86" / "boot" / "bzImage", tree / "vmlinux")
    built = [path for path in images if path.is_file()]
    if built:
        return max(built, key=lambda path: path.stat().st_mtime_ns)
    if not (tree / "Kbuild").exists() and not modules.is_tree(tree):
        raise KernelUnavailable(f"{tree} is not a kernel tree: it has neither Kbuild nor .config")
    command = f"make -C {tree} -j$(nproc)"
    if not (tree / ".config").is_file():
        command = f"cd {tree} && {kconfig.REMEDY}"
    raise KernelUnavailable(
        f"{tree} has no kernel for x86-64 (arch/x86/boot/bzImage or vmlinux); build it with: "
        f"{command}"
    )
