# SPDX-License-Identifier: GPL-2.0-only
"""Phases of a boot, from marks on the host's clock and from the guest's own times."""

from __future__ import annotations

import pytest

from harness.verdict.results import Phase
from harness.vm.timeline import Mark, Timeline
from tests.report.support import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("harness.vm.timeline.time.monotonic", clock)
    return clock


def reach(found: Timeline, clock: Clock, *marks: Mark) -> None:
    """``marks``, a second after one another."""
    for mark in marks:
        found.reach(mark)
        clock.now += 1


def test_a_phase_lasts_to_the_next_mark(clock: Clock) -> None:
    found = Timeline()
    reach(found, clock, Mark.VIRTME_NG, Mark.QEMU)
    assert found.phases({}, clock.now) == (Phase("virtme-ng", 1.0), Phase("qemu", 1.0))


def test_only_the_first_sight_of_a_mark_counts(clock: Clock) -> None:
    found = Timeline()
    reach(found, clock, Mark.VIRTME_NG, Mark.QEMU, Mark.QEMU)
    assert found.phases({}, clock.now) == (Phase("virtme-ng", 1.0), Phase("qemu", 2.0))


def test_the_time_of_what_was_not_seen_goes_to_what_was_under_way(clock: Clock) -> None:
    found = Timeline()
    reach(found, clock, Mark.QEMU, Mark.KERNEL)
    clock.now += 30
    assert found.phases({}, clock.now)[-1] == Phase("kernel", 31.0)


def test_the_console_tells_of_the_kernel_and_its_init(clock: Clock) -> None:
    found, console = Timeline(), bytearray()
    for line in (b"Linux version 6.1\n", b"Run /init as init process\n", b"reboot: Power down\n"):
        console += line
        found.read_console(console, len(line))
        clock.now += 1
    assert [phase.name for phase in found.phases({}, clock.now)] == ["kernel", "init", "qemu-end"]


def test_a_line_that_comes_in_pieces_is_seen(clock: Clock) -> None:
    found, console = Timeline(), bytearray()
    for piece in (b"[ 0.000] Linux ver", b"sion 6.1\n"):
        console += piece
        found.read_console(console, len(piece))
    assert [phase.name for phase in found.phases({}, clock.now)] == ["kernel"]


def test_the_guests_own_times_divide_the_checks(clock: Clock) -> None:
    found = Timeline()
    found.reach(Mark.PROBES)
    clock.now += 1
    times = {"hello": 2000, "ipv4": 2100, "ipv6": 2500, "end": 2900}
    assert found.phases(times, clock.now) == (
        Phase("probes", 0.1),
        Phase("ipv4", 0.4),
        Phase("ipv6", 0.4),
        Phase("power-off", 0.1),
    )


def test_a_guest_that_claims_a_later_time_than_there_was_adds_none(clock: Clock) -> None:
    found = Timeline()
    found.reach(Mark.PROBES)
    clock.now += 1
    phases = found.phases({"hello": 0, "ipv4": 10**9}, clock.now)
    assert sum(phase.seconds for phase in phases) == pytest.approx(1.0)


def test_the_phases_are_the_whole_time(clock: Clock) -> None:
    found = Timeline()
    reach(found, clock, *Mark)
    phases = found.phases({}, clock.now)
    assert sum(phase.seconds for phase in phases) == pytest.approx(len(Mark))
