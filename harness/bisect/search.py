# SPDX-License-Identifier: GPL-2.0-only
"""Which kernels to boot next, and what follows from those that were booted. Pure, no I/O.

Two searches: :func:`step` looks for one fault between a good and a bad kernel; :func:`plan` looks
for every change along a series.

**One fault.** Kernels have places from 0, the good end, to n - 1, the bad end, whichever is newer.
The fault begins at a place f, 0 < f < n: kernels before f are good, all others are bad. With N
kernels in a round, each round leaves at most one part in N + 1 of the places that f may have.
The confidence rests on these assumptions:

- Before anything is booted, every f is equally likely, and there is exactly one.
- A bad kernel shows the fault in each boot with the same probability p, independently. With
  probability STABLE p is 1; otherwise every p is equally likely. So k good boots of a bad kernel
  have the likelihood (1 - p)^k, averaged over the p that the bad boots allow.
- A good kernel is seen as bad in one of 1 / FALSE_BAD boots.
- Boots that showed nothing say nothing about f.

**Every change.** Each tested kernel gives a vector of features. If two tested neighbours have equal
vectors, all kernels between them are taken to agree and none of them is booted; a change that was
undone in between is not seen. If they differ, kernels between them are tested until the two are
adjacent, or only untestable kernels lie between them. So each reported boundary is exact.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise, zip_longest

from harness.bisect.results import BoundaryKind, Feature, SeriesChange
from harness.manifest.expectations import CAPABILITIES, Version
from harness.verdict.judge import CAPABILITY
from harness.verdict.results import CheckResult, KernelResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict, worst

#: The prior probability that a fault shows in every boot of a bad kernel.
STABLE = 0.95
#: The probability that a good kernel appears bad in a boot.
FALSE_BAD = 0.001
#: Evidence with a lower probability than this under the best answer is a contradiction.
UNREASONABLE = 0.001


@dataclass(frozen=True)
class Boots:
    """The evidence on one kernel: the number of good, bad and inconclusive boots."""

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
    """The next boots: ``boots`` has the number of boots for each place."""

    boots: dict[int, int]


@dataclass(frozen=True)
class Found:
    """The fault begins after ``last_good``, at ``first_bad`` at the latest.

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
    """No answer explains the evidence; {0} and {1} in ``why`` stand for the ``places``."""

    why: str
    places: tuple[int, ...]


Step = Round | Found | Contradiction


def rounds_at_most(kernels: int, jobs: int) -> int:
    """The most rounds after both ends of ``kernels`` were booted, log(n)/log(N+1) rounded up, if
    every kernel can be tested and the evidence is consistent."""
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
    """The next step for ``evidence``, whose ends were booted: the good one good, the bad one bad.

    A round has at most ``jobs`` kernels. Each kernel needs ``wanted`` boots, including those in
    ``evidence``.
    """
    contradiction = _plain_contradiction(evidence)
    if contradiction is not None:
        return contradiction
    masses = _masses(evidence)
    (last_good, first_bad), confidence = max(masses.items(), key=lambda item: item[1])
    contradiction = _unlikely(evidence, first_bad)
    if contradiction is not None:
        return contradiction
    # From an earlier bisect that was interrupted or wanted fewer boots.
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
    """``count`` of ``places`` that divide them evenly; all if there are no more."""
    count = min(count, len(places))
    # The len + 1 gaps between and beside the places are divided evenly.
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
    """The log likelihood of all boots if exactly the kernels from ``first_bad`` on are bad."""
    before, after = evidence[:first_bad], evidence[first_bad:]
    false = sum(boots.bad for boots in before) * math.log(FALSE_BAD)
    true = sum(boots.good for boots in before) * math.log1p(-FALSE_BAD)
    bad, good = sum(boots.bad for boots in after), sum(boots.good for boots in after)
    # The average of p^bad (1 - p)^good over all p is a beta function.
    unstable = math.lgamma(bad + 1) + math.lgamma(good + 1) - math.lgamma(bad + good + 2)
    stable = 0.0 if good else STABLE
    return false + true + math.log(stable + (1 - STABLE) * math.exp(unstable))


