# SPDX-License-Identifier: GPL-2.0-only
"""The machine code of the selftest's faults in the kernel, for each architecture.

A few instructions each, so that neither a compiler nor headers are needed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from harness.host.architectures import Arch

#: The file and line that the WARNING gives as its place.
SOURCE, LINE = "mptcp_selftest.c", 1

DATA = ".data"
STRING = ".text"  # SOURCE, which stands behind the code
#: In .data: two locks and their classes, each larger than any kernel's.
_LOCKS, _CLASSES, _LOCKED_SIZE = (0, 256), (512, 640), 768
#: ``struct out_of_bounds_data`` and two ``struct type_descriptor`` of lib/ubsan.h: an index of type
#: int, with a sign (1) and 2^5 bits, of an array.
ARRAY_TYPE, INDEX_TYPE = 32, 64
_INT = struct.pack("<HH", 0, 5 << 1 | 1)
_BOUNDS = (
    struct.pack("<QIIQQ", 0, 1, 1, 0, 0)
    + (struct.pack("<HH", 0xFFFF, 0) + b"'int [4]'\0").ljust(INDEX_TYPE - ARRAY_TYPE, b"\0")
    + _INT
    + b"'int'\0"
)
_ENTER, _RETURN = "f30f1efa 53", "31c0 5b c3"  # endbr64, push rbx; xor eax,eax, pop rbx, ret
#: GFP_KERNEL in edi, a format without arguments in rsi; no vector registers. The allocator with the
#: parameters that stay.
_ALLOCATE = f"bfc00c0000 488d35 @{STRING} 31c0 e8 @kasprintf"


def _first_argument(offset: int) -> str:
    return f"488d3d @{DATA}+{offset}"


def _lock(offset: int) -> str:
    return f"{_first_argument(offset)} e8 @_raw_spin_lock"


def _unlock(offset: int) -> str:
    return f"{_first_argument(offset)} e8 @_raw_spin_unlock"


def _new_lock(offset: int, its_class: int) -> str:
    # The name, the class, and LD_WAIT_SPIN.
    rest = f"488d35 @{STRING} 488d15 @{DATA}+{its_class} b902000000 e8 @__raw_spin_lock_init"
    return f"{_first_argument(offset)} {rest}"


def _nested(outer: int, inner: int) -> str:
    return " ".join((_lock(outer), _lock(inner), _unlock(inner), _unlock(outer)))


@dataclass(frozen=True)
class Assembly:
    """Machine code. ``references`` has, by their offsets, what four bytes each refer to, from their
    end: a symbol of the kernel, ".data+256", or ".text" for the string behind the code.

    ``trap`` is the offset of the instruction that makes a WARNING.
    """

    text: bytes
    references: Mapping[int, str] = field(default_factory=dict)
    trap: int = 0

    @classmethod
    def of(cls, source: str) -> Assembly:
        """From ``source``: hexadecimal bytes, ``@NAME`` for a reference, ``!`` before the trap."""
        text, references, trap = b"", {}, 0
        for token in source.split():
            if token == "!":
                trap = len(text)
            elif token.startswith("@"):
                references[len(text)] = token[1:]
                text += bytes(4)
            else:
                text += bytes.fromhex(token)
        return cls(text, references, trap)

    @property
    def calls(self) -> list[str]:
        """The kernel's symbols that it uses, each once."""
        names = (target for target in self.references.values() if not target.startswith("."))
        return list(dict.fromkeys(names))


