# SPDX-License-Identifier: GPL-2.0-only
"""One run from end to end: its kernels, their stored results, and the record of the run."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import __version__
from harness.bundle import Bundles
from harness.errors import UsageError
from harness.host import tools
from harness.host.files import write_atomically, write_parts
from harness.kernels import Cache
from harness.manifest.entries import KernelEntry
from harness.manifest.known_issues import KnownIssues
from harness.records import reuse, stored_runs, summaries, to_json
from harness.records.store import Run, Store
from harness.run import workspace as workspaces
from harness.run.attempts import Options, unexpected
from harness.run.executor import Executor
from harness.run.matrix import Matrix, default_jobs
from harness.run.request import Listener, Progress, RunRequest, Stage
from harness.verdict.results import KernelResult, RunResult

#: Digits of the hash of the judging code, for people.
CODE = 16


def run(
    entries: Sequence[KernelEntry],
    request: RunRequest,
    cache: Cache,
    listener: Listener,
    stop: threading.Event,
    on_result: Callable[[KernelResult, Path], None] = lambda _result, _directory: None,
) -> RunResult:
    """Test ``entries``; write everything to the run's directory, and each result to the store.

    ``on_result`` gets each result as soon as it is stored, and the run's directory; as a listener,
    it is called from any thread and must not raise.

    Raises HostError if a host tool is missing or the disk cannot be used. Raises UsageError for an
    unusable --output, an invalid file of known issues, or if there is nothing to resume.
    """
    known = KnownIssues.read(entries)
    asked = reuse.asked(entries, request.plan, request.settings())
    place = request.store or workspaces.store_place(request.output)
    old = reuse.interrupted(place, asked) if request.resume else None
    if old is not None and request.output and request.output.absolute() != Path(old.directory):
        raise UsageError(
            f"--output {request.output}: the interrupted run is in {old.directory}; omit --output "
            f"to continue it"
        )
    begun = old or new_run(asked, request.seed())
    with (
        workspaces.opened(
            request.output,
            cache,
            begun.id,
            Path(old.directory) if old else None,
            user_spaces={entry.user_space for entry in entries},
            say=lambda text: listener(Progress("", Stage.PREPARING, text)),
        ) as found,
        Store(place) as kept,
    ):
        begun = replace(begun, directory=str(found.directory))
        session = _Session(entries, request, known, begun, found, kept, listener, on_result)
        session.begin()
        return session.run(cache, stop)


class _Session:
    """A run in its ``workspace``; the store is open and the directory locked."""

    def __init__(
        self,
        entries: Sequence[KernelEntry],
        request: RunRequest,
        known: KnownIssues,
        begun: Run,
        workspace: workspaces.Workspace,
        kept: Store,
        listener: Listener,
        on_result: Callable[[KernelResult, Path], None],
    ) -> None:
        self._entries = entries
        self._request = request
        self._known = known
        self._begun = begun
        self._workspace = workspace
        self._store = kept
        self._listener = listener
        self._on_result = on_result
        self._about = about_run(workspace)
        bundles = Bundles(
            workspace.directory, entries, self._about, with_image=request.bundle_image
        )
        self._recorder = Recorder(begun, kept, bundles)
        self._notes: list[str] = []
        self._done: dict[str, KernelResult] = {}

    def begin(self) -> None:
        """Register the run in the store, or load the results that a resumed run already has."""
        if self._request.resume:
            self._go_on()
        else:
            self._store.begin(replace(self._begun, about=json.dumps(self._about)))
        self._tell_damage()

    def _tell_damage(self) -> None:
        """Report a damaged store once; any access may find the damage."""
        said = str(self._store.damage or "")
        if said and said not in self._notes:
            self._notes.append(said)
            self._say(said)

    def _go_on(self) -> None:
        # Another harness may have finished it before the directory was locked.
        reuse.check_unfinished(self._store.run(self._begun.id) or self._begun)
        reuse.check_alike(self._begun, self._about)
        self._done = reuse.finished(self._store, self._begun, self._say)
        for name, result in self._done.items():
            self._recorder.write(result)
            self._on_result(result, self._workspace.directory)
            detail = f"from the interrupted run {self._begun.id}"
            self._listener(Progress(name, Stage.DONE, detail, verdict=result.verdict))
        for entry in self._entries:
            if entry.name not in self._done:  # an attempt that was cut off does not count
                shutil.rmtree(self._recorder.place(entry.name).parent, ignore_errors=True)
        self._notes.append(
            f"interrupted, and resumed at {_now()}: {len(self._done)} of "
            f"{len(self._entries)} kernels had a result"
        )

    def run(self, cache: Cache, stop: threading.Event) -> RunResult:
        """Test the kernels without a result, and write the record."""
        missing = [entry for entry in self._entries if entry.name not in self._done]
        options, about = self._options(missing), self._about
        with executor_for(
            options, missing, about, self._store, cache, self._listener, stop
        ) as executor:
            matrix = Matrix(missing, options, cache, self._listener, self._keep, stop, executor)
            startup = seconds_since_start()
            results = {**self._done, **{result.name: result for result in matrix.run()}}
        return self._record(results, startup)

    def _options(self, missing: Sequence[KernelEntry]) -> Options:
        options = options_in(
            self._workspace, self._store, missing, self._request, self._known, self._begun.seed
        )
        return replace(options, on_boot=self._recorder.bundles.booting)

    def _keep(self, result: KernelResult, circumstances: str) -> None:
        if result.is_unfinished:  # shown, but not found by --resume
            self._recorder.write(result)
            return
        trouble = self._recorder.keep(result, circumstances)
        if trouble:
            self._notes.append(trouble)
            self._say(trouble)
        self._on_result(result, self._workspace.directory)

    def _record(self, results: dict[str, KernelResult], startup_s: float) -> RunResult:
        """The record. A run counts as interrupted only if a result is missing, not if stop was
        late."""
        names = [entry.name for entry in self._entries]
        found = tuple(results[name] for name in names if name in results)
        missing = tuple(name for name in names if name not in results)
        interrupted = bool(missing) or any(result.is_unfinished for result in found)
        if interrupted and self._request.manifest is not None:
            self._notes.append(
                "`matrix --resume` with the same kernels boots those that are missing"
            )
        elif not interrupted:
            self._store.finish(self._begun.id)
            self._tell_damage()
            self._notes += self._idle(found)
        record = RunResult(
            id=self._begun.id,
            started=self._begun.started,
            finished=_now(),
            harness_version=__version__,
            host=self._about["host"],
            qemu=self._about["QEMU"],
            virtme_ng=self._about["virtme-ng"],
            accel=", ".join(sorted({result.accel for result in found if result.accel})),
            seed=self._begun.seed,
            kernels=found,
            directory=str(self._workspace.directory),
            interrupted=interrupted,
            missing=missing,
            startup_s=startup_s,
            notes=tuple(self._notes),
            asked=self._begun.asked,
            code=reuse.judging()[:CODE],
            shard=self._request.shard,
        )
        texts = (self._recorder.place(kernel.name).read_text() for kernel in found)
        place = self._workspace.directory / stored_runs.RECORD
        write_parts(place, to_json.parts(record, texts))
        return record

    def _idle(self, found: Sequence[KernelResult]) -> tuple[str, ...]:
        """Notes on known issues that no longer occur; none with --payload, which changes too much,
        and none of a shard, for an issue may occur in another one."""
        plan = self._request.plan
        if plan.payload is not None or self._request.shard is not None:
            return ()
        return self._known.idle(self._entries, found, narrowed=plan.is_narrowed)

    def _say(self, text: str) -> None:
        self._listener(Progress("", Stage.PREPARING, text))


@dataclass(frozen=True)
class Recorder:
    """Stores the results of ``run``: in the store, in its directory, and as ``bundles`` of bad
    ones."""

    run: Run
    store: Store
    bundles: Bundles

    def place(self, name: str) -> Path:
        """The file for the result of the kernel ``name``."""
        return Path(self.run.directory) / "kernels" / name / "result.json"

    def keep(self, result: KernelResult, circumstances: str) -> str:
        """Store ``result`` under the key ``circumstances``; returns a message about its bundle, if
        any.

        The result is on the disk before anything else happens to it. Raises HostError, OSError.
        """
        text = to_json.kernel_text(result)
        learned = result.reused_from is None
        name, verdict = result.name, result.verdict
        digest = summaries.digest(result, text)
        self.store.add(
            *(self.run.id, name, verdict, text, circumstances), learned=learned, digest=digest
        )
        self._write(name, text)
        try:
            return self.bundles.keep(result)
        except (
            Exception
        ) as error:  # the result is stored, and other kernels still have to be tested
            directory = Path(self.run.directory)
            said = unexpected(error, directory, name, max(1, len(result.attempts)))
            return f"{name} failed, but its bundle could not be made: {said}"

    def write(self, result: KernelResult) -> None:
        """Write ``result`` to the run's directory only. Raises OSError."""
        self._write(result.name, to_json.kernel_text(result))

    def _write(self, name: str, text: str) -> None:
        place = self.place(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, text)


