# SPDX-License-Identifier: GPL-2.0-only
"""The checks that take longest in a boot, from its events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import waterfall
from guest import events
from harness.verdict.results import Phase

MOST = 20
_EVENTS = "events.jsonl"


@dataclass(frozen=True)
class Taken:
    """The seconds that all ``results`` of a check took together, by the guest's clock."""

    check: str
    seconds: float
    results: int


def of_run(directory: Path) -> tuple[Taken, ...]:
    """The slowest checks of the only boot whose files are below ``directory``."""
    (file,) = directory.glob(f"kernels/*/attempt-1/{_EVENTS}")
    with file.open("rb") as lines:
        return of_events(lines)


def of_events(lines: Iterable[bytes]) -> tuple[Taken, ...]:
    """The slowest checks, the slowest first.

    Groups run side by side, so that the sum of all is more than the time of the boot.
    """
    names: list[str] = []
    begun: dict[int, int] = {}
    taken: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        event = events.parse(line)
        kind = event["e"]
        if kind == "round":
            break
        if kind == "plan":
            names += [check for check, _, _ in event["entries"]]
        elif kind == "start":
            begun[event["i"]] = event["t"]
        elif kind == "result" and event["i"] in begun:
            taken[names[event["i"]]].append(event["t"] - begun[event["i"]])
    found = [Taken(name, sum(ms) / 1000, len(ms)) for name, ms in taken.items()]
    return tuple(sorted(found, key=lambda each: -each.seconds)[:MOST])


def as_text(checks: Sequence[Taken]) -> str:
    """A line for each of ``checks``."""
    return waterfall.as_list(
        [Phase(f"{each.check} ({each.results})", each.seconds) for each in checks]
    )
