# SPDX-License-Identifier: GPL-2.0-only
"""Messages that the kernel prints when something is wrong, from 5.10 to 7.x.

The wording was read in the kernel's own sources, 6.1 and 7.3: kernel/panic.c, lib/bug.c,
mm/fault.c and kernel/traps.c of x86 and arm64, lib/{refcount,list_debug,ubsan}.c,
mm/{kasan,kfence}/report.c, kernel/kcsan/report.c, kernel/locking/lockdep.c,
kernel/rcu/tree_{stall,exp}.h, kernel/{watchdog,hung_task}.c,
mm/{slub,oom_kill,page_alloc,kmemleak}.c.

User space writes to the same console and can cut a message in two, so most messages are recognised
by either half. Not an incident: a ``WARNING: `` that is neither WARN()'s banner nor lockdep's
(mitigations, ORC tables, MTRRs: the kernel's opinion of the machine), and a taint by itself.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from enum import Enum, auto

from harness.verdict.results import IncidentKind as K


class Role(Enum):
    """The role of a message in its report."""

    HEADLINE = auto()  # starts a report
    PREAMBLE = auto()  # starts one too, but "cut here" may follow
    CUT = auto()  # "cut here": starts a report whose kind is not yet known
    BANNER = auto()  # WARN()'s own line, which may follow a more specific headline
    DIE = auto()  # the line with the oops counter, which mostly follows a headline
    ECHO = auto()  # a later line of a report; starts one only if the headline is missing
    PANIC = auto()
    PANIC_END = auto()


@dataclass(frozen=True)
class Signature:
    """One message, which ``wording`` matches. ``title`` is filled in from its group ``what``;
    ``where`` and ``function`` are groups with a fixed meaning.

    ``rank``: the highest-ranked message of a report, or the first of equal rank, gives kind and
    title. ``strict``: common words, accepted only with a timestamp if the console has them.
    ``within``: the lines after a report's last message in which an ECHO still belongs to it;
    ``echoes``: the kinds of such reports. ``stalled``: about what a CPU was doing. ``in_function``:
    the title includes the function.
    """

    kind: K
    title: str
    wording: str
    role: Role = Role.HEADLINE
    rank: int = 3
    strict: bool = False
    within: int = 40
    echoes: frozenset[K] = field(default_factory=frozenset)
    stalled: bool = False
    in_function: bool = True

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Compiled when a console has a line to be looked at, which few have: all take 20 ms."""
        return re.compile(self.wording)


def _of(kind: K, title: str, wording: str, **more: object) -> Signature:
    return Signature(kind, title, wording, **more)  # type: ignore[arg-type]


def _echo(kind: K, title: str, wording: str, *also: K, **more: object) -> Signature:
    echoes = frozenset((kind, *also))
    return _of(kind, title, wording, role=Role.ECHO, rank=2, echoes=echoes, **more)


_FUNCTION = r"(?:(?P<function>[A-Za-z_$][\w.$]*)\+0x)?"
_FILE = r"[\w./+-]+\.(?:[chS]|rs):\d+"
#: Ranks below 2 are for messages that only say that there is a report.
_VAGUE = 1

_SANITIZERS = (
    _of(K.KASAN, "KASAN: {what}", r"BUG: KASAN: (?P<what>[\w -]+?)(?: in " + _FUNCTION + ".*)?$"),
    _echo(K.KASAN, "KASAN", r"^The buggy address belongs to ", K.BUG, strict=True),
    _echo(K.KASAN, "KASAN", r"^KASAN: [\w-]+ in range \[", K.OOPS, K.GPF),
    _of(K.KCSAN, "KCSAN: {what}", r"BUG: KCSAN: (?P<what>.+)", in_function=False),
    _echo(K.KCSAN, "KCSAN", r"Reported by Kernel Concurrency Sanitizer", K.BUG),
    _of(
        K.KFENCE, "KFENCE: {what}", r"BUG: KFENCE: (?P<what>[\w -]+?)(?: in " + _FUNCTION + ".*)?$"
    ),
    _echo(K.KFENCE, "KFENCE", r"(?:of|in) kfence-#\d+\):?$", K.BUG),
    _of(K.UBSAN, "UBSAN: {what}", r"UBSAN: (?P<what>[\w -]+?)(?: in (?P<where>\S+?:\d+)\b.*)?$"),
    _echo(K.UBSAN, "UBSAN", r"^[\w-]*-[\w-]* in (?P<where>\S+\.[chS]:\d+):\d+$"),
    _echo(K.UBSAN, "UBSAN", r"^(?:shift exponent|index) \S+ is \w+(?: \w+)* for ", strict=True),
    _of(
        K.KMEMLEAK,
        "kmemleak: {what}",
        r"kmemleak: \d+ (?P<what>new suspected memory leaks)",
        in_function=False,
    ),
    _of(K.KMEMLEAK, "memory leak", r"^unreferenced object(?: \(\w+\))? 0x[0-9a-f]+ \(size \d+\)"),
)

