# SPDX-License-Identifier: GPL-2.0-only
"""One run out of several: what must fit, and that it is what one run would have been."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.records import stored_runs
from harness.records.store import Store
from harness.run import merging, shards
from harness.run.merging import Flaw
from harness.verdict.results import BootEnd, RunResult, exit_status
from harness.verdict.verdicts import KernelVerdict
from tests import fake_boots
from tests.fake_boots import GOOD, Outcomes
from tests.replacing import replaced, substituted

ISSUES = """\
known_issues:
  - check: payload.arrives
    family: ipv4
    kernels: ["kernel-*"]
    reason: none
    owner: nobody
    expires: 2999-01-01
"""


class Lab:
    """Somebody with seven kernels, two of them bad, and several machines."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "state" / "mptcp-harness" / "results.sqlite"
        issues = directory / "issues.yaml"
        issues.write_text(ISSUES)
        self.entries = [replace(e, known_issues=issues) for e in fake_boots.entries(7)]
        self.outcomes = Outcomes(directory)
        lost = replace(
            GOOD, end=BootEnd.SILENCE_DEADLINE, stream=replace(GOOD.stream, closed=False)
        )
        self.outcomes.of = {"kernel-2": lost, "kernel-5": lost}

    def whole(self, **settings: Any) -> RunResult:
        return self._run(self.entries, fake_boots.asking(seed=7, jobs=1, **settings))

    def shard(self, number: int, of: int = 3, **settings: Any) -> RunResult:
        part = shards.parts(self.entries, {}, of)[number - 1]
        chosen = [entry for entry in self.entries if entry.name in part.kernels]
        asked = fake_boots.asking(**{"seed": 7, "jobs": 1, "shard": part.shard, **settings})
        return self._run(chosen, asked)

    def merge(self, runs: Sequence[RunResult], allowed: Collection[Flaw] = ()) -> RunResult:
        parts = [merging.read(Path(run.directory)) for run in runs]
        return merging.merge(parts, allowed, None, self.store)

    def _run(self, entries: Any, request: Any) -> RunResult:
        return fake_boots.run(self.directory, entries, lambda _: None, request, threading.Event())


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = Lab(tmp_path)
    made.outcomes.install(monkeypatch.setattr)
    return made


#: Of a run, what is not the same when it is made again: times, and places with the run's id.
PASSING = re.compile(r'"(?:id|started|finished|directory|[a-z]+_s|seconds)": ("[^"]*"|[0-9.]+)')


def lasting(run: RunResult) -> Any:
    record = Path(run.directory, stored_runs.RECORD).read_text()
    return json.loads(substituted(PASSING.pattern, '"passing": 0', record))


def test_three_shards_are_the_whole_run_but_for_times_and_directories(lab: Lab) -> None:
    whole = lab.whole()
    merged = lab.merge([lab.shard(number) for number in (2, 3, 1)])
    assert lasting(merged) == lasting(whole)
    assert merged.notes == whole.notes != ()  # the known issue occurs nowhere
    assert exit_status(merged) == exit_status(whole) == 1


def test_what_is_merged_is_in_the_store_as_one_run(lab: Lab) -> None:
    whole = lab.whole()
    merged = lab.merge([lab.shard(number) for number in (1, 2, 3)])
    assert replace(stored_runs.find(merged.id, lab.store), startup_s=merged.startup_s) == replace(
        merged, notes=()
    )
    with Store(lab.store) as store:
        assert stored_runs.with_the_one_before(merged.id, lab.store)[0].id == whole.id
        assert [kept.kernel for kept in store.results(merged.id)] == [e.name for e in lab.entries]


def test_files_of_each_kernel_come_along_from_directories(lab: Lab) -> None:
    runs = [lab.shard(number) for number in (1, 2, 3)]
    Path(runs[0].directory, "kernels", "kernel-0", "console.log").write_text("said")
    merged = lab.merge(runs)
    assert Path(merged.directory, "kernels/kernel-0/console.log").read_text() == "said"


def test_a_file_alone_brings_the_results(lab: Lab) -> None:
    runs = [lab.shard(number, 2) for number in (1, 2)]
    parts = [merging.read(Path(run.directory, "run.json")) for run in runs]
    merged = merging.merge(parts, (), lab.directory / "all", lab.store)
    assert merged.directory == str(lab.directory / "all")
    assert [kernel.name for kernel in merged.kernels] == [entry.name for entry in lab.entries]


def test_a_shard_without_kernels_is_no_failure(lab: Lab) -> None:
    runs = [lab.shard(number, 8) for number in range(1, 9)]
    assert (runs[7].kernels, exit_status(runs[7])) == ((), 0)
    assert len(lab.merge(runs).kernels) == 7


