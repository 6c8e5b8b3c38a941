# SPDX-License-Identifier: GPL-2.0-only
"""The map of a series, from what its guests send to what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.bisect import state
from harness.bisect.compatibility import Search
from harness.bisect.results import CompatibilityMap
from harness.errors import Damaged, Interrupted, KernelUnavailable
from harness.verdict.results import KernelResult
from tests.bisect.simulated import COUNT, NAMES, SERIES, Guests, Laboratory, told

FULL_INFO_SINCE, FAULTY_SINCE = 9, 21


def guest(place: int) -> bytes | None:
    """Gains a capability at one kernel, and a fault at another."""
    return told(
        SERIES.candidates[place].release,
        full_info=place >= FULL_INFO_SINCE,
        fault=place >= FAULTY_SINCE,
    )


def without(*dead: int) -> Guests:
    return lambda place: None if place in dead else guest(place)


class Killed(Exception):
    pass


class Mapping:
    """Maps the simulated series again and again, with one state on the disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said: list[str] = []

    def draw(
        self, laboratory: Laboratory, jobs: int = 2, *, fresh: bool = False
    ) -> CompatibilityMap:
        say = self.said.append
        with state.opened(self.directory, "the tests", 7, say, fresh=fresh) as journal:
            return Search(SERIES.candidates, journal, say).run(laboratory, jobs)


@pytest.fixture
def mapping(tmp_path: Path) -> Mapping:
    return Mapping(tmp_path / "state")


def places(found: CompatibilityMap) -> list[tuple[int, int]]:
    return [(NAMES.index(b.last.name), NAMES.index(b.first.name)) for b in found.boundaries]


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_each_change_is_found_with_fewer_than_half_of_the_kernels(
    mapping: Mapping, jobs: int
) -> None:
    laboratory = Laboratory(guest)
    found = mapping.draw(laboratory, jobs)
    assert places(found) == [(8, 9), (20, 21)]
    assert found.booted == len(laboratory.booted) < COUNT / 2


def test_a_boundary_says_what_changed_from_what_to_what(mapping: Mapping) -> None:
    found = mapping.draw(Laboratory(guest))
    changes = [
        (change.feature.name, change.old, change.new)
        for boundary in found.boundaries
        for change in boundary.changes
    ]
    assert changes == [
        ("full_info", "absent", "present"),
        ("mptcp_info.write_seq_counts_sent_bytes", "pass", "fail"),
    ]


def test_kernels_that_do_not_boot_are_named_with_the_reason(mapping: Mapping) -> None:
    found = mapping.draw(Laboratory(without(8, 9, 20)))
    assert places(found) == [(7, 10), (19, 21)]
    assert [NAMES.index(one.kernel.name) for one in found.untestable] == [8, 9, 20]
    assert all("boot-failure" in one.reason for one in found.untestable)


def test_what_lies_beyond_an_end_that_does_not_boot_is_said_to_be_unknown(
    mapping: Mapping,
) -> None:
    found = mapping.draw(Laboratory(without(0, COUNT - 1)))
    assert (found.oldest_tested.name, found.newest_tested.name) == (NAMES[1], NAMES[-2])


def test_a_series_of_which_nothing_boots_has_no_map(mapping: Mapping) -> None:
    with pytest.raises(KernelUnavailable, match="none of 32 kernels could be tested"):
        mapping.draw(Laboratory(lambda _: None))


@pytest.mark.parametrize("after", range(1, 8))
def test_killed_in_the_middle_it_goes_on_and_boots_nothing_again(
    mapping: Mapping, after: int
) -> None:
    first, second = Laboratory(guest), Laboratory(guest)
    kept: list[str] = []

    def kill(name: str) -> None:
        kept.append(name)
        if len(kept) == after:
            raise Killed

    first.on_kept = kill
    with suppress(Killed):
        mapping.draw(first)
    found = mapping.draw(second)
    assert places(found) == [(8, 9), (20, 21)]
    assert not set(kept) & set(second.booted)
    assert found.booted == len(kept) + len(second.booted)


def test_a_finished_map_is_told_again_without_a_boot(mapping: Mapping) -> None:
    mapping.draw(Laboratory(guest))
    again = Laboratory(guest)
    assert places(mapping.draw(again)) == [(8, 9), (20, 21)]
    assert again.booted == []


def test_a_fresh_map_forgets_what_was_found_out(mapping: Mapping) -> None:
    mapping.draw(Laboratory(guest))
    again = Laboratory(guest)
    mapping.draw(again, fresh=True)
    assert NAMES[0] in again.booted


def test_a_kernel_of_which_nothing_was_learned_is_tried_again(
    mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoNetwork(Laboratory):
        def test(self, entries, on_result, *, stored) -> None:  # type: ignore[no-untyped-def]
            for entry in entries:
                on_result(KernelResult.infrastructure(entry.name, "no network"))

    with pytest.raises(KernelUnavailable, match="no network"):
        mapping.draw(NoNetwork(guest))
    assert places(mapping.draw(Laboratory(guest))) == [(8, 9), (20, 21)]


def test_an_interruption_says_how_to_go_on(mapping: Mapping) -> None:
    class Stopped(Laboratory):
        def test(self, entries, on_result, *, stored) -> None:  # type: ignore[no-untyped-def]
            super().test(entries[:1], on_result, stored=stored)

    with pytest.raises(Interrupted, match="the same command continues"):
        mapping.draw(Stopped(guest))


def damaged() -> Iterator[object]:
    whole = {"e": "told", "kernel": NAMES[0], "reason": "", "booted": True, "reused": False}
    yield pytest.param(whole, id="no features")
    yield pytest.param(whole | {"features": [["check", "x", "ipv5", "pass"]]}, id="family")
    yield pytest.param(whole | {"features": [["check", "x", "ipv4", 1]]}, id="value")
    yield pytest.param(whole | {"features": [["check"]]}, id="short")
    yield pytest.param(whole | {"features": 7}, id="number")
    yield pytest.param(whole | {"features": None, "booted": "yes"}, id="flag")
    yield pytest.param(whole | {"features": None, "kernel": "other"}, id="stranger")
    yield pytest.param({"e": "round", "seconds": "soon"}, id="seconds")
    yield pytest.param({"e": "round"}, id="no seconds")


@pytest.mark.parametrize("record", list(damaged()))
def test_a_state_that_was_not_written_so_is_refused(
    mapping: Mapping, record: dict[str, object]
) -> None:
    with state.opened(mapping.directory, "the tests", 7, print) as journal:
        journal.add(record)
    with pytest.raises(Damaged, match="--fresh"):
        mapping.draw(Laboratory(guest))
