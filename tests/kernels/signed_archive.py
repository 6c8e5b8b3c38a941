# SPDX-License-Identifier: GPL-2.0-only
"""A small archive laid out like Debian's, and signed, so that apt accepts it.

The key is only a test's: data/archive.pgp is its public part and data/archive.json its numbers. It
signs here without gpg, which a bare Debian lacks (RFC 9580, 5.2.3: signature packets of version 4).
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path

from tests.kernels.conftest import DATA

KEYRING = DATA / "archive.pgp"
#: DigestInfo of SHA-256 (RFC 8017, 9.2).
_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
_RSA, _HASH = 1, 8


def make(root: Path, suite: str, debs: Mapping[str, Path], depends: str = "") -> str:
    """Lay out ``debs``, by their package's names, as ``suite`` of an archive in ``root``.

    Returns the address of the archive.
    """
    stanzas = []
    for name, path in debs.items():
        pool = root / "pool" / f"{name}_1_amd64.deb"
        pool.parent.mkdir(parents=True, exist_ok=True)
        pool.write_bytes(path.read_bytes())
        stanzas.append(
            f"Package: {name}\nVersion: 1\nArchitecture: amd64\nDepends: {depends}\n"
            f"Filename: pool/{pool.name}\nSize: {pool.stat().st_size}\n"
            f"SHA256: {hashlib.sha256(pool.read_bytes()).hexdigest()}\n"
        )
    index = root / "dists" / suite / "main" / "binary-amd64" / "Packages"
    index.parent.mkdir(parents=True)
    index.write_text("\n".join(stanzas))
    listed = f" {hashlib.sha256(index.read_bytes()).hexdigest()} {index.stat().st_size}"
    release = (
        f"Suite: {suite}\nCodename: {suite}\nDate: {formatdate(usegmt=True)}\n"
        "Architectures: amd64\nComponents: main\n"
        f"SHA256:\n{listed} main/binary-amd64/Packages\n"
    )
    top = root / "dists" / suite
    (top / "Release").write_text(release)
    (top / "Release.gpg").write_text(_armoured(_signature(release.encode())))
    return f"{root.as_uri()}/"


def _signature(text: bytes) -> bytes:
    key = json.loads((DATA / "archive.json").read_text())
    fingerprint = bytes.fromhex(key["fingerprint"])
    modulus, exponent = int(key["modulus"], 16), int(key["exponent"], 16)
    made_at = struct.pack(">BBI", 5, 2, 1_767_225_600)  # 2026-01-01
    hashed = made_at + bytes([22, 33, 4]) + fingerprint
    head = struct.pack(">BBBBH", 4, 0, _RSA, _HASH, len(hashed)) + hashed
    digest = hashlib.sha256(text + head + struct.pack(">BBI", 4, 0xFF, len(head))).digest()
    size = (modulus.bit_length() + 7) // 8
    padding = b"\xff" * (size - 3 - len(_SHA256) - len(digest))
    padded = b"\0\1" + padding + b"\0" + _SHA256 + digest
    signed = pow(int.from_bytes(padded, "big"), exponent, modulus)
    unhashed = bytes([9, 16]) + fingerprint[-8:]
    number = struct.pack(">H", signed.bit_length()) + signed.to_bytes(
        (signed.bit_length() + 7) // 8, "big"
    )
    body = head + struct.pack(">H", len(unhashed)) + unhashed + digest[:2] + number
    return struct.pack(">BH", 0x89, len(body)) + body


def _armoured(packet: bytes) -> str:
    text = base64.encodebytes(packet).decode()
    check = base64.b64encode(_crc24(packet).to_bytes(3, "big")).decode()
    frame = "-----{} PGP SIGNATURE-----"
    return f"{frame.format('BEGIN')}\n\n{text}={check}\n{frame.format('END')}\n"


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
    return crc & 0xFFFFFF
