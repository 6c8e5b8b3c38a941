# SPDX-License-Identifier: GPL-2.0-only
"""How kernels are tested: some at once, each boot's result as soon as it is there."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from harness import grounds, reuse, session
from harness.attempts import Options
from harness.bundle import Bundles
from harness.kernels import Cache
from harness.kernels.files import write_atomically
from harness.known_issues import KnownIssues
from harness.manifest import KernelEntry
from harness.matrix import Matrix, default_jobs
from harness.progress import Listener, Progress, Stage
from harness.report import as_json
from harness.results import KernelResult
from harness.store import Run, Store
from harness.vm import initramfs

#: Shows the progress of the kernels named, as long as it lasts.
Listening = Callable[[Sequence[str]], contextlib.AbstractContextManager[Listener]]


class Tester(Protocol):
    """Boots kernels, or simulates it."""

    def test(
        self,
        entries: Sequence[KernelEntry],
        on_result: Callable[[KernelResult], None],
        *,
        stored: bool,
    ) -> None:
        """One boot of each of ``entries``, several at a time; or, if ``stored`` may take its place,
        a result of an earlier run.

        ``on_result`` is called as soon as a kernel has its result, from any thread. A kernel
        without one was interrupted.
        """


@dataclass(frozen=True)
class _Pass:
    """The boots of that number of all kernels: a run in the store, with a directory."""

    run: Run
    directory: Path
    bundles: Bundles


class Booting:
    """Boots on one ground; made by :func:`on_ground`."""

    def __init__(
        self,
        entries: Sequence[KernelEntry],
        ground: grounds.Ground,
        store: Store,
        options: Options,
        cache: Cache,
        listening: Listening,
        stop: threading.Event,
        first: Run,
    ) -> None:
        self._entries = entries
        self._ground = ground
        self._store = store
        self._options = options
        self._cache = cache
        self._listening = listening
        self._stop = stop
        self._first = first
        self._boots: Counter[str] = Counter()
        self._passes: dict[int, _Pass] = {}
        self._told: set[str] = set()  # of what concerns no single kernel

    @property
    def jobs(self) -> int:
        """How many VMs there may be at a time."""
        return self._options.jobs

    @property
    def directory(self) -> Path:
        return self._ground.directory

    def test(
        self,
        entries: Sequence[KernelEntry],
        on_result: Callable[[KernelResult], None],
        *,
        stored: bool,
    ) -> None:
        """As in :class:`Tester`. Raises StoreUnusable, OSError."""
        number = 1 + max(self._boots[entry.name] for entry in entries)
        self._boots.update({entry.name: number - self._boots[entry.name] for entry in entries})
        made = self._pass(number)
        options = replace(
            self._options,
            directory=made.directory,
            jobs=min(self._options.jobs, len(entries)),
            reuse=stored,
            on_boot=made.bundles.booting,
        )
        with self._listening([entry.name for entry in entries]) as shown:

            def listener(progress: Progress, /) -> None:
                if progress.kernel or progress.detail not in self._told:
                    shown(progress)
                if not progress.kernel:  # such as the accelerator, which each round finds out
                    self._told.add(progress.detail)

            def keep(result: KernelResult, circumstances: str) -> None:
                self._keep(made, result, circumstances, listener)
                on_result(result)

            Matrix(entries, options, self._cache, listener, keep, self._stop).run()

    def finish(self) -> None:
        """What was to be booted has been."""
        for made in self._passes.values():
            self._store.finish(made.run.id)

    def _pass(self, number: int) -> _Pass:
        """A kernel has one result in a run: each further boot of it is in a run of its own."""
        if number not in self._passes:
            directory, identity = self._ground.directory, self._first.id
            if number > 1:
                directory, identity = directory / f"boot-{number}", f"{identity}-{number}"
                directory.mkdir()
            about = session.about_run(self._ground)
            run = replace(
                self._first, id=identity, directory=str(directory), about=json.dumps(about)
            )
            self._store.begin(run)
            bundles = Bundles(directory, self._entries, about)
            self._passes[number] = _Pass(run, directory, bundles)
        return self._passes[number]

    def _keep(
        self, made: _Pass, result: KernelResult, circumstances: str, listener: Listener
    ) -> None:
        text = as_json.kernel_text(result)
        learned = result.reused_from is None
        name = result.name
        self._store.add(made.run.id, name, result.verdict, text, circumstances, learned=learned)
        place = made.directory / "kernels" / name / "result.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, text)
        trouble = made.bundles.keep(result)
        if trouble:
            listener(Progress("", Stage.DONE, trouble))


def guest_root(cache: Cache) -> str:
    """The key of the guest's root, and so of the checker in it. Raises SessionUnavailable."""
    _, busybox = grounds.find_tools()
    try:
        return initramfs.prepare(cache.root, busybox).stem
    except (initramfs.RootUnavailable, OSError) as error:
        raise grounds.SessionUnavailable(str(error)) from error


@contextlib.contextmanager
def on_ground(
    entries: Sequence[KernelEntry],
    wishes: session.Wishes,
    asked: str,
    seed: int,
    cache: Cache,
    listening: Listening,
    stop: threading.Event,
) -> Iterator[Booting]:
    """What boots any of ``entries`` as ``wishes`` say, with ``seed``, for the bisect ``asked``.

    All is kept as that of a run is. Raises as :func:`harness.session.run` does.
    """
    known = KnownIssues.read(entries)
    first = session.new_run(asked, seed)
    with (
        grounds.ground(wishes.output, cache, first.id) as ground,
        Store(grounds.store_place(wishes.output)) as store,
    ):
        about = session.about_run(ground)
        setting = reuse.Setting(
            base=ground.base.stem,
            qemu=about["QEMU"],
            virtme_ng=about["virtme-ng"],
            families=wishes.families,
            checks=wishes.checks,
            payload=wishes.payload,
            seed=wishes.seed,
            known=known,
        )
        options = Options(
            directory=ground.directory,
            base=ground.base,
            qemu=ground.qemu,
            seed=seed,
            jobs=wishes.jobs or default_jobs(entries),
            families=wishes.families,
            checks=wishes.checks,
            payload=wishes.payload,
            accel=wishes.accel,
            results=reuse.Results(store, setting, evidence=True),
            known=known,
        )
        booting = Booting(entries, ground, store, options, cache, listening, stop, first)
        yield booting
        if not stop.is_set():
            booting.finish()
