# SPDX-License-Identifier: GPL-2.0-only
"""Arithmetic on samples, and when a target counts as met."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import figures
from bench.figures import Figure, Sample, Standing, Unit

BLANK = Figure("loop", "the matrix against the loop", Unit.RATIO, 0.38)
SECONDS = st.floats(min_value=0.01, max_value=1e4)


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a value"):
        Sample(())


def test_a_ratio_is_that_of_the_medians() -> None:
    found = figures.ratio(Sample((1.0, 2.0, 30.0)), Sample((4.0, 4.0, 4.0)))
    assert found.value == 0.5


def test_the_range_of_a_ratio_is_that_of_pairs() -> None:
    found = figures.ratio(Sample((1.0, 4.0)), Sample((2.0, 8.0)))
    assert (found.low, found.high) == (0.5, 0.5)


def test_a_ratio_of_unequal_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        figures.ratio(Sample((1.0, 2.0)), Sample((1.0,)))


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=9))
def test_a_ratio_lies_within_the_widest_range(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = (Sample(tuple(values)) for values in zip(*pairs, strict=True))
    widest = figures.quotient(ours, theirs)
    found = figures.ratio(ours, theirs)
    assert widest.low <= found.low <= found.high <= widest.high
    assert widest.low <= found.value <= widest.high


def test_what_was_not_measured_in_pairs_has_the_widest_range() -> None:
    found = figures.unpaired(BLANK, [4.0], [1.0, 2.0, 4.0]).result
    assert found == figures.Spread(2.0, 1.0, 4.0)


def test_a_figure_at_its_target_is_met() -> None:
    assert figures.against(BLANK, [0.38], [1.0]).standing is Standing.MET


def test_a_figure_above_its_target_is_not_met() -> None:
    assert figures.against(BLANK, [0.39], [1.0]).standing is Standing.NOT_MET


def test_a_figure_keeps_the_samples_that_it_comes_from() -> None:
    found = figures.against(BLANK, [1.0, 2.0], [3.0, 4.0])
    assert (found.ours, found.theirs) == (Sample((1.0, 2.0)), Sample((3.0, 4.0)))


def test_an_absolute_figure_is_the_median() -> None:
    found = figures.absolute(BLANK, [5.0, 1.0, 2.0]).result
    assert found == figures.Spread(2.0, 1.0, 5.0)


def test_what_this_machine_cannot_measure_is_not_measured() -> None:
    assert figures.unmeasured(BLANK, "no KVM").standing is Standing.NOT_MEASURED


def test_what_went_wrong_has_failed() -> None:
    assert figures.failed(BLANK, "virtme-ng hung").standing is Standing.FAILED
