# SPDX-License-Identifier: GPL-2.0-only
"""Which kernels of a series are tested to find each change, and that each found is exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bisect import search
from harness.bisect.results import BoundaryKind, Feature, SeriesChange
from harness.bisect.search import Vector
from harness.manifest.expectations import Version, parse_release
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from tests import factories
from tests.bisect.debian import KERNELS

VERSIONS = [parse_release(release) for release, _ in KERNELS]
JOBS = pytest.mark.parametrize("jobs", [1, 2, 3, 4, 8])
FULL_INFO = Feature(BoundaryKind.CAPABILITY, "full_info", Family.IPV4)
TCP_MAXSEG = Feature(BoundaryKind.CAPABILITY, "tcp_maxseg", Family.IPV4)
MPTCP_INFO = Feature(BoundaryKind.SIZE, "mptcp_info", Family.IPV4)
TCPINFO = Feature(BoundaryKind.SIZE, "tcpinfo", Family.IPV4)
CHECK = Feature(BoundaryKind.CHECK, "mptcp_info.readable", Family.IPV4)


def real(version: Version | None) -> dict[Feature, str]:
    """What Debian's kernels were measured to have."""
    assert version is not None
    return {
        FULL_INFO: "present" if version >= (6, 5) else "absent",
        TCP_MAXSEG: "present" if version >= (6, 17) else "absent",
        MPTCP_INFO: "96 bytes" if version >= (6, 10) else "48 bytes",
        TCPINFO: "280 bytes" if version >= (7, 0) else "248 bytes",
        CHECK: "pass",
    }


REAL = [real(version) for version in VERSIONS]


class Search:
    """A series tested as planned; ``boots`` are the places in the order of their boots."""

    def __init__(
        self,
        truth: Sequence[Vector | None],
        versions: Sequence[Version | None] | None = None,
        jobs: int = 1,
    ) -> None:
        self.tested: dict[int, Vector | None] = {}
        self.boots: list[int] = []
        self.rounds = 0
        known = [None] * len(truth) if versions is None else versions
        while planned := search.plan(known, self.tested, jobs):
            assert len(planned) <= jobs
            self.rounds += 1
            self.boots += planned
            for place in planned:
                self.tested[place] = truth[place]

    def found(self) -> list[tuple[int, int, tuple[SeriesChange, ...]]]:
        return [(gap.old, gap.new, gap.changes) for gap in search.gaps(self.tested)]


def all_of(truth: Sequence[Vector | None]) -> list[tuple[int, int, tuple[SeriesChange, ...]]]:
    """What testing every kernel finds."""
    gaps = search.gaps(dict(enumerate(truth)))
    return [(gap.old, gap.new, gap.changes) for gap in gaps]


def steps(count: int, *places: int) -> list[Vector]:
    """A series in which something else changes at each of ``places``."""
    features = {
        place: Feature(BoundaryKind.CHECK, f"check.{place}", Family.IPV4) for place in places
    }
    return [
        {feature: "fail" if kernel >= place else "pass" for place, feature in features.items()}
        for kernel in range(count)
    ]


@JOBS
def test_a_real_series_is_mapped_with_fewer_than_half_of_its_kernels(jobs: int) -> None:
    search = Search(REAL, VERSIONS, jobs)
    assert search.found() == all_of(REAL)
    assert 2 * len(search.boots) < len(REAL)


@JOBS
def test_a_stable_update_that_breaks_something_is_found_among_the_versions(jobs: int) -> None:
    broken = [
        vector | {CHECK: "fail" if place >= 17 else "pass"} for place, vector in enumerate(REAL)
    ]
    search = Search(broken, VERSIONS, jobs)
    assert search.found() == all_of(broken)
    assert 2 * len(search.boots) < len(REAL)


def test_what_mainline_promises_takes_two_boots_beside_the_ends() -> None:
    truth = [{TCP_MAXSEG: vector[TCP_MAXSEG]} for vector in REAL]
    search = Search(truth, VERSIONS)
    assert [KERNELS[place][0] for place in search.boots[2:]] == ["6.16.12+deb13", "6.17.8+deb13"]


def test_what_was_backported_is_found_all_the_same() -> None:
    truth = [{TCP_MAXSEG: "present" if place >= 14 else "absent"} for place in range(len(REAL))]
    assert Search(truth, VERSIONS).found() == all_of(truth)


def test_what_came_later_than_promised_is_found_all_the_same() -> None:
    truth = [{TCP_MAXSEG: "present" if place >= 40 else "absent"} for place in range(len(REAL))]
    assert Search(truth, VERSIONS).found() == all_of(truth)


def test_ends_that_agree_need_nothing_between_them() -> None:
    """So what came and went again is not seen, as is said wherever a map is."""
    passing: list[Vector] = [{CHECK: "pass"}]
    came_and_went = [*passing * 20, *[{CHECK: "fail"}] * 10, *passing * 20]
    assert sorted(Search(came_and_went).boots) == [0, 49]


def test_a_series_of_one_kernel_is_one_boot() -> None:
    assert Search(steps(1)).boots == [0]


def test_a_series_of_none_is_no_boot() -> None:
    assert Search([]).boots == []