def _plain_contradiction(evidence: Sequence[Boots]) -> Contradiction | None:
    """A bad kernel before a good one, if no kernel was both."""
    if any(boots.good and boots.bad for boots in evidence):
        return None
    bad = next(place for place, boots in enumerate(evidence) if boots.bad)
    good = max(place for place, boots in enumerate(evidence) if boots.good)
    if bad > good:
        return None
    return Contradiction("{0} is bad, and {1}, which is on its bad side, is good", (bad, good))


def _unlikely(evidence: Sequence[Boots], first_bad: int) -> Contradiction | None:
    """Evidence that is too unlikely even if the fault begins at ``first_bad``."""
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
    """The probability that a good kernel appears bad at least so often."""
    return sum(_binomial(boots, bad))


def _binomial(boots: int, least: int) -> Iterator[float]:
    for count in range(least, boots + 1):
        yield math.comb(boots, count) * FALSE_BAD**count * (1 - FALSE_BAD) ** (boots - count)


#: The value of each feature of a kernel.
Vector = Mapping[Feature, str]
#: The vector of each tested place in the series; None for a kernel that could not be tested.
Tested = Mapping[int, Vector | None]

PRESENT, ABSENT = "present", "absent"
#: The value of a feature without a result, such as IPv6's if the kernel lacks IPv6.
NOT_SAID = "not said"

_WHOLE = (
    *(KernelVerdict.PASS, KernelVerdict.FAIL),
    *(KernelVerdict.WARNING, KernelVerdict.UNSUPPORTED),
)
_SIZE = re.compile(r"[0-9]{1,9} bytes")


@dataclass(frozen=True)
class Gap:
    """Two tested kernels that differ, by place; none between them could be tested so far."""

    old: int
    new: int
    changes: tuple[SeriesChange, ...]


def vector(result: KernelResult) -> Vector | None:
    """The features in ``result``; None if its checks did not complete.

    If a kernel crashes or hangs, the rest is unknown, so it cannot be compared.
    """
    if result.verdict not in _WHOLE or not result.families:
        return None
    found: dict[Feature, str] = {}
    for family, judged in result.families.items():
        verdicts: dict[str, list[CheckVerdict]] = {}
        for check in judged.checks:
            if check.key.id.startswith(CAPABILITY):
                found.update(_of_capability(family, check))
            else:
                verdicts.setdefault(check.key.id, []).append(check.verdict)
        for id, seen in verdicts.items():
            found[Feature(BoundaryKind.CHECK, id, family)] = worst(seen).value
    return found


def _of_capability(family: Family, check: CheckResult) -> Iterator[tuple[Feature, str]]:
    """The presence of a capability; its check depends on the expectation, which is not compared."""
    name = check.key.id.removeprefix(CAPABILITY)
    feature = Feature(BoundaryKind.CAPABILITY, name, family)
    failed_present = check.verdict is CheckVerdict.FAIL and check.got.startswith(PRESENT)
    if check.verdict is CheckVerdict.PASS or failed_present:
        yield feature, PRESENT
        detail = check.got.removeprefix(f"{PRESENT}: ") if failed_present else check.detail
        if _SIZE.fullmatch(detail):
            yield Feature(BoundaryKind.SIZE, name, family), detail
    elif check.verdict in (CheckVerdict.FAIL, CheckVerdict.UNSUPPORTED):
        yield feature, ABSENT
    else:
        yield feature, check.verdict.value


