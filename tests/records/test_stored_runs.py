# SPDX-License-Identifier: GPL-2.0-only
"""Runs as they were kept: found by what a user calls them, or a sentence that says why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.records import stored_runs, to_json
from harness.records.store import Run, Store, StoredResult
from harness.verdict import comparison
from harness.verdict.results import KernelResult, Timing
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests import factories


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


def keep(
    place: Path,
    run_id: str,
    *kernels: KernelResult,
    asked: tuple[str, ...] = (),
    finished: bool = True,
    **more: object,
) -> None:
    """A run of ``kernels`` in the store, which was asked for them and those of ``asked``."""
    names = [*asked, *(kernel.name for kernel in kernels)]
    question = {"kernels": [{"name": name, "touched": run_id} for name in names], **more}
    about = {"harness": "0.1.0 abc", "QEMU": "7.2.22", "virtme-ng": "1.42", "host": "vm"}
    with Store(place) as store:
        store.begin(
            Run(run_id, f"at {run_id}", json.dumps(question), 7, "/runs/it", json.dumps(about))
        )
        for kernel in kernels:
            record = to_json.kernel_text(kernel)
            store.add(run_id, kernel.name, kernel.verdict, record)
        if finished:
            store.finish(run_id)


def test_a_run_is_found_by_its_id_and_comes_back_whole(place: Path) -> None:
    keep(place, "20260801-1", *factories.four_kernels())
    run = stored_runs.find("20260801-1", place)
    assert [kernel.families for kernel in run.kernels] == [
        kernel.families for kernel in factories.four_kernels()
    ]
    assert (run.qemu, run.virtme_ng, run.harness_version, run.seed) == (
        *("7.2.22", "1.42", "0.1.0", 7),
    )


def test_a_run_is_found_by_the_beginning_of_its_id(place: Path) -> None:
    keep(place, "20260801-1", factories.kernel())
    keep(place, "20260802-1", factories.kernel())
    assert stored_runs.find("20260801", place).id == "20260801-1"


def test_last_is_the_newest(place: Path) -> None:
    keep(place, "20260801-1", factories.kernel())
    keep(place, "20260802-1", factories.kernel())
    assert stored_runs.find("last", place).id == "20260802-1"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("2026", "2 runs begin with '2026': 20260802-1, 20260801-1; give a longer prefix"),
        ("2027", "there is no run '2027'; the last ones are 20260802-1, 20260801-1"),
    ],
)
def test_a_word_that_names_no_single_run_is_refused(place: Path, word: str, said: str) -> None:
    keep(place, "20260801-1", factories.kernel())
    keep(place, "20260802-1", factories.kernel())
    with pytest.raises(UsageError) as refused:
        stored_runs.find(word, place)
    assert said in str(refused.value)


def test_without_a_store_it_is_said_how_to_make_one(place: Path) -> None:
    with pytest.raises(UsageError, match="make one with `mptcp-harness matrix`"):
        stored_runs.find("last", place)
    assert not place.exists()


def test_a_run_is_read_from_its_directory_and_from_a_file(place: Path, tmp_path: Path) -> None:
    run = factories.run(factories.kernel())
    (tmp_path / "run.json").write_text(to_json.to_json(run))
    assert stored_runs.find(str(tmp_path), place).id == run.id
    assert stored_runs.find(str(tmp_path / "run.json"), place).id == run.id


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"\x7fELF"])
def test_a_file_that_is_no_record_is_refused(place: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="not the record of a run"):
        stored_runs.find(str(file), place)


def test_a_result_that_is_damaged_is_of_a_kernel_that_could_not_be_tested(place: Path) -> None:
    keep(place, "1", factories.kernel("good"))
    with Store(place) as store:
        store.add("1", "bad", "pass", '{"name": "bad", "verdict": "pass"}')
    good, bad = stored_runs.find("1", place).kernels
    assert good.verdict is KernelVerdict.PASS
    assert bad.verdict is KernelVerdict.INFRASTRUCTURE


def test_a_result_that_says_otherwise_than_its_row_is_not_believed(place: Path) -> None:
    keep(place, "1")
    with Store(place) as store:
        store.add("1", "debian-6.12", "fail", to_json.kernel_text(factories.kernel()))
    (kernel,) = stored_runs.find("1", place).kernels
    assert kernel.verdict is KernelVerdict.INFRASTRUCTURE


def test_a_run_that_never_ended_names_what_is_missing(place: Path) -> None:
    keep(place, "1", factories.kernel("a"), asked=("b",), finished=False)
    run = stored_runs.find("1", place)
    assert run.interrupted
    assert run.missing == ("b",)


def test_the_last_two_are_those_that_were_asked_for_the_same(place: Path) -> None:
    keep(place, "1", factories.kernel("a"))
    keep(place, "2", factories.kernel("other"))
    keep(place, "3", factories.kernel("a"))
    keep(place, "4", asked=("a",), finished=False)  # nothing came of it
    before, after = stored_runs.last_two(place)
    assert (before.id, after.id) == ("1", "3")


def test_an_image_that_was_built_again_was_asked_for_the_same(place: Path) -> None:
    keep(place, "1", factories.kernel("bzImage"))
    keep(place, "2", factories.kernel("bzImage"))
    with Store(place) as store:
        assert store.runs()[0].asked != store.runs()[1].asked
    assert [run.id for run in stored_runs.last_two(place)] == ["1", "2"]


def test_the_one_before_a_run_is_older_than_it(place: Path) -> None:
    for number in ("1", "2", "3"):
        keep(place, f"run-{number}", factories.kernel())
    before, after = stored_runs.with_the_one_before("run-2", place)
    assert (before.id, after.id) == ("run-1", "run-2")


def test_a_run_that_was_interrupted_is_none_to_compare_with(place: Path) -> None:
    keep(place, "1", factories.kernel("a"))
    keep(place, "2", factories.kernel("a"), finished=False)
    keep(place, "3", factories.kernel("a"))
    assert [run.id for run in stored_runs.last_two(place)] == ["1", "3"]


def test_the_first_of_its_kind_has_none_before_it(place: Path) -> None:
    keep(place, "1", factories.kernel())
    with pytest.raises(UsageError, match="no complete run before 1 has the same kernels"):
        stored_runs.last_two(place)


def test_history_holds_the_last_runs_with_such_a_kernel_oldest_first(place: Path) -> None:
    for number, name in enumerate(("a", "a", "b", "a"), 1):
        keep(place, str(number), factories.kernel(name))
    runs = stored_runs.summaries(place, 2, lambda name: name == "a")
    assert [run.id for run in runs] == ["2", "4"]


def test_a_question_that_was_edited_is_no_crash(place: Path) -> None:
    head = Run("1", "", "[[[", 1, "")
    assert stored_runs.question(head) == "{}"
    assert (
        stored_runs.question(replace(head, asked='{"kernels": [1, {}]}')) == '{"kernels": [1, {}]}'
    )


def test_a_store_that_was_damaged_is_said_to_be_set_aside(place: Path) -> None:
    place.write_text("no database")
    with pytest.raises(UsageError, match=r"was damaged and was moved to .*damaged-"):
        stored_runs.summaries(place, 20, lambda _: True)


def test_in_an_empty_store_there_is_no_last_run(place: Path) -> None:
    with Store(place), pytest.raises(UsageError, match="no run is kept yet: make one"):
        stored_runs.find("last", place)


def test_in_an_empty_store_history_says_how_to_make_a_run(place: Path) -> None:
    with (
        Store(place),
        pytest.raises(UsageError, match="no run has a result yet: make one"),
    ):
        stored_runs.summaries(place, 20, lambda _: True)


def test_an_empty_word_is_not_the_working_directory(place: Path) -> None:
    keep(place, "20260801-1", factories.kernel())
    with pytest.raises(UsageError, match="there is no run ''"):
        stored_runs.find("", place)


def test_the_last_result_of_each_kernel_is_found_whatever_run_it_is_of(place: Path) -> None:
    old, new = factories.kernel("a"), replace(factories.kernel("a"), release="7.3.4")
    keep(place, "1", old, factories.kernel("b"))
    keep(place, "2", new)
    keep(place, "3", replace(old, verdict=KernelVerdict.INFRASTRUCTURE))
    found = stored_runs.last_results(place, ["*"])
    assert [(kernel.name, kernel.release) for kernel in found] == [
        ("a", "7.3.4"),
        ("b", "6.12.107+deb13-amd64"),
    ]
    assert [kernel.name for kernel in stored_runs.last_results(place, ["b*"])] == ["b"]


def test_a_kernel_without_a_result_is_refused(place: Path) -> None:
    keep(place, "1", factories.kernel("a"))
    with pytest.raises(UsageError, match="no run has a result of a kernel x"):
        stored_runs.last_results(place, ["x"])


def test_kernels_come_in_the_order_of_the_newest_run_that_has_them(place: Path) -> None:
    keep(place, "1", factories.kernel("gone"), factories.kernel("b"))
    keep(place, "2", factories.kernel("z"), factories.kernel("a"))
    keep(place, "3", factories.kernel("z"), factories.kernel("b"))
    runs = stored_runs.summaries(place, 20, lambda _: True)
    names = dict.fromkeys(name for run in reversed(runs) for name in run.kernels)
    assert list(names) == ["z", "b", "a", "gone"]


def test_of_two_runs_only_what_differs_is_read(place: Path) -> None:
    same, before = factories.kernel("same"), factories.kernel("other")
    after = factories.failing(before, factories.check(verdict=CheckVerdict.FAIL))
    keep(place, "1", same, before)
    keep(place, "2", replace(same, timing=Timing(total_s=99.0), release="7.0"), after)
    stored_runs.summaries(place, 9, lambda _: True)  # makes the digests
    old, new = stored_runs.two("1", "2", place)
    assert [dict(kernel.families) for kernel in old.kernels] == [{}, before.families]
    assert [dict(kernel.families) for kernel in new.kernels] == [{}, after.families]
    assert [kernel.is_same for kernel in comparison.runs(old, new).kernels] == [True, False]


def test_two_runs_without_digests_are_read_whole(place: Path) -> None:
    keep(place, "1", factories.kernel())
    keep(place, "2", factories.kernel())
    assert [run.kernels[0].families for run in stored_runs.two("1", "2", place)] == [
        *(factories.kernel().families, factories.kernel().families)
    ]


def test_a_kernel_of_a_run_is_found_by_its_name(place: Path, tmp_path: Path) -> None:
    keep(place, "1", *factories.four_kernels())
    assert stored_runs.find_kernel("last", "debian-6.1", place).release == "6.1.0-50-amd64"
    with pytest.raises(UsageError, match=r"no result of a kernel 'x'; it has debian-5\.10, "):
        stored_runs.find_kernel("1", "x", place)
    file = tmp_path / "run.json"
    file.write_text(to_json.to_json(factories.run(*factories.four_kernels())))
    assert stored_runs.find_kernel(str(file), "debian-6.1", place).name == "debian-6.1"


def test_failures_are_of_the_last_runs_up_to_one_and_have_only_what_did_not_pass(
    place: Path,
) -> None:
    bad = factories.failing(factories.kernel("bad"), factories.check(verdict=CheckVerdict.FAIL))
    for identity in ("1", "2", "3", "4"):
        keep(place, identity, factories.kernel("good"), bad)
    runs = stored_runs.failures("3", place, 2)
    assert [run.id for run in runs] == ["2", "3"]
    assert [[kernel.name for kernel in run.kernels] for run in runs] == [["bad"], ["bad"]]
    assert [run.id for run in stored_runs.failures("last", place, 3)] == ["2", "3", "4"]


def test_a_known_failure_is_among_the_failures(place: Path) -> None:
    known = replace(factories.check(verdict=CheckVerdict.FAIL), known="known")
    kernel = replace(factories.kernel(), families=factories.families(known))
    keep(place, "1", kernel)
    (run,) = stored_runs.failures("last", place, 9)
    assert [found.name for found in run.kernels] == [kernel.name]


def test_results_older_than_the_last_of_each_kernel_are_not_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for identity in ("1", "2", "3"):
        keep(place, identity, factories.kernel("a"))
    read: list[str] = []
    results = Store.results

    def noting(self: Store, run_id: str) -> list[StoredResult]:
        read.append(run_id)
        return results(self, run_id)

    monkeypatch.setattr(Store, "results", noting)
    stored_runs.last_results(place, ["*"])
    assert read == ["3"]
