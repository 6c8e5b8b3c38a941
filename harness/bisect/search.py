# SPDX-License-Identifier: GPL-2.0-only
"""Which kernels to boot next, and what follows from those that were booted. Pure, no I/O.

Kernels have places from 0, the good end, to n - 1, the bad end, whichever is the newer one. The
fault begins at some place f, 0 < f < n: kernels before it are good, from it on they are bad. With
N kernels in a round, each round leaves at most one part in N + 1 of the places that f may have.

What is assumed, for the confidence:

- Before anything is booted every f is as likely as any other, and there is exactly one.
- A bad kernel shows the fault in each boot with the same probability p, on its own. At the odds of
  STABLE p is 1; else any p is as likely as any other. So k good boots of a bad kernel have the
  likelihood (1 - p)^k, averaged over what the bad boots let p be.
- A good kernel is seen as bad in one of 1 / FALSE_BAD boots.
- Boots that showed nothing say nothing about f.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: How likely it is, before anything is known, that a fault shows in every boot of a bad kernel.
STABLE = 0.95
#: How likely a good kernel is to be seen as bad in a boot.
FALSE_BAD = 0.001
#: Evidence that is less likely than this, on the best of all answers, contradicts it.
UNREASONABLE = 0.001


@dataclass(frozen=True)
class Boots:
    """The evidence on one kernel: how many of its boots were good, bad, and showed nothing."""

    good: int = 0
    bad: int = 0
    silent: int = 0

    @property
    def conclusive(self) -> int:
        return self.good + self.bad

    @property
    def made(self) -> int:
        return self.conclusive + self.silent

    @property
    def is_untestable(self) -> bool:
        return self.silent > 0 and not self.conclusive


@dataclass(frozen=True)
class Round:
    """``boots`` has, for each place to boot next, how many boots are wanted of it."""

    boots: dict[int, int]


@dataclass(frozen=True)
class Found:
    """The fault begins behind ``last_good``, and at ``first_bad`` at the latest.

    ``skipped`` are the places between, none of which can be tested. ``confidence`` is from 0 to 1;
    ``bad`` of ``boots`` boots of kernels from ``first_bad`` on showed the fault.
    """

    last_good: int
    first_bad: int
    skipped: tuple[int, ...]
    confidence: float
    bad: int
    boots: int

    @property
    def is_flaky(self) -> bool:
        return self.bad < self.boots


@dataclass(frozen=True)
class Contradiction:
    """No answer explains the evidence; ``why`` uses {0}, {1} for the ``places`` it is about."""

    why: str
    places: tuple[int, ...]


Step = Round | Found | Contradiction


def rounds_at_most(kernels: int, jobs: int) -> int:
    """The rounds after both ends of ``kernels`` were booted: no more than log(n)/log(N+1), rounded
    up, where every kernel can be tested and the evidence is steady."""
    rounds, parts = 0, 1
    while parts < kernels - 1:
        rounds, parts = rounds + 1, parts * (jobs + 1)
    return rounds


def boots_at_most(kernels: int, jobs: int) -> int:
    """The kernels booted in those rounds."""
    most, inner = 0, kernels - 2
    for _ in range(rounds_at_most(kernels, jobs)):
        chosen = min(jobs, inner)
        most += chosen
        inner = math.ceil((inner + 1) / (chosen + 1)) - 1
    return most


def step(evidence: Sequence[Boots], jobs: int, wanted: int = 1) -> Step:
    """What to do with ``evidence``, whose ends were booted: the good one good, the bad one bad.

    At most ``jobs`` kernels a round; ``wanted`` boots of each kernel, of which those that
    ``evidence`` has count.
    """
    contradiction = _plain_contradiction(evidence)
    if contradiction is not None:
        return contradiction
    masses = _masses(evidence)
    (last_good, first_bad), confidence = max(masses.items(), key=lambda item: item[1])
    contradiction = _unlikely(evidence, first_bad)
    if contradiction is not None:
        return contradiction
    # Of an earlier bisect that was cut off, or wanted fewer boots.
    short = {place: wanted - evidence[place].made for place in (last_good, first_bad)}
    if any(missing > 0 for missing in short.values()):
        return Round({place: missing for place, missing in short.items() if missing > 0})
    inner = [i for i in range(last_good + 1, first_bad) if not evidence[i].is_untestable]
    if inner:
        return Round(dict.fromkeys(_spread(inner, jobs), wanted))
    bad_ones = evidence[first_bad:]
    return Found(
        last_good,
        first_bad,
        tuple(range(last_good + 1, first_bad)),
        confidence,
        sum(boots.bad for boots in bad_ones),
        sum(boots.conclusive for boots in bad_ones),
    )


def _spread(places: Sequence[int], count: int) -> list[int]:
    """``count`` of ``places`` that part them evenly; all, if there are no more."""
    count = min(count, len(places))
    # Of the len + 1 gaps between and beside the places each part gets its share.
    cuts = [(len(places) + 1) * part // (count + 1) for part in range(1, count + 1)]
    return [places[cut - 1] for cut in cuts]


def _masses(evidence: Sequence[Boots]) -> dict[tuple[int, int], float]:
    """The probability that the fault begins between two neighbours that showed something."""
    conclusive = [place for place, boots in enumerate(evidence) if boots.conclusive]
    pairs = list(itertools.pairwise(conclusive))
    logs = [
        math.log(first_bad - last_good) + _log_likelihood(evidence, first_bad)
        for last_good, first_bad in pairs
    ]
    best = max(logs)
    weights = [math.exp(value - best) for value in logs]
    return {pair: weight / sum(weights) for pair, weight in zip(pairs, weights, strict=True)}


def _log_likelihood(evidence: Sequence[Boots], first_bad: int) -> float:
    """Of all boots, if every kernel from ``first_bad`` on is bad, and none before it."""
    before, after = evidence[:first_bad], evidence[first_bad:]
    false = sum(boots.bad for boots in before) * math.log(FALSE_BAD)
    true = sum(boots.good for boots in before) * math.log1p(-FALSE_BAD)
    bad, good = sum(boots.bad for boots in after), sum(boots.good for boots in after)
    # The average of p^bad (1 - p)^good over all p is a beta function.
    unstable = math.lgamma(bad + 1) + math.lgamma(good + 1) - math.lgamma(bad + good + 2)
    stable = 0.0 if good else STABLE
    return false + true + math.log(stable + (1 - STABLE) * math.exp(unstable))


def _plain_contradiction(evidence: Sequence[Boots]) -> Contradiction | None:
    """A bad kernel before a good one, where none was ever seen to be both."""
    if any(boots.good and boots.bad for boots in evidence):
        return None
    bad = next(place for place, boots in enumerate(evidence) if boots.bad)
    good = max(place for place, boots in enumerate(evidence) if boots.good)
    if bad > good:
        return None
    return Contradiction("{0} is bad, and {1}, which is on its bad side, is good", (bad, good))


def _unlikely(evidence: Sequence[Boots], first_bad: int) -> Contradiction | None:
    """What is beyond all chance, even if the fault begins at ``first_bad``."""
    after = evidence[first_bad:]
    rate = sum(boots.bad for boots in after) / max(1, sum(boots.conclusive for boots in after))
    limit = UNREASONABLE / sum(1 for boots in evidence if boots.conclusive)
    for place, boots in enumerate(evidence):
        if place < first_bad and boots.bad and _at_least(boots.bad, boots.conclusive) < limit:
            often = f"{boots.bad} of {boots.conclusive} boots"
            why = f"{{0}} is bad in {often}, and the first should be {{1}}"
            return Contradiction(why, (place, first_bad))
        if place >= first_bad and not boots.bad and (1 - rate) ** boots.good < limit:
            why = (
                f"{{0}} is good in all of its {boots.good} boots, and the kernels from {{1}} on "
                f"are bad in {rate:.0%} of theirs"
            )
            return Contradiction(why, (place, first_bad))
    return None


def _at_least(bad: int, boots: int) -> float:
    """The probability that a good kernel is seen as bad so often, or more."""
    return sum(_binomial(boots, bad))


def _binomial(boots: int, least: int) -> Iterator[float]:
    for count in range(least, boots + 1):
        yield math.comb(boots, count) * FALSE_BAD**count * (1 - FALSE_BAD) ** (boots - count)