@given(
    count=st.integers(1, 60),
    places=st.sets(st.integers(1, 59), max_size=6),
    dead=st.sets(st.integers(0, 59), max_size=12),
    jobs=st.integers(1, 5),
    width=st.integers(1, 9),
)
@settings(deadline=None)
def test_every_boundary_is_exact_and_none_is_missed(
    count: int, places: set[int], dead: set[int], jobs: int, width: int
) -> None:
    truth = [None if i in dead else v for i, v in enumerate(steps(count, *places))]
    search = Search(truth, [(6, place // width) for place in range(count)], jobs)
    assert search.found() == all_of(truth)
    for old, new, _ in search.found():
        assert all(search.tested.get(between, {}) is None for between in range(old + 1, new))


@given(
    truth=st.lists(
        st.one_of(st.none(), st.builds(lambda v: {CHECK: v}, st.sampled_from("abc"))), max_size=40
    ),
    jobs=st.integers(1, 5),
)
@settings(deadline=None)
def test_no_kernel_is_booted_twice_whatever_the_results(
    truth: list[Mapping[Feature, str] | None], jobs: int
) -> None:
    search = Search(truth, jobs=jobs)
    assert len(set(search.boots)) == len(search.boots) <= len(truth)
    for old, new, _ in search.found():
        assert all(search.tested.get(between, {}) is None for between in range(old + 1, new))


@given(place=st.integers(1, 63), jobs=st.integers(1, 4))
def test_one_change_without_known_versions_takes_a_binary_search(place: int, jobs: int) -> None:
    assert len(Search(steps(64, place), jobs=jobs).boots) <= 2 + 6


def test_several_jobs_take_different_gaps_first() -> None:
    tested = {place: steps(41, 10, 30)[place] for place in (0, 20, 40)}
    first, second = search.plan([None] * 41, tested, 2)
    assert first < 20 < second


def test_the_plan_is_the_same_each_time() -> None:
    plans = {tuple(Search(REAL, VERSIONS, 3).boots) for _ in range(5)}
    assert len(plans) == 1


def test_ends_that_cannot_be_tested_give_way_to_their_neighbours() -> None:
    truth: list[Vector | None] = [None, *steps(10, 5)[1:9], None]
    search = Search(truth)
    assert [(old, new) for old, new, _ in search.found()] == [(4, 5)]


def test_kernels_that_cannot_be_tested_make_the_boundary_a_range() -> None:
    truth: list[Vector | None] = list(steps(12, 6))
    truth[5] = truth[6] = None
    assert [(old, new) for old, new, _ in Search(truth).found()] == [(4, 7)]


def test_a_series_of_which_nothing_can_be_tested_has_no_boundary() -> None:
    assert Search([None] * 5).found() == []


# What a result says of each feature.


def told(result: KernelResult) -> Vector:
    vector = search.vector(result)
    assert vector is not None
    return vector


@pytest.mark.parametrize(
    "verdict",
    [
        *(KernelVerdict.CRASH, KernelVerdict.HANG, KernelVerdict.LOST),
        *(KernelVerdict.BOOT_FAILURE, KernelVerdict.INFRASTRUCTURE),
    ],
)
def test_a_kernel_whose_checks_did_not_run_to_their_end_cannot_be_compared(
    verdict: KernelVerdict,
) -> None:
    assert search.vector(replace(factories.kernel(), verdict=verdict)) is None


def test_a_kernel_without_mptcp_can_be_compared() -> None:
    mptcp = Feature(BoundaryKind.CAPABILITY, "mptcp", Family.IPV6)
    assert told(factories.debian_5_10())[mptcp] == "absent"


def test_a_check_counts_by_its_worst_result_in_each_family() -> None:
    fail = factories.check(verdict=CheckVerdict.FAIL, phase="closed", family=Family.IPV6)
    ok = [factories.check(family=family) for family in Family]
    vector = told(factories.failing(factories.kernel(), *ok, fail))
    verdicts = {feature.family: value for feature, value in vector.items()}
    assert verdicts == {Family.IPV4: "pass", Family.IPV6: "fail"}


@pytest.mark.parametrize(
    ("verdict", "got", "detail", "expected"),
    [
        (CheckVerdict.PASS, "", "96 bytes", {"capability": "present", "size": "96 bytes"}),
        (CheckVerdict.PASS, "", "", {"capability": "present"}),
        (CheckVerdict.UNSUPPORTED, "", "EOPNOTSUPP", {"capability": "absent"}),
        (CheckVerdict.FAIL, "absent: EOPNOTSUPP", "it lacks it", {"capability": "absent"}),
        (
            *(CheckVerdict.FAIL, "present: 96 bytes", "it has it"),
            {"capability": "present", "size": "96 bytes"},
        ),
        (CheckVerdict.LOST, "", "the guest did not say", {"capability": "lost"}),
    ],
)
def test_a_capability_counts_by_what_is_there_not_by_what_is_expected(
    verdict: CheckVerdict, got: str, detail: str, expected: dict[str, str]
) -> None:
    one = factories.capability("mptcp_info", Family.IPV4, verdict, got=got, detail=detail)
    vector = told(factories.failing(factories.kernel(), one))
    assert {feature.kind.value: value for feature, value in vector.items()} == expected


def test_a_size_that_comes_with_its_capability_is_no_change_of_its_own() -> None:
    capability = replace(MPTCP_INFO, kind=BoundaryKind.CAPABILITY)
    old, new = {capability: "absent"}, {capability: "present", MPTCP_INFO: "48 bytes"}
    assert search.changes(old, new) == (SeriesChange(capability, "absent", "present"),)


def test_a_size_that_is_no_longer_told_is_a_change() -> None:
    capability = replace(MPTCP_INFO, kind=BoundaryKind.CAPABILITY)
    old, new = {capability: "present", MPTCP_INFO: "48 bytes"}, {capability: "present"}
    assert search.changes(old, new) == (SeriesChange(MPTCP_INFO, "48 bytes", "not said"),)
