# SPDX-License-Identifier: GPL-2.0-only
"""Bisects over a series of Debian's builds, simulated at the event stream."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bisect import search as arithmetic
from harness.bisect.candidates import Series
from harness.bisect.predicate import Anything, Checks
from harness.bisect.results import Bisection, Ending
from harness.report.bisect import render
from tests.bisect import simulated
from tests.bisect.simulated import (
    COUNT,
    FAULTY,
    NAMES,
    SERIES,
    Laboratory,
    flaky,
    from_on,
    search,
    told,
)
from tests.replacing import replaced

ROOT = Path(__file__).resolve().parents[2]


def names(found: Bisection) -> tuple[str, str]:
    assert found.last_good, found.text
    assert found.first_bad
    return found.last_good.name, found.first_bad.name


def test_a_fault_is_found_wherever_it_starts_within_the_bound(tmp_path: Path) -> None:
    assert COUNT >= 30
    for first_bad in range(1, COUNT):
        jobs = first_bad % 4 + 1  # tests/bisect/test_search.py has every place with every number
        laboratory = Laboratory(from_on(first_bad))
        found = search(laboratory, tmp_path / str(first_bad), jobs=jobs)
        assert names(found) == (NAMES[first_bad - 1], NAMES[first_bad])
        assert found.rounds == len(laboratory.rounds) - 1  # the first verifies the ends
        assert found.rounds <= arithmetic.rounds_at_most(COUNT, jobs)


def test_the_answer_names_packages_and_what_they_did(tmp_path: Path) -> None:
    found = search(Laboratory(from_on(4)), tmp_path)
    text = render(found)
    assert "first bad   backports-6.18.5+deb13-amd64" in text
    assert "package version 6.17.13-1~bpo13+1" in text
    assert f"ipv4 {FAULTY} (segment/transferred/client): 0 bytes counted" in text
    assert (
        f"git bisect start v6.18.5 v6.17.13 && git bisect run mptcp-harness step --check {FAULTY}"
        in text
    )


def test_before_it_starts_it_tells_what_is_ahead(tmp_path: Path) -> None:
    said: list[str] = []
    search(Laboratory(from_on(4)), tmp_path, jobs=2, said=said)
    announced = [line for line in said if "at most" in line]
    assert announced == [
        "32 kernels: at most 4 rounds of 2, 7 boots; about 20 s at 5.0 s a boot, downloads not "
        "counted"
    ]


def test_where_the_good_kernel_is_the_newer_the_change_is_what_mended_it(tmp_path: Path) -> None:
    def guest(place: int) -> bytes:
        return told(SERIES.candidates[place].release, full_info=place >= 11)

    series = Series(SERIES.candidates, reversed=True)
    wanted = Checks(("capability.full_info",))
    found = search(Laboratory(guest), tmp_path, series=series, wanted=wanted)
    assert names(found) == (NAMES[11], NAMES[10])
    text = render(found)
    assert text.index("last bad    " + NAMES[10]) < text.index("first good  " + NAMES[11])


@pytest.mark.parametrize(("rate", "jobs"), [(0.5, 3), (0.2, 1)])
def test_a_flaky_fault_is_found_or_its_answer_says_how_unsure_it_is(
    tmp_path: Path, rate: float, jobs: int
) -> None:
    seeds = random.Random(1)
    wrong = promised_wrong = 0.0
    for number in range(10):
        first_bad = seeds.randrange(1, COUNT)
        laboratory = Laboratory(flaky(first_bad, rate, seeds.randrange(1 << 30)))
        confirm = 9 if rate == 0.5 else 24
        found = search(laboratory, tmp_path / str(number), jobs=jobs, confirm=confirm)
        wrong += names(found)[1] != NAMES[first_bad]
        promised_wrong += 1 - found.confidence
    assert wrong <= 1
    assert wrong <= promised_wrong + 1


def test_a_flaky_answer_says_so(tmp_path: Path) -> None:
    text = render(search(Laboratory(flaky(9, 0.5, 3)), tmp_path, confirm=7))
    assert "% ; flaky" in replaced(text, "%;", "% ;")


@pytest.mark.parametrize("first_bad", range(1, COUNT))
def test_kernels_that_do_not_boot_are_passed_over(tmp_path: Path, first_bad: int) -> None:
    unbootable = (14, 15, 16)
    found = search(Laboratory(from_on(first_bad, unbootable=unbootable)), tmp_path)
    last_good, first = (NAMES.index(name) for name in names(found))
    assert last_good < first_bad <= first or first_bad in unbootable
    if first_bad in (*unbootable, 17):
        assert (last_good, first) == (13, 17)
        assert [tested.kernel.name for tested in found.skipped] == NAMES[14:17]
        assert all("boot-failure" in tested.why for tested in found.skipped)
    else:
        assert (last_good, first) == (first_bad - 1, first_bad)
        assert found.skipped == ()


def test_what_could_not_be_tested_for_the_hosts_sake_is_tried_again(tmp_path: Path) -> None:
    steady = from_on(10)
    offline = Laboratory(lambda place: b"" if place == 9 else steady(place))
    found = search(offline, tmp_path)
    assert [tested.kernel.name for tested in found.skipped] == [NAMES[9]]
    assert any("the same command tries them again" in note for note in found.notes)
    online = Laboratory(steady)
    assert names(search(online, tmp_path)) == (NAMES[9], NAMES[10])
    assert online.booted == [NAMES[9]]


def test_another_failure_than_the_one_looked_for_is_not_bad(tmp_path: Path) -> None:
    def guest(place: int) -> bytes:
        whole = told(SERIES.candidates[place].release, fault=place >= 20)
        if 5 <= place < 9:  # the stream breaks off
            return b"".join(whole.splitlines(True)[:-2])
        return whole

    found = search(Laboratory(guest), tmp_path)
    assert names(found) == (NAMES[19], NAMES[20])


def test_swapped_ends_are_named_as_such(tmp_path: Path) -> None:
    series = Series(SERIES.candidates, reversed=True)
    laboratory = Laboratory(from_on(7))
    found = search(laboratory, tmp_path, series=series)
    assert found.ending is Ending.SWAPPED
    assert f"--good {NAMES[0]} --bad {NAMES[-1]}" in found.text
    assert len(laboratory.booted) == 2
    assert found.exit_status == 1


@pytest.mark.parametrize(("first_bad", "said"), [(0, "are bad"), (COUNT, "are good")])
def test_ends_that_do_not_differ_end_it(tmp_path: Path, first_bad: int, said: str) -> None:
    laboratory = Laboratory(from_on(first_bad))
    found = search(laboratory, tmp_path)
    assert found.ending is Ending.NO_DIFFERENCE
    assert said in found.text
    assert len(laboratory.booted) == 2


def test_an_end_that_cannot_be_tested_ends_it(tmp_path: Path) -> None:
    found = search(Laboratory(from_on(4, unbootable=(0,))), tmp_path)
    assert found.ending is Ending.UNTESTABLE
    assert found.exit_status == 3


def test_without_a_wish_the_check_that_tells_the_ends_apart_is_looked_for(tmp_path: Path) -> None:
    said: list[str] = []
    found = search(Laboratory(from_on(6)), tmp_path, wanted=None, said=said)
    assert f"looking for the difference: --check {FAULTY}" in said
    assert names(found) == (NAMES[5], NAMES[6])


def test_without_a_wish_swapped_ends_are_named_as_such(tmp_path: Path) -> None:
    series = Series(SERIES.candidates, reversed=True)
    found = search(Laboratory(from_on(7)), tmp_path, series=series, wanted=None)
    assert found.ending is Ending.SWAPPED
    assert f"--good {NAMES[0]} --bad {NAMES[-1]}" in found.text


def test_without_a_wish_and_a_difference_it_says_so(tmp_path: Path) -> None:
    found = search(Laboratory(from_on(COUNT)), tmp_path, wanted=None)
    assert found.ending is Ending.NO_DIFFERENCE
    assert found.boots == 2


def test_kernels_that_take_turns_contradict_each_other(tmp_path: Path) -> None:
    def guest(place: int) -> bytes:
        fault = place == COUNT - 1 or 8 <= place < 15
        return told(SERIES.candidates[place].release, fault=fault)

    found = search(Laboratory(guest), tmp_path, jobs=4, confirm=3)
    assert found.ending is Ending.CONTRADICTION
    assert found.first_bad is None
    assert found.exit_status == 1
    assert "4 of 4 bad" in render(found)


def test_an_interruption_keeps_what_was_found_out(tmp_path: Path) -> None:
    stop = threading.Event()
    laboratory = Laboratory(from_on(19))
    laboratory.on_kept = lambda _: stop.set() if len(laboratory.rounds) == 2 else None
    found = search(laboratory, tmp_path, stop=stop, wanted=Anything())
    assert found.ending is Ending.INTERRUPTED
    assert found.exit_status == 130
    again = Laboratory(from_on(19))
    said: list[str] = []
    assert names(search(again, tmp_path, wanted=Anything(), said=said))[1] == NAMES[19]
    assert not set(laboratory.booted) & set(again.booted)
    assert said[0].startswith("continuing an earlier bisect: 4 results kept")


def test_more_boots_may_be_asked_for_without_losing_those_that_were_made(tmp_path: Path) -> None:
    first, second = (Laboratory(flaky(12, 0.6, seed)) for seed in (5, 6))
    search(first, tmp_path, confirm=3)
    search(second, tmp_path, confirm=3)
    assert second.booted == []


class Killed:
    """A bisect in a process of its own; each line of it is answered, so that it goes on."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", simulated.__name__, str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def lines(self) -> Iterator[str]:
        assert self.process.stdin
        assert self.process.stdout
        for line in self.process.stdout:
            yield line.strip()
            try:
                self.process.stdin.write("\n")
                self.process.stdin.flush()
            except BrokenPipeError:  # it needed no more answers
                return


def test_killed_in_the_middle_it_goes_on_without_repeating_a_boot(tmp_path: Path) -> None:
    """After its first boot, and again after the fourth."""
    kept: list[str] = []
    for boots in (1, 4):
        killed = Killed(tmp_path)
        for line in killed.lines():
            assert line not in kept
            kept.append(line)
            if len(kept) == boots:
                killed.process.send_signal(signal.SIGKILL)
                break
        assert killed.process.wait() == -signal.SIGKILL
    again = Killed(tmp_path)
    lines = list(again.lines())
    assert again.process.wait() == 0
    assert lines[-1] == f"found {NAMES[19]}"
    assert not set(kept) & set(lines[:-1])
    assert set(kept) <= set(NAMES)
