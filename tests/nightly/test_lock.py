# SPDX-License-Identifier: GPL-2.0-only
"""Two nightlies at a time: the second one waits, or says so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.nightly import Busy, only_one

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, threading
from pathlib import Path
from harness.nightly import only_one
with only_one(Path(sys.argv[1]), print, threading.Event(), wait=False):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_one_says_who_is_first(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with (
        pytest.raises(Busy, match=rf"process {holder.pid}, begun at .*--wait"),
        only_one(tmp_path / "lock", print, threading.Event(), wait=False),
    ):
        pass


def test_with_wait_the_second_one_goes_on_when_the_first_is_killed(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        holder.kill()

    with only_one(tmp_path / "lock", say, threading.Event(), wait=True):
        assert f"process {holder.pid}" in said[0]
        assert f"process {os.getpid()}" in (tmp_path / "lock").read_text()


def test_an_interruption_ends_the_waiting(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    stop = threading.Event()
    with (
        pytest.raises(Busy, match="interrupted"),
        only_one(tmp_path / "lock", lambda _: stop.set(), stop, wait=True),
    ):
        pass
    assert holder.poll() is None


def test_the_lock_is_free_after_the_night(tmp_path: Path) -> None:
    for _ in range(2):
        with only_one(tmp_path / "lock", print, threading.Event(), wait=False):
            pass
