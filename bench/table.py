# SPDX-License-Identifier: GPL-2.0-only
"""Figures as a table, for a terminal and for Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import Figure, Sample, Spread, Unit

HEADINGS = ("figure", "harness", "against", "result", "spread", "target", "")


def render(figures: Sequence[Figure]) -> str:
    """A Markdown table whose columns are aligned; notes stand below it."""
    rows = [HEADINGS, *(_row(figure) for figure in figures)]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(HEADINGS))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = [f"{figure.what}: {figure.note}" for figure in figures if figure.note]
    return "\n".join([*lines, "", *notes] if notes else lines) + "\n"


def _row(figure: Figure) -> tuple[str, ...]:
    is_ratio = figure.unit is Unit.RATIO
    result = figure.result
    return (
        figure.what,
        _sample(figure.ours) if is_ratio else "",
        _sample(figure.theirs) if is_ratio else "",
        _value(result.value, figure.unit) if result else "-",
        _range(result, figure.unit) if result else "",
        f"≤ {_target(figure.target, figure.unit)}",
        figure.standing.value,
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (f" {cell:{width}} " for cell, width in zip(cells, widths, strict=True))
    return "|" + "|".join(padded) + "|"


def _sample(sample: Sample | None) -> str:
    return f"{sample.median:.2f} s" if sample else ""


def _range(spread: Spread, unit: Unit) -> str:
    if spread.low == spread.high:
        return ""
    digits = _digits(unit)
    return f"{spread.low:.{digits}f}-{spread.high:.{digits}f}"


def _value(value: float, unit: Unit) -> str:
    text = f"{value:.{_digits(unit)}f}"
    return text if unit is Unit.RATIO else f"{text} {unit}"


def _target(value: float, unit: Unit) -> str:
    return f"{value:g}" if unit is Unit.RATIO else f"{value:g} {unit}"


def _digits(unit: Unit) -> int:
    return 2 if unit in (Unit.RATIO, Unit.SECONDS) else 0
