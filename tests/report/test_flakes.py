# SPDX-License-Identifier: GPL-2.0-only
"""The JSON of the MPTCP project's results page: only what did not pass, safe in its HTML."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from harness.report import flakes
from harness.verdict.results import Confirmed, KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict
from tests import factories
from tests.report import hostile

FAIL = CheckVerdict.FAIL


def entries(*runs: RunResult) -> list[dict[str, Any]]:
    made = json.loads(flakes.to_flakes(runs))
    assert isinstance(made, list)
    return made


def results(*kernels: KernelResult) -> Any:
    (entry,) = entries(factories.run(*kernels))
    return entry["results"]


def test_a_run_in_which_all_passed_is_there_without_results() -> None:
    run = replace(factories.run(*factories.four_kernels()), id="20260804-1")
    assert entries(run) == [{"results": {}, "run_id": "20260804-1", "tag": "20260804-1"}]


def test_a_check_that_failed_has_its_number_and_what_is_wrong() -> None:
    failed = factories.check("x.y", FAIL, detail="it is wrong")
    kernel = factories.failing(factories.kernel(), factories.check(), failed)
    assert results(kernel) == {
        "debian-6.12": {
            "2": {
                "result": "fail",
                "name": "debian-6.12: x.y",
                "comment": "it is wrong (ipv4 x.y (segment/established/client); 1 of 1 places)",
            }
        }
    }


def test_a_kernel_that_crashed_is_one_result_with_its_time() -> None:
    kernel = factories.crashed(factories.kernel())
    (found,) = results(kernel)["debian-6.12"].items()
    assert found == (
        "0",
        {
            "result": "fail",
            "name": "debian-6.12: kernel",
            "comment": "crash: Kernel panic - not syncing: sysrq triggered crash",
            "time_ms": "7138",
        },
    )


def test_a_kernel_whose_boots_disagreed_is_flaky() -> None:
    kernel = factories.failing(factories.kernel(), factories.check(verdict=FAIL))
    flaky = replace(kernel, confirmed=Confirmed(4, 1))
    assert results(flaky)["debian-6.12"]["1"]["result"] == "flaky"
    always = replace(kernel, confirmed=Confirmed(4, 4))
    assert results(always)["debian-6.12"]["1"]["result"] == "fail"


def test_a_known_failure_is_no_failure() -> None:
    known = replace(factories.check(verdict=FAIL), known="known until 2027")
    found = results(factories.failing(factories.kernel(), known))["debian-6.12"]["1"]
    assert found["result"] == "skip"
    assert "known until 2027" in found["comment"]


def test_what_was_not_tested_is_a_warning_and_no_result() -> None:
    untested = KernelResult.infrastructure("k", "QEMU died")
    (entry,) = entries(replace(factories.run(untested), interrupted=True))
    assert (entry["results"], entry["warn"], entry["error"]) == (
        *({}, "not tested: k", "interrupted"),
    )


def test_names_and_tags_are_no_html() -> None:
    (entry,) = entries(hostile.run())
    for result in entry["results"].values():
        for test in result.values():
            assert not set("<>&") & set(test["name"])
    assert not set("<>&") & set(entry["tag"] + "".join(entry["results"]))
