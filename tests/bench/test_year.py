# SPDX-License-Identifier: GPL-2.0-only
"""The generated year: its runs are as the harness stores them, and every query has an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import year
from bench.runner import Failed
from harness.records import stored_runs
from harness.report import history
from harness.verdict.verdicts import KernelVerdict


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("year")
    year.generate(directory, days=40, kernels=9, checks=100)
    return directory


def test_a_year_has_its_runs_kernels_and_checks(state: Path) -> None:
    place = state / "mptcp-harness" / "results.sqlite"
    runs = stored_runs.summaries(place, 1000, lambda _: True)
    assert (len(runs), len(runs[0].kernels)) == (40, 9)
    run = stored_runs.find("last", place)
    assert {len(family.checks) for k in run.kernels for family in k.families.values()} == {100}
    assert all(kernel.verdict is not KernelVerdict.INFRASTRUCTURE for kernel in run.kernels)


def test_a_year_has_changes_and_flaky_checks(state: Path) -> None:
    runs = stored_runs.summaries(state / "mptcp-harness" / "results.sqlite", 1000, lambda _: True)
    lines = history.check_lines(runs, lambda _: True)
    assert any(line.flaky for line in lines)
    assert any(line.change and not line.flaky for line in lines)


@pytest.mark.parametrize("name", year.QUERIES)
def test_every_query_has_an_answer(state: Path, name: str) -> None:
    assert year.ask(year.QUERIES[name], state).seconds > 0


def test_a_query_without_an_answer_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="ended with status 2: no run is kept"):
        year.ask(("runs",), tmp_path)
