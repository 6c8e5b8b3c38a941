# SPDX-License-Identifier: GPL-2.0-only
"""Repeated checks in words: how often what failed, and the seed that repeats it."""

from __future__ import annotations

from collections.abc import Sequence

from harness.text import plural
from harness.verdict.failures import phrases, place
from harness.verdict.results import RoundFailures, Rounds
from harness.verdict.rounds import MOST

#: Of counts that differ from place to place so many are given, and so many phrases of each.
MAX_COUNTS = 3
MAX_PHRASES = 2


def summary(rounds: Rounds) -> str:
    """``200 rounds, 3 failed; the first was round 17: --seed 1234 repeats it``."""
    if rounds.done < rounds.asked < MOST:
        said = f"{rounds.done} of {plural(rounds.asked, 'round')}"
    else:
        said = plural(rounds.done, "round")
    said += f", {rounds.failed or 'none'} failed"
    first = min(rounds.failures, key=lambda failure: failure.first, default=None)
    if first is not None:
        said += f"; the first was round {first.first}: --seed {first.seed} repeats it"
    if rounds.cut is not None:
        said += f"; cut off during {rounds.cut}"
    return said


def of_check(rounds: Rounds, check: str) -> str:
    """``3 of 200 rounds (ipv4 segment established client); the first was …``; "" where none."""
    count = rounds.by_check.get(check, 0)
    found = [failure for failure in rounds.failures if failure.key.id == check]
    if not found:
        return ""
    first = min(found, key=lambda failure: failure.first)
    often = f"{count} of {plural(rounds.done, 'round')}" if count else "the round that was cut off"
    said = f"{often}; first in round {first.first}, seed {first.seed}"
    several = _by_count(found, count)
    return f"{said}; {'; '.join(several)}" if several else said


def _by_count(found: Sequence[RoundFailures], rounds: int) -> list[str]:
    """Places that failed in fewer rounds than the check, the most frequent first."""
    alike: dict[int, list[RoundFailures]] = {}
    for failure in found:
        if failure.count < rounds:
            alike.setdefault(failure.count, []).append(failure)
    return [
        f"{phrase}: {plural(count, 'round')}"
        for count in sorted(alike, reverse=True)[:MAX_COUNTS]
        for phrase in phrases([place(failure.key) for failure in alike[count]])[:MAX_PHRASES]
    ]
