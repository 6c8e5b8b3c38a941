# SPDX-License-Identifier: GPL-2.0-only
"""Time that this process has run. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds between two looks at the clock in which a busy host may leave a process waiting. The
#: clock's users look several times a second.
LONGEST = 3.0


class RunningClock:
    """Monotonic seconds in which this process ran: a deadline must not count its own stops.

    A process does not run while it is stopped (SIGSTOP, a debugger, a paused container) or while
    the machine is suspended. That shows as a gap between two calls of :meth:`now`, of which a
    moment counts. ``stopped_s`` is what did not count so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self.stopped_s = 0.0

    def now(self) -> float:
        """The time; to be called several times a second."""
        now = self._clock()
        gap = now - self._last
        self._last = now
        if gap > LONGEST:
            self.stopped_s += gap
        return now - self.stopped_s
