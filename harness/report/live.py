# SPDX-License-Identifier: GPL-2.0-only
"""A run's progress on a terminal: one line per kernel, redrawn in place."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from harness.host import periodic
from harness.report.terminal import Glyphs, Writer, glyphs_for, style_of
from harness.run.request import Listener, Progress, Stage
from harness.text import plural
from harness.verdict.verdicts import KernelVerdict

#: Seconds between two frames.
REFRESH_S = 0.25


@contextmanager
def live(
    names: Sequence[str], stream: TextIO, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Listener]:
    """A listener that draws on the terminal ``stream`` while the run of ``names`` lasts.

    The lines of the kernels are erased at the end, when the table replaces them.
    """
    display = Display(names, glyphs_for(stream), clock)
    screen = Screen(display, stream)
    screen.open()
    try:
        with periodic.every(REFRESH_S, screen.refresh, "live display"):
            yield display
    finally:
        screen.close()


@dataclass(frozen=True)
class _Row:
    """The state of one kernel. Times are of the clock; None means "not yet"."""

    progress: Progress
    started: float | None = None
    finished: float | None = None


class Display:
    """The state of every kernel, updated by any thread and drawn by one.

    An update only stores the state, so that no VM waits for a terminal.
    """

    def __init__(self, names: Sequence[str], glyphs: Glyphs, clock: Callable[[], float]) -> None:
        self._glyphs = glyphs
        self._clock = clock
        self._lock = threading.Lock()
        self._rows = {name: _Row(Progress(name, Stage.QUEUED)) for name in names}
        self._notices: deque[str] = deque()

    def __call__(self, progress: Progress, /) -> None:
        now = self._clock()
        with self._lock:
            if not progress.kernel:
                self._notices.append(progress.detail)
                return
            row = self._rows.get(progress.kernel)
            queued = progress.stage is Stage.QUEUED
            started = row.started if row and row.started is not None else None if queued else now
            finished = now if progress.stage is Stage.DONE else None
            self._rows[progress.kernel] = _Row(progress, started, finished)

    def take_notices(self) -> list[Text]:
        """Messages about the whole run since the last call; they go above the lines."""
        with self._lock:
            notices = list(self._notices)
            self._notices.clear()
        return [Text(self._glyphs.safe(notice)) for notice in notices]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            rows = list(self._rows.values())
        now = self._clock()
        width = options.max_width
        names = max((cell_len(self._name(row)) for row in rows), default=0)
        column = min(names, max(8, width // 3))
        shown = _most_alive(rows, console.size.height - 1)
        for row in shown:
            yield self._line(row, now, column, width)
        if len(shown) < len(rows):
            done = sum(row.finished is not None for row in rows)
            more = plural(len(rows) - len(shown), "more kernel")
            rest = f"{self._glyphs.ellipsis} {more}; {done} of {len(rows)} done"
            yield Text(self._glyphs.fit(rest, width), style="dim")

    def _name(self, row: _Row) -> str:
        return self._glyphs.safe(row.progress.kernel, 64)

    def _line(self, row: _Row, now: float, column: int, width: int) -> Text:
        """``debian-6.1  checking   12.3s  17/480  the running check``, cut at ``width`` cells."""
        progress, glyphs = row.progress, self._glyphs
        done = progress.stage is Stage.DONE
        until = now if row.finished is None else row.finished
        elapsed = "" if row.started is None else f"{until - row.started:.1f}s"
        name = set_cell_size(glyphs.fit(self._name(row), column), column)
        stage = glyphs.safe(progress.verdict) if done else str(progress.stage)
        style = style_of(progress.verdict) if done else _STAGE_STYLES.get(progress.stage, "")
        line = Text(name, no_wrap=True, overflow="crop")
        line.append("  ").append(f"{stage:<{_STAGE_WIDTH}}", style=style)
        line.append(f"{elapsed:>8}")
        if progress.planned and not done:
            line.append(f"  {progress.done}/{progress.planned}")
        elif progress.stage is Stage.REPEATING:
            line.append(f"  {plural(progress.done, 'round')}")
        if progress.detail:
            line.append("  ").append(glyphs.safe(progress.detail), style="dim")
        if line.cell_len > width:
            line.truncate(max(0, width - cell_len(glyphs.ellipsis)))
            line.append(glyphs.ellipsis)
        line.rstrip()
        return line


_STAGE_STYLES = {
    **dict.fromkeys((Stage.QUEUED, Stage.WAITING), "dim"),
    **dict.fromkeys((Stage.RETRYING, Stage.CONFIRMING), "yellow"),
}
_STAGE_WIDTH = max(len(word) for word in (*KernelVerdict, *Stage))


def _most_alive(rows: Sequence[_Row], room: int) -> Sequence[_Row]:
    """All of ``rows`` if there is room; otherwise running kernels first, then waiting ones, in
    order.

    A frame higher than the terminal could not be redrawn in place.
    """
    if len(rows) <= room:
        return rows
    ranked = sorted(rows, key=lambda row: (row.finished is not None, row.started is None))
    kept = {id(row) for row in ranked[: max(0, room - 1)]}
    return [row for row in rows if id(row) in kept]


class Screen:
    """Draws a display on ``stream``, which may go away (see :class:`Writer`).

    rich draws into a buffer, so its writes cannot fail.
    """

    def __init__(self, display: Display, stream: TextIO) -> None:
        self._display = display
        self._writer = Writer(stream)
        self._buffer = StringIO()
        self._console = Console(
            file=self._buffer, force_terminal=True, markup=False, emoji=False, highlight=False
        )
        self._live = Live(
            display,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def open(self) -> None:
        self._live.start()
        self.refresh()

    def refresh(self) -> None:
        for notice in self._display.take_notices():
            self._console.print(notice)
        self._live.refresh()
        self._flush()

    def close(self) -> None:
        self.refresh()
        self._live.stop()
        self._flush()

    def _flush(self) -> None:
        self._writer.write(self._buffer.getvalue())
        self._buffer.seek(0)
        self._buffer.truncate()
