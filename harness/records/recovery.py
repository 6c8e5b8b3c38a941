# SPDX-License-Identifier: GPL-2.0-only
"""Detects a damaged store, and reads the rows that are still readable.

SQLite refuses a table, and with it every row, if one inner page is damaged. The leaf pages, which
hold the rows, can be recognised without it. Format: https://sqlite.org/fileformat.html (1.3 the
header, 1.6 pages, 2.1 records, 4.1 the write-ahead log).
"""

from __future__ import annotations

import contextlib
import mmap
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from harness.text import plural

COPY_RUN = "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
COPY_RESULT = (
    "INSERT OR IGNORE INTO results SELECT ?1, ?2, ?3, ?4, ?5, ?6"
    " WHERE EXISTS (SELECT 1 FROM runs WHERE number = ?1)"
)
#: Used to recognise the rows of the two tables.
_SHAPE_OF_RUN = ((type(None),), (str,), (str,), (str, type(None)), (str,), (int,), (str,), (str,))
_SHAPE_OF_RESULT = ((int,), (str,), (str,), (str,), (str,), (bytes,))


@dataclass(frozen=True)
class Damage:
    """A damaged file was moved to ``set_aside``; these rows of it are in the new file."""

    set_aside: Path
    runs: int
    results: int

    def __str__(self) -> str:
        kept = f"{plural(self.runs, 'run')} and {plural(self.results, 'result')}"
        return (
            f"the file with the results of all runs was damaged and was moved to {self.set_aside}; "
            f"{kept} in it could be read and are kept"
        )


#: The id of a run of which only results are left.
LOST = "lost"


def readable(aside: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """The runs and complete results in a damaged file.

    If only results of a run can be read, nothing else is known about it.
    """
    runs: dict[Any, tuple[object, ...]] = {}
    results: dict[int, tuple[object, ...]] = {}
    for rowid, row in salvage(aside):
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
    """The damage of the store in the file ``path``, "" if none. The file is not changed."""
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
    """Whether the file itself is damaged, as opposed to a lock or a full disk."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by Python: text that cannot be decoded
        return "decode" in str(error)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


Value: TypeAlias = int | float | str | bytes | None
#: The rowid, and the values.
Row: TypeAlias = tuple[int, tuple[Value, ...]]

_LEAF_OF_A_TABLE = 0x0D
_FIRST = 100  # bytes of the file's header, before the first page's own
#: No row is larger than this; a damaged length may be.
MOST = 64 << 20


class _Damaged(Exception):
    """A row or a page is inconsistent."""


@dataclass(frozen=True)
class _Pages:
    """The pages of a file by number, from 1; ``newer`` has those from its write-ahead log."""

    content: mmap.mmap | bytes
    size: int
    usable: int
    newer: dict[int, bytes]

    def numbers(self) -> range:
        return range(1, max(len(self.content) // self.size, *self.newer, 0) + 1)

    def page(self, number: int) -> bytes:
        if number in self.newer:
            return self.newer[number]
        page = self.content[(number - 1) * self.size : number * self.size]
        if number < 1 or len(page) < self.size:
            raise _Damaged
        return page


def salvage(path: Path) -> Iterator[Row]:
    """Every complete row of every table of the database ``path``, in no order. Raises OSError.

    Deleted rows may be among them.
    """
    with path.open("rb") as file:
        header = file.read(_FIRST)
        size = _page_size(header)
        log = _log(path.with_name(f"{path.name}-wal"), size)
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if header else b""
        reserved = header[20] if len(header) > 20 and header[20] < size - 480 else 0
        pages = _Pages(content, size, size - reserved, log)
        for number in pages.numbers():
            yield from _rows_of(pages, number)


def _page_size(header: bytes) -> int:
    """The page size in the file's ``header``, or SQLite's default if that is invalid."""
    (size,) = struct.unpack(">H", header[16:18].ljust(2, b"\0"))
    if size == 1:
        return 65536
    return size if size >= 512 and size & (size - 1) == 0 else 4096


def _log(path: Path, size: int) -> dict[int, bytes]:
    """The pages that were committed to the write-ahead log ``path``."""
    content = path.read_bytes() if path.exists() else b""
    committed: dict[int, bytes] = {}
    open_: dict[int, bytes] = {}
    for start in range(32, len(content) - size - 23, 24 + size):
        number, pages_after, *salts = struct.unpack(">IIII", content[start : start + 16])
        if [*salts] != [*struct.unpack(">II", content[16:24])]:
            break  # left from an earlier log
        open_[number] = content[start + 24 : start + 24 + size]
        if pages_after:
            committed |= open_
            open_.clear()
    return committed


def _rows_of(pages: _Pages, number: int) -> Iterator[Row]:
    try:
        page = pages.page(number)
    except _Damaged:
        return
    header = _FIRST if number == 1 else 0
    if page[header] != _LEAF_OF_A_TABLE:
        return
    (cells,) = struct.unpack(">H", page[header + 3 : header + 5])
    pointers = page[header + 8 : header + 8 + 2 * cells]
    for (cell,) in struct.iter_unpack(">H", pointers[: len(pointers) & ~1]):
        try:
            yield _row(pages, page, cell)
        except (_Damaged, IndexError, struct.error, UnicodeDecodeError):
            continue


def _row(pages: _Pages, page: bytes, at: int) -> Row:
    length, at = _varint(page, at)
    rowid, at = _varint(page, at)
    if not 0 <= length <= MOST:
        raise _Damaged
    local = _local(length, pages.usable)
    payload = bytearray(page[at : at + local])
    if local < length:
        (following,) = struct.unpack(">I", page[at + local : at + local + 4])
        while len(payload) < length:
            more = pages.page(following)
            (following,) = struct.unpack(">I", more[:4])
            payload += more[4 : pages.usable]
        del payload[length:]
    if len(payload) < length:
        raise _Damaged
    return rowid, _values(bytes(payload))


def _local(length: int, usable: int) -> int:
    """The part of a payload of ``length`` bytes that a leaf page holds; the rest overflows."""
    most = usable - 35
    if length <= most:
        return length
    least = (usable - 12) * 32 // 255 - 23
    wanted = least + (length - least) % (usable - 4)
    return wanted if wanted <= most else least


def _values(record: bytes) -> tuple[Value, ...]:
    end, at = _varint(record, 0)
    kinds = []
    while at < end:
        kind, at = _varint(record, at)
        kinds.append(kind)
    if at != end:
        raise _Damaged
    values: list[Value] = []
    for kind in kinds:
        size = _size(kind)
        raw = record[at : at + size]
        if len(raw) < size:
            raise _Damaged
        values.append(_value(kind, raw))
        at += size
    if at != len(record):
        raise _Damaged
    return tuple(values)


def _size(kind: int) -> int:
    if kind in (10, 11):
        raise _Damaged
    return (kind - 12) // 2 if kind >= 12 else (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)[kind]


def _value(kind: int, raw: bytes) -> Value:
    match kind:
        case 0:
            return None
        case 7:
            (number,) = struct.unpack(">d", raw)
            return float(number)
        case 8 | 9:
            return kind - 8
        case _ if kind < 10:
            return int.from_bytes(raw, "big", signed=True)
    return raw.decode() if kind % 2 else raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, and where it ends. Raises IndexError."""
    number = 0
    for offset in range(8):
        byte = data[at + offset]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, at + offset + 1
    number = number << 8 | data[at + 8]
    return number - (1 << 64) if number >> 63 else number, at + 9
