# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import threading

import pytest

from harness.host import periodic
from tests.processes import PATIENCE


def test_it_is_done_again_and_again_until_the_end() -> None:
    enough = threading.Event()
    times: list[int] = []

    def act() -> None:
        times.append(len(times))
        if len(times) == 3:
            enough.set()

    with periodic.every(0.001, act, "counting"):
        assert enough.wait(PATIENCE)
    ended = len(times)
    assert "counting" not in [thread.name for thread in threading.enumerate()]
    assert len(times) == ended


def test_it_ends_with_what_goes_wrong_meanwhile() -> None:
    with pytest.raises(ZeroDivisionError), periodic.every(60, lambda: None, "waiting"):
        raise ZeroDivisionError
    assert "waiting" not in [thread.name for thread in threading.enumerate()]


def test_a_call_that_does_not_end_is_not_waited_for_for_ever() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def act() -> None:
        begun.set()
        go_on.wait(PATIENCE)

    with periodic.every(0.001, act, "stuck", patience=0.001):
        assert begun.wait(PATIENCE)
    assert not go_on.is_set()
    go_on.set()
