# SPDX-License-Identifier: GPL-2.0-only
"""Reads ELF64 of both byte orders as far as kernels and modules need it (elf(5)), the libraries
that a program needs, and the layout of a kernel's structures from its BTF
(https://docs.kernel.org/bpf/btf.html).
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Malformed

#: The bytes of a file; a vmlinux with debug information is too large to be read at once.
Data = bytes | mmap.mmap

#: Bytes of a map that are searched at once.
_STEP = 4 << 20

MAGIC = b"\x7fELF"
EM_X86_64 = 62
MACHINES = {3: "x86 (32 bit)", 8: "MIPS", 20: "PowerPC", 21: "64-bit PowerPC", 22: "s390x"}
MACHINES |= {40: "Arm (32 bit)", EM_X86_64: "x86-64", 183: "arm64", 243: "RISC-V"}
MACHINES |= {258: "LoongArch"}

_CLASS64 = 2
#: By e_ident[EI_DATA].
_ORDERS = {1: "<", 2: ">"}
_PT_LOAD = 1
_PT_NOTE = 4
_SHT_NOBITS = 8
_HEADER = "16sHHIQQQIHHHHHH"
_HEADER_SIZE = 64
_SEGMENT = "IIQQQQQQ"
_SECTION = "IIQQQQIIQQ"

# Xen's note that carries the PVH entry point, the one that QEMU looks for
# (include/xen/interface/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY).
_PVH_OWNER = b"Xen\0"
_PVH_TYPE = 18


@dataclass(frozen=True)
class _Section:
    name: int
    type: int
    address: int
    offset: int
    size: int


@dataclass(frozen=True)
class _Segment:
    type: int
    offset: int
    size: int
    memory: int  # bytes that it takes once it is loaded


def mapped(path: Path) -> Data:
    """The file ``path``, mapped into memory: a page is read when it is used."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        # Not closed here: the traceback of an error such as a full disk still refers to it.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def search(data: Data, pattern: re.Pattern[bytes], longest: int) -> re.Match[bytes] | None:
    """The first match of ``pattern``, which has at most ``longest`` bytes.

    The pages of a map that were searched are not kept in memory.
    """
    if isinstance(data, bytes):
        return pattern.search(data)
    for at in range(0, len(data), _STEP):
        found = pattern.search(data, at, min(len(data), at + _STEP + longest - 1))
        data.madvise(mmap.MADV_DONTNEED, at, min(_STEP, len(data) - at))
        if found is not None and found.start() < at + _STEP:  # else the next step has it whole
            return found
    return None


def machine(data: Data) -> str:
    """The name of the machine of ``data``. Raises :class:`Malformed`."""
    if len(data) < 20:
        raise Malformed("it ends within the ELF header")
    order = _ORDERS.get(data[5], "<")
    number = struct.unpack_from(order + "H", data, 18)[0]
    return MACHINES.get(number, f"a machine with ELF number {number}")


def check_complete(data: Data) -> None:
    """Raise :class:`Malformed` unless ``data`` is ELF64 and contains everything in its headers."""
    sections = _sections(data)
    for segment in _segments(data):
        if segment.type == _PT_LOAD and segment.offset + segment.size > len(data):
            raise Malformed("it is truncated: a loadable segment ends behind the file's end")
    for section in sections:
        if section.type != _SHT_NOBITS and section.offset + section.size > len(data):
            raise Malformed("it is truncated: a section ends behind the file's end")


def loaded_size(data: Data) -> int:
    """The bytes of the loadable segments in memory; the start of a file is enough."""
    return sum(segment.memory for segment in _segments(data) if segment.type == _PT_LOAD)


def has_pvh_entry(data: Data) -> bool:
    """Whether QEMU can start this vmlinux: ``-kernel`` takes an ELF file only through PVH."""
    return any(
        owner == _PVH_OWNER and kind == _PVH_TYPE
        for segment in _segments(data)
        if segment.type == _PT_NOTE
        for owner, kind in _notes(
            data[segment.offset : segment.offset + segment.size], _order(data)
        )
    )


def section(data: Data, name: bytes) -> bytes:
    """The contents of the section ``name``; empty if there is none."""
    return located_section(data, name)[1]


