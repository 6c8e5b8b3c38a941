# SPDX-License-Identifier: GPL-2.0-only
"""A summary of each result for ``history`` and ``runs``, in tables that need no record.

A record has a thousand checks and takes milliseconds to read; a year of sixty kernels has twenty
thousand of them. A summary has a letter for each check. Most kernels give the same letters every
night, so each row of letters is stored once, and so is each list of checks.

:data:`TABLES` belongs to :data:`harness.records.store.MIGRATIONS`. A result without a summary, from
an older harness or from a damaged file, gets one when it is first asked for.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import zlib
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from harness.verdict.verdicts import CheckVerdict, KernelVerdict

if TYPE_CHECKING:
    from harness.verdict.results import KernelResult

# Results and what reads their records are imported where they are needed: most queries do without.

TABLES = (
    """
    CREATE TABLE plans (
        number INTEGER PRIMARY KEY,
        names TEXT NOT NULL UNIQUE  -- JSON: a list of checks
    )""",
    """
    CREATE TABLE outcomes (
        number INTEGER PRIMARY KEY,
        plan INTEGER NOT NULL,
        letters TEXT NOT NULL,      -- one for each check of the plan
        UNIQUE (plan, letters)
    )""",
    """
    CREATE TABLE builds (
        number INTEGER PRIMARY KEY,
        release TEXT NOT NULL,
        version TEXT NOT NULL,
        image TEXT NOT NULL,        -- its SHA-256
        UNIQUE (image, version, release)
    )""",
    # No foreign keys on outcomes and builds: to remove one, SQLite would read all summaries.
    """
    CREATE TABLE summaries (
        run INTEGER NOT NULL,
        kernel TEXT NOT NULL,
        verdict TEXT NOT NULL,
        build INTEGER NOT NULL,
        flaky INTEGER NOT NULL,     -- boots of this run disagreed
        boot_s REAL NOT NULL,
        checks_s REAL NOT NULL,
        total_s REAL NOT NULL,
        outcome INTEGER NOT NULL,
        content TEXT NOT NULL,      -- equal for results that differ in nothing but build and times
        PRIMARY KEY (run, kernel),
        FOREIGN KEY (run, kernel) REFERENCES results (run, kernel) ON DELETE CASCADE
    ) WITHOUT ROWID""",
)
LETTERS = {
    CheckVerdict.PASS: "P",
    CheckVerdict.FAIL: "F",
    CheckVerdict.LOST: "L",
    CheckVerdict.ERROR: "E",
    CheckVerdict.UNSUPPORTED: "U",
}
BAD_LETTERS = "".join(letter for verdict, letter in LETTERS.items() if verdict.is_bad)
_RANKS = {verdict: rank for rank, verdict in enumerate(CheckVerdict)}
_BY_RANK = [LETTERS[verdict] for verdict in CheckVerdict]
_VERDICTS = {verdict.value: verdict for verdict in KernelVerdict}


@dataclass(frozen=True)
class Outcome:
    """The letter of each check: its worst verdict over families and places."""

    names: tuple[str, ...]
    letters: str

    def letter(self, check: str) -> str:
        """The letter of ``check``; "" if it was not to run."""
        return self.letters[self.names.index(check)] if check in self.names else ""


class Build(NamedTuple):
    """A kernel's build; each is empty if it is unknown. ``image`` is the SHA-256 of the image."""

    release: str
    version: str
    image: str

    def __str__(self) -> str:
        return " ".join(filter(None, [self.release, self.version]))


class Times(NamedTuple):
    """Seconds that one kernel took in one run."""

    boot_s: float
    checks_s: float
    total_s: float


class Summary(NamedTuple):
    """One kernel in one run. Most nights are like others, so a year of sixty kernels, twenty
    thousand results, has a few thousand of these."""

    kernel: str
    verdict: KernelVerdict
    build: Build
    flaky: bool
    outcome: Outcome


@dataclass(frozen=True)
class Digest:
    """What is stored of a result beside its record. ``content`` is equal for results that differ
    in nothing but build and times."""

    summary: Summary
    times: Times
    content: str


