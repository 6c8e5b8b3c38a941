# SPDX-License-Identifier: GPL-2.0-only
"""Where the time of one boot went: a row for each phase, starting where the previous one ended.

Pure functions from the phases of a result's timing to text and to an SVG of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from harness.verdict.results import Phase

_EIGHTHS = " ▏▎▍▌▋▊▉█"

# The SVG's measures, in pixels.
_WIDTH, _LABELS, _SECONDS = 760, 130, 56
_TOP, _ROW, _BAR, _BOTTOM = 34, 22, 14, 26
_COLOURS = ("#33658a", "#86bbd8", "#2f9c95", "#f6ae2d", "#f26419")
_STYLE = "font-family='sans-serif' font-size='12' fill='#24292f'"


def as_text(phases: Sequence[Phase], width: int = 80) -> str:
    """A line for each phase: name, seconds, and its bar; and the sum of all below."""
    if not phases:
        return "no phase was recorded\n"
    names = max(len(phase.name) for phase in phases)
    columns = max(10, width - names - 10)
    total = _total(phases)
    lines = []
    for phase, start in _placed(phases):
        bar = _bar(start / total * columns, phase.seconds / total * columns)
        lines.append(f"{phase.name:{names}}  {phase.seconds:6.3f}  {bar}".rstrip())
    lines.append(f"{'':{names}}  {sum(phase.seconds for phase in phases):6.3f} s")
    return "\n".join(lines) + "\n"


def as_list(phases: Sequence[Phase], width: int = 80) -> str:
    """A line for each phase, with bars that all start at the left."""
    names = max((len(phase.name) for phase in phases), default=0)
    columns = max(10, width - names - 10)
    longest = max((phase.seconds for phase in phases), default=0.0) or 0.001
    lines = (
        f"{phase.name:{names}}  {phase.seconds:6.3f}  {_bar(0, phase.seconds / longest * columns)}"
        for phase in phases
    )
    return "".join(f"{line}\n" for line in lines)


def as_svg(phases: Sequence[Phase], title: str) -> str:
    """The same as a picture, complete in one file."""
    total = _total(phases)
    height = _TOP + _ROW * len(phases) + _BOTTOM
    scale = (_WIDTH - _LABELS - _SECONDS) / total
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{height}' "
        f"viewBox='0 0 {_WIDTH} {height}' {_STYLE}>",
        f"<title>{escape(title)}</title>",
        "<rect width='100%' height='100%' fill='#ffffff'/>",
        f"<text x='8' y='20' font-weight='bold'>{escape(title)}</text>",
        *_grid(total, scale, height),
    ]
    for row, (phase, start) in enumerate(_placed(phases)):
        top = _TOP + row * _ROW
        left, width = _LABELS + start * scale, max(phase.seconds * scale, 0.5)
        colour = _COLOURS[row % len(_COLOURS)]
        parts += [
            f"<text x='{_LABELS - 8}' y='{top + 12}' text-anchor='end'>{escape(phase.name)}</text>",
            f"<rect x='{left:.1f}' y='{top}' width='{width:.1f}' height='{_BAR}' fill='{colour}'/>",
            f"<text x='{left + width + 4:.1f}' y='{top + 12}'>{phase.seconds:.2f} s</text>",
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _placed(phases: Sequence[Phase]) -> Iterator[tuple[Phase, float]]:
    """Each phase with the seconds before it."""
    start = 0.0
    for phase in phases:
        yield phase, start
        start += phase.seconds


def _total(phases: Sequence[Phase]) -> float:
    return max(sum(phase.seconds for phase in phases), 0.001)


def _bar(start: float, length: float) -> str:
    """A bar near column ``start``, as long as it is to an eighth of a column, and never nothing."""
    whole, rest = divmod(max(round(length * 8), 1), 8)
    return " " * round(start) + _EIGHTHS[8] * whole + _EIGHTHS[rest].strip()


def _grid(total: float, scale: float, height: int) -> Iterator[str]:
    """A line for each second, or for each of a round number of them."""
    step = next(step for step in (1, 2, 5, 10, 30, 60, 300, 10**9) if total / step <= 12)
    for second in range(0, int(total) + 1, step):
        x = _LABELS + second * scale
        bottom = height - _BOTTOM + 2
        yield (
            f"<line x1='{x:.1f}' y1='{_TOP - 6}' x2='{x:.1f}' y2='{bottom}' stroke='#d0d7de'/>"
            f"<text x='{x:.1f}' y='{bottom + 14}' text-anchor='middle'>{second} s</text>"
        )
