# SPDX-License-Identifier: GPL-2.0-only
"""Repeated checks in one boot: when they end, and which results are kept.

Only counts are kept of a million rounds, and the first and the worst round of each result.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from guest import events
from harness.errors import Malformed
from harness.verdict.results import CheckResult, CutRound, RoundFailures, Rounds
from harness.verdict.verdicts import CheckVerdict

MOST = 1_000_000
_LETTERS = {letter: CheckVerdict(verdict) for verdict, letter in events.LETTERS.items()}
_BAD_LETTERS = {events.LETTERS[verdict] for verdict in events.BAD}
_ORDER = list(CheckVerdict)
#: A result that exists in one round exists in all.
_CONTRARY = {CheckVerdict.PASS, CheckVerdict.UNSUPPORTED}


@dataclass(frozen=True)
class Repeat:
    """At most ``rounds`` rounds. With ``until_fail``, a round with a failure is the last.

    With ``seconds``, so is the round in which that time has passed.
    """

    rounds: int = 1
    until_fail: bool = False
    seconds: int | None = None

    @property
    def repeats(self) -> bool:
        return self.rounds > 1

    def may_end(self, done: int, failed: int, milliseconds: int) -> bool:
        """Whether the rounds may end after ``done`` of them, of which ``failed`` had a failure."""
        timed_out = self.seconds is not None and milliseconds >= 1000 * self.seconds
        return self.must_end(done, failed) or timed_out

    def must_end(self, done: int, failed: int) -> bool:
        return done >= self.rounds or (self.until_fail and failed > 0)


ONCE = Repeat()


@dataclass
class _Bad:
    """A result that was bad in ``count`` rounds, first in round ``first``.

    ``worst`` is the result from the first round with the worst verdict.
    """

    worst: CheckResult
    number: int  # the round of ``worst``
    first: int
    count: int = 1
    errors: int = 0


class Tally:
    """Counts the rounds of one boot. ``first`` has the results of round 0, in order."""

    def __init__(
        self, repeat: Repeat, seed: int, first: Sequence[CheckResult], groups: Sequence[int] = (0,)
    ) -> None:
        """``groups`` are the first indices of groups; failures within a group come in order."""
        self._repeat = repeat
        self._groups = groups
        self._seed = seed
        self._keys = [result.key for result in first]
        self._letters = "".join(events.LETTERS[result.verdict.value] for result in first)
        self._first = first
        self._bad: dict[int, _Bad] = {}
        self._by_check: dict[str, int] = {}
        self.failed = 0
        self.done = 0
        bad = {i: result for i, result in enumerate(first) if result.verdict.is_bad}
        self._merge(bad)
        self._finish(bad)

    @property
    def seed(self) -> int:
        """The seed of the current or next round."""
        return events.round_seed(self._seed, self.done)

    @property
    def is_over(self) -> bool:
        return self._repeat.must_end(self.done, self.failed)

    def may_end(self, milliseconds: int) -> bool:
        return self._repeat.may_end(self.done, self.failed, milliseconds)

    def add(self, letters: str, told: Mapping[int, CheckResult]) -> None:
        """Add a round: the ``letters`` of its verdicts, and the reported failures, ``told``.

        Raises :class:`Malformed`.
        """
        if letters == self._letters and not told and _BAD_LETTERS.isdisjoint(letters):
            self.done += 1
            return
        bad = self._failures(letters, told)
        self._merge(bad)
        self._finish(bad)

    def cut_off(self, told: Mapping[int, CheckResult]) -> None:
        """End the current round early; the results in ``told`` have failed."""
        self._merge(told)

    def _failures(self, letters: str, told: Mapping[int, CheckResult]) -> dict[int, CheckResult]:
        if len(letters) != len(self._keys):
            raise Malformed(f"{len(letters)} verdicts on {len(self._keys)} planned results")
        bad: dict[int, CheckResult] = {}
        for index, letter in enumerate(letters):
            verdict = _LETTERS.get(letter)
            if verdict is None:
                raise Malformed(f"unknown verdict {letter!r}")
            # Without a connection, all of its checks fail, including those that would be skipped.
            if {verdict, self._first[index].verdict} == _CONTRARY:
                raise Malformed(f"{self._keys[index]} is {verdict}, unlike in the first round")
            if verdict.is_bad:
                detail = f"not reported: the round had more than {events.MAX_FAILURES} failures"
                bad[index] = told.get(index) or CheckResult(self._keys[index], verdict, detail)
                if bad[index].verdict is not verdict:
                    raise Malformed(f"{self._keys[index]} has two verdicts")
        if not self._tells(told, bad):
            raise Malformed(f"{len(bad)} failures, other than the {len(told)} that were reported")
        return bad

    def _tells(self, told: Mapping[int, CheckResult], bad: Mapping[int, CheckResult]) -> bool:
        """Whether ``told`` are the first of ``bad``, which are in order within a group."""
        if len(told) != min(len(bad), events.MAX_FAILURES):
            return False
        by_group: dict[int, list[int]] = {}
        for index in bad:
            by_group.setdefault(bisect_right(self._groups, index), []).append(index)
        for failures in by_group.values():
            heard = [index for index in failures if index in told]
            if heard != failures[: len(heard)]:
                return False
        return told.keys() <= bad.keys()

    def _merge(self, bad: Mapping[int, CheckResult]) -> None:
        """Count the results that were ``bad`` in the current round."""
        for index, result in bad.items():
            broke = result.verdict is CheckVerdict.ERROR
            known = self._bad.get(index)
            if known is None:
                self._bad[index] = _Bad(result, self.done, self.done, errors=int(broke))
                continue
            known.count += 1
            known.errors += broke
            if _ORDER.index(result.verdict) < _ORDER.index(known.worst.verdict):
                known.worst, known.number = result, self.done

    def _finish(self, bad: Mapping[int, CheckResult]) -> None:
        for name in {self._keys[index].id for index in bad}:
            self._by_check[name] = self._by_check.get(name, 0) + 1
        self.failed += 1 if bad else 0
        self.done += 1

    def results(self, missing: Container[int] = ()) -> Iterator[CheckResult]:
        """The worst of each result over all rounds, with the seed of that round.

        ``missing`` are results that a cut-off round did not report: they are lost.
        """
        for index, result in enumerate(self._first):
            bad = self._bad.get(index)
            lost = index in missing
            if bad is not None and not (lost and bad.worst.verdict is CheckVerdict.ERROR):
                yield self._dated(bad.worst, bad.number)
            elif lost and result.verdict is not CheckVerdict.UNSUPPORTED:
                yield self._dated(CheckResult(result.key, CheckVerdict.LOST), self.done)
            else:
                yield result

    def _dated(self, result: CheckResult, number: int) -> CheckResult:
        when = f"round {number}, seed {events.round_seed(self._seed, number)}"
        return replace(result, detail=f"{result.detail} ({when})" if result.detail else when)

    def rounds(self, cut: CutRound | None = None) -> Rounds:
        """A summary of the rounds; ``cut`` is the round that did not complete."""
        failures = tuple(
            RoundFailures(
                self._keys[index],
                bad.count,
                bad.first,
                events.round_seed(self._seed, bad.first),
                bad.errors,
            )
            for index, bad in sorted(self._bad.items())
        )
        return Rounds(
            self._repeat.rounds, self.done, self.failed, dict(self._by_check), failures, cut
        )