_FAULTS = (
    _of(
        K.GPF,
        "general protection fault",
        r"^(?:Oops: )?(?:segment-related )?general prot",
        strict=True,
    ),
    _of(
        K.OOPS,
        "NULL pointer dereference",
        r"kernel NULL poi|NULL pointer dereference(?:,| at| on (?:read|write) at) ",
    ),
    _of(
        K.OOPS,
        "unable to handle page fault",
        r"nable to handle (?:kernel|page fault)|page fault for address: [0-9a-f]",
    ),
    _of(K.OOPS, "kernel stack overflow", r"stack guard page was hit at|kernel stack overflow"),
    _of(K.OOPS, "double fault", r"PANIC: double fault"),
    _of(K.BUG, "kernel BUG", r"kernel BUG at (?P<where>[\w./-]+:\d+)|BUG at [\w./-]+:\d+!"),
    _of(
        K.BUG,
        "{what}",
        r"(?P<what>list_(?:add|del) (?:corruption|double add))\b",
        role=Role.PREAMBLE,
    ),
    _of(
        K.OOPS,
        "Oops: {what}",
        r"(?:^|\b(?P<what>(?!Oops\b)[A-Za-z][^:\[\]]*): |: )[0-9a-f]{4,16} \[#\d+\]",
        role=Role.DIE,
        rank=2,
    ),
    _of(K.OOPS, "Oops", r"^(?:Internal error: )?Oops\b", role=Role.DIE, rank=2, strict=True),
)

_OTHER_BUGS = (
    _of(K.BUG, "SLUB: {what}", r"^BUG [\w:.-]+ \((?:Not t|T)ainted[^)]*\): (?P<what>[A-Za-z ]+)"),
    _of(
        K.BUG,
        "{what}",
        r"^BUG: (?P<what>Bad (?:page (?:state|map|cache)|rss-counter state))",
        strict=True,
    ),
    _of(K.ATOMIC_SLEEP, "scheduling while atomic", r"scheduling while at|ile atomic: \S+/\d+/0x"),
    _of(
        K.ATOMIC_SLEEP,
        "sleeping function called from invalid context",
        r"(?:BUG: sleeping function called )?from invalid context at (?P<where>" + _FILE + ")"
        r"|BUG: sleeping function",
    ),
    _of(
        K.SOFT_LOCKUP,
        "soft lockup",
        r"BUG: soft lockup|stuck for \d+s! \[",
        stalled=True,
    ),
    _of(
        K.SOFT_LOCKUP,
        "workqueue lockup",
        r"BUG: workqueue lockup",
        strict=True,
        in_function=False,
    ),
    _of(
        K.HARD_LOCKUP,
        "hard LOCKUP",
        r"detected hard LOCKUP|LOCKUP on cpu \d",
        stalled=True,
    ),
)

