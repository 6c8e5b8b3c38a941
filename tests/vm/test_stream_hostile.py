# SPDX-License-Identifier: GPL-2.0-only
"""What a guest may send to be believed, or to wear the host out: `lost`, soon, in little memory."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat
from pathlib import Path

import pytest

from guest import events
from harness.records import to_json
from harness.report import table
from harness.verdict import judge
from harness.verdict.results import (
    Attempt,
    BootEnd,
    Expectation,
    KernelResult,
    Stream,
    merge_capabilities,
)
from harness.verdict.verdicts import Family, KernelVerdict
from harness.vm import stream as stream_module
from harness.vm.stream import StreamReader
from harness.vm.timeline import Mark, Timeline
from tests import factories
from tests.replacing import replaced
from tests.vm.support import NONCE, Guest, sound

FAMILIES = (Family.IPV4,)
EXPECTED = {"mptcp": Expectation(True, "mainline has it since 5.6")}
#: Bytes that arrive at a time, as from a socket.
PIECE = 64 * 1024
#: Seconds of a processor; none of them needs half of that.
SOON = 10
#: Bytes: the stream's own bound, and Python's objects for it.
LITTLE = 10 * stream_module.MAX_BYTES


def read(data: bytes) -> Stream:
    reader = StreamReader(NONCE, FAMILIES)
    reader.feed(data)
    return reader.finish()


def verdict(stream: Stream) -> KernelVerdict:
    """Of a kernel whose VM powered off by itself, with nothing on its console."""
    attempt = Attempt(1, BootEnd.POWERED_OFF, kernel_spoke=True, stream=stream)
    return judge.kernel(attempt, judge.families(attempt, FAMILIES, EXPECTED))[0]


def test_the_sound_stream_passes() -> None:
    assert verdict(read(sound())) is KernelVerdict.PASS


def test_a_stream_cut_at_any_byte_is_lost() -> None:
    data = sound()
    found = {length: verdict(read(data[:length])) for length in range(1, len(data))}
    assert set(found.values()) == {KernelVerdict.LOST}


def test_a_stream_of_no_byte_is_a_guest_that_did_not_start() -> None:
    assert verdict(read(b"")) is KernelVerdict.BOOT_FAILURE


def lines() -> list[bytes]:
    return sound().splitlines(True)


def renumbered(*chosen: bytes) -> bytes:
    """The events of ``chosen`` in this order, with the numbers and times that the place asks."""
    return b"".join(
        events.encode({**json.loads(line), "n": n, "t": 10**6 + n}) for n, line in enumerate(chosen)
    )


@pytest.mark.parametrize("index", range(len(lines())))
def test_an_event_twice_is_lost(index: int) -> None:
    whole = lines()
    doubled = [*whole[: index + 1], *whole[index:]]
    assert verdict(read(b"".join(doubled))) is KernelVerdict.LOST


@pytest.mark.parametrize("index", range(len(lines())))
def test_an_event_twice_is_lost_though_its_numbers_are_right(index: int) -> None:
    whole = lines()
    assert verdict(read(renumbered(*whole))) is KernelVerdict.PASS
    assert verdict(read(renumbered(*whole[: index + 1], *whole[index:]))) is KernelVerdict.LOST


#: The capability and the plan may change places with nothing; all others have one place too.
@pytest.mark.parametrize("index", range(len(lines()) - 1))
def test_two_events_in_each_others_place_are_lost(index: int) -> None:
    swapped = lines()
    swapped[index : index + 2] = swapped[index + 1], swapped[index]
    assert verdict(read(b"".join(swapped))) is KernelVerdict.LOST
    assert verdict(read(renumbered(*swapped))) is KernelVerdict.LOST


def passing() -> Guest:
    """A guest that has said all but its closing event."""
    return Guest().hello().capability().plan().check(0).check(1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(replaced(sound(), b"client", b"cl\xffent"), id="not UTF-8"),
        pytest.param(replaced(sound(), b"client", "clïent".encode()), id="UTF-8 beyond ASCII"),
        pytest.param(sound().decode().encode("utf-16"), id="UTF-16"),
        pytest.param(b"\0" * 4096 + sound(), id="zeros"),
        pytest.param(replaced(sound(), b'"', b"'"), id="not JSON"),
        pytest.param(replaced(sound(), b"\n", b"\n[" * 50_000, 1), id="deep"),
        pytest.param(replaced(sound(), b'"taint":0', b'"taint":NaN', 1), id="not a number"),
        pytest.param(replaced(sound(), b'"taint":0', b'"taint":true', 1), id="no number"),
        pytest.param(
            replaced(sound(), b'"taint":0', b'"taint":1' + b"0" * 99, 1), id="huge number"
        ),
        pytest.param(replaced(sound(), NONCE.encode(), b"f" * 16), id="nonce"),
        pytest.param(replaced(sound(), NONCE.encode(), b""), id="no nonce"),
        pytest.param(passing().end(nonce=NONCE[:-1]).sent, id="part of the nonce"),
        pytest.param(passing().end(nonce=NONCE.upper()).sent, id="nonce in capitals"),
        pytest.param(
            passing().say("start", i=2).say("result", i=2, verdict="pass").end(results=3).sent,
            id="never planned",
        ),
        pytest.param(
            passing().say("start", i=-1).say("result", i=-1, verdict="pass").end(results=3).sent,
            id="counted from the end",
        ),
        pytest.param(
            Guest().hello().capability().plan().check(0, "fail").check(0, "pass").end().sent,
            id="a check with two verdicts, started twice",
        ),
        pytest.param(
            Guest()
            .hello()
            .capability()
            .plan()
            .check(0, "fail")
            .say("result", i=0, verdict="pass")
            .check(1)
            .end()
            .sent,
            id="a check with two verdicts, started once",
        ),
        pytest.param(
            Guest().hello().capability().plan().check(0, "lost").check(1).end().sent,
            id="a verdict that is the host's",
        ),
        pytest.param(passing().end().say("note", text="more").sent, id="beyond the end"),
        pytest.param(sound() + sound(), id="all of it twice"),
    ],
)
def test_a_stream_that_is_not_exactly_a_run_is_lost(data: bytes) -> None:
    assert verdict(read(data)) is KernelVerdict.LOST


# An unreasonable guest.


def event(number: int, kind: str, **fields: events.Value) -> bytes:
    return events.encode({"e": kind, "n": number, "t": 10**9, **fields})


def plan(number: int, entries: list[list[str]]) -> bytes:
    return event(number, "plan", family="ipv4", payload="", scenario=False, entries=entries)


def notes() -> Iterator[bytes]:
    return (event(number, "note", text="x") for number in count(2))


def capabilities() -> Iterator[bytes]:
    return (
        event(number, "capability", name=f"c{number}", family="ipv4", present=True, detail="")
        for number in count(2)
    )


def plans_of_one_check() -> Iterator[bytes]:
    """The bytes of plan(N, [[f"cN", "", ""]]), N from 2 on."""
    before, between, after = plan(7, [["c7", "", ""]]).split(b"7")
    assert before.endswith(b'"n":')
    assert between.endswith(b'"c')
    return (before + b"%d" % n + between + b"%d" % n + after for n in count(2))


def plans_of_nothing() -> Iterator[bytes]:
    """As many checks as may be planned, and then no more of them, again and again."""
    most = stream_module.MAX_RESULTS // 1000
    full = (plan(2 + i, [[f"c{i}.{j}", "", ""] for j in range(1000)]) for i in range(most))
    return chain(full, (plan(number, []) for number in count(2 + most)))


def checks_never_planned() -> Iterator[bytes]:
    return (event(number, "start", i=number) for number in count(2))


def results_of_one_check() -> Iterator[bytes]:
    begun = [plan(2, [["c", "", ""]]), event(3, "start", i=0)]
    return chain(begun, (event(number, "result", i=0, verdict="pass") for number in count(4)))


def long_details() -> Iterator[bytes]:
    """As many results as can be, each as long as a line may be."""
    begun = [plan(2, [[f"c{i}", "", ""] for i in range(1000)])]
    told = (
        event(3 + 2 * i, "start", i=i)
        + event(4 + 2 * i, "result", i=i, verdict="fail", detail="x" * (events.MAX_LINE - 200))
        for i in range(1000)
    )
    return chain(begun, told)


def empty_lines() -> Iterator[bytes]:
    return repeat(b"\n")


def one_line() -> Iterator[bytes]:
    return chain([b'{"e":"note","n":2,"t":0,"text":"'], repeat(b"x" * 4096))


def one_deep_line() -> Iterator[bytes]:
    return chain([b'{"e":'], repeat(b"[" * 4096))


def one_long_number() -> Iterator[bytes]:
    return chain([b'{"e":'], repeat(b"9" * 4096))


def send(parts: Iterator[bytes], most: int) -> Stream:
    """What is made of the start of a run and ``parts``, up to ``most`` bytes or the last event."""
    reader = StreamReader(NONCE, FAMILIES)
    reader.feed(Guest().hello().capability().sent)
    waiting = bytearray()
    sent = 0
    for part in parts:
        waiting += part
        if len(waiting) >= PIECE:
            reader.feed(bytes(waiting))
            sent += len(waiting)
            waiting.clear()
            if reader.broken or sent >= most:  # once broken, a boot feeds it no more
                break
    reader.feed(bytes(waiting))
    return reader.finish()


def peak_memory() -> int:
    """The most bytes that this process held since it was last asked (proc_pid_clear_refs(5))."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    Path("/proc/self/clear_refs").write_text("5")
    return int(line) << 10


