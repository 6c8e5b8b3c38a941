# SPDX-License-Identifier: GPL-2.0-only
"""A kernel module of a few instructions, made for one kernel without its headers.

:mod:`harness.selftest.layout` says what it has to match, and :mod:`harness.selftest.code` has the
instructions. So a real oops, a real WARNING and a real loop with interrupts off need no compiler
and no download, and neither do the faults that only a debug kernel reports.
The format: elf(5), and load_module() in kernel/module/main.c.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.host.architectures import ARCHITECTURES, Arch
from harness.kernels import elf
from harness.selftest.code import ARRAY_TYPE, DATA, INDEX_TYPE, LINE, SOURCE, STRING, Code
from harness.selftest.layout import BUG_TABLE, THIS_MODULE, Layout

NAME = "mptcp_selftest"
_BUGFLAG_WARNING = 1

_SHT_PROGBITS, _SHT_SYMTAB, _SHT_STRTAB, _SHT_RELA = 1, 2, 3, 4
_WRITE, _ALLOC, _EXECUTE, _INFO_LINK = 1, 2, 4, 0x40
#: Section numbers: SHN_UNDEF, and those of .text and .data, which are added first.
_UNDEFINED, _TEXT_SECTION, _DATA_SECTION = 0, 1, 2
_ET_REL = 1
#: Without the byte order.
_HEADER, _SECTION, _SYMBOL, _RELOCATION = "16sHHIQQQIHHHHHH", "IIQQQQIIQQ", "IBBHQQ", "QQq"
#: Numbers of symbols; those of the kernel follow.
_CODE_SYMBOL, _DATA_SYMBOL, _FIRST_GLOBAL = 1, 2, 3
_LOCAL_OBJECT, _LOCAL_FUNCTION, _GLOBAL = 1, 2, 0x10


@dataclass(frozen=True)
class _Machine:
    """The byte order as :mod:`struct` has it, and in e_ident[EI_DATA]; and the numbers of
    relocations: of 64 bits, absolute, and of 32 bits, relative to their own place."""

    absolute: int
    relative: int
    order: str = "<"
    order_number: int = 1


_MACHINES: Mapping[Arch, _Machine] = {
    Arch.AMD64: _Machine(1, 2),  # R_X86_64_64, R_X86_64_PC32
    Arch.ARM64: _Machine(257, 261),  # R_AARCH64_ABS64, R_AARCH64_PREL32
    Arch.S390X: _Machine(22, 5, ">", 2),  # R_390_64, R_390_PC32
    Arch.RISCV64: _Machine(2, 57),  # R_RISCV_64, R_RISCV_32_PCREL
    Arch.PPC64EL: _Machine(38, 26),  # R_PPC64_ADDR64, R_PPC64_REL32
}


@dataclass
class _Section:
    name: str
    type: int
    flags: int
    content: bytes
    align: int = 1
    link: str = ""
    info: str | int = 0
    entry_size: int = 0


@dataclass
class _Relocation:
    """Of the 32 or 64 bits at ``offset``, to ``addend`` bytes behind the symbol."""

    offset: int
    type: int
    addend: int = 0
    symbol: int = _CODE_SYMBOL


@dataclass
class _Sections:
    order: str
    all: list[_Section] = field(default_factory=list)

    def add(self, name: str, flags: int, content: bytes, align: int) -> None:
        self.all.append(_Section(name, _SHT_PROGBITS, _ALLOC | flags, content, align))

    def relocate(self, name: str, *moves: _Relocation) -> None:
        """Let the loader set ``moves`` in the section ``name``."""
        if moves:
            entry = struct.Struct(self.order + _RELOCATION)
            entries = [entry.pack(m.offset, m.symbol << 32 | m.type, m.addend) for m in moves]
            self.all.append(
                _Section(
                    *(f".rela{name}", _SHT_RELA, _INFO_LINK, b"".join(entries), 8),
                    *(".symtab", name, entry.size),
                )
            )


def build(code: Code, layout: Layout) -> bytes:
    """The module, as insmod(8) takes it."""
    machine = _MACHINES[layout.arch]
    sections = _Sections(machine.order)
    text = code.assemblies[layout.arch].text
    # The symbols are those of code and data, and all others the kernel's.
    sections.add(".text", _EXECUTE, text + SOURCE.encode() + b"\0", 16)
    sections.add(DATA, _WRITE, code.data, 16)
    sections.relocate(".text", *_references(code, layout.arch))
    if code is Code.OUT_OF_BOUNDS:
        sections.relocate(DATA, *_pointers(len(text), machine.absolute))
    sections.add(".modinfo", 0, _modinfo(layout), 1)
    if layout.versions:
        sections.add("__versions", 0, layout.versions, 8)
    this = bytearray(layout.module.size)
    struct.pack_into(f"{len(NAME)}s", this, layout.module.offsets["name"], NAME.encode())
    sections.add(THIS_MODULE, _WRITE, bytes(this), layout.alignment)
    sections.relocate(THIS_MODULE, _Relocation(layout.module.offsets["init"], machine.absolute))
    if code is Code.WARN:
        _add_bug_table(sections, code, layout)
    sections.all += [
        _Section(stub.name, stub.type, stub.flags, stub.content, stub.align)
        for stub in layout.stubs
    ]
    symbols, strings = _symbols(code, layout.arch)
    size = struct.calcsize(machine.order + _SYMBOL)
    sections.all += [
        _Section(".symtab", _SHT_SYMTAB, 0, symbols, 8, ".strtab", _FIRST_GLOBAL, size),
        _Section(".strtab", _SHT_STRTAB, 0, strings),
    ]
    return _link(sections.all, layout)


def _references(code: Code, arch: Arch) -> list[_Relocation]:
    """The targets of the code's references, relative to the end of each reference."""
    assembly, kind = code.assemblies[arch], _MACHINES[arch].relative
    found = []
    for offset, target in assembly.references.items():
        name, _, distance = target.partition("+")
        addend = int(distance or 0) - 4
        if name == STRING:
            move = _Relocation(offset, kind, len(assembly.text) + addend)
        elif name == DATA:
            move = _Relocation(offset, kind, addend, _DATA_SYMBOL)
        else:
            symbol = _FIRST_GLOBAL + assembly.calls.index(name)
            move = _Relocation(offset, kind, addend, symbol)
        found.append(move)
    return found


