# SPDX-License-Identifier: GPL-2.0-only
"""A bisect from end to end: both ends, then rounds of kernels, then the answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from harness.bisect import commit_search, commits, predicate, search, state, testing
from harness.bisect.candidates import Candidate, Series
from harness.bisect.commit_search import Onward
from harness.bisect.predicate import Predicate
from harness.bisect.results import Bisection, Ending, Kernel, KernelEvidence, LogEntry
from harness.bisect.state import Evidence, Made
from harness.bisect.testing import Listening, Tester
from harness.kernels import Cache
from harness.run.request import RunRequest
from harness.text import plural
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import KernelVerdict

Say = Callable[[str], None]
#: Returns the change log entries between two kernels, and notes; must not raise.
Changes = Callable[[Candidate, Candidate, Predicate], tuple[tuple[LogEntry, ...], tuple[str, ...]]]
#: After such a boot, a kernel is not booted again in the same round.
_NO_USE = (KernelVerdict.INFRASTRUCTURE, KernelVerdict.BOOT_FAILURE)


def bisect(
    series: Series,
    wanted: Predicate | None,
    request: RunRequest,
    cache: Cache,
    listening: Listening,
    say: Say,
    changes: Changes,
    stop: threading.Event,
    *,
    fresh: bool = False,
    onward: Onward | None = None,
) -> Bisection:
    """Find where in ``series`` the ``wanted`` predicate changed; None: whatever differs between the
    ends. With ``onward``, go on in git to the commit.

    Uses families, seed, jobs, accel, output and confirm of ``request``. Continues an interrupted
    bisect with the same question unless ``fresh``. Raises what :func:`harness.run.session.run`
    raises, and Damaged and Busy.
    """
    entries = [candidate.entry for candidate in series.candidates]
    what = {"bisect": str(wanted) if wanted else "difference", "reversed": series.reversed}
    with (
        testing.remembered(
            "bisects", series.candidates, request, what, cache, say, fresh=fresh
        ) as (
            asked,
            journal,
        ),
        testing.in_workspace(
            entries, request, asked, journal.seed, cache, listening, stop
        ) as booting,
    ):
        run = Bisect(series, wanted, booting, journal, booting.jobs, request.confirm, say, stop)
        found = replace(run.run(changes), directory=str(booting.directory))
    if onward is None or run.neighbours is None or stop.is_set():
        return found
    good, bad = run.neighbours
    asking = (run.sought, onward, request, cache, listening, say, stop)
    in_git = commit_search.search(good, bad, *asking, reverse=series.reversed, fresh=fresh)
    notes = found.notes
    if in_git.first is not None:  # what a git bisect by hand needs to know was done
        notes = tuple(note for note in notes if note not in run.hints)
    return replace(found, commits=in_git, notes=notes)


class Bisect:
    """A bisect over ``series``; the ``tester`` tests the kernels."""

    def __init__(
        self,
        series: Series,
        wanted: Predicate | None,
        tester: Tester,
        journal: state.Journal,
        jobs: int,
        confirm: int,
        say: Say,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Ordered from the good end to the bad one.
        self._order = series.candidates[::-1] if series.reversed else series.candidates
        self._series = series
        self._tester = tester
        self._jobs = jobs
        self._wanted = 1 + confirm
        self._say = say
        self._stop = stop
        self._clock = clock
        self._started = clock()
        self._evidence = Evidence(journal, [c.entry.name for c in self._order])
        self._predicate = wanted or self._evidence.predicate
        self._earlier = self._evidence.booted
        self._round = self._evidence.rounds
        #: The last good kernel and the first bad one, once they are found.
        self.neighbours: tuple[Candidate, Candidate] | None = None
        #: Notes on the git bisect that continues.
        self.hints: tuple[str, ...] = ()

    @property
    def sought(self) -> Predicate:
        """The predicate of the search; the ends must have been tested."""
        assert self._predicate is not None, "the ends gave one"
        return self._predicate

    def run(self, changes: Changes) -> Bisection:
        """Run the bisect; the state keeps all evidence, however it ends."""
        if self._evidence.all:
            self._say(
                f"continuing an earlier bisect: {plural(len(self._evidence.all), 'result')} kept "
                f"(--fresh starts again)"
            )
        ended = self._ends()
        if ended is not None:
            return ended
        assert self._predicate is not None, "the ends gave one"
        self._announce()
        while True:
            step = search.step(self._counts(), self._jobs, self._wanted)
            if isinstance(step, search.Found):
                return self._found(step, changes)
            if isinstance(step, search.Contradiction):
                return self._contradiction(step)
            self._round += 1
            names = ", ".join(self._order[place].entry.name for place in step.boots)
            self._say(f"round {self._round}: {names}")
            self._boot(step.boots, self._keep)
            if self._stop.is_set():
                return self._interrupted()

    # The ends.

    def _ends(self) -> Bisection | None:
        """Verify both ends; returns a result if there is nothing to search for between them."""
        good, bad = 0, len(self._order) - 1
        missing = {p: self._wanted - self._counts()[p].made for p in (good, bad)}
        missing = {place: boots for place, boots in missing.items() if boots > 0}
        results: dict[int, list[KernelResult]] = {good: [], bad: []}
        if missing:
            keep = self._keep if self._predicate else self._collect(results)
            self._say("the ends: " + ", ".join(self._order[p].entry.name for p in missing))
            self._boot(missing, keep)
            if self._stop.is_set():
                return self._interrupted()
        if self._predicate is None:
            self._predicate = predicate.difference(results[good], results[bad])
            if self._predicate is None:
                return self._nothing_differs(results[good], results[bad])
            self._evidence.add_predicate(self._predicate)
            self._say(f"looking for the difference: {self._predicate}")
            for place, found in results.items():
                for result in found:
                    self._keep(place, result)
        return self._verified(good, bad)

    def _collect(
        self, results: Mapping[int, list[KernelResult]]
    ) -> Callable[[int, KernelResult], None]:
        """Test both ends first; only then is it known what to look for."""
        return lambda place, result: results[place].append(result)

    def _nothing_differs(
        self, good: Sequence[KernelResult], bad: Sequence[KernelResult]
    ) -> Bisection:
        names = [self._order[place].entry.name for place in (0, -1)]
        for name, results in zip(names, (good, bad), strict=True):
            if all(result.verdict in predicate.SILENT for result in results):
                said = f"{results[0].verdict}: {results[0].reason}"
                return self._no_answer(Ending.UNTESTABLE, f"{name} could not be tested ({said})")
        said = " and ".join(
            f"{name} is {results[0].verdict}"
            + (f" ({results[0].reason})" * bool(results[0].reason))
            for name, results in zip(names, (good, bad), strict=True)
        )
        if predicate.difference(bad, good) is not None:
            answer = self._no_answer(
                Ending.SWAPPED,
                f"the ends are swapped: what fails on {names[0]} passes on {names[1]} ({said}); "
                f"give --good {names[1]} --bad {names[0]}",
            )
        else:
            answer = self._no_answer(
                Ending.NO_DIFFERENCE,
                f"no check fails on {names[1]} and passes on {names[0]}: {said}; choose what to "
                f"look for with --check, --incident or --any",
            )
        # They are not stored, because there is no predicate yet to judge them.
        return replace(answer, boots=sum(1 for r in (*good, *bad) if r.reused_from is None))

    def _verified(self, good: int, bad: int) -> Bisection | None:
        counts = self._counts()
        ends = [self._order[good].entry.name, self._order[bad].entry.name]
        for place, name in zip((good, bad), ends, strict=True):
            if not counts[place].conclusive:
                why = f"{name} could not be tested: {self._evidence.why(place)}; choose another one"
                return self._no_answer(Ending.UNTESTABLE, why)
        shows, lacks = counts[good].bad > 0, not counts[bad].bad
        what = str(self._predicate)
        if shows and lacks:
            return self._no_answer(
                Ending.SWAPPED,
                f"the ends are swapped: {ends[0]}, named as good, is bad, and {ends[1]}, named as "
                f"bad, is good; give --good {ends[1]} --bad {ends[0]}",
            )
        if shows or lacks:
            found = "bad" if shows else "good"
            also = f" ({self._evidence.why(good if shows else bad)})"
            hint = "" if shows else ", and --confirm N if the fault does not show in every boot"
            return self._no_answer(
                Ending.NO_DIFFERENCE,
                f"by {what} both {ends[0]} and {ends[1]} are {found}{also}; name others{hint}",
            )
        return None

    def _announce(self) -> None:
        """Print how many rounds and boots are expected."""
        count = len(self._order)
        rounds = search.rounds_at_most(count, self._jobs)
        boots = search.boots_at_most(count, self._jobs) * self._wanted
        slowest = max(self._evidence.seconds(0), self._evidence.seconds(count - 1))
        if slowest:
            expected = f"about {math.ceil(rounds * self._wanted * slowest)} s"
            time_said = f"{expected} at {slowest:.1f} s a boot, downloads not counted"
        else:
            time_said = "the time is unknown, because an older harness booted both ends"
        more = ", more if it proves flaky" if self._wanted > 1 else ""
        self._say(
            f"{plural(count, 'kernel')}: at most {plural(rounds, 'round')} of {self._jobs}, "
            f"{plural(boots, 'boot')}{more}; {time_said}"
        )

    # Boots.

    def _boot(self, boots: Mapping[int, int], keep: Callable[[int, KernelResult], None]) -> None:
        """Boot each place as often as ``boots`` says, all places once before any twice."""
        places = {self._order[place].entry.name: place for place in boots}
        useless: set[int] = set()
        for number in range(max(boots.values())):
            batch = [p for p, times in boots.items() if times > number and p not in useless]
            if not batch or self._stop.is_set():
                return
            came: set[int] = set()

            def on_result(result: KernelResult, came: set[int] = came) -> None:
                place = places[result.name]
                came.add(place)
                if result.verdict in _NO_USE:
                    useless.add(place)
                keep(place, result)

            known = len(self._evidence.all)
            entries = [self._order[place].entry for place in batch]
            self._tester.test(entries, on_result, stored=self._wanted == 1)
            for made in self._evidence.all[known:]:  # only after the live display has ended
                self._say(f"{made.kernel}: {made.outcome}: {made.why}")
            if not self._stop.is_set() and came != set(batch):
                raise AssertionError("a kernel that was not interrupted has a result")

    def _keep(self, place: int, result: KernelResult) -> None:
        assert self._predicate is not None, "who collects does not keep"
        judged = self._predicate.judge(result)
        reused = result.reused_from
        self._evidence.add(
            Made(
                kernel=self._order[place].entry.name,
                outcome=judged.outcome,
                why=judged.why,
                verdict=result.verdict,
                round=self._round,
                seconds=reused.total_s if reused else result.timing.total_s,
                reused_from=reused.run if reused else "",
            )
        )

    def _counts(self) -> list[search.Boots]:
        return [self._evidence.boots(place) for place in range(len(self._order))]

    # Results.

    def _found(self, step: search.Found, changes: Changes) -> Bisection:
        good, bad = self._order[step.last_good], self._order[step.first_bad]
        self.neighbours = good, bad
        listed, notes = changes(good, bad, self.sought)
        command = commits.git_bisect(good, bad, self.sought, reverse=self._series.reversed)
        self.hints = command.notes
        if step.is_flaky and step.confidence < 0.95:
            notes = (
                *notes,
                "repeat the command with a larger --confirm for more certainty; the "
                "boots so far count",
            )
        blameless = [place for place in step.skipped if self._evidence.host_failed(place)]
        if blameless:
            notes = (
                *notes,
                f"{plural(len(blameless), 'kernel')} between the two could not be tested because "
                f"the host failed; the same command tries them again and repeats no other boot",
            )
        return replace(
            self._bisection(Ending.FOUND),
            last_good=_kernel(good),
            first_bad=_kernel(bad),
            skipped=tuple(self._tested(place) for place in step.skipped),
            confidence=step.confidence,
            failed=step.bad,
            of=step.boots,
            changes=listed,
            git=command.text,
            notes=(*self._series.notes, *notes, *command.notes),
        )

    def _contradiction(self, step: search.Contradiction) -> Bisection:
        names = [self._order[place].entry.name for place in step.places]
        hint = "more than one change, or a fault that shows in some boots only"
        remedy = (
            "--confirm N tells them apart"
            if self._wanted == 1
            else "choose two kernels closer to each other, or a larger --confirm"
        )
        text = f"the evidence contradicts itself: {step.why.format(*names)}. It may be {hint}"
        return self._no_answer(Ending.CONTRADICTION, f"{text}: {remedy}")

    def _interrupted(self) -> Bisection:
        kept = plural(len(self._evidence.all), "result")
        return self._no_answer(
            Ending.INTERRUPTED, f"interrupted; {kept} kept, and the same command continues"
        )

    def _no_answer(self, ending: Ending, text: str) -> Bisection:
        return replace(self._bisection(ending), text=text, notes=self._series.notes)

    def _bisection(self, ending: Ending) -> Bisection:
        tried = [place for place, boots in enumerate(self._counts()) if boots.made]
        if self._series.reversed:
            tried.reverse()
        return Bisection(
            ending=ending,
            what=str(self._predicate) if self._predicate else "what differs",
            reversed=self._series.reversed,
            kernels=len(self._order),
            evidence=tuple(self._tested(place) for place in tried),
            rounds=self._evidence.rounds,
            boots=self._evidence.booted,
            earlier=self._earlier,
            seconds=self._clock() - self._started,
        )

    def _tested(self, place: int) -> KernelEvidence:
        boots = self._evidence.boots(place)
        return KernelEvidence(
            kernel=_kernel(self._order[place]),
            good=boots.good,
            bad=boots.bad,
            untestable=boots.silent,
            why=self._evidence.why(place),
            reused_from=self._evidence.reused_from(place),
        )


def _kernel(candidate: Candidate) -> Kernel:
    return Kernel(candidate.entry.name, candidate.release, candidate.version)
