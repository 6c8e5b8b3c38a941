# SPDX-License-Identifier: GPL-2.0-only
"""Many kernels in one run: prepared and booted for real, but for a VM that ends at once."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.kernels import Cache
from harness.manifest.entries import UserSpace
from harness.manifest.kernels_yaml import Accel, ImageSource, KernelEntry
from harness.manifest.known_issues import KnownIssues
from harness.manifest.plan import Plan
from harness.run import attempts
from harness.run.attempts import Options
from harness.run.matrix import Matrix
from harness.run.request import Progress, RunRequest, Stage
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import Family
from harness.vm import commandline
from tests.kernels import builders
from tests.processes import descriptors

KERNELS = 12
#: MiB by which the process may have grown; a leak of one initramfs or console each is more.
GROWTH = 12


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    descriptors: int
    threads: int
    children: int
    memory_mib: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        return cls(
            descriptors().total(),
            # Not the kernel's count, in which a thread stays for a moment after join() returned.
            threading.active_count(),
            children(),
            int(status["VmRSS"].split()[0]) >> 10,
        )


def children() -> int:
    """Of this process, zombies and all."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += parent == os.getpid()
    return found


Run = Callable[[int], tuple[KernelResult, ...]]


@pytest.fixture
def open_at_the_end() -> list[int]:
    """Of each kernel, as it is done: the descriptors that are open."""
    return []


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Short, for sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="mh-") as directory:
        yield Path(directory)


@pytest.fixture
def run(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, open_at_the_end: list[int]
) -> Run:
    monkeypatch.setattr(attempts, "BACK_OFF", ())
    monkeypatch.setattr(commandline, "command", lambda *_: ["sh", "-c", "echo no VM >&2"])
    builders.write(tmp_path, {"bzImage": builders.bzimage(), "base.cpio": b"\0" * (1 << 20)})
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def listener(progress: Progress) -> None:
        if progress.stage is Stage.DONE:
            open_at_the_end.append(descriptors().total())

    def run(count: int) -> tuple[KernelResult, ...]:
        entries = [
            KernelEntry(f"k{number}", ImageSource(tmp_path / "bzImage"), "here", accel=Accel.TCG)
            for number in range(count)
        ]
        options = Options(
            directory=tmp_path / f"run of {count}",
            roots={UserSpace(): tmp_path / "base.cpio"},
            qemu=Path("/bin/false"),
            seed=1,
            jobs=1,  # a boot beside it has up to ten descriptors open, or none yet
            request=RunRequest(Plan((Family.IPV4,))),
            known=KnownIssues(),
        )
        cache = Cache(tmp_path / "cache")
        stop = threading.Event()
        return Matrix(entries, options, cache, listener, lambda *_: None, stop).run()

    return run


def test_many_kernels_leave_nothing_behind(
    run: Run, open_at_the_end: list[int], temporary: Path
) -> None:
    run(5)  # what is loaded and allocated once
    open_at_the_end.clear()
    before = Held.now()
    results = run(KERNELS)
    assert len(results) == KERNELS
    assert {len(result.attempts) for result in results} == {1}
    assert {"no VM" in result.reason for result in results} == {True}
    del results
    after = Held.now()
    grown = after.memory_mib - before.memory_mib
    assert (after.descriptors, after.threads, after.children) == (
        before.descriptors,
        before.threads,
        before.children,
    )
    assert grown < GROWTH
    early, late = open_at_the_end[: KERNELS // 2], open_at_the_end[KERNELS // 2 :]
    assert max(late) <= min(early) + 2
    assert not list(temporary.iterdir())
