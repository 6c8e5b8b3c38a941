# SPDX-License-Identifier: GPL-2.0-only
"""Programs under a supervisor: small real ones, which end as they should or are ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import Interrupted
from harness.host import programs
from harness.host.programs import Supervised
from harness.vm.process import read_available
from tests.processes import (
    PATIENCE,
    StandingClock,
    descriptors,
    has_ended,
    is_gone,
    read_pid,
    wait_until,
)

NEVER = threading.Event()


def run(
    script: str, stop: threading.Event = NEVER, timeout: float = 30, **options: object
) -> subprocess.CompletedProcess[str]:
    return programs.run(
        ["sh", "-c", script],
        os.environ,
        stop=stop,
        timeout=timeout,
        **options,  # type: ignore[arg-type]
    )


def python(script: str) -> list[str]:
    """A command that runs ``script`` with what a harness would import."""
    head = (
        "import os, signal, subprocess, sys, threading, time\nfrom harness.host import programs\n"
    )
    return [sys.executable, "-c", head + textwrap.dedent(script)]


#: The start of a harness that runs until it is killed.
RUNS = """
programs.run(["sh", "-c", {script!r}], os.environ, stop=threading.Event(), timeout=60)
"""


@pytest.fixture
def harness() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Those that a test starts, to be ended with it."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_output_and_status_come_back() -> None:
    done = run("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_more_output_than_a_pipe_holds_comes_back() -> None:
    done = run("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2")
    assert (len(done.stdout), len(done.stderr)) == (300000, 300000)


def test_output_that_is_no_text_comes_back() -> None:
    assert run(r"printf '\377ok'").stdout == "\ufffdok"


def test_a_signal_is_a_status_as_a_shell_says_it() -> None:
    assert run("kill -SEGV $$").returncode == 128 + signal.SIGSEGV


def test_there_is_no_input() -> None:
    assert run("cat; echo end").stdout == "end\n"


def test_a_program_that_does_not_exist_is_named() -> None:
    done = programs.run(["/nonexistent/apt-get"], os.environ, stop=NEVER, timeout=30)
    assert done.returncode == 127
    assert done.stderr == "/nonexistent/apt-get cannot be run: No such file or directory\n"


def test_a_writer_whose_reader_ends_is_ended_by_the_signal() -> None:
    assert run("(yes; echo $? >&2) | head -n 1").stderr == f"{128 + signal.SIGPIPE}\n"


def test_a_stop_ends_the_program_and_its_children(tmp_path: Path) -> None:
    stop = threading.Event()

    def stop_it() -> None:
        read_pid(tmp_path / "pid")
        stop.set()

    threading.Thread(target=stop_it).start()
    with pytest.raises(Interrupted):
        run(f"sleep 60 & echo $! > {tmp_path}/pid; wait", stop)
    assert is_gone(read_pid(tmp_path / "pid"))


def test_a_stop_is_obeyed_at_once() -> None:
    stop = threading.Event()
    stop.set()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        run("sleep 600", stop, timeout=300)
    assert time.monotonic() - started < PATIENCE


def test_a_time_out_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    clock = StandingClock(lambda: pid.exists() and pid.read_text().endswith("\n"))
    monkeypatch.setattr(programs, "RunningClock", lambda: clock)
    with pytest.raises(subprocess.TimeoutExpired):
        run(f"echo $$ > {pid}; sleep 60")
    assert is_gone(read_pid(pid))


def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    run(f"sleep 60 & echo $! > {tmp_path}/pid")
    assert is_gone(read_pid(tmp_path / "pid"))


def test_nothing_stays_open() -> None:
    before = descriptors()
    for _ in range(3):
        run("true")
    assert not descriptors() - before


def test_nothing_stays_open_of_a_supervisor_that_cannot_be_started(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        run("true", directory=tmp_path / "nonexistent")
    assert not descriptors() - before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_program_ends_with_the_harness(
    tmp_path: Path, harness: list[subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    harness.append(subprocess.Popen(python(RUNS.format(script=script))))
    pid = read_pid(tmp_path / "pid")
    harness[0].send_signal(number)
    harness[0].wait()
    assert is_gone(pid)


def test_what_a_program_left_behind_ends_with_a_harness_that_does_not_leave(
    tmp_path: Path, harness: list[subprocess.Popen[bytes]]
) -> None:
    """There is no moment at which nobody keeps the group."""
    script = f"sleep 60 & echo $! > {tmp_path}/pid"
    waits = f"""
        null = subprocess.DEVNULL
        command = ["sh", "-c", {script!r}]
        with programs.Supervised(command, os.environ, output=null, errors=null) as kept:
            kept.wait(threading.Event(), 30)
            print(flush=True)
            time.sleep(60)
    """
    harness.append(subprocess.Popen(python(waits), stdout=subprocess.PIPE))
    assert harness[0].stdout is not None
    assert harness[0].stdout.readline() == b"\n"
    pid = read_pid(tmp_path / "pid")
    assert not has_ended(pid)
    harness[0].kill()
    assert is_gone(pid)


def test_the_number_of_the_group_is_nobody_elses_until_the_group_is_killed() -> None:
    """killpg() of a number that was given away would hit a stranger."""
    reading, writing = os.pipe()
    with (
        os.fdopen(reading) as output,
        Supervised(["sh", "-c", "echo $PPID"], os.environ, output=writing, errors=writing) as kept,
    ):
        os.close(writing)
        kept.wait(NEVER, 30)
        group = int(output.readline())
        assert os.getpgid(group) == group
        kept.kill()
        assert os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT)  # a zombie has its number still


def test_a_supervisor_that_was_killed_is_seen() -> None:
    script = "kill -KILL $PPID; sleep 60"
    null = subprocess.DEVNULL
    with Supervised(["sh", "-c", script], os.environ, output=null, errors=null) as kept:
        assert kept.wait(NEVER, 30) == 128 + signal.SIGKILL


def test_an_exit_status_is_there_where_the_harness_began_with_sigchld_ignored() -> None:
    """Some daemons ignore it, and a child inherits that."""
    asks = """
        done = programs.run(["sh", "-c", "exit 3"], os.environ, stop=threading.Event(), timeout=30)
        print(done.returncode)
    """
    ignore = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    command = [sys.executable, "-c", f"{ignore}os.execv(sys.argv[1], sys.argv[1:])", *python(asks)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "3\n"


def test_orphans_are_collected() -> None:
    """In a container nobody else does, and each boot would leave some."""
    collects = """
        script = "(sleep 60 & sleep 60 &) ; sleep 0.1 & exit 0"
        programs.run(["sh", "-c", script], os.environ, stop=threading.Event(), timeout=30)
        try:
            print(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG))
        except ChildProcessError:
            print("none")
    """
    assert subprocess.run(python(collects), capture_output=True, text=True).stdout == "none\n"


def in_new_namespace() -> list[str]:
    """What stands before a command for it to be the second process of a namespace of its own."""
    unshare = shutil.which("unshare") or ""
    # The shell is the first, as in a container, and stays when its child is killed.
    shell = ["sh", "-c", 'exec 3<&0; "$@" <&3 & wait; exec sleep 60', "sh"]
    command = [unshare, "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if not unshare or subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        pytest.skip("this host makes no namespaces of process ids for users")
    return [*command, *shell]


def test_the_program_ends_with_a_harness_in_a_container(
    tmp_path: Path, harness: list[subprocess.Popen[bytes]]
) -> None:
    """Process ids are others inside: the end is seen at a pipe that the program holds open."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    dies = f"""
        def die() -> None:
            sys.stdin.read()
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=die).start()
        {RUNS.format(script=f"exec 9>{fifo}; sleep 60 & echo ready >&9; wait").strip()}
    """
    harness.append(subprocess.Popen([*in_new_namespace(), *python(dies)], stdin=subprocess.PIPE))
    assert wait_until(lambda: read_available(held) == b"ready\n")
    assert harness[0].stdin is not None
    harness[0].stdin.close()
    assert wait_until(lambda: read_available(held) == b"")
    assert harness[0].poll() is None, "the namespace has ended, and all in it with it"
    os.close(held)


def test_a_program_that_goes_on_is_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "SAY_EVERY", 0.0)
    os.mkfifo(tmp_path / "go-on")
    said: list[float] = []

    def waiting(seconds: float) -> None:
        if not said:
            (tmp_path / "go-on").write_text("\n")
        said.append(seconds)

    command = ["sh", "-c", f"read line < {tmp_path}/go-on"]
    stop = threading.Event()
    programs.run(command, os.environ, stop=stop, timeout=60, waiting=waiting)
    assert said
    assert said[0] >= 0
