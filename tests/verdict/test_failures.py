# SPDX-License-Identifier: GPL-2.0-only
"""How failures are joined."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.verdict.failures import Place, failures, lost, phrases
from harness.verdict.verdicts import CheckVerdict, Family
from tests import factories
from tests.report.support import UNHURRIED

FAIL = CheckVerdict.FAIL

PLACES = st.tuples(
    st.sampled_from(["ipv4", "ipv6"]),
    st.sampled_from(["byte", "segment", "stream"]),
    st.sampled_from(["established", "transferred", "closed"]),
    st.sampled_from(["client", "server"]),
)


def spelt_out(phrase: str) -> list[Place]:
    family, payload, phase, side = (words.split(",") for words in phrase.split(" "))
    return [(f, p, h, s) for f in family for p in payload for h in phase for s in side]


def test_failure_everywhere_is_one_phrase() -> None:
    wrong = [
        result
        for family in Family
        for result in factories.everywhere(factories.check(verdict=FAIL, family=family))
    ]
    (failure,) = failures(factories.failing(factories.kernel(), *wrong))
    (variant,) = failure.variants
    assert phrases(variant.places) == [
        "ipv4,ipv6 byte,segment,stream established,transferred,closed client,server"
    ]


def test_failure_counts_the_places_at_which_it_passed() -> None:
    results = [factories.check(verdict=FAIL), factories.check(side="server")]
    (failure,) = failures(factories.failing(factories.kernel(), *results))
    assert (failure.places, failure.planned) == (1, 2)


def test_axes_that_do_not_apply_are_left_out() -> None:
    assert phrases([("ipv4", "", "", ""), ("ipv6", "", "", "")]) == ["ipv4,ipv6"]


def test_different_answers_are_variants() -> None:
    results = [factories.check(verdict=FAIL, side=s, got=s) for s in factories.SIDES]
    (failure,) = failures(factories.failing(factories.kernel(), *results))
    assert [variant.first.got for variant in failure.variants] == ["client", "server"]


def test_different_raw_bytes_alone_are_no_variant() -> None:
    results = [
        factories.check(verdict=FAIL, side=s, raw=raw)
        for s, raw in zip(factories.SIDES, ("00", "01"), strict=True)
    ]
    (failure,) = failures(factories.failing(factories.kernel(), *results))
    assert len(failure.variants) == 1


def test_lost_capability_comes_first_and_broken_check_last() -> None:
    results = [
        factories.check("b.broke", CheckVerdict.ERROR),
        factories.check("a.failed", FAIL),
        factories.capability("full_info", Family.IPV4, FAIL),
    ]
    found = failures(factories.failing(factories.kernel(), *results))
    assert [f.check for f in found] == ["capability.full_info", "a.failed", "b.broke"]


def test_lost_results_are_no_failures() -> None:
    kernel = factories.crashed(factories.kernel())
    assert (failures(kernel), len(lost(kernel))) == ((), 18)


@UNHURRIED
@given(st.lists(PLACES, min_size=1, unique=True))
def test_phrases_name_each_place_once(places: list[Place]) -> None:
    named = [place for phrase in phrases(places) for place in spelt_out(phrase)]
    assert sorted(named) == sorted(places)
