# SPDX-License-Identifier: GPL-2.0-only
"""Kernels, modules and packages of a few kilobytes, with just the structure that is read."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import random
import struct
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lz4.block

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RELEASE = "6.1.0-50-amd64"
#: As an image has the names of drivers that are built in.
DRIVERS = b"\0virtio-pci\0virtio_console\0"
PVH_NOTE = (b"Xen\0", 18)

_CODE = 4 * 512  # where a bzImage's protected-mode code starts here: three sectors of set-up
_PAYLOAD = 0x40


def elf(
    sections: Mapping[str, bytes],
    notes: Sequence[tuple[bytes, int]] = (),
    *,
    machine: int = 62,
) -> bytes:
    """An ELF64 file whose first sections are the null section and ``sections``."""
    note = b"".join(struct.pack("<III", 4, 4, kind) + owner + bytes(4) for owner, kind in notes)
    names = b"\0" + b"".join(name.encode() + b"\0" for name in sections) + b".shstrtab\0"
    body = {**sections, ".shstrtab": names}
    header_size, segment_size, section_size = 64, 56, 64
    data_start = header_size + 2 * segment_size
    blob = note + b"".join(body.values())
    headers = [bytes(section_size)]
    offset = data_start + len(note)
    for name, content in body.items():
        headers.append(
            struct.pack(
                "<IIQQQQIIQQ", names.index(name.encode()), 1, 0, 0, offset, len(content), 0, 0, 1, 0
            )
        )
        offset += len(content)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        machine,
        1,
        0,
        header_size,
        data_start + len(blob),
        0,
        header_size,
        segment_size,
        2,
        section_size,
        len(headers),
        len(headers) - 1,
    )
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, data_start + len(blob), 0, 0)
    segments += struct.pack("<IIQQQQQQ", 4, 4, data_start, 0, 0, len(note), 0, 0)
    return header + segments + blob + b"".join(headers)


@functools.cache
def vmlinux(release: str = RELEASE, *, pvh: bool = True, machine: int = 62) -> bytes:
    banner = f"Linux version {release} (builder@host) (gcc 12) #1 SMP Tue\n\0".encode() + DRIVERS
    text = random.Random(1).randbytes(4000)
    return elf(
        {".text": text, ".rodata": banner}, [PVH_NOTE] if pvh else [(b"GNU\0", 3)], machine=machine
    )


def _lz4(data: bytes) -> bytes:
    """The legacy frame, as `lz4 -l` writes it."""
    packed = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[start : start + (8 << 20)], store_size=False)
        packed += struct.pack("<I", len(block)) + block
    return packed


def xz(data: bytes) -> bytes:
    """With a small dictionary: the usual one is 100 MB of memory to fill, for a few kilobytes."""
    return lzma.compress(data, preset=0)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": xz,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE, preset=0),
    "bzip2": bz2.compress,
    "zstd": zstd.compress,
    "lz4": _lz4,
}


@functools.cache
def bzimage(
    kernel: bytes | None = None,
    release: str = RELEASE,
    *,
    compress: Callable[[bytes], bytes] = xz,
    xloadflags: int = 1,
) -> bytes:
    """A bzImage that holds ``kernel`` (by default a vmlinux of ``release``)."""
    payload = compress(vmlinux(release) if kernel is None else kernel)
    code = bytes(_PAYLOAD) + payload + struct.pack("<I", 0)  # the size that is appended to it
    code += bytes(-len(code) % 16)
    setup = bytearray(_CODE)
    setup[0:2] = b"MZ"
    setup[0x1F1] = _CODE // 512 - 1
    struct.pack_into("<I", setup, 0x1F4, len(code) // 16)
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    struct.pack_into("<H", setup, 0x20E, 0x300 - 0x200)
    struct.pack_into("<H", setup, 0x236, xloadflags)
    struct.pack_into("<II", setup, 0x248, _PAYLOAD, len(payload))
    banner = f"{release} (builder@host) #1 SMP Tue\0".encode()
    setup[0x300 : 0x300 + len(banner)] = banner
    return bytes(setup) + code


def module(name: str, depends: Sequence[str] = (), release: str = RELEASE) -> bytes:
    info = f"name={name}\0depends={','.join(depends)}\0vermagic={release} SMP mod_unload \0"
    return elf({".modinfo": info.encode(), ".symtab": b"", ".strtab": b"\0"})


#: The modules of a kernel like Debian's 6.1, by path below lib/modules/RELEASE.
MODULES: dict[str, tuple[str, ...]] = {
    "kernel/drivers/char/virtio_console.ko": ("virtio", "virtio_ring"),
    "kernel/drivers/net/e1000.ko": (),
    "kernel/drivers/virtio/virtio.ko": (),
    "kernel/drivers/virtio/virtio_pci.ko": (
        *("virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio"),
    ),
    "kernel/drivers/virtio/virtio_pci_legacy_dev.ko": (),
    "kernel/drivers/virtio/virtio_pci_modern_dev.ko": (),
    "kernel/drivers/virtio/virtio_ring.ko": (),
}


def module_files(
    release: str = RELEASE,
    *,
    modules: Mapping[str, Sequence[str]] = MODULES,
    suffix: str = "",
    compress: Callable[[bytes], bytes] = lambda data: data,
) -> dict[str, bytes]:
    """The files below lib/modules/RELEASE: ``modules``, and the list of what is built in."""
    files = {
        path + suffix: compress(module(Path(path).stem, depends, release))
        for path, depends in modules.items()
    }
    return files | {"modules.builtin": b"kernel/net/unix/unix.ko\n"}


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def deb(path: Path, members: Sequence[tarfile.TarInfo | tuple[str, bytes]]) -> Path:
    """A Debian package of ``members``: files as (path, contents), anything else as TarInfo."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return package(path, gzip.compress(data.getvalue(), 1))


