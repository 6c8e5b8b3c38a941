# SPDX-License-Identifier: GPL-2.0-only
"""Runs of the real command line on real kernels. All tests of this directory boot."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.kernels.cache import Cache

HERE = Path(__file__).parent
#: Seconds; the default matrix takes half a minute on two processors under TCG, a first fetch more.
PATIENCE = 900
#: Seconds in which a harness and its VMs must be gone; on an idle machine they are in two.
SOON = 15


#: The files that take longest, which are begun first: the shorter ones fill up both workers then.
LONG = (
    *("test_matrix.py", "test_selftest.py", "test_cache.py", "test_decision_table.py"),
    *("test_repeat.py", "test_pytest.py", "test_replay.py", "test_resume.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.boots)
    first = {HERE / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The results of all runs go there, not to the user's own."""
    directory = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(directory))
        yield directory


@dataclass(frozen=True)
class Run:
    """A finished `mptcp-harness`, and what it left."""

    status: int
    stdout: str
    stderr: str
    directory: Path
    record: dict[str, Any]

    def kernel(self, name: str) -> dict[str, Any]:
        (found,) = (kernel for kernel in self.record["kernels"] if kernel["name"] == name)
        assert isinstance(found, dict)
        return found

    def console(self, name: str) -> str:
        path = self.directory / "kernels" / name / "attempt-1" / "console.log"
        return path.read_text(errors="replace")


Harness = Callable[..., Run]


def command(directory: Path, cache: Cache, arguments: Sequence[str]) -> list[str]:
    return [
        *(sys.executable, "-m", "harness", *arguments),
        *("--output", str(directory), "--cache", str(cache.root)),
    ]


@pytest.fixture(scope="session")
def harness(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """Runs `mptcp-harness ARGUMENTS` without a terminal."""

    def run(*arguments: str, **environment: str) -> Run:
        base = tmp_path_factory.mktemp("run")
        record = base / "record.json"
        done = subprocess.run(
            [*command(base / "run", cache, arguments), "--json", str(record)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, **environment},
        )
        read = json.loads(record.read_text()) if record.exists() else {}
        return Run(done.returncode, done.stdout, done.stderr, base / "run", read)

    return run


def know_kvm(cache: Cache, other: Path) -> None:
    """Let the cache ``other`` hold what is known about this host's KVM: a trial takes 8 seconds."""
    other.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # nothing was booted yet
        shutil.copy(cache.root / "kvm.json", other)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A TMPDIR of one test's own, to see what is left in it; short, for sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="mh-") as directory:
        yield Path(directory)


@pytest.fixture
def started(
    cache: Cache, tmp_path: Path, temporary: Path
) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Starts `mptcp-harness ARGUMENTS` and goes on; ends it, if the test has not."""
    processes = []

    def start(*arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        process = subprocess.Popen(
            command(tmp_path / "run", cache, arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        processes.append(process)
        return process, tmp_path / "run"

    yield start
    for process in processes:
        process.kill()
        process.wait()


def virtual_machines(marker: Path) -> list[int]:
    """Process ids of QEMUs whose command line has ``marker`` in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(marker).encode() in line and b"qemu-system" in line.split(b"\0")[0]:
            found.append(int(process.name))
    return found


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Whether ``condition`` came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def manifest(path: Path, text: str) -> Path:
    """A kernels.yaml with ``text`` below `kernels:`."""
    file = path / "kernels.yaml"
    file.write_text("kernels:\n" + text)
    return file
