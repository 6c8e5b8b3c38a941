# SPDX-License-Identifier: GPL-2.0-only
"""The history in the HTML report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.records import summaries
from harness.records.summaries import RunSummary
from harness.report import html
from harness.report.trends import HEIGHT, MAX_CHECKS, WIDTH, curve, trends
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import CheckVerdict
from tests import factories

PASS, FAIL = CheckVerdict.PASS, CheckVerdict.FAIL


def kernel(verdict: CheckVerdict = PASS, image: str = "a", boot_s: float = 4.0) -> KernelResult:
    like = factories.kernel()
    result = factories.failing(like, factories.check("poll.woken", verdict))
    of = result if verdict is FAIL else replace(result, verdict=like.verdict)
    return replace(of, image_sha256=image, timing=replace(like.timing, boot_s=boot_s))


def runs(*kernels: KernelResult) -> list[RunSummary]:
    return [
        RunSummary(
            f"r{day}",
            f"2026-11-{day:02}T02:00:00Z",
            "",
            {one.name: summaries.of(one)},
            {one.name: summaries.times_of(one)},
        )
        for day, one in enumerate(kernels, 1)
    ]


def test_a_square_for_each_run_and_a_bar_before_another_build() -> None:
    found = trends(runs(kernel(), kernel(FAIL, "b"), kernel(FAIL, "b")))
    assert found is not None
    (line,) = found.kernels
    assert [(s.letter, s.look, s.boundary) for s in line.squares] == [
        ("P", "pass", False),
        ("F", "fail", True),
        ("F", "fail", False),
    ]
    assert line.rate == ""
    assert [check.name for check in found.checks] == ["debian-6.12 poll.woken"]


def test_a_flaky_one_is_named_with_its_rate() -> None:
    found = trends(runs(kernel(), kernel(FAIL), kernel(), kernel()))
    assert found is not None
    assert (found.kernels[0].rate, found.checks[0].rate) == ("1 of 4", "1 of 4")


def test_a_check_that_always_fails_tells_nothing_new() -> None:
    found = trends(runs(kernel(FAIL), kernel(FAIL)))
    assert found is not None
    assert found.checks == ()


def test_checks_beyond_the_limit_are_counted() -> None:
    def broken(verdict: CheckVerdict) -> KernelResult:
        checks = [factories.check(f"poll.{n}", verdict) for n in range(MAX_CHECKS + 5)]
        return factories.failing(factories.kernel(), *checks)

    found = trends(runs(broken(PASS), broken(FAIL)))
    assert found is not None
    assert (len(found.checks), found.left_out) == (MAX_CHECKS, 5)


def test_one_run_is_no_history() -> None:
    assert trends(runs(kernel())) is None
    assert "history-title" not in html.to_html(factories.run(kernel()))


def test_a_curve_starts_at_zero_and_stays_in_its_picture() -> None:
    found = curve([2.0, None, 4.0])
    assert found is not None
    assert (found.least_s, found.most_s, found.last_s) == (2.0, 4.0, 4.0)
    points = [tuple(map(float, point.split(","))) for point in found.points.split(" ")]
    assert points == [(3.0, 15.0), (117.0, 3.0)]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


@pytest.mark.parametrize("seconds", [[], [1.0], [None, 0.0, 3.0]])
def test_fewer_than_two_measurements_are_no_curve(seconds: list[float | None]) -> None:
    assert curve(seconds) is None


def test_the_page_has_the_history_of_its_kernels() -> None:
    context = html.Context(runs=runs(kernel(boot_s=3.0), kernel(FAIL, "b", boot_s=5.0)))
    text = html.to_html(factories.run(kernel(FAIL, "b")), context)
    assert '<td class="fail bound" title="fail, another build">F</td>' in text
    assert 'aria-label="boot: 3.0 to 5.0 s, the last 5.0 s"' in text
