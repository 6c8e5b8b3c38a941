# SPDX-License-Identifier: GPL-2.0-only
"""A store's file that is damaged: how that shows, and what can be read of it all the same."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import salvage
from harness.text import plural

COPY_RUN = "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
COPY_RESULT = (
    "INSERT OR IGNORE INTO results SELECT ?1, ?2, ?3, ?4, ?5, ?6"
    " WHERE EXISTS (SELECT 1 FROM runs WHERE number = ?1)"
)
#: By these the rows of the two tables are known.
_SHAPE_OF_RUN = ((type(None),), (str,), (str,), (str, type(None)), (str,), (int,), (str,), (str,))
_SHAPE_OF_RESULT = ((int,), (str,), (str,), (str,), (str,), (bytes,))


@dataclass(frozen=True)
class Damage:
    """A damaged file was moved to ``set_aside``; so many of its rows are in the new one."""

    set_aside: Path
    runs: int
    results: int

    def __str__(self) -> str:
        kept = f"{plural(self.runs, 'run')} and {plural(self.results, 'result')}"
        return (
            f"the file with the results of all runs was damaged, and is set aside as "
            f"{self.set_aside}; {kept} of it could be read and are kept"
        )


#: What a run is called of which only results are left.
LOST = "lost"


def readable(aside: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """The runs and the whole results that a damaged file holds.

    Of a run of which only results can be read, nothing else is known.
    """
    runs: dict[Any, tuple[object, ...]] = {}
    results: dict[int, tuple[object, ...]] = {}
    for rowid, row in salvage.rows(aside):
        if _is_like(row, _SHAPE_OF_RUN):
            runs[rowid] = (rowid, *row[1:])
        elif _is_like(row, _SHAPE_OF_RESULT) and _is_whole(row[-1]):
            results[rowid] = row
    ordered = [results[number] for number in sorted(results)]
    for number, _, finished, *_ in ordered:
        if number not in runs:
            runs[number] = (number, f"{LOST}-{number}", finished, finished, "", 0, LOST, "{}")
    return [runs[number] for number in sorted(runs)], ordered


def _is_like(row: Sequence[object], shape: Sequence[tuple[type, ...]]) -> bool:
    return len(row) == len(shape) and all(map(isinstance, row, shape))


def _is_whole(packed: Any) -> bool:
    try:
        zlib.decompress(packed)
    except zlib.error:
        return False
    return True


def examine(path: Path) -> str:
    """What is wrong with the store in the file ``path``, which is left as it is; "" if nothing."""
    if not path.exists():
        return ""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            return next(iter(complaints(database)), "")
    except sqlite3.DatabaseError as error:
        return str(error)


def complaints(database: sqlite3.Connection) -> list[str]:
    rows = database.execute("PRAGMA integrity_check").fetchall()
    rows += database.execute("PRAGMA foreign_key_check").fetchall()
    return [str(row[0]) for row in rows if row[0] != "ok"]


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is wrong; a lock or a full disk says nothing about it."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python's own: what should be text cannot be decoded
        return "decode" in str(error)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
