# SPDX-License-Identifier: GPL-2.0-only
"""A note that a night began, until its report reached somebody.

A night that is killed after its tests and before its report has kept its results. If the next night
compared with these, a regression would be "still wrong" before anybody heard of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.host.files import write_atomically

#: Characters of the note that are read; a run's name has some twenty.
_MAX = 100


@dataclass(frozen=True)
class LastReported:
    """``run`` is the newest run that may be compared with, "" if there is none.

    ``unreported`` is set if a night after it ended before its report reached anybody.
    """

    run: str
    unreported: bool = False


def begin(note: Path, newest: str) -> LastReported:
    """Note in the file ``note`` that a night begins; ``newest`` is the last run before it.

    A note that an earlier night left keeps counting. Raises OSError.
    """
    try:
        with note.open(encoding="utf-8", errors="replace") as file:
            return LastReported(file.read(_MAX).strip(), unreported=True)
    except FileNotFoundError:
        write_atomically(note, newest)
        return LastReported(newest)


def end(note: Path) -> None:
    """The report reached those who want it."""
    note.unlink(missing_ok=True)
