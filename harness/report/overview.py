# SPDX-License-Identifier: GPL-2.0-only
"""The matrix of a run: kernels down, capabilities and groups of checks across, the worst first.

A run has about a thousand checks, so a column stands for a group of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from harness.manifest.expectations import CAPABILITIES, OF_SCENARIOS
from harness.text import plural
from harness.verdict.comparison import CAPABILITY, Difference, RunDifference
from harness.verdict.results import CheckResult, KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict

#: Groups of checks by the first part of their names, in the order of the columns. The first pattern
#: that matches decides.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "MPTCP_INFO": ("mptcp_info",),
    "MPTCP_TCPINFO": ("tcpinfo",),
    "MPTCP_SUBFLOW_ADDRS": ("subflow_addrs",),
    "MPTCP_FULL_INFO": ("full_info",),
    "SOL_SOCKET options": ("so_*", "sol_socket", "inherit"),
    "SOL_TCP options": ("tcp_*", "sol_tcp"),
    "SOL_IP, SOL_IPV6 options": (
        *("ip_*", "ipv6_*", "sol_ip*", "freebind", "local_port_range", "transparent_get"),
    ),
    "sockets and states": (
        *("state", "connect", "bind", "listen", "accept", "shutdown", "close", "disconnect"),
        *("reconnect", "getsockname", "end", "data_fin", "mixed"),
    ),
    "send and receive": (
        *("payload", "send", "recv", "msg_*", "splice", "sendfile", "writev", "transfer", "window"),
        *("siocinq", "siocoutq", "concurrent"),
    ),
    "poll and signals": ("poll", "epoll", "signals", "sigio"),
    "protocol on the wire": (
        *("mp_*", "dss", "checksums", "infinite_mapping", "reorder", "duplicates", "initial"),
        *("retransmission", "reinjection", "stale"),
    ),
    "fallback": ("fallback", "blackhole", "syncookies"),
    "subflows": (
        *("subflows", "join", "owned", "failures", "fullmesh", "initial_address", "deny_join"),
        *("*_address", "subflow_and_signal"),
    ),
    "path managers": (
        *("pm", "pm_*", "userspace_pm", "endpoint", "limits", "flush", "events", "listener_event"),
        *("add_addr", "rm_addr", "laminar"),
    ),
    "diag and counters": ("diag", "counters", "proc_*"),
    "sysctls": ("sysctl",),
}  # fmt: skip
OTHER = "other"
#: The checks of capabilities without a column of their own.
CAPABILITIES_LEFT = "other capabilities"
#: A guest must not decide the number of columns.
MAX_CAPABILITIES = 16


class Mark(StrEnum):
    """The mark in a cell of the matrix; worst first. ``KNOWN`` failures do not count."""

    FAIL = "fail"
    LOST = "lost"
    ERROR = "error"
    KNOWN = "known"
    PASS = "pass"
    NONE = "unsupported"
    ABSENT = "absent"

    @property
    def is_bad(self) -> bool:
        return self in (Mark.FAIL, Mark.LOST, Mark.ERROR)


SYMBOLS = {
    Mark.FAIL: "✗",
    Mark.LOST: "?",
    Mark.ERROR: "!",
    Mark.KNOWN: "~",
    Mark.PASS: "✓",
    Mark.NONE: "–",  # noqa: RUF001
    Mark.ABSENT: "",
}
_RANK = {mark: len(Mark) - number for number, mark in enumerate(Mark)}


@dataclass(frozen=True)
class Cell:
    """One cell: ``count`` checks have the ``mark``; ``rank`` is higher the worse it is."""

    mark: Mark
    count: int = 0
    new: bool = False

    @property
    def symbol(self) -> str:
        counted = self.mark.is_bad or self.mark is Mark.KNOWN
        return (
            f"{SYMBOLS[self.mark]}{self.count}"
            if counted and self.count > 1
            else SYMBOLS[self.mark]
        )

    @property
    def label(self) -> str:
        """In words, for a screen reader."""
        new = ", newly" if self.new else ""
        return f"{self.count} {self.mark}{new}" if self.count else f"{self.mark}{new}"

    @property
    def rank(self) -> int:
        return 10_000 * _RANK[self.mark] + min(self.count, 9_999)


@dataclass(frozen=True)
class Row:
    """A kernel. ``new`` are sentences about what is newly wrong with it."""

    kernel: KernelResult
    cells: tuple[Cell, ...]
    new: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """Higher the worse: newly wrong, then wrong, untested, with known failures, passed."""
        verdict = self.kernel.verdict
        if verdict is KernelVerdict.INFRASTRUCTURE:
            base = 20
        elif verdict.as_expected:
            base = 10 if self.kernel.known else (1 if verdict is KernelVerdict.UNSUPPORTED else 2)
        else:
            base = 100 - list(KernelVerdict).index(verdict)
        return base + (1000 if self.new else 0)


@dataclass(frozen=True)
class Overview:
    """``groups`` has the checks of each group that has any."""

    capabilities: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    rows: tuple[Row, ...]


def group_of(check: str) -> str:
    """The group of a check by its name."""
    subject = check.partition(".")[0]
    return next(
        (name for name, globs in GROUPS.items() if any(fnmatchcase(subject, g) for g in globs)),
        OTHER,
    )


def overview(run: RunResult, difference: RunDifference | None = None) -> Overview:
    """The matrix of ``run``; ``difference`` is what changed since an earlier run."""
    changed = {d.after.name: d for d in difference.kernels} if difference is not None else {}
    new_kernels = {kernel.name for kernel in difference.new} if difference is not None else set()
    names = capability_columns(run.kernels)
    kept = groups_of(run.kernels, names)
    rows = [
        _row(kernel, names, kept, changed.get(kernel.name), kernel.name in new_kernels)
        for kernel in run.kernels
    ]
    return Overview(names, kept, tuple(sorted(rows, key=lambda row: -row.rank)))


def groups_of(
    kernels: Sequence[KernelResult], columns: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The checks of each group, without the capabilities that have ``columns``."""
    shown = {CAPABILITY + name for name in columns}
    names = (CAPABILITIES_LEFT, *GROUPS, OTHER)
    groups: dict[str, dict[str, None]] = {name: {} for name in names}
    for check in dict.fromkeys(result.key.id for kernel in kernels for result in results(kernel)):
        if check.startswith(CAPABILITY):
            if check not in shown:
                groups[CAPABILITIES_LEFT][check] = None
        else:
            groups[group_of(check)][check] = None
    return {name: tuple(checks) for name, checks in groups.items() if checks}


