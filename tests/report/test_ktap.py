# SPDX-License-Identifier: GPL-2.0-only
"""A run as KTAP 1, read back by its grammar."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.report import ktap
from harness.verdict.results import (
    CheckResult,
    CheckVerdict,
    KernelResult,
    KernelVerdict,
    RunResult,
)
from tests import factories
from tests.report import hostile

RESULT = re.compile(r"(not )?ok ([0-9]+)( - [^#]*)?( # (SKIP|XFAIL|TIMEOUT|ERROR)( .*)?)?")


def check_grammar(lines: list[str], depth: int = 0) -> None:
    """A version, a plan, and that many results in order, each after its subtests, if any."""
    indent = "  " * depth
    own = [line for line in lines if not line.startswith(indent + " ")]
    assert own[0] == f"{indent}KTAP version 1"
    plan = re.fullmatch(rf"{indent}1\.\.([0-9]+)", own[1])
    assert plan is not None
    numbers, nested = [], []
    for line in lines[2:]:
        if line.startswith(indent + " "):
            nested.append(line)
        elif not line.startswith(f"{indent}# "):
            match = RESULT.fullmatch(line.removeprefix(indent))
            assert match is not None, line
            numbers.append(int(match[2]))
            if nested:
                check_grammar(nested, depth + 1)
            nested = []
    assert numbers == list(range(1, int(plan[1]) + 1))


@pytest.mark.parametrize(
    "run",
    [
        factories.run(*factories.four_kernels(), factories.crashed(factories.kernel("crashed"))),
        factories.run(),
        hostile.run(),
    ],
    ids=["good and crashed", "empty", "hostile"],
)
def test_it_is_of_the_grammar(run: RunResult) -> None:
    check_grammar(ktap.to_ktap(run).splitlines())


def line_of(kernel: KernelResult, part: str) -> str:
    (line,) = [line for line in ktap.to_ktap(factories.run(kernel)).splitlines() if part in line]
    return line.strip()


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (factories.check(), "ok 1 - mptcp_info.readable (segment/established/client)"),
        (
            factories.check(verdict=CheckVerdict.FAIL),
            "not ok 1 - mptcp_info.readable (segment/established/client)",
        ),
        (
            factories.check(verdict=CheckVerdict.LOST),
            "not ok 1 - mptcp_info.readable (segment/established/client) # ERROR lost",
        ),
        (
            factories.check(verdict=CheckVerdict.UNSUPPORTED, detail="no MPTCP"),
            "ok 1 - mptcp_info.readable (segment/established/client) # SKIP no MPTCP",
        ),
        (
            replace(factories.check(verdict=CheckVerdict.FAIL), known="known until 2027"),
            "ok 1 - mptcp_info.readable (segment/established/client) # XFAIL known until 2027",
        ),
    ],
    ids=["pass", "fail", "lost", "unsupported", "known"],
)
def test_a_check_has_the_line_of_its_verdict(check: CheckResult, line: str) -> None:
    assert line_of(factories.failing(factories.kernel(), check), "readable (") == line


def test_a_crash_fails_the_kernels_own_subtest() -> None:
    lines = ktap.to_ktap(factories.run(factories.crashed(factories.kernel()))).splitlines()
    assert "  not ok 1 - kernel" in lines
    assert lines[-1] == "not ok 1 - debian-6.12"


def test_a_kernel_without_mptcp_is_skipped() -> None:
    lines = ktap.to_ktap(factories.run(factories.debian_5_10())).splitlines()
    assert lines[-1].startswith("ok 1 - debian-5.10 # SKIP no MPTCP")


@pytest.mark.parametrize("verdict", [v for v in KernelVerdict if not v.as_expected])
def test_whatever_is_not_as_expected_is_not_ok(verdict: KernelVerdict) -> None:
    lines = ktap.to_ktap(factories.run(KernelResult("k", verdict, ""))).splitlines()
    assert lines[-1].startswith("not ok 1 - k")