def options_in(
    workspace: workspaces.Workspace,
    store: Store,
    entries: Sequence[KernelEntry],
    request: RunRequest,
    known: KnownIssues,
    seed: int,
    *,
    evidence: bool = False,
) -> Options:
    """The options for ``entries`` in ``workspace``; ``evidence`` is as in reuse.Results."""
    about = about_run(workspace)
    setting = reuse.Setting(
        *(request.plan, about["guest"], about["QEMU"], about["virtme-ng"], known),
        others=workspace.identities,
    )
    return Options(
        directory=workspace.directory,
        roots=workspace.roots,
        qemu=workspace.qemu,
        qemus=workspace.qemus,
        obstacles=workspace.obstacles,
        machines=workspace.machines,
        seed=seed,
        jobs=request.jobs or default_jobs(entries),
        request=request,
        results=reuse.Results(store, setting, evidence=evidence),
        known=known,
    )


@contextlib.contextmanager
def executor_for(
    options: Options,
    entries: Sequence[KernelEntry],
    versions: Mapping[str, str],
    store: Store,
    cache: Cache,
    listener: Listener,
    stop: threading.Event,
) -> Iterator[Executor | None]:
    """The fleet that the request names; None for this host. Raises UsageError, HostError."""
    wanted = options.request.fleet
    if wanted is None or not entries:
        yield None
        return
    from harness.run import fleet  # it is only there with Dask

    durations = stored_runs.durations(store.path, [entry.name for entry in entries])
    with fleet.opened(
        wanted, entries, options, versions, cache, listener, stop, durations
    ) as executor:
        yield executor


def about_run(workspace: workspaces.Workspace) -> dict[str, str]:
    """What the store records about a run in ``workspace``."""
    return {
        "harness": version(),
        "guest": workspace.base.stem,
        "QEMU": workspace.qemu_version,
        "virtme-ng": tools.virtme_ng_version(),
        "host": f"{platform.node()}, Linux {platform.release()}, {os.cpu_count()} processors",
    }


def version() -> str:
    """The version of this harness, with a hash of the code that boots and judges."""
    return f"{__version__} {reuse.judging()[:CODE]}"


def new_run(asked: str, seed: int) -> Run:
    """A run that begins now; ``asked`` is its canonical question."""
    return Run(
        id=workspaces.identity_of_now(),
        started=_now(),
        asked=asked,
        seed=seed,
        directory="",
    )


def seconds_since_start() -> float:
    """Seconds since this process started, to a hundredth (proc_pid_stat(5))."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return round(since_boot - started / os.sysconf("SC_CLK_TCK"), 2)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
