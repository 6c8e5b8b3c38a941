# SPDX-License-Identifier: GPL-2.0-only
"""The tables that history reads: complete for stores of every age, and no larger than they need."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import store, summaries, to_json
from harness.records.store import Run, Store
from harness.records.summaries import RunSummary
from harness.verdict.results import Incident, IncidentKind, KernelResult, Timing
from harness.verdict.verdicts import CheckVerdict
from tests import factories

FAILING = factories.failing(
    factories.kernel(),
    factories.check(),
    factories.check(verdict=CheckVerdict.FAIL, side="server"),
    factories.check("tcpinfo.one_subflow"),
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


def run(identity: str) -> Run:
    return Run(identity, f"at {identity}", "{}", 1, "/runs/it")


def add(kept: Store, identity: str, kernel: KernelResult, *, digested: bool = True) -> None:
    text = to_json.kernel_text(kernel)
    digest = summaries.digest(kernel, text) if digested else None
    kept.add(identity, kernel.name, kernel.verdict, text, digest=digest)


def only(kept: Store) -> RunSummary:
    (found,) = kept.summaries(20, lambda _: True)
    return found


def rows(place: Path, table: str) -> int:
    with sqlite3.connect(place) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_a_check_has_the_letter_of_its_worst_place() -> None:
    outcome = summaries.of(FAILING).outcome
    assert outcome == summaries.Outcome(("mptcp_info.readable", "tcpinfo.one_subflow"), "FP")


def test_times_are_read_if_they_are_asked_for(place: Path) -> None:
    with Store(place) as kept:
        for identity in ("1", "2"):
            kept.begin(run(identity))
            add(kept, identity, FAILING)
        timed = kept.summaries(9, lambda _: True, times=True)
        assert [each.times for each in timed] == 2 * [{FAILING.name: summaries.times_of(FAILING)}]
        assert [each.kernels for each in timed] == 2 * [{FAILING.name: summaries.of(FAILING)}]
        assert [each.times for each in kept.summaries(9, lambda _: True)] == [{}, {}]


@pytest.mark.parametrize("digested", [True, False])
def test_a_summary_comes_back_whole_also_if_it_is_made_late(place: Path, digested: bool) -> None:
    with Store(place) as kept:
        kept.begin(run("1"))
        add(kept, "1", FAILING, digested=digested)
        assert only(kept).kernels == {FAILING.name: summaries.of(FAILING)}
        assert kept.contents("1") == {
            FAILING.name: summaries.digest(FAILING, to_json.kernel_text(FAILING)).content
        }


def test_a_store_of_the_first_version_has_a_history(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "MIGRATIONS", store.MIGRATIONS[:1])
        patch.setattr(store, "VERSION", 1)
        with Store(place) as kept:
            kept.begin(run("1"))
            add(kept, "1", FAILING, digested=False)
            kept.finish("1")
    with Store(place) as kept:
        assert only(kept).kernels == {FAILING.name: summaries.of(FAILING)}
        assert len(kept.results("1")) == 1
        assert kept.complaints() == []


def test_a_second_result_takes_the_summary_of_the_first_away(place: Path) -> None:
    with Store(place) as kept:
        kept.begin(run("1"))
        add(kept, "1", FAILING)
        add(kept, "1", factories.kernel(), digested=False)
        assert only(kept).kernels[FAILING.name] == summaries.of(factories.kernel())


def test_equal_results_are_stored_once_and_removed_with_the_last_of_them(place: Path) -> None:
    with Store(place) as kept:
        for identity in ("1", "2", "3"):
            kept.begin(run(identity))
            add(kept, identity, factories.kernel() if identity == "3" else FAILING)
        assert [rows(place, table) for table in ("outcomes", "plans", "builds")] == [2, 2, 1]
        kept.prune(["1"])
        assert rows(place, "outcomes") == 2
        kept.prune(["2"])
        assert [rows(place, table) for table in ("outcomes", "plans", "builds")] == [1, 1, 1]
        assert [found.id for found in kept.summaries(20, lambda _: True)] == ["3"]


def test_a_record_that_cannot_be_read_is_of_a_kernel_that_could_not_be_tested(place: Path) -> None:
    with Store(place) as kept:
        kept.begin(run("1"))
        kept.add("1", "k", "pass", '{"name": "k"}')
        assert only(kept).kernels["k"].verdict == "infrastructure"


def content(kernel: KernelResult) -> str:
    return summaries.digest(kernel, to_json.kernel_text(kernel)).content


INCIDENT = Incident(IncidentKind.WARNING, "WARNING: net/mptcp/x.c", "abc", "")


@pytest.mark.parametrize(
    "other",
    [
        replace(FAILING, capabilities={"mptcp": True}),
        replace(FAILING, incidents=(INCIDENT,)),
        replace(FAILING, reason="another"),
        factories.failing(FAILING, factories.check(verdict=CheckVerdict.FAIL, got="2")),
    ],
)
def test_another_result_has_another_content(other: KernelResult) -> None:
    assert content(other) != content(FAILING)


def test_times_and_builds_are_not_part_of_the_content() -> None:
    later = replace(FAILING, timing=Timing(total_s=9.0), release="7", image_sha256="1" * 64)
    assert content(later) == content(FAILING)
