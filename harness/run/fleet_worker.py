# SPDX-License-Identifier: GPL-2.0-only
"""A worker of a fleet: describes its host, fetches a kernel, tests it, and sends the result.

These functions travel to a worker by name, so both sides must have the same harness; the asking
side compares the versions first (harness.run.fleet). Each worker has its own cache of kernels.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import tempfile
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.bundle import Bundles
from harness.errors import HostError, KernelUnavailable
from harness.host import locks, periodic, tools
from harness.host.files import touch
from harness.kernels import Cache, PreparedKernel
from harness.manifest.entries import KernelEntry, UserSpace
from harness.manifest.known_issues import KnownIssues
from harness.records import reuse
from harness.run import session, workspace
from harness.run.attempts import Options
from harness.run.executor import Local, Preparing, Say, Tested
from harness.run.matrix import Matrix
from harness.run.request import Listener, Progress, RunRequest
from harness.verdict.results import CheckResult, KernelResult
from harness.verdict.verdicts import KernelVerdict

#: The resource of a worker that one VM takes.
VM = "vm"
#: Bytes of a kernel that one message carries.
PIECE = 4 << 20
#: Seconds between two looks whether the task was cancelled.
PAUSE = 0.3
#: Below the cache: kernels that were moved here, each file below its SHA-256.
MOVED = "fleet"


@dataclass(frozen=True)
class Moved:
    """A prepared kernel whose files are fetched by their SHA-256. ``kernel`` has their names.

    ``files`` are image, what is booted, and the modules; ``sizes`` are in bytes.
    """

    kernel: PreparedKernel
    files: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """One kernel to test. ``issues`` is the text of its file of known issues."""

    run: str
    entry: KernelEntry
    request: RunRequest
    seed: int
    known: KnownIssues
    issues: bytes | None = None
    kernel: Moved | None = None  # None: the worker prepares it
    store: str = ""  # the address of the worker that has the files
    all_files: bool = False


@dataclass(frozen=True)
class Answer:
    """The result of a task: a pickled, compressed ``Tested``, and files below kernels/NAME."""

    tested: bytes
    files: Mapping[str, bytes]

    def unpacked(self) -> Tested:
        found = pickle.loads(zlib.decompress(self.tested))  # noqa: S301  (docs/fleet.md)
        assert isinstance(found, Tested)
        return replace(found, result=_lean(found.result))


@functools.lru_cache(maxsize=4096)
def _shared(check: CheckResult) -> CheckResult:
    """One object for equal checks: most are equal in all kernels, and a kernel has a thousand."""
    return check


def _lean(result: KernelResult) -> KernelResult:
    """``result`` in less memory: the client keeps thousands of results until the run ends."""
    families = {
        family: replace(each, checks=tuple(map(_shared, each.checks)))
        for family, each in result.families.items()
    }
    attempts = tuple(
        replace(a, stream=replace(a.stream, results=tuple(map(_shared, a.stream.results))))
        for a in result.attempts
    )
    return replace(result, families=families, attempts=attempts)


@dataclass(frozen=True)
class About:
    """A worker: its versions as a run records them, or why it cannot test anything."""

    host: str
    versions: Mapping[str, str]
    vms: int = 0
    kvm: bool = False
    processors: int = 0
    memory_mib: int = 0
    trouble: str = ""


def about() -> About:
    """The properties of this worker."""
    this = About(
        host=_name(),
        versions={"harness": session.version()},
        vms=_vms(),
        kvm=os.access("/dev/kvm", os.R_OK | os.W_OK),
        processors=tools.processors(),
        memory_mib=tools.available_memory_mib(),
    )
    try:
        with (
            tempfile.TemporaryDirectory() as place,
            _opened(Path(place) / "run", UserSpace()) as found,
        ):
            return replace(this, versions=session.about_run(found))
    except (HostError, OSError) as error:
        return replace(this, trouble=str(error))


def _vms() -> int:
    """The VMs that this worker may run at a time."""
    return int(_worker().state.total_resources.get(VM, 0))


def _name() -> str:
    """The host, and the name of this worker, for people."""
    return f"{platform.node()} ({_worker().name})"


def _worker() -> Any:
    from distributed import get_worker

    return get_worker()


@functools.cache
def _cache() -> Cache:
    return Cache()


@functools.cache
def _gate() -> workspace.MemoryGate:
    """One for all tasks of this process."""
    return workspace.MemoryGate(tools.available_memory_mib)


@contextlib.contextmanager
def _opened(directory: Path, user_space: UserSpace) -> Iterator[workspace.Workspace]:
    cache = Cache(_cache().root)
    with workspace.opened(directory, cache, user_spaces={user_space}) as found:
        yield found


def test(task: Task) -> Answer:
    """Test a kernel; stop if the client cancels the task or disconnects."""
    stop = threading.Event()
    listener = _reporting(task)
    with (
        _watched(stop),
        # If this worker is killed, a later user of the cache removes the directory.
        _cache().scratch() as place,
        _opened(place / "run", task.entry.user_space) as found,
    ):
        tested = _tested(task, found, place, listener, stop)
        if tested is None:
            raise RuntimeError("cancelled")
        bad = not tested.result.verdict.as_expected
        infrastructure = tested.result.verdict is KernelVerdict.INFRASTRUCTURE
        files = bad or infrastructure or task.all_files
        kept = _files(found.directory / "kernels" / task.entry.name) if files else {}
    return Answer(zlib.compress(pickle.dumps(tested)), kept)


def _tested(
    task: Task, found: workspace.Workspace, place: Path, listener: Listener, stop: threading.Event
) -> Tested | None:
    entry, known = _with_issues(task, place)
    cache = Cache(_cache().root)
    cache.stop = stop
    versions = session.about_run(found)
    setting = reuse.Setting(
        *(task.request.plan, versions["guest"], versions["QEMU"], versions["virtme-ng"], known),
        others=found.identities,
    )
    bundles = Bundles(found.directory, [entry], versions, with_image=task.request.bundle_image)
    options = Options(
        directory=found.directory,
        roots=found.roots,
        qemu=found.qemu,
        qemus=found.qemus,
        obstacles=found.obstacles,
        machines=found.machines,
        seed=task.seed,
        jobs=max(1, _vms()),
        request=task.request,
        results=reuse.Results(None, setting),
        known=known,
        on_boot=bundles.booting,
    )
    preparing: Preparing | None = None
    if task.kernel is not None:
        preparing = functools.partial(_fetch, task.kernel, task.store, _client(), stop)
    here = Local(options, cache, listener, stop, gate=_gate(), preparing=preparing)
    done: list[Tested] = []
    where = _name()

    def keep(result: KernelResult, key: str) -> None:
        done.append(Tested(replace(result, host=where), key))
        bundles.keep(result)

    Matrix([entry], replace(options, jobs=1), cache, listener, keep, stop, here).run()
    return done[0] if done else None


def _with_issues(task: Task, place: Path) -> tuple[KernelEntry, KnownIssues]:
    """The entry and its known issues; their file is here under another name."""
    entry, known = task.entry, task.known
    if entry.known_issues is None or task.issues is None:
        return entry, known
    copy = place / entry.known_issues.name
    copy.write_bytes(task.issues)
    issues = {copy: known.files[entry.known_issues]}
    return replace(entry, known_issues=copy), replace(known, files=issues)


def _files(directory: Path) -> dict[str, bytes]:
    """The files of a kernel, compressed, by their path in its directory."""
    return {
        str(path.relative_to(directory)): zlib.compress(path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def _reporting(task: Task) -> Listener:
    """A listener that sends each stage to the client, not each check."""
    worker = _worker()
    last: list[object] = []

    def listener(progress: Progress, /) -> None:
        if progress.kernel and last != [progress.stage]:
            last[:] = [progress.stage]
            message = {
                "kernel": progress.kernel,
                "stage": str(progress.stage),
                "detail": progress.detail,
                "done": progress.done,
                "planned": progress.planned,
                "worker": worker.address,
            }
            worker.log_event(topic(task.run), message)

    return listener


def topic(run: str) -> str:
    """The topic on which workers report the progress of a run."""
    return f"mptcp-harness-{run}"


@contextlib.contextmanager
def _watched(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` when this task is no longer wanted: cancelled, or its client disconnected."""
    worker = _worker()
    key = worker.get_current_task()

    def watch() -> None:
        state = worker.state.tasks.get(key)
        if state is None or state.state not in ("executing", "long-running"):
            stop.set()

    with periodic.every(PAUSE, watch, "watch"):
        yield