def capability_columns(kernels: Sequence[KernelResult]) -> tuple[str, ...]:
    """Columns for the capabilities that tables show, without those that say nothing here."""
    reported = dict.fromkeys(name for kernel in kernels for name in kernel.capabilities)
    lacked = {name for kernel in kernels for name, has in kernel.capabilities.items() if not has}
    hidden = {spec.name for spec in CAPABILITIES.values() if spec.minor}
    hidden |= {"ipv6", "mptcp_ipv6"} - lacked
    own = [name for name in CAPABILITIES if name in reported and name not in hidden]
    others = sorted(reported.keys() - CAPABILITIES.keys() - OF_SCENARIOS)
    return tuple([*own, *others][:MAX_CAPABILITIES])


def results(kernel: KernelResult) -> Iterable[CheckResult]:
    return (check for family in kernel.families.values() for check in family.checks)


def mark_of(result: CheckResult) -> Mark:
    if result.known and result.verdict.is_bad:
        return Mark.KNOWN
    match result.verdict:
        case CheckVerdict.FAIL:
            return Mark.FAIL
        case CheckVerdict.LOST:
            return Mark.LOST
        case CheckVerdict.ERROR:
            return Mark.ERROR
        case CheckVerdict.PASS:
            return Mark.PASS
        case CheckVerdict.UNSUPPORTED:
            return Mark.NONE


def worst_mark(marks: Iterable[Mark]) -> Mark:
    return max(marks, key=_RANK.__getitem__, default=Mark.ABSENT)


def marks_of(kernel: KernelResult) -> dict[str, Mark]:
    """The worst mark of each check over all places where it ran."""
    found: dict[str, Mark] = {}
    for result in results(kernel):
        mark = mark_of(result)
        old = found.get(result.key.id)
        if old is None or _RANK[mark] > _RANK[old]:
            found[result.key.id] = mark
    return found


def _row(
    kernel: KernelResult,
    capabilities: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    difference: Difference | None,
    is_new: bool,
) -> Row:
    marks = marks_of(kernel)
    worse = _worse(difference)
    cells = [_capability(kernel, name, marks, worse) for name in capabilities]
    for checks in groups.values():
        counted = Counter(marks[check] for check in checks if check in marks)
        mark = worst_mark(counted)
        cells.append(Cell(mark, counted[mark], any(check in worse for check in checks)))
    new = tuple(newly_wrong(difference)) if difference is not None else ()
    untested = kernel.verdict is KernelVerdict.INFRASTRUCTURE
    if is_new and not kernel.verdict.as_expected and not untested:
        new = ("the earlier run does not have this kernel",)
    return Row(kernel, tuple(cells), new)