def changes(old: Vector, new: Vector) -> tuple[SeriesChange, ...]:
    """The differences in the order of features; a size that changes with its capability is
    omitted."""
    found = []
    for feature in sorted(old.keys() | new.keys()):
        before, after = old.get(feature, NOT_SAID), new.get(feature, NOT_SAID)
        if before == after:
            continue
        capability = replace(feature, kind=BoundaryKind.CAPABILITY)
        if feature.kind is BoundaryKind.SIZE and old.get(capability) != new.get(capability):
            continue
        found.append(SeriesChange(feature, before, after))
    return tuple(found)


def gaps(tested: Tested) -> list[Gap]:
    """The neighbours among the tested kernels that differ, oldest first."""
    told = sorted((place, vector) for place, vector in _told(tested).items())
    found = []
    for (old, before), (new, after) in pairwise(told):
        differing = changes(before, after)
        if differing:
            found.append(Gap(old, new, differing))
    return found


def plan(versions: Sequence[Version | None], tested: Tested, jobs: int) -> tuple[int, ...]:
    """The places of the kernels to test next, at most ``jobs``; none when the map is complete.

    ``versions`` are those of the kernels of the series, oldest first; None where one is unknown.
    The ends come first, then the best kernel for each gap, then the second best.
    """
    ends = _ends(len(versions), tested)
    if ends:
        return ends[:jobs]
    wanted = [_preferred(gap, versions, tested) for gap in gaps(tested)]
    in_turn = chain.from_iterable(zip_longest(*wanted))
    return tuple(islice((place for place in in_turn if place is not None), jobs))


def _ends(count: int, tested: Tested) -> tuple[int, ...]:
    """The outermost kernels that may be testable, unless already tested."""
    possible = [place for place in range(count) if tested.get(place, {}) is not None]
    ends = dict.fromkeys(possible[:1] + possible[-1:])
    return tuple(place for place in ends if place not in tested)


def _preferred(gap: Gap, versions: Sequence[Version | None], tested: Tested) -> tuple[int, ...]:
    """Both sides of the most probable boundary in ``gap``; nothing if it is exact."""
    for border in chain(_promised(gap, versions), _borders(gap, versions)):
        below, above = _below(gap, border, tested), _above(gap, border, tested)
        sides = tuple(side for side in (below, above) if side is not None)
        if sides:
            return sides
    middle = (gap.old + gap.new) // 2
    untested = [place for place in range(gap.old + 1, gap.new) if place not in tested]
    return tuple(sorted(untested, key=lambda place: (abs(place - middle), place))[:1])


# A border is named by the place of the first kernel after it.


def _promised(gap: Gap, versions: Sequence[Version | None]) -> list[int]:
    """The borders at which mainline added what differs, those of most features first."""
    found: Counter[int] = Counter()
    for change in gap.changes:
        spec = CAPABILITIES.get(change.feature.name.partition(".")[0])
        before, after = versions[gap.old], versions[gap.new]
        if spec is None or spec.since is None or before is None or after is None:
            continue
        if before < spec.since <= after:
            since = spec.since
            inside = range(gap.old + 1, gap.new + 1)
            found[next(p for p in inside if (versions[p] or before) >= since)] += 1
    return sorted(found, key=lambda border: (-found[border], border))


def _borders(gap: Gap, versions: Sequence[Version | None]) -> list[int]:
    """Those between two mainline versions, where features change, from the middle outwards."""
    found = [
        place
        for place in range(gap.old + 1, gap.new + 1)
        if None not in (versions[place - 1], versions[place])
        and versions[place - 1] != versions[place]
    ]
    return sorted(found, key=lambda border: (abs(2 * border - 1 - gap.old - gap.new), border))


def _below(gap: Gap, border: int, tested: Tested) -> int | None:
    """The last kernel before ``border`` that can still be tested, within ``gap``."""
    return next((p for p in range(border - 1, gap.old, -1) if p not in tested), None)


def _above(gap: Gap, border: int, tested: Tested) -> int | None:
    return next((p for p in range(border, gap.new) if p not in tested), None)


def _told(tested: Tested) -> dict[int, Vector]:
    return {place: vector for place, vector in tested.items() if vector is not None}
