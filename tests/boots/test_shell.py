# SPDX-License-Identifier: GPL-2.0-only
"""`check --shell`, on a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.kernels import prepare
from harness.kernels.cache import Cache
from harness.manifest.kernels_yaml import DebSource, KernelEntry
from tests.boots.conftest import virtual_machines, wait_until

#: Seconds; a boot under TCG takes 5 on an idle host.
PATIENCE = 120
PROMPT = "guest:/# "


class Session:
    """`mptcp-harness check --shell` and the terminal that it has."""

    def __init__(self, image: Path, cache: Cache, temporary: Path) -> None:
        self.terminal, theirs = pty.openpty()
        self.before = termios.tcgetattr(self.terminal)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "harness", "check", str(image), "--shell"),
                *("--cache", str(cache.root)),
            ],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TMPDIR": str(temporary), "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def read_until(self, pattern: str) -> str:
        """What is shown from now on, up to ``pattern``."""
        deadline = time.monotonic() + PATIENCE
        seen = ""
        while not re.search(pattern, seen):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.shown[-2000:]}"
            if select.select([self.terminal], [], [], left)[0]:
                piece = os.read(self.terminal, 65536).decode(errors="replace")
                seen += piece
                self.shown += piece
        return seen

    def end(self) -> int:
        """Its exit status, once it has ended."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.terminal, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    break
        return self.process.wait(PATIENCE)

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.terminal) == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture(scope="module")
def image(cache: Cache) -> Path:
    entry = KernelEntry("trixie", DebSource("trixie", "linux-image-amd64"), "the tests")
    return prepare(entry, cache, lambda _: None).image


@pytest.fixture
def session(image: Path, cache: Cache, temporary: Path) -> Iterator[Session]:
    session = Session(image, cache, temporary)
    yield session
    session.close()


def test_commands_run_in_the_guest_and_exit_ends_it(session: Session) -> None:
    session.read_until(PROMPT)
    assert "leave with: exit" in session.shown
    session.type("echo $((6*7))\r")
    assert re.search(r"\r\n42\r\n", session.read_until(PROMPT))
    session.type("check -4 --check 'payload.*' | grep -c ^ok\r")
    assert re.search(r"\r\n[1-9]\d*\r\n", session.read_until(r"\r\n\d+\r\n.*" + PROMPT))
    session.type("exit\r")
    assert session.end() == 0, session.shown[-2000:]
    assert session.is_as_before()


def test_a_key_interrupts_what_runs_in_the_guest_and_not_the_harness(session: Session) -> None:
    session.read_until(PROMPT)
    # A program of its own says "begun": the terminal is in its hands by then. Were it the shell,
    # the key could come between its echo and the start of sleep, where ash loses it (seen in CI).
    session.type("sh -c 'echo begun; exec sleep 1000'\r")
    session.read_until("\r\nbegun\r\n")
    session.type("\x03")
    session.read_until(PROMPT)
    session.type("poweroff\r")
    assert session.end() == 0, session.shown[-2000:]


def test_ctrl_a_x_ends_the_vm_at_once(session: Session, temporary: Path) -> None:
    session.read_until("Linux version")
    assert virtual_machines(temporary)
    session.type("\x01x")
    assert session.end() == 0
    assert session.is_as_before()
    assert not virtual_machines(temporary)


def test_the_vm_dies_with_the_harness(session: Session, temporary: Path) -> None:
    session.read_until("Linux version")
    session.process.kill()
    assert wait_until(lambda: not virtual_machines(temporary), 10)


def test_a_signal_ends_it_and_restores_the_terminal(session: Session, temporary: Path) -> None:
    session.read_until("Linux version")
    session.process.terminate()
    assert session.end() == 130
    assert session.is_as_before()
    assert not virtual_machines(temporary)


def test_without_a_terminal_it_says_so(image: Path, cache: Cache) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness", "check", str(image), "--shell"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--shell needs a terminal" in done.stderr