@dataclass(frozen=True)
class RunSummary:
    """One run. ``started`` and ``finished`` are ISO 8601 in UTC; the latter is empty if it never
    ended. ``times`` has each of ``kernels`` if they were asked for."""

    id: str
    started: str
    finished: str
    kernels: dict[str, Summary]
    times: dict[str, Times] = field(default_factory=dict)


def of(kernel: KernelResult) -> Summary:
    """The summary of ``kernel``."""
    ranks: dict[str, int] = {}
    for family in kernel.families.values():
        for check in family.checks:
            rank = _RANKS[check.verdict]
            if rank < ranks.get(check.key.id, len(_RANKS)):
                ranks[check.key.id] = rank
    confirmed = kernel.confirmed
    return Summary(
        kernel.name,
        kernel.verdict,
        Build(kernel.release, kernel.version, kernel.image_sha256),
        confirmed is not None and confirmed.bad < confirmed.boots,
        Outcome(tuple(ranks), "".join(map(_BY_RANK.__getitem__, ranks.values()))),
    )


def times_of(kernel: KernelResult) -> Times:
    """The times of ``kernel``."""
    return Times(kernel.timing.boot_s, kernel.timing.checks_s, kernel.timing.total_s)


def digest(kernel: KernelResult, record: str) -> Digest:
    """The digest of ``kernel``, whose text of harness.records.to_json is ``record``."""
    # Inside a string, the quotation marks would be escaped.
    compared = record[record.find('"capabilities": ') : record.find('"attempts": ')]
    text = f"{kernel.verdict} {kernel.reason} {compared}"
    content = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]
    return Digest(of(kernel), times_of(kernel), content)


def insert(database: sqlite3.Connection, run: int, digest: Digest) -> None:
    """Store the ``digest`` of a result of the run with the number ``run``."""
    summary = digest.summary
    names = json.dumps(summary.outcome.names)
    plan = _number(database, "plans", ("names",), (names,))
    outcome = _number(database, "outcomes", ("plan", "letters"), (plan, summary.outcome.letters))
    build = _number(database, "builds", Build._fields, summary.build)
    database.execute(
        "INSERT OR REPLACE INTO summaries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(run, summary.kernel, summary.verdict, build, summary.flaky, *digest.times, outcome),
            digest.content,
        ),
    )


def _number(
    database: sqlite3.Connection, table: str, columns: Sequence[str], values: Sequence[object]
) -> int:
    """The number of the row with these values, which is added if it is new."""
    wanted = " AND ".join(f"{column} = ?" for column in columns)
    statement = f"SELECT number FROM {table} WHERE {wanted}"  # noqa: S608
    found = database.execute(statement, values).fetchone()
    if found is None:
        new = f"INSERT INTO {table} ({', '.join(columns)})"
        marks = ", ".join("?" * len(columns))
        found = (database.execute(f"{new} VALUES ({marks})", values).lastrowid,)
    return int(found[0])


#: Number, id, start and end of a run.
Head: TypeAlias = tuple[int, str, str, str]


def runs_with(
    database: sqlite3.Connection, wanted: Callable[[str], bool], limit: int
) -> tuple[list[Head], set[str]]:
    """The last ``limit`` runs with a result of a kernel that is ``wanted``, newest first, and the
    names of these kernels."""
    names = {name for (name,) in database.execute("SELECT DISTINCT kernel FROM results")}
    kernels = set(filter(wanted, names))
    heads = database.execute(
        "SELECT number, id, started, coalesce(finished, '') FROM runs ORDER BY number DESC"
    )
    has = "SELECT kernel FROM results WHERE run = ?"
    found = (
        head
        for head in heads
        if any(name in kernels for (name,) in database.execute(has, (head[0],)))
    )
    return list(itertools.islice(found, limit)), kernels


