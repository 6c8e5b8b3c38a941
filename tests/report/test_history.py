# SPDX-License-Identifier: GPL-2.0-only
"""Kernels and checks over runs: letters, when they changed, which are flaky."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.records import summaries
from harness.records.summaries import RunSummary
from harness.report import history
from harness.report.history import Rate
from harness.report.terminal import ASCII
from harness.verdict.results import Confirmed, KernelResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests import factories


def runs(*kernels: KernelResult | None) -> list[RunSummary]:
    """A run a day, oldest first, each with one of ``kernels``."""
    return [
        RunSummary(
            f"run-{number}",
            f"2026-08-0{number}T00:00:00Z",
            f"2026-08-0{number}T00:01:00Z",
            {kernel.name: summaries.of(kernel)} if kernel else {},
            {kernel.name: summaries.times_of(kernel)} if kernel else {},
        )
        for number, kernel in enumerate(kernels, 1)
    ]


def kernel(verdict: KernelVerdict, image: str = "a" * 64, **more: Any) -> KernelResult:
    return replace(factories.kernel(), verdict=verdict, image_sha256=image, **more)


PASS, CRASH = KernelVerdict.PASS, KernelVerdict.CRASH
UNTESTED = KernelResult.infrastructure("debian-6.12", "QEMU died")


def everything(_: str) -> bool:
    return True


def only_line(*kernels: KernelResult | None) -> history.Line:
    (line,) = history.kernel_lines(runs(*kernels))
    return line


def test_a_kernel_has_a_letter_for_each_run() -> None:
    assert only_line(kernel(PASS), None, UNTESTED, kernel(CRASH)).letters == "P.?C"


def test_when_it_changed_is_the_last_change_among_runs_that_learned_something() -> None:
    line = only_line(kernel(PASS), kernel(CRASH, "b" * 64), UNTESTED, kernel(CRASH, "b" * 64))
    assert line.change is not None
    assert [point.run.id for point in line.change] == ["run-1", "run-2"]


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
    (line,) = history.check_lines(seen, everything)
    assert line.name == "debian-6.12 mptcp_info.readable"
    assert line.letters == "PF"
    assert line.flaky


def test_a_result_that_never_came_makes_no_check_flaky() -> None:
    other = checked(CheckVerdict.FAIL, "b" * 64)
    (line,) = history.check_lines(
        runs(checked(CheckVerdict.PASS), checked(CheckVerdict.LOST), other), everything
    )
    assert line.letters == "PLF"
    assert not line.flaky


def test_a_check_that_only_lacks_results_has_no_line() -> None:
    assert history.check_lines(runs(checked(CheckVerdict.LOST)), everything) == ()


def test_each_change_is_told_with_both_builds() -> None:
    builds = [("6.1", PASS), ("6.2", CRASH), ("6.3", CRASH), ("6.4", PASS)]
    line = only_line(*(kernel(verdict, release, release=release) for release, verdict in builds))
    told = [(old.kernel.build.release, new.kernel.build.release) for old, new in line.changes]
    assert told == [("6.3", "6.4"), ("6.1", "6.2")]


@pytest.mark.parametrize(
    ("bad", "tested", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (1, 100, 0.0018, 0.0545), (3, 3, 0.4385, 1.0)],
)
def test_the_interval_of_a_rate_is_wilsons(bad: int, tested: int, low: float, high: float) -> None:
    assert Rate(bad, tested).interval == pytest.approx((low, high), abs=5e-5)


def test_nothing_is_known_of_a_rate_without_results() -> None:
    assert Rate(0, 0).interval == (0.0, 1.0)


def test_a_rate_counts_results_and_not_runs_that_learned_nothing() -> None:
    line = only_line(kernel(PASS), UNTESTED, None, kernel(CRASH), kernel(PASS))
    assert line.rate == Rate(1, 3)


def test_a_check_that_was_not_supported_was_not_tested() -> None:
    verdicts = (CheckVerdict.UNSUPPORTED, CheckVerdict.FAIL, CheckVerdict.LOST, CheckVerdict.PASS)
    (line,) = history.check_lines(runs(*map(checked, verdicts)), everything)
    assert line.rate == Rate(1, 2)


def test_the_text_has_a_line_for_each_kernel_its_letters_and_the_flaky_ones() -> None:
    seen = runs(kernel(PASS), kernel(CRASH))
    text = history.render(history.kernel_lines(seen), seen, ASCII)
    assert text.splitlines() == [
        "the last 2 runs, 2026-08-01T00:00:00Z to 2026-08-02T00:00:00Z, oldest first",
        "debian-6.12  PC  flaky; pass -> crash at 2026-08-02T00:00:00Z, run run-2, "
        "with the same image; bad in 1 of 2 (9-91 %)",
        "C crash, P pass, . not in that run",
        "in brackets: the interval of the rate, with 95 % confidence",
        "flaky, good and bad with the same image: debian-6.12",
    ]


def test_the_text_names_the_builds_between_which_it_changed() -> None:
    seen = runs(kernel(PASS, "a", release="6.1"), kernel(CRASH, "b", release="6.2"))
    assert "run run-2, between 6.1 and 6.2; " in history.render(
        history.kernel_lines(seen), seen, ASCII
    )
    seen = runs(kernel(PASS, "a", version="#1"), kernel(CRASH, "b", version="#2"))
    text = history.render(history.kernel_lines(seen), seen, ASCII)
    assert "between 6.12.107+deb13-amd64 #1 and #2; " in text


def test_json_has_every_change_and_the_rate() -> None:
    seen = runs(kernel(PASS, "a", release="6.1"), kernel(CRASH, "b", release="6.2"))
    (line,) = history.to_json(history.kernel_lines(seen), seen)["lines"]
    assert (line["kernel"], line["check"], line["letters"]) == ("debian-6.12", None, "PC")
    assert (line["bad"], line["tested"], line["interval"]) == (1, 2, [0.0945, 0.9055])
    (change,) = line["changes"]
    assert change["before"] == {
        "run": "run-1",
        "started": "2026-08-01T00:00:00Z",
        "verdict": "pass",
        "release": "6.1",
        "version": "6.12.107-1",
        "image_sha256": "a",
    }
    assert (change["after"]["verdict"], change["after"]["release"]) == ("crash", "6.2")


def test_runs_are_listed_newest_first_with_their_verdicts() -> None:
    seen = runs(kernel(PASS), kernel(CRASH))
    seen[1] = replace(seen[1], finished="")
    assert history.render_runs(seen, ASCII).splitlines() == [
        "run-2  2026-08-02T00:00:00Z  1: 1 crash, interrupted",
        "run-1  2026-08-01T00:00:00Z  1: 1 pass",
    ]
    newest, oldest = history.runs_to_json(seen)["runs"]
    assert (newest["id"], newest["interrupted"], newest["verdicts"]) == (
        "run-2",
        True,
        {"crash": 1},
    )
    assert oldest["kernels"]["debian-6.12"]["boot_s"] == 3.91