class Code(Enum):
    """The module's init function: its name, which traces show, and its instructions.

    ``detector`` is the option without which the kernel does not report the fault, and ``mark`` a
    symbol that only this option exports. ``data`` is what the module has in .data.
    Where the architecture has branch targets (IBT, BTI), the first instruction is one.
    """

    #: A store to an address that is never mapped.
    OOPS = (
        "selftest_oops",
        {
            Arch.AMD64: "f30f1efa 31c0 8900 c3",  # endbr64; xor eax,eax; mov [rax],eax; ret
            # bti c; mov x0,#0; str w0,[x0]; ret
            Arch.ARM64: "5f2403d5 000080d2 000000b9 c0035fd6",
            # lghi %r1,-4096 (0 is the lowcore); st %r1,0(%r1); lghi %r2,0; br %r14
            Arch.S390X: "a719f000 50101000 a7290000 07fe",
            # sw zero,0(zero); li a0,0; ret
            Arch.RISCV64: "23200000 13050000 67800000",
            # li r3,0; stw r3,0(r3); blr
            Arch.PPC64EL: "00006038 00006390 2000804e",
        },
    )
    #: What WARN() traps with; an entry for this place in __bug_table makes it a WARNING.
    WARN = (
        "selftest_warn",
        {
            Arch.AMD64: "f30f1efa ! 0f0b 31c0 c3",  # endbr64; ud2; xor eax,eax; ret
            # bti c; brk #0x800; mov w0,#0; ret
            Arch.ARM64: "5f2403d5 ! 000021d4 00008052 c0035fd6",
            Arch.S390X: "! af000000 a7290000 07fe",  # mc 0,0; lghi %r2,0; br %r14
            Arch.RISCV64: "! 73001000 13050000 67800000",  # ebreak; li a0,0; ret
            Arch.PPC64EL: "! 0000e00f 00006038 2000804e",  # twui r0,0; li r3,0; blr
        },
    )
    #: Interrupts off, and a loop.
    SPIN = (
        "selftest_spin",
        {
            Arch.AMD64: "f30f1efa fa f390 ebfc",  # endbr64; cli; again: pause; jmp again
            Arch.ARM64: "5f2403d5 df4f03d5 00000014",  # bti c; msr daifset,#15; b .
            Arch.S390X: "acfcf008 a7f40000",  # stnsm 8(%r15),0xfc; j .
            Arch.RISCV64: "73700110 6f000000",  # csrci sstatus,2; j .
            Arch.PPC64EL: "00006038 6401617c 00000048",  # li r3,0; mtmsrd r3,1; b .
        },
    )
    #: What the compiler makes of a read of a freed string: rbx is where it was.
    READ_FREED = (
        "selftest_read_freed",
        {
            Arch.AMD64: f"{_ENTER} {_ALLOCATE} 4889c3 4889c7 e8 @kfree 4889df e8 @__asan_load8 "
            + _RETURN
        },
        ("CONFIG_KASAN", "__asan_load8"),
    )
    #: Two locks, taken in one order and then in the other.
    LOCK_ORDER = (
        "selftest_lock_order",
        {
            Arch.AMD64: " ".join(
                (
                    *(_ENTER, *map(_new_lock, _LOCKS, _CLASSES)),
                    *(_nested(*_LOCKS), _nested(*_LOCKS[::-1]), _RETURN),
                )
            )
        },
        ("CONFIG_PROVE_LOCKING", "lockdep_init_map_type"),
        bytes(_LOCKED_SIZE),
    )
    #: Ten strings, because the stack may still hold the address of the last.
    LEAK = (
        "selftest_leak",
        {Arch.AMD64: f"{_ENTER} {f'{_ALLOCATE} ' * 10} {_RETURN}"},
        ("CONFIG_DEBUG_KMEMLEAK", "kmemleak_alloc"),
    )
    #: What the compiler makes of reading element 7 of an array of four.
    OUT_OF_BOUNDS = (
        "selftest_out_of_bounds",
        {
            Arch.AMD64: f"{_ENTER} {_first_argument(0)} be07000000 "
            f"e8 @__ubsan_handle_out_of_bounds {_RETURN}"
        },
        ("CONFIG_UBSAN", "__ubsan_handle_out_of_bounds"),
        _BOUNDS,
    )

    def __init__(
        self,
        symbol: str,
        sources: Mapping[Arch, str],
        detector: tuple[str, str] = ("", ""),
        data: bytes = b"",
    ) -> None:
        self.symbol = symbol
        self.assemblies = {arch: Assembly.of(source) for arch, source in sources.items()}
        self.detector, self.mark = detector
        self.data = data
