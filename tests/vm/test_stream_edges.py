# SPDX-License-Identifier: GPL-2.0-only
"""The event stream at its limits, and what a reader tells while the stream comes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guest import events
from harness.verdict.results import Stream
from harness.verdict.rounds import Repeat
from harness.verdict.verdicts import CheckVerdict, Family
from harness.vm import stream as stream_module
from harness.vm.stream import StreamReader
from tests.vm.support import ENTRIES, NONCE, Guest, sound

MANY = [[f"check.{number}", "run", "both"] for number in range(40)]


def reader(guest: Guest | bytes, **settings: Any) -> StreamReader:
    families = settings.pop("families", (Family.IPV4,))
    made = StreamReader(NONCE, families, **settings)
    made.feed(guest if isinstance(guest, bytes) else guest.said)
    return made


def read(guest: Guest | bytes, **settings: Any) -> Stream:
    return reader(guest, **settings).finish()


def is_sound(guest: Guest | bytes, **settings: Any) -> bool:
    stream = read(guest, **settings)
    return stream.closed and not stream.errors


def planned() -> Guest:
    return Guest().hello().capability().plan()


def first() -> Guest:
    return planned().check(0).check(1)


# Limits.


@pytest.mark.parametrize(("less", "fits"), [(0, True), (1, False)])
def test_a_stream_may_be_as_long_as_the_limit(
    monkeypatch: pytest.MonkeyPatch, less: int, fits: bool
) -> None:
    data = sound()
    monkeypatch.setattr(stream_module, "MAX_BYTES", len(data) - less)
    assert is_sound(data) is fits
    assert reader(data).overflowed is not fits


def test_a_stream_that_is_too_long_is_told_the_limit() -> None:
    made = StreamReader(NONCE, (Family.IPV4,))
    made.feed(b" " * (stream_module.MAX_BYTES + 1))
    assert made.finish().errors == ("the guest sent more than 16 MiB of events",)


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_a_line_without_its_end_may_be_as_long_as_a_line(more: int, fits: bool) -> None:
    assert reader(b"x" * (events.MAX_LINE + more)).broken is not fits


@pytest.mark.parametrize(
    ("limit", "guest"),
    [
        ("MAX_RESULTS", planned()),
        ("MAX_NOTES", Guest().hello().say("note", text="a").say("note", text="b")),
        ("MAX_CAPABILITIES", Guest().hello().capability("a").capability("b")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_there_may_be_as_many_as_the_limit_and_no_more(
    monkeypatch: pytest.MonkeyPatch, limit: str, guest: Guest
) -> None:
    for most, broken in ((1, True), (2, False), (3, False)):
        monkeypatch.setattr(stream_module, limit, most)
        assert reader(guest).broken is broken


def test_the_limits_are_wide_enough_for_a_full_run() -> None:
    assert stream_module.MAX_RESULTS >= 20_000
    assert stream_module.MAX_NOTES >= 20
    assert stream_module.MAX_CAPABILITIES >= 200


def failing(number: int) -> Guest:
    """A further round of forty checks with ``number`` failures, as many of them told as may be."""
    guest = Guest().hello().capability().plan(MANY)
    for index in range(len(MANY)):
        guest.check(index)
    guest.say("round", r=1, seed=8).say("begin", g=0)
    for index in range(number):
        guest.say("failure", i=index, verdict="fail")
    return guest


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_as_many_failures_of_a_round_are_told_as_may_be(more: int, fits: bool) -> None:
    guest = failing(events.MAX_FAILURES + more)
    assert reader(guest, repeat=Repeat(2)).broken is not fits


# Numbers and times.


def test_time_may_begin_at_0_and_stand_still() -> None:
    lines = sound().splitlines()
    data = b"".join(events.encode({**json.loads(line), "t": 0}) for line in lines)
    assert is_sound(data)


def test_the_error_names_the_event() -> None:
    lines = sound().splitlines(True)
    assert read(b"".join([*lines[:3], b"no JSON\n"])).errors[0].startswith("event 3: ")
    assert read(b"".join(lines[:3]) + b'{"e"').errors == ("the stream was cut within event 3",)


def test_an_interrupted_stream_may_end_within_an_event() -> None:
    data = sound()[:-5]
    made = reader(data)
    assert made.finish(interrupted=True).errors == ()


def test_the_times_of_a_run_are_those_of_its_first_events() -> None:
    guest = Guest().hello().capability().plan()
    guest.plan([["a.b", "run", "both"]], "scenario", scenario=True)
    guest.check(0).check(1).check(2)
    guest.say("round", r=1, seed=8)
    for group in (0, 1):
        guest.say("begin", g=group).say("finish", g=group)
    guest.say("outcome", r=1, verdicts="ppp").end(3, rounds=2)
    said = [json.loads(line) for line in guest.said.splitlines()]

    def at(kind: str, **fields: Any) -> int:
        return int(next(e["t"] for e in said if e["e"] == kind and fields.items() <= e.items()))

    assert read(guest, repeat=Repeat(2)).times_ms == {
        "hello": at("hello"),
        "ipv4": at("start", i=0),
        "scenarios": at("start", i=2),
        "rounds": at("round"),
        "end": at("end"),
    }


@pytest.mark.parametrize(
    ("before", "after", "new"), [(0, 0, 0), (512, 512, 0), (1, 513, 512), (512, 0, 0)]
)
def test_a_taint_is_new_that_was_not_there_at_first(before: int, after: int, new: int) -> None:
    guest = Guest().hello(taint=before).capability().plan().check(0).check(1).end(taint=after)
    assert read(guest).new_taint == new


# What is told while the stream comes.


def test_a_reader_counts_what_it_has_read() -> None:
    made = reader(b"")
    assert (made.said_hello, made.closed, made.planned, made.done) == (False, False, 0, 0)
    made.feed(planned().check(0).said)
    assert (made.said_hello, made.closed, made.planned, made.done) == (True, False, 2, 1)
    assert (made.rounds, made.failed_rounds, made.programs) == (0, 0, 0)
    assert not made.broken
    assert not made.overflowed
    assert reader(sound()).closed


def test_a_reader_counts_rounds_and_those_that_failed() -> None:
    bad = {"i": 1, "verdict": "fail"}
    made = reader(first(), repeat=Repeat(4))
    assert (made.rounds, made.failed_rounds) == (1, 0)
    made = reader(first().further(1, "pf", bad).further(2), repeat=Repeat(4))
    assert (made.rounds, made.failed_rounds) == (3, 1)


def test_the_check_that_runs_is_named_and_the_one_its_process_is_at() -> None:
    guest = planned()
    assert reader(guest).running == ""
    guest.say("start", i=0)
    assert "mptcp_info.readable" in reader(guest).running
    at = events.encode({"e": "at", "i": 1})
    assert "payload.arrives" in reader(guest.said + at).running
    guest.say("result", i=0, verdict="pass").say("start", i=1)
    early = events.encode({"e": "at", "i": 0})
    assert "payload.arrives" in reader(guest.said + early).running


@pytest.mark.parametrize(("index", "broken"), [(-1, True), (0, False), (1, False), (2, True)])
def test_a_process_is_at_a_check_that_was_planned(index: int, broken: bool) -> None:
    at = events.encode({"e": "at", "i": index})
    assert reader(planned().said + at).broken is broken


def test_nobody_is_at_a_check_after_the_end() -> None:
    assert reader(sound() + events.encode({"e": "at", "i": 0})).broken


def test_the_groups_that_run_in_a_further_round_are_named() -> None:
    guest = first().say("round", r=1, seed=8)
    assert reader(guest, repeat=Repeat(3)).running == ""
    cut = read(guest, repeat=Repeat(3)).rounds
    assert cut is not None
    assert cut.cut is not None
    assert (cut.cut.number, cut.cut.seed, cut.cut.during) == (1, 8, "")
    guest.say("begin", g=0)
    said = "ipv4 segment checks in round 1, seed 8"
    assert reader(guest, repeat=Repeat(3)).running == said
    assert read(guest, repeat=Repeat(3)).running == said


def test_no_round_is_under_way_once_its_outcome_is_there() -> None:
    rounds = read(first().further(1), repeat=Repeat(3)).rounds
    assert rounds is not None
    assert (rounds.asked, rounds.done, rounds.cut) == (3, 2, None)


def test_rounds_that_did_not_begin_are_none_done() -> None:
    rounds = read(planned().check(0), repeat=Repeat(3)).rounds
    assert rounds is not None
    assert (rounds.asked, rounds.done) == (3, 0)
    assert read(sound()).rounds is None


# What a guest may not say.


def repeated(*said: tuple[str, dict[str, Any]]) -> Guest:
    """A guest in its second round, which says this."""
    guest = first().say("round", r=1, seed=8)
    for kind, fields in said:
        guest.say(kind, **fields)
    return guest


BEGIN, FINISH = ("begin", {"g": 0}), ("finish", {"g": 0})


def failure(index: int) -> tuple[str, dict[str, Any]]:
    return ("failure", {"i": index, "verdict": "fail"})


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ([("begin", {"g": -1})], "group -1 was never planned"),
        ([("begin", {"g": 1})], "group 1 was never planned"),
        ([BEGIN, BEGIN], "group 0 begins twice"),
        ([BEGIN, FINISH, BEGIN], "group 0 begins twice"),
        ([FINISH], "group 0 finishes, but is not running"),
        ([failure(0)], "a failure of check 0, which does not run"),
        ([BEGIN, failure(-1)], "a failure of check -1"),
        ([BEGIN, failure(2)], "a failure of check 2"),
        ([BEGIN, failure(0), failure(0)], "a failure of check 0"),
        ([BEGIN, failure(1), failure(0)], "a failure of check 0"),
        ([BEGIN, FINISH, failure(0)], "a failure of check 0"),
        ([("outcome", {"r": 1, "verdicts": "pp"})], "an outcome after 0 of 1 groups"),
        ([BEGIN, FINISH, ("outcome", {"r": 2, "verdicts": "pp"})], "an outcome of round 2"),
        ([("round", {"r": 2, "seed": 9})], "round 2 begins, but should not"),
    ],
)
def test_a_further_round_goes_by_its_plan(
    said: list[tuple[str, dict[str, Any]]], complaint: str
) -> None:
    assert complaint in read(repeated(*said), repeat=Repeat(3)).errors[0]


def test_every_check_of_a_group_may_fail_in_order() -> None:
    guest = repeated(BEGIN, failure(0), failure(1), FINISH)
    guest.say("outcome", r=1, verdicts="ff").end(rounds=2)
    stream = read(guest, repeat=Repeat(2))
    assert stream.errors == ()
    assert [result.verdict for result in stream.results] == [CheckVerdict.FAIL] * 2


@pytest.mark.parametrize(
    ("guest", "repeat", "complaint"),
    [
        (first().say("round", r=1, seed=9), 3, "round 1 with seed 9 begins, not round 1 with seed"),
        (first().say("round", r=2, seed=8), 3, "round 2 with seed 8 begins, not round 1 with seed"),
        (first().further(1).say("round", r=2, seed=9), 2, "round 2 begins, but should not"),
        (first().say("round", r=1, seed=8), 1, "round 1 begins, but should not"),
        (planned().say("round", r=1, seed=8), 3, "round 1 begins, but should not"),
        (first().say("begin", g=0), 3, "group 0 of no round"),
        (first().say("failure", i=0, verdict="fail"), 3, "a failure of no round"),
        (first().say("outcome", r=1, verdicts="pp"), 3, "an outcome of round 1"),
        (first().further(1).end(rounds=2), 3, "it closes after 2 of 3 rounds"),
        (first().further(1).end(rounds=3), 2, "it closes after 2 rounds and reports 3"),
        (first().end(rounds=2), 1, "it closes after 1 rounds and reports 2"),
    ],
)
def test_rounds_come_in_order_and_all_of_them(guest: Guest, repeat: int, complaint: str) -> None:
    assert complaint in read(guest, repeat=Repeat(repeat)).errors[0]


def test_a_guest_may_be_alive_while_a_check_or_a_program_runs() -> None:
    assert not reader(planned().say("start", i=0).say("alive")).broken
    running = first().say("program", p=0).say("alive")
    assert not reader(running, programs=("one",)).broken


def test_each_family_that_was_asked_for_is_spoken_of() -> None:
    guest = first().end()
    assert is_sound(guest)
    (error,) = read(guest, families=tuple(Family)).errors
    assert error == "the guest did not report whether ipv6 has MPTCP"


@pytest.mark.parametrize("family", Family)
def test_a_family_without_mptcp_needs_no_check(family: Family) -> None:
    guest = Guest().hello().capability(family=family, present=False).end(results=0)
    assert is_sound(guest, families=(family,))


def test_an_ipv6_that_is_there_needs_an_answer_about_mptcp() -> None:
    guest = Guest().hello().capability("ipv6", family="ipv6")
    guest.capability("mptcp_ipv6", family="ipv6").end(results=0)
    assert read(guest, families=(Family.IPV6,)).errors


@pytest.mark.parametrize(
    "settings", [{"release": "6.12.1"}, {"seed": 7}, {"release": None, "seed": None}], ids=str
)
def test_a_guest_that_says_what_is_expected_is_believed(settings: dict[str, Any]) -> None:
    assert is_sound(sound(), **settings)


@pytest.mark.parametrize("release", ["6.12.0", "6.12.2", "z", "0"])
def test_any_other_release_is_not_believed(release: str) -> None:
    assert "was booted" in read(sound(), release=release).errors[0]


@pytest.mark.parametrize("change", [{"nonce": "0" * 16}, {"nonce": "f" * 16}, {"seed": 6}])
def test_a_hello_of_another_boot_is_not_believed(change: dict[str, Any]) -> None:
    assert read(Guest().hello(**change).sent, seed=7).errors


@pytest.mark.parametrize("protocol", [events.PROTOCOL - 1, events.PROTOCOL + 1])
def test_another_protocol_is_refused(protocol: int) -> None:
    assert f"protocol {protocol}," in read(Guest().hello(protocol=protocol).sent).errors[0]


@pytest.mark.parametrize("nonce", ["0" * 16, "f" * 16])
def test_an_end_of_another_boot_is_not_believed(nonce: str) -> None:
    assert "nonce" in read(first().end(nonce=nonce)).errors[0]


@pytest.mark.parametrize("results", [1, 3])
def test_an_end_counts_the_results(results: int) -> None:
    said = f"it closes after 2 of 2 planned results and reports {results}"
    assert said in read(first().end(results)).errors[0]


def test_the_results_of_a_stream_have_what_was_told() -> None:
    told = {"detail": "d", "expected": "e", "got": "g", "raw": "00"}
    guest = planned().check(0, "fail", **told).check(1).end()
    result = read(guest).results[0]
    assert (result.detail, result.expected, result.got, result.raw) == ("d", "e", "g", "00")
    assert [r.key.payload for r in read(guest).results] == ["segment"] * len(ENTRIES)


def test_a_stream_says_who_sent_it() -> None:
    stream = read(Guest().hello().capability().say("note", text="odd").plan().check(0))
    assert (stream.release, stream.version, stream.python) == ("6.12.1", "#1 SMP", "3.11.2")
    assert (stream.seed, stream.notes) == (7, ("odd",))
    (capability,) = stream.capabilities
    assert (capability.name, capability.family, capability.present) == ("mptcp", Family.IPV4, True)
