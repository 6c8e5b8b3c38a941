# SPDX-License-Identifier: GPL-2.0-only
"""The baseline file, and what counts as a change against it."""

from __future__ import annotations

import pytest

from bench import baseline
from bench.baseline import Change, Trend, Unusable
from bench.figures import Figure, Spread, Unit

THEN = {"loop": Spread(0.40, 0.38, 0.42)}


def figure(value: float, low: float, high: float, key: str = "loop") -> Figure:
    return Figure(key, key, Unit.RATIO, 1.0, Spread(value, low, high))


def test_what_is_written_can_be_read() -> None:
    assert baseline.load(baseline.dump(THEN, "a machine")) == THEN


def test_only_ratios_belong_into_a_baseline() -> None:
    seconds = Figure("reuse", "reuse", Unit.SECONDS, 1.5, Spread(1.0, 1.0, 1.0))
    unmeasured = Figure("kvm", "kvm", Unit.RATIO, 1.0)
    assert set(baseline.ratios([figure(0.4, 0.4, 0.4), seconds, unmeasured])) == {"loop"}


def test_what_was_not_measured_again_stays() -> None:
    new = {"many": Spread(1.0, 1.0, 1.0)}
    assert baseline.merged(THEN, new) == {**THEN, **new}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "ratios": {"loop": {"ratio": "much"}}}'],
    ids=["empty", "list", "bare", "schema", "no number"],
)
def test_what_is_no_baseline_is_refused(text: str) -> None:
    with pytest.raises(Unusable):
        baseline.load(text)


@pytest.mark.parametrize(
    ("now", "trend"),
    [
        (figure(0.50, 0.45, 0.55), Trend.WORSE),
        (figure(0.30, 0.28, 0.32), Trend.BETTER),
    ],
    ids=["worse", "better"],
)
def test_a_change_beyond_both_spreads_is_told(now: Figure, trend: Trend) -> None:
    assert [change.trend for change in baseline.changes([now], THEN)] == [trend]


@pytest.mark.parametrize(
    "now",
    [figure(0.41, 0.41, 0.41), figure(0.50, 0.39, 0.55), figure(0.30, 0.28, 0.41)],
    ids=["within the old spread", "reaches down to the old", "reaches up to the old"],
)
def test_a_change_within_a_spread_is_none(now: Figure) -> None:
    assert baseline.changes([now], THEN) == []


def test_a_ratio_that_the_baseline_lacks_is_new() -> None:
    changes = baseline.changes([figure(1.0, 0.9, 1.1, "many")], THEN)
    assert changes == [Change("many", Trend.NEW, 1.0)]


def test_a_change_says_both_values() -> None:
    assert str(Change("loop", Trend.WORSE, 0.5, 0.4)) == "loop: WORSE, 0.400 became 0.500"
