# SPDX-License-Identifier: GPL-2.0-only
"""How long a check waits for a value to settle, by a clock of the test's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from guest import connection
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
