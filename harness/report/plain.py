# SPDX-License-Identifier: GPL-2.0-only
"""A run's progress without a terminal: one line for each important event, flushed at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from harness.host import periodic
from harness.report.terminal import Writer, glyphs_for
from harness.run.request import Listener, Progress, Stage
from harness.text import plural

#: Seconds after which each active kernel gets a line, whatever it does.
EVERY = 30.0


@contextmanager
def plain(
    names: Sequence[str], stream: TextIO, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Listener]:
    """A listener that writes to ``stream`` while the run of the kernels ``names`` lasts."""
    listener = PlainProgress(stream, clock)
    listener.line(f"{plural(len(names), 'kernel')}: {', '.join(names)}")
    with listener.ticking():
        yield listener


@dataclass
class _Kernel:
    """The last known state of a kernel; times are of the clock."""

    progress: Progress
    since: float  # when its stage began
    said: float  # when a line on it was written


class PlainProgress:
    """Writes stage changes and verdicts, ``[ 12.3s] debian-6.1: booting``, not each check.

    A line is written in the caller's thread, so that it appears before anything later can fail.
    Nothing is written to a stream that is gone. :meth:`tick` reports how long a stage takes.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._writer = Writer(stream)
        self._glyphs = glyphs_for(stream)
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._kernels: dict[str, _Kernel] = {}

    def __call__(self, progress: Progress, /) -> None:
        if not progress.kernel:
            self.line(progress.detail)
        elif self._is_due(progress):
            self.line(f"{progress.kernel}: {_sentence(progress)}")

    def _is_due(self, progress: Progress) -> bool:
        """Whether to write a line: for a new stage, a step of preparation, a retry; now and then
        for rounds."""
        now = self._clock()
        with self._lock:
            known = self._kernels.get(progress.kernel)
            if known is None or known.progress.stage is not progress.stage:
                known = _Kernel(progress, now, now)
                self._kernels[progress.kernel] = known
                return progress.stage is not Stage.QUEUED
            another = progress.detail != known.progress.detail
            known.progress = progress
            due = (
                progress.stage is Stage.RETRYING
                or (progress.stage is Stage.PREPARING and another)
                or (progress.stage is Stage.REPEATING and now - known.said >= EVERY)
            )
            if due:
                known.said = now
            return due

    def tick(self) -> None:
        """Write a line for each active kernel that had none for EVERY seconds."""
        now = self._clock()
        due = []
        with self._lock:
            for name, known in self._kernels.items():
                at_work = known.progress.stage not in (Stage.QUEUED, Stage.DONE)
                if at_work and now - known.said >= EVERY:
                    known.said = now
                    due.append((name, known.progress, now - known.since))
        for name, progress, seconds in due:
            self.line(f"{name}: {_sentence(progress, going_on=True)}, for {seconds:.0f} s")

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Calls :meth:`tick` often enough, from another thread."""
        with periodic.every(EVERY / 6, self.tick, "progress"):
            yield

    def line(self, text: str) -> None:
        with self._lock:
            elapsed = self._clock() - self._start
            self._writer.write(f"[{elapsed:5.1f}s] {self._glyphs.safe(text, 4096)}\n")


def _sentence(progress: Progress, *, going_on: bool = False) -> str:
    if progress.stage is Stage.CHECKING and going_on:
        return f"checking, {progress.done} of {plural(progress.planned, 'result')}"
    if progress.stage is Stage.CHECKING:  # its detail is the check that is running
        return f"checking, {plural(progress.planned, 'result')} planned"
    if progress.stage is Stage.REPEATING:
        rounds = plural(progress.planned or progress.done, "round")
        of = f"{progress.done} of " if progress.planned else ""
        return f"{of}{rounds}, {progress.detail}"
    word = progress.verdict if progress.stage is Stage.DONE else progress.stage
    return f"{word}: {progress.detail}" if progress.detail else word
