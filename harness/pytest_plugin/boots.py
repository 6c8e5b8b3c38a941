# SPDX-License-Identifier: GPL-2.0-only
"""Boots the kernels of the selected tests, each once, while pytest waits for the results.

A session of harness.run boots them, in a thread: it is the same as that of `mptcp-harness matrix`,
with the same cache, locks, retries and records. The main thread stays pytest's, which is where
Ctrl-C arrives.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TextIO, cast

from guest import checks as guest_checks
from harness.errors import HarnessError, UsageError
from harness.kernels import Cache
from harness.manifest.entries import Accel, KernelEntry
from harness.manifest.plan import Plan, Profile
from harness.pytest_plugin.outcomes import KERNEL, Key, Kind, Outcome, outcomes
from harness.report import plain
from harness.run import session
from harness.run.request import Listener, Progress, RunRequest, Stage
from harness.text import printable
from harness.verdict.judge import CAPABILITY
from harness.verdict.results import Attempt, KernelResult, RunResult
from harness.verdict.verdicts import Family

#: Seconds between two looks for progress.
TICK = 0.2
#: The last bytes of a console that are shown where it has no report.
TAIL = 4096


@dataclass(frozen=True)
class Settings:
    """The options of the command line. ``workers`` is the number of pytest-xdist's workers."""

    profile: Profile = Profile.FULL
    accel: Accel | None = None
    jobs: int | None = None
    seed: int | None = None
    confirm: int = 0
    reuse: bool = False
    resume: bool = False
    cache: Path | None = None
    workers: int = 0


@dataclass(frozen=True)
class Wanted:
    """A kernel of ``manifest`` with the tests that are selected, in their order."""

    manifest: Path
    entry: KernelEntry
    keys: tuple[Key, ...]


@dataclass
class _Told:
    """What a session has printed so far."""

    outcomes: dict[str, Mapping[Key, Outcome]] = field(default_factory=dict)
    results: dict[str, KernelResult] = field(default_factory=dict)
    lines: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    stages: dict[str, str] = field(default_factory=dict)  # of the kernels that are being tested
    changed: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    run: RunResult | None = None
    failure: BaseException | None = None


class Screen(Protocol):
    """The display of progress, always in the main thread."""

    def line(self, text: str) -> None:
        """Show ``text`` for good."""

    def now(self, text: str) -> None:
        """Show ``text`` until the next call."""

    def end(self) -> None:
        """Stop showing progress, because pytest prints next."""


