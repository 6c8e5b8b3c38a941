# SPDX-License-Identifier: GPL-2.0-only
"""Repeated checks in the event stream: each round is exactly what it must be, or nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guest import events
from harness.verdict import judge
from harness.verdict.results import (
    Attempt,
    BootEnd,
    CutRound,
    Expectation,
    Incident,
    IncidentKind,
    Stream,
)
from harness.verdict.rounds import Repeat
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from harness.vm import stream as stream_module
from harness.vm.stream import StreamReader
from tests.replacing import substituted
from tests.vm.support import ENTRIES, NONCE, Guest

FAMILIES = (Family.IPV4,)
EXPECTED = {"mptcp": Expectation(True, "mainline has it since 5.6")}
THREE = Repeat(3)
BAD: dict[str, Any] = {"i": 1, "verdict": "fail", "detail": "lost a byte", "expected": "9"}


def first(**changes: Any) -> Guest:
    """A guest after its first round, in which all passed."""
    return Guest().hello(**changes).capability().plan().check(0).check(1)


def read(data: bytes, repeat: Repeat = THREE, *, interrupted: bool = False) -> Stream:
    reader = StreamReader(NONCE, FAMILIES, seed=7, repeat=repeat)
    reader.feed(data)
    return reader.finish(interrupted=interrupted)


def judged(stream: Stream, end: BootEnd = BootEnd.POWERED_OFF) -> tuple[KernelVerdict, str]:
    attempt = Attempt(1, end, kernel_spoke=True, stream=stream)
    return judge.kernel(attempt, judge.families(attempt, FAMILIES, EXPECTED))


def three() -> bytes:
    return first().further(1).further(2).end(rounds=3).said


def test_three_good_rounds_pass() -> None:
    stream = read(three())
    assert stream.errors == ()
    assert stream.rounds is not None
    assert (stream.rounds.done, stream.rounds.failed) == (3, 0)
    assert judged(stream)[0] is KernelVerdict.PASS


def test_a_failure_in_any_round_fails_the_kernel_and_names_the_seed() -> None:
    guest = first().further(1, "pf", BAD).further(2).end(rounds=3)
    stream = read(guest.said)
    assert stream.rounds is not None
    (failure,) = stream.rounds.failures
    assert (failure.count, failure.first, failure.seed) == (1, 1, 8)
    assert stream.results[1].verdict is CheckVerdict.FAIL
    assert stream.results[1].detail == "lost a byte (round 1, seed 8)"
    assert stream.results[1].expected == "9"
    verdict, reason = judged(stream)
    assert verdict is KernelVerdict.FAIL
    assert reason.endswith("lost a byte (round 1, seed 8); 1 of 3 rounds failed")


def test_what_failed_in_the_first_round_alone_stays_failed() -> None:
    guest = Guest().hello().capability().plan().check(0, "fail", detail="no").check(1)
    stream = read(guest.further(1).further(2).end(rounds=3).said)
    assert stream.results[0].detail == "no (round 0, seed 7)"
    assert judged(stream)[0] is KernelVerdict.FAIL


def test_a_failure_is_worse_than_an_error_of_an_earlier_round() -> None:
    error = {**BAD, "verdict": "error", "detail": "broke"}
    stream = read(first().further(1, "pe", error).further(2, "pf", BAD).end(rounds=3).said)
    assert stream.results[1].detail == "lost a byte (round 2, seed 9)"
    assert stream.rounds is not None
    assert (stream.rounds.failures[0].first, stream.rounds.failures[0].errors) == (1, 1)


@pytest.mark.parametrize(
    ("letters", "errors"), [("pp", 0), ("ff", 0), ("fe", 1), ("ef", 1), ("ee", 2), ("ep", 1)]
)
def test_the_rounds_in_which_a_check_broke_are_counted(letters: str, errors: int) -> None:
    """A known failure hides none of them, see judge.unexcused."""
    said = {"f": BAD, "e": {**BAD, "verdict": "error"}}
    guest = first()
    for number, letter in enumerate(letters, 1):
        guest.further(number, f"p{letter}", *([said[letter]] if letter in said else []))
    stream = read(guest.end(rounds=3).said)
    assert (stream.errors, stream.rounds is None) == ((), False)
    assert stream.rounds is not None
    assert sum(failure.errors for failure in stream.rounds.failures) == errors


def test_a_check_that_fails_at_two_places_in_one_round_failed_in_one_round() -> None:
    entries = [["a.b", "established", "client"], ["a.b", "established", "server"]]
    guest = Guest().hello().capability().plan(entries).check(0).check(1)
    guest.further(1, "ff", {**BAD, "i": 0}, BAD).further(2).end(rounds=3)
    stream = read(guest.said)
    assert stream.rounds is not None
    assert stream.rounds.by_check == {"a.b": 1}


def test_more_failures_than_are_told_in_full_are_counted() -> None:
    many = events.MAX_FAILURES + 4
    entries = [[f"check.{i}", "established", "client"] for i in range(many)]
    guest = Guest().hello().capability().plan(entries)
    for index in range(many):
        guest.check(index)
    told = [{**BAD, "i": i} for i in range(events.MAX_FAILURES)]
    guest.further(1, "f" * many, *told).end(results=many, rounds=2)
    stream = read(guest.said, Repeat(2))
    assert stream.rounds is not None
    assert len(stream.rounds.failures) == many
    assert "more than 16 failures" in stream.results[-1].detail


def test_a_stream_cut_at_any_byte_is_not_believed() -> None:
    data = first().further(1, "pf", BAD).further(2).end(rounds=3).said
    for length in range(len(first().said), len(data)):
        assert judged(read(data[:length]))[0] is KernelVerdict.LOST, length
        assert not read(data[:length]).closed


@pytest.mark.parametrize("index", range(len(three().splitlines())))
def test_an_event_left_out_is_lost(index: int) -> None:
    lines = three().splitlines(True)
    assert judged(read(b"".join(lines[:index] + lines[index + 1 :])))[0] is not KernelVerdict.PASS


def begun() -> Guest:
    return first().say("round", r=1, seed=8)


def under_way() -> Guest:
    return begun().say("begin", g=0)


#: A stream, and what is said of it.
NO_ROUNDS = [
    (first().end().said, "after 1 of 3 rounds"),
    (first().further(1).end(rounds=2).said, "after 2 of 3 rounds"),
    (first().further(1).end(rounds=3).said, "after 2 rounds and reports 3"),
    (first().further(1).further(2).further(3).said, "round 3 begins, but should not"),
    (first().further(2).said, "round 2 with seed 9 begins, not round 1"),
    (first().say("round", r=1, seed=7).said, "with seed 7 begins, not round 1 with seed 8"),
    (first().say("round", r=-1, seed=6).said, "round -1"),
    (first().say("round", r=1, seed=8).say("round", r=1, seed=8).said, "should not"),
    (Guest().hello().capability().plan().check(0).further(1).said, "should not"),
    (first().say("begin", g=0).said, "group 0 of no round"),
    (first().say("finish", g=0).say("round", r=1, seed=8).said, "group 0 of no round"),
    (under_way().say("begin", g=0).said, "begins twice"),
    (under_way().say("finish", g=0).say("begin", g=0).said, "begins twice"),
    (begun().say("begin", g=1).said, "never planned"),
    (begun().say("begin", g=-1).said, "never planned"),
    (begun().say("finish", g=0).say("alive").said, "is not running"),
    (under_way().say("finish", g=0).say("finish", g=0).say("alive").said, "is not running"),
    (under_way().say("outcome", r=1, verdicts="pp").end(rounds=2).said, "0 of 1 groups"),
    (begun().say("alive").said, "alive, but no check is running"),
    (under_way().say("finish", g=0).say("alive").said, "alive, but no check is running"),
    (under_way().say("finish", g=0).say("failure", **BAD).say("alive").said, "does not run"),
    (under_way().say("start", i=0).said, "out of order"),
    (under_way().say("result", i=1, verdict="pass").say("alive").said, "out of order"),
    (first().further(1, "p").said, "1 verdicts on 2"),
    (first().further(1, "ppp").said, "3 verdicts on 2"),
    (first().further(1, "px").said, "unknown verdict"),
    (first().further(1, "pu").said, "unlike in the first round"),
    (first().further(1, "pf").said, "1 failures, other than the 0"),
    (first().further(1, "pp", BAD).said, "0 failures, other than the 1"),
    (first().further(1, "fp", BAD).said, "other than the 1"),
    (first().further(1, "pe", BAD).said, "two verdicts"),
    (first().further(1, "pf", BAD, BAD).said, "does not run"),
    (first().further(1, "pf", {**BAD, "i": 2}).said, "does not run"),
    (first().further(1, "pf", {**BAD, "i": -1}).said, "does not run"),
    (first().further(1, "pf", {**BAD, "verdict": "pass"}).said, "is none"),
    (first().say("failure", **BAD).say("note", text="").said, "a failure of no round"),
    (
        first().say("round", r=1, seed=8).say("outcome", r=1, verdicts="pp").end().said,
        "after 0",
    ),
    (first().say("outcome", r=1, verdicts="pp").end(rounds=2).said, "not under way"),
    (under_way().said, ""),
]


def test_a_round_that_is_not_exactly_one_is_named() -> None:
    for number, (data, complaint) in enumerate(NO_ROUNDS):
        stream = read(data)
        assert complaint in "".join(stream.errors), (number, complaint)
        assert judged(stream)[0] is KernelVerdict.LOST, (number, complaint)


def two_groups() -> Guest:
    """A guest after the first round of two groups, in which all passed."""
    return Guest().hello().capability().plan(ENTRIES[:1]).plan(ENTRIES[1:]).check(0).check(1)


def test_an_outcome_before_the_last_group_is_refused() -> None:
    assert "after 1 of 2 groups" in read(two_groups().further(1).end(rounds=2).said).errors[0]


def test_groups_of_a_round_interleave() -> None:
    guest = two_groups().say("round", r=1, seed=8).say("begin", g=1).say("begin", g=0)
    guest.say("failure", **BAD).say("finish", g=1).say("failure", **{**BAD, "i": 0})
    guest.say("alive").say("finish", g=0).say("outcome", r=1, verdicts="ff").end(rounds=2)
    stream = read(guest.said, Repeat(2))
    assert stream.errors == ()
    assert stream.rounds is not None
    assert [failure.first for failure in stream.rounds.failures] == [1, 1]


def test_a_group_that_lost_its_process_in_a_round_is_bad() -> None:
    lost = {"i": 1, "verdict": "lost", "detail": "not run after a.b: its process died"}
    guest = first().further(1, "fl", {**BAD, "i": 0}, lost).end(rounds=2)
    stream = read(guest.said, Repeat(2))
    assert stream.errors == ()
    assert [r.verdict for r in stream.results] == [CheckVerdict.FAIL, CheckVerdict.LOST]
    assert judged(stream)[0] is KernelVerdict.FAIL


def test_a_failure_left_out_between_two_of_its_group_is_noticed() -> None:
    many = events.MAX_FAILURES + 4
    entries = [[f"check.{i}", "established", "client"] for i in range(many)]
    guest = Guest().hello().capability().plan(entries)
    for index in range(many):
        guest.check(index)
    told = [{**BAD, "i": i} for i in (*range(events.MAX_FAILURES - 1), events.MAX_FAILURES)]
    stream = read(guest.further(1, "f" * many, *told).end(results=many, rounds=2).said, Repeat(2))
    assert "other than the 16" in stream.errors[0]


def test_rounds_that_nobody_asked_for_are_refused() -> None:
    assert "should not" in read(three(), Repeat()).errors[0]


def test_a_round_cut_off_loses_the_groups_that_had_not_finished() -> None:
    guest = two_groups().say("round", r=1, seed=8).say("begin", g=0).say("finish", g=0)
    stream = read(guest.say("begin", g=1).said)
    assert [r.verdict for r in stream.results] == [CheckVerdict.PASS, CheckVerdict.LOST]
    assert stream.rounds is not None
    assert stream.rounds.cut == CutRound(1, 8, "ipv4 segment checks")
    verdict, reason = judged(stream, BootEnd.SILENCE_DEADLINE)
    assert verdict is KernelVerdict.HANG
    assert reason.endswith("in ipv4 segment checks in round 1, seed 8")
    assert stream.results[1].detail == "round 1, seed 8"


def test_a_round_cut_off_in_its_first_group_loses_the_others_too() -> None:
    guest = two_groups().say("round", r=1, seed=8).say("begin", g=1).say("finish", g=1)
    stream = read(guest.say("begin", g=0).said)
    assert [r.verdict for r in stream.results] == [CheckVerdict.LOST, CheckVerdict.PASS]


def test_a_failure_told_before_the_round_was_cut_off_stays_one() -> None:
    guest = under_way().say("failure", **BAD).say("alive")
    assert read(guest.said).results[1].verdict is CheckVerdict.FAIL


def test_what_runs_says_the_round_and_its_seed() -> None:
    reader = StreamReader(NONCE, FAMILIES, repeat=THREE)
    reader.feed(under_way().said)
    assert reader.running == "ipv4 segment checks in round 1, seed 8"


def test_all_that_runs_in_a_round_is_named() -> None:
    guest = Guest().hello().capability().plan(ENTRIES[:1]).plan(ENTRIES[1:], "timeouts")
    guest.check(0).check(1).say("round", r=1, seed=8).say("begin", g=1).say("begin", g=0)
    reader = StreamReader(NONCE, FAMILIES, repeat=THREE)
    reader.feed(guest.said)
    assert reader.running == "ipv4 timeouts, ipv4 segment checks in round 1, seed 8"


def test_an_interrupted_repeat_says_how_far_it_came() -> None:
    stream = read(first().further(1).say("round", r=2, seed=9).said, interrupted=True)
    verdict, reason = judged(stream, BootEnd.INTERRUPTED)
    assert verdict is KernelVerdict.INFRASTRUCTURE
    assert reason == "interrupted after 2 of 3 rounds, none of which failed"


def test_a_failure_before_the_interruption_counts() -> None:
    stream = read(first().further(1, "pf", BAD).said, interrupted=True)
    verdict, reason = judged(stream, BootEnd.INTERRUPTED)
    assert verdict is KernelVerdict.FAIL
    assert "interrupted after 2 of 3 rounds" in reason


def test_a_failure_counts_though_the_interruption_cut_an_event() -> None:
    data = first().further(1, "pf", BAD).say("round", r=2, seed=9).say("begin", g=0).said
    verdict, _ = judged(read(data[:-5], interrupted=True), BootEnd.INTERRUPTED)
    assert verdict is KernelVerdict.FAIL


def test_a_warning_before_the_interruption_counts() -> None:
    stream = read(first().further(1).said, interrupted=True)
    said = Incident(IncidentKind.WARNING, "WARNING in mptcp_x", "warning:mptcp_x", "")
    attempt = Attempt(1, BootEnd.INTERRUPTED, kernel_spoke=True, stream=stream, incidents=(said,))
    verdict, reason = judge.kernel(attempt, judge.families(attempt, FAMILIES, EXPECTED))
    assert verdict is KernelVerdict.WARNING
    assert reason == "WARNING in mptcp_x; interrupted after 2 of 3 rounds"


@pytest.mark.parametrize(
    ("first", "second", "after"), [("pass", "unsupported", "ff"), ("fail", "fail", "pu")]
)
def test_a_round_without_a_connection_fails_what_is_skipped_in_others(
    first: str, second: str, after: str
) -> None:
    absent = "no full_info: asked"
    guest = Guest().hello().capability().capability("full_info", present=False).plan()
    guest.check(0, first, detail="no connection")
    guest.check(1, second, detail=absent if second == "unsupported" else "no connection")
    failures = [{**BAD, "i": i} for i, letter in enumerate(after) if letter == "f"]
    stream = read(guest.further(1, after, *failures).end(rounds=2).said, Repeat(2))
    assert stream.errors == ()
    assert stream.results[1].verdict is CheckVerdict.FAIL
    assert judged(stream)[0] is KernelVerdict.FAIL


def test_until_fail_may_end_only_after_a_failure() -> None:
    endless = Repeat(100, until_fail=True)
    assert "2 of 100 rounds" in read(first().further(1).end(rounds=2).said, endless).errors[0]
    failing = first().further(1, "pf", BAD)
    assert read(failing.end(rounds=2).said, endless).errors == ()
    goes_on = first().further(1, "pf", BAD).further(2)
    assert "should not" in read(goes_on.said, endless).errors[0]


def test_a_time_that_has_not_passed_ends_nothing() -> None:
    data = first().further(1).end(rounds=2).said
    assert "2 of 100 rounds" in read(data, Repeat(100, seconds=60)).errors[0]
    late = substituted(rb'("e":"end".*"t":)\d+', rb"\g<1>9999999999", data)
    assert read(late, Repeat(100, seconds=60)).errors == ()


def test_many_rounds_take_no_more_memory_than_one_stream_may() -> None:
    rounds = 12_000
    reader = StreamReader(NONCE, FAMILIES, seed=7, repeat=Repeat(rounds))
    guest = first()
    reader.feed(guest.sent)
    before = _resident()
    for number in range(1, rounds):
        guest.sent = b""
        verdicts, told = ("pf", [BAD]) if number % 10 == 0 else ("pp", [])
        reader.feed(guest.further(number, verdicts, *told).sent)
    assert reader.rounds == rounds - 1  # the last outcome waits
    assert not reader.broken
    assert _resident() - before < 140 * rounds  # bytes: less than any object for each


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_further_rounds_may_send_as_much_together_as_one_alone_may_not() -> None:
    reader = StreamReader(NONCE, FAMILIES, seed=7, repeat=Repeat(3000))
    guest = first()
    long = {**BAD, "detail": "x" * events.MAX_TEXT, "got": "y" * events.MAX_TEXT}
    sent = 0
    for number in range(1, 3000):
        reader.feed(guest.further(number, "pf", {**long, "expected": long["got"]}).sent)
        sent += len(guest.sent)
        guest.sent = b""
    assert sent > stream_module.MAX_BYTES
    assert not reader.broken
    assert not reader.overflowed
