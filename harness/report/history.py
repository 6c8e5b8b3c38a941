# SPDX-License-Identifier: GPL-2.0-only
"""Kernels and checks over the last runs: a letter for each, when it changed, and how often it is
bad."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records.summaries import LETTERS, Outcome, RunSummary, Summary
from harness.report.terminal import Glyphs
from harness.verdict.verdicts import KernelVerdict

#: For a run that does not include the kernel or check.
ABSENT = "."
KERNEL_LETTERS = {
    KernelVerdict.PASS: "P",
    KernelVerdict.FAIL: "F",
    KernelVerdict.CRASH: "C",
    KernelVerdict.HANG: "H",
    KernelVerdict.LOST: "L",
    KernelVerdict.BOOT_FAILURE: "B",
    KernelVerdict.WARNING: "W",
    KernelVerdict.UNSUPPORTED: "U",
    KernelVerdict.INFRASTRUCTURE: "?",
}
CHECK_LETTERS = LETTERS
#: The quantile of the normal distribution for an interval of 95 %.
Z = 1.959964


@dataclass(frozen=True)
class Letters:
    """The letters of kernels or of checks.

    ``bad`` count as failures and ``good`` do not; from ``silent`` ones nothing was learned.
    ``untested`` are good, but count for no rate.
    """

    words: Mapping[str, str]
    good: str
    bad: str
    silent: str
    untested: str = ""


KERNELS = Letters(
    {letter: word.value for word, letter in KERNEL_LETTERS.items()}, "PU", "FCHLBW", "?."
)
# A lost result says nothing about this check: the kernel may have crashed in another.
CHECKS = Letters(
    {letter: word.value for word, letter in CHECK_LETTERS.items()}, "PU", "FE", "L.", "U"
)


@dataclass(frozen=True)
class Rate:
    """``bad`` of ``tested`` results."""

    bad: int
    tested: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval in which the rate lies with 95 %; from 0 to 1 if nothing was tested.

        E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
        """
        if not self.tested:
            return 0.0, 1.0
        n, p, square = self.tested, self.bad / self.tested, Z * Z
        middle = p + square / (2 * n)
        half = Z * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
        low, high = (middle - half) / (1 + square / n), (middle + half) / (1 + square / n)
        return (0.0 if self.bad == 0 else low), (1.0 if self.bad == n else high)

    def __str__(self) -> str:
        low, high = (round(100 * bound) for bound in self.interval)
        return f"bad in {self.bad} of {self.tested} ({low}-{high} %)"


@dataclass(frozen=True)
class Point:
    """A verdict, ``word``, of one ``kernel`` or of a check of it in one run."""

    run: RunSummary
    kernel: Summary
    word: str


