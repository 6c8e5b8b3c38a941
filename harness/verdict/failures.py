# SPDX-License-Identifier: GPL-2.0-only
"""Joins bad results: one broken option is one failure, not a hundred. Also identifies a failure,
decides whether another one is the same, and what it depends on. Pure, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from harness.verdict.results import CheckKey, CheckResult, KernelResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict

#: A place where a check ran: family, payload, phase and side; "" if an axis does not apply.
Place = tuple[str, str, str, str]


@dataclass(frozen=True)
class Variant:
    """Equal results of one check; the raw bytes are those of ``first``."""

    first: CheckResult
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Failure:
    """A check that failed or is in error, in ``variants``, at some of the ``planned`` places.

    ``known`` is as in :class:`CheckResult`; known and unknown results are separate failures.
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
    """The failures: failed checks, then checks in error, then known ones.

    Lost capabilities come first, because they explain the rest.
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
    """Planned results that are missing, in the order of the plan within each family."""
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
    """``places`` in few phrases such as ``ipv4,ipv6 byte established client``.

    If they are all combinations of the values on the axes, one phrase is enough. Otherwise they are
    split along the first axis with more than one value.
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


@dataclass(frozen=True, order=True)
class Symptom:
    """One symptom of a failure; ``text`` is for people."""

    key: str
    text: str = field(compare=False)


class Again(Enum):
    """Whether a failure was reproduced in another boot."""

    SAME = "the same"
    PARTLY = "partly the same"
    OTHER = "another failure"
    GONE = "no failure"
    UNTESTED = "not tested"

    @property
    def failed(self) -> bool:
        return self in (Again.SAME, Again.PARTLY, Again.OTHER)

    @property
    def is_it(self) -> bool:
        """Whether the failure was reproduced, with or without others."""
        return self in (Again.SAME, Again.PARTLY)


@dataclass(frozen=True)
class Comparison:
    """The symptoms that were reproduced (``same``), those that were not (``gone``), and ``new``
    ones."""

    again: Again
    same: tuple[Symptom, ...] = ()
    gone: tuple[Symptom, ...] = ()
    new: tuple[Symptom, ...] = ()


def compare(before: KernelResult, after: KernelResult) -> Comparison:
    """Compare the symptoms of the bad result ``before`` with those of ``after``."""
    was, now = symptoms(before), symptoms(after)
    if after.verdict is KernelVerdict.INFRASTRUCTURE:
        return Comparison(Again.UNTESTED)
    same, gone, new = (tuple(sorted(part)) for part in (was & now, was - now, now - was))
    if not now:
        again = Again.GONE
    elif not same:
        again = Again.OTHER
    else:
        again = Again.PARTLY if gone or new else Again.SAME
    return Comparison(again, same, gone, new)


def symptoms(result: KernelResult) -> frozenset[Symptom]:
    """The symptoms of ``result``; none if it is as expected or says nothing.

    A check counts once in each family, wherever it ran. Known failures are left out, except a
    crash, which counts as it does for the verdict.
    """
    if result.verdict.as_expected or result.verdict is KernelVerdict.INFRASTRUCTURE:
        return frozenset()
    found = frozenset((*_incidents(result), *_checks(result), *_end(result)))
    return found or frozenset({Symptom(str(result.verdict), f"{result.verdict}: {result.reason}")})


def _incidents(result: KernelResult) -> Iterator[Symptom]:
    for incident in result.incidents:
        if incident.kind.is_crash or not incident.known:
            text = f"{incident.title} [{incident.fingerprint}]"
            yield Symptom(f"incident {incident.fingerprint}", text)


def _checks(result: KernelResult) -> Iterator[Symptom]:
    bad = {CheckVerdict.FAIL, CheckVerdict.ERROR}
    if result.verdict is KernelVerdict.FAIL:
        bad.add(CheckVerdict.LOST)  # after a crash or a hang, lost results only follow from that
    for family, checks in result.families.items():
        for check in checks.checks:
            if check.weight in bad:
                name = f"{family} {check.key.id}"
                yield Symptom(f"check {name}", name)


def _end(result: KernelResult) -> Iterator[Symptom]:
    """The symptom of how the boot ended, if that is one."""
    verdict = result.verdict
    if verdict is KernelVerdict.HANG:
        lost = [
            check.key
            for family in result.families.values()
            for check in family.checks
            if check.verdict is CheckVerdict.LOST
        ]
        where = f"hang in {lost[0].family} {lost[0].id}" if lost else "hang"
        yield Symptom(where, where)
    if verdict in (KernelVerdict.LOST, KernelVerdict.BOOT_FAILURE):
        yield Symptom(str(verdict), f"{verdict}: {result.reason}")


#: Boots on each side that must agree before one side is blamed. A failure that occurs at random in
#: half of the boots looks like that once in 32 times.
ENOUGH = 3


class Follows(Enum):
    """What a failure depends on."""

    KERNEL = "the kernel"
    TIMING = "the timing"
    ENVIRONMENT = "the environment"
    UNCLEAR = "it is not known"


