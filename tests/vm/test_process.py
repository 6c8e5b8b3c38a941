# SPDX-License-Identifier: GPL-2.0-only
"""The process group of a VM, with small programs in the place of virtme-ng."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.host.tools import Standing
from harness.vm import process
from harness.vm.commandline import Unsafe
from harness.vm.process import VmProcess, read_available, work_directory
from tests.processes import PATIENCE, descriptors, is_gone, read_pid, wait_until


@pytest.fixture
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mh-") as directory:
        yield Path(directory)


def start(work: Path, script: str) -> VmProcess:
    return VmProcess(["sh", "-c", script], dict(os.environ), work, "events")


def wait_for_exit(vm: VmProcess) -> None:
    assert select.select([vm.exited], [], [], PATIENCE)[0]


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


#: A harness with a VM, which goes on until it is killed.
HARNESS = """
import os, sys, time
from harness.vm.process import VmProcess, work_directory
with work_directory() as work:
    script = f"sleep 60 & echo $! > {sys.argv[1]}; wait"
    with VmProcess(["sh", "-c", script], dict(os.environ), work, "events"):
        time.sleep(60)
"""


@pytest.fixture
def temporary(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of work directories, this test's own."""
    monkeypatch.setenv("TMPDIR", str(work))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return work


@pytest.fixture
def harness(temporary: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", HARNESS, str(tmp_path / "pid")]) as running:
        read_pid(tmp_path / "pid")
        yield running
        running.kill()


def test_the_group_goes_when_the_harness_is_killed(
    harness: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    harness.kill()
    assert is_gone(read_pid(tmp_path / "pid"))


def test_the_work_directory_goes_when_the_harness_is_killed(
    harness: subprocess.Popen[bytes], temporary: Path
) -> None:
    assert list(temporary.iterdir())
    harness.kill()
    assert wait_until(lambda: not list(temporary.iterdir()))


def test_a_work_directory_of_which_all_were_killed_goes_with_the_next_start(
    harness: subprocess.Popen[bytes], temporary: Path, tmp_path: Path
) -> None:
    sleeper = read_pid(tmp_path / "pid")
    supervisor = os.getpgid(sleeper)
    os.kill(supervisor, signal.SIGSTOP)  # so that it does not come to remove it
    harness.kill()
    harness.wait()
    os.killpg(supervisor, signal.SIGKILL)
    assert is_gone(sleeper)
    (abandoned,) = temporary.iterdir()
    with work_directory() as new:
        assert list(temporary.iterdir()) == [new]
    assert abandoned != new


def test_a_work_directory_in_use_stays(harness: subprocess.Popen[bytes], temporary: Path) -> None:
    (used,) = temporary.iterdir()
    with work_directory():
        assert (used / "events").exists()


def test_a_disk_without_programs_is_passed_over(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """virtme-ng would not find its QEMU there: three attempts, and "QEMU died"."""
    real = os.statvfs

    def statvfs(path: str) -> object:
        return SimpleNamespace(f_flag=os.ST_NOEXEC) if path == str(temporary) else real(path)

    monkeypatch.setattr(os, "statvfs", statvfs)
    with work_directory() as work:
        assert work.parent != temporary
    assert process.doctor().standing is Standing.OK
    assert process.doctor().found == str(work.parent)


def test_a_host_without_a_place_for_a_vm_is_told_why(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    with pytest.raises(Unsafe, match=r"is mounted noexec.*; set TMPDIR to"), work_directory():
        pass
    finding = process.doctor()
    assert finding.standing is Standing.MISSING
    assert f"{temporary} is mounted noexec" in finding.found
    assert finding.remedy


def test_a_directory_that_is_no_work_directory_stays(temporary: Path) -> None:
    (temporary / "mptcp-harness-results").mkdir()
    with work_directory():
        pass
    assert [path.name for path in temporary.iterdir()] == ["mptcp-harness-results"]


def test_what_a_link_named_like_a_work_directory_leads_to_stays(
    temporary: Path, tmp_path: Path
) -> None:
    (temporary / f"{process.PREFIX}12345678").symlink_to(tmp_path)
    (tmp_path / "precious").touch()
    with work_directory():
        pass
    assert (tmp_path / "precious").exists()


def test_a_work_directory_that_another_harness_removed_at_once_is_replaced(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    really_make = tempfile.mkdtemp

    def make(**options: str) -> str:
        made.append(Path(really_make(**options)))
        if len(made) == 1:
            made[0].rmdir()
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", make)
    with work_directory() as work:
        assert work == made[1]
        assert work.is_dir()


def test_a_work_directory_goes_with_all_that_is_in_it(temporary: Path) -> None:
    with work_directory() as work:
        (work / "lib").mkdir()
        (work / "lib" / "file").touch()
    assert list(temporary.iterdir()) == []


def test_nothing_stays_open(work: Path) -> None:
    before = descriptors()
    for _ in range(3):
        with start(work, "true") as vm:
            wait_for_exit(vm)
        (work / "events").unlink()
    assert not descriptors() - before


def test_nothing_stays_open_where_the_socket_cannot_be_made(work: Path) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="too long"), VmProcess(["true"], {}, work, "e" * 200):
        pass
    assert not descriptors() - before


def test_a_program_that_does_not_exist_is_an_exit_status(work: Path) -> None:
    with VmProcess(["/nonexistent/vng"], dict(os.environ), work, "events") as vm:
        wait_for_exit(vm)
        assert vm.exit_status() == 127
        assert read_available(vm.console) == (
            b"/nonexistent/vng cannot be run: No such file or directory\n"
        )
