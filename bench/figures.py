# SPDX-License-Identifier: GPL-2.0-only
"""Samples, ratios and figures: pure data and arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


@dataclass(frozen=True)
class Sample:
    """Values of the same thing measured again and again, in the order of measuring."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a sample needs a value")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)


@dataclass(frozen=True)
class Spread:
    """A value, and the range in which it was seen."""

    value: float
    low: float
    high: float


class Unit(StrEnum):
    RATIO = "ratio"
    SECONDS = "s"
    MIB = "MiB"
    FAILURES = "failures"


class Standing(StrEnum):
    MET = "met"
    NOT_MET = "NOT MET"
    NOT_MEASURED = "not measured"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    ``key`` names it in the baseline file and never changes. ``result`` is None where it was not
    measured, and ``note`` then says why. ``ours`` and ``theirs`` are the samples of a ratio.
    """

    key: str
    what: str
    unit: Unit
    target: float  # at most
    result: Spread | None = None
    ours: Sample | None = None
    theirs: Sample | None = None
    note: str = ""
    failed: bool = False  # it could have been measured, and what was run went wrong

    @property
    def standing(self) -> Standing:
        if self.failed:
            return Standing.FAILED
        if self.result is None:
            return Standing.NOT_MEASURED
        return Standing.MET if self.result.value <= self.target else Standing.NOT_MET


def plain(sample: Sample) -> Spread:
    """The median and the range of ``sample``."""
    return Spread(sample.median, sample.low, sample.high)


def ratio(ours: Sample, theirs: Sample) -> Spread:
    """The ratio of the medians. Its range is that of neighbours, measured one after the other.

    The machine's slow moods strike both of a pair; the ratio of the medians lies within the range
    whatever the values.
    """
    pairs = [a / b for a, b in zip(ours.values, theirs.values, strict=True)]
    return Spread(ours.median / theirs.median, min(pairs), max(pairs))


def quotient(ours: Sample, theirs: Sample) -> Spread:
    """The ratio of the medians of samples that were not measured in pairs, and its widest range."""
    return Spread(ours.median / theirs.median, ours.low / theirs.high, ours.high / theirs.low)


def against(blank: Figure, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """``blank`` with a ratio whose values were measured in pairs."""
    a, b = Sample(tuple(ours)), Sample(tuple(theirs))
    return replace(blank, result=ratio(a, b), ours=a, theirs=b)


def unpaired(blank: Figure, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """``blank`` with a ratio whose values were not measured in pairs."""
    a, b = Sample(tuple(ours)), Sample(tuple(theirs))
    return replace(blank, result=quotient(a, b), ours=a, theirs=b)


def absolute(blank: Figure, values: Sequence[float]) -> Figure:
    """``blank`` with one sample."""
    sample = Sample(tuple(values))
    return replace(blank, result=plain(sample), ours=sample)


def unmeasured(blank: Figure, why: str) -> Figure:
    """``blank`` where this machine has not what it takes."""
    return replace(blank, note=why)


def failed(blank: Figure, why: str) -> Figure:
    """``blank`` where what was run went wrong."""
    return replace(blank, note=why, failed=True)
