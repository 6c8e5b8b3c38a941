# SPDX-License-Identifier: GPL-2.0-only
"""A store's file is damaged in the middle: the run goes on, and what can be read is kept."""

from __future__ import annotations

import os
import random
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from harness.host.tools import Standing
from harness.kernels import Cache
from harness.records import prune, recovery
from harness.records.store import FILE, Run, Store
from tests.processes import is_gone

PAGE = 4096
RUNS = [
    Run(f"2026010{n}-000000-abcdef", "2026-01-01T00:00:00+00:00", "a" * 900, n, f"/runs/{n}")
    for n in range(1, 7)
]
KERNELS = [f"kernel-{n}" for n in range(8)]
NEW = Run("20260201-000000-abcdef", "2026-02-01T00:00:00+00:00", "new", 9, "/runs/new")


def record(run: Run, kernel: str) -> str:
    """One that takes several pages, as a real one does."""
    return random.Random(f"{run.id}{kernel}").randbytes(5000).hex()


def key(kernel: str) -> str:
    return f"key of {kernel}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "state" / FILE
    with Store(path) as store:
        for run in RUNS:
            store.begin(run)
            for kernel in KERNELS:
                store.add(run.id, kernel, "pass", record(run, kernel), key(kernel))
            store.finish(run.id)
    return path


def spoil(path: Path, first: int, count: int) -> None:
    """As ``dd if=/dev/urandom bs=4096 seek=FIRST count=COUNT conv=notrunc``."""
    with path.open("r+b") as file:
        file.seek(first * PAGE)
        file.write(random.Random(first).randbytes(count * PAGE))


def aside(place: Path) -> list[Path]:
    """The files that were set aside, without what SQLite keeps beside each."""
    found = place.parent.glob(f"{FILE}.damaged-*")
    return [path for path in found if not path.name.endswith(("-wal", "-shm"))]


def whole(store: Store) -> int:
    """How many results are there; each is what it was."""
    found = [(run, kept) for run in RUNS for kept in store.results(run.id)]
    for run, kept in found:
        assert kept.record() == record(run, kept.kernel)
    return len(found)


@pytest.mark.parametrize(("first", "count"), [(2, 6), (1, 1), (3, 1), (5, 40), (30, 3)])
def test_a_file_that_is_damaged_in_the_middle_takes_new_results(
    place: Path, first: int, count: int
) -> None:
    spoil(place, first, count)
    with Store(place) as store:
        store.begin(NEW)
        store.add(NEW.id, "k", "pass", "{}", "key")
        store.finish(NEW.id)
        assert [kept.kernel for kept in store.results(NEW.id)] == ["k"]
        assert [kept.kernel for kept in store.in_circumstances("key", 3)] == ["k"]
        whole(store)
        assert store.complaints() == [] or store.damage is None


def test_what_can_be_read_of_a_damaged_file_is_in_the_new_one(place: Path) -> None:
    """Its inner pages are gone, and with them the ways of SQLite to any result."""
    spoil(place, 2, 6)
    with Store(place) as store:
        store.begin(NEW)
        assert store.damage is not None
        assert store.damage.set_aside.exists()
        assert store.damage.runs == len(RUNS)
        found = whole(store)
        assert found == store.damage.results
        assert found >= len(RUNS) * len(KERNELS) - 8  # four rows and their like on four pages
        assert all(run.finished for run in store.runs() if run.id != NEW.id)


