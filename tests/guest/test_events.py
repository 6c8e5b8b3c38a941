# SPDX-License-Identifier: GPL-2.0-only
"""The vocabulary: what the guest writes, the host reads, and nothing else."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import events

TEXT = st.text(st.characters(codec=None))
VALUES = st.recursive(
    TEXT | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=5), max_leaves=20
)


NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_encode_writes_what_json_reads(fields: dict[str, events.Value]) -> None:
    line = events.encode(fields)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line.decode("ascii")) == fields


def note(**changes: object) -> bytes:
    return json.dumps({"e": "note", "n": 0, "t": 1, "text": "x", **changes}).encode() + b"\n"


def test_parse_returns_the_fields_of_the_kind() -> None:
    assert events.parse(note()) == {"e": "note", "n": 0, "t": 1, "text": "x"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "not JSON"),
        (b"\xff\n", "not JSON in ASCII"),
        (b"[]\n", "not an object"),
        (b"{}\n", "unknown kind of event None"),
        (b'{"e": ["note"]}\n', "unknown kind"),
        (note(e="Note"), "unknown kind of event 'Note'"),
        (note(extra=1), "unknown field 'extra'"),
        (note(text=1), "not of type str"),
        (note(n=True), "'n' is not of type int"),
        (note(n=0.0), "'n' is not of type int"),
        (b'{"e":"note","n":0,"t":1}\n', "'text' is missing"),
        (b'{"e":"note","n":0,"t":1,"text":"x","text":"y"}\n', "a key stands twice"),
        (b'{"e":"note","n":0,"t":1,"text":"x"', "not JSON"),
        (b'{"e":"note","n":NaN,"t":1,"text":"x"}\n', "'n' is not of type int"),
        (b"[" * (events.MAX_LINE + 1), "bytes"),
        (b"[" * 60_000, "not JSON"),
        (b'{"e":"result","n":0,"t":1,"i":0,"verdict":"gone"}\n', "unknown verdict 'gone'"),
        (
            b'{"e":"plan","n":0,"t":1,"family":"ipv4","payload":"x","scenario":true,'
            b'"entries":[["a","b"]]}\n',
            "not [check, phase, side]",
        ),
    ],
)
def test_parse_refuses_what_is_no_event(line: bytes, complaint: str) -> None:
    with pytest.raises(events.Malformed, match=re.escape(complaint)):
        events.parse(line)


@given(st.binary(max_size=200))
def test_parse_of_any_bytes_raises_nothing_else(line: bytes) -> None:
    with pytest.raises(events.Malformed):
        events.parse(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"e":"start","n":0,"t":12,"i":999999999999999999}',
        b'{"e":"result","n":7,"t":0,"i":3,"verdict":"pass"}\n',
        # What looks like one of the usual lines, and is JSON in another form.
        b'{"e":"start", "n":1,"t":2,"i":3}',
        b'{"e":"start","n":1,"t":2,"i":9223372036854775807}',
        b'{"e":"result","n":-1,"t":-0,"i":3,"verdict":"pass"}',
        b'{"e":"result","n":1,"t":2,"i":3,"verdict":"fail"}',
    ],
)
def test_the_usual_lines_are_parsed_to_what_json_reads(line: bytes) -> None:
    assert list(events.parse(line).items()) == list(json.loads(line).items())


@pytest.mark.parametrize(
    "line",
    [
        b'{"e":"start","n":1,"t":2,"i":3,"verdict":"pass"}',
        b'{"e":"result","n":1,"t":2,"i":3}',
        b'{"e":"start","n":01,"t":2,"i":3}',
        b'{"e":"start","n":1,"t":2,"i":9223372036854775808}',
        b'{"e":"start","n":1,"n":1,"i":3}',
        b'{"e":"start","n":1,"t":2,"i":3}\n{}',
        '{"e":"start","n":1,"t":2,"i":\u0663}'.encode(),
    ],
)
def test_what_resembles_a_usual_line_is_refused(line: bytes) -> None:
    with pytest.raises(events.Malformed):
        events.parse(line)


def test_a_result_waits_for_the_event_behind_it() -> None:
    written: list[bytes] = []
    emitter = events.Emitter(written.append)
    emitter.emit("start", i=0)
    emitter.emit("result", i=0, verdict=events.PASS)
    assert len(written) == 1
    emitter.emit("start", i=1)
    assert [events.parse(line)["e"] for line in written[1].splitlines(True)] == ["result", "start"]


def test_long_text_is_cut_and_said() -> None:
    written: list[bytes] = []
    events.Emitter(written.append).emit("note", text="x" * 100_000)
    event = events.parse(written[0])
    assert len(event["text"]) < 5000
    assert event["text"].endswith("(100000 characters in all)")


def test_the_longest_result_is_taken_at_once() -> None:
    written: list[bytes] = []
    long = "\N{GRINNING FACE}" * 100_000
    emitter = events.Emitter(written.append)
    emitter.emit(
        "result", i=0, verdict="fail", detail=long, expected=long, got=long, raw="a" * 9999
    )
    emitter.emit("note", text="")
    assert all(len(piece) <= events.ATOMIC for piece in written)
    event = events.parse(written[0].splitlines(True)[0])
    assert "(100000 characters in all)" in event["got"]


def test_what_waited_is_written_in_whole_lines_that_the_port_takes_at_once() -> None:
    written: list[bytes] = []
    emitter = events.Emitter(written.append)
    emitter.hold(True)
    for index in range(100):
        emitter.emit("result", i=index, verdict=events.FAIL, detail="x" * events.MAX_TEXT)
    assert not written
    emitter.hold(False)
    assert len(written) > 1
    assert all(len(piece) <= events.ATOMIC and piece.endswith(b"\n") for piece in written)
    numbers = [events.parse(line)["i"] for line in b"".join(written).splitlines(True)]
    assert numbers == list(range(100))


def test_a_plan_longer_than_the_port_takes_is_one_line() -> None:
    written: list[bytes] = []
    entries = [["x" * 100, "run", "both"] for _ in range(events.MAX_ENTRIES)]
    emitter = events.Emitter(written.append)
    emitter.emit("plan", family="ipv4", payload="x", scenario=True, entries=entries)
    assert events.parse(b"".join(written))["entries"] == entries