@dataclass(frozen=True)
class MachineUsed:
    """The machine of a boot; ``qemu`` is its path and version, for people."""

    accel: str
    cpus: int
    qemu: str


@dataclass(frozen=True)
class Tried:
    """The boots on one ``machine``; ``again`` has the outcome of each.

    If there were none, ``obstacle`` says why; it is empty if the replay was interrupted.
    """

    machine: MachineUsed
    again: tuple[Again, ...] = ()
    obstacle: str = ""

    @property
    def conclusive(self) -> tuple[Again, ...]:
        return tuple(again for again in self.again if again is not Again.UNTESTED)


@dataclass(frozen=True)
class Conclusion:
    """``why`` is a sentence; ``unknown`` are sentences about what could not be varied."""

    follows: Follows
    why: str
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Side:
    """All boots with the same value of one variable."""

    boots: int
    hits: int

    @property
    def is_even(self) -> bool:
        return self.hits in (0, self.boots)


#: The variables: name, meaning and value on a machine.
_FACTORS: tuple[tuple[str, Follows, Callable[[MachineUsed], str]], ...] = (
    ("accelerator", Follows.ENVIRONMENT, lambda machine: machine.accel.upper()),
    ("QEMU", Follows.ENVIRONMENT, lambda machine: machine.qemu),
    ("number of processors", Follows.TIMING, lambda machine: str(machine.cpus)),
)


def conclude(tried: Sequence[Tried]) -> Conclusion:
    """What the failure depends on. A different failure counts as not reproduced.

    +----------------------------------------------+-------------+
    | the failure was reproduced in                | depends on  |
    +==============================================+=============+
    | no boot                                      | unclear     |
    | every boot, on at least two machines         | kernel      |
    | every boot of one accelerator or QEMU,       | environment |
    | and none of another                          |             |
    | every boot of one number of processors,      | timing      |
    | and none of another                          |             |
    | else: some boots                             | timing      |
    +----------------------------------------------+-------------+

    If a row about sides is based on fewer than ENOUGH boots on a side, or if two of them apply, the
    answer is unclear.
    """
    unknown = _unknown(tried)
    boots = [again for one in tried for again in one.conclusive]
    hits = sum(again.is_it for again in boots)
    count = f"{hits} of {len(boots)} boots"
    if not boots:
        return Conclusion(Follows.UNCLEAR, "no boot gave a result", unknown)
    if not hits:
        other = ", although other failures were" if any(again.failed for again in boots) else ""
        why = f"it was not reproduced in {len(boots)} boots{other}; use a larger --times"
        return Conclusion(Follows.UNCLEAR, why, unknown)
    if hits == len(boots):
        if sum(bool(one.conclusive) for one in tried) < 2:
            why = f"it was reproduced in {count}, all on one kind of machine"
            return Conclusion(Follows.UNCLEAR, why, unknown)
        return Conclusion(Follows.KERNEL, f"it was reproduced in {count}", unknown)
    return _uneven(tried, count, unknown)


def _uneven(tried: Sequence[Tried], count: str, unknown: tuple[str, ...]) -> Conclusion:
    """The conclusion if some boots reproduced the failure and others did not."""
    fitting = [
        (name, follows, sides)
        for name, follows, value in _FACTORS
        if len(sides := _sides(tried, value)) > 1 and all(s.is_even for s in sides.values())
    ]
    if not fitting:
        why = f"it was reproduced in {count}, with the same kernel and the same seed"
        return Conclusion(Follows.TIMING, why, unknown)
    name, follows, sides = fitting[0]
    shown = ", ".join(f"{value}: {s.hits} of {s.boots}" for value, s in sides.items())
    why = f"it depends on the {name} ({shown})"
    if len(fitting) > 1:
        why = f"it depends on the {name} ({shown}) or on the {fitting[1][0]}"
        return Conclusion(Follows.UNCLEAR, why, unknown)
    if min(side.boots for side in sides.values()) < ENOUGH:
        why = f"perhaps {why}, but that may be chance; use a larger --times"
        return Conclusion(Follows.UNCLEAR, why, unknown)
    return Conclusion(follows, why, unknown)


def _sides(tried: Sequence[Tried], value: Callable[[MachineUsed], str]) -> dict[str, _Side]:
    sides: dict[str, _Side] = {}
    for one in tried:
        for again in one.conclusive:
            side = sides.get(value(one.machine), _Side(0, 0))
            sides[value(one.machine)] = _Side(side.boots + 1, side.hits + again.is_it)
    return sides


def _unknown(tried: Sequence[Tried]) -> tuple[str, ...]:
    """The variables that were not varied, and why."""
    found = []
    for name, _, value in _FACTORS:
        if len(_sides(tried, value)) < 2:
            found.append(f"it is not known whether it depends on the {name}")
    return (*found, *dict.fromkeys(one.obstacle for one in tried if one.obstacle))
