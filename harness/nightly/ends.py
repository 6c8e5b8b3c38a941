# SPDX-License-Identifier: GPL-2.0-only
"""Between which kernels or commits a regression is bisected, and for what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness.bisect import predicate
from harness.bisect.candidates import Candidate, age, everything
from harness.bisect.commits import tag
from harness.bisect.predicate import Predicate
from harness.errors import HarnessError
from harness.kernels import Cache, gitref
from harness.manifest.entries import GitSource, KernelEntry
from harness.verdict.comparison import CAPABILITY, ChangeKind, Difference
from harness.verdict.results import KernelResult


class NotBisected(HarnessError):
    """A regression cannot be bisected; the text says why."""


@dataclass(frozen=True)
class Ends:
    """The ends of a bisect, both in the series ``series``, or, of a kernel from git, the
    ``commits`` that it was built from; ``note`` is for people."""

    good: str
    bad: str
    series: str
    note: str = ""
    commits: tuple[Candidate, Candidate] | None = None


def predicate_of(difference: Difference) -> Predicate:
    """The predicate for a regression: newly failing checks, else a new incident, else anything."""
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


def ends_of(
    entries: Sequence[KernelEntry],
    difference: Difference,
    cache: Cache,
    say: Callable[[str], None],
    clone: str = "",
) -> Ends:
    """Between what the regression is: two kernels of a series in ``entries``; without a series, two
    versions of which ``clone`` has the tags; of a kernel from git, two commits.

    Raises :class:`NotBisected`.
    """
    before, after = difference.before, difference.after
    if before.image_sha256 and before.image_sha256 == after.image_sha256:
        raise NotBisected(
            "the same kernel image was better before, so the environment changed, or the failure "
            "is random; try `check --confirm` or `--repeat`"
        )
    own = next((e for e in entries if e.name == after.name and not e.is_series), None)
    if own is not None and isinstance(own.source, GitSource):
        return _commits(own, own.source, before, after)
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
    if own is not None and clone:
        ends = tuple(Candidate(own, result.release, result.version) for result in (before, after))
        if all(map(tag, ends)):
            return Ends(before.version, after.version, clone, why, (ends[0], ends[1]))
    raise NotBisected(f"{why}; to bisect it, add a series with it, as kernels.yaml explains")


def _commits(
    entry: KernelEntry, source: GitSource, before: KernelResult, after: KernelResult
) -> Ends:
    """The commits that ``entry`` was built from then and tonight."""
    ids = [gitref.built_from(result.origin, source) for result in (before, after)]
    if not all(ids):
        raise NotBisected(
            f"the stored results do not name the commits of {source.ref}; those of the next run do"
        )
    ends = [
        Candidate(replace(entry, source=replace(source, ref=id)), result.release, result.version)
        for id, result in zip(ids, (before, after), strict=True)
    ]
    return Ends(ids[0], ids[1], source.ref, commits=(ends[0], ends[1]))


def _ends(series: str, members: Sequence[Candidate], bad: Candidate, before: KernelResult) -> Ends:
    """The ends: from the kernel that was good, or from the nearest one that still exists.

    The good one is newer if the manifest went back to an older kernel.
    """
    exact = _which(members, before)
    if exact is not None:
        return Ends(exact.entry.name, bad.entry.name, series)
    older = members[: members.index(bad)]
    if not older:
        raise NotBisected(
            f"{bad.release} is the oldest kernel of {series}, so there is none to compare with"
        )
    like = Candidate(bad.entry, before.release, before.version)
    elders = [candidate for candidate in older if age(candidate) < age(like)]
    nearest = elders[-1] if elders else older[0]
    note = f"{series} no longer has {before.release}, which was good; using {nearest.release}"
    return Ends(nearest.entry.name, bad.entry.name, series, note)


def _which(members: Sequence[Candidate], result: KernelResult) -> Candidate | None:
    for member in members:
        if member.release == result.release and member.version in ("", result.version):
            return member
    return None
