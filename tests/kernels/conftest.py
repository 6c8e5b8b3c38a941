# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.host import programs, tools
from harness.kernels import apt
from harness.kernels.cache import Cache
from tests.conftest import all_required
from tests.processes import PATIENCE, read_pid, unsupervised

DATA = Path(__file__).parent / "data"
RUN = programs.run

# Stands in for apt's programs: answers from files beside it, and notes how it was called.
_PROGRAM = """\
#!/bin/sh
here=$(dirname "$0")
echo "$(basename "$0") $*" >> "$here/calls"
# Waits for a method of transport, as it does for a network that does not answer.
hang() { sleep 60 & echo $! > "$here/pid"; wait; }
case "$(basename "$0") $*" in
    apt-config*) cat "$here/config" ;;
    *" update") [ ! -e "$here/hangs" ] || hang
        [ ! -e "$here/update.stderr" ] || { cat "$here/update.stderr" >&2; exit 100; } ;;
    *" download "*)
        [ ! -e "$here/hangs" ] || hang
        [ ! -e "$here/download.stderr" ] || { cat "$here/download.stderr" >&2; exit 100; }
        cp "$here"/debs/*.deb . ;;
    *" pkgnames "*) sed -n 's/^Package: //p' "$here/index" ;;
    *" show "*) cat "$here/index" ;;
esac
"""


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where a program of the host is missing, unless nothing may be skipped there."""
    absent = [program for program in programs if tools.find(program) is None]
    return pytest.mark.skipif(
        bool(absent) and not all_required(), reason=f"this host lacks {', '.join(absent)}"
    )


@dataclass
class FakeApt:
    """apt as it answered once, in a directory at the head of PATH; unsupervised until it hangs."""

    directory: Path
    patch: pytest.MonkeyPatch

    def fails(self, what: str, recorded: str) -> None:
        """From now on ``what`` (update, download) fails as in the file ``recorded``."""
        (self.directory / f"{what}.stderr").write_text((DATA / "apt" / recorded).read_text())

    def hangs(self) -> Path:
        """From now on it waits for the network; the file that then holds its method's pid."""
        self.patch.setattr(programs, "run", RUN)
        (self.directory / "hangs").touch()
        return self.directory / "pid"

    def works(self, what: str) -> None:
        (self.directory / f"{what}.stderr").unlink()

    def serves(self, index: str) -> None:
        (self.directory / "index").write_text(index)

    def calls(self, word: str) -> list[str]:
        """The calls that held the argument ``word``, in order."""
        calls = self.directory / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line for line in lines if word in line.split()]

    @property
    def debs(self) -> Path:
        return self.directory / "debs"


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    directory = tmp_path / "apt"
    (directory / "debs").mkdir(parents=True)
    for name in ("apt-get", "apt-cache", "apt-config"):
        (directory / name).write_text(_PROGRAM)
        (directory / name).chmod(0o755)
    if tools.find("dpkg-deb") is None:
        (directory / "dpkg-deb").symlink_to("apt-get")
    sources = directory / "sources.list"
    sources.write_text("deb http://mirror.example.org/debian bookworm main\n")
    (directory / "config").write_text(f"LIST='{sources}'\nPARTS='{directory / 'none'}'\n")
    (directory / "index").write_text((DATA / "bookworm.deb822").read_text())
    keyring = directory / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(apt, "_KEYRINGS", (keyring,))
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setattr(programs, "run", unsupervised)
    return FakeApt(directory, monkeypatch)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@contextlib.contextmanager
def stopped_after(pid: Path, cache: Cache) -> Iterator[None]:
    """Interrupt ``cache``'s users once a program has written its process id; they obey soon."""
    times: list[float] = []

    def stop() -> None:
        read_pid(pid)
        times.append(time.monotonic())
        cache.stop.set()

    thread = threading.Thread(target=stop)
    thread.start()
    yield
    thread.join()
    assert time.monotonic() - times[0] < PATIENCE / 2  # what they run goes on for longer


@dataclass
class Said:
    """Notes what the user would be told."""

    lines: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@pytest.fixture
def say() -> Said:
    return Said()