@functools.lru_cache(maxsize=256)
def _places(images: tuple[str, ...]) -> dict[str, list[int]]:
    """Where each of ``images``, which the lines of a kernel share, stands."""
    places: dict[str, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(image, []).append(place)
    return places


@dataclass(frozen=True)
class Line:
    """A ``kernel``, or one ``check`` of it, over ``runs``, oldest first, with a letter for each.

    ``images`` has the kernel's SHA-256 in each run, "" if it is unknown.
    """

    kernel: str
    check: str
    runs: tuple[RunSummary, ...]
    images: tuple[str, ...]
    letters: str

    @property
    def name(self) -> str:
        return f"{self.kernel} {self.check}" if self.check else self.kernel

    @property
    def kind(self) -> Letters:
        return CHECKS if self.check else KERNELS

    @functools.cached_property
    def rate(self) -> Rate:
        """How often it is bad, among the runs in which it was tested."""
        counted = {letter: self.letters.count(letter) for letter in set(self.letters)}
        bad = sum(counted.get(letter, 0) for letter in self.kind.bad)
        untested = self.kind.untested
        good = sum(counted.get(x, 0) for x in self.kind.good if x not in untested)
        return Rate(bad, bad + good)

    @property
    def changes(self) -> Iterator[tuple[Point, Point]]:
        """Each two neighbouring runs that differ, newest first, ignoring runs that learned
        nothing."""
        # A year has a hundred thousand letters: strip() looks at them, no loop of Python.
        silent = self.kind.silent
        rest = self.letters.rstrip(silent)
        while rest:
            before = rest.rstrip(rest[-1] + silent)
            if before:
                yield self._point(len(before) - 1), self._point(rest.index(rest[-1], len(before)))
            rest = before

    @functools.cached_property
    def change(self) -> tuple[Point, Point] | None:
        """The last of the changes."""
        return next(self.changes, None)

    @property
    def last(self) -> str:
        """The word of the last run that learned something; "" if there is none."""
        told = self.letters.rstrip(self.kind.silent)
        return self.kind.words[told[-1]] if told else ""

    @property
    def flaky(self) -> bool:
        """Whether the same image was both good and bad, or boots of one run disagreed."""
        if not self.check and any(
            run.kernels[self.kernel].flaky for run in self.runs if self.kernel in run.kernels
        ):
            return True
        bad = {self.images[place] for place in _found(self.letters, self.kind.bad)} - {""}
        places, good = _places(self.images), self.kind.good
        return any(self.letters[place] in good for image in bad for place in places[image])

    def _point(self, number: int) -> Point:
        run = self.runs[number]
        return Point(run, run.kernels[self.kernel], self.kind.words[self.letters[number]])


def kernel_lines(runs: Sequence[RunSummary]) -> tuple[Line, ...]:
    """A line for each kernel; ``runs`` are oldest first."""
    lines = []
    for name in _names(runs):
        kernels = [run.kernels.get(name) for run in runs]
        letters = "".join([KERNEL_LETTERS[k.verdict] if k else ABSENT for k in kernels])
        lines.append(Line(name, "", tuple(runs), _images(kernels), letters))
    return tuple(lines)


def check_lines(runs: Sequence[RunSummary], checks: Callable[[str], bool]) -> tuple[Line, ...]:
    """A line for each check of each kernel that ``checks`` selects and that ever failed.

    A check that only lacks results is left out: after a crash, those are all of them.
    """
    wanted = functools.cache(checks)
    all_runs = tuple(runs)
    lines = []
    plans: dict[int, dict[str, int]] = {}  # where each check stands; outcomes share few plans
    for name in _names(runs):
        kernels = [run.kernels.get(name) for run in runs]
        # Most nights share an outcome, which is one object.
        each = {id(kernel.outcome): kernel.outcome for kernel in kernels if kernel}
        number = {key: index for index, key in enumerate(each, 1)}
        # A character for each run, the number of its outcome, from which a check's letter follows.
        sequence = "".join([chr(number[id(k.outcome)]) if k else "\0" for k in kernels])
        for o in each.values():
            if id(o.names) not in plans:
                plans[id(o.names)] = {check: place for place, check in enumerate(o.names)}
        letters = [(o.letters, plans[id(o.names)]) for o in each.values()]
        images = _images(kernels)
        for check in dict.fromkeys(x for o in each.values() for x in _failed(o) if wanted(x)):
            table = [ABSENT, *(text[at[check]] if check in at else ABSENT for text, at in letters)]
            lines.append(Line(name, check, all_runs, images, sequence.translate(table)))
    return tuple(lines)


def _images(kernels: Sequence[Summary | None]) -> tuple[str, ...]:
    return tuple(kernel.build.image if kernel else "" for kernel in kernels)


def _failed(outcome: Outcome) -> Iterator[str]:
    return (outcome.names[place] for place in _found(outcome.letters, CHECKS.bad))


def _found(letters: str, wanted: str) -> Iterator[int]:
    """Where one of ``wanted`` stands in ``letters``, in no order."""
    for letter in wanted:
        at = letters.find(letter)
        while at >= 0:
            yield at
            at = letters.find(letter, at + 1)


def render(lines: Sequence[Line], runs: Sequence[RunSummary], glyphs: Glyphs) -> str:
    """The lines, a legend of the letters, and the names of flaky ones."""
    return "".join(f"{line}\n" for line in _text(lines, runs, glyphs))


def _text(lines: Sequence[Line], runs: Sequence[RunSummary], glyphs: Glyphs) -> Iterator[str]:
    if runs:
        ends = f"{glyphs.safe(runs[0].started, 32)} to {glyphs.safe(runs[-1].started, 32)}"
        yield f"the last {len(runs)} runs, {ends}, oldest first"
    names = [glyphs.safe(line.name, 96) for line in lines]
    width = max(map(len, names), default=0)
    unsteady = []
    for line, name in zip(lines, names, strict=True):
        told = []
        if line.flaky:
            unsteady.append(name)
            told.append("flaky")
        told += [_since(line, glyphs), *([str(line.rate)] if line.rate.bad else [])]
        yield f"{name:{width}}  {line.letters}  {'; '.join(told)}"
    seen: dict[str, str] = {}
    for kind in (KERNELS, CHECKS):
        letters = set().union(*(line.letters for line in lines if line.kind is kind)) - {ABSENT}
        seen |= {letter: kind.words[letter] for letter in letters}
    if seen:
        legend = ", ".join(f"{letter} {word}" for letter, word in sorted(seen.items()))
        yield f"{legend}, {ABSENT} not in that run"
    if any(line.rate.bad for line in lines):
        yield "in brackets: the interval of the rate, with 95 % confidence"
    if unsteady:
        yield f"flaky, good and bad with the same image: {', '.join(unsteady)}"


def _since(line: Line, glyphs: Glyphs) -> str:
    if not line.last:
        return "never tested"
    if line.change is None:
        return f"always {line.last}"
    before, after = line.change
    then = f"{glyphs.safe(after.run.started, 32)}, run {glyphs.safe(after.run.id, 64)}"
    return f"{before.word} -> {after.word} at {then}{_builds(before, after, glyphs)}"


def _builds(before: Point, after: Point, glyphs: Glyphs) -> str:
    """Which builds the change lies between."""
    old, new = before.kernel.build, after.kernel.build
    if old.image and old.image == new.image:
        return ", with the same image"
    if old.release != new.release:
        return f", between {glyphs.safe(old.release, 64)} and {glyphs.safe(new.release, 64)}"
    if old.version != new.version:
        return f", between {glyphs.safe(str(old), 96)} and {glyphs.safe(new.version, 96)}"
    return ", with another image" if old.image and new.image else ""


def to_json(lines: Sequence[Line], runs: Sequence[RunSummary]) -> dict[str, Any]:
    """The object of ``history --json``; keys are added, never renamed."""
    return {
        "schema": 1,
        "runs": [{"id": run.id, "started": run.started, "finished": run.finished} for run in runs],
        "letters": {
            "kernel": dict(KERNELS.words),
            "check": dict(CHECKS.words),
            "absent": ABSENT,
        },
        "lines": [_line(line) for line in lines],
    }


def _line(line: Line) -> dict[str, Any]:
    rate = line.rate
    return {
        "kernel": line.kernel,
        "check": line.check or None,
        "letters": line.letters,
        "flaky": line.flaky,
        "bad": rate.bad,
        "tested": rate.tested,
        "interval": [round(bound, 4) for bound in rate.interval],
        "changes": [
            {"before": _place(old), "after": _place(new)} for old, new in reversed([*line.changes])
        ],
    }


def _place(point: Point) -> dict[str, str]:
    return {
        "run": point.run.id,
        "started": point.run.started,
        "verdict": point.word,
        "release": point.kernel.build.release,
        "version": point.kernel.build.version,
        "image_sha256": point.kernel.build.image,
    }


def render_runs(runs: Sequence[RunSummary], glyphs: Glyphs) -> str:
    """A line for each run, newest first: its id, when, and how many kernels have which verdict."""
    rows = [
        (glyphs.safe(run.id, 64), glyphs.safe(run.started, 32), _tally(run), _end(run))
        for run in reversed(runs)
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return "".join(
        f"{id:{widths[0]}}  {started:{widths[1]}}  {tally}{end}\n"
        for id, started, tally, end in rows
    )


def runs_to_json(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """The object of ``runs --json``, newest first; keys are added, never renamed. ``runs`` have
    their times."""
    return {
        "schema": 1,
        "runs": [
            {
                "id": run.id,
                "started": run.started,
                "finished": run.finished,
                "interrupted": not run.finished,
                "verdicts": {verdict.value: count for verdict, count in _counts(run)},
                "kernels": {
                    name: {
                        "verdict": kernel.verdict.value,
                        "release": kernel.build.release,
                        "image_sha256": kernel.build.image,
                        "boot_s": run.times[name].boot_s,
                        "checks_s": run.times[name].checks_s,
                    }
                    for name, kernel in run.kernels.items()
                },
            }
            for run in reversed(runs)
        ],
    }


def _counts(run: RunSummary) -> Iterator[tuple[KernelVerdict, int]]:
    found = [kernel.verdict for kernel in run.kernels.values()]
    return ((verdict, found.count(verdict)) for verdict in KernelVerdict if verdict in found)


def _tally(run: RunSummary) -> str:
    told = ", ".join(f"{count} {verdict}" for verdict, count in _counts(run))
    return f"{len(run.kernels)}: {told}"


def _end(run: RunSummary) -> str:
    return "" if run.finished else ", interrupted"


def _names(runs: Sequence[RunSummary]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for run in reversed(runs) for name in run.kernels))
