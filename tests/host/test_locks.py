# SPDX-License-Identifier: GPL-2.0-only
"""Locks between harnesses: who waits is told for whom, and a removed lock file protects nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import Busy, Interrupted
from harness.host import locks

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, threading
from pathlib import Path
from harness.host import locks
with locks.at_once(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def holder(place: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(place)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_does_not_wait_is_told_who_holds_it(holder: subprocess.Popen[str], place: Path) -> None:
    with (
        pytest.raises(Busy, match=rf"try later \(process {holder.pid}, since 20"),
        locks.at_once(place, "try later"),
    ):
        pass


def test_who_waits_is_told_for_whom_and_has_it_when_the_holder_is_killed(
    holder: subprocess.Popen[str], place: Path
) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        holder.kill()

    with locks.waited_for(place, threading.Event(), say, "the other"):
        assert said[0].startswith(f"waiting for the other: process {holder.pid}, since 20")
        assert f"process {os.getpid()}," in place.read_text()


def test_an_interruption_ends_the_waiting(holder: subprocess.Popen[str], place: Path) -> None:
    stop = threading.Event()
    with pytest.raises(Interrupted), locks.waited_for(place, stop, lambda _: stop.set()):
        pass
    assert holder.poll() is None


def test_a_long_wait_says_how_long_it_has_lasted(
    holder: subprocess.Popen[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(0, 1000, 20))
    monkeypatch.setattr("harness.host.locks.time.monotonic", lambda: next(times))
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            holder.kill()

    with locks.waited_for(place, threading.Event(), say, "the other"):
        pass
    assert [text.split(":")[0] for text in said[:3]] == [
        "waiting for the other",
        "still waiting for the other, for 40 s",
        "still waiting for the other, for 80 s",
    ]


def test_a_lock_is_free_after_its_use(place: Path) -> None:
    for _ in range(2):
        with locks.at_once(place, "busy"):
            assert locks.is_held(place)
        assert not locks.is_held(place)


def test_who_locked_a_file_that_was_removed_meanwhile_locks_the_new_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two hold the same lock: the one on the removed file, the other on the new one."""
    removed: list[int] = []

    def remove_at_first(descriptor: int) -> bool:
        if not removed:
            removed.append(place.stat().st_ino)
            place.unlink()
        return True

    monkeypatch.setattr(locks, "_try", remove_at_first)
    with locks.at_once(place, "busy") as descriptor:
        assert os.path.samestat(os.fstat(descriptor), place.stat())
    assert removed


def test_a_directory_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with locks.directory(tmp_path):
        assert locks.is_held(tmp_path)
        with pytest.raises(Busy, match="this sentence"), locks.directory(tmp_path, "this sentence"):
            pass
    assert not locks.is_held(tmp_path)


def test_a_lock_file_goes_only_if_it_is_old_and_free(place: Path) -> None:
    with locks.at_once(place, "busy"):
        assert not locks.remove(place, before=float("inf"))
    os.utime(place, (100, 100))
    assert not locks.remove(place, before=50)
    assert locks.remove(place, before=150)
    assert not place.exists()


def test_a_lock_that_cannot_be_written_to_can_be_held(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a cache that is mounted read-only; root may write everywhere, so it is simulated."""
    place.touch()
    real_open = os.open

    def read_only(path: Path, flags: int, mode: int = 0) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    with locks.at_once(place, "busy"):
        assert locks.is_held(place)
    assert place.read_text() == ""