@pytest.mark.parametrize(
    "parts",
    [
        notes,
        capabilities,
        plans_of_one_check,
        plans_of_nothing,
        checks_never_planned,
        results_of_one_check,
        long_details,
        empty_lines,
        one_line,
        one_deep_line,
        one_long_number,
    ],
)
def test_a_million_events_or_100_mb_are_lost_soon_and_in_little_memory(
    parts: Callable[[], Iterator[bytes]],
) -> None:
    peak_memory()
    before = peak_memory()
    started = time.process_time()
    stream = send(parts(), 100 << 20)
    assert verdict(stream) is KernelVerdict.LOST
    assert time.process_time() - started < SOON
    assert peak_memory() - before < LITTLE


def test_times_that_no_clock_shows_do_not_stop_the_harness() -> None:
    data = sound()
    last = json.loads(lines()[-1])
    spoiled = replaced(data, lines()[-1], events.encode({**last, "t": 10**400}))
    stream = read(spoiled)
    timeline = Timeline()
    timeline.reach(Mark.PROBES)
    assert timeline.phases(stream.times_ms, time.monotonic())
    assert verdict(stream) is KernelVerdict.LOST


def test_the_latest_time_that_is_believed_divides_a_boot_into_phases() -> None:
    last = json.loads(lines()[-1])
    stream = read(b"".join(lines()[:-1]) + events.encode({**last, "t": (1 << 63) - 1}))
    timeline = Timeline()
    timeline.reach(Mark.PROBES)
    ended = time.monotonic()
    assert all(0 <= phase.seconds < SOON for phase in timeline.phases(stream.times_ms, ended))


