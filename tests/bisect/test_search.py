# SPDX-License-Identifier: GPL-2.0-only
"""Which kernels are booted next, and what follows: the arithmetic of a bisect."""

from __future__ import annotations

import math
import random

import pytest

from harness.bisect import search
from harness.bisect.search import Boots, Contradiction, Found, Round

GOOD, BAD, SILENT = Boots(good=1), Boots(bad=1), Boots(silent=1)


def play(
    count: int, jobs: int, first_bad: int, untestable: frozenset[int] = frozenset()
) -> tuple[Found, int, int]:
    """A bisect of a steady fault to its end: the answer, its rounds and its boots."""
    evidence = [Boots()] * count
    evidence[0], evidence[-1] = GOOD, BAD
    rounds = boots = 0
    while isinstance(step := search.step(evidence, jobs), Round):
        rounds += 1
        assert 0 < len(step.boots) <= jobs
        for place in step.boots:
            assert not evidence[place].made, "booted twice"
            evidence[place] = BAD if place >= first_bad else GOOD
            if place in untestable:
                evidence[place] = SILENT
            boots += 1
    assert isinstance(step, Found), step
    return step, rounds, boots


@pytest.mark.parametrize("jobs", [1, 2, 3, 4, 7])
def test_every_fault_is_found_within_the_promised_rounds(jobs: int) -> None:
    for count in (*range(2, 20), 32, 33, 50, 69):
        bound = math.ceil(round(math.log(count) / math.log(jobs + 1), 9))
        assert search.rounds_at_most(count, jobs) <= bound
        for first_bad in range(1, count):
            found, rounds, boots = play(count, jobs, first_bad)
            assert (found.last_good, found.first_bad) == (first_bad - 1, first_bad)
            assert rounds <= search.rounds_at_most(count, jobs)
            assert boots <= search.boots_at_most(count, jobs)


def test_a_steady_fault_is_found_with_confidence() -> None:
    assert play(32, 2, 13)[0].confidence > 0.95


def test_the_answer_is_a_range_where_the_kernels_at_the_change_cannot_be_tested() -> None:
    for first_bad in range(1, 30):
        bad_places = frozenset({10, 11, 12}) - {0, 31}
        found, _, _ = play(32, 2, first_bad, bad_places)
        between = {*found.skipped, found.first_bad}
        assert first_bad in between
        assert set(found.skipped) <= bad_places
        assert not found.skipped or first_bad in {10, 11, 12, 13}


def test_where_nothing_between_can_be_tested_all_of_it_is_the_answer() -> None:
    found, rounds, _ = play(6, 4, 3, frozenset({1, 2, 3, 4}))
    assert (found.last_good, found.first_bad, found.skipped) == (0, 5, (1, 2, 3, 4))
    assert rounds == 1


def test_kernels_that_were_never_seen_both_ways_contradict_each_other() -> None:
    step = search.step([GOOD, Boots(bad=3), Boots(good=3), BAD], 2, 1)
    assert isinstance(step, Contradiction)
    assert step.places == (1, 2)


def test_a_flaky_kernel_explains_good_boots_behind_it() -> None:
    flaky = Boots(good=2, bad=2)
    step = search.step([Boots(good=4), flaky, Boots(good=4), Boots(good=2, bad=2)], 2, 4)
    assert isinstance(step, Found)
    assert step.first_bad == 1
    assert step.is_flaky


def test_good_boots_beyond_all_chance_contradict_even_a_flaky_fault() -> None:
    bad, good = Boots(good=1, bad=29), Boots(good=30)
    evidence = [good, bad, good, bad]
    assert isinstance(search.step(evidence, 2, 30), Contradiction)


def test_one_bad_boot_of_many_is_taken_for_a_mishap_where_all_else_says_so() -> None:
    odd, good, bad = Boots(good=29, bad=1), Boots(good=30), Boots(bad=30)
    step = search.step([good, odd, good, bad], 2, 30)
    assert isinstance(step, Found)
    assert step.first_bad == 3
    assert step.confidence > 0.9


def test_more_good_boots_make_the_answer_surer() -> None:
    bad = Boots(good=2, bad=2)
    confidences = []
    for good_boots in (4, 8, 16):
        step = search.step([Boots(good=4), Boots(good=good_boots), bad, bad], 2, 4)
        assert isinstance(step, Found)
        confidences.append(step.confidence)
    assert confidences == sorted(confidences)
    assert confidences[-1] > 0.99


def test_the_confidence_in_flaky_answers_is_how_often_they_are_right() -> None:
    """Over many bisects, as the docstring of the module assumes them."""
    chance = random.Random(20251123)
    right, promised, answers = 0, 0.0, 0
    for _ in range(400):
        first_bad, rate = chance.randrange(1, 32), chance.uniform(0, 1)
        found = _flaky(chance, first_bad, rate)
        if isinstance(found, Found):
            answers += 1
            right += found.first_bad == first_bad
            promised += found.confidence
    assert answers > 200
    assert abs(right / answers - promised / answers) < 0.07


def _flaky(chance: random.Random, first_bad: int, rate: float) -> Found | Contradiction | None:
    evidence = [Boots()] * 32

    def boot(place: int, times: int) -> None:
        bad = sum(place >= first_bad and chance.random() < rate for _ in range(times))
        known = evidence[place]
        evidence[place] = Boots(known.good + times - bad, known.bad + bad)

    boot(0, 4)
    boot(31, 4)
    if not evidence[31].bad:
        return None  # the ends do not differ
    while isinstance(step := search.step(evidence, 2, 4), Round):
        for place, times in step.boots.items():
            boot(place, times)
    return step


def test_kernels_of_a_bisect_that_was_cut_off_get_the_boots_that_they_lack_first() -> None:
    evidence = [Boots(good=4), Boots(), Boots(good=1), Boots(), Boots(bad=4)]
    step = search.step(evidence, 2, 4)
    assert step == Round({2: 3})
