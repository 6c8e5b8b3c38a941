# SPDX-License-Identifier: GPL-2.0-only
"""Runs programs that must not outlive the harness; and a clock that ignores pauses.

Standard library only. Neither a death signal nor a process group is enough: grandchildren do not
inherit the former, and the latter needs a process that sends a signal. So each program has a
supervisor.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from harness.errors import Interrupted
from harness.host import supervisor

#: Seconds between checks of the stop request.
TICK = 0.1
#: Seconds between progress messages about a running program.
SAY_EVERY = 30.0
#: The exit status of a command whose supervisor was killed from outside.
_KILLED = 128 + signal.SIGKILL


class Supervised:
    """A command under its supervisor: started on entry, ended on exit with all its children.

    ``exited`` is a descriptor that is readable once the command, or its supervisor, has ended. If
    the harness dies, the directory ``removing`` is removed after the command has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        output: IO[bytes] | int,
        errors: IO[bytes] | int,
        directory: Path | None = None,
        removing: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._command = command
        self._environment = environment
        self._output = output
        self._errors = errors
        self._directory = directory
        self._removing = removing
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        self.exited = -1

    def __enter__(self) -> Self:
        _adopt_orphans()
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            self.exited, status = os.pipe()
            ours.callback(os.close, self.exited)
            theirs.callback(os.close, status)
            os.set_blocking(self.exited, False)
            lifeline, our_end = os.pipe()
            theirs.callback(os.close, lifeline)
            ours.callback(os.close, our_end)
            # Not -m: the supervisor must start in milliseconds, without importing our packages.
            keep = [sys.executable, "-I", "-S", str(supervisor.__file__)]
            self._process = subprocess.Popen(
                [*keep, str(status), str(self._removing or ""), *self._command],
                stdin=lifeline,
                stdout=self._output,
                stderr=self._errors,
                env=dict(self._environment),
                cwd=self._directory,
                start_new_session=True,
                pass_fds=(status, *self._pass_fds),
            )
            ours.callback(self._end, self._process)
            self._open = ours.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def kill(self) -> None:
        """Kill the whole group. Its leader, the supervisor, is only reaped at the exit of this
        context, so that the id of the group cannot be reused."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def exit_status(self) -> int | None:
        """The exit status of the command, as in a shell; None while it runs."""
        if self._status is None:
            try:
                said = os.read(self.exited, 1)
            except BlockingIOError:
                return None
            self._status = said[0] if said else _KILLED
        return self._status

    def wait(
        self,
        stop: threading.Event,
        timeout: float,
        waiting: Callable[[float], None] = lambda _: None,
    ) -> int:
        """Wait for the exit status. ``waiting`` is called every SAY_EVERY seconds with the elapsed
        time.

        Raises :class:`Interrupted` or, after ``timeout`` seconds, subprocess.TimeoutExpired.
        """
        clock = RunningClock()
        began = said = clock.now()
        deadline = began + timeout
        poll = select.poll()
        poll.register(self.exited, select.POLLIN)
        while (status := self.exit_status()) is None:
            if stop.is_set():
                raise Interrupted(f"{self._command[0]} was ended")
            now = clock.now()
            if now - said >= SAY_EVERY:
                said = now
                waiting(now - began)
            left = deadline - now
            if left <= 0:
                raise subprocess.TimeoutExpired(list(self._command), timeout)
            poll.poll(1000 * min(left, TICK))
        return status

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self.kill()
        # Not only the supervisor: its orphans are our children, see _adopt_orphans, and also if we
        # are the first process of a container.
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitid(os.P_PGID, process.pid, os.WEXITED)
        process.wait()


def _adopt_orphans() -> None:
    """Become the parent of orphans of our process groups (PR_SET_CHILD_SUBREAPER).

    :class:`Supervised` reaps them. Otherwise the first process of a container, which often does not
    reap children, would get four zombies with each boot.
    """
    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stop: threading.Event,
    timeout: float,
    directory: Path | None = None,
    removing: Path | None = None,
    pass_fds: Sequence[int] = (),
    waiting: Callable[[float], None] = lambda _: None,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` without input, and return its output.

    ``waiting`` is called every SAY_EVERY seconds with the elapsed time. ``removing`` is as in
    :class:`Supervised`.

    Raises :class:`Interrupted` once ``stop`` is set, subprocess.TimeoutExpired after ``timeout``
    seconds, after the command and all its children have ended.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with Supervised(
            command,
            environment,
            output=output,
            errors=errors,
            directory=directory,
            removing=removing,
            pass_fds=pass_fds,
        ) as kept:
            status = kept.wait(stop, timeout, waiting)
        texts = (_text(file) for file in (output, errors))
        return subprocess.CompletedProcess(list(command), status, *texts)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


#: Seconds for which a busy host may leave a process waiting between two calls of the clock. Its
#: users call it several times a second.
LONGEST = 3.0


class RunningClock:
    """Monotonic seconds during which this process ran, for deadlines that must not count pauses.

    A process does not run while it is stopped (SIGSTOP, a debugger, a paused container) or while
    the machine is suspended. That shows as a gap between two calls of :meth:`now`, of which only a
    moment counts. ``stopped_s`` is the time that did not count so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self.stopped_s = 0.0

    def now(self) -> float:
        """The current time. Must be called several times a second."""
        now = self._clock()
        gap = now - self._last
        self._last = now
        if gap > LONGEST:
            self.stopped_s += gap
        return now - self.stopped_s
