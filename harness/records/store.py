# SPDX-License-Identifier: GPL-2.0-only
"""The results of all runs, in one SQLite file: each kernel's as soon as it is there.

Whatever becomes of the harness, a result that :meth:`Store.add` returned from is kept: it is one
transaction, in a write-ahead log that SQLite recovers at the next opening. A run that never got
to its end has no time of that.

``PRAGMA user_version`` holds the version of the tables; :data:`MIGRATIONS` leads from each to the
next. A file of a newer harness is refused, one that is no database is set aside under another name.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import sqlite3
import threading
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.errors import HostError

#: The name of the file.
FILE = "results.sqlite"
#: Each makes the tables of the version that is its place here, from those of the one before.
#: What stands here has been run on users' files: it is added to, and never changed.
MIGRATIONS = (
    (
        """
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        started TEXT NOT NULL,
        finished TEXT,              -- NULL as long as it goes on, or where it was cut off
        asked TEXT NOT NULL,        -- what the user asked for, see Run.asked
        seed INTEGER NOT NULL,
        directory TEXT NOT NULL,
        about TEXT NOT NULL         -- JSON: versions and host
    )""",
        """
    CREATE TABLE results (
        run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
        kernel TEXT NOT NULL,
        finished TEXT NOT NULL,
        verdict TEXT NOT NULL,
        circumstances TEXT NOT NULL, -- the key of records.reuse; '' where it cannot be reused
        record BLOB NOT NULL,        -- JSON, as in --json, by zlib, which notices a flipped byte
        PRIMARY KEY (run, kernel)
    )""",
        "CREATE INDEX results_by_circumstances ON results (circumstances)",
    ),
)
VERSION = len(MIGRATIONS)
#: Seconds to wait for another harness that writes; a transaction takes milliseconds.
PATIENCE = 30.0


@dataclass(frozen=True)
class Run:
    """The head of a run. Times are ISO 8601 in UTC; ``finished`` is empty where it never ended.

    ``asked`` is a canonical text of manifest, kernels and settings: two runs with the same one
    were asked for the same.
    """

    id: str
    started: str
    asked: str
    seed: int
    directory: str
    about: str = "{}"
    finished: str = ""


@dataclass(frozen=True)
class Kept:
    """One kernel's result; ``packed`` is what harness.records.to_json makes of it, by zlib."""

    run: Run
    kernel: str
    finished: str
    verdict: str
    packed: bytes

    def record(self) -> str:
        """The JSON. Raises ValueError where it is damaged."""
        try:
            return zlib.decompress(self.packed).decode()
        except (zlib.error, TypeError) as error:  # TypeError: not even bytes
            raise ValueError(f"it is damaged: {error}") from error