# Kernels that are moved.

#: In the process of the client: the files that it offers, by SHA-256.
OFFERED: dict[str, Path] = {}


def piece(digest: str, offset: int) -> bytes:
    """A piece of an offered file. Runs in a worker of the client's process."""
    with OFFERED[digest].open("rb") as file:
        file.seek(offset)
        return file.read(PIECE)


def _client() -> Any:
    """The client of this worker, which any thread may use."""
    from distributed import get_client

    return get_client()


def _fetch(
    moved: Moved,
    store: str,
    client: Any,
    stop: threading.Event,
    _entry: KernelEntry,
    cache: Cache,
    _say: Say,
) -> PreparedKernel:
    """The kernel with its files in this worker's cache. Raises KernelUnavailable."""
    kernel = moved.kernel
    names = [kernel.image.name, kernel.boot_image.name, *(m.name for m in kernel.modules)]
    paths = []
    for digest, size, name in zip(moved.files, moved.sizes, names, strict=True):
        with locks.waited_for(cache.root / "locks" / f"fleet-{digest[:32]}", stop):
            paths.append(_file(digest, size, cache.root / MOVED / digest / name, store, client))
    image, boot_image, *modules = paths
    return replace(
        kernel, image=image, boot_image=boot_image, modules=tuple(modules), root=image.parent
    )


def _file(digest: str, size: int, target: Path, store: str, client: Any) -> Path:
    """The file with this ``digest``, verified: ``target``, or from the worker ``store``."""
    if target.is_file() and sha256(target) == digest:
        touch(target.parent)  # harness.records.prune goes by it
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            for offset in range(0, size, PIECE):
                future = client.submit(piece, digest, offset, workers=[store], pure=False)
                file.write(client.gather(future, direct=True))
                future.release()
        if sha256(partial) != digest:
            raise KernelUnavailable(
                f"{target.name} arrived damaged from {store}: its SHA-256 is not {digest}",
                transient=True,
            )
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
