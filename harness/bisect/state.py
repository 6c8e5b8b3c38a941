# SPDX-License-Identifier: GPL-2.0-only
"""What a bisect has found out, on the disk: killed at any time, the same command goes on with it.

A directory for each thing that was asked holds one file of JSON lines, the first of which says what
that was. A line is on the disk before anything else is done with what it says. A last line that is
no whole record was being written as the harness was killed: it is dropped, which is said. Anything
else that is not as it was written is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from harness.errors import Busy, Damaged
from harness.records import prune

FORMAT = 1
FILE = "bisect.jsonl"
#: No bisect writes as much; a line has some hundred bytes.
MAX_BYTES = 64 << 20


Record = dict[str, Any]


class Journal:
    """The records of one bisect, oldest first; ``seed`` is that of all its boots.

    :meth:`add` may be called from any thread.
    """

    def __init__(self, file: IO[bytes], seed: int, records: list[Record]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.seed = seed
        self.records = records

    def add(self, record: Record) -> None:
        """Keep ``record``; it is on the disk when this returns. Raises OSError."""
        with self._lock:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.records.append(record)


def place(directory: Path, asked: str) -> Path:
    """Below ``directory``, that of the bisect of which ``asked`` says all that matters."""
    return directory / hashlib.sha256(asked.encode()).hexdigest()[:16]


@contextlib.contextmanager
def opened(
    directory: Path, asked: str, seed: int, say: Callable[[str], None], *, fresh: bool = False
) -> Iterator[Journal]:
    """The journal in ``directory``, locked; begun with ``seed`` if there is none, or if ``fresh``.

    Raises :class:`Damaged`, :class:`Busy` and OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(prune.in_use(directory))
        except Busy:
            raise Busy(
                f"another harness is at the same bisect (its state is in {directory}): wait for "
                "it, or end it"
            ) from None
        path = directory / FILE
        if fresh:
            path.unlink(missing_ok=True)
        file = stack.enter_context(path.open("a+b"))
        records, whole = _read(file, path)
        if not records:
            file.truncate(0)
            journal = Journal(file, seed, [])
            journal.add({"e": "begin", "format": FORMAT, "asked": asked, "seed": seed})
            journal.records.clear()
        else:
            if whole < file.seek(0, os.SEEK_END):
                file.truncate(whole)
                say(f"the last line of {path} was not whole, and is dropped: its boot is repeated")
            journal = Journal(file, _begun(records[0], asked, path), records[1:])
        yield journal


def _read(file: IO[bytes], path: Path) -> tuple[list[Record], int]:
    """The whole records, and how many bytes they take."""
    file.seek(0)
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _damaged(path, f"it is larger than {MAX_BYTES} bytes")
    records: list[Record] = []
    whole = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(record, dict) or "e" not in record:
                raise ValueError("no record")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise _damaged(path, f"line {number} cannot be read: {error}") from error
        records.append(record)
        whole += len(line)
    return records, whole


def _begun(first: Record, asked: str, path: Path) -> int:
    seed = first.get("seed")
    if first.get("e") != "begin" or first.get("format") != FORMAT or first.get("asked") != asked:
        raise _damaged(path, "its first line is another's")
    if type(seed) is not int:
        raise _damaged(path, "its first line has no seed")
    return seed


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(
        f"{path}, where the state of this bisect is, is damaged: {why}; begin anew with --fresh"
    )
