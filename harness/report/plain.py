# SPDX-License-Identifier: GPL-2.0-only
"""A run's progress without a terminal: one line per event that matters, each flushed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from harness.report.terminal import Writer, glyphs_for
from harness.run.progress import Listener, Progress, Stage
from harness.text import plural

#: Seconds between lines on the rounds of one kernel.
REPEATING_EVERY = 30.0


@contextmanager
def plain(
    names: Sequence[str], stream: TextIO, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Listener]:
    """A listener that writes to ``stream`` while the run of the kernels ``names`` lasts."""
    listener = PlainProgress(stream, clock)
    listener.line(f"{plural(len(names), 'kernel')}: {', '.join(names)}")
    yield listener


class PlainProgress:
    """Writes stage changes and verdicts, ``[ 12.3s] debian-6.1: booting``, not each check.

    A line is written in the caller's thread, so that it is out before what follows it can go
    wrong; a stream that is gone is no longer written to.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._writer = Writer(stream)
        self._glyphs = glyphs_for(stream)
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._stages: dict[str, Stage] = {}
        self._said: dict[str, float] = {}  # when a line on its rounds was written, by kernel

    def __call__(self, progress: Progress, /) -> None:
        with self._lock:
            known = self._stages.get(progress.kernel)
            self._stages[progress.kernel] = progress.stage
            due = self._is_due(progress, known)
        if not progress.kernel:
            self.line(progress.detail)
        elif due:
            self.line(f"{progress.kernel}: {_sentence(progress)}")

    def _is_due(self, progress: Progress, known: Stage | None) -> bool:
        """A new stage, another try, and now and then how far the rounds are."""
        if progress.stage is Stage.REPEATING:
            now = self._clock()
            due = now - self._said.get(progress.kernel, -REPEATING_EVERY) >= REPEATING_EVERY
            if due:
                self._said[progress.kernel] = now
            return due
        return progress.stage is Stage.RETRYING or (
            progress.stage is not known and progress.stage is not Stage.QUEUED
        )

    def line(self, text: str) -> None:
        with self._lock:
            elapsed = self._clock() - self._start
            self._writer.write(f"[{elapsed:5.1f}s] {self._glyphs.safe(text, 4096)}\n")


def _sentence(progress: Progress) -> str:
    if progress.stage is Stage.CHECKING:  # its detail is the check that happens to run
        return f"checking, {plural(progress.planned, 'result')} planned"
    if progress.stage is Stage.REPEATING:
        rounds = plural(progress.planned or progress.done, "round")
        of = f"{progress.done} of " if progress.planned else ""
        return f"{of}{rounds}, {progress.detail}"
    word = progress.verdict if progress.stage is Stage.DONE else progress.stage
    return f"{word}: {progress.detail}" if progress.detail else word
