# SPDX-License-Identifier: GPL-2.0-only
"""The history in the HTML report: verdicts over the last runs as a grid, times as curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.records.summaries import RunSummary
from harness.report import history
from harness.report.history import Line
from harness.verdict.verdicts import CheckVerdict, KernelVerdict

#: Of a curve, in pixels.
WIDTH, HEIGHT, EDGE = 120, 30, 3
#: Checks that are shown; more are only counted.
MAX_CHECKS = 60
#: How a square of these words looks; all others are failures.
LOOKS = {
    KernelVerdict.PASS.value: "pass",
    KernelVerdict.UNSUPPORTED.value: "unsupported",
    KernelVerdict.INFRASTRUCTURE.value: "absent",
    KernelVerdict.WARNING.value: "error",
    CheckVerdict.LOST.value: "lost",
    CheckVerdict.ERROR.value: "error",
}


@dataclass(frozen=True)
class Square:
    """One run: ``letter`` stands for ``word``; ``boundary`` marks a run of another build."""

    letter: str
    word: str
    look: str
    boundary: bool = False


@dataclass(frozen=True)
class Curve:
    """A polyline over the runs, in the coordinates of an SVG, and its range in seconds."""

    points: str
    last_x: float
    last_y: float
    last_s: float
    least_s: float
    most_s: float


@dataclass(frozen=True)
class Trend:
    """A kernel, or a check of it. ``rate`` is set if it is flaky."""

    name: str
    squares: tuple[Square, ...]
    rate: str
    boot: Curve | None = None
    checks: Curve | None = None


@dataclass(frozen=True)
class Trends:
    """``checks`` are those whose result changed; ``left_out`` counts those beyond the limit."""

    runs: tuple[RunSummary, ...]
    kernels: tuple[Trend, ...]
    checks: tuple[Trend, ...]
    left_out: int = 0


def trends(runs: Sequence[RunSummary]) -> Trends | None:
    """The history of ``runs``, oldest first; None if there are fewer than two."""
    if len(runs) < 2:
        return None
    kernels = tuple(_of_kernel(line, runs) for line in history.kernel_lines(runs))
    found = history.check_lines(runs, lambda _: True)
    lines = [line for line in found if line.flaky or line.change is not None]
    # What is flaky first, then what was bad most recently.
    ordered = sorted(lines, key=lambda line: (not line.flaky, -_last_bad(line)))
    checks = tuple(_trend(line) for line in ordered[:MAX_CHECKS])
    return Trends(tuple(runs), kernels, checks, max(0, len(lines) - MAX_CHECKS))


def _last_bad(line: Line) -> int:
    return max(line.letters.rfind(letter) for letter in line.kind.bad)


def _of_kernel(line: Line, runs: Sequence[RunSummary]) -> Trend:
    times = [run.times.get(line.name) for run in runs]
    boot = curve([each.boot_s if each else None for each in times])
    checks = curve([each.checks_s if each else None for each in times])
    plain = _trend(line)
    return Trend(plain.name, plain.squares, plain.rate, boot, checks)


def _trend(line: Line) -> Trend:
    squares, before = [], ""
    for letter, image in zip(line.letters, line.images, strict=True):
        if letter == history.ABSENT:
            squares.append(Square(letter, "not in that run", "absent"))
            continue
        word = line.kind.words[letter]
        boundary = bool(before and image and image != before)
        squares.append(Square(letter, word, LOOKS.get(word, "fail"), boundary))
        before = image or before
    rate = f"{line.rate.bad} of {line.rate.tested}" if line.flaky else ""
    return Trend(line.name, tuple(squares), rate)


def curve(seconds: Sequence[float | None]) -> Curve | None:
    """A curve that starts at zero; None if fewer than two runs were measured."""
    found = [(number, value) for number, value in enumerate(seconds) if value]
    if len(found) < 2:
        return None
    values = [value for _, value in found]
    across = (WIDTH - 2 * EDGE) / (len(seconds) - 1)
    up = (HEIGHT - 2 * EDGE) / max(values)
    points = [
        (round(EDGE + number * across, 1), round(HEIGHT - EDGE - value * up, 1))
        for number, value in found
    ]
    text = " ".join(f"{x:g},{y:g}" for x, y in points)
    return Curve(text, *points[-1], values[-1], min(values), max(values))
