# SPDX-License-Identifier: GPL-2.0-only
"""What a failure is known by, and whether another one is the same. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from harness.verdict.results import CheckVerdict, KernelResult, KernelVerdict


@dataclass(frozen=True, order=True)
class Symptom:
    """One thing that went wrong; ``text`` is for people."""

    key: str
    text: str = field(compare=False)


class Again(Enum):
    """What became of a failure in another boot."""

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
        """Whether the failure came again, with or without others."""
        return self in (Again.SAME, Again.PARTLY)


@dataclass(frozen=True)
class Comparison:
    """``same`` came again, ``gone`` did not, ``new`` was not there before."""

    again: Again
    same: tuple[Symptom, ...] = ()
    gone: tuple[Symptom, ...] = ()
    new: tuple[Symptom, ...] = ()


def compare(before: KernelResult, after: KernelResult) -> Comparison:
    """What of the failure ``before``, which is bad, came again in ``after``."""
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
    """What went wrong in ``result``; nothing where it is as expected, or says nothing.

    A check counts once in each family, wherever it ran. What is known is left out; but a crash
    counts whoever knows it, as it does for the verdict.
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
        bad.add(CheckVerdict.LOST)  # after a crash or a hang it only follows from that
    for family, checks in result.families.items():
        for check in checks.checks:
            if check.weight in bad:
                name = f"{family} {check.key.id}"
                yield Symptom(f"check {name}", name)


def _end(result: KernelResult) -> Iterator[Symptom]:
    """How the boot ended, where that went wrong by itself."""
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
