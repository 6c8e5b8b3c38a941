# SPDX-License-Identifier: GPL-2.0-only
"""The computations of MPTCP: tokens, first sequence numbers, HMACs and checksums (RFC 8684)."""

from __future__ import annotations

import struct
import sys

#: hashlib.py loads OpenSSL; the C module below it has another name since Python 3.12.
_hash = __import__("_sha2" if sys.version_info >= (3, 12) else "_sha256")
_BLOCK = 64


def sha256(data: bytes) -> bytes:
    digest: bytes = _hash.sha256(data).digest()
    return digest


def hmac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104) with a ``key`` of 64 bytes at most."""
    inner, outer = (bytes(byte ^ pad for byte in key.ljust(_BLOCK, b"\0")) for pad in (0x36, 0x5C))
    return sha256(outer + sha256(inner + message))


def token_of(key: bytes) -> int:
    """The token of a key: the first 32 bits of its SHA-256 (3.2)."""
    return int.from_bytes(sha256(key)[:4], "big")


def first_seq(key: bytes) -> int:
    """The sequence number of the first byte that the owner of ``key`` sends."""
    return (int.from_bytes(sha256(key)[-8:], "big") + 1) % 2**64


def folded(data: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071), not inverted."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def dss_checksum(seq: int, subflow_seq: int, length: int, data: bytes) -> int:
    """The checksum of a mapping (3.3.1), over its numbers and its data."""
    return ~folded(struct.pack("!QIHH", seq, subflow_seq, length, 0) + data) & 0xFFFF
