# SPDX-License-Identifier: GPL-2.0-only
"""Programs of the host that must not outlive the harness, and the time for which it ran.

Standard library only. Neither a death signal nor a process group alone ends them in time: the
one is not inherited by grandchildren, and for the other somebody must be left to send a signal.
So each program has a supervisor.
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

#: Seconds between looks at the request to stop.
TICK = 0.1
#: Seconds between two words about a program that goes on.
SAY_EVERY = 30.0
#: The exit status of a command whose supervisor was killed by someone else.
_KILLED = 128 + signal.SIGKILL


class Supervised:
    """A command under its supervisor: started on entry, gone on exit with all it started.

    ``exited`` is a descriptor that is readable once the command, or its supervisor, has ended.
    Should the harness die, the directory ``removing`` goes with the command.
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
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            self.exited, status = os.pipe()
            ours.callback(os.close, self.exited)
            theirs.callback(os.close, status)
            os.set_blocking(self.exited, False)
            lifeline, our_end = os.pipe()
            theirs.callback(os.close, lifeline)
            ours.callback(os.close, our_end)
            # Not -m: the supervisor must start in milliseconds, without our packages.
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
        """End the whole group at once. Its leader, the supervisor, is not waited for before the
        exit of this context, so that the number of the group cannot have become a stranger's."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def exit_status(self) -> int | None:
        """The status of the command, as a shell says it; None while it runs."""
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
        """The exit status, once there is one. ``waiting`` is told every SAY_EVERY how long it took.

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
        # Not the supervisor alone: its orphans are our children, see adopt_orphans, and where we
        # are the first process of a container.
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitid(os.P_PGID, process.pid, os.WEXITED)
        process.wait()


def adopt_orphans() -> None:
    """Become the parent of those in our groups whose own has ended (PR_SET_CHILD_SUBREAPER).

    :class:`Supervised` collects them. Else the first process of a container, which is often none
    that cares, would have four dead children more with each boot.
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
    pass_fds: Sequence[int] = (),
    waiting: Callable[[float], None] = lambda _: None,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end, without input, and return its output.

    ``waiting`` is told every SAY_EVERY how many seconds it has taken.

    Raises :class:`Interrupted` once ``stop`` is set, subprocess.TimeoutExpired after ``timeout``
    seconds; the command and all it started are gone then.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with Supervised(
            command,
            environment,
            output=output,
            errors=errors,
            directory=directory,
            pass_fds=pass_fds,
        ) as kept:
            status = kept.wait(stop, timeout, waiting)
        texts = (_text(file) for file in (output, errors))
        return subprocess.CompletedProcess(list(command), status, *texts)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


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
