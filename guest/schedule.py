# SPDX-License-Identifier: GPL-2.0-only
"""Runs the scenarios' processes, and turns what they say into results.

Scenarios that mostly wait run at the same time, those that keep the processor busy one after
another: one process for both families, which it goes through in turn. A process that dies, or whose
check does not end in time, fails that check and loses the rest of its scenario in that family; the
others go on.
"""

from __future__ import annotations

import select
import time

from guest import events, isolation
from guest.child import READY, SETUP_FAILED, Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Protocol, Sequence

    from guest.child import Item, Job

    class Report(Protocol):
        """What is told of a check, by its number in the plan."""

        def start(self, index: int) -> None: ...
        def result(self, index: int, verdict: str, told: Mapping[str, str]) -> None: ...

    class Sink(Protocol):
        """Takes events, and lets them wait while they are held."""

        def emit(self, kind: str, **fields: Any) -> None: ...
        def hold(self, on: bool) -> None: ...


#: Scenarios that wait and run at once.
MAX_WAITING = 8
#: Once a check did not end in time, others get a quarter of theirs, but no less than this: a kernel
#: on which many hang is not waited for as often.
IMPATIENT_S = 15.0
#: Seconds in which what was killed should have ended.
LINGER_S = 1.0
#: Seconds in which the children are left alone, unless one ends or waits for its turn. Each look
#: at them takes the processor from the one that runs.
NAP_S = 0.2