def missing(database: sqlite3.Connection, runs: Sequence[Head]) -> list[tuple[int, str]]:
    """The run and kernel of each result of ``runs`` that has no summary yet."""
    if not runs:
        return []
    counts = [
        database.execute(
            f"SELECT count(*) FROM {table} WHERE run BETWEEN ? AND ?",  # noqa: S608
            (runs[-1][0], runs[0][0]),
        ).fetchone()
        for table in ("results", "summaries")
    ]
    if counts[0] == counts[1]:  # each summary has its result
        return []
    statement = (
        "SELECT run, kernel FROM results WHERE run = ?1"
        " EXCEPT SELECT run, kernel FROM summaries WHERE run = ?1"
    )
    return [row for number, *_ in runs for row in database.execute(statement, (number,))]


def fill(database: sqlite3.Connection, results: Iterable[tuple[int, str]]) -> None:
    """Make the summaries of ``results``."""
    for run, kernel in results:
        row = database.execute(
            "SELECT verdict, record FROM results WHERE run = ? AND kernel = ?", (run, kernel)
        ).fetchone()
        if row is not None:  # else it was pruned meanwhile
            insert(database, run, _digest(kernel, *row))


def _digest(kernel: str, verdict: str, packed: bytes) -> Digest:
    """The digest of a stored record; ``infrastructure`` if it is damaged or contradicts its
    row."""
    from harness.records.from_json import kernel_from_text
    from harness.verdict.results import KernelResult

    try:
        record = zlib.decompress(packed).decode()
        found = kernel_from_text(record)
        if (found.name, found.verdict) == (kernel, verdict):
            return digest(found, record)
    except (ValueError, TypeError, zlib.error):
        pass
    return digest(KernelResult.infrastructure(kernel, "its stored result cannot be read"), "")


def read(
    database: sqlite3.Connection, runs: Sequence[Head], kernels: Container[str], *, times: bool
) -> list[RunSummary]:
    """``runs``, which are newest first, with those of ``kernels`` that they have; oldest first.

    Reading the ``times`` as well takes twice as long.
    """
    found = {
        number: RunSummary(id, started, finished, {})
        for number, id, started, finished in reversed(runs)
    }
    if not found:
        return []
    span = (runs[-1][0], runs[0][0])
    builds, outcomes = _builds(database), _outcomes(database)
    rows = database.execute(
        "SELECT kernel, verdict, build, flaky, outcome, group_concat(run) FROM summaries"
        " WHERE run BETWEEN ? AND ? GROUP BY kernel, verdict, build, flaky, outcome",
        span,
    )
    for kernel, verdict, build, flaky, outcome, numbers in rows:
        if kernel in kernels:
            values = (kernel, _VERDICTS[verdict], builds[build], bool(flaky), outcomes[outcome])
            summary = Summary(*values)
            for number in map(int, numbers.split(",")):
                if number in found:
                    found[number].kernels[kernel] = summary
    if times:
        statement = (
            "SELECT run, kernel, boot_s, checks_s, total_s FROM summaries WHERE run BETWEEN ? AND ?"
        )
        for number, kernel, *seconds in database.execute(statement, span):
            if number in found and kernel in found[number].kernels:
                found[number].times[kernel] = Times(*seconds)
    return list(found.values())


def _builds(database: sqlite3.Connection) -> dict[int, Build]:
    rows = database.execute("SELECT number, release, version, image FROM builds")
    return {number: Build._make(members) for number, *members in rows}


def _outcomes(database: sqlite3.Connection) -> dict[int, Outcome]:
    plans = {
        number: tuple(json.loads(names))
        for number, names in database.execute("SELECT number, names FROM plans")
    }
    return {
        number: Outcome(plans[plan], letters)
        for number, plan, letters in database.execute("SELECT number, plan, letters FROM outcomes")
    }


def forget_unused(database: sqlite3.Connection) -> None:
    """Remove what no summary refers to any more."""
    database.execute("DELETE FROM outcomes WHERE number NOT IN (SELECT outcome FROM summaries)")
    database.execute("DELETE FROM plans WHERE number NOT IN (SELECT plan FROM outcomes)")
    database.execute("DELETE FROM builds WHERE number NOT IN (SELECT build FROM summaries)")