@pytest.mark.parametrize(
    ("wrong", "flaw", "said"),
    [
        ([1, 3], Flaw.MISSING, "no run has a result of kernel-1, kernel-4"),
        ([1, 2, 3, 1], Flaw.DOUBLED, "kernel-0 has a result in .* and in "),
        ([1, 2, {"seed": 8}], Flaw.SEED, "different seeds: 7 .*, 8 "),
        ([1, 2, {"payload": 9}], Flaw.SETTINGS, "other settings than .*: payload"),
    ],
    ids=["missing", "doubled", "seed", "settings"],
)
def test_what_does_not_belong_together_is_refused(
    lab: Lab, wrong: list[Any], flaw: Flaw, said: str
) -> None:
    runs = [lab.shard(3, **each) if isinstance(each, dict) else lab.shard(each) for each in wrong]
    with pytest.raises(UsageError, match=said) as error:
        lab.merge(runs)
    assert str(error.value).endswith(f"--allow {flaw}")
    merged = lab.merge(runs, [flaw])
    assert any(re.search(said, note) for note in merged.notes)
    assert merged.interrupted == (flaw is Flaw.MISSING)


def test_a_shard_of_another_list_is_refused(lab: Lab) -> None:
    runs = [lab.shard(1), lab.shard(2)]
    lab.entries[0] = replace(lab.entries[0], cpus=2)
    runs.append(lab.shard(3))
    with pytest.raises(
        UsageError, match=r"different lists of kernels: 7 kernels in 3 shards, hash"
    ):
        lab.merge(runs)


@pytest.mark.parametrize("change", [{"harness_version": "9.9"}, {"code": "0123"}], ids=str)
def test_a_run_of_another_harness_is_refused(lab: Lab, change: dict[str, str]) -> None:
    parts = [merging.read(Path(lab.shard(number).directory)) for number in (1, 2, 3)]
    parts[1] = replace(parts[1], run=replace(parts[1].run, **change))  # type: ignore[arg-type]
    found = [flaw for flaw, _ in merging.flaws(parts)]
    assert found == [Flaw.HARNESS]


def test_of_two_results_the_worse_one_counts_and_none_at_all_least(lab: Lab) -> None:
    first = lab.shard(1)
    lab.outcomes.of["kernel-0"] = replace(GOOD, end=BootEnd.SILENCE_DEADLINE)
    runs = [first, lab.shard(1), lab.shard(2), lab.shard(3)]
    merged = {kernel.name: kernel for kernel in lab.merge(runs, [Flaw.DOUBLED]).kernels}
    assert merged["kernel-0"].verdict not in (KernelVerdict.PASS, KernelVerdict.INFRASTRUCTURE)
    bad = replace(merged["kernel-0"], verdict=KernelVerdict.INFRASTRUCTURE)
    assert merging._worse(bad, merged["kernel-1"]) is merged["kernel-1"]


def test_runs_are_not_merged_twice(lab: Lab) -> None:
    runs = [lab.shard(number) for number in (1, 2, 3)]
    merged = lab.merge(runs)
    with pytest.raises(UsageError, match=f"already merged, as run {merged.id}"):
        lab.merge(runs)


def test_a_name_that_leads_out_of_the_directory_is_refused(lab: Lab) -> None:
    run = lab.shard(1)
    record = Path(run.directory, "run.json")
    record.write_text(
        replaced(record.read_text(), '"name": "kernel-0"', '"name": "../../kernel-0"')
    )
    with pytest.raises(UsageError, match="is not the name of a kernel"):
        merging.read(record)


def test_hosts_are_told_apart(lab: Lab) -> None:
    parts = [merging.read(Path(lab.shard(number).directory)) for number in (1, 2, 3)]
    parts[1] = replace(parts[1], run=replace(parts[1].run, host="another"))
    merged = merging.merge(parts, (), None, lab.store)
    assert merged.host.endswith("; another")
    assert {kernel.name for kernel in merged.kernels if kernel.host == "another"} == {
        kernel.name for kernel in parts[1].run.kernels
    }


def test_durations_are_those_of_whole_runs(lab: Lab) -> None:
    names = [entry.name for entry in lab.entries]
    slow = replace(GOOD, total_s=9.0)
    lab.outcomes.of = dict.fromkeys(names, slow)
    runs = [lab.shard(number) for number in (1, 2, 3)]
    assert stored_runs.durations(lab.store, names) == {}  # while shards run, they are split alike
    lab.merge(runs)
    assert stored_runs.durations(lab.store, names) == dict.fromkeys(names, 9.0)
    files = [str(Path(runs[0].directory, "run.json"))]
    assert shards.durations(files, names, lab.store) == {
        kernel.name: 9.0 for kernel in runs[0].kernels
    }
