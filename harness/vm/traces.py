# SPDX-License-Identifier: GPL-2.0-only
"""Kernel log text: turns a raw console into plain lines and records, reads their call traces, and
adds source lines if there is a vmlinux with debug information.
"""

from __future__ import annotations

import itertools
import mmap
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError

# Only a complete sequence is removed. Of an unfinished one only the ESC is, or a guest could hide a
# report behind it. "[" cannot end it: "ESC [" may have been cut off by "[    1.234567] ...".
_ESCAPES = re.compile(
    rb"\x1b(?:"
    rb"\[[0-?]{0,32}[ -/]{0,4}[@-Z\\^-~]"
    rb"|\][^\x07\x1b\n]{0,256}(?:\x07|\x1b\\)"
    rb"|[()][0-9AB]|[=>78cDEHM]"
    rb")"
)
_NOT_TEXT = bytes(b for b in range(256) if not 0x20 <= b < 0x7F and b not in b"\n\t\r")
_CR_IS_SPACE = bytes.maketrans(b"\r", b" ")

# kernel/printk/printk.c, print_prefix(): "<4>" with loglevels shown, the caller with
# CONFIG_PRINTK_CALLER, which comes alone where printk.time is off. The last is what another
# writer's output may have left of one.
_STAMP = re.compile(
    r"(?:<\d{1,3}>)?(?:"
    r"(?:\[ {0,4})?\d{1,8}\.\d{6}\](?:\[ *(?P<caller>[TC]\d+)\])?"
    r"|^\[ *(?P<alone>[TC]\d+)\]"
    r"|^ {0,4}(?:\d{0,8}\.)?\d{0,6}\](?= )"
    r") ?"
)
_LEVEL = re.compile(r"<\d{1,3}>")

_FRAME = re.compile(
    # powerpc prints the stack pointer and the address before the name, s390 the address.
    r"(?P<unsure>\? )?\(?(?:\[<[0-9a-f]+>\] |\[[0-9a-f]{16}\] \[[0-9a-f]{16}\] )?"
    r"(?P<name>[A-Za-z_$][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+"
)
# x86 prints the code segment first, and 0010 is the kernel's; the others name the register, and
# s390 and powerpc print the address.
_LOCATION = re.compile(
    r"(?:RIP: 0010:|(?:pc|epc) : |Krnl PSW : [0-9a-f]{16} [0-9a-f]{16} \(|NIP \[[0-9a-f]{16}\] )"
    r"(?P<name>[A-Za-z_$][\w.$]*)\+0x"
)
_HEADING = re.compile(r"Call [Tt]race:")
_END = re.compile(r"---\[ end |={40}")
_SYSCALL = re.compile(r"__(?:x64|ia32|arm64|riscv|se|do)_(?:compat_)?sys_")

#: Lines between a trace and the line that announces it (registers and, for a hung or stalled CPU,
#: statistics come in between), and the most lines of a report.
_TRACE_WITHIN = 80
_REPORT_WITHIN = 400

