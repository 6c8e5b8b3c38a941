# SPDX-License-Identifier: GPL-2.0-only
"""Kernel images: the type of a file, the contents of a bzImage, the form that boots fastest; and
the prepared kernel that every source makes from an image."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from harness.errors import KernelUnavailable, Malformed
from harness.host.architectures import ARCHITECTURES, Arch, Architecture
from harness.kernels import compression, elf, modules
from harness.kernels.cache import Built, CacheEntry
from harness.kernels.elf import Data
from harness.kernels.modules import ModuleSet

_BOOT_FLAG = 0x1FE
_SIGNATURE = 0x202
_HEADER_END = 0x268
_SECTOR = 512
_XLF_KERNEL_64 = 1
_PE_HEADER = 24  # the signature and the COFF header


@dataclass(frozen=True)
class SetupHeader:
    """``payload`` is the position of the compressed kernel in the file, empty before protocol
    2.08."""

    banner: str  # "6.1.0-50-amd64 (builder@host) #1 SMP …"
    payload: slice


def is_bzimage(data: Data) -> bool:
    return (
        data[_BOOT_FLAG : _BOOT_FLAG + 2] == b"\x55\xaa"
        and data[_SIGNATURE : _SIGNATURE + 4] == b"HdrS"
    )


def loaded_size_of_bzimage(data: Data) -> int:
    """The bytes of memory that the kernel needs to unpack itself; 0 before protocol 2.10.

    The start of the file is enough.
    """
    version: int = struct.unpack_from("<H", data, 0x206)[0]
    size: int = struct.unpack_from("<I", data, 0x260)[0]
    return size if version >= 0x20A else 0


def setup_header(data: Data) -> SetupHeader:
    """The setup header of ``data``, which :func:`is_bzimage`; raises :class:`Malformed`."""
    if len(data) < _HEADER_END:
        raise Malformed("it is truncated: it ends within its setup header")
    sectors = data[0x1F1] or 4  # 0 means 4 (Documentation/arch/x86/boot.rst)
    code = (sectors + 1) * _SECTOR
    paragraphs, protocol, version = (
        struct.unpack_from("<I", data, 0x1F4)[0],
        struct.unpack_from("<H", data, 0x206)[0],
        struct.unpack_from("<H", data, 0x20E)[0],
    )
    # The size is rounded up to 16 bytes; the file need not be.
    if len(data) <= code + paragraphs * 16 - 16:
        raise Malformed(
            f"it is truncated: {len(data)} bytes, of {code + paragraphs * 16} by its header"
        )
    if protocol >= 0x20C and not struct.unpack_from("<H", data, 0x236)[0] & _XLF_KERNEL_64:
        raise Malformed("it is a 32-bit kernel, and the guest's programs are x86-64")
    payload = slice(0, 0)
    if protocol >= 0x208:
        offset, length = struct.unpack_from("<II", data, 0x248)
        payload = slice(code + offset, code + offset + length)
        if payload.stop > len(data):
            raise Malformed("it is truncated: it ends within the compressed kernel")
    return SetupHeader(_string(data, version + 0x200) if version else "", payload)


def _string(data: Data, start: int) -> str:
    return data[start : start + 512].split(b"\0")[0].decode("ascii", "replace")


#: A release that can be part of a path.
RELEASE = r"[0-9A-Za-z][0-9A-Za-z.+~_-]{2,127}"

_BANNER = re.compile(rb"Linux version (\d[^\0\n]{2,500})")
_LONGEST_BANNER = 600
_ARM64_MAGIC = slice(56, 60)
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x5d\0\0": "lzma",
}
_INSTEAD = "; give an x86-64 bzImage (arch/x86/boot/bzImage, vmlinuz-*) or vmlinux"
#: Where s390's image has the address of its version, big endian: kernel_version of struct parmarea
#: (arch/s390/include/asm/setup.h). The image is loaded at 0.
_S390_VERSION = 0x10428
_S390_BANNER = re.compile(rb"(\d+\.[^\0\n]{2,500})")


class ImageKind(Enum):
    BZIMAGE = "vmlinuz"
    VMLINUX = "vmlinux"
    RAW = "Image"  # what other architectures boot: arm64's and riscv's Image, s390's bzImage


@dataclass(frozen=True)
class Image:
    """A complete kernel image. ``version`` is the rest of its banner behind the release."""

    what: str  # for messages: "the image in linux-image-6.1.0-50-amd64", or its path
    kind: ImageKind
    release: str
    version: str
    data: elf.Data
    payload: slice  # in a bzImage: the compressed kernel


def recognise(data: elf.Data, what: str, arch: Arch = Arch.AMD64) -> Image:
    """The image for ``arch`` in ``data``. Raises KernelUnavailable, with a sentence that begins
    with ``what``.

    No part of an image is executed on the host, and its bytes are not trusted.
    """
    if arch is not Arch.AMD64:
        return _recognise_other(data, what, arch)
    try:
        if is_bzimage(data):
            header = setup_header(data)
            return _image(what, ImageKind.BZIMAGE, header.banner, data, header.payload)
        if data[:4] == elf.MAGIC:
            return _vmlinux(data, what)
        within = kernel_in_uki(data)
    except Malformed as error:
        raise KernelUnavailable(f"{what} cannot be booted: {error}{_INSTEAD}") from error
    if within is not None and (is_bzimage(within) or within[:4] == elf.MAGIC):
        return recognise(within, f"the kernel in {what}")
    raise KernelUnavailable(f"{what} {_misfit(data)}{_INSTEAD}")


def kernel_in_uki(data: elf.Data) -> bytes | None:
    """The kernel in a unified kernel image, a PE file with the section .linux, else None.

    Raises Malformed if the section is not in the file (uapi-group.org, "Unified Kernel Image").
    """
    if data[:2] != b"MZ" or len(data) < 0x40:
        return None
    start = struct.unpack_from("<I", data, 0x3C)[0]
    if data[start : start + 4] != b"PE\0\0" or len(data) < start + _PE_HEADER:
        return None
    sections, optional = struct.unpack_from("<6xH12xH", data, start)
    table = start + _PE_HEADER + optional
    for at in range(table, min(table + 40 * sections, len(data) - 39), 40):
        if data[at : at + 8].rstrip(b"\0") == b".linux":
            virtual, stored, place = struct.unpack_from("<8xI4xII", data, at)
            if not stored or place + stored > len(data):
                raise Malformed("it is truncated: its section .linux is not in the file")
            return bytes(data[place : place + (min(virtual, stored) or stored)])
    return None


def unpack(image: Image, target: Path) -> elf.Data | None:
    """The ELF file in ``image``, decompressed to the file ``target`` if need be.

    None if there is none, or if its compression (lzo) is not supported. Raises KernelUnavailable
    for a damaged image.

    The size follows the compressed stream, and relocations follow the kernel inside the stream.
    Neither matters to readers of the ELF headers.
    """
    if image.kind is not ImageKind.BZIMAGE:
        return image.data if image.kind is ImageKind.VMLINUX else None
    try:
        with target.open("wb") as file:
            for piece in compression.pieces(memoryview(image.data)[image.payload]):
                file.write(piece)
    except compression.Unknown:
        return None
    except Malformed as error:
        raise KernelUnavailable(
            f"{image.what} is damaged: the kernel within cannot be decompressed ({error})"
        ) from error
    kernel = elf.mapped(target)
    return kernel if kernel[:4] == elf.MAGIC else None


def _is_bootable(kernel: elf.Data, image: Image) -> bool:
    """Whether QEMU can start ``kernel``, which was unpacked from ``image``, through PVH."""
    try:
        elf.check_complete(kernel)
        # virtme-ng finds the release, and so the modules, by this.
        banner = _banner(kernel)
        named = banner is not None and banner[1].split(b" ")[0].decode() == image.release
        return named and elf.has_pvh_entry(kernel)
    except ValueError as error:
        raise KernelUnavailable(f"{image.what} is damaged: {error}") from error


def _banner(data: elf.Data) -> re.Match[bytes] | None:
    """The version banner in ``data``; group 1 is the release and what follows it."""
    return elf.search(data, _BANNER, _LONGEST_BANNER)


def _recognise_other(data: elf.Data, what: str, arch: Arch) -> Image:
    """As :func:`recognise`, for an architecture other than x86-64."""
    wanted = ARCHITECTURES[arch]
    instead = f"; give {wanted.tree_image} of a build for {wanted.name}"
    is_raw = _has_magic(data, wanted)
    try:
        if data[:4] == elf.MAGIC and wanted.magic is None:
            machine = elf.machine(data)
            if machine != elf.MACHINES[wanted.elf_machine]:
                raise Malformed(f"it is an ELF file for {machine}, not for {wanted.name}")
            elf.check_complete(data)
    except Malformed as error:
        raise KernelUnavailable(f"{what} cannot be booted: {error}{instead}") from error
    if not is_raw and (data[:4] != elf.MAGIC or wanted.magic is not None):
        raise KernelUnavailable(f"{what} {_other_misfit(data, wanted)}{instead}")
    found = _banner_of_s390(data) if arch is Arch.S390X else _banner(data)
    if found is None:
        raise KernelUnavailable(
            f"{what} cannot be booted: it is truncated or no kernel, because it holds no Linux "
            f"version{instead}"
        )
    kind = ImageKind.RAW if is_raw else ImageKind.VMLINUX
    return _image(what, kind, found[1].decode("ascii", "replace"), data, slice(0, 0))


def _banner_of_s390(data: elf.Data) -> re.Match[bytes] | None:
    if len(data) < _S390_VERSION + 8:
        return None
    (at,) = struct.unpack_from(">Q", data, _S390_VERSION)
    return _S390_BANNER.match(bytes(data[at : at + 512])) if at < len(data) else None


def _has_magic(data: elf.Data, wanted: Architecture) -> bool:
    if wanted.magic is None:
        return False
    at, magic = wanted.magic
    return data[at : at + len(magic)] == magic


def _other_misfit(data: elf.Data, wanted: Architecture) -> str:
    """Why ``data`` is not an image for ``wanted``, if it is one for another architecture."""
    other = next((a.name for a in ARCHITECTURES.values() if _has_magic(data, a)), None)
    if is_bzimage(data):
        other = ARCHITECTURES[Arch.AMD64].name
    if data[:4] == elf.MAGIC:
        return "is an ELF file, which QEMU does not start on this architecture"
    if other is not None:
        return f"is an image for {other}, and this entry says arch: {wanted.name}"
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        return "is a compressed EFI image (CONFIG_EFI_ZBOOT)"
    if data[:2] == b"\x1f\x8b":
        return "is compressed with gzip"
    return f"is not a kernel image for {wanted.name}" if data[:1] else "is empty"


def loaded_size_of_raw(data: Data) -> int:
    """The bytes of memory that arm64's or riscv's Image needs, by its header; 0 for others.

    The start of the file is enough (Documentation/arch/arm64/booting.rst).
    """
    is_known = any(data[56:60] == a.magic[1] for a in ARCHITECTURES.values() if a.magic)
    size: int = struct.unpack_from("<Q", data, 16)[0] if is_known else 0
    return size


def _vmlinux(data: elf.Data, what: str) -> Image:
    machine = elf.machine(data)
    if machine != elf.MACHINES[elf.EM_X86_64]:
        raise Malformed(f"it is an ELF file for {machine}")
    elf.check_complete(data)
    found = _banner(data)
    if found is None:
        raise Malformed("it is an ELF file, but not a kernel: it holds no Linux version")
    if not elf.has_pvh_entry(data):
        raise Malformed("it was built without CONFIG_PVH, which QEMU needs to start a vmlinux")
    banner = found[1].decode("ascii", "replace")
    return _image(what, ImageKind.VMLINUX, banner, data, slice(0, 0))


def _image(what: str, kind: ImageKind, banner: str, data: elf.Data, payload: slice) -> Image:
    release, _, version = banner.strip().partition(" ")
    if not re.fullmatch(RELEASE, release):
        raise KernelUnavailable(f"{what} has no usable release ({release[:64]!r})")
    return Image(what, kind, release, version, data, payload)


def _misfit(data: elf.Data) -> str:
    start = data[:4096]
    if not start:
        return "is empty"
    if start[_ARM64_MAGIC] == b"ARM\x64" or start[4:8] == b"zimg":
        return "is an image for arm64 or another machine than x86-64 (set arch: arm64)"
    if start.startswith(b"!<arch>\n"):
        return (
            "is a package (.deb); name it as such in a manifest (deb: {file: …}, or "
            "deb: {suite: …, package: …})"
        )
    if start.startswith(b"\xed\xab\xee\xdb"):
        return "is a package (.rpm); name it as such in a manifest (rpm: {file: …})"
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            return (
                f"is compressed with {name}, but is not an x86-64 kernel; unpack an archive of "
                f"modules with `tar -xf FILE -C DIR`, and give DIR as --modules"
            )
    if start.startswith(b"MZ"):
        return "starts like a kernel's EFI stub, but is truncated or no Linux kernel"
    if not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", start):
        return "is a text file"
    return "is not a kernel image"


@dataclass(frozen=True)
class PreparedKernel:
    """A kernel that can be booted.

    Its files are in ``root``: ``boot/vmlinuz-RELEASE``, ``boot/vmlinux-RELEASE`` or both, and
    ``modules/NAME.ko``, decompressed, for what a boot needs and the kernel has not built in.
    """

    name: str  # the manifest's name
    release: str  # uname -r
    version: str  # a package version, or what the image says of itself ("Linux version …" tail)
    origin: str  # for people: "bookworm linux-image-6.1.0-50-amd64 6.1.176-1"
    image: Path  # the image as the source had it; its bytes are hashed
    image_sha256: str
    root: Path
    boot_image: Path  # what QEMU boots: an uncompressed vmlinux if possible
    modules: tuple[Path, ...] = ()  # in the order in which insmod has to load them
    modules_sha256: tuple[str, ...] = ()  # of their bytes, in the same order
    notes: tuple[str, ...] = ()  # sentences for its result that are known before the boot
    arch: Arch = Arch.AMD64


#: Returns notes for a kernel's result. It gets the image, its ELF file as from :func:`unpack`, and
#: the modules, and raises KernelUnavailable for a kernel that cannot be tested.
Check = Callable[[Image, elf.Data | None, ModuleSet], tuple[str, ...]]


def no_check(_image: Image, _kernel: elf.Data | None, _found: ModuleSet) -> tuple[str, ...]:
    """No notes: for kernels that are known to be complete."""
    return ()


def assemble(root: Path, image: Image, found: ModuleSet, check: Check = no_check) -> Built:
    """Fill ``root``, laid out as PreparedKernel says.

    A kernel that QEMU can start without its decompressor is unpacked: that saves 2.5 s of a boot of
    6.1 under TCG. Raises KernelUnavailable when the image is damaged or the modules are not its
    own.
    """
    boot = root / "boot"
    boot.mkdir()
    name = boot_name = f"boot/{image.kind.value}-{image.release}"
    unpacked_name = f"boot/{ImageKind.VMLINUX.value}-{image.release}"
    (root / name).write_bytes(image.data)
    kernel = unpack(image, root / unpacked_name)
    notes = check(image, kernel, found)
    if image.kind is ImageKind.BZIMAGE:
        if kernel is not None and _is_bootable(kernel, image):
            boot_name = unpacked_name
        else:
            (root / unpacked_name).unlink()
    installed = modules.install(found.modules, root, image.release)
    return Built(image.release, image.version, name, boot_name, installed, notes)


def prepared(name: str, entry: CacheEntry, *, origin: str, version: str = "") -> PreparedKernel:
    """The kernel in ``entry``, as the manifest calls it; ``version`` over what the image says."""
    return PreparedKernel(
        name=name,
        release=entry.built.release,
        version=version or entry.built.version,
        origin=origin,
        image=entry.image,
        image_sha256=entry.image_sha256,
        root=entry.root,
        boot_image=entry.boot_image,
        modules=entry.modules,
        modules_sha256=entry.modules_sha256,
        notes=entry.built.notes,
    )
