# SPDX-License-Identifier: GPL-2.0-only
"""How a kernel was configured, as far as it can be known before it boots.

The image's own IKCONFIG tells all, and so does the .config of its tree if it is not newer than the
image. BTF names the structures of what is built in: enough for MPTCP, which is never a module, but
not for its part for IPv6.
Where there is none of these nothing is said: the boot tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import KernelUnavailable, Malformed
from harness.kernels import compression, elf, kconfig, kernel_image, modules
from harness.kernels.kernel_image import Image, ImageKind
from harness.kernels.modules import ModuleSet
from harness.text import plural

#: Around the compressed configuration within a kernel (kernel/configs.c, CONFIG_IKCONFIG).
_START, _END = b"IKCFG_ST", b"IKCFG_ED"
#: Bytes; that of Debian's largest kernel has 0.3 MB.
_LIMIT = 8 << 20
#: Of every kernel with a network, and with MPTCP (net/mptcp/protocol.h).
_SOCK, _MPTCP_SOCK = "sock", "mptcp_sock"


@dataclass(frozen=True)
class Configuration:
    """The options that are set, to their text. ``source`` says for people whence that is known.

    ``known`` are those that ``values`` is complete for; None for all.
    """

    source: str
    values: Mapping[str, str]
    known: frozenset[str] | None = None


def check(place: Path, image: Image, found: ModuleSet) -> tuple[str, ...]:
    """Sentences about what cannot be tested in the kernel of the file ``place``, for its result.

    Raises KernelUnavailable, with every option that is missing, where it could not even boot.
    """
    kernel = _unpacked(image)
    configuration = _of(place, kernel)
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
            f"{place} cannot be booted for a test, as {configuration.source} says: it was built "
            f"with {kconfig.in_words(unwanted)}; configure and build it with: {kconfig.REMEDY}"
        )
    if for_boot:
        raise KernelUnavailable(
            f"{place} cannot be booted for a test, as {configuration.source} says: it was built "
            f"without {kconfig.in_words((*for_boot, *for_tests))}; configure and build it with: "
            f"{kconfig.REMEDY}"
        )
    if for_tests:
        return (
            f"this kernel was built without {kconfig.in_words(for_tests)}, as "
            f"{configuration.source} says; one that has all is built with: {kconfig.REMEDY}",
        )
    return ()


def _check_drivers(
    place: Path,
    release: str,
    kernel: elf.Data | None,
    found: ModuleSet,
    configuration: Configuration | None,
) -> None:
    """Raise KernelUnavailable where a driver of the event channel is a module that is not there.

    A driver that is built in has its name in the image: the guest would stay silent for want of
    one, which explains nothing.
    """
    if kernel is None:
        return
    there = {module.name for module in found.modules}
    lacking = [
        module
        for module, driver in modules.DRIVERS.items()
        if module not in there and kernel.find(b"\0" + driver + b"\0") < 0
    ]
    if configuration and configuration.known is None:  # what is not even a module is said otherwise
        lacking = [name for name in lacking if modules.NEEDED[name] in configuration.values]
    if lacking:
        places = " and ".join(map(str, found.searched)) or "no directory beside the image"
        raise KernelUnavailable(
            f"{place} needs its {plural(len(lacking), 'module')} {' and '.join(lacking)}, by which "
            f"the guest sends its results, and they were not found (looked in: {places}); give the "
            f"directory with lib/modules/{release} as --modules DIR (modules: in a manifest), or "
            f"build them in: {kconfig.REMEDY}"
        )


def of(place: Path, image: Image) -> Configuration | None:
    """How the kernel of the file ``place`` was configured; None if nothing tells."""
    return _of(place, _unpacked(image))


def _of(place: Path, kernel: elf.Data | None) -> Configuration | None:
    return (_embedded(kernel) if kernel else None) or _beside(place) or _by_btf(kernel)


def _whole(source: str, text: str) -> Configuration | None:
    """The configuration in ``text``; None if it can be none of a kernel for this machine."""
    values = kconfig.parse(text)
    return Configuration(source, values) if values.get("CONFIG_X86_64") == "y" else None


def _unpacked(image: Image) -> elf.Data | None:
    """The ELF file within ``image``; None if it is compressed as Python cannot read."""
    if image.kind is ImageKind.VMLINUX:
        return image.data
    try:
        return kernel_image.decompress_payload(image.data, image.payload)
    except Malformed:
        return None  # that it is damaged is said where it is unpacked to be booted


def _embedded(kernel: elf.Data) -> Configuration | None:
    for packed in _marked(kernel):
        try:
            text = compression.decompress(packed, _LIMIT).decode("utf-8", "replace")
        except (compression.Unknown, Malformed):
            continue
        return _whole("its own IKCONFIG", text)
    return None


def _marked(kernel: elf.Data) -> Iterator[bytes]:
    start = kernel.find(_START)
    while start >= 0:
        end = kernel.find(_END, start)
        if end < 0:
            return
        yield kernel[start + len(_START) : end]
        start = kernel.find(_START, start + 1)


def _beside(place: Path) -> Configuration | None:
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
    if _SOCK not in found:  # so that others are missing means nothing
        return None
    values = {"CONFIG_MPTCP": "y"} if _MPTCP_SOCK in found else {}
    return Configuration("its BTF", values, frozenset({"CONFIG_MPTCP"}))
