# SPDX-License-Identifier: GPL-2.0-only
"""The process group of a VM, with small programs in the place of virtme-ng."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.vm.process import VmProcess, read_available

#: Seconds in which a process that was killed is gone.
SOON = 2.0


@pytest.fixture
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mh-") as directory:
        yield Path(directory)


def start(work: Path, script: str) -> VmProcess:
    return VmProcess(["sh", "-c", script], dict(os.environ), work, "events")


def is_gone(pid: int) -> bool:
    """Whether the process has ended, at the latest soon; a zombie counts as ended."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def read_pid(path: Path) -> int:
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline, "the script did not start"
        time.sleep(0.02)
    return int(path.read_text())


def wait_for_exit(vm: VmProcess) -> None:
    assert select.select([vm.exited], [], [], 10)[0]


def test_standard_error_is_the_console(work: Path) -> None:
    with start(work, "echo nowhere; echo console >&2") as vm:
        wait_for_exit(vm)
        assert read_available(vm.console) == b"console\n"
        assert read_available(vm.console) == b""
        assert vm.exit_status() == 0


def test_the_status_is_passed_on_as_a_shell_says_it(work: Path) -> None:
    with start(work, "exit 3") as vm:
        wait_for_exit(vm)
        assert vm.exit_status() == 3


def test_a_signal_is_passed_on_as_a_shell_says_it(work: Path) -> None:
    with start(work, "kill -SEGV $$") as vm:
        wait_for_exit(vm)
        assert vm.exit_status() == 128 + signal.SIGSEGV


def test_leaving_ends_grandchildren_too(work: Path) -> None:
    with start(work, f"sleep 60 & echo $! > {work}/pid; wait"):
        pid = read_pid(work / "pid")
    assert is_gone(pid)


def test_a_grandchild_does_not_outlive_a_parent_that_ended(work: Path) -> None:
    with start(work, f"sleep 60 >&- 2>&- & echo $! > {work}/pid") as vm:
        wait_for_exit(vm)
        pid = read_pid(work / "pid")
    assert is_gone(pid)


def test_the_script_has_no_standard_input(work: Path) -> None:
    with start(work, f"cat > {work}/read; echo done >&2") as vm:
        wait_for_exit(vm)
        assert (work / "read").read_bytes() == b""


def test_the_group_goes_when_the_harness_is_killed(work: Path) -> None:
    harness = textwrap.dedent(f"""
        import os, sys, time
        from pathlib import Path
        from harness.vm.process import VmProcess
        with VmProcess(["sh", "-c", "sleep 60 & echo $! > {work}/pid; wait"], dict(os.environ),
                       Path({str(work)!r}), "events"):
            time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", harness])
    pid = read_pid(work / "pid")
    process.kill()
    process.wait()
    assert is_gone(pid)


def test_nothing_stays_open(work: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for _ in range(3):
        with start(work, "true") as vm:
            wait_for_exit(vm)
        (work / "events").unlink()
    assert count() == before


def test_a_program_that_does_not_exist_is_an_exit_status(work: Path) -> None:
    with VmProcess(["/nonexistent/vng"], dict(os.environ), work, "events") as vm:
        wait_for_exit(vm)
        assert vm.exit_status() != 0
