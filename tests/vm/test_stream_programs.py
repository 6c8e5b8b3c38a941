# SPDX-License-Identifier: GPL-2.0-only
"""Programs in the event stream: what a guest may say of them, and when."""

from __future__ import annotations

from typing import Any

import pytest

from guest import events
from harness.verdict.results import ProgramEnd, ProgramRun, Stream
from harness.verdict.verdicts import Family
from harness.vm.stream import StreamReader
from tests.vm.support import NONCE, Guest

NAMES = ("mptcp_sockopt", "mptcp_sockopt -6")


def reader(guest: Guest) -> StreamReader:
    made = StreamReader(NONCE, (Family.IPV4,), programs=NAMES)
    made.feed(guest.sent)
    return made


def read(guest: Guest) -> Stream:
    return reader(guest).finish()


def checked() -> Guest:
    return Guest().hello().capability().plan().check(0).check(1)


def ended(number: int, how: str = "exit", status: int = 0) -> dict[str, Any]:
    return {"p": number, "how": how, "status": status, "ms": 1500, "output": "said"}


def test_each_program_has_its_end() -> None:
    guest = checked().say("program", p=0).say("alive").say("ended", **ended(0))
    guest.say("program", p=1).say("ended", **ended(1, "signal", 6)).end()
    stream = read(guest)
    assert stream.closed
    assert stream.errors == ()
    assert stream.programs == (
        ProgramRun(ProgramEnd.EXIT, 0, 1.5, "said"),
        ProgramRun(ProgramEnd.SIGNAL, 6, 1.5, "said"),
    )


def test_a_program_that_runs_is_named() -> None:
    guest = checked().say("program", p=0).say("ended", **ended(0)).say("program", p=1)
    made = reader(guest)
    assert made.running == "the program mptcp_sockopt -6"
    assert made.programs == 1
    stream = made.finish()
    assert stream.running == "the program mptcp_sockopt -6"
    assert len(stream.programs) == 1


@pytest.mark.parametrize(
    ("guest", "complaint"),
    [
        (checked().end(), "closes after 0 of 2 programs"),
        (checked().say("program", p=0).end(), "closes after 0 of 2 programs"),
        (checked().say("program", p=1), "program 1 begins, of 2"),
        (checked().say("program", p=0).say("program", p=0), "something else is running"),
        (
            Guest().hello().capability().plan().check(0).say("program", p=0),
            "something else is running",
        ),
        (checked().say("ended", **ended(0)), "program 0 ends, but is not running"),
        (checked().say("program", p=0).say("ended", **ended(1)), "program 1 ends"),
        (checked().say("program", p=0).say("ended", **ended(0, "well")), "ends as 'well'"),
        (checked().say("alive"), "alive, but no check is running"),
    ],
)
def test_anything_else_of_programs_breaks_the_stream(guest: Guest, complaint: str) -> None:
    assert complaint in read(guest).errors[0]


def test_a_guest_runs_no_program_that_was_not_asked_for() -> None:
    made = StreamReader(NONCE, (Family.IPV4,))
    made.feed(checked().say("program", p=0).sent)
    assert "program 0 begins, of 0" in made.finish().errors[0]


def test_the_output_of_a_program_fits_an_event() -> None:
    guest = Guest().say("ended", **{**ended(0), "output": "\x01" * events.MAX_TEXT})
    assert len(guest.sent) < events.MAX_LINE