def package(path: Path, data: bytes) -> Path:
    """A Debian package whose files are in ``data``, a tar compressed by gzip."""
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w:gz") as archive:
        text = b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
        info = tarfile.TarInfo("./control")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": control.getvalue(),
        "data.tar.gz": data,
    }
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in parts.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


def kernel_deb(
    path: Path,
    *,
    release: str = RELEASE,
    image: bytes | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """A package as Debian makes them up to 6.18: image and modules in one."""
    found = module_files(release) if files is None else files
    return deb(
        path,
        [
            (f"./boot/vmlinuz-{release}", bzimage(release=release) if image is None else image),
            *((f"./lib/modules/{release}/{name}", data) for name, data in found.items()),
            ("./usr/share/doc/linux/copyright", b"GPL"),
        ],
    )


def uki(kernel: bytes) -> bytes:
    """A unified kernel image with just the PE headers and the section .linux."""
    start, table = 0x80, 0x80 + 24
    data = bytearray(table + 40)
    data[:2] = b"MZ"
    struct.pack_into("<I", data, 0x3C, start)
    struct.pack_into("<4sHH12xHH", data, start, b"PE\0\0", 0x8664, 1, 0, 0)
    struct.pack_into("<8sIIII", data, table, b".linux", len(kernel), 0, len(kernel), len(data))
    return bytes(data) + kernel


#: Members of an archive: path and contents, or a mode in between for anything but a file.
Member = tuple[str, bytes] | tuple[str, int, bytes]


def cpio(members: Sequence[Member]) -> bytes:
    """A cpio archive in the new ASCII format."""
    data = b""
    for name, *mode, content in (*members, ("TRAILER!!!", b"")):
        raw = str(name).encode() + b"\0"
        kind = mode[0] if mode else 0o100644
        assert isinstance(content, bytes)
        fields = (0, kind, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
        data += b"070701" + b"".join(b"%08x" % field for field in fields) + raw
        data += bytes(-len(data) % 4) + content
        data += bytes(-len(data) % 4)
    return data


def rpm(path: Path, payload: bytes) -> Path:
    """An rpm with empty headers in front of its ``payload``."""
    header = struct.pack(">4s4xII", b"\x8e\xad\xe8\x01", 1, 5) + bytes(16) + b"hello"
    lead = b"\xed\xab\xee\xdb\3\0".ljust(96, b"\0")
    path.write_bytes(lead + header + bytes(3) + header + payload)
    return path


def kernel_members(release: str = RELEASE) -> list[tuple[str, bytes]]:
    """The files of a kernel's rpm, as `make binrpm-pkg` and Fedora lay them out."""
    where = f"./lib/modules/{release}"
    return [
        (f"{where}/vmlinuz", bzimage(release=release)),
        *((f"{where}/{name}", data) for name, data in module_files(release).items()),
    ]


def tar(path: Path, members: Sequence[tuple[str, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
