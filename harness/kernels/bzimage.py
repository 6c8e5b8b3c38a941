# SPDX-License-Identifier: GPL-2.0-only
"""x86's bzImage: its setup header (Documentation/arch/x86/boot.rst) and the kernel within."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.errors import Malformed
from harness.kernels import compression
from harness.kernels.elf import MAGIC as ELF_MAGIC
from harness.kernels.elf import Data

_BOOT_FLAG = 0x1FE
_SIGNATURE = 0x202
_HEADER_END = 0x268
_SECTOR = 512
_XLF_KERNEL_64 = 1


@dataclass(frozen=True)
class Header:
    """``payload`` is where the compressed kernel lies in the file, empty before protocol 2.08."""

    banner: str  # "6.1.0-50-amd64 (builder@host) #1 SMP …"
    payload: slice


def is_bzimage(data: Data) -> bool:
    return (
        data[_BOOT_FLAG : _BOOT_FLAG + 2] == b"\x55\xaa"
        and data[_SIGNATURE : _SIGNATURE + 4] == b"HdrS"
    )


def loaded_size(data: Data) -> int:
    """The bytes that the kernel takes while it unpacks itself; 0 before protocol 2.10.

    The start of the file is enough.
    """
    version: int = struct.unpack_from("<H", data, 0x206)[0]
    size: int = struct.unpack_from("<I", data, 0x260)[0]
    return size if version >= 0x20A else 0


def header(data: Data) -> Header:
    """The setup header of ``data``, which :func:`is_bzimage`; raises :class:`Malformed`."""
    if len(data) < _HEADER_END:
        raise Malformed("it is truncated: it ends within its setup header")
    sectors = data[0x1F1] or 4  # 0 means 4, for the sake of 1991's boot loaders
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
    return Header(_string(data, version + 0x200) if version else "", payload)


def decompress(data: Data, payload: slice) -> bytes | None:
    """The ELF kernel in ``payload``; None where its compression (lzo) cannot be read.

    Behind the compressed stream stands its size, and behind the kernel, within the stream, its
    relocations; neither is in the way of those who read the ELF headers.
    """
    try:
        kernel = compression.decompress(data[payload])
    except compression.Unknown:
        return None
    except Malformed as error:
        raise Malformed(f"the kernel within cannot be decompressed ({error})") from error
    return kernel if kernel.startswith(ELF_MAGIC) else None


def _string(data: Data, start: int) -> str:
    return data[start : start + 512].split(b"\0")[0].decode("ascii", "replace")