class Schedule:
    """One round of ``jobs``, told to ``report``, which writes to ``sink``."""

    def __init__(self, jobs: Sequence[Job], report: Report, sink: Sink) -> None:
        self._waiting = [[job] for job in jobs if job.scenario.waits]
        self._busy = _by_scenario([job for job in jobs if not job.scenario.waits])
        self._report = report
        self._sink = sink
        self._last_word = time.monotonic()
        self._impatient = False
        self._poll = select.poll()
        self._runs: list[_Run] = []

    def run(self) -> None:
        """Run them all, and leave no process behind."""
        spared = isolation.children()
        isolation.adopt_orphans(True)
        isolation.keep_memory()
        try:
            self._begin()
            while self._runs:
                self._serve()
                self._begin()
        finally:
            for run in self._runs:
                run.child.kill()
            self._clean_up(spared)
            isolation.adopt_orphans(False)

    def _clean_up(self, spared: Sequence[int]) -> None:
        """Kill every other child: orphans that left their session come to us one by one."""
        deadline = time.monotonic() + LINGER_S
        while time.monotonic() < deadline:
            isolation.reap_killed()
            left = [pid for pid in isolation.children() if pid not in spared]
            if not left:
                return
            for pid in left:
                isolation.kill(pid)
            time.sleep(0.001)

    def _begin(self) -> None:
        """Start what may run now. Scenarios that wait come first: they take the longest."""
        # A job of which nothing can run on this kernel is over at once: then the next one begins.
        while self._waiting and self._count_waiting() < MAX_WAITING:
            self._start(self._waiting.pop(0))
        while self._busy and self._count_waiting() == len(self._runs):
            self._start(self._busy.pop(0))

    def _count_waiting(self) -> int:
        return sum(run.job.scenario.waits for run in self._runs)

    def _start(self, jobs: Sequence[Job]) -> None:
        run = _Run(jobs)
        if not self._find_work(run):
            return
        # Before the fork, so that what the setup does to the kernel is charged to it.
        self._report.start(run.item.index)
        try:
            run.child = Child(run.jobs)
        except OSError as error:
            self._give_up(run, str(error))
            self._start_rest(run)
            return
        self._runs.append(run)
        for fd in run.child.signs:
            self._poll.register(fd, select.POLLIN)

    def _start_rest(self, run: _Run) -> None:
        """Have the other families' jobs run in a process of their own."""
        if run.jobs[1:]:
            self._busy.insert(0, run.jobs[1:])

    def _find_work(self, run: _Run) -> bool:
        """Pass over jobs of which nothing can run. Whether a check is left in any."""
        while not self._advance(run):
            if not run.next_job():
                return False
        return True

    def _advance(self, run: _Run) -> bool:
        """Pass over what cannot run on this kernel. Whether a check is left in this job."""
        items = run.job.items
        while run.at < len(items) and items[run.at].lacking:
            self._skip(items[run.at])
            run.at += 1
        return run.at < len(items)

    def _skip(self, item: Item) -> None:
        self._report.start(item.index)
        self._say(item, events.UNSUPPORTED, {"detail": item.lacking})

    def _serve(self) -> None:
        """Give the children time, and take what they have said meanwhile, all at once."""
        readable = {fd for fd, _ in self._poll.poll(1000 * NAP_S)}
        self._sink.hold(True)
        for run in list(self._runs):
            run.child.note(readable)
            if self._hear(run, run.child.silent or run.child.process in readable):
                self._finish(run)
            elif time.monotonic() - run.child.since > self._deadline_s(run):
                self._expire(run)
        if self._runs and time.monotonic() - self._last_word >= events.ALIVE_S:
            self._sink.emit("alive")
            self._last_word = time.monotonic()
        self._sink.hold(False)

    def _deadline_s(self, run: _Run) -> float:
        """For one check, or for the setup."""
        whole = run.job.scenario.deadline_s
        return min(whole, max(IMPATIENT_S, whole / 4)) if self._impatient else whole

    def _hear(self, run: _Run, may_have_ended: bool) -> bool:
        """Take what the child has said. Whether it is done with, one way or another."""
        ended = run.child.ended() if may_have_ended else None  # before it is read to the end
        try:
            for record in run.child.read():
                if self._take(run, record):
                    return ended is not None or not self._go_on(run)
        except (ValueError, IndexError) as error:
            self._stop(run, "its process wrote no result: %s" % error)
            return True
        if ended is not None:
            from guest import postmortem

            self._stop(run, "its process " + postmortem.ending(ended))
            return True
        return False

    def _go_on(self, run: _Run) -> bool:
        """Have the child begin with the next of its jobs, if there is one."""
        if not run.child.ready or not run.next_job() or not self._find_work(run):
            return False
        self._report.start(run.item.index)
        run.child.begin(run.job)
        return True

    def _take(self, run: _Run, record: Sequence[str]) -> bool:
        """One record. Whether it was the last of this job."""
        if record[0] == READY:
            run.child.ready = True
            run.child.since = time.monotonic()
            return False
        if record[0] == SETUP_FAILED:
            self._give_up(run, record[1])
            return True
        if record[0] not in events.VERDICTS:
            raise ValueError(record[0][:100])
        told = dict(zip(record[1::2], record[2::2]))
        self._say(run.item, record[0], told)
        run.at += 1
        if not self._advance(run):
            return True
        self._report.start(run.item.index)
        run.child.since = time.monotonic()
        return False

    def _say(self, item: Item, verdict: str, told: Mapping[str, str]) -> None:
        self._report.result(item.index, verdict, told)
        self._last_word = time.monotonic()

    def _expire(self, run: _Run) -> None:
        """The check that runs has taken too long: what the process does, and its end."""
        from guest import postmortem

        seconds = self._deadline_s(run)
        doing = postmortem.doing(run.child.pid)
        place = postmortem.place(run.child.place_in_python())
        if place:
            doing += "; in Python: " + place
        self._impatient = True
        self._stop(run, "it did not end within %.0f s" % seconds, doing)
        self._finish(run)

    def _stop(self, run: _Run, how: str, got: str = "") -> None:
        """The check that runs fails, and the rest of its scenario is not run."""
        if not run.child.ready:
            self._give_up(run, "%s%s" % (how, "; " + got if got else ""))
            return
        self._say(
            run.item, events.FAIL, {"detail": how, "expected": "a result", "got": got or "none"}
        )
        why = "not run after %s: %s" % (run.item, how)
        for item in run.job.items[run.at + 1 :]:
            if item.lacking:
                self._skip(item)
            else:
                self._say(item, events.LOST, {"detail": why})

    def _give_up(self, run: _Run, why: str) -> None:
        """The scenario could not be prepared: an error of each of its checks."""
        detail = "the scenario %s cannot be prepared: %s" % (run.job.scenario.name, why)
        for item in run.job.items[run.at :]:
            if item.lacking:
                self._skip(item)
                continue
            if item is not run.item:
                self._report.start(item.index)
            self._say(item, events.ERROR, {"detail": detail})

    def _finish(self, run: _Run) -> None:
        self._runs.remove(run)
        for fd in run.child.signs:
            self._poll.unregister(fd)
        run.child.kill()
        isolation.reap_killed()
        self._start_rest(run)


class _Run:
    """Jobs under way, of which the first runs: its process, and which of its items."""

    child: Child

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.at = 0

    @property
    def job(self) -> Job:
        return self.jobs[0]

    @property
    def item(self) -> Item:
        return self.job.items[self.at]

    def next_job(self) -> bool:
        """Turn to the next job. Whether there is one; else the last one stays."""
        if not self.jobs[1:]:
            return False
        self.jobs = self.jobs[1:]
        self.at = 0
        return True


def _by_scenario(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    """The jobs that one process runs in turn: those of one scenario."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.scenario.name, []).append(job)
    return list(found.values())
