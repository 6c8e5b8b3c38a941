# SPDX-License-Identifier: GPL-2.0-only
"""One process that runs the checks of one scenario, in one family or in both.

It is forked from the checker, so that it imports nothing, and reports the outcome of each check to
its parent through a pipe. The parent reads several at a time, because a switch between processes
costs an emulated processor more than most checks do. A check that crashes the kernel must have been
named before, so the child itself reports the next check. Between two families it waits until the
parent has reported all of the first family and the start of the second. Each family has its own
network namespace.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select
import struct
import time

from guest import checks, events, isolation
from guest.lab import Lab

try:
    import faulthandler  # here, or each process would import it
except ImportError:
    faulthandler = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Collection, Iterator, Mapping, Optional, Sequence

    from guest.checks import Check
    from guest.scenarios import Scenario

    Outcome = tuple[str, Mapping[str, str]]
    Judge = Callable[[Check, Lab], Outcome]

#: Length of a record's text in bytes.
_LENGTH = struct.Struct("=I")
_MAX_RECORD = 1 << 20
#: Values of the first field of a record other than verdicts.
READY, SETUP_FAILED = "ready", "setup failed"
_SIGUSR1, _SIGPIPE = 10, 13
#: Seconds in which a process that still handles signals reports its position.
_ANSWER_S = 1.0
#: Descriptors that the checker has, at most.
_FILES = 256
#: A check's seed is below this prime.
_SEEDS = (1 << 61) - 1
#: Spreads the seeds of similar names further apart than those of runs.
_FACTOR = 0x9E3779B97F4A7C15


class Item:
    """A planned result: the check, where it runs, and its number in the plan.

    ``lacking`` is the absent capability that it needs, or "".
    """

    __slots__ = ("check", "index", "lacking", "phase", "side")

    def __init__(self, index: int, check: Check, phase: str, side: str, lacking: str = "") -> None:
        self.index = index
        self.lacking = lacking
        self.check = check
        self.phase = phase
        self.side = side

    def __str__(self) -> str:
        return "%s (%s/%s)" % (self.check.id, self.phase, self.side)


class Job:
    """The ``items`` of ``scenario`` that one process runs with sockets of ``family``.

    ``port`` is the descriptor to which it reports the next check, or -1.
    """

    def __init__(
        self,
        scenario: Scenario,
        family: int,
        items: Sequence[Item],
        seed: int,
        judge: Judge,
        port: int = -1,
    ) -> None:
        self.scenario = scenario
        self.family = family
        self.items = items
        self.seed = seed
        self.judge = judge
        self.port = port


def seed_of(seed: int, item: Item) -> int:
    """The seed of a check, from that of the run or round: the same on every kernel."""
    name = "%s/%s/%s" % (item.check.id, item.phase, item.side)
    return (seed + _FACTOR * int.from_bytes(name.encode(), "big")) % _SEEDS


class Child:
    """The process, as its parent sees it."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.silent = False  # it has closed its pipe, and ends
        self._buffer = b""
        self._watch(jobs[0])
        self.records, records = os.pipe()
        turns = (os.pipe(), os.pipe()) if len(jobs) > 1 else ()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _work(jobs, parent, records, *([turns[0][0], turns[1][1]] if turns else []))
            except BaseException as error:
                said = "%s: %s: %s\n" % (jobs[0].scenario.name, type(error).__name__, error)
                os.write(2, said.encode("utf-8", "backslashreplace"))
            finally:
                os._exit(70)
        os.close(records)
        os.set_blocking(self.records, False)
        self.process = _pidfd(self.pid)
        self._turn = self._done = -1
        if turns:
            (theirs, self._turn), (self._done, also_theirs) = turns
            os.close(theirs)
            os.close(also_theirs)

    def _watch(self, job: Job) -> None:
        self.ready = job.scenario.setup is None
        self.since = time.monotonic()

    @property
    def signs(self) -> Sequence[int]:
        """Descriptors that become readable when the child needs attention."""
        return [fd for fd in (self.process, self._done) if fd >= 0]

    def begin(self, job: Job) -> None:
        """Let the child begin with ``job``; it waits for its turn or soon will."""
        self._watch(job)
        os.write(self._turn, b"1")

    def note(self, readable: Collection[int]) -> None:
        """Consume the sign that it waits, so that it does not wake the parent again."""
        if self._done in readable:
            os.read(self._done, 1)

    def read(self) -> Iterator[Sequence[str]]:
        """The records that have arrived. Raises ValueError for an invalid one."""
        self._buffer += self._available()
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not 0 < length <= _MAX_RECORD:
                raise ValueError("a record of %d bytes" % length)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            text = self._buffer[_LENGTH.size : end].decode("utf-8", "surrogatepass")
            self._buffer = self._buffer[end:]
            yield text.split("\0")

    def _available(self) -> bytes:
        """The data that can be read without waiting."""
        data = b""
        size = 1 << 16
        try:
            while True:
                more = os.read(self.records, size)
                data += more
                if not more:
                    self.silent = True
                if len(more) < size:  # the rest, if any, makes the pipe readable again
                    return data
        except BlockingIOError:
            return data

    def ended(self) -> Optional[int]:
        """The wait status, once it has ended."""
        return isolation.reap(self.pid)

    def place_in_python(self) -> str:
        """The position of each of its threads, if it still handles signals."""
        try:
            os.kill(self.pid, _SIGUSR1)
        except OSError:
            return ""
        answer = select.poll()
        answer.register(self.records, select.POLLIN)
        if answer.poll(1000 * _ANSWER_S):
            time.sleep(0.05)  # it writes line by line
        return self._available().decode("ascii", "replace")

    def kill(self) -> None:
        """End it and its session, without waiting."""
        isolation.kill_session(self.pid)
        for fd in (self.records, self.process, self._turn, self._done):
            if fd >= 0:
                os.close(fd)