_LOCKING = (
    _of(
        K.RCU,
        "suspicious RCU usage",
        r"WARNING: suspicious RCU u",
        strict=True,
    ),
    _echo(K.RCU, "suspicious RCU usage", r"(?P<where>" + _FILE + r") suspicious rcu_\w+\(\) usage"),
    _of(
        K.RCU,
        "RCU stall",
        r"^(?:rcu: )?INFO: rcu\w* (?:self-)?detected (?:expedited )?stall",
        strict=True,
        stalled=True,
    ),
    _echo(
        K.RCU,
        "RCU stall",
        r"elf-detected stall on CPU|ed (?:expedited )?stalls on (?:CPUs/)?tasks"
        r"|^(?:rcu: )?INFO: rcu\w* |rcu: \w+ kthread starved for \d+ jiffies",
        within=1000,
        stalled=True,
    ),
    _of(
        K.LOCKDEP,
        "lockdep: {what}",
        r"(?:WARNING: |INFO: |\[ BUG: )(?P<what>possible (?:circular|recursive) locking"
        r"|possible irq lock inversion|inconsistent lock state|held lock freed"
        r"|lock held when returning to user space|bad unlock balance|bad contention"
        r"|Nested lock was not taken|chain_key collision|\S+-safe -> \S+-unsafe lock order"
        r"|trying to register non-static key|Invalid wait context)",
        strict=True,
    ),
    _of(
        K.LOCKDEP,
        "lockdep: locks still held",
        r"WARNING: .{1,20}/\d+ still has locks held!",
        strict=True,
    ),
    _of(K.LOCKDEP, "lockdep: {what}", r"^BUG: (?P<what>MAX_\w+ too low)", in_function=False),
    _echo(
        K.LOCKDEP,
        "lockdep",
        r"^other info that might help us debug this:|^\S+ is trying to (?:acquire|release) lock",
        K.RCU,
        K.BUG,
        strict=True,
    ),
)

_RESOURCES = (
    _of(
        K.HUNG_TASK,
        "hung task",
        r"^INFO: task .+ blocked(?: in I/O wait)? for more than \d"
        r"|ed for more than \d+ seconds\.$",
        strict=True,
    ),
    _echo(
        K.HUNG_TASK,
        "hung task",
        r"^INFO: task |^\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables",
        strict=True,
    ),
    _of(
        K.PAGE_ALLOCATION,
        "page allocation failure",
        r"page allocation failure: |:\d+, mode:0x[0-9a-f]+\(|vmalloc error: size \d"
        r"|vmalloc: allocation failure: \d",
    ),
    _of(
        K.OUT_OF_MEMORY,
        "Out of memory",
        r"invoked oom-killer: gfp_mask=|^[Oo]ut of memory and no killable",
        in_function=False,
    ),
    Signature(
        K.OUT_OF_MEMORY,
        "Out of memory: killed {what}",
        r"(?:ut of memory|oom_kill_\w+\)): Killed process \d+ \((?P<what>.*?)\)",
        role=Role.ECHO,
        rank=4,
        within=1000,
        echoes=frozenset((K.OUT_OF_MEMORY,)),
        in_function=False,
    ),
    _echo(
        K.OUT_OF_MEMORY,
        "Out of memory",
        r"^oom-kill:constraint=",
        within=1000,
        in_function=False,
    ),
    _of(K.REFCOUNT, "refcount_t: {what}", r"refcount_t: (?P<what>[a-z][\w ,;-]+)"),
)

_WARNINGS = (
    _of(
        K.WARNING,
        "WARNING",
        r"WARNING: CPU: \d+(?: PID: \d+ at (?:(?P<where>[\w./-]+:\d+) )?" + _FUNCTION + ")?",
        role=Role.BANNER,
        rank=_VAGUE,
    ),
    # 7.3: "WARNING: lib/refcount.c:28 at refcount_warn_saturate+0x59/0x90, CPU#0: sh/128"
    _of(
        K.WARNING,
        "WARNING",
        r"WARNING: (?:(?P<where>[\w./-]+:\d+) )?at " + _FUNCTION,
        role=Role.BANNER,
        rank=_VAGUE,
    ),
    _of(
        K.WARNING,
        "WARNING",
        r"PID: \d+ at (?:[\w./-]+:\d+ )?\S+\+0x"
        r"|\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[[^\]]+\])?, CPU#\d+: ",
        role=Role.BANNER,
        rank=_VAGUE,
    ),
    _of(K.WARNING, "WARNING", r"--\[ cut h|t here \]--", role=Role.CUT, rank=0),
    # whatever else the kernel calls a bug: spinlocks, preemption, a leaked lock, KMSAN
    _of(
        K.BUG,
        "BUG: {what}",
        r"^BUG: (?P<what>[A-Za-z][^\[\]#:]*(?:: [a-z-]+(?= in ))?)",
        rank=_VAGUE,
        strict=True,
    ),
)

