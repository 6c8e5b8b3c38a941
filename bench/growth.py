# SPDX-License-Identifier: GPL-2.0-only
"""What the harness costs as the work grows: kernels, rounds of one boot, and stored runs.

A program stands in for QEMU and ends at once, because real boots of two hundred kernels would take
an hour and say nothing more of the harness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import year
from bench.lab import HostLab, Observation
from bench.waterfall import as_list
from harness.verdict.results import Phase

KERNELS = (4, 60, 200)
ROUNDS = (1, 100, 1000)
RUNS = (1, 30, 365)
#: Seconds for which the stand-in runs.
LIFE_S = 0.1


@dataclass(frozen=True)
class Point:
    """What ``count`` of something took, by the wall, by processors, and of memory (0: unknown)."""

    what: str
    count: int
    seconds: float
    processor_s: float
    peak_mib: float = 0.0

    @property
    def each_s(self) -> float:
        return self.processor_s / self.count


def measure(lab: HostLab, say: Callable[[str], None]) -> list[Point]:
    """All points, one after the other."""
    points = []

    def add(what: str, count: int, run: Callable[[], Observation]) -> None:
        say(f"{count} {what}")
        seen = run()
        points.append(Point(what, count, seen.run.seconds, seen.run.processor_s, seen.peak_mib))

    for count in KERNELS:
        add("kernels of a matrix, -j 2", count, lab.standing_in(count, life_s=LIFE_S).run)
    for count in ROUNDS:
        add("rounds in one boot", count, lab.standing_in(1, count, LIFE_S).run)
    for count in RUNS:
        state = lab.scratch / f"runs-{count}"
        year.generate(state, days=count)
        add("stored runs, history --check '*'", count, lambda at=state: _history(at))  # type: ignore[misc]
    return points


def _history(state: Path) -> Observation:
    return Observation(year.ask(year.QUERIES["checks"], state))


def render(points: Sequence[Point]) -> str:
    """A table in Markdown, and the processor time of one of each as bars."""
    lines = [
        "| what | count | wall time | processor time | of each | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for p in points:
        memory = f"{p.peak_mib:.0f} MiB" if p.peak_mib else ""
        lines.append(
            f"| {p.what} | {p.count} | {p.seconds:.2f} s | {p.processor_s:.2f} s "
            f"| {1000 * p.each_s:.1f} ms | {memory} |"
        )
    bars = as_list([Phase(f"{p.count} {p.what}", p.each_s) for p in points])
    return "\n".join(lines) + f"\n\nProcessor time of each, in seconds:\n\n{bars}"
