# SPDX-License-Identifier: GPL-2.0-only
"""The event stream is untrusted: what is not exactly a run is never taken for one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import events
from harness.verdict.results import CheckKey, Stream
from harness.verdict.verdicts import CheckVerdict, Family
from harness.vm import stream as stream_module
from harness.vm.stream import StreamReader
from tests.vm.support import ENTRIES, NONCE, Guest, sound

PASSED = [CheckVerdict.PASS, CheckVerdict.PASS]


def read(data: bytes, families: tuple[Family, ...] = (Family.IPV4,)) -> Stream:
    reader = StreamReader(NONCE, families)
    reader.feed(data)
    return reader.finish()


def is_complete(stream: Stream) -> bool:
    verdicts = [result.verdict for result in stream.results]
    return stream.closed and not stream.errors and verdicts == PASSED


def test_a_sound_stream_is_read_whole() -> None:
    stream = read(sound())
    assert is_complete(stream)
    assert stream.release == "6.12.1"
    assert stream.seed == 7


@given(st.integers(1, 400))
def test_pieces_of_any_size_make_the_same_stream(size: int) -> None:
    reader = StreamReader(NONCE, (Family.IPV4,))
    data = sound()
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size])
    assert is_complete(reader.finish())


def test_a_stream_cut_at_any_byte_is_not_complete() -> None:
    data = sound()
    for length in range(len(data)):
        assert not is_complete(read(data[:length])), length


def test_every_planned_check_that_said_nothing_is_lost() -> None:
    stream = read(Guest().hello().capability().plan().sent)
    assert [r.verdict for r in stream.results] == [CheckVerdict.LOST, CheckVerdict.LOST]


def test_a_check_that_started_and_did_not_report_is_lost() -> None:
    guest = Guest().hello().capability().plan().check(0).say("start", i=1)
    verdicts = [result.verdict for result in read(guest.sent).results]
    assert verdicts == [CheckVerdict.PASS, CheckVerdict.LOST]


@given(st.data())
def test_a_line_left_out_doubled_or_moved_breaks_the_stream(data: st.DataObject) -> None:
    lines = sound().splitlines(True)
    index = data.draw(st.integers(0, len(lines) - 1))
    other = data.draw(st.integers(0, len(lines) - 1).filter(lambda i: i != index))
    changed = {
        "left out": lines[:index] + lines[index + 1 :],
        "doubled": lines[: index + 1] + lines[index:],
        "moved": [line for i, line in enumerate(lines) if i != index],
    }
    changed["moved"].insert(other, lines[index])
    for how, spoiled in changed.items():
        assert not is_complete(read(b"".join(spoiled))), how


@given(st.binary(min_size=1, max_size=40), st.data())
def test_bytes_that_do_not_belong_break_the_stream(junk: bytes, data: st.DataObject) -> None:
    whole = sound()
    at = data.draw(st.integers(0, len(whole)))
    spoiled = whole[:at] + junk + whole[at:]
    stream = read(spoiled)
    if is_complete(stream):  # only white space where JSON allows it, or a digit into a number
        assert [json.loads(x)["e"] for x in spoiled.split(b"\n") if x] == [
            json.loads(x)["e"] for x in whole.split(b"\n") if x
        ]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (Guest().capability().sent, "hello must come first"),
        (Guest().hello(nonce="f" * 16).sent, "nonce"),
        (Guest().hello(protocol=99).sent, "protocol 99"),
        (Guest().hello().hello().sent, "hello must come first, and once"),
        (Guest().hello().capability().capability().sent, "twice"),
        (Guest().hello().plan().capability().sent, "after the plan"),
        (Guest().hello().plan().plan().sent, "planned twice"),
        (Guest().hello().plan().check(0).plan([]).sent, "after the first check"),
        (Guest().hello().plan().check(1).sent, "out of order"),
        (Guest().hello().plan().check(0).check(0).sent, "out of order"),
        (Guest().hello().plan().check(0).check(1).check(2).sent, "never planned"),
        (Guest().hello().plan().say("start", i=0).say("start", i=1).sent, "out of order"),
        (Guest().hello().plan().say("start", i=0).say("start", i=0).sent, "is already running"),
        (Guest().hello().plan().say("start", i=-1).sent, "out of order"),
        (Guest().hello().plan().say("alive").sent, "no check is running"),
        (Guest().hello().plan().check(0).say("alive").sent, "no check is running"),
        (Guest().hello().plan().say("start", i=0).end().sent, "closes after 0 of 2"),
        (Guest().hello().plan().check(0).end().sent, "closes after 1 of 2"),
        (Guest().hello().plan().check(0).check(1).end(nonce="0" * 16).sent, "nonce"),
        (Guest().hello().plan().check(0).check(1).end(results=3).sent, "reports 3"),
        (sound() + b"\n", "not JSON"),
        (sound() + Guest().hello().sent, "numbered 0"),
        (
            Guest().hello().say("plan", family="ipx", payload="", scenario=False, entries=[]).sent,
            "unknown family",
        ),
        (Guest().hello().end(results=0).sent, "did not report whether ipv4 has MPTCP"),
        (Guest().hello().capability().end(results=0).sent, "planned no check"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_violation_is_named(data: bytes, complaint: str) -> None:
    stream = read(data)
    assert stream.errors
    assert complaint in stream.errors[0]
    assert not is_complete(stream)


def test_another_kernel_than_was_booted_is_not_believed() -> None:
    reader = StreamReader(NONCE, (Family.IPV4,), release="7.3.4")
    reader.feed(sound())
    assert "'7.3.4' was booted" in reader.finish().errors[0]


def test_another_seed_than_was_asked_for_is_not_believed() -> None:
    reader = StreamReader(NONCE, (Family.IPV4,), seed=8)
    reader.feed(sound())
    assert "8 was asked for" in reader.finish().errors[0]


def test_a_result_that_nobody_started_is_refused() -> None:
    guest = Guest().hello().plan()
    guest.say("result", i=0, verdict=events.PASS).say("note", text="")
    assert "does not run" in read(guest.sent).errors[0]


def test_a_second_verdict_cannot_replace_the_first() -> None:
    guest = Guest().hello().capability().plan().check(0, events.FAIL)
    guest.say("result", i=0, verdict=events.PASS).say("start", i=1)
    assert read(guest.sent).results[0].verdict is CheckVerdict.FAIL


def test_time_does_not_go_backwards() -> None:
    lines = sound().splitlines(True)
    late = json.loads(lines[0])
    late["t"] += 10**6
    assert "backwards" in read(json.dumps(late).encode() + b"\n" + lines[1]).errors[0]


def test_a_family_without_ipv6_needs_no_mptcp_answer() -> None:
    guest = Guest().hello().capability("ipv6", present=False, family="ipv6").end(results=0)
    assert read(guest.sent, (Family.IPV6,)).errors == ()


def test_a_family_without_mptcp_over_ipv6_needs_no_mptcp_answer() -> None:
    guest = Guest().hello().capability("mptcp_ipv6", present=False, family="ipv6").end(results=0)
    assert read(guest.sent, (Family.IPV6,)).errors == ()
    other = Guest().hello().capability("mptcp_ipv6", present=False, family="ipv4").end(results=0)
    assert read(other.sent, (Family.IPV4,)).errors


def test_a_flood_is_cut_off() -> None:
    reader = StreamReader(NONCE, (Family.IPV4,))
    reader.feed(Guest().hello().sent)
    for _ in range(stream_module.MAX_BYTES // (1 << 20) + 1):
        reader.feed(b" " * (1 << 20))
    assert reader.overflowed
    assert reader.finish().errors


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    reader = StreamReader(NONCE, (Family.IPV4,))
    reader.feed(b"x" * (events.MAX_LINE + 1))
    assert reader.broken


def test_a_million_planned_checks_are_refused() -> None:
    guest = Guest().hello()
    for i in range(60):
        guest.plan([[f"check.{i}.{j}", "established", "client"] for j in range(1000)])
    stream = read(guest.sent)
    assert "results planned" in stream.errors[0]
    assert len(stream.results) <= stream_module.MAX_RESULTS


def test_new_taint_is_what_came_during_the_checks() -> None:
    guest = Guest().hello(taint=1).capability().plan().check(0).check(1).end(taint=1 | 512)
    assert read(guest.sent).new_taint == 512


def test_entries_of_the_fixture_are_as_many_as_results() -> None:
    assert len(ENTRIES) == len(PASSED)


def _keys(payload: str) -> list[CheckKey]:
    """The keys of the results of a boot of its own."""
    guest = Guest().hello().capability().plan(payload=payload).check(0).check(1).end()
    reader = StreamReader(NONCE, (Family.IPV4,), "6.12.1", 7)
    reader.feed(guest.sent)
    return [result.key for result in reader.finish().results]


def test_all_boots_share_the_results_that_passed() -> None:
    """Sixty kernels with all checks have 150,000, which a run keeps until its end."""
    first, second = _keys("segment"), _keys("segment")
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, True]


def test_what_a_hostile_guest_makes_up_is_not_kept_beyond_its_boot() -> None:
    first, second = _keys("x" * 300), _keys("x" * 300)
    assert first == second
    assert [a is b for a, b in zip(first, second, strict=True)] == [False, False]