def test_any_page_may_be_damaged(place: Path, tmp_path: Path) -> None:
    content = place.read_bytes()
    for page in range(1, len(content) // PAGE, 7):
        copy = tmp_path / f"page {page}" / FILE
        copy.parent.mkdir()
        copy.write_bytes(content)
        spoil(copy, page, 1)
        with Store(copy) as store:
            store.begin(NEW)
            found = [(r, k) for r in RUNS for k in store.results(r.id)]
            good = [k for r, k in found if _reads(k.packed) and k.record() == record(r, k.kernel)]
            assert len(good) >= len(RUNS) * len(KERNELS) - 4


def _reads(packed: bytes) -> bool:
    return recovery._is_whole(packed)


def test_what_only_the_log_has_is_read_too(place: Path) -> None:
    store = Store(place)
    store.begin(NEW)
    store.add(NEW.id, "k", "pass", '{"only": "in the log"}')
    rows = list(recovery.salvage(place))  # while it is open, nothing was moved into the file
    assert NEW.id in [row[1] for _, row in rows]


def test_every_row_is_read_as_sqlite_reads_it(place: Path) -> None:
    with sqlite3.connect(place) as database:
        runs = database.execute("SELECT * FROM runs").fetchall()
        results = database.execute("SELECT * FROM results").fetchall()
    assert recovery.readable(place) == (runs, results)


def test_values_of_every_kind_are_read(tmp_path: Path) -> None:
    numbers = [0, 1, -1, 127, -129, 1 << 20, 1 << 30, 1 << 40, -(1 << 62), (1 << 63) - 1]
    values = [(n, n / 3, str(n) * 99, b"\xff" * n if 0 < n < 999 else None) for n in numbers]
    with sqlite3.connect(tmp_path / "some") as database:
        database.execute("CREATE TABLE some (a, b, c, d)")
        database.executemany("INSERT INTO some VALUES (?, ?, ?, ?)", values)
    database.close()
    read = [row for _, row in recovery.salvage(tmp_path / "some") if len(row) == 4]
    # SQLite keeps a float without a fraction as an integer.
    assert [tuple(value for value in row) for row in read] == values


@pytest.mark.parametrize("seed", range(8))
def test_junk_has_no_rows_and_does_no_harm(tmp_path: Path, seed: int) -> None:
    junk = bytearray(random.Random(seed).randbytes(20 * PAGE))
    for page in range(20):
        junk[page * PAGE] = 0x0D  # calls itself a leaf
    (tmp_path / "junk").write_bytes(junk)
    assert recovery.readable(tmp_path / "junk") == ([], [])


def test_a_truncated_file_keeps_its_whole_rows(place: Path) -> None:
    with place.open("r+b") as file:
        file.truncate(place.stat().st_size // 2)
    with Store(place) as store:
        store.begin(NEW)
        assert store.run(NEW.id) == NEW
        found = [kept for kernel in KERNELS for kept in store.in_circumstances(key(kernel), 9)]
        assert len(found) > len(KERNELS)  # of some of them nobody knows the run
        assert recovery.LOST in {kept.run.directory for kept in found}


def test_the_second_that_sees_the_damage_leaves_the_new_file_alone(place: Path) -> None:
    """Both have it open when the first finds out."""
    first, second = Store(place), Store(place)
    spoil(place, 2, 6)
    first.begin(NEW)
    later = replace(NEW, id="20260202-000000-abcdef")
    second.begin(later)
    assert (first.damage is None, second.damage is None) == (False, True)
    assert {NEW.id, later.id} < {run.id for run in first.runs()}
    assert len(aside(place)) == 1


#: Opens the store once it may, and begins a run in it.
def opens(place: Path, name: str, begin: int, go: int) -> int:
    """A process that begins a run ``name`` once ``go`` is closed, the other end of ``begin``."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.close(go)
        os.read(begin, 1)
        with Store(place) as store:
            store.begin(Run(name, "2026-01-01T00:00:00+00:00", "all", 1, "/runs/1"))
            store.add(name, "k", "pass", "{}")
        status = 0
    finally:
        os._exit(status)


@pytest.mark.parametrize("header", [True, False])
def test_of_processes_that_see_the_damage_at_once_one_sets_it_aside(
    place: Path, header: bool
) -> None:
    if header:
        place.write_bytes(b"no database" * 1000)
    else:
        spoil(place, 2, 6)
    names = [f"run-{n}" for n in range(12)]
    begin, go = os.pipe()
    opening = [opens(place, name, begin, go) for name in names]
    os.close(go)
    os.close(begin)
    assert all(is_gone(process) for process in opening)
    assert [os.waitpid(process, 0)[1] for process in opening] == [0] * len(names)
    with Store(place) as store:
        assert {*names} <= {run.id for run in store.runs()}
        assert all(store.results(name) for name in names)
    assert len(aside(place)) == 1


def test_a_file_that_was_removed_is_made_again(place: Path) -> None:
    store = Store(place)
    store.begin(NEW)
    for path in place.parent.iterdir():
        path.unlink()
    store.add(NEW.id, "k", "pass", "{}")
    assert [run.id for run in store.runs()] == [NEW.id]


def test_doctor_says_that_it_is_damaged(place: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache").root

    def standing() -> Standing:
        found = prune.doctor(cache, tmp_path / "runs", place)
        return next(f.standing for f in found if f.subject == "results")

    assert standing() is Standing.OK
    spoil(place, 2, 6)
    assert standing() is Standing.LIMITED
    assert not aside(place)  # it only looks


def test_doctor_makes_no_store(tmp_path: Path) -> None:
    assert recovery.examine(tmp_path / FILE) == ""
    assert not [*tmp_path.iterdir()]