def _pointers(string: int, kind: int) -> list[_Relocation]:
    """The pointers of ``struct out_of_bounds_data``: its file, and the types."""
    return [
        _Relocation(0, kind, string),
        _Relocation(16, kind, ARRAY_TYPE, _DATA_SYMBOL),
        _Relocation(24, kind, INDEX_TYPE, _DATA_SYMBOL),
    ]


def _symbols(code: Code, arch: Arch) -> tuple[bytes, bytes]:
    """The symbol table and its strings."""
    assembly = code.assemblies[arch]
    entry = struct.Struct(_MACHINES[arch].order + _SYMBOL)
    rows = [
        (code.symbol, _LOCAL_FUNCTION, _TEXT_SECTION, len(assembly.text)),
        (f"{code.symbol}_data", _LOCAL_OBJECT, _DATA_SECTION, len(code.data)),
        *((name, _GLOBAL, _UNDEFINED, 0) for name in assembly.calls),
    ]
    strings, symbols = b"\0", bytes(entry.size)
    for name, kind, section, size in rows:
        symbols += entry.pack(len(strings), kind, 0, section, 0, size)
        strings += name.encode() + b"\0"
    return symbols, strings


def _modinfo(layout: Layout) -> bytes:
    fields = {
        "license": b"GPL",
        "name": NAME.encode(),
        "intree": b"Y",
        "retpoline": b"Y",
        "vermagic": layout.vermagic,
    }
    return b"".join(key.encode() + b"=" + value + b"\0" for key, value in fields.items())


def _add_bug_table(sections: _Sections, code: Code, layout: Layout) -> None:
    """What report_bug() in lib/bug.c looks up; each place is relative to its own field."""
    entry, assembly = layout.bug_entry, code.assemblies[layout.arch]
    machine = _MACHINES[layout.arch]
    number = struct.Struct(machine.order + "H")
    content = bytearray(entry.size)
    number.pack_into(content, entry.offsets["flags"], _BUGFLAG_WARNING)
    moves = [_Relocation(entry.offsets["bug_addr_disp"], machine.relative, assembly.trap)]
    if "file_disp" in entry.offsets:  # CONFIG_DEBUG_BUGVERBOSE
        number.pack_into(content, entry.offsets["line"], LINE)
        place = entry.offsets["file_disp"]
        moves.append(_Relocation(place, machine.relative, len(assembly.text)))
    sections.add(BUG_TABLE, _WRITE, bytes(content), 8)
    sections.relocate(BUG_TABLE, *moves)


def _link(contents: Sequence[_Section], layout: Layout) -> bytes:
    """An ELF file of ``contents``, behind the null section and before that of their names."""
    machine = _MACHINES[layout.arch]
    header, entry = struct.Struct(machine.order + _HEADER), struct.Struct(machine.order + _SECTION)
    names = b"\0" + b"".join(s.name.encode() + b"\0" for s in contents) + b".shstrtab\0"
    every = [*contents, _Section(".shstrtab", _SHT_STRTAB, 0, names)]
    number = {section.name: index for index, section in enumerate(every, 1)}
    number[""] = 0
    body = bytearray(header.size)
    headers = bytearray(entry.size)
    for section in every:
        body += bytes(-len(body) % section.align)
        headers += entry.pack(
            *(names.index(b"\0" + section.name.encode() + b"\0") + 1, section.type),
            *(section.flags, 0, len(body), len(section.content), number[section.link]),
            number[section.info] if isinstance(section.info, str) else section.info,
            *(section.align, section.entry_size),
        )
        body += section.content
    body += bytes(-len(body) % 8)
    identity = elf.MAGIC + bytes((2, machine.order_number, 1))  # 64 bits, the order, version 1
    kind = ARCHITECTURES[layout.arch].elf_machine
    header.pack_into(
        *(body, 0, identity, _ET_REL, kind, 1, 0, 0, len(body), layout.flags),
        *(header.size, 0, 0, entry.size, len(every) + 1, len(every)),
    )
    return bytes(body + headers)
