# SPDX-License-Identifier: GPL-2.0-only
"""Decompresses kernels and modules; the magic number identifies the format."""

from __future__ import annotations

import bz2
import lzma
import struct
import sys
import zlib

import lz4.block

from harness.errors import Malformed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: Bytes; every kernel is much smaller, and a decompression bomb is larger.
LIMIT = 1 << 30
#: A kernel's window may be larger than zstd's default limit.
_ZSTD: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 31}


class Unknown(Malformed):
    """The data do not start with the magic of a supported format."""


def decompress(data: bytes, limit: int | None = None) -> bytes:
    """The decompressed ``data``; bytes behind the end of the stream are ignored.

    Raises :class:`Malformed` if the result exceeds ``limit`` bytes (default :data:`LIMIT`).
    """
    limit = LIMIT if limit is None else limit
    try:
        if data.startswith(b"\x1f\x8b"):
            return _bounded(zlib.decompressobj(zlib.MAX_WBITS | 16), data, limit)
        if data.startswith(b"\xfd7zXZ\0"):
            return _bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ), data, limit)
        if data.startswith(b"\x5d\0\0"):
            return _bounded(lzma.LZMADecompressor(lzma.FORMAT_ALONE), data, limit)
        if data.startswith(b"BZh"):
            return _bounded(bz2.BZ2Decompressor(), data, limit)
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            return _bounded(zstd.ZstdDecompressor(options=_ZSTD), data, limit)
        if data.startswith(b"\x02\x21\x4c\x18"):
            return _lz4(data, limit)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
        raise Malformed(str(error)) from error
    raise Unknown(f"unknown magic {data[:6].hex()}")


def _lz4(data: bytes, limit: int) -> bytes:
    """Decompress the legacy frame of kernels: blocks of 8 MiB, each preceded by its size.

    The kernel's build appends the total size, which is not a block (lib/decompress_unlz4.c).
    """
    parts = []
    size, at = 0, 4
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > len(data):
            if at == len(data):
                break
            raise Malformed("the compressed data are truncated")
        try:
            parts.append(lz4.block.decompress(data[at : at + length], uncompressed_size=8 << 20))
        except lz4.block.LZ4BlockError as error:
            raise Malformed(str(error)) from error
        at += length
        size += len(parts[-1])
        if size > limit:
            raise Malformed("the compressed data are too large")
    return b"".join(parts)


def _bounded(
    stream: zlib._Decompress | lzma.LZMADecompressor | bz2.BZ2Decompressor | zstd.ZstdDecompressor,
    data: bytes,
    limit: int,
) -> bytes:
    plain = stream.decompress(data, limit)
    if not stream.eof:
        raise Malformed("the compressed data are truncated or too large")
    return plain
