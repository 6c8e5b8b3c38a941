# SPDX-License-Identifier: GPL-2.0-only
"""Runs the processes of scenarios, and turns their records into results.

Scenarios that mostly wait run concurrently; those that keep the processor busy run one after
another, with one process for both families in turn. If a process dies, or a check does not end in
time, that check fails and the rest of its scenario in that family is lost; the others continue.
"""

from __future__ import annotations

import select
import time

from guest import events, isolation, lab
from guest.child import READY, SETUP_FAILED, Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Protocol, Sequence

    from guest.child import Item, Job

    class Report(Protocol):
        """Reports on a check, by its number in the plan."""

        def start(self, index: int) -> None: ...
        def result(self, index: int, verdict: str, told: Mapping[str, str]) -> None: ...

    class Sink(Protocol):
        """Receives events, and delays them while they are held."""

        def emit(self, kind: str, **fields: Any) -> None: ...
        def hold(self, on: bool) -> None: ...


#: The most waiting scenarios that run concurrently.
MAX_WAITING = 8
#: After a check did not end in time, the others get a quarter of their deadlines, but at least
#: this, to save time on a kernel on which many checks hang.
IMPATIENT_S = 15.0
#: Seconds for killed processes to end.
LINGER_S = 1.0
#: Seconds between looks at the children, unless one ends or waits for its turn. Each look takes the
#: processor from the running child.
NAP_S = 0.2


class Schedule:
    """One round of ``jobs``, reported to ``report``, which writes to ``sink``.

    ``slowness`` multiplies the deadlines of their checks, and the time of each wait in them.
    """

    def __init__(
        self, jobs: Sequence[Job], report: Report, sink: Sink, slowness: float = 1.0
    ) -> None:
        self._slowness = slowness
        self._waiting = [[job] for job in jobs if job.scenario.waits]
        self._busy = _by_scenario([job for job in jobs if not job.scenario.waits])
        self._report = report
        self._sink = sink
        self._last_word = time.monotonic()
        self._impatient = False
        self._poll = select.poll()
        self._runs: list[_Run] = []

    def run(self) -> None:
        """Run all jobs, and leave no process behind."""
        spared = isolation.children()
        isolation.adopt_orphans(True)
        isolation.keep_memory()
        isolation.long_slices(True)
        lab.wait_longer(self._slowness)
        try:
            self._begin()
            while self._runs:
                self._serve()
                self._begin()
        finally:
            for run in self._runs:
                run.child.kill()
            self._clean_up(spared)
            isolation.long_slices(False)
            isolation.adopt_orphans(False)

    def _clean_up(self, spared: Sequence[int]) -> None:
        """Kill all other children: orphans that left their session become our children one by
        one."""
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
        """Start the jobs that may run now. Waiting scenarios come first, because they take
        longest."""
        # A job without a check that can run is over at once; then the next one begins.
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
        # Before the fork, so that a crash in the setup is charged to this scenario.
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
        """Start a new process for the other families' jobs."""
        if run.jobs[1:]:
            self._busy.insert(0, run.jobs[1:])

    def _find_work(self, run: _Run) -> bool:
        """Skip jobs of which nothing can run; returns whether any check is left."""
        while not self._advance(run):
            if not run.next_job():
                return False
        return True

    def _advance(self, run: _Run) -> bool:
        """Skip checks that cannot run on this kernel; returns whether one is left in this job."""
        items = run.job.items
        while run.at < len(items) and items[run.at].lacking:
            self._skip(items[run.at])
            run.at += 1
        return run.at < len(items)

    def _skip(self, item: Item) -> None:
        self._report.start(item.index)
        self._say(item, events.UNSUPPORTED, {"detail": item.lacking})

    def _serve(self) -> None:
        """Let the children run for a while, then read all their records."""
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
        """The deadline of one check, or of the setup."""
        whole = run.job.scenario.deadline_s
        impatient = min(whole, max(IMPATIENT_S, whole / 4))
        return self._slowness * (impatient if self._impatient else whole)

    def _hear(self, run: _Run, may_have_ended: bool) -> bool:
        """Read the records of the child; returns whether it is finished."""
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
        """Let the child begin with its next job; returns whether there is one."""
        if not run.child.ready or not run.next_job() or not self._find_work(run):
            return False
        self._report.start(run.item.index)
        run.child.begin(run.job)
        return True

    def _take(self, run: _Run, record: Sequence[str]) -> bool:
        """Handle one record; returns whether it was the last of this job."""
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
        """The running check has exceeded its deadline: describe and kill the process."""
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
        """Fail the running check, and mark the rest of its scenario as not run."""
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
        """The setup failed, which is an error of each check."""
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
    """A child with its jobs; the first one runs, at one of its items."""

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
        """Switch to the next job; returns whether there is one."""
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
