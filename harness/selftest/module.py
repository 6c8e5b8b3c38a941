# SPDX-License-Identifier: GPL-2.0-only
"""A kernel module of a few bytes of machine code, made for one kernel without its headers.

What a module has to match is in the kernel's own image: the layout of ``struct module`` and
``struct bug_entry`` in its BTF, the string that a module's ``vermagic`` has to equal, and the
checksum of ``module_layout`` among its exported symbols. So a real oops, a real WARNING and a real
loop with interrupts off need no compiler and no download.
The formats: elf(5), and load_module() in kernel/module/main.c.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from harness.errors import HarnessError, Malformed
from harness.kernels import elf, kernel_image

NAME = "mptcp_selftest"
#: The file and line that the WARNING gives as its place.
SOURCE, LINE = "mptcp_selftest.c", 1


class Code(Enum):
    """The module's init function: its name, which traces show, and its bytes (x86-64).

    The first instruction is ENDBR64: with IBT, an indirect call must find one.
    """

    OOPS = ("selftest_oops", "f30f1efa 31c0 8900 c3")  # xor eax,eax; mov [rax],eax; ret
    WARN = ("selftest_warn", "f30f1efa 0f0b 31c0 c3")  # ud2; xor eax,eax; ret
    SPIN = ("selftest_spin", "f30f1efa fa f390 ebfc")  # cli; again: pause; jmp again

    def __init__(self, symbol: str, text: str) -> None:
        self.symbol = symbol
        self.text = bytes.fromhex(text)


#: Where UD2 stands in WARN: what makes it a WARNING is an entry for this place in __bug_table.
_UD2 = 4
_BUGFLAG_WARNING = 1

_SHT_PROGBITS, _SHT_SYMTAB, _SHT_STRTAB, _SHT_RELA = 1, 2, 3, 4
_WRITE, _ALLOC, _EXECUTE, _INFO_LINK = 1, 2, 4, 0x40
_R_X86_64_64, _R_X86_64_PC32 = 1, 2
_ET_REL = 1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_LOCAL_FUNCTION = 2
#: Structures, and their members without which there is no module.
_NEEDED = {"module": {"name", "init"}, "bug_entry": {"bug_addr_disp", "flags"}}
_EXPORT = struct.Struct("<iii")
_VERSION = struct.Struct("<Q56s")
#: Stands for all structures that modules and the kernel share (kernel/module/version.c).
LAYOUT_SYMBOL = b"module_layout"


class NoModule(HarnessError):
    """No module can be made for this kernel; a sentence that says why."""


@dataclass(frozen=True)
class Layout:
    """What a module has to know of its kernel."""

    vermagic: bytes
    module: elf.Structure
    bug_entry: elf.Structure
    versions: bytes  # what __versions has to hold; nothing without CONFIG_MODVERSIONS

    @classmethod
    def of(cls, image: Path, release: str) -> Layout:
        """Read from the kernel ``image``, which may be compressed; raises :class:`NoModule`."""
        data = _uncompressed(image)
        vermagic = re.search(re.escape(release.encode()) + rb" (?:\w+ )*(?=\0)", data)
        try:
            described = elf.section(data, elf.BTF_SECTION)
            found = elf.btf_structures(described, _NEEDED.keys()) if described else {}
            versions = _versions(data)
        except (Malformed, struct.error) as error:
            raise NoModule(f"{image} does not say how struct module is laid out: {error}") from None
        if vermagic is None or any(
            name not in found or not needed <= found[name].offsets.keys()
            for name, needed in _NEEDED.items()
        ):
            raise NoModule(f"{image} has no modules, or no BTF that describes them")
        return cls(vermagic[0], found["module"], found["bug_entry"], versions)


def _uncompressed(image: Path) -> bytes:
    """The kernel in ``image``, whether or not QEMU could start it without its decompressor."""
    data = image.read_bytes()
    if not kernel_image.is_bzimage(data):
        return data
    try:
        kernel = kernel_image.decompress_payload(data, kernel_image.setup_header(data).payload)
    except Malformed as error:
        raise NoModule(f"{image} cannot be decompressed: {error}") from None
    if kernel is None:
        raise NoModule(f"{image} is compressed in a way that cannot be read")
    return kernel


def _versions(image: bytes) -> bytes:
    """``module_layout`` with its checksum, as a ``struct modversion_info``.

    Checksums stand in the order of the exported symbols, which name themselves relative to the
    place of the reference (include/linux/export-internal.h).
    """
    exports, symbols = elf.located_section(image, b"__ksymtab")
    place, strings = elf.located_section(image, b"__ksymtab_strings")
    checksums = elf.section(image, b"__kcrctab")
    if not checksums:
        return b""
    wanted = place + strings.find(b"\0" + LAYOUT_SYMBOL + b"\0") + 1
    for index, (_, name, _) in enumerate(_EXPORT.iter_unpack(symbols)):
        if exports + index * _EXPORT.size + 4 + name == wanted:
            (checksum,) = struct.unpack_from("<I", checksums, 4 * index)
            return _VERSION.pack(checksum, LAYOUT_SYMBOL)
    raise Malformed(f"it exports no {LAYOUT_SYMBOL.decode()}")


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
    """Of the 32 or 64 bits at ``offset``, to ``addend`` bytes behind the start of the code."""

    offset: int
    type: int
    addend: int = 0


@dataclass
class _Sections:
    all: list[_Section] = field(default_factory=list)

    def add(self, name: str, flags: int, content: bytes, align: int, *moves: _Relocation) -> None:
        self.all.append(_Section(name, _SHT_PROGBITS, _ALLOC | flags, content, align))
        if moves:
            # The code's is the only symbol but the null one.
            entries = [_RELOCATION.pack(m.offset, 1 << 32 | m.type, m.addend) for m in moves]
            self.all.append(
                _Section(
                    *(f".rela{name}", _SHT_RELA, _INFO_LINK, b"".join(entries), 8),
                    *(".symtab", name, _RELOCATION.size),
                )
            )


def build(code: Code, layout: Layout) -> bytes:
    """The module, as insmod(8) takes it."""
    sections = _Sections()
    text = code.text + SOURCE.encode() + b"\0"
    sections.add(".text", _EXECUTE, text, 16)
    sections.add(".modinfo", 0, _modinfo(layout), 1)
    if layout.versions:
        sections.add("__versions", 0, layout.versions, 8)
    this = bytearray(layout.module.size)
    struct.pack_into(f"{len(NAME)}s", this, layout.module.offsets["name"], NAME.encode())
    init = _Relocation(layout.module.offsets["init"], _R_X86_64_64)
    sections.add(".gnu.linkonce.this_module", _WRITE, bytes(this), 64, init)
    if code is Code.WARN:
        _add_bug_table(sections, code, layout.bug_entry)
    strings = b"\0" + code.symbol.encode() + b"\0"
    symbol = _SYMBOL.pack(1, _LOCAL_FUNCTION, 0, 1, 0, len(code.text))
    symbols = bytes(_SYMBOL.size) + symbol
    sections.all += [
        _Section(".symtab", _SHT_SYMTAB, 0, symbols, 8, ".strtab", 2, _SYMBOL.size),
        _Section(".strtab", _SHT_STRTAB, 0, strings),
    ]
    return _link(sections.all)


def _modinfo(layout: Layout) -> bytes:
    fields = {
        "license": b"GPL",
        "name": NAME.encode(),
        "intree": b"Y",
        "retpoline": b"Y",
        "vermagic": layout.vermagic,
    }
    return b"".join(key.encode() + b"=" + value + b"\0" for key, value in fields.items())


def _add_bug_table(sections: _Sections, code: Code, entry: elf.Structure) -> None:
    """What report_bug() in lib/bug.c looks up; each place is relative to its own field."""
    content = bytearray(entry.size)
    struct.pack_into("<H", content, entry.offsets["flags"], _BUGFLAG_WARNING)
    moves = [_Relocation(entry.offsets["bug_addr_disp"], _R_X86_64_PC32, _UD2)]
    if "file_disp" in entry.offsets:  # CONFIG_DEBUG_BUGVERBOSE
        struct.pack_into("<H", content, entry.offsets["line"], LINE)
        moves.append(_Relocation(entry.offsets["file_disp"], _R_X86_64_PC32, len(code.text)))
    sections.add("__bug_table", _WRITE, bytes(content), 4, *moves)


def _link(contents: Sequence[_Section]) -> bytes:
    """An ELF file of ``contents``, behind the null section and before that of their names."""
    names = b"\0" + b"".join(s.name.encode() + b"\0" for s in contents) + b".shstrtab\0"
    every = [*contents, _Section(".shstrtab", _SHT_STRTAB, 0, names)]
    number = {section.name: index for index, section in enumerate(every, 1)}
    number[""] = 0
    body = bytearray(_HEADER.size)
    headers = bytearray(_SECTION.size)
    for section in every:
        body += bytes(-len(body) % section.align)
        headers += _SECTION.pack(
            *(names.index(b"\0" + section.name.encode() + b"\0") + 1, section.type),
            *(section.flags, 0, len(body), len(section.content), number[section.link]),
            number[section.info] if isinstance(section.info, str) else section.info,
            *(section.align, section.entry_size),
        )
        body += section.content
    body += bytes(-len(body) % 8)
    identity = elf.MAGIC + bytes((2, 1, 1))  # 64 bits, little endian, version 1
    _HEADER.pack_into(
        *(body, 0, identity, _ET_REL, elf.EM_X86_64, 1, 0, 0, len(body)),
        *(0, _HEADER.size, 0, 0, _SECTION.size, len(every) + 1, len(every)),
    )
    return bytes(body + headers)
