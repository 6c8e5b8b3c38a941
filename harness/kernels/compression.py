# SPDX-License-Identifier: GPL-2.0-only
"""Decompresses kernels and modules; the magic number identifies the format."""

from __future__ import annotations

import bz2
import lzma
import struct
import sys
import zlib
from collections.abc import Callable, Iterator

import lz4.block

from harness.errors import Malformed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: Bytes; every kernel is much smaller, and a decompression bomb is larger.
LIMIT = 1 << 30
#: log2 of the window in bytes: a kernel's may be larger than zstd's default limit, 27.
_WIDEST = 31
#: Bytes that a decoder gets and returns at a time; a block of LZ4 has 8 MiB.
PIECE = 1 << 20
_LZ4_BLOCK = 8 << 20


class Unknown(Malformed):
    """The data do not start with the magic of a supported format."""


class Gzip:
    """zlib's decompressor with the interface of the others."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail


Decoder = Gzip | lzma.LZMADecompressor | bz2.BZ2Decompressor | zstd.ZstdDecompressor


def decoder(
    start: bytes, memory: int | None = None, widest: int = _WIDEST
) -> Callable[[], Decoder] | None:
    """A factory of decoders for data that begin with ``start``; None if the magic is unknown.

    ``memory`` limits the bytes that xz and lzma use, ``widest`` the binary logarithm of zstd's
    window.
    """
    window: dict[int, int] = {zstd.DecompressionParameter.window_log_max: widest}
    decoders: tuple[tuple[bytes, Callable[[], Decoder]], ...] = (
        (b"\x1f\x8b", Gzip),
        (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memory)),
        (b"\x5d\0\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memory)),
        (b"BZh", bz2.BZ2Decompressor),
        (b"\x28\xb5\x2f\xfd", lambda: zstd.ZstdDecompressor(options=window)),
    )
    return next((make for magic, make in decoders if start.startswith(magic)), None)


def decode(stream: Decoder, data: bytes, most: int) -> bytes:
    """At most ``most`` more bytes of ``stream``, which gets ``data``.

    Raises :class:`Malformed` for damaged data, for which bz2 raises OSError.
    """
    try:
        return stream.decompress(data, most)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
        raise Malformed(str(error)) from error


def decompress(data: bytes | memoryview, limit: int | None = None) -> bytes:
    """The decompressed ``data``; see :func:`pieces`."""
    return b"".join(pieces(data, limit))


def pieces(data: bytes | memoryview, limit: int | None = None) -> Iterator[bytes]:
    """The decompressed ``data`` in pieces, so that a kernel is never in memory as a whole.

    Bytes behind the end of the stream are ignored. Raises :class:`Malformed`, also if the result
    exceeds ``limit`` bytes (default :data:`LIMIT`).
    """
    left = LIMIT if limit is None else limit
    for piece in _pieces(memoryview(data)):
        left -= len(piece)
        if left < 0:
            raise Malformed("the decompressed data are too large")
        yield piece


def _pieces(data: memoryview) -> Iterator[bytes]:
    magic = bytes(data[:6])
    if magic.startswith(b"\x02\x21\x4c\x18"):
        yield from _lz4(data)
        return
    make = decoder(magic)
    if make is None:
        raise Unknown(f"unknown magic {magic.hex()}")
    stream = make()
    at = 0
    while not stream.eof:
        more = b""
        if stream.needs_input:
            more = bytes(data[at : at + PIECE])
            at += PIECE
        piece = decode(stream, more, PIECE)
        if not piece and stream.needs_input and not stream.eof and at >= len(data):
            raise Malformed("the compressed data are truncated")
        yield piece


def _lz4(data: memoryview) -> Iterator[bytes]:
    """Decompress the legacy frame of kernels: blocks of 8 MiB, each preceded by its size.

    The kernel's build appends the total size, which is not a block (lib/decompress_unlz4.c).
    """
    at = 4
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > len(data):
            if at == len(data):
                break
            raise Malformed("the compressed data are truncated")
        try:
            yield lz4.block.decompress(data[at : at + length], uncompressed_size=_LZ4_BLOCK)
        except lz4.block.LZ4BlockError as error:
            raise Malformed(str(error)) from error
        at += length
