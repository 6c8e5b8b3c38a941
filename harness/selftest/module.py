# SPDX-License-Identifier: GPL-2.0-only
"""A kernel module of a few bytes of machine code, made for one kernel without its headers.

What a module has to match is in the kernel's own image: the layout of ``struct module`` and
``struct bug_entry`` in its BTF, the string that a module's ``vermagic`` has to equal, and the
checksums of its exported symbols. So a real oops, a real WARNING and a real loop with interrupts
off need no compiler and no download, and neither do the faults that only a debug kernel reports.
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


_DATA = ".data"
_STRING = ".text"  # SOURCE, which stands behind the code
#: In .data: two locks and their classes, each larger than any kernel's.
_LOCKS, _CLASSES, _LOCKED_SIZE = (0, 256), (512, 640), 768
#: ``struct out_of_bounds_data`` and two ``struct type_descriptor`` of lib/ubsan.h: an index of type
#: int, with a sign (1) and 2^5 bits, of an array.
_ARRAY_TYPE, _INDEX_TYPE = 32, 64
_INT = struct.pack("<HH", 0, 5 << 1 | 1)
_BOUNDS = (
    struct.pack("<QIIQQ", 0, 1, 1, 0, 0)
    + (struct.pack("<HH", 0xFFFF, 0) + b"'int [4]'\0").ljust(_INDEX_TYPE - _ARRAY_TYPE, b"\0")
    + _INT
    + b"'int'\0"
)
_ENTER, _RETURN = "f30f1efa 53", "31c0 5b c3"  # endbr64, push rbx; xor eax,eax, pop rbx, ret
#: GFP_KERNEL in edi, a format without arguments in rsi; no vector registers. The allocator with the
#: parameters that stay.
_ALLOCATE = f"bfc00c0000 488d35 @{_STRING} 31c0 e8 @kasprintf"


def _first_argument(offset: int) -> str:
    return f"488d3d @{_DATA}+{offset}"


def _lock(offset: int) -> str:
    return f"{_first_argument(offset)} e8 @_raw_spin_lock"


def _unlock(offset: int) -> str:
    return f"{_first_argument(offset)} e8 @_raw_spin_unlock"


def _new_lock(offset: int, its_class: int) -> str:
    # The name, the class, and LD_WAIT_SPIN.
    rest = f"488d35 @{_STRING} 488d15 @{_DATA}+{its_class} b902000000 e8 @__raw_spin_lock_init"
    return f"{_first_argument(offset)} {rest}"


def _nested(outer: int, inner: int) -> str:
    return " ".join((_lock(outer), _lock(inner), _unlock(inner), _unlock(outer)))


class Code(Enum):
    """The module's init function: its name, which traces show, and its bytes (x86-64).

    ``@NAME`` in the bytes stands for the distance to a symbol that the kernel exports, to its data,
    or to the string behind the code. ``detector`` is the option without which the kernel does not
    report it, and ``mark`` a symbol that only this option exports.
    The first instruction is ENDBR64: with IBT, an indirect call must find one.
    """

    OOPS = ("selftest_oops", "f30f1efa 31c0 8900 c3")  # xor eax,eax; mov [rax],eax; ret
    WARN = ("selftest_warn", "f30f1efa 0f0b 31c0 c3")  # ud2; xor eax,eax; ret
    SPIN = ("selftest_spin", "f30f1efa fa f390 ebfc")  # cli; again: pause; jmp again
    #: What the compiler makes of a read of a freed string: rbx is where it was.
    READ_FREED = (
        "selftest_read_freed",
        f"{_ENTER} {_ALLOCATE} 4889c3 4889c7 e8 @kfree 4889df e8 @__asan_load8 {_RETURN}",
        ("CONFIG_KASAN", "__asan_load8"),
    )
    #: Two locks, taken in one order and then in the other.
    LOCK_ORDER = (
        "selftest_lock_order",
        " ".join(
            (_ENTER, *map(_new_lock, _LOCKS, _CLASSES), _nested(*_LOCKS), _nested(*_LOCKS[::-1]))
        )
        + f" {_RETURN}",
        ("CONFIG_PROVE_LOCKING", "lockdep_init_map_type"),
        bytes(_LOCKED_SIZE),
    )
    #: Ten strings, because the stack may still hold the address of the last.
    LEAK = (
        "selftest_leak",
        f"{_ENTER} {f'{_ALLOCATE} ' * 10} {_RETURN}",
        ("CONFIG_DEBUG_KMEMLEAK", "kmemleak_alloc"),
    )
    #: What the compiler makes of reading element 7 of an array of four.
    OUT_OF_BOUNDS = (
        "selftest_out_of_bounds",
        f"{_ENTER} {_first_argument(0)} be07000000 e8 @__ubsan_handle_out_of_bounds {_RETURN}",
        ("CONFIG_UBSAN", "__ubsan_handle_out_of_bounds"),
        _BOUNDS,
    )

    def __init__(
        self, symbol: str, text: str, detector: tuple[str, str] = ("", ""), data: bytes = b""
    ) -> None:
        self.symbol = symbol
        self.detector, self.mark = detector
        self.data = data
        self.text = b""
        #: By their offsets in ``text``, the targets of its references, such as ".data+256".
        self.references: dict[int, str] = {}
        for token in text.split():
            if token.startswith("@"):
                self.references[len(self.text)] = token[1:]
                self.text += bytes(4)
            else:
                self.text += bytes.fromhex(token)

    @property
    def calls(self) -> list[str]:
        """The kernel's symbols that it uses, each once."""
        names = (target for target in self.references.values() if not target.startswith("."))
        return list(dict.fromkeys(names))


