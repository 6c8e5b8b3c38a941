# SPDX-License-Identifier: GPL-2.0-only
"""Runs the user's programs after the checks, each in its own process, session and network
namespace.

/opt/commands has a file for each run: the number of the program, its name and its arguments,
separated by NULs. The program is /opt/program/NUMBER/NAME.
"""

from __future__ import annotations

import os
import select
import time

from guest import events, isolation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

PLACE, COMMANDS = "/opt/program", "/opt/commands"
#: The last bytes of a program's output that are kept.
TAIL = 1500
#: How it ended.
EXIT, SIGNAL, DEADLINE, NOT_RUN = "exit", "signal", "deadline", "not-run"
_ENVIRONMENT = {"PATH": "/bin:/usr/bin", "HOME": "/", "LC_ALL": "C"}
#: Seconds for a killed program to end.
_GRACE_S = 2.0


def run_all(emitter: events.Emitter, deadline_s: float) -> int:
    """Run all programs and report their results. Returns the number of runs."""
    isolation.adopt_orphans(True)
    names = sorted(os.listdir(COMMANDS))
    for number, name in enumerate(names):
        with open("%s/%s" % (COMMANDS, name), "rb") as file:
            place, *words = file.read().split(b"\0")
        emitter.emit("program", p=number)
        path = b"%s/%s/%s" % (PLACE.encode(), place, words[0])
        started = time.monotonic()
        how, status, output = _Run(path, words, emitter, deadline_s).finish()
        emitter.emit(
            "ended",
            p=number,
            how=how,
            status=status,
            ms=int(1000 * (time.monotonic() - started)),
            output=output.decode("utf-8", "backslashreplace"),
        )
    return len(names)


class _Run:
    """One program under way."""

    def __init__(
        self, path: bytes, words: Sequence[bytes], emitter: events.Emitter, deadline_s: float
    ) -> None:
        self._emitter = emitter
        self._output = b""
        self._end = time.monotonic() + deadline_s
        self._said, said = os.pipe()
        self._failed, failed = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _become(path, words, said, failed, parent)
        os.close(said)
        os.close(failed)
        os.set_blocking(self._said, False)

    def finish(self) -> tuple[str, int, bytes]:
        """How the program ended, its exit status or signal, and the end of its output."""
        status = self._watch()
        isolation.kill_session(self._pid)
        if status is None:
            self._wait(_GRACE_S)
        self._read()
        why = os.read(self._failed, 1000)
        os.close(self._said)
        os.close(self._failed)
        isolation.reap_killed()
        if why:
            return NOT_RUN, 0, why
        if status is None:
            return DEADLINE, 0, self._output
        if os.WIFSIGNALED(status):
            return SIGNAL, os.WTERMSIG(status), self._output
        return EXIT, os.WEXITSTATUS(status), self._output

    def _watch(self) -> Optional[int]:
        """Its wait status; None if it did not end in time."""
        word = time.monotonic()
        while True:
            status = self._wait(0.05)
            if status is not None:
                return status
            now = time.monotonic()
            if now > self._end:
                return None
            if now - word >= events.ALIVE_S:
                self._emitter.emit("alive")
                word = now

    def _wait(self, seconds: float) -> Optional[int]:
        """Read its output for at most so long; returns its wait status once it has ended."""
        end = time.monotonic() + seconds
        while True:
            status = isolation.reap(self._pid)
            left = end - time.monotonic()
            if status is not None or left <= 0:
                return status
            if not select.select([self._said], [], [], min(left, 0.05))[0]:
                continue
            if not self._read():
                time.sleep(min(left, 0.05))  # it has closed its output but still runs

    def _read(self) -> bool:
        """Read at most one pipe full, because output may be endless; returns whether more may
        come."""
        for _ in range(16):
            try:
                data = os.read(self._said, 1 << 12)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._output = (self._output + data)[-TAIL:]
        return True


def _become(path: bytes, words: Sequence[bytes], said: int, failed: int, parent: int) -> None:
    """Turn this process into the program."""
    try:
        isolation.enter(parent)
        if not isolation.unavailable():
            isolation.isolate()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir("/")
        os.execve(path, list(words), _ENVIRONMENT)  # noqa: S606  (there is no shell to start it)
    except BaseException as error:
        os.write(failed, str(error).encode())
    os._exit(127)
