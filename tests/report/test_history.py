# SPDX-License-Identifier: GPL-2.0-only
"""Kernels and checks over runs: letters, when they changed, which are flaky."""

from __future__ import annotations

from dataclasses import replace

from harness.report import history
from harness.report.terminal import ASCII
from harness.verdict.results import CheckVerdict, Confirmed, KernelResult, KernelVerdict, RunResult
from tests import factories


def runs(*kernels: KernelResult | None) -> list[RunResult]:
    """A run a day, oldest first, each with one of ``kernels``."""
    return [
        replace(
            factories.run(*([kernel] if kernel else [])),
            id=f"run-{number}",
            started=f"2026-08-0{number}T00:00:00Z",
        )
        for number, kernel in enumerate(kernels, 1)
    ]


def kernel(verdict: KernelVerdict, image: str = "a" * 64) -> KernelResult:
    return replace(factories.kernel(), verdict=verdict, image_sha256=image)


PASS, CRASH = KernelVerdict.PASS, KernelVerdict.CRASH
UNTESTED = KernelResult.infrastructure("debian-6.12", "QEMU died")


def everything(_: str) -> bool:
    return True


def only_line(*kernels: KernelResult | None) -> history.Line:
    (line,) = history.kernel_lines(runs(*kernels), everything)
    return line


def letters(line: history.Line) -> str:
    return "".join(entry.letter if entry else "." for entry in line.entries)


def test_a_kernel_has_a_letter_for_each_run() -> None:
    assert letters(only_line(kernel(PASS), None, UNTESTED, kernel(CRASH))) == "P.?C"


def test_when_it_changed_is_the_last_change_among_runs_that_learned_something() -> None:
    line = only_line(kernel(PASS), kernel(CRASH, "b" * 64), UNTESTED, kernel(CRASH, "b" * 64))
    assert line.change is not None
    assert [entry.run.id for entry in line.change] == ["run-1", "run-2"]


def test_a_kernel_that_never_changed_has_no_change() -> None:
    assert only_line(kernel(PASS), UNTESTED, kernel(PASS)).change is None


def test_the_same_image_once_good_and_once_bad_is_flaky() -> None:
    assert only_line(kernel(PASS), kernel(CRASH)).flaky


def test_another_image_that_is_bad_is_not_flaky() -> None:
    assert not only_line(kernel(PASS), kernel(CRASH, "b" * 64)).flaky


def test_boots_of_one_run_that_disagree_are_flaky() -> None:
    assert only_line(replace(kernel(CRASH), confirmed=Confirmed(4, 1))).flaky


def test_infrastructure_makes_nothing_flaky() -> None:
    assert not only_line(kernel(PASS), replace(UNTESTED, image_sha256="a" * 64)).flaky


def checked(verdict: CheckVerdict, image: str = "a" * 64) -> KernelResult:
    results = [factories.check(verdict=verdict), factories.check("tcpinfo.one_subflow")]
    return replace(factories.failing(factories.kernel(), *results), image_sha256=image)


def test_only_checks_that_were_ever_bad_have_a_line() -> None:
    seen = runs(checked(CheckVerdict.PASS), checked(CheckVerdict.FAIL))
    (line,) = history.check_lines(seen, everything, everything)
    assert line.name == "debian-6.12 mptcp_info.readable"
    assert letters(line) == "PF"
    assert line.flaky


def test_a_result_that_never_came_makes_no_check_flaky() -> None:
    seen = runs(checked(CheckVerdict.PASS), checked(CheckVerdict.LOST))
    (line,) = history.check_lines(seen, everything, everything)
    assert not line.flaky


def test_the_text_has_a_line_for_each_kernel_its_letters_and_the_flaky_ones() -> None:
    seen = runs(kernel(PASS), kernel(CRASH))
    text = history.render(history.kernel_lines(seen, everything), seen, ASCII)
    assert text.splitlines() == [
        "the last 2 runs, 2026-08-01T00:00:00Z to 2026-08-02T00:00:00Z, oldest first",
        "debian-6.12  PC  flaky; pass -> crash at 2026-08-02T00:00:00Z, run run-2, "
        "with the same image",
        "C crash, P pass, . not in that run",
        "flaky, good and bad with the same image: debian-6.12",
    ]