class Store:
    """The file ``path``, made if there is none. Several processes and threads may use it at once.

    Raises :class:`HostError`, here and from every method. ``set_aside`` is where a damaged
    file was moved, if there was one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: Path | None = None
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._open()
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def begin(self, run: Run) -> None:
        """``run`` has begun."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO runs (id, started, asked, seed, directory, about)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (run.id, run.started, run.asked, run.seed, run.directory, run.about),
            )

    def add(
        self,
        run_id: str,
        kernel: str,
        verdict: str,
        record: str,
        circumstances: str = "",
        *,
        learned: bool = True,
    ) -> None:
        """Keep the result of ``kernel`` in the run; a second one takes the place of the first.

        Where nothing new was ``learned`` by it, it is not waited for the disk: a power failure may
        take it, nothing else.
        """
        packed = zlib.compress(record.encode(), 1)
        with self._transaction(durable=learned) as database:
            added = database.execute(
                "INSERT OR REPLACE INTO results"
                " (run, kernel, finished, verdict, circumstances, record)"
                " SELECT number, ?, ?, ?, ?, ? FROM runs WHERE id = ?",
                (kernel, _now(), verdict, circumstances, packed, run_id),
            )
            if added.rowcount != 1:
                raise HostError(f"{self.path} has no run {run_id}: it was pruned meanwhile")

    def finish(self, run_id: str) -> None:
        """The run has come to its end: all of its kernels have a result."""
        with self._transaction() as database:
            database.execute("UPDATE runs SET finished = ? WHERE id = ?", (_now(), run_id))

    def runs(self, limit: int = -1) -> list[Run]:
        """The last runs, newest first."""
        return self._runs("ORDER BY number DESC LIMIT ?", limit)

    def run(self, run_id: str) -> Run | None:
        """The run of that name, if it is kept."""
        return next(iter(self._runs("WHERE id = ?", run_id)), None)

    def last(self, asked: str) -> Run | None:
        """The last run that was asked for the same."""
        return next(iter(self._runs("WHERE asked = ? ORDER BY number DESC LIMIT 1", asked)), None)

    def results(self, run_id: str) -> list[Kept]:
        """The results of a run, in the order in which they came."""
        return self._results("WHERE runs.id = ? ORDER BY results.rowid", run_id)

    def in_circumstances(self, key: str, limit: int) -> list[Kept]:
        """The last results that came about in the same circumstances, newest first."""
        return self._results(
            "WHERE circumstances = ? ORDER BY results.rowid DESC LIMIT ?", key, limit
        )

    def prune(self, runs: Collection[str]) -> None:
        """Remove those runs, and give back the room that they took."""
        with self._transaction() as database:
            database.executemany("DELETE FROM runs WHERE id = ?", [(run,) for run in runs])
        with self._reading() as database:
            database.execute("VACUUM")

    def complaints(self) -> list[str]:
        """What SQLite's own check finds wrong with the file; nothing, if all is well."""
        with self._reading() as database:
            rows = database.execute("PRAGMA integrity_check").fetchall()
            rows += database.execute("PRAGMA foreign_key_check").fetchall()
        return [str(row[0]) for row in rows if row[0] != "ok"]

    # Opening.

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
        self.set_aside = self.path.with_name(
            f"{self.path.name}.damaged-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
        )
        self.path.rename(self.set_aside)
        for suffix in ("-wal", "-shm"):  # of the damaged file: they must not meet the new one
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{self.set_aside}{suffix}")
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA foreign_keys = ON")
            self._migrate(database)
        except BaseException:
            database.close()
            raise
        return database

    def _migrate(self, database: sqlite3.Connection) -> None:
        database.execute("BEGIN IMMEDIATE")  # two that begin at once: one waits, and finds it done
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise HostError(
                    f"{self.path} was written by a newer mptcp-harness (tables of version "
                    f"{version}, this one knows {VERSION}): use that one, or move the file away"
                )
            for statement in itertools.chain(*MIGRATIONS[version:]):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise

    # Reading and writing.

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                yield self._database
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        with self._reading() as database:
            # FULL: on the disk when it returns, for power failures happen at night too.
            database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # the disk is full, and rolled back itself
                    database.execute("ROLLBACK")
                raise

    def _runs(self, which: str, *values: str | int) -> list[Run]:
        with self._reading() as database:
            rows = database.execute(f"SELECT {_RUN} FROM runs {which}", values).fetchall()  # noqa: S608
        return [_run(row) for row in rows]

    def _results(self, which: str, *values: str | int) -> list[Kept]:
        with self._reading() as database:
            rows = database.execute(
                f"SELECT kernel, results.finished, verdict, record, {_RUN}"  # noqa: S608
                f" FROM results JOIN runs ON runs.number = results.run {which}",
                values,
            ).fetchall()
        return [Kept(_run(row[4:]), *row[:4]) for row in rows]

    def _unusable(self, error: Exception) -> HostError:
        return HostError(
            f"{self.path}, where results are kept, cannot be used ({error}): make it and its "
            "directory readable and writable, make room on the disk, or move the file away"
        )


_RUN = "runs.id, runs.started, asked, seed, directory, about, coalesce(runs.finished, '')"


def _run(row: Sequence[Any]) -> Run:
    return Run(*row)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is wrong; a lock or a full disk says nothing about it."""
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