#: In the order in which they are tried: the first that matches a message is what it is.
SIGNATURES = (
    _of(
        K.PANIC,
        "Kernel panic: {what}",
        r"---\[ end Kernel panic - not syncing: (?P<what>.*?)(?: \]---|$)"
        r"|not syncing: (?P<rest>.*) \]---",
        role=Role.PANIC_END,
        in_function=False,
    ),
    _of(
        K.PANIC,
        "Kernel panic: {what}",
        r"Kernel panic - (?:not syncing: (?P<what>.*))?|\bnot syncing: (?P<rest>.*)",
        role=Role.PANIC,
        in_function=False,
    ),
    *_SANITIZERS,
    *_FAULTS,
    *_OTHER_BUGS,
    *_LOCKING,
    *_RESOURCES,
    *_WARNINGS,
)

#: Whatever a signature matches holds one of these, and little else does.
TELLTALES = (
    *("BUG", "Kernel panic -", "not syncing:", "WARNING: ", "INFO: ", "Oops", "Internal error: "),
    *(" [#", "general prot", "NULL poi", "nable to handle", "page fault for", "stack overflow"),
    *("PANIC: double", "KASAN: ", "buggy address", "Concurrency San", "kfence-#", "UBSAN: "),
    *(".c:", ".h:", ".S:", "shift exponent", "is out of range for", "kmemleak: "),
    *(
        "unreferenced object",
        "list_add ",
        "list_del ",
        "scheduling wh",
        "ile atomic: ",
        "invalid context",
    ),
    *("stuck for ", "LOCKUP", "stall on CPU", "stalls on ", "kthread starved", "might help us"),
    *("is trying to ", "ed for more than", "hung_task_timeout_secs", "page allocation fail"),
    *(", mode:0x", "vmalloc error: ", "vmalloc: alloc", "ut of memory", "oom-kill", "oom_kill_"),
    *("refcount_t: ", "PID: ", ", CPU#", "[ cut h", "t here ]-"),
)
#: The least to look for on a console that is too full of the others.
FATAL_TELLTALES = ("Kernel panic -", "not syncing:", " [#")

#: The kernel's own record of how it was started holds any text.
COMMAND_LINE = re.compile(
    r"^(?:Kernel )?[Cc]ommand line:|^Unknown kernel command line|^Booting kernel: "
)

_ANY_CRASH = frozenset(kind for kind in K if kind.is_crash)
_WARNS = frozenset(K) - _ANY_CRASH
#: A panic with such a reason is how an earlier report ended: reason, the kinds of report, and
#: how many lines back at most (None: however far). Any other is a report of its own.
AFTERMATH: tuple[tuple[re.Pattern[str], frozenset[K], int | None], ...] = (
    (re.compile(r"Fatal exception|Oopsed too often|Oops failed"), _ANY_CRASH, None),
    (re.compile(r"Attempted to kill |Aiee, killing"), _ANY_CRASH, 200),
    (re.compile(r"panic_on_warn|warned too often|kasan\.fault="), _WARNS, None),
    (re.compile(r"hung_task: blocked"), frozenset((K.HUNG_TASK,)), None),
    (re.compile(r"softlockup: hung"), frozenset((K.SOFT_LOCKUP,)), None),
    (re.compile(r"[Hh]ard LOCKUP"), frozenset((K.HARD_LOCKUP,)), None),
    (re.compile(r"RCU Stall"), frozenset((K.RCU,)), None),
    (re.compile(r"panic_on_oom|deadlocked on memory"), frozenset((K.OUT_OF_MEMORY,)), None),
)

#: Panics that say what the kernel was given to boot from, not what it did. An init that exits
#: (exit code in the high byte) could not go on; one killed by a signal may be the kernel's doing.
WRONG_ENVIRONMENT = re.compile(
    r"Kernel panic: (?:VFS: Unable to mount root fs|No working init found|Requested init "
    r"|Cannot find place for new RAMDISK"
    r"|Could not decompress initial ramdisk|Attempted to kill init! exitcode=0x0000[0-9a-f]{2}00\b)"
)

BANNER = re.compile(r"Linux version \d+\.\d+")
