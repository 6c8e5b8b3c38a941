# SPDX-License-Identifier: GPL-2.0-only
"""What went wrong in a kernel's checks, joined: one broken option is one failure, not a hundred."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.verdict.results import CheckKey, CheckResult, CheckVerdict, KernelResult

#: A place is where a check ran: family, payload, phase, side; "" where an axis does not apply.
Place = tuple[str, str, str, str]


@dataclass(frozen=True)
class Variant:
    """Results of one check that say the same; ``first`` lends its raw bytes."""

    first: CheckResult
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Failure:
    """A check that failed or broke, in ``variants``, at some of the ``planned`` places.

    ``known`` is as in :class:`CheckResult`: what is known and what is not are two failures.
    """

    check: str
    verdict: CheckVerdict
    variants: tuple[Variant, ...]
    planned: int
    known: str = ""

    @property
    def places(self) -> int:
        return sum(len(variant.places) for variant in self.variants)


def failures(kernel: KernelResult) -> tuple[Failure, ...]:
    """What failed, before what broke, before what is known.

    Lost capabilities come first, as they explain the rest.
    """
    planned: dict[str, int] = {}
    bad: dict[tuple[CheckVerdict, str, str], list[CheckResult]] = {}
    for result in _results(kernel):
        planned[result.key.id] = planned.get(result.key.id, 0) + 1
        if result.verdict in (CheckVerdict.FAIL, CheckVerdict.ERROR):
            bad.setdefault((result.verdict, result.key.id, result.known), []).append(result)
    found = [
        Failure(check, verdict, _variants(results), planned[check], known)
        for (verdict, check, known), results in bad.items()
    ]
    return tuple(
        sorted(
            found,
            key=lambda f: (
                bool(f.known),
                f.verdict is CheckVerdict.ERROR,
                not f.check.startswith("capability."),
            ),
        )
    )


def lost(kernel: KernelResult) -> tuple[CheckResult, ...]:
    """What was planned and not heard of, in the order of the plan within each family."""
    return tuple(r for r in _results(kernel) if r.verdict is CheckVerdict.LOST)


def _results(kernel: KernelResult) -> Iterator[CheckResult]:
    for family in kernel.families.values():
        yield from family.checks


def _variants(results: Iterable[CheckResult]) -> tuple[Variant, ...]:
    alike: dict[tuple[str, str, str], list[CheckResult]] = {}
    for result in results:
        alike.setdefault((result.detail, result.expected, result.got), []).append(result)
    return tuple(Variant(same[0], tuple(place(r.key) for r in same)) for same in alike.values())


def place(key: CheckKey) -> Place:
    return (str(key.family), key.payload, key.phase, key.side)


def phrases(places: Sequence[Place], axis: int = 0) -> list[str]:
    """``places`` in as few phrases as come easily: ``ipv4,ipv6 byte established client``.

    Where they are every combination of what stands on the axes, one phrase says it; otherwise
    they are split along the first axis that has more than one value.
    """
    axes = [tuple(dict.fromkeys(values)) for values in zip(*places, strict=True)]
    combinations = 1
    for values in axes:
        combinations *= len(values)
    if combinations == len(set(places)):
        return [" ".join(",".join(values) for values in axes if any(values))]
    while len(axes[axis]) == 1:
        axis += 1
    return [
        phrase
        for value in axes[axis]
        for phrase in phrases([p for p in places if p[axis] == value], axis + 1)
    ]
