# SPDX-License-Identifier: GPL-2.0-only
"""The clock of deadlines: a process that is stopped has not waited."""

from __future__ import annotations

from harness.host.programs import LONGEST, RunningClock


def times(*seconds: float) -> RunningClock:
    return RunningClock(iter(seconds).__next__)


def test_time_passes_while_the_process_runs() -> None:
    clock = times(100.0, 100.2, 100.4, 101.0)
    assert [clock.now() for _ in range(3)] == [100.2, 100.4, 101.0]
    assert clock.stopped_s == 0


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    clock = times(100.0, 100.5, 160.5, 161.0)
    assert [clock.now() for _ in range(3)] == [100.5, 100.5, 101.0]
    assert clock.stopped_s == 60


def test_a_busy_host_is_no_stop() -> None:
    clock = times(100.0, 100.0 + LONGEST)
    assert clock.now() == 100.0 + LONGEST
    assert clock.stopped_s == 0


def test_several_stops_add_up() -> None:
    clock = times(0.0, 10.0, 11.0, 31.0)
    assert [clock.now() for _ in range(3)] == [0.0, 1.0, 1.0]
    assert clock.stopped_s == 30
