# SPDX-License-Identifier: GPL-2.0-only
"""The layout of a kernel's own structures, from its BTF (https://docs.kernel.org/bpf/btf.html)."""

from __future__ import annotations

import struct
from collections.abc import Set
from dataclasses import dataclass

from harness.errors import Malformed

#: The ELF section of a vmlinux that holds it.
SECTION = b".BTF"

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
#: Bytes behind a type's common part, by kind: fixed, and for each of its vlen members.
_EXTRA = {
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
_STRUCT = 4


@dataclass(frozen=True)
class Structure:
    """Size in bytes, and the byte offset of each named member that is no bit-field."""

    size: int
    offsets: dict[str, int]


def structures(btf: bytes, wanted: Set[str]) -> dict[str, Structure]:
    """Those of the structures ``wanted`` that there are, by name; the first of each name."""
    try:
        return _structures(btf, wanted)
    except (struct.error, ValueError, IndexError) as error:
        raise Malformed(f"its BTF is damaged ({error})") from error


def _structures(btf: bytes, wanted: Set[str]) -> dict[str, Structure]:
    magic, _, _, header, type_at, type_length, names_at, names_length = _HEADER.unpack_from(btf)
    if magic != _MAGIC:
        raise ValueError(f"it starts with {magic:#x}")
    names = btf[header + names_at : header + names_at + names_length]

    def text(at: int) -> str:
        return names[at : names.index(b"\0", at)].decode()

    found: dict[str, Structure] = {}
    at, end = header + type_at, header + type_at + type_length
    while at < end and len(found) < len(wanted):
        name, info, size = _TYPE.unpack_from(btf, at)
        at += _TYPE.size
        kind, members, flagged = info >> 24 & 0x1F, info & 0xFFFF, info >> 31
        fixed, each = _EXTRA.get(kind, (0, 0))
        if kind == _STRUCT and text(name) in wanted and text(name) not in found:
            offsets = {}
            for i in range(members):
                member, _, bits = struct.unpack_from("<III", btf, at + i * each)
                width, bits = (bits >> 24, bits & 0xFFFFFF) if flagged else (0, bits)
                if member and not width:
                    offsets[text(member)] = bits // 8
            found[text(name)] = Structure(size, offsets)
        at += fixed + members * each
    return found
