# SPDX-License-Identifier: GPL-2.0-only
"""The results of all runs in one SQLite file; each kernel's result is added at once.

Once :meth:`Store.add` has returned, the result is safe whatever happens to the harness: it is one
transaction in a write-ahead log, which SQLite recovers when the file is next opened. A run that did
not finish has no end time.

``PRAGMA user_version`` is the version of the tables; :data:`MIGRATIONS` leads from each version to
the next. A file of a newer harness is refused. A file that proves damaged, also during a run, is
renamed, and its readable rows are copied to a new one.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import sqlite3
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from harness.errors import HostError
from harness.host import locks
from harness.records import summaries
from harness.records.recovery import (
    COPY_RESULT,
    COPY_RUN,
    Damage,
    complaints,
    is_damage,
    readable,
)
from harness.records.summaries import Digest, RunSummary

_T = TypeVar("_T")

#: The name of the file.
FILE = "results.sqlite"
#: Each entry migrates the tables from the previous version. These statements have run on users'
#: files: add to them, never change them.
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
    summaries.TABLES,
)
VERSION = len(MIGRATIONS)
#: Seconds to wait for another harness that is writing; a transaction takes milliseconds.
PATIENCE = 30.0


@dataclass(frozen=True)
class Run:
    """The head of a run. Times are ISO 8601 in UTC; ``finished`` is empty if it never ended.

    ``asked`` is a canonical text of manifest, kernels and settings; runs with the same text asked
    the same question.
    """

    id: str
    started: str
    asked: str
    seed: int
    directory: str
    about: str = "{}"
    finished: str = ""


@dataclass(frozen=True)
class StoredResult:
    """One kernel's result; ``packed`` is its JSON from harness.records.to_json, compressed by
    zlib."""

    run: Run
    kernel: str
    finished: str
    verdict: str
    packed: bytes

    def record(self) -> str:
        """The JSON text. Raises ValueError if it is damaged."""
        try:
            return zlib.decompress(self.packed).decode()
        except (zlib.error, TypeError) as error:  # TypeError: not even bytes
            raise ValueError(f"it is damaged: {error}") from error


class Store:
    """The store in the file ``path``, created if necessary; safe for several processes and threads.

    Raises :class:`HostError`, here and from every method. ``damage`` is set if a damaged file was
    replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: Damage | None = None
        self._lock = threading.Lock()
        self._begun: dict[str, Run] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with _locked(path):
                    self._file = _identity(path)
                    self._connect()
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                self._replace()
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
        """Register ``run``, which has begun."""
        self._commit(lambda database: _insert(database, run))
        self._begun[run.id] = run

    def add(
        self,
        run_id: str,
        kernel: str,
        verdict: str,
        record: str,
        circumstances: str = "",
        *,
        learned: bool = True,
        digest: Digest | None = None,
    ) -> None:
        """Store the result of ``kernel`` in the run; a second result replaces the first.

        Without a ``digest``, one is made when it is first asked for. If nothing new was
        ``learned``, this does not wait for the disk: only a power failure can lose the result.
        """
        packed = zlib.compress(record.encode(), 1)
        values = (kernel, _now(), verdict, circumstances, packed)

        def insert(database: sqlite3.Connection) -> None:
            head = database.execute("SELECT number FROM runs WHERE id = ?", (run_id,)).fetchone()
            if head is None:
                raise HostError(f"{self.path} has no run {run_id}: it was pruned meanwhile")
            # The old row takes its summary along.
            database.execute(
                "INSERT OR REPLACE INTO results"
                " (run, kernel, finished, verdict, circumstances, record)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (head[0], *values),
            )
            if digest is not None:
                summaries.insert(database, head[0], digest)

        self._commit(insert, durable=learned)

    def finish(self, run_id: str, at: str = "") -> None:
        """Mark the run as finished ``at`` this time, or now: all of its kernels have a result."""
        statement = "UPDATE runs SET finished = ? WHERE id = ?"
        self._commit(lambda database: database.execute(statement, (at or _now(), run_id)))

    def runs(self, limit: int = -1) -> list[Run]:
        """The last runs, newest first."""
        return self._runs("ORDER BY number DESC LIMIT ?", limit)

    def run(self, run_id: str) -> Run | None:
        """The run with this id, if it is stored."""
        return next(iter(self._runs("WHERE id = ?", run_id)), None)

    def last(self, asked: str) -> Run | None:
        """The last run with the same question."""
        return next(iter(self._runs("WHERE asked = ? ORDER BY number DESC LIMIT 1", asked)), None)

    def results(self, run_id: str) -> list[StoredResult]:
        """The results of a run, in the order in which they were added."""
        return self._results("WHERE runs.id = ? ORDER BY results.rowid", run_id)

    def result(self, run_id: str, kernel: str) -> StoredResult | None:
        """The result of ``kernel`` in the run, if it is stored."""
        return next(iter(self._results("WHERE runs.id = ? AND kernel = ?", run_id, kernel)), None)

    def contents(self, run_id: str) -> dict[str, str]:
        """The ``content`` of each summary of the run, by kernel."""
        statement = (
            "SELECT kernel, content FROM summaries JOIN runs ON number = run WHERE runs.id = ?"
        )
        return dict(self._do(lambda database: database.execute(statement, (run_id,)).fetchall()))

    def kernels(self) -> list[str]:
        """The names of all kernels that have a result."""
        statement = "SELECT DISTINCT kernel FROM results"
        return [name for (name,) in self._do(lambda d: d.execute(statement).fetchall())]

    def summaries(
        self, limit: int, wanted: Callable[[str], bool], *, times: bool = False
    ) -> list[RunSummary]:
        """The last ``limit`` runs with a result of a kernel that is ``wanted``, oldest first.

        They have the results of those kernels only.
        """
        runs, kernels = self._do(lambda database: summaries.runs_with(database, wanted, limit))
        missing = self._do(lambda database: summaries.missing(database, runs))
        if missing:
            self._commit(lambda database: summaries.fill(database, missing), durable=False)
        return self._do(lambda database: summaries.read(database, runs, kernels, times=times))

    def in_circumstances(self, key: str, limit: int) -> list[StoredResult]:
        """The last results with the same circumstances, newest first."""
        return self._results(
            "WHERE circumstances = ? ORDER BY results.rowid DESC LIMIT ?", key, limit
        )

    def prune(self, runs: Collection[str]) -> None:
        """Remove these runs, and free their disk space."""
        gone = [(run,) for run in runs]

        def remove(database: sqlite3.Connection) -> None:
            database.executemany("DELETE FROM runs WHERE id = ?", gone)
            summaries.forget_unused(database)

        self._commit(remove)
        self._do(lambda database: database.execute("VACUUM"))

    def complaints(self) -> list[str]:
        """The errors that SQLite's own check finds in the file."""
        return self._do(complaints)

    # Opening.

    def _connect(self) -> None:
        self._database = sqlite3.connect(
            self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA foreign_keys = ON")
            self._migrate(self._database)
            self._file = _identity(self.path)
        except BaseException:
            self._database.close()
            raise

    def _replace(self) -> None:
        """Replace the damaged file by a new one, or open the one that another process created."""
        self._database.close()
        with _locked(self.path):
            if _identity(self.path) != self._file:
                self._connect()
            else:
                aside = self._set_aside()
                self._connect()
                self.damage = self._recover(aside)
        self._begin_again()

    def _set_aside(self) -> Path:
        now = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
        names = (f"{self.path.name}.damaged-{now}{more}" for more in ("", *range(2, 99)))
        aside = next(path for name in names if not (path := self.path.with_name(name)).exists())
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):  # they belong to the damaged file, not to the new one
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        return aside

    def _recover(self, aside: Path) -> Damage:
        """Copy the rows of the damaged file that can be read."""
        runs, results = readable(aside)
        with self._transaction(self._database, durable=True):
            self._database.executemany(COPY_RUN, runs)
            self._database.executemany(COPY_RESULT, results)
        return Damage(aside, len(runs), len(results))

    def _begin_again(self) -> None:
        """Register the runs of this process again; a new file may lack them."""
        for run in self._begun.values():
            with contextlib.suppress(sqlite3.IntegrityError):
                _insert(self._database, run)

    def _migrate(self, database: sqlite3.Connection) -> None:
        database.execute("BEGIN IMMEDIATE")  # of two processes, one waits and finds it done
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise HostError(
                    f"{self.path} was written by a newer mptcp-harness (tables of version "
                    f"{version}, this one knows {VERSION}): use that version, or move the file away"
                )
            for statement in itertools.chain(*MIGRATIONS[version:]):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise

    # Reading and writing.

    def _do(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do ``work`` on the database; if it proves damaged, again on the new one."""
        try:
            with self._lock:
                if _identity(self.path) != self._file:  # another process set it aside
                    self._replace()
                try:
                    return work(self._database)
                except sqlite3.DatabaseError as error:
                    if not is_damage(error):
                        raise
                self._replace()
                return work(self._database)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def _commit(
        self, work: Callable[[sqlite3.Connection], object], *, durable: bool = True
    ) -> None:
        def whole(database: sqlite3.Connection) -> None:
            with self._transaction(database, durable=durable):
                work(database)

        self._do(whole)

    @contextlib.contextmanager
    def _transaction(self, database: sqlite3.Connection, *, durable: bool) -> Iterator[None]:
        # FULL: data are on the disk when a commit returns.
        database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # the disk is full, and SQLite has rolled back
                database.execute("ROLLBACK")
            raise

    def _runs(self, which: str, *values: str | int) -> list[Run]:
        statement = f"SELECT {_RUN} FROM runs {which}"  # noqa: S608
        rows = self._do(lambda database: database.execute(statement, values).fetchall())
        return [_run(row) for row in rows]

    def _results(self, which: str, *values: str | int) -> list[StoredResult]:
        statement = (
            f"SELECT kernel, results.finished, verdict, record, {_RUN}"  # noqa: S608
            f" FROM results JOIN runs ON runs.number = results.run {which}"
        )
        rows = self._do(lambda database: database.execute(statement, values).fetchall())
        return [StoredResult(_run(row[4:]), *row[:4]) for row in rows]

    def _unusable(self, error: Exception) -> HostError:
        return HostError(
            f"{self.path}, the store of results, cannot be used ({error}); make it and its "
            f"directory readable and writable, free some space on the disk, or move the file away"
        )


_RUN = "runs.id, runs.started, asked, seed, directory, about, coalesce(runs.finished, '')"


def _run(row: Sequence[Any]) -> Run:
    return Run(*row)


def _insert(database: sqlite3.Connection, run: Run) -> None:
    database.execute(
        "INSERT INTO runs (id, started, asked, seed, directory, about) VALUES (?, ?, ?, ?, ?, ?)",
        (run.id, run.started, run.asked, run.seed, run.directory, run.about),
    )


def _identity(path: Path) -> tuple[int, int] | None:
    """The identity of the file, independent of its name."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _locked(path: Path) -> contextlib.AbstractContextManager[int]:
    """A lock against other processes that open or replace ``path``."""
    return locks.waited_for(path.with_name(f"{path.name}.lock"), threading.Event())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
