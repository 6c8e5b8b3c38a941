# SPDX-License-Identifier: GPL-2.0-only
"""The kernel properties that a module must match, from the kernel's image or one of its modules.

An image of x86-64 has the layouts in its BTF, and the checksums of its symbols. Images of other
architectures are compressed or stripped, but each kernel of a distribution has modules, which
say the same in their own sections.
The formats: elf(5), load_module() in kernel/module/main.c, and report_bug() in lib/bug.c.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, Malformed
from harness.host.architectures import ARCHITECTURES, Arch
from harness.kernels import compression, elf, kernel_image
from harness.kernels.kernel_image import PreparedKernel
from harness.selftest.code import Code

#: Structures, and their members without which there is no module.
_NEEDED = {"module": {"name", "init"}, "bug_entry": {"bug_addr_disp", "flags"}}
_EXPORT = struct.Struct("<iii")
_VERSION = struct.Struct("<Q56s")
#: Stands for all structures that modules and the kernel share (kernel/module/version.c).
LAYOUT_SYMBOL = "module_layout"
THIS_MODULE = ".gnu.linkonce.this_module"
BUG_TABLE = "__bug_table"
#: Sections in which the loader of an architecture makes stubs, and without which it refuses a
#: module (module_frob_arch_sections(), module_finalize()).
_STUBS = (
    *(".plt", ".init.plt", ".got", ".got.plt", ".stubs", ".init.stubs"),
    *(".text.ftrace_trampoline", ".init.text.ftrace_trampoline"),
)


class NoModule(HarnessError):
    """No module can be made for this kernel; a sentence that says why."""


@dataclass(frozen=True)
class Layout:
    """The kernel's properties that a module must match.

    ``stubs`` are sections that the loader fills, ``alignment`` is that of ``struct module``, and
    ``flags`` are those of the ELF file.
    """

    vermagic: bytes
    module: elf.Structure
    bug_entry: elf.Structure
    versions: bytes  # what __versions has to hold; nothing without CONFIG_MODVERSIONS
    arch: Arch = Arch.AMD64
    stubs: tuple[elf.ObjectSection, ...] = ()
    alignment: int = 64
    flags: int = 0


def of(kernel: PreparedKernel, code: Code) -> Layout:
    """The layout of ``kernel`` that ``code`` needs. Raises :class:`NoModule`."""
    if kernel.arch not in code.assemblies:
        raise NoModule(f"the selftest has no code for it on {ARCHITECTURES[kernel.arch].name}")
    if kernel.arch is Arch.AMD64:
        return of_image(kernel.boot_image, kernel.release, code)
    if not kernel.modules:
        raise NoModule("it has no module from which one could be made")
    return of_modules([path.read_bytes() for path in kernel.modules], kernel.arch)


def of_modules(modules: Sequence[bytes], arch: Arch) -> Layout:
    """Read from ``modules`` of the kernel, for code that calls nothing. Raises NoModule."""
    try:
        tables = [each for each in modules if BUG_TABLE in elf.object_sections(each)]
        if not tables:
            raise NoModule(f"none of its modules has a section {BUG_TABLE}")
        one = tables[0]
        sections = elf.object_sections(one)
        this = sections[THIS_MODULE]
        info = dict(
            field.split(b"=", 1) for field in sections[".modinfo"].content.split(b"\0") if field
        )
        starts = {each.symbol: each.offset for each in elf.relocations(one, THIS_MODULE)}
        place = {"name": this.content.index(info[b"name"] + b"\0"), "init": starts["init_module"]}
        stubs = tuple(sections[name] for name in _STUBS if name in sections)
        return Layout(
            info[b"vermagic"],
            elf.Structure(len(this.content), place),
            _bug_entry([each.offset for each in elf.relocations(one, BUG_TABLE)]),
            _version_of_layout(sections),
            *(arch, stubs, this.align, elf.flags(one)),
        )
    except (Malformed, KeyError, ValueError) as error:
        raise NoModule(f"the layout of a module cannot be read from its modules: {error}") from None


def _bug_entry(references: Sequence[int]) -> elf.Structure:
    """``struct bug_entry``, from the places of the references in a table of them.

    They stand in a row from the start of an entry, the last is that to the file
    (CONFIG_DEBUG_BUGVERBOSE), and behind it are the line and the flags, 16 bits each.
    """
    places = set(references)
    last = next(place for place in range(0, 64, 4) if place + 4 not in places)
    if not last:
        raise NoModule("its bug table names no files")
    offsets = {"bug_addr_disp": 0, "file_disp": last, "line": last + 4, "flags": last + 6}
    return elf.Structure(last + 8, offsets)


def _version_of_layout(sections: Mapping[str, elf.ObjectSection]) -> bytes:
    if "__versions" not in sections:
        return b""
    entries = sections["__versions"].content
    found = [
        entries[at : at + _VERSION.size]
        for at in range(0, len(entries), _VERSION.size)
        if entries[at + 8 :].startswith(LAYOUT_SYMBOL.encode() + b"\0")
    ]
    if not found:
        raise NoModule(f"its modules have no checksum of {LAYOUT_SYMBOL}")
    return found[0]


def of_image(image: Path, release: str, code: Code) -> Layout:
    """For ``code``, read from a kernel ``image`` of x86-64, which may be compressed.

    Raises :class:`NoModule`.
    """
    calls = code.assemblies[Arch.AMD64].calls
    data = _uncompressed(image)
    vermagic = re.search(re.escape(release.encode()) + rb" (?:\w+ )*(?=\0)", data)
    try:
        described = elf.section(data, elf.BTF_SECTION)
        found = elf.btf_structures(described, _NEEDED.keys()) if described else {}
        exports = _exports(data)
    except (Malformed, struct.error) as error:
        raise NoModule(
            f"the layout of struct module cannot be read from {image}: {error}"
        ) from None
    if vermagic is None or any(
        name not in found or not needed <= found[name].offsets.keys()
        for name, needed in _NEEDED.items()
    ):
        raise NoModule(f"{image} has no modules, or no BTF that describes them")
    if code.mark and code.mark not in exports:
        raise NoModule(f"it is built without {code.detector}")
    lacking = [name for name in calls if name not in exports]
    if lacking:
        raise NoModule(f"it exports no {lacking[0]}")
    checked = [LAYOUT_SYMBOL, *calls] if LAYOUT_SYMBOL in exports else []
    return Layout(vermagic[0], found["module"], found["bug_entry"], _versions(exports, checked))


def _uncompressed(image: Path) -> bytes:
    """The kernel in ``image``, whether or not QEMU could start it without its decompressor."""
    data = image.read_bytes()
    if not kernel_image.is_bzimage(data):
        return data
    try:
        payload = kernel_image.setup_header(data).payload
        return compression.decompress(memoryview(data)[payload])
    except Malformed as error:
        raise NoModule(f"{image} cannot be decompressed: {error}") from None


def _exports(image: bytes) -> dict[str, int | None]:
    """The symbols that a kernel exports, with their checksums; None without CONFIG_MODVERSIONS.

    Checksums stand in the order of the symbols, which name themselves relative to the place of the
    reference (include/linux/export-internal.h). A name may be the end of another one's string.
    """
    place, strings = elf.located_section(image, b"__ksymtab_strings")
    found: dict[str, int | None] = {}
    # GPL-only symbols have their own sections before 7.1.
    for suffix in (b"", b"_gpl"):
        start, symbols = elf.located_section(image, b"__ksymtab" + suffix)
        checksums = elf.section(image, b"__kcrctab" + suffix)
        for index, (_, distance, _) in enumerate(_EXPORT.iter_unpack(symbols)):
            at = start + index * _EXPORT.size + 4 + distance - place
            name = strings[at : strings.find(b"\0", at)].decode("ascii", "replace")
            found[name] = struct.unpack_from("<I", checksums, 4 * index)[0] if checksums else None
    return found


def _versions(exports: Mapping[str, int | None], wanted: Sequence[str]) -> bytes:
    """``wanted`` symbols with their checksums, each as a ``struct modversion_info``."""
    sums = {name: exports[name] for name in wanted}
    return b"".join(
        _VERSION.pack(checksum, name.encode())
        for name, checksum in sums.items()
        if checksum is not None
    )
