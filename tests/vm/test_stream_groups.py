# SPDX-License-Identifier: GPL-2.0-only
"""Groups of checks that run at the same time: their events interleave, each group's in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import events
from harness.verdict import judge
from harness.verdict.results import Attempt, BootEnd, Stream
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from harness.vm.stream import StreamReader
from tests.vm.support import NONCE, Guest

#: How many checks each group has; they are numbered from 0 over all groups.
SIZES = (2, 3, 1)
TOTAL = sum(SIZES)
GROUPS = ((0, 1), (2, 3, 4), (5,))

Word = tuple[str, int]  # start or result, and of which check


def planned() -> Guest:
    guest = Guest().hello().capability()
    for number, group in enumerate(GROUPS):
        guest.plan(
            [[f"check.{i}", "run", "both"] for i in group], f"scenario{number}", scenario=True
        )
    return guest


def said(words: list[Word]) -> Guest:
    guest = planned()
    for kind, index in words:
        if kind == "start":
            guest.say("start", i=index)
        else:
            guest.say("result", i=index, verdict=kind)
    return guest


def read(guest: Guest) -> Stream:
    reader = StreamReader(NONCE, (Family.IPV4,))
    reader.feed(guest.said)
    return reader.finish()


def ended(words: list[Word]) -> Stream:
    return read(said(words).end(results=TOTAL))


@st.composite
def interleavings(draw: st.DrawFn) -> list[Word]:
    """The words of all groups, in any order that keeps each group's own."""
    left = [[word for i in group for word in (("start", i), ("pass", i))] for group in GROUPS]
    words = []
    while any(left):
        words.append(draw(st.sampled_from([group for group in left if group])).pop(0))
    return words


@given(interleavings())
def test_groups_may_interleave_in_any_way(words: list[Word]) -> None:
    stream = ended(words)
    assert stream.errors == ()
    assert [result.key.id for result in stream.results] == [f"check.{i}" for i in range(TOTAL)]
    assert {result.verdict for result in stream.results} == {CheckVerdict.PASS}


@given(interleavings(), st.data())
def test_a_word_left_out_or_doubled_breaks_the_stream(
    words: list[Word], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(words) - 1))
    assert ended(words[:index] + words[index + 1 :]).errors
    assert ended(words[: index + 1] + words[index:]).errors


@given(interleavings(), st.data())
def test_words_of_one_group_in_each_others_place_break_the_stream(
    words: list[Word], data: st.DataObject
) -> None:
    group = data.draw(st.sampled_from(GROUPS))
    places = [at for at, (_, index) in enumerate(words) if index in group]
    first, second = sorted(data.draw(st.permutations(places))[:2])
    swapped = list(words)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    assert ended(swapped).errors


@given(interleavings(), st.data())
def test_what_a_cut_stream_did_not_tell_is_lost(words: list[Word], data: st.DataObject) -> None:
    heard = words[: data.draw(st.integers(0, len(words) - 1))]
    stream = read(said(heard))
    told = {index for kind, index in heard if kind != "start"}
    verdicts = [result.verdict is CheckVerdict.PASS for result in stream.results]
    assert verdicts == [index in told for index in range(TOTAL)]
    assert not stream.closed


@pytest.mark.parametrize(
    ("words", "running"),
    [
        ([], ""),
        (
            [("start", 2), ("start", 0)],
            "ipv4 check.2 (scenario1/run/both), ipv4 check.0 (scenario0",
        ),
        ([("start", 0), ("start", 5), ("pass", 0)], "ipv4 check.5 (scenario2/run/both)"),
    ],
)
def test_all_that_runs_is_named(words: list[Word], running: str) -> None:
    reader = StreamReader(NONCE, (Family.IPV4,))
    reader.feed(said(words).said)
    assert reader.running.startswith(running)
    assert bool(reader.running) == bool(running)
    assert reader.finish().running == reader.running


def judged(stream: Stream, end: BootEnd) -> tuple[KernelVerdict, str]:
    attempt = Attempt(1, end, kernel_spoke=True, stream=stream)
    return judge.kernel(attempt, judge.families(attempt, (Family.IPV4,), {}))


def test_a_guest_that_stops_hangs_in_all_that_ran() -> None:
    stream = read(said([("start", 2), ("start", 0), ("pass", 0), ("start", 1)]))
    verdict, reason = judged(stream, BootEnd.SILENCE_DEADLINE)
    assert verdict is KernelVerdict.HANG
    assert "check.2 (scenario1/run/both), ipv4 check.1 (scenario0/run/both)" in reason
    assert "check.3" not in reason


