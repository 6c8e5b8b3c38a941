# SPDX-License-Identifier: GPL-2.0-only
"""The client of a fleet: Dask's scheduler places each kernel on a worker, which tests it.

Each kernel is one task that takes one ``vm`` of a worker. There are never more tasks than VMs, so
that a late worker gets its share, and nothing waits in the cluster. Results are handed on as they
arrive; whatever happens to the cluster, they are stored here.

Only workers that are like the client get tasks. A kernel whose worker is lost is tested
elsewhere, by Dask; one that takes two workers with it is given up.
"""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import kernels
from harness.errors import HostError, UsageError
from harness.host import periodic
from harness.host.files import stamp
from harness.kernels import Cache, PreparedKernel
from harness.manifest.entries import Accel, DebSource, KernelEntry
from harness.run import fleet_worker
from harness.run.attempts import Options
from harness.run.executor import Elsewhere, Ready, Say, Tested
from harness.run.fleet_worker import Moved, Task
from harness.run.fleet_workers import PAUSE_S, Workers, connected
from harness.run.request import Fleet, Listener, Progress, Stage
from harness.verdict.results import KernelResult

#: Seconds without a worker after which the wait ends.
ALONE_S = 600.0
#: Seconds after which a worker that is silent counts as lost.
TTL_S = 60
#: How often a kernel may lose its worker: the second time it is given up.
LOST = 1
#: Kernels that are under way at a time, at most: each has a thread here.
MOST = 256


