# SPDX-License-Identifier: GPL-2.0-only
"""Up to which run somebody was told what is wrong.

A night that is killed after its tests and before its report has kept its results. Were the next one
compared with these, a regression would be "still wrong" before anybody heard of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.host.files import write_atomically

#: Characters of the note that are read; a run's name has some twenty.
_MAX = 100


@dataclass(frozen=True)
class Told:
    """``run`` is the newest that may be compared with, "" if there is none.

    ``late`` says that a night after it ended without a report that reached somebody.
    """

    run: str
    late: bool = False


def begin(note: Path, newest: str) -> Told:
    """A night begins, and ``newest`` is the last run before it: noted until :func:`end`.

    What a night that did not come to that noted in the file ``note`` goes on. Raises OSError.
    """
    try:
        with note.open(encoding="utf-8", errors="replace") as file:
            return Told(file.read(_MAX).strip(), late=True)
    except FileNotFoundError:
        write_atomically(note, newest)
        return Told(newest)


def end(note: Path) -> None:
    """The report is with who wants it."""
    note.unlink(missing_ok=True)
