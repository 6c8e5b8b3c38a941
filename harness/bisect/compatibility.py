# SPDX-License-Identifier: GPL-2.0-only
"""The compatibility map of a series: boots what :mod:`harness.bisect.search` plans.

The observation of each kernel is written to a journal on the disk at once. After a kill, the same
command continues. The journal does not contain a kernel about which nothing was learned because a
download or QEMU failed; it is tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.bisect import search, state
from harness.bisect.candidates import Candidate
from harness.bisect.results import (
    Boundary,
    BoundaryKind,
    CompatibilityMap,
    Feature,
    Kernel,
    UntestableKernel,
)
from harness.bisect.search import Vector
from harness.bisect.testing import Listening, Tester, in_workspace, remembered
from harness.errors import Damaged, Interrupted, KernelUnavailable
from harness.kernels import Cache
from harness.manifest.expectations import parse_release
from harness.run.request import RunRequest
from harness.text import plural
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import Family, KernelVerdict


@dataclass(frozen=True)
class Observed:
    """The observation of one kernel; ``vector`` is None if it could not be tested."""

    vector: Vector | None
    reason: str = ""
    booted: bool = True
    reused: bool = False

    @classmethod
    def by(cls, result: KernelResult) -> Observed:
        vector = search.vector(result)
        reused = result.reused_from is not None
        booted = bool(result.attempts) and not reused
        reason = f"{result.verdict}: {result.reason}" if vector is None else ""
        return cls(vector, reason, booted, reused)


def draw(
    candidates: Sequence[Candidate],
    request: RunRequest,
    cache: Cache,
    say: Callable[[str], None],
    listening: Listening,
    stop: threading.Event,
    *,
    fresh: bool = False,
    notes: Sequence[str] = (),
) -> CompatibilityMap:
    """The map of ``candidates``, oldest first; ``request`` says how many boot at a time.

    ``fresh`` discards the journal of an interrupted map. ``notes`` are added to the map. Raises as
    :func:`harness.run.session.run` and :func:`harness.bisect.state.opened` do,
    :class:`Interrupted`, and KernelUnavailable if no kernel can be tested.
    """
    what = {"bisect": "boundaries"}
    with remembered("maps", candidates, request, what, cache, say, fresh=fresh) as (asked, journal):
        entries = [candidate.entry for candidate in candidates]
        search = Search(candidates, journal, say, notes)
        if search.is_complete:
            return search.map()
        with in_workspace(entries, request, asked, journal.seed, cache, listening, stop) as booting:
            return replace(search.run(booting, booting.jobs), directory=str(booting.directory))


class Search:
    """The map of ``candidates``, continued from ``journal``."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        journal: state.Journal,
        say: Callable[[str], None],
        notes: Sequence[str] = (),
    ) -> None:
        self._candidates = candidates
        self._versions = [parse_release(candidate.release) for candidate in candidates]
        self._journal = journal
        self._say = say
        self._notes = notes
        self._places = {candidate.entry.name: i for i, candidate in enumerate(candidates)}
        self._observed: dict[int, Observed] = {}
        self._rounds = 0
        self._seconds = 0.0
        for record in journal.records:
            self._recall(record)
        if self._observed:
            say(f"continuing with the results of {plural(len(self._observed), 'kernel')}")

    @property
    def is_complete(self) -> bool:
        return not self._plan(1)

    def run(self, tester: Tester, jobs: int) -> CompatibilityMap:
        """Test what is missing, at most ``jobs`` kernels at a time."""
        while planned := self._plan(jobs):
            self._announce(planned)
            started = time.monotonic()
            entries = [self._candidates[place].entry for place in planned]
            tester.test(entries, self._keep, stored=True)
            seconds = round(time.monotonic() - started, 3)
            self._add({"e": "round", "seconds": seconds})
            missing = [
                entry.name for entry in entries if self._places[entry.name] not in self._observed
            ]
            if missing:
                raise Interrupted(
                    f"interrupted before {', '.join(missing)} had a result; the same command "
                    f"continues with the results of {plural(len(self._observed), 'kernel')}"
                )
        return self.map()

    def map(self) -> CompatibilityMap:
        """The finished map. Raises KernelUnavailable if no kernel could be tested."""
        observed = [
            place
            for place, observed in sorted(self._observed.items())
            if observed.vector is not None
        ]
        if not observed:
            first = next(iter(self._observed.values()), None)
            why = f"; the first: {first.reason}" if first else ""
            raise KernelUnavailable(
                f"none of {plural(len(self._candidates), 'kernel')} could be tested{why}"
            )
        return CompatibilityMap(
            kernels=len(self._candidates),
            oldest=self._kernel(0),
            newest=self._kernel(len(self._candidates) - 1),
            oldest_tested=self._kernel(observed[0]),
            newest_tested=self._kernel(observed[-1]),
            boundaries=tuple(
                Boundary(
                    last=self._kernel(gap.old),
                    first=self._kernel(gap.new),
                    changes=gap.changes,
                    untestable=tuple(map(self._kernel, range(gap.old + 1, gap.new))),
                )
                for gap in search.gaps(self._vectors())
            ),
            untestable=tuple(
                UntestableKernel(self._kernel(place), observed.reason)
                for place, observed in sorted(self._observed.items())
                if observed.vector is None
            ),
            booted=sum(observed.booted for observed in self._observed.values()),
            known=sum(observed.reused for observed in self._observed.values()),
            rounds=self._rounds,
            seconds=self._seconds,
            notes=tuple(self._notes),
        )

    def _plan(self, jobs: int) -> tuple[int, ...]:
        return search.plan(self._versions, self._vectors(), jobs)

    def _vectors(self) -> Mapping[int, Vector | None]:
        return {place: observed.vector for place, observed in self._observed.items()}

    def _kernel(self, place: int) -> Kernel:
        candidate = self._candidates[place]
        return Kernel(candidate.entry.name, candidate.release, candidate.version)

    def _announce(self, planned: Sequence[int]) -> None:
        names = ", ".join(self._candidates[place].entry.name for place in planned)
        tested, count = len(self._observed), len(self._candidates)
        self._say(f"round {self._rounds + 1}: {names} ({tested} of {count} tested so far)")

    def _keep(self, result: KernelResult) -> None:
        """Called from any thread; each kernel's entry is written only once."""
        observed = Observed.by(result)
        if result.verdict is not KernelVerdict.INFRASTRUCTURE:
            self._journal.add(_record(result.name, observed))
        self._observed[self._places[result.name]] = observed

    def _add(self, record: state.Record) -> None:
        self._journal.add(record)
        self._recall(record)

    def _recall(self, record: state.Record) -> None:
        """Raises :class:`Damaged` unless :func:`_record` made the record."""
        try:
            if record["e"] == "round":
                self._rounds += 1
                self._seconds += float(record["seconds"])
                return
            self._observed[self._places[record["kernel"]]] = _observed(record)
        except (LookupError, TypeError, ValueError) as error:
            raise Damaged(
                f"the state of this map is damaged ({type(error).__name__}: {error}); start again "
                f"with --fresh"
            ) from error


def _record(name: str, observed: Observed) -> state.Record:
    features = None
    if observed.vector is not None:
        features = [
            [feature.kind, feature.name, feature.family, value]
            for feature, value in sorted(observed.vector.items())
        ]
    return {
        "e": "told",
        "kernel": name,
        "features": features,
        "reason": observed.reason,
        "booted": observed.booted,
        "reused": observed.reused,
    }


def _observed(record: state.Record) -> Observed:
    flags = record["booted"], record["reused"]
    texts = [record["reason"]]
    vector: dict[Feature, str] | None = None
    if record["features"] is not None:
        vector = {}
        for kind, name, family, value in record["features"]:
            vector[Feature(BoundaryKind(kind), name, Family(family))] = value
            texts += [name, value]
    if not all(isinstance(flag, bool) for flag in flags):
        raise TypeError("a flag is none")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is none")
    return Observed(vector, record["reason"], *flags)