class Boots:
    """The boots of one run of pytest."""

    def __init__(self, settings: Settings, screen: Screen) -> None:
        self._settings = settings
        self._screen = screen
        self._wanted: dict[tuple[Path, str], Wanted] = {}
        self._sessions: dict[tuple[Path, str], _Told] = {}
        self._running: tuple[threading.Thread, _Told] | None = None
        self._cache = Cache(settings.cache)
        self.told: list[_Told] = []

    @property
    def cache(self) -> Cache:
        return self._cache

    def select(self, wanted: Sequence[Wanted]) -> None:
        """Say which tests are selected, before the first :meth:`outcome`."""
        self._wanted = {(one.manifest, one.entry.name): one for one in wanted}

    def outcome(self, manifest: Path, name: str, key: Key) -> Outcome:
        """The outcome of a test of the kernel ``name``, which is booted if it was not yet."""
        place = (manifest, name)
        if place not in self._sessions:
            self._wait_for_end()
            self._start(self._wanted[place])
        told = self._sessions[place]
        if name not in told.outcomes:
            while name not in told.outcomes and not told.over.is_set():
                self._wait(told)
            self._show(told)
            self._screen.end()
        if name in told.outcomes:
            return told.outcomes[name][key]
        return Outcome(Kind.ERROR, f"infrastructure: {_why(told)}")

    def result(self, manifest: Path, name: str) -> KernelResult | None:
        told = self._sessions.get((manifest, name))
        return told.results.get(name) if told else None

    def stop(self) -> None:
        """End the VMs that still run, and wait for their end."""
        self._cache.stop.set()
        if self._running is not None:
            self._running[0].join()

    def _wait(self, told: _Told) -> None:
        try:
            told.changed.wait(TICK)
            told.changed.clear()
            self._show(told)
        except BaseException:  # Ctrl-C
            self.stop()
            raise

    def _wait_for_end(self) -> None:
        """Wait for a session with another plan: two would share the processors unequally."""
        while self._running is not None and not self._running[1].over.is_set():
            self._wait(self._running[1])

    def _show(self, told: _Told) -> None:
        while not told.lines.empty():
            self._screen.line(told.lines.get())
        self._screen.now(", ".join(told.stages.copy().values()))

    def _start(self, first: Wanted) -> None:
        """Boot ``first``, and all other kernels that were not booted and have the same plan.

        A worker of pytest-xdist boots only the kernel that it was given.
        """
        plan = self._plan(first)
        together = [first] if self._settings.workers else self._alike(first, plan)
        told = _Told()
        self.told.append(told)
        for one in together:
            self._sessions[one.manifest, one.entry.name] = told
        thread = threading.Thread(
            target=self._run, args=(together, plan, told), name="kernels", daemon=True
        )
        self._running = (thread, told)
        thread.start()

    def _alike(self, first: Wanted, plan: Plan) -> list[Wanted]:
        return [
            one
            for place, one in self._wanted.items()
            if place not in self._sessions
            and one.manifest == first.manifest
            and self._plan(one) == plan
        ]

    def _plan(self, wanted: Wanted) -> Plan:
        return plan_of(wanted.keys, self._settings.profile, self._settings.seed)

    def _run(self, together: Sequence[Wanted], plan: Plan, told: _Told) -> None:
        keys = {one.entry.name: one.keys for one in together}

        def on_result(result: KernelResult, directory: Path) -> None:
            console = _end_of_console(result.attempts, directory)
            told.results[result.name] = result
            told.outcomes[result.name] = outcomes(result, keys[result.name], console)
            told.changed.set()

        try:
            with _listener(list(keys), told) as listener:
                told.run = self._session(together, plan, listener, on_result)
        except BaseException as error:
            told.failure = error
        finally:
            told.over.set()
            told.changed.set()

    def _session(
        self,
        together: Sequence[Wanted],
        plan: Plan,
        listener: Listener,
        on_result: Callable[[KernelResult, Path], None],
    ) -> RunResult:
        settings, stop = self._settings, self._cache.stop
        entries = [one.entry for one in together]
        request = RunRequest(
            plan=plan,
            accel=settings.accel,
            manifest=together[0].manifest,
            jobs=settings.jobs or settings.workers or None,
            reuse=settings.reuse,
            confirm=settings.confirm,
        )
        if settings.resume:
            resuming = replace(request, resume=True)
            try:
                return session.run(entries, resuming, self._cache, listener, stop, on_result)
            except UsageError as error:
                listener(Progress("", Stage.PREPARING, str(error)))
        return session.run(entries, request, self._cache, listener, stop, on_result)


def plan_of(keys: Sequence[Key], profile: Profile, seed: int | None = None) -> Plan:
    """The plan that has the checks in ``keys``, and as few others as a plan can.

    A kernel's own test is about all checks if no other one is selected. Capabilities are always
    probed, but no plan is without a check.
    """
    registered = [check.id for check in guest_checks.all_checks(profile)]
    wanted = {key.id for key in keys if key.id != KERNEL and not key.id.startswith(CAPABILITY)}
    if not wanted and any(key.family is not None for key in keys):
        wanted = {registered[0]}
    chosen = tuple(id for id in registered if id in wanted)
    families = tuple(f for f in Family if any(key.family is f for key in keys)) or tuple(Family)
    everything = len(chosen) in (0, len(registered))
    return Plan(families, () if everything else chosen, profile, seed=seed)


class _Lines:
    """A stream for a listener of harness.report, from any thread to the main one."""

    encoding = "utf-8"

    def __init__(self, lines: queue.SimpleQueue[str]) -> None:
        self._lines = lines

    def write(self, text: str) -> int:
        self._lines.put(text.rstrip("\n"))
        return len(text)

    def flush(self) -> None:
        pass


@contextlib.contextmanager
def _listener(names: Sequence[str], told: _Told) -> Iterator[Listener]:
    """A listener that keeps the stage of each kernel, and lines as without a terminal."""
    with plain.plain(names, cast(TextIO, _Lines(told.lines))) as listener:

        def listening(progress: Progress) -> None:
            listener(progress)
            if progress.stage in (Stage.QUEUED, Stage.DONE) or not progress.kernel:
                told.stages.pop(progress.kernel, None)
                return
            count = f" {progress.done}/{progress.planned}" if progress.planned else ""
            told.stages[progress.kernel] = f"{progress.kernel}: {progress.stage}{count}"

        yield listening


def _end_of_console(attempts: Sequence[Attempt], directory: Path) -> str:
    """The last bytes of the console of the last attempt; "" if there is none."""
    if not attempts or not attempts[-1].console:
        return ""
    with contextlib.suppress(OSError), (directory / attempts[-1].console).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        return file.read(TAIL).decode("utf-8", "replace")
    return ""


def _why(told: _Told) -> str:
    """Why a session ended without the result of a kernel."""
    error = told.failure
    if error is None:
        return "the run was interrupted"
    text = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
    return "; ".join(printable(line) for line in text.splitlines())
