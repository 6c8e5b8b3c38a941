# SPDX-License-Identifier: GPL-2.0-only
"""A run for KCIDB: its own package validates it, and each verdict has its status."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import kcidb_io
import pytest

from harness.report import kcidb
from harness.verdict.results import KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests import factories
from tests.report import hostile


def report(run: RunResult) -> dict[str, Any]:
    made = json.loads(kcidb.to_kcidb(run))
    assert isinstance(made, dict)
    return made


@pytest.mark.parametrize(
    "run",
    [
        factories.run(*factories.four_kernels(), factories.crashed(factories.kernel("crashed"))),
        factories.run(),
        factories.run(KernelResult.infrastructure("k", "gone")),
        hostile.run(),
    ],
    ids=["good and crashed", "empty", "infrastructure", "hostile"],
)
def test_it_is_of_the_newest_schema(run: RunResult) -> None:
    made = report(run)
    newest = kcidb_io.schema.LATEST
    assert made["version"] == {"major": newest.major, "minor": newest.minor}
    assert newest.is_compatible_directly(made)
    newest.validate_exactly(made)


@pytest.mark.parametrize(
    "broken",
    [
        {"id": "no colon"},
        {"path": "a b"},
        {"status": "pass"},
        {"log_excerpt": "x" * 16385},
        {"start_time": "yesterday"},
        {"unknown": 1},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_the_schema_notices_what_is_wrong(broken: dict[str, Any]) -> None:
    made = report(factories.run(factories.kernel()))
    made["tests"][0] |= broken
    with pytest.raises(jsonschema.ValidationError):
        kcidb_io.schema.LATEST.validate_exactly(made)


def test_tests_refer_to_builds_and_builds_to_checkouts() -> None:
    made = report(factories.run(*factories.four_kernels()))
    assert {t["build_id"] for t in made["tests"]} == {b["id"] for b in made["builds"]}
    assert {b["checkout_id"] for b in made["builds"]} == {c["id"] for c in made["checkouts"]}


def test_no_two_tests_have_the_same_id() -> None:
    ids = [test["id"] for test in report(factories.run(*factories.four_kernels()))["tests"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (CheckVerdict.PASS, "PASS"),
        (CheckVerdict.FAIL, "FAIL"),
        (CheckVerdict.ERROR, "ERROR"),
        (CheckVerdict.LOST, "MISS"),
        (CheckVerdict.UNSUPPORTED, "SKIP"),
    ],
)
def test_a_check_has_the_status_of_its_verdict(verdict: CheckVerdict, status: str) -> None:
    kernel = factories.failing(factories.kernel(), factories.check(verdict=verdict))
    tests = {test["path"]: test for test in report(factories.run(kernel))["tests"]}
    assert tests["mptcp_harness.ipv4.mptcp_info.readable"]["status"] == status


def test_a_check_that_failed_at_one_of_its_places_failed() -> None:
    checks = factories.everywhere(factories.check())
    bad = factories.check(verdict=CheckVerdict.FAIL, payload="jumbo", detail="too long")
    kernel = factories.failing(factories.kernel(), *checks, bad)
    tests = {test["path"]: test for test in report(factories.run(kernel))["tests"]}
    found = tests["mptcp_harness.ipv4.mptcp_info.readable"]
    assert (found["status"], found["comment"]) == ("FAIL", "too long")
    assert found["misc"] == {"places": 19, "of_this_status": 1}


@pytest.mark.parametrize("verdict", [v for v in KernelVerdict if not v.as_expected])
def test_a_kernel_that_is_not_as_expected_does_not_pass(verdict: KernelVerdict) -> None:
    tests = {
        test["path"]: test["status"]
        for test in report(factories.run(KernelResult("k", verdict, "")))["tests"]
    }
    assert tests["mptcp_harness"] not in ("PASS", "SKIP", "DONE")


def test_the_time_of_the_boot_is_a_measurement() -> None:
    tests = {test["path"]: test for test in report(factories.run(factories.kernel()))["tests"]}
    boot_time = tests["mptcp_harness.boot_time"]
    assert (boot_time["status"], boot_time["number"]) == ("DONE", {"value": 3.91, "unit": "s"})