def _pidfd(pid: int) -> int:
    """A descriptor that becomes readable when ``pid`` ends, since Linux 5.3; or -1."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return -1


# From here on, in the child.


def _work(jobs: Sequence[Job], parent: int, records: int, turn: int = -1, done: int = -1) -> None:
    """Run the jobs to their end; does not return."""
    isolation.enter(parent)
    keep_only(0, 1, 2, *[fd for fd in (records, turn, done, jobs[0].port) if fd >= 0])
    _signal.signal(_SIGPIPE, _signal.SIG_IGN)  # checks look for the error instead
    _answer_signals(records)

    def tell(*fields: str) -> None:
        text = "\0".join(fields).encode("utf-8", "surrogatepass")
        data = _LENGTH.pack(len(text)) + text
        while data:
            data = data[os.write(records, data) :]

    # The parent skips jobs of which nothing can run, too.
    left = [job for job in jobs if not all(item.lacking for item in job.items)]
    for job in left:
        if job is not left[0]:
            os.write(done, b"1")
            os.read(turn, 1)
        prepared = Lab(job.family, seed=job.seed)
        failed = _set_up(job, prepared)
        if failed:
            tell(SETUP_FAILED, failed)
            os._exit(1)
        tell(READY)
        _run(job, tell)
    os._exit(0)


def _run(job: Job, tell: Callable[..., None]) -> None:
    me = os.getpid()
    left = [item for item in job.items if not item.lacking]
    for item in left:
        if item is not left[0] and job.port >= 0:
            os.write(job.port, events.at(item.index))
        verdict, told = _outcome(job, item)
        if os.getpid() != me:
            os._exit(1)  # a child that a check forked
        tell(verdict, *(part for name in told for part in (name, _short(told[name]))))


def keep_only(*wanted: int) -> None:
    """Close all other files, because checks must not use files of the checker."""
    first = 0
    for fd in (*sorted(wanted), _FILES):
        if first < fd:  # closerange() of an empty range closes all
            os.closerange(first, fd)
        first = fd + 1


def _answer_signals(records: int) -> None:
    """Make SIGUSR1 print the position of each thread, unless the kernel blocks it."""
    if faulthandler is not None:
        try:
            faulthandler.register(_SIGUSR1, file=records, all_threads=True)
        except (OSError, RuntimeError, ValueError):
            pass


def _set_up(job: Job, lab: Lab) -> str:
    """Prepare the namespace; returns why that is impossible, or ""."""
    try:
        isolation.isolate()
        if job.scenario.setup is not None:
            job.scenario.setup(lab)
    except checks.Failed as failed:
        return "%s: expected %s, got %s" % (failed.what, failed.expected, failed.got)
    except Exception as error:
        return "%s: %s" % (type(error).__name__, error)
    return ""


def _outcome(job: Job, item: Item) -> Outcome:
    lab = Lab(job.family, item.phase, item.side, seed_of(job.seed, item))
    verdict, told = job.judge(item.check, lab)
    try:
        lab.close()
    except Exception as error:
        if verdict == events.PASS:
            detail = "cleaning up after the check: %s: %s" % (type(error).__name__, error)
            return events.ERROR, {"detail": detail}
    return verdict, told


def _short(text: str) -> str:
    return text.replace("\0", " ")[: 2 * events.MAX_TEXT]
