# SPDX-License-Identifier: GPL-2.0-only
"""One run from end to end: what the host must have, the run directory, the kernels, the record."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import secrets
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from harness import __version__, host
from harness.kernels import Cache
from harness.manifest import Accel, KernelEntry
from harness.matrix import Matrix, Options, default_jobs
from harness.progress import Listener
from harness.report import as_json
from harness.results import Family, KernelResult, RunResult
from harness.vm import initramfs


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
    identity = _new_id()
    started = _now()
    try:
        base = initramfs.prepare(cache.root, busybox)
        directory = _new_directory(wishes.output, identity)
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
    )

    def keep(result: KernelResult) -> None:
        place = directory / "kernels" / result.name
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(
            place / "result.json", json.dumps(as_json.kernel_to_json(result), indent=1) + "\n"
        )

    matrix = Matrix(entries, options, cache, listener, keep, stop)
    results = matrix.run()
    record = RunResult(
        id=identity,
        started=started,
        finished=_now(),
        harness_version=__version__,
        host=f"{platform.node()}, Linux {platform.release()}, {os.cpu_count()} processors",
        qemu=_qemu_version(qemu),
        virtme_ng=importlib.metadata.version("virtme-ng"),
        accel=matrix.accelerators,
        seed=options.seed,
        kernels=results,
        directory=str(directory),
        interrupted=stop.is_set(),
    )
    write_atomically(directory / "run.json", as_json.to_json(record))
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


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step: a reader sees the old file or the new one."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def runs_directory() -> Path:
    """Where runs are kept unless the user says otherwise."""
    return platformdirs.user_state_path("mptcp-harness") / "runs"


def _new_id() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _new_directory(wanted: Path | None, identity: str) -> Path:
    directory = (wanted or runs_directory() / identity).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise OSError(f"{directory} is not empty; give --output a directory of this run's own")
    return directory


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
