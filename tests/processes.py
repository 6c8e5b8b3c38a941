# SPDX-License-Identifier: GPL-2.0-only
"""To see real processes come and go."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Seconds that are waited for what comes at once on an idle machine. On one with a load of many
#: times its processors it comes later; only what never comes is waited for as long.
PATIENCE = 60.0


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether ``condition`` came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def has_ended(pid: int) -> bool:
    """Whether the process has ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def is_gone(pid: int) -> bool:
    """Whether the process has ended, or ends."""
    return wait_until(lambda: has_ended(pid))


def read_pid(path: Path) -> int:
    """The process id that a script writes to ``path`` with a line feed at the end."""
    assert wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def descriptors() -> Counter[str]:
    """What this process has open, by the names that the kernel gives: ``pipe:[4026]``, or a path.

    ``descriptors() - before`` is what was opened since and stays open. A comparison of numbers
    would also count what an earlier test left to the garbage collector, which closes it at any
    time.
    """
    opened: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        try:
            opened[str(link.readlink())] += 1
        except FileNotFoundError:  # that of the directory itself
            continue
    return opened


class StandingClock:
    """In place of a RunningClock: it stands until ``is_over``, then all patience is over.

    The first look always begins the wait, however soon the program does what ends it.
    """

    def __init__(self, is_over: Callable[[], object]) -> None:
        self._is_over = is_over
        self._has_begun = False

    def now(self) -> float:
        has_begun, self._has_begun = self._has_begun, True
        return 1e6 if has_begun and self._is_over() else 0.0


def unsupervised(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    directory: Path | None = None,
    **_: object,
) -> subprocess.CompletedProcess[str]:
    """In place of programs.run() where a program is short: a supervisor takes longer than most."""
    return subprocess.run(
        command,
        env=dict(environment),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