#: Functions that report, enter the kernel, or wait, lock and allocate for their caller. Every trace
#: has some, so they do not distinguish bugs. Compiled by the first trace, for it takes 10 ms.
_HELPERS = (
    # reporting
    r"_*(?:dump_stack\w*|show_(?:stack|regs|trace)|dump_backtrace|dump_header|v?panic|nmi_panic"
    r"|warn|warn_slowpath\w*|warn_printk|report_bug\w*|handle_bug|fixup_bug|die|die_body|die_addr"
    r"|oops_\w+|page_fault_oops|no_context|bad_area\w*|do_(?:user_addr|kern_addr|page)_fault"
    r"|do_error_trap|do_trap|exc_\w+|asm_\w+|error_entry|ret_from_exception"
    r"|print_(?:report|address_description|usage_bug|circular_bug|deadlock_bug)\w*|check_region\w*"
    r"|k[ac]san_\w+|kfence_\w+|kmsan_\w+|[at]san_\w+|ubsan_\w+|refcount_\w+|schedule_bug"
    r"|might_(?:sleep|resched|fault)|lockdep_\w+|lock_(?:acquire|release)|check_noncircular"
    r"|validate_chain|mark_(?:lock|usage)\w*|list_(?:add|del|del_entry)_valid\w*|bad_page|fortify_panic"
    r"|stack_chk_fail|warn_alloc|check_(?:panic_on_out_of_memory|object)|slab_(?:err|bug|fix)|object_err"
    # the watchdogs and what carries them
    r"|nmi\w*|watchdog_\w+|rcu_(?:dump_cpu_stacks|check_gp_kthread\w*|sched_clock_irq|pending)"
    r"|print_(?:cpu_stall|other_cpu_stall)\w*|check_cpu_stall|sched_show_task|sched_tick|scheduler_tick"
    r"|update_process_times|tick_\w+|hrtimer_\w+|sysvec_\w+|(?:local_)?apic_timer_interrupt"
    r"|irq_exit\w*|do_softirq|handle_softirqs|call_on_irq_stack|el[01]_\w+|el[01]t?_\w+|ret_to_user"
    # waiting, locking and allocating
    r"|schedule(?:_timeout\w*|_preempt_disabled|_idle|_hrtimeout\w*)?|io_schedule\w*|preempt_schedule\w*"
    r"|wait_for_co\w+|[mu]sleep\w*|(?:mutex|down|up|rwsem|rt_mutex)_\w+|down|up|raw_(?:spin|read|write)_\w+"
    r"|native_queued_spin_lock_slowpath|queued_(?:spin|read|write)_lock_slowpath|cond_resched"
    r"|alloc_(?:pages|frozen_pages)\w*|get_page_from_freelist|rmqueue\w*|free_frozen_pages"
    r"|k[mvz]*alloc\w*|kmem_cache_\w+|kv?free|slab_\w+|___slab_\w+|vmalloc\w*|out_of_memory|oom_kill_process"
    # the way in
    r"|do_syscall_\w+|x64_sys_call|invoke_syscall\w*|entry_SYSCALL\w*|ret_from_fork\w*|irqentry_\w+"
    r"|syscall_\w+|exit_to_user_mode\w*"
    r")"
)


@dataclass(frozen=True)
class Record:
    """One message of the kernel, or the text between two: ``caller`` is ``T123`` or ``C0``."""

    text: str
    caller: str
    stamped: bool


@dataclass(frozen=True)
class Trace:
    """The trace of a report: its functions, innermost first, without helpers; its length in lines.

    ``location`` is the function at the instruction pointer, even a helper, if the report has
    registers.
    """

    functions: tuple[str, ...]
    location: str
    length: int


def plain(console: bytes) -> str:
    """``console`` as printable ASCII, tabs and newlines, with exactly its newlines.

    Escapes, NULs and non-ASCII bytes are removed without a replacement, so that they cannot hide a
    word.
    """
    text = _ESCAPES.sub(b"", console)
    return text.translate(_CR_IS_SPACE, _NOT_TEXT).decode("ascii")


def is_stamped(text: str) -> bool:
    """Whether this console shows the kernel's timestamps (or callers)."""
    return _STAMP.search(text, 0, 1 << 16) is not None


def records(line: str) -> Iterator[Record]:
    """``line`` split at the start of kernel messages: user space may have written half a line
    before."""
    start, caller, stamped = 0, "", False
    # Each stamp ends in "]": most lines have one stamp, and are not searched for a second.
    while "]" in line[start:] and (stamp := _STAMP.search(line, start)):
        if stamped or line[start : stamp.start()].strip():
            yield Record(line[start : stamp.start()].strip(), caller, stamped)
        start, stamped = stamp.end(), True
        caller = stamp["caller"] or stamp["alone"] or ""
    level = None if stamped else _LEVEL.match(line)
    yield Record(line[level.end() if level else start :].strip(), caller, stamped)


