# SPDX-License-Identifier: GPL-2.0-only
"""How long a check waits for a value to settle, by a clock of the test's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from guest import connection, flow, lab
from guest.checks import Failed
from guest.connection import RETRY_DEADLINE, SETTLE_DEADLINE, Patience, settle


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(connection, "time", made)
    return made


def waits(clock: Clock, patience: Patience, check: str, *, settles_at: float) -> float:
    """The seconds that ``check`` waits for a value which settles then, or never."""
    patience.check = check
    began = clock.now
    end = SimpleNamespace(patience=patience)
    settle(end, lambda: clock.now - began, lambda passed: passed >= settles_at)  # type: ignore[arg-type]
    return clock.now - began


NEVER = 1e9


def test_a_check_that_waited_in_vain_waits_less_at_its_next_place(clock: Clock) -> None:
    patience = Patience()
    assert waits(clock, patience, "a.b", settles_at=NEVER) >= SETTLE_DEADLINE
    assert waits(clock, patience, "a.b", settles_at=NEVER) < 2 * RETRY_DEADLINE


def test_another_check_waits_as_long_as_ever(clock: Clock) -> None:
    patience = Patience()
    waits(clock, patience, "a.b", settles_at=NEVER)
    assert waits(clock, patience, "a.c", settles_at=3.0) >= 3.0


def test_a_value_that_settles_late_costs_no_patience(clock: Clock) -> None:
    patience = Patience()
    waits(clock, patience, "a.b", settles_at=3.0)
    assert waits(clock, patience, "a.b", settles_at=3.0) >= 3.0


class Slow:
    """A socket that gives a byte every other time, each 2 seconds of ``clock``; ``size`` in all."""

    def __init__(self, clock: Clock, size: int) -> None:
        self.clock = clock
        self.left = size
        self.calls = 0

    def gettimeout(self) -> float:
        return 5.0

    def settimeout(self, seconds: float) -> None:
        pass

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.clock.now += 2.0
        self.calls += 1
        if not self.left or self.calls % 2:
            raise BlockingIOError
        self.left -= 1
        return b"x"


def test_a_slow_stream_is_read_for_as_long_as_more_comes(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "time", clock)
    monkeypatch.setattr(flow, "poll", lambda *_: 0)
    assert flow.drain(Slow(clock, 9), 9) == b"x" * 9  # type: ignore[arg-type]
    began = clock.now
    assert flow.drain(Slow(clock, 3), 9) == b"xxx"  # type: ignore[arg-type]
    assert clock.now - began < 30


def test_data_that_arrive_slowly_are_waited_for(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "_arrived", lambda sink: int(clock.now) // 3)
    monkeypatch.setattr(lab, "time", clock)
    flow.wait_queued(Slow(clock, 0), 10)  # type: ignore[arg-type]
    monkeypatch.setattr(flow, "_arrived", lambda sink: 10)
    with pytest.raises(Failed, match="within 5 s"):
        flow.wait_queued(Slow(clock, 0), 11)  # type: ignore[arg-type]