def _capability(
    kernel: KernelResult, name: str, marks: Mapping[str, Mark], worse: frozenset[str]
) -> Cell:
    present = kernel.capabilities.get(name)
    check = CAPABILITY + name
    new = check in worse
    if marks.get(check, Mark.PASS).is_bad:
        return Cell(marks[check], new=new)
    if present is None:
        return Cell(Mark.ABSENT, new=new)
    return Cell(Mark.PASS if present else Mark.NONE, new=new)


def _worse(difference: Difference | None) -> frozenset[str]:
    """The checks and capabilities that are newly wrong."""
    if difference is None:
        return frozenset()
    checks = {change.check for change in difference.changes if change.is_worse}
    lost = {CAPABILITY + change.name for change in difference.capabilities if change.is_worse}
    return frozenset(checks | lost)


def newly_wrong(difference: Difference) -> Iterable[str]:
    """A sentence for each thing that is newly wrong; empty if nothing is."""
    if not difference.is_worse:
        return
    if difference.verdict_is_worse:
        yield f"{difference.before.verdict} before, {difference.after.verdict} now"
    for lost in difference.capabilities:
        if lost.is_worse:
            yield f"capability {lost.name}: {'absent' if lost.before else 'present'} now"
    for change in difference.changes:
        if change.is_worse:
            count = f"{len(change.places)} of {plural(change.compared, 'place')}"
            yield f"{change.check}: {change.kind} at {count}"
    for incident in difference.new_incidents:
        yield f"{incident.kind}: {incident.title}"


@dataclass(frozen=True)
class Answer:
    """The first lines of a report: is something newly wrong? ``good`` colours them."""

    sentence: str
    more: tuple[str, ...]
    good: bool


MAX_NAMES = 5


def answer(
    run: RunResult, shown: Overview, difference: RunDifference | None, since: str = ""
) -> Answer:
    """A sentence that answers, and what it rests on; ``since`` says what was compared with."""
    kernels = run.kernels
    untested = [k for k in kernels if k.verdict is KernelVerdict.INFRASTRUCTURE]
    bad = [k for k in kernels if not k.verdict.as_expected and k not in untested]
    new = [row.kernel for row in shown.rows if row.new]
    if difference is not None and not difference.cannot:
        sentence = _of_kernels(new, kernels, "newly wrong") if new else "Nothing is newly wrong"
        still = [k for k in bad if k not in new]
        earlier = f"run {difference.before.id} of {difference.before.started}"
        more = [
            f"compared with {since or earlier}",
            _of_kernels(still, kernels, "still wrong") if still else "",
        ]
    else:
        sentence = _of_kernels(bad, kernels, "not as expected") if bad else _all_good(kernels)
        more = [difference.cannot if difference is not None else _ALONE]
    tally = Counter(kernel.verdict for kernel in kernels)
    more.append(", ".join(f"{tally[v]} {v}" for v in KernelVerdict if tally[v]))
    if untested:
        more.append(_of_kernels(untested, kernels, "not tested"))
    if run.missing:
        more.append(f"missing: {_names(run.missing)}")
    if run.interrupted:
        more.append("the run was interrupted")
    good = not (new or bad or untested or run.missing or run.interrupted) and bool(kernels)
    return Answer(f"{sentence}.", tuple(filter(None, more)), good)


_ALONE = "not compared: no earlier complete run with the same kernels and settings is known"


def _all_good(kernels: Sequence[KernelResult]) -> str:
    if not kernels:
        return "No kernel was tested"
    untested = any(kernel.verdict is KernelVerdict.INFRASTRUCTURE for kernel in kernels)
    if untested:
        return "Every kernel that was tested is as expected"
    if len(kernels) == 1:
        return f"{kernels[0].name[:64]} is as expected"
    return f"All {len(kernels)} kernels are as expected"


def _of_kernels(some: Sequence[KernelResult], of: Sequence[KernelResult], what: str) -> str:
    verb = "is" if len(some) == 1 else "are"
    names = _names([kernel.name for kernel in some])
    return f"{len(some)} of {plural(len(of), 'kernel')} {verb} {what}: {names}"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(name[:64] for name in names[:MAX_NAMES]) + more
