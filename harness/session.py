# SPDX-License-Identifier: GPL-2.0-only
"""One run from end to end: what the host must have, the run directory, the kernels, the record."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import platformdirs

from harness import __version__, host, prune
from harness.kernels import Cache
from harness.kernels.files import user_directory, write_atomically
from harness.known_issues import KnownIssues
from harness.manifest import Accel, KernelEntry
from harness.matrix import Matrix, Options, default_jobs
from harness.progress import Listener
from harness.report import as_json
from harness.results import EarlierRun, Family, KernelResult, RunResult
from harness.reuse import Results, Setting
from harness.vm import initramfs

#: In a run's directory: what --json writes.
RECORD = "run.json"


class SessionUnavailable(Exception):
    """The run cannot even start: a sentence with the remedy."""


class OutputRefused(Exception):
    """What the user named as the run's directory cannot be it: a sentence with the remedy."""


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; None where the harness is to choose."""

    families: tuple[Family, ...] = tuple(Family)
    checks: tuple[str, ...] = ()
    payload: int | None = None
    seed: int | None = None
    jobs: int | None = None
    accel: Accel | None = None
    output: Path | None = None
    reuse: bool = False


def run(
    entries: Sequence[KernelEntry],
    wishes: Wishes,
    cache: Cache,
    listener: Listener,
    stop: threading.Event,
) -> RunResult:
    """Test ``entries`` and keep everything in the run's directory.

    Raises :class:`SessionUnavailable` where a host tool is missing or the disk cannot be used,
    :class:`OutputRefused` for a directory of the user's choice that cannot be used,
    :class:`~harness.manifest.ManifestError` for a wrong file of known issues.
    """
    known = KnownIssues.read(entries)
    begun = _begin()
    with ground(wishes.output, cache, begun.id) as found:
        options = Options(
            directory=found.directory,
            base=found.base,
            qemu=found.qemu,
            seed=secrets.randbits(32) if wishes.seed is None else wishes.seed,
            jobs=wishes.jobs or default_jobs(entries),
            families=wishes.families,
            checks=wishes.checks,
            payload=wishes.payload,
            accel=wishes.accel,
            reuse=wishes.reuse,
            known=known,
        )
        return _run(entries, options, wishes.seed, begun, cache, listener, stop)


def _run(
    entries: Sequence[KernelEntry],
    options: Options,
    fixed_seed: int | None,
    begun: _Begun,
    cache: Cache,
    listener: Listener,
    stop: threading.Event,
) -> RunResult:
    directory = options.directory
    known = options.known or KnownIssues.read(entries)
    versions = {
        "qemu": _qemu_version(options.qemu),
        "virtme_ng": importlib.metadata.version("virtme-ng"),
    }
    setting = Setting(
        base=options.base.stem,
        families=options.families,
        checks=options.checks,
        payload=options.payload,
        seed=fixed_seed,
        known=known,
        **versions,
    )
    results = Results(cache, setting, EarlierRun(begun.id, "", options.seed, str(directory)))
    options = replace(options, results=results)

    def place(result: KernelResult) -> Path:
        return directory / "kernels" / result.name / "result.json"

    def keep(result: KernelResult) -> None:
        place(result).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place(result), as_json.kernel_text(result))

    matrix = Matrix(entries, options, cache, listener, keep, stop)
    startup = seconds_since_start()
    found = matrix.run()
    record = RunResult(
        id=begun.id,
        started=begun.at,
        finished=_now(),
        harness_version=__version__,
        host=f"{platform.node()}, Linux {platform.release()}, {os.cpu_count()} processors",
        accel=matrix.accelerators,
        seed=options.seed,
        kernels=found,
        directory=str(directory),
        interrupted=stop.is_set(),
        startup_s=startup,
        notes=() if stop.is_set() else _idle(known, entries, found, options),
        **versions,
    )
    texts = (place(kernel).read_text() for kernel in found)
    write_atomically(directory / RECORD, as_json.join(record, texts))
    return record


def _idle(
    known: KnownIssues,
    entries: Sequence[KernelEntry],
    found: Sequence[KernelResult],
    options: Options,
) -> tuple[str, ...]:
    """The known issues that no longer occur; with a payload of the user's own that says nothing."""
    if options.payload is not None:
        return ()
    return known.idle(entries, found, narrowed=bool(options.checks) or len(options.families) < 2)


@dataclass(frozen=True)
class Ground:
    """What every boot of a run stands on."""

    directory: Path  # of the run
    base: Path  # of the guest's root
    qemu: Path


@contextlib.contextmanager
def ground(output: Path | None, cache: Cache, identity: str = "") -> Iterator[Ground]:
    """Tools found, the guest's root built, a directory made: nothing is pruned that is used.

    Raises as :func:`run` does.
    """
    qemu, busybox = find_tools()
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(cache.scratch())  # from now on nothing is pruned that is used
            base = initramfs.prepare(cache.root, busybox)
            directory = _new_directory(output, identity or _begin().id)
            held.enter_context(prune.in_use(directory))
        except (initramfs.RootUnavailable, OSError) as error:
            raise SessionUnavailable(str(error)) from error
        yield Ground(directory, base, qemu)


def find_tools() -> tuple[Path, Path]:
    """The host's QEMU and busybox; SessionUnavailable names all that is missing."""
    missing = host.missing()
    if missing:
        raise SessionUnavailable(str(host.ToolsMissing(missing)))
    if host.find_virtme_ng() is None:
        raise SessionUnavailable(f"virtme-ng was not found; {host.VIRTME_NG_REMEDY}")
    qemu, busybox = host.find("qemu-system-x86_64"), host.find_static_busybox()
    assert qemu is not None, "host.missing() looked for it"
    assert busybox is not None, "host.missing() looked for it"
    return qemu, busybox


def runs_directory() -> Path:
    """Where runs are kept unless the user says otherwise. Raises files.NoHome."""
    state = user_directory(
        lambda: platformdirs.user_state_path("mptcp-harness"),
        "XDG_STATE_HOME, or give --output DIR",
    )
    return state / "runs"


class _Begun(NamedTuple):
    id: str
    at: str


def _begin() -> _Begun:
    now = datetime.datetime.now(datetime.UTC)
    identity = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    return _Begun(identity, now.isoformat(timespec="seconds"))


def _new_directory(wanted: Path | None, identity: str) -> Path:
    if wanted is None:
        directory = runs_directory() / identity
        directory.mkdir(parents=True)
        return directory
    instead = "give --output a new or empty directory of this run's own"
    directory = wanted.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise OutputRefused(f"--output {wanted}: it is not empty; {instead}")
        (directory / "kernels").mkdir()
    except (FileExistsError, NotADirectoryError):
        raise OutputRefused(f"--output {wanted}: that is a file; {instead}") from None
    except OSError as error:
        raise OutputRefused(f"--output {wanted}: {error.strerror}; {instead}") from error
    return directory


def seconds_since_start() -> float:
    """For how long this process has been running, to a hundredth (proc_pid_stat(5))."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return round(since_boot - started / os.sysconf("SC_CLK_TCK"), 2)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _qemu_version(qemu: Path) -> str:
    try:
        answer = subprocess.run(
            [str(qemu), "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except OSError as error:
        return f"unknown ({error})"
    match = re.search(r"version (\S+)", answer.stdout)
    return match[1] if match else "unknown"
