# SPDX-License-Identifier: GPL-2.0-only
"""Annotations of GitHub Actions: one command a line, whatever a guest sent, and ten at most."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.report import github
from harness.report.github import Problem
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests import factories
from tests.report import hostile

FAIL = CheckVerdict.FAIL


def failing(name: str = "debian-6.12", *checks: str) -> KernelResult:
    results = [factories.check(id, FAIL, detail="it is wrong") for id in checks or ("x.y",)]
    return factories.failing(factories.kernel(name), *results)


def test_a_failure_is_an_error_with_what_is_wrong() -> None:
    checks = [factories.check("x.y", FAIL, detail="wrong", expected="1", got="2")]
    run = factories.run(factories.failing(factories.kernel(), *checks))
    assert github.error_commands(github.of_run(run)) == (
        "::error title=debian-6.12%3A x.y::wrong; expected 1; got 2; "
        "at ipv4 x.y (segment/established/client); 1 of 1 place\n"
    )


def test_a_crash_is_one_error_and_the_worst_comes_first() -> None:
    run = factories.run(failing("a"), factories.crashed(factories.kernel("b")))
    assert [problem.title for problem in github.of_run(run)] == ["b: crash", "a: x.y"]


def test_what_is_as_expected_or_known_is_no_error() -> None:
    known = replace(factories.check(verdict=FAIL), known="known until 2027")
    kernel = replace(factories.kernel(), families=factories.families(known))
    assert github.of_run(factories.run(kernel, factories.debian_5_10())) == []
    bad = factories.failing(factories.kernel(), known, factories.check("x.y", FAIL))
    assert [problem.title for problem in github.of_run(factories.run(bad))] == ["debian-6.12: x.y"]


def test_what_was_not_tested_is_an_error() -> None:
    run = replace(factories.run(KernelResult.infrastructure("k", "QEMU died")), missing=("l", "m"))
    assert github.of_run(run) == [
        Problem("k: infrastructure", "QEMU died"),
        Problem("2 kernels not tested", "l, m"),
    ]


@pytest.mark.parametrize(("count", "lines"), [(10, 10), (11, 10), (300, 10)])
def test_more_than_ten_are_counted(count: int, lines: int) -> None:
    text = github.error_commands([Problem(f"p{number}", "") for number in range(count)])
    assert len(text.splitlines()) == lines
    left = f"::error title=and {count - 9} more failures::the summary has all of them\n"
    assert text.endswith(left) == (count > 10)


@pytest.mark.parametrize(
    "text",
    [
        "a\n::error::forged",
        "a\r::set-output name=x::y",
        "%0A::error::forged",
        "##[add-path]/evil",
        "\u2028::debug::x",
        "::stop-commands::x",
        ",file=/etc/passwd::",
    ],
)
def test_foreign_text_is_no_command(text: str) -> None:
    (line,) = github.error_commands([Problem(text, text)]).splitlines()
    match = re.fullmatch(r"::error title=([^:,]*)::(.*)", line)
    assert match is not None
    assert "##[" not in line
    assert not re.search("%(?!25|0D|0A|3A|2C)", line)
    assert "%0A" not in line.replace("%250A", ""), "a break would be a new line, and a command"


def test_a_hostile_run_has_as_many_commands_as_problems() -> None:
    run = hostile.run()
    text = github.error_commands(github.of_run(run))
    assert len(text.splitlines()) == len(github.of_run(run)) == text.count("::error title=")


def test_every_verdict_but_the_expected_ones_is_an_error() -> None:
    for verdict in KernelVerdict:
        found = github.of_run(factories.run(KernelResult("k", verdict, "why")))
        assert bool(found) != verdict.as_expected