#: Where UD2 stands in WARN: what makes it a WARNING is an entry for this place in __bug_table.
_UD2 = 4
_BUGFLAG_WARNING = 1

_SHT_PROGBITS, _SHT_SYMTAB, _SHT_STRTAB, _SHT_RELA = 1, 2, 3, 4
_WRITE, _ALLOC, _EXECUTE, _INFO_LINK = 1, 2, 4, 0x40
#: Section numbers: SHN_UNDEF, and those of .text and .data, which are added first.
_UNDEFINED, _TEXT_SECTION, _DATA_SECTION = 0, 1, 2
_R_X86_64_64, _R_X86_64_PC32 = 1, 2
_ET_REL = 1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
#: Numbers of symbols; those of the kernel follow.
_CODE_SYMBOL, _DATA_SYMBOL, _FIRST_GLOBAL = 1, 2, 3
_LOCAL_OBJECT, _LOCAL_FUNCTION, _GLOBAL = 1, 2, 0x10
#: Structures, and their members without which there is no module.
_NEEDED = {"module": {"name", "init"}, "bug_entry": {"bug_addr_disp", "flags"}}
_EXPORT = struct.Struct("<iii")
_VERSION = struct.Struct("<Q56s")
#: Stands for all structures that modules and the kernel share (kernel/module/version.c).
LAYOUT_SYMBOL = "module_layout"


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
    def of(cls, image: Path, release: str, code: Code) -> Layout:
        """For ``code``, read from the kernel ``image``, which may be compressed.

        Raises :class:`NoModule`.
        """
        data = _uncompressed(image)
        vermagic = re.search(re.escape(release.encode()) + rb" (?:\w+ )*(?=\0)", data)
        try:
            described = elf.section(data, elf.BTF_SECTION)
            found = elf.btf_structures(described, _NEEDED.keys()) if described else {}
            names = elf.section(data, b"__ksymtab_strings")
            lacking = [name for name in code.calls if b"\0%b\0" % name.encode() not in names]
            versions = b"" if lacking else _versions(data, [LAYOUT_SYMBOL, *code.calls])
        except (Malformed, struct.error) as error:
            raise NoModule(f"{image} does not say how struct module is laid out: {error}") from None
        if vermagic is None or any(
            name not in found or not needed <= found[name].offsets.keys()
            for name, needed in _NEEDED.items()
        ):
            raise NoModule(f"{image} has no modules, or no BTF that describes them")
        if code.mark and b"\0%b\0" % code.mark.encode() not in names:
            raise NoModule(f"it is built without {code.detector}")
        if lacking:
            raise NoModule(f"it exports no {lacking[0]}")
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


