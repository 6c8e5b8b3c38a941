# SPDX-License-Identifier: GPL-2.0-only
"""Tests kernels for a bisect, several at a time, and finds earlier evidence."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from harness.bisect import state
from harness.bisect.candidates import Candidate
from harness.bundle import Bundles
from harness.errors import HostError
from harness.kernels import Cache
from harness.manifest.entries import KernelEntry
from harness.manifest.known_issues import KnownIssues
from harness.records import reuse
from harness.records.store import Run, Store
from harness.run import session
from harness.run import workspace as workspaces
from harness.run.attempts import Options
from harness.run.matrix import Matrix
from harness.run.request import Listener, Progress, RunRequest, Stage
from harness.verdict.results import KernelResult
from harness.vm import initramfs

#: Shows the progress of these kernels.
Listening = Callable[[Sequence[str]], contextlib.AbstractContextManager[Listener]]


class Tester(Protocol):
    """Boots kernels, or simulates boots."""

    def test(
        self,
        entries: Sequence[KernelEntry],
        on_result: Callable[[KernelResult], None],
        *,
        stored: bool,
    ) -> None:
        """Boot each of ``entries`` once, several at a time, or use a result of an earlier run if
        ``stored``.

        ``on_result`` is called from any thread as soon as a kernel has its result. A kernel without
        a result was interrupted.
        """


class Booting:
    """Boots in one workspace; made by :func:`in_workspace`."""

    def __init__(
        self,
        entries: Sequence[KernelEntry],
        workspace: workspaces.Workspace,
        store: Store,
        options: Options,
        cache: Cache,
        listening: Listening,
        stop: threading.Event,
        first: Run,
    ) -> None:
        self._entries = list(entries)
        self._workspace = workspace
        self._store = store
        self._options = options
        self._cache = cache
        self._listening = listening
        self._stop = stop
        self._first = first
        self._boots: Counter[str] = Counter()
        self._passes: dict[int, session.Recorder] = {}
        self._told: set[str] = set()  # messages that concern no single kernel

    @property
    def jobs(self) -> int:
        """The number of VMs at a time."""
        return self._options.jobs

    @property
    def directory(self) -> Path:
        return self._workspace.directory

    def test(
        self,
        entries: Sequence[KernelEntry],
        on_result: Callable[[KernelResult], None],
        *,
        stored: bool,
    ) -> None:
        """As in :class:`Tester`; ``entries`` may be new ones. Raises HostError, OSError."""
        self._entries += [entry for entry in entries if entry not in self._entries]
        number = 1 + max(self._boots[entry.name] for entry in entries)
        self._boots.update({entry.name: number - self._boots[entry.name] for entry in entries})
        recorder = self._pass(number)
        options = replace(
            self._options,
            directory=Path(recorder.run.directory),
            jobs=min(self._options.jobs, len(entries)),
            request=replace(self._options.request, reuse=stored),
            on_boot=recorder.bundles.booting,
        )
        with self._listening([entry.name for entry in entries]) as shown:

            def listener(progress: Progress, /) -> None:
                if progress.kernel or progress.detail not in self._told:
                    shown(progress)
                if not progress.kernel:  # such as the accelerator, which each round determines
                    self._told.add(progress.detail)

            def keep(result: KernelResult, circumstances: str) -> None:
                trouble = recorder.keep(result, circumstances)
                if trouble:
                    listener(Progress("", Stage.DONE, trouble))
                on_result(result)

            versions = session.about_run(self._workspace)
            with session.executor_for(
                options, entries, versions, self._store, self._cache, listener, self._stop
            ) as executor:
                Matrix(entries, options, self._cache, listener, keep, self._stop, executor).run()

    def finish(self) -> None:
        """All boots are done."""
        for recorder in self._passes.values():
            self._store.finish(recorder.run.id)

    def _pass(self, number: int) -> session.Recorder:
        """A kernel has one result in a run, so each further boot of it is in a separate run."""
        if number not in self._passes:
            directory, identity = self._workspace.directory, self._first.id
            if number > 1:
                directory, identity = directory / f"boot-{number}", f"{identity}-{number}"
                directory.mkdir()
            about = session.about_run(self._workspace)
            run = replace(
                self._first, id=identity, directory=str(directory), about=json.dumps(about)
            )
            self._store.begin(run)
            bundles = Bundles(directory, self._entries, about)
            self._passes[number] = session.Recorder(run, self._store, bundles)
        return self._passes[number]


def guest_root(cache: Cache) -> str:
    """The key of the guest's root, and so of the checker in it. Raises HostError."""
    _, busybox = workspaces.find_tools()
    try:
        return initramfs.prepare(cache.root, busybox).stem
    except OSError as error:
        raise HostError(str(error)) from error


@contextlib.contextmanager
def remembered(
    kind: str,
    candidates: Sequence[Candidate],
    request: RunRequest,
    what: Mapping[str, Any],
    cache: Cache,
    say: Callable[[str], None],
    *,
    fresh: bool,
) -> Iterator[tuple[str, state.Journal]]:
    """The journal for a question; everything on which the outcomes depend is part of the question.

    ``kind`` is one of prune.BESIDE's directories; ``what`` is the rest of the question beside the
    kernels and ``request``. Raises HostError, and as :func:`harness.bisect.state.opened` does.
    """
    asked = question(candidates, request, what, guest_root(cache))
    beside = request.store or workspaces.store_file()
    place = state.place(beside.with_name(kind), asked)
    with state.opened(place, asked, request.seed(), say, fresh=fresh) as journal:
        yield asked, journal


def question(
    candidates: Sequence[Candidate],
    request: RunRequest,
    what: Mapping[str, Any],
    guest: str,
) -> str:
    """The question as canonical JSON, without the number of boots and of VMs at a time.

    ``guest`` is the key of its root: another checker may give other results for the same kernels,
    which would look like a change at the point of interruption.
    """
    settings = {
        **what,
        "versions": [[candidate.release, candidate.version] for candidate in candidates],
        **replace(request, manifest=None).settings(),  # the kernels are identified by their entries
        "guest": guest,
        "judging": reuse.judging(),
    }
    return reuse.asked([candidate.entry for candidate in candidates], request.plan, settings)


@contextlib.contextmanager
def in_workspace(
    entries: Sequence[KernelEntry],
    request: RunRequest,
    asked: str,
    seed: int,
    cache: Cache,
    listening: Listening,
    stop: threading.Event,
) -> Iterator[Booting]:
    """A tester that boots any of ``entries`` with ``request`` and ``seed``, for the bisect
    ``asked``.

    Everything is stored as for a run. Raises as :func:`harness.run.session.run` does.
    """
    known = KnownIssues.read(entries)
    first = session.new_run(asked, seed)
    with (
        workspaces.opened(
            request.output,
            cache,
            first.id,
            user_spaces={entry.user_space for entry in entries},
        ) as workspace,
        Store(request.store or workspaces.store_place(request.output)) as store,
    ):
        each_once = replace(request, confirm=0)  # the bisect itself requests further boots
        options = session.options_in(
            workspace, store, entries, each_once, known, seed, evidence=True
        )
        booting = Booting(entries, workspace, store, options, cache, listening, stop, first)
        yield booting
        if not stop.is_set():
            booting.finish()