class FleetExecutor:
    """Tests kernels on a fleet. Made by :func:`opened`."""

    def __init__(
        self,
        client: Any,
        fleet: Fleet,
        workers: Workers,
        options: Options,
        cache: Cache,
        listener: Listener,
        stop: threading.Event,
        durations: Mapping[str, float],
        run: str,
        store: str,
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._workers = workers
        self._options = options
        self._cache = cache
        self._listener = listener
        self._stop = stop
        self._durations = durations
        self._run = run
        self._store = store
        self._room = threading.Condition()
        self._under_way = 0
        self._began: dict[str, list[str]] = {}
        self._hashes: dict[tuple[Path, tuple[int, ...]], str] = {}

    @property
    def jobs(self) -> int:
        return MOST

    def in_order(self, entries: Sequence[KernelEntry]) -> Sequence[KernelEntry]:
        """The longest first; those of unknown duration before them, for they may be longer."""
        unknown = max(self._durations.values(), default=0.0)
        return sorted(entries, key=lambda e: -self._durations.get(e.name, unknown))

    def prepare(self, entry: KernelEntry, say: Say) -> Ready:
        source = entry.source
        if isinstance(source, DebSource) and source.mirror is None:
            return Elsewhere()  # each worker fetches and verifies packages of Debian itself
        return kernels.prepare(entry, self._cache, say)

    def test(self, entry: KernelEntry, ready: Ready) -> Tested | None:
        task = self._task(entry, ready)
        with self._place() as free:
            if not free:
                return None
            tested = self._tested(task)
        if tested is None:
            return None
        notes = (*ready.notes, *(n for n in tested.result.notes if n not in ready.notes))
        return replace(tested, result=replace(tested.result, notes=notes))

    # One kernel.

    def _task(self, entry: KernelEntry, ready: Ready) -> Task:
        request = replace(
            self._options.request,
            fleet=None,
            output=None,
            store=None,
            reuse=False,
            resume=False,
        )
        issues = entry.known_issues
        return Task(
            run=self._run,
            entry=entry,
            request=request,
            seed=self._options.seed,
            known=self._options.known,
            issues=issues.read_bytes() if issues is not None else None,
            kernel=self._moved(ready) if isinstance(ready, PreparedKernel) else None,
            store=self._store,
            all_files=self._fleet.all_files,
        )

    def _moved(self, kernel: PreparedKernel) -> Moved:
        paths = (kernel.image, kernel.boot_image, *kernel.modules)
        digests = tuple(map(self._sha256, paths))
        fleet_worker.OFFERED.update(zip(digests, paths, strict=True))
        return Moved(kernel, digests, tuple(path.stat().st_size for path in paths))

    def _sha256(self, path: Path) -> str:
        key = (path, tuple(stamp(path)))
        if key not in self._hashes:
            self._hashes[key] = fleet_worker.sha256(path)
        return self._hashes[key]

    @contextlib.contextmanager
    def _place(self) -> Iterator[bool]:
        """Wait until a VM of the fleet is free; False if it is interrupted. Raises HostError."""
        with self._room:
            while self._under_way >= sum(self._workers.usable().values()):
                if self._stop.is_set():
                    break
                self._check_alive()
                self._room.wait(PAUSE_S)
            self._under_way += 1
        try:
            yield not self._stop.is_set()
        finally:
            with self._room:
                self._under_way -= 1
                self._room.notify()

    def _check_alive(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise HostError(
                f"--fleet {self._fleet.address}: the scheduler does not answer any more; the "
                "results so far are stored; start it again, and continue with --resume"
            )
        if self._workers.alone_s() > ALONE_S:
            raise HostError(
                f"--fleet {self._fleet.address}: no worker that may test for "
                f"{ALONE_S / 60:.0f} minutes; the results so far are stored; start workers, and "
                "continue with --resume"
            )

    def _tested(self, task: Task) -> Tested | None:
        """The result of ``task``, from any worker; None if it was interrupted."""
        while not self._stop.is_set():
            usable = list(self._workers.usable())
            if not usable or self._client.status != "running":
                self._check_alive()
                self._stop.wait(PAUSE_S)
                continue
            try:
                tested = self._once(task, usable)
            except (OSError, RuntimeError, CancelledError):
                if self._client.status == "running":
                    raise
                continue  # the scheduler went away meanwhile
            if tested is not None:
                return tested
        return None

    def _once(self, task: Task, usable: Sequence[str]) -> Tested | None:
        """The result of ``task`` on one of the workers; None if it must be tried again."""
        name = task.entry.name
        future = self._client.submit(
            *(fleet_worker.test, task),
            key=f"{self._run}-{name}-{time.monotonic_ns()}",
            workers=usable,
            resources={fleet_worker.VM: 1},
            pure=False,
            priority=int(self._durations.get(name, 0)),
        )
        try:
            if not self._wait(future, usable):
                return None
            if future.status == "finished":
                return self._arrived(task, future.result())
            return self._failed(task, future)
        finally:
            with contextlib.suppress(OSError, RuntimeError):  # with the scheduler gone
                future.cancel()

    def _wait(self, future: Any, usable: Sequence[str]) -> bool:
        """Wait for ``future``; False if it is interrupted, or none of its workers is left."""
        over = threading.Event()
        future.add_done_callback(lambda _: over.set())
        while not over.wait(PAUSE_S):
            if self._stop.is_set():
                return False
            self._check_alive()
            if not set(usable) & self._workers.usable().keys():
                return False
        return bool(future.status in ("finished", "error"))

    def _arrived(self, task: Task, answer: fleet_worker.Answer) -> Tested:
        directory = self._options.directory / "kernels" / task.entry.name
        for name, content in answer.files.items():
            target = directory / name
            if not target.resolve().is_relative_to(directory.resolve()):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(zlib.decompress(content))
        return answer.unpacked()

    def _failed(self, task: Task, future: Any) -> Tested | None:
        """The result of a task that failed; None if it may be tried again."""
        from distributed.scheduler import KilledWorker

        name, error = task.entry.name, future.exception()
        if not isinstance(error, KilledWorker):
            reason = f"the worker could not test it: {type(error).__name__}: {error}"
            return Tested(KernelResult.infrastructure(name, reason))
        # A kernel that only waited at a lost worker is not to blame.
        began = [address for address in self._began.get(name, []) if address]
        if len(began) <= LOST:
            return None
        hosts = ", ".join(dict.fromkeys(map(self._workers.host, began)))
        reason = (
            f"{len(began)} workers were lost while they tested it: {hosts}; test it alone on a "
            "host that may crash, and watch its memory and disk"
        )
        return Tested(KernelResult.infrastructure(name, reason))

    def heard(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Pass on what a worker reports."""
        message = event[1]
        name, stage, address = message["kernel"], Stage(message["stage"]), message["worker"]
        if stage is Stage.PREPARING:
            self._began.setdefault(name, []).append(address)
        if stage not in (Stage.DONE, Stage.QUEUED):
            detail = ", ".join(filter(None, (message["detail"], self._workers.host(address))))
            done, planned = message["done"], message["planned"]
            self._listener(Progress(name, stage, detail, done, planned))


@contextlib.contextmanager
def opened(
    fleet: Fleet,
    entries: Sequence[KernelEntry],
    options: Options,
    versions: Mapping[str, str],
    cache: Cache,
    listener: Listener,
    stop: threading.Event,
    durations: Mapping[str, float],
) -> Iterator[FleetExecutor]:
    """An executor on ``fleet``. Raises UsageError, HostError."""
    if options.request.plan.programs:
        raise UsageError("--cross-check runs a program of this host: omit --fleet")
    accel = options.request.accel
    kvm = accel is Accel.KVM or (accel is None and any(e.accel is Accel.KVM for e in entries))

    def say(text: str) -> None:
        listener(Progress("", Stage.WAITING, text))

    run = options.directory.name
    with connected(fleet) as client, _store(client, fleet) as store:
        client.run_on_scheduler(_set_limits)
        workers = Workers(client, versions, say, kvm=kvm, store=store)
        executor = FleetExecutor(
            *(client, fleet, workers, options, cache, listener, stop, durations, run, store)
        )
        client.subscribe_topic(fleet_worker.topic(run), executor.heard)

        def looking() -> None:
            with contextlib.suppress(Exception):  # the scheduler may be away for a moment
                workers.look()

        looking()
        with periodic.every(1.0, looking, "fleet", patience=10.0):
            yield executor


def _set_limits(dask_scheduler: Any) -> None:
    """On the scheduler: when a worker or a kernel is given up."""
    dask_scheduler.allowed_failures = LOST
    dask_scheduler.worker_ttl = TTL_S
    check = dask_scheduler.periodic_callbacks.get("worker-ttl")
    if check is not None and check.callback_time != 10_000:
        check.stop()
        check.callback_time = 10_000  # ms; by default, five minutes
        check.start()


@contextlib.contextmanager
def _store(client: Any, fleet: Fleet) -> Iterator[str]:
    """A worker of this process that has the kernels' files; its address."""
    from distributed import Worker

    async def start() -> Any:
        return await Worker(
            fleet.address,
            nthreads=2,
            name=f"files-{time.time_ns()}",
            security=client.security,
            memory_limit=0,
            nanny=None,
            # Its HTTP server needs no TLS. By default, it listens on all addresses, for which it
            # needs a port that is free in both families.
            dashboard_address="127.0.0.1:0",
        )

    worker = client.sync(start)
    try:
        yield worker.address
    finally:
        with contextlib.suppress(Exception):
            client.sync(worker.close, timeout=5)