def _versions(image: bytes, wanted: Sequence[str]) -> bytes:
    """``wanted`` exported symbols with their checksums, each as a ``struct modversion_info``.

    Checksums stand in the order of the exported symbols, which name themselves relative to the
    place of the reference (include/linux/export-internal.h).
    """
    exports, symbols = elf.located_section(image, b"__ksymtab")
    place, strings = elf.located_section(image, b"__ksymtab_strings")
    checksums = elf.section(image, b"__kcrctab")
    if not checksums:
        return b""
    places = {place + strings.find(b"\0%b\0" % name.encode()) + 1: name for name in wanted}
    found = b""
    for index, (_, name, _) in enumerate(_EXPORT.iter_unpack(symbols)):
        symbol = places.pop(exports + index * _EXPORT.size + 4 + name, None)
        if symbol is not None:
            (checksum,) = struct.unpack_from("<I", checksums, 4 * index)
            found += _VERSION.pack(checksum, symbol.encode())
    if places:
        raise Malformed(f"it exports no {', '.join(places.values())}")
    return found


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
    all: list[_Section] = field(default_factory=list)

    def add(self, name: str, flags: int, content: bytes, align: int) -> None:
        self.all.append(_Section(name, _SHT_PROGBITS, _ALLOC | flags, content, align))

    def relocate(self, name: str, *moves: _Relocation) -> None:
        """Let the loader set ``moves`` in the section ``name``."""
        if moves:
            entries = [_RELOCATION.pack(m.offset, m.symbol << 32 | m.type, m.addend) for m in moves]
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
    # The symbols are those of code and data, and all others the kernel's.
    sections.add(".text", _EXECUTE, text, 16)
    sections.add(_DATA, _WRITE, code.data, 16)
    sections.relocate(".text", *_references(code))
    if code is Code.OUT_OF_BOUNDS:
        sections.relocate(_DATA, *_pointers(code))
    sections.add(".modinfo", 0, _modinfo(layout), 1)
    if layout.versions:
        sections.add("__versions", 0, layout.versions, 8)
    this = bytearray(layout.module.size)
    struct.pack_into(f"{len(NAME)}s", this, layout.module.offsets["name"], NAME.encode())
    sections.add(".gnu.linkonce.this_module", _WRITE, bytes(this), 64)
    init = _Relocation(layout.module.offsets["init"], _R_X86_64_64)
    sections.relocate(".gnu.linkonce.this_module", init)
    if code is Code.WARN:
        _add_bug_table(sections, code, layout.bug_entry)
    symbols, strings = _symbols(code)
    sections.all += [
        _Section(".symtab", _SHT_SYMTAB, 0, symbols, 8, ".strtab", _FIRST_GLOBAL, _SYMBOL.size),
        _Section(".strtab", _SHT_STRTAB, 0, strings),
    ]
    return _link(sections.all)


def _references(code: Code) -> list[_Relocation]:
    """What the code refers to, relative to the end of each reference."""
    found = []
    for offset, target in code.references.items():
        name, _, distance = target.partition("+")
        addend = int(distance or 0) - 4
        if name == _STRING:
            move = _Relocation(offset, _R_X86_64_PC32, len(code.text) + addend)
        elif name == _DATA:
            move = _Relocation(offset, _R_X86_64_PC32, addend, _DATA_SYMBOL)
        else:
            symbol = _FIRST_GLOBAL + code.calls.index(name)
            move = _Relocation(offset, _R_X86_64_PC32, addend, symbol)
        found.append(move)
    return found


def _pointers(code: Code) -> list[_Relocation]:
    """The pointers of ``struct out_of_bounds_data``: its file, and the types."""
    return [
        _Relocation(0, _R_X86_64_64, len(code.text)),
        _Relocation(16, _R_X86_64_64, _ARRAY_TYPE, _DATA_SYMBOL),
        _Relocation(24, _R_X86_64_64, _INDEX_TYPE, _DATA_SYMBOL),
    ]


def _symbols(code: Code) -> tuple[bytes, bytes]:
    """The symbol table and its strings."""
    rows = [
        (code.symbol, _LOCAL_FUNCTION, _TEXT_SECTION, len(code.text)),
        (f"{code.symbol}_data", _LOCAL_OBJECT, _DATA_SECTION, len(code.data)),
        *((name, _GLOBAL, _UNDEFINED, 0) for name in code.calls),
    ]
    strings, symbols = b"\0", bytes(_SYMBOL.size)
    for name, kind, section, size in rows:
        symbols += _SYMBOL.pack(len(strings), kind, 0, section, 0, size)
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


def _add_bug_table(sections: _Sections, code: Code, entry: elf.Structure) -> None:
    """What report_bug() in lib/bug.c looks up; each place is relative to its own field."""
    content = bytearray(entry.size)
    struct.pack_into("<H", content, entry.offsets["flags"], _BUGFLAG_WARNING)
    moves = [_Relocation(entry.offsets["bug_addr_disp"], _R_X86_64_PC32, _UD2)]
    if "file_disp" in entry.offsets:  # CONFIG_DEBUG_BUGVERBOSE
        struct.pack_into("<H", content, entry.offsets["line"], LINE)
        moves.append(_Relocation(entry.offsets["file_disp"], _R_X86_64_PC32, len(code.text)))
    sections.add("__bug_table", _WRITE, bytes(content), 4)
    sections.relocate("__bug_table", *moves)


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