def located_section(data: Data, name: bytes) -> tuple[int, bytes]:
    """The address of the section ``name`` and its contents; 0 and nothing if there is none."""
    sections = _sections(data)
    if not sections:
        return 0, b""
    names = sections[_header(data)[13]]
    for found in sections:
        start = names.offset + found.name
        if data[start : start + len(name) + 1] == name + b"\0":
            return found.address, data[found.offset : found.offset + found.size]
    return 0, b""


@dataclass(frozen=True)
class ObjectSection:
    """A section of an object file, such as a module; ``content`` is empty for NOBITS."""

    name: str
    type: int
    flags: int
    content: bytes
    align: int


@dataclass(frozen=True)
class Relocation:
    """What is set at ``offset`` of a section, and the name of the ``symbol`` that it refers to."""

    offset: int
    type: int
    symbol: str


def object_sections(data: bytes) -> dict[str, ObjectSection]:
    """The sections of ``data`` by name; the first of each name. Raises :class:`Malformed`."""
    check_complete(data)
    layout = struct.Struct(_order(data) + _SECTION)
    names = _sections(data)[_header(data)[13]]
    found: dict[str, ObjectSection] = {}
    for index, at in enumerate(_sections(data)):
        fields = layout.unpack_from(data, _header(data)[6] + index * layout.size)
        name = _text(data, names.offset + at.name)
        content = b"" if at.type == _SHT_NOBITS else data[at.offset : at.offset + at.size]
        found.setdefault(name, ObjectSection(name, at.type, fields[2], content, fields[8]))
    return found


def relocations(data: bytes, section: str) -> list[Relocation]:
    """The relocations of ``section`` of an object file. Raises :class:`Malformed`."""
    found = object_sections(data)
    order = _order(data)
    try:
        symbols, strings = found[".symtab"].content, found[".strtab"].content
        moves = struct.iter_unpack(order + "QQq", found[f".rela{section}"].content)
        return [
            Relocation(
                offset,
                info & 0xFFFFFFFF,
                _text(strings, struct.unpack_from(order + "I", symbols, 24 * (info >> 32))[0]),
            )
            for offset, info, _ in moves
        ]
    except (KeyError, struct.error) as error:
        raise Malformed(f"its relocations of {section} cannot be read ({error})") from error


def _text(data: bytes, start: int) -> str:
    return data[start : data.find(b"\0", start)].decode("ascii", "replace")


def flags(data: bytes) -> int:
    """``e_flags``: what the code of a file expects of its machine."""
    return _header(data)[7]


#: Types of dynamic entries (elf(5)).
_DT_NULL, _DT_NEEDED = 0, 1
_SHT_DYNAMIC = 6
_HEADER_32, _SECTION_32 = "16sHHIIIIIHHHHHH", "10I"


def needed_libraries(data: bytes) -> tuple[str, ...]:
    """The names of the libraries that the program or library ``data`` needs (DT_NEEDED).

    Of any machine, of 32 or 64 bits. Raises :class:`Malformed`.
    """
    try:
        return tuple(_needed(data))
    except (struct.error, KeyError, ValueError, IndexError) as error:
        raise Malformed(f"it is a damaged ELF file ({error})") from error


def _needed(data: bytes) -> Iterator[str]:
    if data[:4] != MAGIC:
        raise Malformed("it is not an ELF file")
    order, wide = _ORDERS[data[5]], data[4] == _CLASS64
    section = struct.Struct(order + (_SECTION if wide else _SECTION_32))
    entry = struct.Struct(order + ("qQ" if wide else "iI"))
    header = struct.unpack_from(order + (_HEADER if wide else _HEADER_32), data)
    sections = [section.unpack_from(data, header[6] + i * section.size) for i in range(header[12])]
    for fields in sections:
        if fields[1] != _SHT_DYNAMIC:
            continue
        strings = sections[fields[6]][4]
        for at in range(fields[4], fields[4] + fields[5], entry.size):
            tag, value = entry.unpack_from(data, at)
            if tag == _DT_NULL:
                break
            if tag == _DT_NEEDED:
                start = strings + value
                yield data[start : data.index(b"\0", start)].decode("ascii")


def _order(data: Data) -> str:
    """The byte order of ``data`` as :mod:`struct` writes it."""
    return _ORDERS[data[5]]


