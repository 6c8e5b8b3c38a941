# SPDX-License-Identifier: GPL-2.0-only
"""What a session hands on: to the store, to its listener, and into its notes."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundles
from harness.errors import UsageError
from harness.records import reuse
from harness.records.store import Run, Store
from harness.run import session
from harness.run.request import Progress, Stage
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests.fake_boots import GOOD
from tests.run.test_session import NAMES, Desk, desk, names

__all__ = ["desk"]  # a fixture

(RESULT,) = GOOD.stream.results
FAILS = replace(
    GOOD, stream=replace(GOOD.stream, results=(replace(RESULT, verdict=CheckVerdict.FAIL),))
)


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_any_other_directory_than_that_of_the_interrupted_run_is_refused(
    desk: Desk, name: str
) -> None:
    run = desk.interrupted()
    with pytest.raises(UsageError, match=f"is in {run.directory}; omit --output"):
        desk.run(resume=True, output=desk.directory / name)


def test_a_run_that_another_harness_finished_meanwhile_is_not_gone_on_with(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.interrupted()
    true = reuse.interrupted

    def found(place: Path, asked: str) -> Run:
        run = true(place, asked)
        with Store(place) as store:  # between the look into the store and the lock
            store.finish(run.id)
        return run

    monkeypatch.setattr(reuse, "interrupted", found)
    with pytest.raises(UsageError, match="and finished at"):
        desk.resume()


def test_a_resumed_run_says_what_it_found(desk: Desk) -> None:
    desk.interrupted()
    (note,) = desk.resume().notes
    assert note.startswith("interrupted, and resumed at 20")
    assert note.endswith(": 1 of 3 kernels had a result")


def test_a_good_run_has_nothing_to_note(desk: Desk) -> None:
    assert desk.run().notes == ()


# A damaged store.


def test_a_store_that_is_damaged_from_the_start_is_said_once_before_the_first_boot(
    desk: Desk,
) -> None:
    desk.store.parent.mkdir(parents=True)
    desk.store.write_text("no database" * 100)
    run = desk.run()
    assert len([note for note in run.notes if "was damaged" in note]) == 1
    said = ["was damaged" in progress.detail for progress in desk.heard]
    assert said.index(True) < [p.stage for p in desk.heard].index(Stage.BOOTING)
    assert said.count(True) == 1


def test_a_store_that_proves_damaged_at_the_end_is_said(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(store: Store, _: str) -> None:
        monkeypatch.setattr(store, "damage", "it was damaged", raising=False)

    monkeypatch.setattr(Store, "finish", damaged)
    assert desk.run().notes == ("it was damaged",)
    assert desk.heard[-1] == Progress("", Stage.PREPARING, "it was damaged")


# Results.


def test_a_reused_result_is_kept_without_a_boot_and_is_nothing_new(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    news: list[bool] = []
    true = Store.add

    def add(store: Store, *given: str, learned: bool, **others: Any) -> None:
        news.append(learned)
        true(store, *given, learned=learned, **others)

    monkeypatch.setattr(Store, "add", add)
    desk.run()
    run = desk.run(reuse=True)
    assert (names(run), desk.outcomes.booted) == (NAMES, [])
    assert news == [True] * 3 + [False] * 3
    assert Path(run.directory, "kernels", NAMES[0], "result.json").exists()


def test_what_failed_is_booted_again_in_a_run_that_reuses(desk: Desk) -> None:
    desk.outcomes.of = dict.fromkeys(NAMES, FAILS)
    assert desk.run().kernels[1].verdict is KernelVerdict.FAIL
    desk.run(reuse=True)
    assert desk.outcomes.booted == NAMES


def test_a_bundle_that_cannot_be_made_is_said_with_its_traceback(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise LookupError("nobody expected this")

    monkeypatch.setattr(Bundles, "keep", broken)
    run = desk.run()
    said = [progress.detail for progress in desk.heard if "its bundle could not" in progress.detail]
    assert said == list(run.notes)
    assert len(said) == len(NAMES)
    place = "kernels/kernel-0/attempt-1/traceback.txt"
    assert place in said[0]
    assert "nobody expected this" in Path(run.directory, place).read_text()


def test_a_bundle_that_cannot_be_made_without_a_boot_has_its_traceback_with_the_first(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.run()

    def broken(*_: object) -> str:
        raise LookupError("nobody expected this")

    monkeypatch.setattr(Bundles, "keep", broken)
    run = desk.run(reuse=True)
    assert "kernels/kernel-0/attempt-1/traceback.txt" in run.notes[0]


def test_where_results_go_cannot_be_changed() -> None:
    assert session.Recorder.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_the_time_since_the_start_of_the_process_is_that_of_proc_pid_stat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = ["S", *(str(number) for number in range(4, 22)), "5000", *(["7"] * 30)]
    stat = f"1 (a) b) {' '.join(fields)}"
    monkeypatch.setattr(Path, "read_text", lambda _: stat)
    monkeypatch.setattr(time, "clock_gettime", lambda _: 60.1264)
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    assert session.seconds_since_start() == 10.13