def lost(before: str = "fail") -> list[Word]:
    """A scenario whose process died in its first check, and the others' passes."""
    words: list[Word] = [("start", 2), (before, 2), ("lost", 3), ("lost", 4)]
    for index in (0, 1, 5):
        words += [("start", index), ("pass", index)]
    return words


def test_checks_that_were_not_run_are_lost_and_the_kernel_fails() -> None:
    stream = ended(lost())
    assert stream.errors == ()
    assert [r.key.id for r in stream.results if r.verdict is CheckVerdict.LOST] == [
        "check.3",
        "check.4",
    ]
    assert judged(stream, BootEnd.POWERED_OFF)[0] is KernelVerdict.FAIL


def test_lost_checks_never_pass_though_nothing_failed() -> None:
    stream = ended(lost(before="pass"))
    assert judged(stream, BootEnd.POWERED_OFF)[0] is KernelVerdict.FAIL


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([("start", 2), ("lost", 2)], "is running, but is lost"),
        ([("lost", 3)], "out of order"),
        ([("pass", 2)], "does not run"),
        ([("start", 2), ("lost", 3)], "out of order"),
    ],
)
def test_a_lost_check_out_of_place_is_named(words: list[Word], complaint: str) -> None:
    assert complaint in read(said([*words, ("start", 0)])).errors[0]


def test_a_process_may_be_ahead_of_what_is_told_of_its_checks() -> None:
    reader = StreamReader(NONCE, (Family.IPV4,))
    reader.feed(said([("start", 2), ("start", 0)]).said + events.at(4))
    assert reader.running.startswith("ipv4 check.4 (scenario1/run/both), ipv4 check.0")
    reader.feed(b'{"e":"at","i":3}\n')
    assert reader.running.startswith("ipv4 check.3 ")
    stream = reader.finish()
    assert stream.errors == ()
    assert {result.verdict for result in stream.results} == {CheckVerdict.LOST}


@given(interleavings(), st.data())
def test_where_a_process_is_decides_no_verdict(words: list[Word], data: st.DataObject) -> None:
    lines = said(words).end(results=TOTAL).said.splitlines(True)
    sound = ended(words)
    planned = 2 + len(GROUPS)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(planned, len(lines) - 1))
        lines.insert(place, events.at(data.draw(st.integers(0, TOTAL - 1))))
    reader = StreamReader(NONCE, (Family.IPV4,))
    reader.feed(b"".join(lines))
    stream = reader.finish()
    assert stream.errors == ()
    assert stream.results == sound.results


@pytest.mark.parametrize(
    "data",
    [
        Guest().hello().said + events.at(0),
        planned().said + events.at(TOTAL),
        planned().said + events.at(-1),
        planned().said + b'{"e":"at","i":0,"n":6}\n',
        planned().said + b'{"e":"at"}\n',
        events.at(0),
        said([w for i in range(TOTAL) for w in (("start", i), ("pass", i))]).end(results=TOTAL).said
        + events.at(0),
    ],
)
def test_a_process_that_is_nowhere_breaks_the_stream(data: bytes) -> None:
    reader = StreamReader(NONCE, (Family.IPV4,))
    reader.feed(data)
    assert reader.finish().errors


def test_the_time_of_connections_ends_where_scenarios_begin() -> None:
    guest = Guest().hello().capability().plan([["a.b", "closed", "client"]])
    guest.plan([["c.d", "run", "both"]], "timeouts", scenario=True).check(0).check(1)
    times = read(guest.end(results=2)).times_ms
    assert list(times) == ["hello", "ipv4", "scenarios", "end"]


def test_alive_is_said_only_while_something_runs() -> None:
    sound = said([("start", 2)]).say("alive").say("result", i=2, verdict=events.PASS)
    assert read(sound.say("start", i=3).say("alive")).errors == ()
    after = said([("start", 2), ("pass", 2)]).say("alive")
    assert "no check is running" in read(after).errors[0]


def test_a_note_or_a_plan_after_the_first_start_is_refused() -> None:
    assert "out of place" in read(said([("start", 2)]).say("note", text="")).errors[0]
    assert "after the first check" in read(said([("start", 2)]).plan()).errors[0]