def read(lines: Iterable[tuple[str, bool]], caller: str, *, stalled: bool) -> Trace:
    """The trace of the report that begins with ``lines``, each with whether another report begins
    there.

    ``caller`` excludes messages of other callers, if the console names them. With ``stalled``, the
    report is about what a CPU was doing, and the interrupt that noticed is left out.
    """
    reader = _Reader(stalled)
    length, stamped = 0, False
    for number, (line, is_other) in enumerate(lines):
        if number > _REPORT_WITHIN or (is_other and reader.has_frames):
            break
        if number > _TRACE_WITHIN and not reader.has_frames:
            break
        for record in records(line):
            stamped = stamped or record.stamped
            is_program = stamped and not record.stamped
            is_others = caller and record.caller and record.caller != caller
            if not is_program and not is_others and reader.feed(record.text):
                length = number + 1
        if reader.ended:
            break
    location = functions(reader.location, helpers=True)
    return Trace(functions(reader.names), "".join(location), length)


def functions(names: Iterable[str], *, helpers: bool = False) -> tuple[str, ...]:
    """The symbol ``names`` without compiler suffixes, repetitions (recursion) and helpers."""
    every: list[str] = []
    for name in names:
        # foo.isra.0, foo.constprop.0, foo.part.0, foo.cold, foo.llvm.123; since 6.10 allocators
        # are also called foo_noprof.
        short = _SYSCALL.sub("sys_", name.split(".")[0].removesuffix("_noprof"))
        if short and short not in every[-1:]:
            every.append(short)
    telling = [name for name in every if helpers or not re.fullmatch(_HELPERS, name)]
    return tuple(telling or every)


class _Reader:
    """Collects the frames of one report from its messages, one at a time."""

    def __init__(self, stalled: bool) -> None:
        self._stalled = stalled
        self.location: list[str] = []
        self._headed: list[str] = []  # frames below "Call Trace:"
        self._bare: list[str] = []  # the first frames without it, as KFENCE and kmemleak print them
        self._in_trace = False
        self._bare_done = False
        self._complete = False
        self.ended = False

    @property
    def has_frames(self) -> bool:
        return bool(self._headed or self._bare)

    @property
    def names(self) -> list[str]:
        return self.location + (self._headed or self._bare)

    def feed(self, text: str) -> bool:
        """Read ``text``; returns whether it certainly belongs to a report."""
        if _END.match(text):
            self.ended = text.startswith("-") or self.has_frames
            return True
        if location := _LOCATION.match(text):
            self._locate(location["name"])
        elif _HEADING.match(text):
            if self._complete or (self._headed and not self._stalled):
                self.ended = True  # the next trace is about something else
                return False
            self._in_trace = True
        elif text in ("</IRQ>", "</TASK>", "</NMI>"):
            self._leave_stack(text)
        elif frame := _FRAME.match(text):
            if not frame["unsure"]:
                self._add(frame["name"])
        else:
            self._bare_done = self._bare_done or bool(self._bare)
            return False
        return True

    def _locate(self, name: str) -> None:
        if self._stalled and not self.location:
            # The previous trace was of the grace-period kthread, or of the interrupt itself.
            self.location, self._headed, self._complete = [name], [], False
        elif not self.location and not self._headed:
            self.location = [name]

    def _leave_stack(self, text: str) -> None:
        if self._stalled and text != "</TASK>":
            self._headed = []
        elif self._headed:
            # Below an interrupt is whatever it interrupted, which differs from boot to boot.
            self._complete = True

    def _add(self, name: str) -> None:
        if self._in_trace and not self._complete:
            self._headed.append(name)
        elif not self._in_trace and not self._bare_done:
            self._bare.append(name)


#: Seconds for each program; a vmlinux with debug information has 500 MB.
PATIENCE = 120.0
BINUTILS = ("nm", "addr2line")

_SYMBOL = re.compile(r"(?P<symbol>[A-Za-z_][\w.]*)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)")
# Contains compiler, number and time of the build.
_BANNER = re.compile(rb"Linux version [^\r\n]+")
_ADDRESS = re.compile(r"0x[0-9a-f]+")


