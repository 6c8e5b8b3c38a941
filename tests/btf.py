# SPDX-License-Identifier: GPL-2.0-only
"""Offsets of structures as a kernel's own BTF has them.

https://docs.kernel.org/bpf/btf.html; only what is needed to lay out a structure.
"""

from __future__ import annotations

import struct
from pathlib import Path

HEADER = struct.Struct("<HBBIIIII")
TYPE = struct.Struct("<III")
#: Bytes behind a type's common part, by kind: fixed, and for each of its vlen members.
EXTRA = {
    1: (4, 0),  # INT
    3: (12, 0),  # ARRAY
    4: (0, 12),  # STRUCT
    5: (0, 12),  # UNION
    6: (0, 8),  # ENUM
    13: (0, 8),  # FUNC_PROTO
    14: (4, 0),  # VAR
    15: (0, 12),  # DATASEC
    17: (4, 0),  # DECL_TAG
    19: (0, 12),  # ENUM64
}
STRUCT = 4


def of_elf(vmlinux: Path) -> bytes:
    """The .BTF section of an uncompressed kernel."""
    data = vmlinux.read_bytes()
    offset, size, count, names_index = struct.unpack_from("<Q10xHHH", data, 0x28)
    sections = [struct.unpack_from("<IIQQQQ", data, offset + i * size) for i in range(count)]
    names = sections[names_index][4]
    for name, _, _, _, start, length in sections:
        end = data.index(b"\0", names + name)
        if data[names + name : end] == b".BTF":
            return data[start : start + length]
    raise AssertionError(f"{vmlinux} has no BTF")


def structures(btf: bytes, wanted: set[str]) -> dict[str, tuple[int, dict[str, int]]]:
    """By name: size in bytes and the byte offset of each named member that is no bit-field."""
    magic, _, _, header, type_at, type_length, names_at, names_length = HEADER.unpack_from(btf)
    assert magic == 0xEB9F
    names = btf[header + names_at : header + names_at + names_length]

    def text(at: int) -> str:
        return names[at : names.index(b"\0", at)].decode()

    found: dict[str, tuple[int, dict[str, int]]] = {}
    at, end = header + type_at, header + type_at + type_length
    while at < end:
        name, info, size = TYPE.unpack_from(btf, at)
        at += TYPE.size
        kind, members, flagged = info >> 24 & 0x1F, info & 0xFFFF, info >> 31
        fixed, each = EXTRA.get(kind, (0, 0))
        if kind == STRUCT and text(name) in wanted and text(name) not in found:
            offsets = {}
            for i in range(members):
                member, _, bits = struct.unpack_from("<III", btf, at + i * each)
                width, bits = (bits >> 24, bits & 0xFFFFFF) if flagged else (0, bits)
                if member and not width:
                    offsets[text(member)] = bits // 8
            found[text(name)] = (size, offsets)
        at += fixed + members * each
    return found