EVIL = "\x1b]0;owned\x07<script>alert(1)</script>\r\n\u202e\ud800\x00"


def test_text_of_a_guest_is_shown_and_not_obeyed() -> None:
    """From its bytes to the screen and to the record, by the way that every result goes."""
    guest = Guest().hello(version=EVIL, python=EVIL).say("note", text=EVIL)
    guest.say("capability", name=EVIL, family="ipv4", present=True, detail=EVIL)
    guest.capability().plan([[EVIL, EVIL, EVIL]])
    guest.check(0, "fail", detail=EVIL, expected=EVIL, got=EVIL, raw=EVIL).end(results=1)
    stream = read(guest.sent)
    attempt = Attempt(1, BootEnd.POWERED_OFF, kernel_spoke=True, stream=stream)
    judged = judge.families(attempt, FAMILIES, EXPECTED)
    verdict, reason = judge.kernel(attempt, judged)
    kernel = KernelResult(
        name="k",
        verdict=verdict,
        reason=reason,
        version=stream.version,
        capabilities=merge_capabilities(stream.capabilities),
        families=judged,
        attempts=(attempt,),
        notes=stream.notes,
    )
    shown = table.render(factories.run(kernel), width=100, colour=False, unicode=True)
    kept = to_json.kernel_text(kernel)
    assert verdict is KernelVerdict.FAIL
    for text in (shown, kept):
        assert not {"\x1b", "\x07", "\r", "\u202e", "\ud800", "\0"} & set(text)
    assert "owned" in shown