def _header(data: Data) -> tuple[int, ...]:
    if len(data) < _HEADER_SIZE:
        raise Malformed("it ends within the ELF header")
    if data[:4] != MAGIC:
        raise Malformed("it is not an ELF file")
    if data[4] != _CLASS64 or data[5] not in _ORDERS:
        raise Malformed("it is not a 64-bit ELF file")
    return struct.unpack_from(_order(data) + _HEADER, data)


def _sections(data: Data) -> list[_Section]:
    header = _header(data)
    layout = struct.Struct(_order(data) + _SECTION)
    offset, size, count, names = header[6], header[11], header[12], header[13]
    if offset == 0:
        return []
    if size != layout.size or offset + size > len(data):
        raise Malformed("it is truncated: its section headers lie behind the file's end")
    # With 0xff00 sections or more, the count stands in the first one (elf(5), e_shnum).
    count = count or layout.unpack_from(data, offset)[5]
    if offset + count * size > len(data):
        raise Malformed("it is truncated: its section headers lie behind the file's end")
    sections = []
    for index in range(count):
        fields = layout.unpack_from(data, offset + index * size)
        sections.append(_Section(fields[0], fields[1], fields[3], fields[4], fields[5]))
    if names >= len(sections):
        raise Malformed("its section headers are damaged")
    return sections


def _segments(data: Data) -> Iterator[_Segment]:
    header = _header(data)
    layout = struct.Struct(_order(data) + _SEGMENT)
    offset, size, count = header[5], header[9], header[10]
    if count and (size != layout.size or offset + count * size > len(data)):
        raise Malformed("it is truncated: its program headers lie behind the file's end")
    for index in range(count):
        fields = layout.unpack_from(data, offset + index * size)
        yield _Segment(fields[0], fields[2], fields[5], fields[6])


def _notes(data: bytes, order: str) -> Iterator[tuple[bytes, int]]:
    position = 0
    while position + 12 <= len(data):
        owner_size, size, kind = struct.unpack_from(order + "III", data, position)
        position += 12
        yield data[position : position + owner_size], kind
        position += (owner_size + 3) // 4 * 4 + (size + 3) // 4 * 4


#: The ELF section of a vmlinux that holds it.
BTF_SECTION = b".BTF"

_BTF_MAGIC = 0xEB9F
_BTF_HEADER = "HBBIIIII"
_BTF_TYPE = "III"
#: Bytes behind a type's common part, by kind: fixed, and for each of its vlen members.
_BTF_EXTRA = {
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
_BTF_STRUCT = 4


@dataclass(frozen=True)
class Structure:
    """A size in bytes, and the byte offset of each named member except bit-fields."""

    size: int
    offsets: dict[str, int]


def btf_structures(btf: bytes, wanted: Set[str]) -> dict[str, Structure]:
    """The structures ``wanted`` that exist, by name; the first of each name."""
    try:
        return _btf_structures(btf, wanted)
    except (struct.error, ValueError, IndexError) as error:
        raise Malformed(f"its BTF is damaged ({error})") from error


def _btf_structures(btf: bytes, wanted: Set[str]) -> dict[str, Structure]:
    order = ">" if btf[:2] == _BTF_MAGIC.to_bytes(2, "big") else "<"
    magic, _, _, header, type_at, type_length, names_at, names_length = struct.unpack_from(
        order + _BTF_HEADER, btf
    )
    if magic != _BTF_MAGIC:
        raise ValueError(f"it starts with {magic:#x}")
    names = btf[header + names_at : header + names_at + names_length]

    def text(at: int) -> str:
        return names[at : names.index(b"\0", at)].decode()

    found: dict[str, Structure] = {}
    at, end = header + type_at, header + type_at + type_length
    while at < end and len(found) < len(wanted):
        name, info, size = struct.unpack_from(order + _BTF_TYPE, btf, at)
        at += struct.calcsize(_BTF_TYPE)
        kind, members, flagged = info >> 24 & 0x1F, info & 0xFFFF, info >> 31
        fixed, each = _BTF_EXTRA.get(kind, (0, 0))
        if kind == _BTF_STRUCT and text(name) in wanted and text(name) not in found:
            offsets = {}
            for i in range(members):
                member, _, bits = struct.unpack_from(order + "III", btf, at + i * each)
                width, bits = (bits >> 24, bits & 0xFFFFFF) if flagged else (0, bits)
                if member and not width:
                    offsets[text(member)] = bits // 8
            found[text(name)] = Structure(size, offsets)
        at += fixed + members * each
    return found
