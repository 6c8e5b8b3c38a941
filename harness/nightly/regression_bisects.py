# SPDX-License-Identifier: GPL-2.0-only
"""Which bisect a regression calls for: what to look for, and between which kernels of a series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.bisect import predicate
from harness.bisect.candidates import Candidate, age, everything
from harness.bisect.predicate import Predicate
from harness.errors import HarnessError
from harness.kernels import Cache
from harness.manifest.kernels_yaml import KernelEntry
from harness.verdict.comparison import CAPABILITY, ChangeKind, Difference
from harness.verdict.results import KernelResult


class NotBisected(HarnessError):
    """There is nothing to bisect; a sentence that says why."""


@dataclass(frozen=True)
class Ends:
    """The kernels to search between, both of the series ``series``; ``note`` is for people."""

    good: str
    bad: str
    series: str
    note: str = ""


def sought(difference: Difference) -> Predicate:
    """What became worse: the checks that newly fail, else a new incident, else anything."""
    worse = [
        c.check for c in difference.changes if c.kind in (ChangeKind.FAILING, ChangeKind.COUNTING)
    ]
    lost = [CAPABILITY + change.name for change in difference.capabilities if change.is_lost]
    checks = list(dict.fromkeys([*lost, *worse]))
    if checks:
        found = predicate.of(check=",".join(checks))
    elif difference.new_incidents:
        found = predicate.of(incident=difference.new_incidents[0].fingerprint)
    else:
        found = predicate.of(anything=True)
    assert found is not None, "one of the three was asked for"
    return found


def ends(
    entries: Sequence[KernelEntry],
    difference: Difference,
    cache: Cache,
    say: Callable[[str], None],
) -> Ends:
    """The kernels of a series among ``entries`` that the regression lies between.

    Raises :class:`NotBisected`.
    """
    before, after = difference.before, difference.after
    if before.image_sha256 and before.image_sha256 == after.image_sha256:
        raise NotBisected(
            "it is the same kernel that did better before: not the kernel changed, but what is "
            "around it, or chance; `check --confirm` or `--repeat` may tell"
        )
    problems: list[str] = []
    for entry in entries:
        if not entry.is_series:
            continue
        found, notes = everything([entry], cache, say)
        problems += notes
        members = sorted(found, key=age)
        bad = _which(members, after)
        if bad is not None:
            return _ends(entry.name, members, bad, before)
    why = "; ".join(problems) or f"no series of the manifest holds {after.release}"
    raise NotBisected(
        f"{why}: add one that does, as kernels.yaml explains, and it will be bisected"
    )


def _ends(series: str, members: Sequence[Candidate], bad: Candidate, before: KernelResult) -> Ends:
    """From the kernel that was good, or where it is gone from one that is as near as can be.

    The good one is the newer where somebody went back to an older kernel.
    """
    exact = _which(members, before)
    if exact is not None:
        return Ends(exact.entry.name, bad.entry.name, series)
    older = members[: members.index(bad)]
    if not older:
        raise NotBisected(
            f"{bad.release} is the oldest kernel of {series}: none is left to compare"
        )
    like = Candidate(bad.entry, before.release, before.version)
    elders = [candidate for candidate in older if age(candidate) < age(like)]
    nearest = elders[-1] if elders else older[0]
    note = f"{before.release}, which was good, is gone from {series}; {nearest.release} is taken"
    return Ends(nearest.entry.name, bad.entry.name, series, note)


def _which(members: Sequence[Candidate], result: KernelResult) -> Candidate | None:
    for member in members:
        if member.release == result.release and member.version in ("", result.version):
            return member
    return None
