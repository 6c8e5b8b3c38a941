# SPDX-License-Identifier: GPL-2.0-only
"""docs/detection.md: each fault, and the checks that catch it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.faults.catalogue import GROUPS, Fault, applied
from bench.faults.kernel import FaultKernel
from bench.faults.selftests import Found
from bench.faults.sweep import SOUND, Outcome, Scope

#: Checks that are named for each fault; the rest is counted.
SHOWN = 3
_COMMIT = "https://git.kernel.org/linus/"
_INTRODUCTION = """\
<!-- SPDX-License-Identifier: GPL-2.0-only -->
<!-- Written by `nox -s faults`; do not edit. -->
# Detection

`nox -s faults` takes Debian's newest kernel source, puts {count} faults into net/mptcp, each behind
a run-time switch (`mptcp.fault=NAME` on the kernel's command line), builds one small kernel, and
runs the checks on it without a fault and with each. A fault is caught if a check fails with it and
does not fail without it, or if the kernel crashes, warns or hangs and that is charged to a check.

The faults are data: bench/faults/data. {real} of them are bugs that Linux had; their commit is that
of the repair. A fault that needs luck shows only with a race, a loss or an order of packets that
no program can force.
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


def write(
    path: Path,
    faults: Sequence[Fault],
    outcomes: Mapping[str, Outcome],
    kernel: FaultKernel,
    selftests: Sequence[Found] = (),
) -> None:
    path.write_text(text(faults, outcomes, kernel, selftests))


def text(
    faults: Sequence[Fault],
    outcomes: Mapping[str, Outcome],
    kernel: FaultKernel,
    selftests: Sequence[Found] = (),
) -> str:
    """The document as Markdown."""
    used = applied(faults)
    booted = [fault for fault in used if fault.name in outcomes]
    introduction = _INTRODUCTION.format(count=len(used), real=sum(bool(f.commit) for f in used))
    return "\n".join(
        [
            introduction,
            *_run(used, booted, outcomes, kernel),
            *_totals(booted, outcomes),
            *_selftests(selftests),
            *_missed(booted, outcomes),
            *_dropped(faults),
            *_table(booted, outcomes),
        ]
    )


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


def _totals(booted: Sequence[Fault], outcomes: Mapping[str, Outcome]) -> list[str]:
    lines = ["## Totals", "", "| group | deterministic | need luck |", "|---|---:|---:|"]
    for group in GROUPS:
        members = [fault for fault in booted if fault.group == group]
        if members:
            lines.append(f"| {group} {_shares(members, outcomes)}")
    lines.append(f"| **all** {_shares(booted, outcomes)}")
    real = [fault for fault in booted if fault.commit]
    return [*lines, "", f"Of the bugs that Linux had: {_share(real, outcomes)}.", ""]


def _shares(members: Sequence[Fault], outcomes: Mapping[str, Outcome]) -> str:
    sure = [fault for fault in members if not fault.luck]
    luck = [fault for fault in members if fault.luck]
    return f"| {_share(sure, outcomes)} | {_share(luck, outcomes)} |"


def _share(members: Sequence[Fault], outcomes: Mapping[str, Outcome]) -> str:
    if not members:
        return "-"
    caught = sum(outcomes[fault.name].caught for fault in members)
    return f"{caught} of {len(members)} ({100 * caught / len(members):.0f} %)"


def _selftests(found: Sequence[Found]) -> list[str]:
    """What the kernel's own selftests catch; they must pass without a fault."""
    sound = {name for each in found if each.fault == SOUND for name in each.failed}
    tried = [each for each in found if each.fault != SOUND]
    if not tried:
        return []
    caught = {each.fault: set(each.failed) - sound for each in tried}
    names = [name for name, failed in caught.items() if failed]
    died = [each.fault for each in tried if each.died]
    lines = [
        "## The kernel's own selftests",
        "",
        f"`mptcp_sockopt`, `mptcp_inq` and `mptcp_connect` of the same source, IPv4 and IPv6, were"
        f" run with {len(tried)} of the faults, and caught {len(names) + len(died)}.",
    ]
    if sound:
        lines.append(f"Without a fault {_code(sorted(sound))} failed: they catch nothing here.")
    lines += ["", *(f"* `{name}`: {_code(sorted(caught[name]))}" for name in names)]
    return [*lines, *(f"* `{name}`: the VM did not survive it" for name in died), ""]


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


def _table(booted: Sequence[Fault], outcomes: Mapping[str, Outcome]) -> list[str]:
    catches = Counter(check for fault in booted for check in outcomes[fault.name].checks)
    lines = ["## Every fault", "", _LEGEND]
    for group in GROUPS:
        members = [fault for fault in booted if fault.group == group]
        if not members:
            continue
        lines += [f"### {group[0].upper()}{group[1:]}", ""]
        lines += ["| fault | what a program sees | caught by |", "|---|---|---|"]
        lines += [_row(fault, outcomes[fault.name], catches) for fault in members]
        lines.append("")
    return lines


def _row(fault: Fault, outcome: Outcome, catches: Counter[str]) -> str:
    name = f"`{fault.name}`"
    if fault.commit:
        name += f" ([{fault.commit}]({_COMMIT}{fault.commit}))"
    if fault.luck:
        name += ", luck"
    return f"| {name} | {_cell(fault.sees)} | {_caught_by(outcome, catches)} |"


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
