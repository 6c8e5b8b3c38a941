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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import platformdirs

from harness import __version__, host, prune
from harness.kernels import Cache
from harness.kernels.files import write_atomically
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

    Raises :class:`SessionUnavailable` where a host tool is missing or the disk cannot be used.
    """
    qemu, busybox = find_tools()
    begun = _begin()
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(cache.scratch())  # from now on nothing is pruned that is used
            base = initramfs.prepare(cache.root, busybox)
            directory = _new_directory(wishes.output, begun.id)
            held.enter_context(prune.in_use(directory))
        except (initramfs.RootUnavailable, OSError) as error:
            raise SessionUnavailable(str(error)) from error
        options = Options(
            directory=directory,
            base=base,
            qemu=qemu,
            seed=secrets.randbits(32) if wishes.seed is None else wishes.seed,
            jobs=wishes.jobs or default_jobs(entries),
            families=wishes.families,
            checks=wishes.checks,
            payload=wishes.payload,
            accel=wishes.accel,
            reuse=wishes.reuse,
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
        **versions,
    )
    texts = (place(kernel).read_text() for kernel in found)
    write_atomically(directory / RECORD, as_json.join(record, texts))
    return record


def find_tools() -> tuple[Path, Path]:
    """The host's QEMU and busybox; SessionUnavailable names all that is missing."""
    missing = host.missing()
    if missing:
        raise SessionUnavailable(str(host.ToolsMissing(missing)))
    qemu, busybox = host.find("qemu-system-x86_64"), host.find_static_busybox()
    assert qemu is not None, "host.missing() looked for it"
    assert busybox is not None, "host.missing() looked for it"
    return qemu, busybox


def runs_directory() -> Path:
    """Where runs are kept unless the user says otherwise."""
    return platformdirs.user_state_path("mptcp-harness") / "runs"


class _Begun(NamedTuple):
    id: str
    at: str


def _begin() -> _Begun:
    now = datetime.datetime.now(datetime.UTC)
    identity = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    return _Begun(identity, now.isoformat(timespec="seconds"))


def _new_directory(wanted: Path | None, identity: str) -> Path:
    directory = (wanted or runs_directory() / identity).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise OSError(f"{directory} is not empty; give --output a directory of this run's own")
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
