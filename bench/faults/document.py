# SPDX-License-Identifier: GPL-2.0-only
"""docs/detection.md: each fault, and the checks that catch it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.coverage import figures
from bench.coverage.figures import Measured
from bench.faults.catalogue import DATA, GROUPS, Fault, applied
from bench.faults.kernel import FaultKernel
from bench.faults.selftests import Found
from bench.faults.sweep import SOUND, Outcome, Scope

#: Checks that are named for each fault; the rest is counted.
SHOWN = 3
_COVERAGE = "## Lines and branches of net/mptcp"
#: What was measured apart from this sweep, as Markdown: a section of the document.
MEASURED = DATA / "measured.md"
_COMMIT = "https://git.kernel.org/linus/"
_INTRODUCTION = """\
<!-- SPDX-License-Identifier: GPL-2.0-only -->
<!-- Written by `nox -s faults`; do not edit. -->
# Detection

`nox -s faults` takes Debian's newest kernel source, puts {count} faults into net/mptcp, each behind
a run-time switch (`mptcp.fault=NAME` on the kernel's command line), builds one small kernel, and
runs the checks on it without a fault and with each fault. A fault is caught if a check fails with
the fault and does not fail without it, or if the kernel crashes, warns or hangs during a check.

The faults are data: bench/faults/data. {real} of them are bugs that Linux had; their commit is that
of the fix, if it is known. A fault that needs luck shows only with a race, a loss or an order of
packets that no program can force.
"""
#: Why a fault is missed, by the checks that were run with it.
_WHY = {
    Scope.NAMED: "only the checks named for it were run, and they do not see it",
    Scope.GROUP: "the checks of its group do not see it; no others were run",
    Scope.ALL: "no check sees it",
}
_LEGEND = """\
Of the checks that catch a fault, those are named that catch the fewest other faults.
"""


class Selftests:
    """What the kernel's own selftests catch; those that fail without a fault catch nothing."""

    def __init__(self, found: Iterable[Found]) -> None:
        self._found = {each.fault: each for each in found}
        self.sound = set(self._found[SOUND].failed) if SOUND in self._found else set[str]()

    def tried(self, faults: Iterable[Fault]) -> list[Fault]:
        return [fault for fault in faults if fault.name in self._found]

    def catch(self, fault: Fault) -> bool:
        return bool(self._failed(fault) or self._found[fault.name].died)

    def cell(self, fault: Fault) -> str:
        """What catches ``fault``, for a table."""
        if fault.name not in self._found:
            return "not run"
        died = self._found[fault.name].died
        parts = [_code(sorted(self._failed(fault)))] if self._failed(fault) else []
        return "; ".join([*parts, *([f"the VM {died}"] if died else [])]) or "nothing"

    def _failed(self, fault: Fault) -> set[str]:
        return set(self._found[fault.name].failed) - self.sound


def write(
    path: Path,
    faults: Sequence[Fault],
    outcomes: Mapping[str, Outcome],
    kernel: FaultKernel,
    selftests: Sequence[Found] = (),
    coverage: Measured | None = None,
) -> None:
    path.write_text(text(faults, outcomes, kernel, selftests, coverage))


def text(
    faults: Sequence[Fault],
    outcomes: Mapping[str, Outcome],
    kernel: FaultKernel,
    selftests: Sequence[Found] = (),
    coverage: Measured | None = None,
) -> str:
    """The document as Markdown."""
    used = applied(faults)
    booted = [fault for fault in used if fault.name in outcomes]
    introduction = _INTRODUCTION.format(count=len(used), real=sum(f.real for f in used))
    theirs = Selftests(selftests)
    return "\n".join(
        [
            introduction,
            *_run(used, booted, outcomes, kernel),
            *_totals(booted, outcomes, theirs),
            MEASURED.read_text(),
            *_selftests(used, theirs),
            *_coverage(coverage),
            *_missed(booted, outcomes),
            *_dropped(faults),
            *_table(booted, outcomes, theirs),
        ]
    )


def with_coverage(document: str, coverage: Measured) -> str:
    """``document`` with a new section on coverage; the rest stays as it is."""
    new = "\n".join(_coverage(coverage))
    start = document.find(f"{_COVERAGE}\n")
    if start >= 0:
        end = document.find("\n## ", start)
        return f"{document[:start]}{new}{document[end:] if end >= 0 else ''}"
    before = document.find("## Not caught\n")
    return f"{document[:before]}{new}\n{document[before:]}"


def summary(faults: Sequence[Fault], outcomes: Mapping[str, Outcome]) -> str:
    """One line for the terminal."""
    booted = [fault for fault in faults if fault.name in outcomes]
    sure = [fault for fault in booted if not fault.luck]
    luck = [fault for fault in booted if fault.luck]
    return (
        f"caught: {_share(sure, outcomes)} of the deterministic faults, "
        f"{_share(luck, outcomes)} of those that need luck"
    )


def _run(
    used: Sequence[Fault],
    booted: Sequence[Fault],
    outcomes: Mapping[str, Outcome],
    kernel: FaultKernel,
) -> list[str]:
    seconds = sum(outcomes[fault.name].seconds for fault in booted)
    sound = outcomes.get(SOUND)
    said = "was not booted" if sound is None else f"has the verdict `{sound.verdict}`"
    lines = [
        f"* Kernel: {kernel.release}, from {kernel.package}; written {time.strftime('%Y-%m-%d')}.",
        f"* {len(booted)} of {len(used)} faults were booted, {seconds / 60:.0f} minutes in all.",
        f"* Without a fault the kernel {said}.",
    ]
    if sound is not None and sound.checks:
        names = sorted({key.split()[1] for key in sound.checks})
        lines.append(f"  These checks fail in it and catch nothing: {_code(names)}.")
    scopes = Counter(outcomes[fault.name].scope for fault in booted)
    if scopes[Scope.ALL] < len(booted):
        lines.append(
            "* Several faults shared a VM (`--shared`), switched on in turn. A fault is given,"
            f" in one address family, the checks named for it ({scopes[Scope.NAMED]} faults), then"
            f" those of its group ({scopes[Scope.GROUP]}), then all in both families"
            f" ({scopes[Scope.ALL]}), until one fails."
        )
    return [*lines, ""]


def _totals(
    booted: Sequence[Fault], outcomes: Mapping[str, Outcome], selftests: Selftests
) -> list[str]:
    lines = ["## Totals", "", "| group | deterministic | need luck | the kernel's selftests |"]
    lines.append("|---|---:|---:|---:|")
    for group in GROUPS:
        members = [fault for fault in booted if fault.group == group]
        if members:
            lines.append(f"| {group} {_shares(members, outcomes)} {_theirs(members, selftests)} |")
    lines.append(f"| **all** {_shares(booted, outcomes)} {_theirs(booted, selftests)} |")
    real = [fault for fault in booted if fault.real]
    said = f"Of the bugs that Linux had: {_share(real, outcomes)}"
    if selftests.tried(real):
        said += f"; the kernel's selftests: {_theirs(real, selftests)}"
    return [*lines, "", f"{said}.", ""]


def _theirs(members: Sequence[Fault], selftests: Selftests) -> str:
    tried = selftests.tried(members)
    return _part(sum(map(selftests.catch, tried)), len(tried))


def _shares(members: Sequence[Fault], outcomes: Mapping[str, Outcome]) -> str:
    sure = [fault for fault in members if not fault.luck]
    luck = [fault for fault in members if fault.luck]
    return f"| {_share(sure, outcomes)} | {_share(luck, outcomes)} |"


def _share(members: Sequence[Fault], outcomes: Mapping[str, Outcome]) -> str:
    return _part(sum(outcomes[fault.name].caught for fault in members), len(members))


def _part(part: int, whole: int) -> str:
    # Rounded down: 411 of 412 is not all of them.
    return f"{part} of {whole} ({100 * part // whole} %)" if whole else "-"


def _selftests(used: Sequence[Fault], selftests: Selftests) -> list[str]:
    tried = selftests.tried(used)
    if not tried:
        return []
    lines = [
        "## The kernel's own selftests",
        "",
        "`mptcp_sockopt`, `mptcp_inq`, `mptcp_diag` and `mptcp_connect` of the same source, run",
        "over IPv4 and IPv6 as bench/faults/data/selftests.sh says. A fault is caught if a run",
        f"fails, and fails again. They were run with {len(tried)} faults, and caught "
        f"{sum(map(selftests.catch, tried))}.",
    ]
    if selftests.sound:
        failed = _code(sorted(selftests.sound))
        lines.append(f"Without a fault {failed} failed: they catch nothing here.")
    return [*lines, ""]


def _coverage(measured: Measured | None) -> list[str]:
    if measured is None:
        return []
    return [
        _COVERAGE,
        "",
        "`nox -s coverage` builds the same source without faults, with CONFIG_GCOV_KERNEL for",
        "net/mptcp, and boots it twice: with all checks in both families, and with the kernel's",
        "own selftests. Branches are those of gcov: each way out of a condition, in each copy that",
        "the compiler made.",
        "",
        f"* Source: {measured.kernel}.",
        f"* The boot with the checks: {_cell(measured.verdict)}.",
        "",
        *figures.table(measured),
        "",
    ]


def _missed(booted: Sequence[Fault], outcomes: Mapping[str, Outcome]) -> list[str]:
    missed = [fault for fault in booted if not outcomes[fault.name].caught]
    lines = ["## Not caught", ""]
    if not missed:
        return [*lines, "None.", ""]
    lines += ["| fault | group | what a program sees | why |", "|---|---|---|---|"]
    for fault in missed:
        why = fault.missed or _WHY[outcomes[fault.name].scope]
        if fault.luck:
            why = f"needs luck; {why}"
        lines.append(f"| `{fault.name}` | {fault.group} | {_cell(fault.sees)} | {_cell(why)} |")
    return [*lines, ""]


def _dropped(faults: Iterable[Fault]) -> list[str]:
    dropped = [fault for fault in faults if fault.dropped]
    if not dropped:
        return []
    lines = ["## Dropped", "", "Written, and not used, because no program sees them:", ""]
    return [*lines, *(f"* `{fault.name}`: {fault.dropped}" for fault in dropped), ""]


def _table(
    booted: Sequence[Fault], outcomes: Mapping[str, Outcome], selftests: Selftests
) -> list[str]:
    catches = Counter(check for fault in booted for check in outcomes[fault.name].checks)
    lines = ["## Every fault", "", _LEGEND]
    for group in GROUPS:
        members = [fault for fault in booted if fault.group == group]
        if not members:
            continue
        lines += [f"### {group[0].upper()}{group[1:]}", ""]
        lines += ["| fault | what a program sees | caught by | the kernel's selftests |"]
        lines += ["|---|---|---|---|"]
        lines += [_row(fault, outcomes[fault.name], catches, selftests) for fault in members]
        lines.append("")
    return lines


def _row(fault: Fault, outcome: Outcome, catches: Counter[str], selftests: Selftests) -> str:
    name = f"`{fault.name}`"
    if fault.commit:
        name += f" ([{fault.commit}]({_COMMIT}{fault.commit}))"
    elif fault.title:
        name += f" ({_cell(fault.title)})"
    if fault.luck:
        name += ", luck"
    theirs = selftests.cell(fault)
    return f"| {name} | {_cell(fault.sees)} | {_caught_by(outcome, catches)} | {theirs} |"


def _caught_by(outcome: Outcome, catches: Counter[str]) -> str:
    parts = []
    if outcome.charged:
        parts.append(f"{outcome.verdict} in `{outcome.charged}`")
    # Sorted by how few faults a check catches: the narrowest says the most.
    narrow = sorted(outcome.checks, key=lambda check: catches[check])
    if narrow:
        more = f" and {len(narrow) - SHOWN} more" if len(narrow) > SHOWN else ""
        parts.append(_code(narrow[:SHOWN]) + more)
    return "; ".join(parts) or "nothing"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
