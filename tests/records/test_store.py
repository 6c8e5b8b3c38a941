# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import HostError
from harness.records import store
from harness.records.store import Run, Store

RUN = Run("20260101-000000-abcdef", "2026-01-01T00:00:00+00:00", "all", 1, "/runs/1")
LATER = Run("20260201-000000-abcdef", "2026-02-01T00:00:00+00:00", "all", 2, "/runs/2")
#: Writes results for ever and says after each that it is kept.
#: For each name on its standard input a process of its own writes until it is killed.
WRITER = """
import os, sys
from pathlib import Path
from harness.records.store import Run, Store
def say(line):
    os.write(1, f"{line}\\n".encode())  # whole: print() may write the line feed by itself
def write(name):
    store = Store(Path(sys.argv[1]))
    run = Run(name, "2026-01-01T00:00:00+00:00", "all", 1, "/runs/1")
    store.begin(run)
    say(os.getpid())
    number = 0
    while True:
        store.add(run.id, f"kernel-{number}", "pass", '{"n": "%s"}' % ("x" * 20000))
        say(number)
        number += 1
for name in sys.stdin:
    child = os.fork()
    if not child:
        try:
            write(name.strip())
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    say("end")
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state" / "results.sqlite"


def test_what_was_added_is_found_by_the_next_that_opens(place: Path) -> None:
    with Store(place) as first:
        first.begin(RUN)
        first.add(RUN.id, "debian-6.1", "pass", '{"name": "debian-6.1"}', "key")
    with Store(place) as second:
        (kept,) = second.results(RUN.id)
        assert (kept.kernel, kept.verdict, kept.record()) == (
            "debian-6.1",
            "pass",
            '{"name": "debian-6.1"}',
        )
        assert kept.run == RUN
        assert second.complaints() == []


def test_second_result_of_a_kernel_takes_the_place_of_the_first(place: Path) -> None:
    with Store(place) as kept:
        kept.begin(RUN)
        kept.add(RUN.id, "k", "infrastructure", "{}")
        kept.add(RUN.id, "k", "pass", "{}")
        assert [result.verdict for result in kept.results(RUN.id)] == ["pass"]


def test_run_has_no_end_until_it_is_finished(place: Path) -> None:
    with Store(place) as kept:
        kept.begin(RUN)
        assert kept.last("all") == RUN
        assert kept.last("other") is None
        kept.finish(RUN.id)
        last = kept.last("all")
        assert last is not None
        assert last.finished


def test_the_last_run_that_was_asked_for_the_same_counts(place: Path) -> None:
    with Store(place) as kept:
        kept.begin(RUN)
        kept.begin(LATER)
        kept.begin(replace(LATER, id="else", asked="other"))
        assert kept.last("all") == LATER


def test_flipped_byte_in_a_record_is_noticed(place: Path) -> None:
    with Store(place) as kept:
        kept.begin(RUN)
        kept.add(RUN.id, "k", "pass", '{"verdict": "pass"}')
        (result,) = kept.results(RUN.id)
    packed = bytearray(result.packed)
    for position in range(len(packed)):
        packed[position] ^= 1
        with pytest.raises(ValueError, match="damaged"):
            replace(result, packed=bytes(packed)).record()
        packed[position] ^= 1


def test_result_of_which_nothing_was_learned_is_kept_as_well(place: Path) -> None:
    with Store(place) as kept:
        kept.begin(RUN)
        kept.add(RUN.id, "k", "pass", "{}", learned=False)
    with Store(place) as kept:
        assert len(kept.results(RUN.id)) == 1


def test_results_in_the_same_circumstances_come_newest_first(place: Path) -> None:
    with Store(place) as kept:
        for run, verdict in ((RUN, "fail"), (LATER, "pass")):
            kept.begin(run)
            kept.add(run.id, "k", verdict, "{}", "key")
            kept.add(run.id, "other", "pass", "{}", "other key")
        assert [x.verdict for x in kept.in_circumstances("key", 3)] == ["pass", "fail"]
        assert [x.verdict for x in kept.in_circumstances("key", 1)] == ["pass"]


def test_pruned_run_takes_its_results_along(place: Path) -> None:
    with Store(place) as kept:
        for run in (RUN, LATER):
            kept.begin(run)
            kept.add(run.id, "k", "pass", "{}", "key")
        kept.prune([RUN.id])
        assert [run.id for run in kept.runs()] == [LATER.id]
        assert len(kept.in_circumstances("key", 9)) == 1


def test_result_for_a_run_that_was_pruned_is_not_lost_in_silence(place: Path) -> None:
    with Store(place) as kept, pytest.raises(HostError, match="no run"):
        kept.add("gone", "k", "pass", "{}")


def test_threads_that_add_at_once_lose_nothing(place: Path) -> None:
    with Store(place) as kept:
        kept.begin(RUN)

        def work(thread: int) -> None:
            for number in range(20):
                kept.add(RUN.id, f"{thread}-{number}", "pass", "{}")

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(kept.results(RUN.id)) == 80


@pytest.mark.parametrize(
    "junk", [b"this is no database" * 100, b"SQLite format 3\0" + b"\1" * 5000]
)
def test_file_that_is_no_database_is_set_aside_and_named(place: Path, junk: bytes) -> None:
    place.parent.mkdir()
    place.write_bytes(junk)
    with Store(place) as kept:
        assert kept.damage is not None
        assert kept.damage.set_aside.read_bytes() == junk
        kept.begin(RUN)
        assert kept.runs() == [RUN]


def test_file_of_a_newer_harness_is_refused_and_left_alone(place: Path) -> None:
    Store(place).__exit__(None, None, None)
    database = sqlite3.connect(place)
    database.execute(f"PRAGMA user_version = {store.VERSION + 1}")
    database.close()
    with pytest.raises(HostError, match="newer mptcp-harness"):
        Store(place)
    assert place.exists()


def test_tables_of_every_older_version_lead_to_todays(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = store.MIGRATIONS
    for version in range(len(today)):
        place.unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(store, "MIGRATIONS", today[:version])
            patch.setattr(store, "VERSION", version)
            Store(place).__exit__(None, None, None)
        with Store(place) as kept:
            kept.begin(RUN)
            assert kept.runs() == [RUN]
            assert kept.complaints() == []


def test_migration_that_fails_leaves_the_old_tables(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(place) as kept:
        kept.begin(RUN)
    with monkeypatch.context() as patch:
        patch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, ("DROP TABLE runs", "nonsense")))
        patch.setattr(store, "VERSION", store.VERSION + 1)
        with pytest.raises(HostError):
            Store(place)
    with Store(place) as kept:
        assert kept.runs() == [RUN]


def test_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="make it and its directory"):
        Store(tmp_path / "file" / "results.sqlite")


def test_full_disk_is_said_and_what_was_kept_stays(place: Path) -> None:
    with Store(place) as kept:
        kept.begin(RUN)
        kept.add(RUN.id, "first", "pass", "{}")
        (pages,) = kept._database.execute("PRAGMA page_count").fetchone()
        kept._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(HostError, match="free some space"):
            kept.add(RUN.id, "second", "pass", '"' + "x" * 1_000_000 + '"')
        assert [result.kernel for result in kept.results(RUN.id)] == ["first"]


def test_kills_at_any_moment_lose_no_result_that_was_kept(place: Path) -> None:
    kept_by_all: dict[str, int] = {}
    moments = random.Random(50)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for number in range(20):
            name = f"run-{number}"
            writer.stdin.write(f"{name}\n")
            writer.stdin.flush()
            process = int(writer.stdout.readline())
            said: list[str] = []
            for _ in range(moments.randrange(5)):
                said.append(writer.stdout.readline())
                assert said[-1] != "end\n", "it ended by itself"
            # Anywhere within a transaction: a random part of what one takes.
            threading.Event().wait(moments.random() * 0.004)
            os.kill(process, signal.SIGKILL)
            said += iter(writer.stdout.readline, "end\n")
            kept_by_all[name] = len(said)
            with Store(place) as kept:
                assert kept.damage is None
                assert kept.complaints() == []
    with Store(place) as kept:
        for name, count in kept_by_all.items():
            found = [result.kernel for result in kept.results(name)]
            assert found[:count] == [f"kernel-{i}" for i in range(count)]
            assert len(found) - count in (0, 1)  # one more may have been kept, and not yet said