@dataclass(frozen=True)
class _Frame:
    symbol: str
    offset: int
    size: int
    is_return: bool  # a return address, which may belong to the next line


def decode(text: str, vmlinux: Path) -> str:
    """``text`` with source lines after each frame of the kernel itself, including inlined callers.

    Frames of modules and unknown ones stay unchanged. Raises :class:`HostError`.
    """
    missing = [tool for tool in BINUTILS if shutil.which(tool) is None]
    if missing:
        raise HostError(f"this host lacks {' and '.join(missing)}; install binutils")
    lines = text.split("\n")
    found = {number: frame for number, line in enumerate(lines) if (frame := _frame(line))}
    if not found:
        return text
    start = _addresses(vmlinux, set(found.values()))
    places = _places(vmlinux, start.values())
    for number, frame in found.items():
        place = places.get(start.get(frame, -1))
        if place:
            lines[number] += f" ({place})"
    return "\n".join(lines)


def decode_all(texts: Sequence[str], vmlinux: Path) -> list[str]:
    """:func:`decode` for each of ``texts``; reads ``vmlinux``, which takes seconds, only once."""
    lines = iter(decode("\n".join(texts), vmlinux).split("\n"))
    return ["\n".join(itertools.islice(lines, text.count("\n") + 1)) for text in texts]


def is_vmlinux_of(vmlinux: Path, console: bytes) -> bool:
    """Whether ``vmlinux`` is of the build whose ``Linux version …`` is on ``console``."""
    said = _BANNER.search(console)
    try:
        with vmlinux.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return said is not None and data.find(said[0].rstrip()) >= 0
    except (OSError, ValueError):  # ValueError: it is empty
        return False


def _frame(line: str) -> _Frame | None:
    match = _SYMBOL.search(line)
    if match is None or re.match(r" \[\w+\]", line[match.end() :]):
        return None  # a module's: `mptcp_sendmsg+0x1/0x2 [mptcp]`
    is_return = "RIP:" not in line
    return _Frame(match["symbol"], int(match["offset"], 16), int(match["size"], 16), is_return)


def _addresses(vmlinux: Path, frames: Iterable[_Frame]) -> dict[_Frame, int]:
    """The addresses of the frames that are unambiguous."""
    wanted = {frame.symbol for frame in frames}
    starts: dict[tuple[str, int], set[int]] = defaultdict(set)
    ordered = []
    for line in _run("nm", "-n", str(vmlinux)).splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] in "tTwW":
            ordered.append((int(fields[0], 16), fields[2]))
    # The kernel takes the distance to the next symbol as a symbol's size (kallsyms).
    following = sorted({address for address, _ in ordered})
    after = dict(itertools.pairwise(following))
    for address, name in ordered:
        if name in wanted:
            starts[name, after.get(address, address) - address].add(address)
    return {
        frame: min(places) + frame.offset - frame.is_return
        for frame in frames
        if len(places := starts.get((frame.symbol, frame.size), set())) == 1
    }


def _places(vmlinux: Path, addresses: Iterable[int]) -> Mapping[int, str]:
    """``file:line``, the innermost of inlined functions first, by address."""
    asked = [f"{address:#x}" for address in addresses]
    if not asked:
        return {}
    told: dict[int, list[str]] = {}
    here: list[str] = []
    for line in _run("addr2line", "-a", "-i", "-e", str(vmlinux), *asked).splitlines():
        if _ADDRESS.fullmatch(line):
            here = told.setdefault(int(line, 16), [])
        elif not line.startswith("??"):
            here.append(line.partition(" (discriminator")[0])
    root = f"{vmlinux.resolve().parent}/"  # the tree that was built, if it was built there
    return {
        address: ", ".join(os.path.normpath(place).removeprefix(root) for place in places)
        for address, places in told.items()
    }


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{command[0]} failed: {error}") from error
    if done.returncode != 0:
        raise HostError(f"{command[0]} failed: {done.stderr.strip()[:200]}")
    return done.stdout
