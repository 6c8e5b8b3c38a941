# SPDX-License-Identifier: GPL-2.0-only
"""Where along a series anything changed: which kernels to boot for that. Pure, no I/O.

Each kernel that was tested gives a vector of features. Two tested neighbours with equal vectors are
taken to agree with all between them, so nothing there is booted: what came and went again between
them is not seen. Where they differ, kernels between them are tested until the two are adjacent, or
nothing but untestable kernels lies between them. So each boundary that is told is exact.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise, zip_longest

from harness.bisect.results import BoundaryKind, Feature, SeriesChange
from harness.manifest.expectations import CAPABILITIES, Version
from harness.verdict.judge import CAPABILITY
from harness.verdict.results import (
    CheckResult,
    CheckVerdict,
    Family,
    KernelResult,
    KernelVerdict,
    worst,
)

#: By feature what a kernel makes of it.
Vector = Mapping[Feature, str]
#: By place in the series what was found out; None for a kernel that could not be tested.
Tested = Mapping[int, Vector | None]

PRESENT, ABSENT = "present", "absent"
#: The value of a feature of which a kernel says nothing, such as IPv6's where that is not built in.
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
    """What ``result`` says of each feature; None where its checks did not run to their end.

    Of a kernel that crashes or hangs on the way the rest is not known, so it cannot be compared.
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
    """A check of a capability fails by what was expected; what is compared is what is there."""
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
    """What differs, in the order of features; a size comes and goes with its capability."""
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
    The ends come first, then the kernel that each gap most needs, then the second of each.
    """
    ends = _ends(len(versions), tested)
    if ends:
        return ends[:jobs]
    wanted = [_preferred(gap, versions, tested) for gap in gaps(tested)]
    in_turn = chain.from_iterable(zip_longest(*wanted))
    return tuple(islice((place for place in in_turn if place is not None), jobs))


def _ends(count: int, tested: Tested) -> tuple[int, ...]:
    """The outermost kernels that are not known to be untestable, where not tested yet."""
    possible = [place for place in range(count) if tested.get(place, {}) is not None]
    ends = dict.fromkeys(possible[:1] + possible[-1:])
    return tuple(place for place in ends if place not in tested)


def _preferred(gap: Gap, versions: Sequence[Version | None], tested: Tested) -> tuple[int, ...]:
    """Both sides of the place where ``gap`` most probably parts; nothing if it is exact."""
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
    """The borders at which mainline brought what differs, those of most features first."""
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
