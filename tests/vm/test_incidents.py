# SPDX-License-Identifier: GPL-2.0-only
"""Incidents on recorded consoles, and on the same consoles spoiled in every way they can be."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable
from itertools import cycle, product, zip_longest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.verdict.results import MAX_INCIDENTS, Incident
from harness.verdict.results import IncidentKind as K
from harness.vm.incidents import (
    MAX_EXCERPT,
    MAX_EXCERPT_LINES,
    is_environment_panic,
    kernel_spoke,
    scan,
)
from tests.replacing import replaced, substituted
from tests.vm.consoles import CLEAN, CONSOLES, EXPECTED, FAULTY
from tests.vm.messages import HARMLESS, PROGRAM, REPORTS

#: A console each on which one message alone tells of the event, for the costlier tests.
SMALL = [name for name in FAULTY if len(CONSOLES[name]) < 11_000]
STAMP = rb"(\[ *\d+\.\d{6}\]) "


def told(incidents: tuple[Incident, ...]) -> list[tuple[K, str, str]]:
    return [(one.kind, one.title, one.fingerprint) for one in incidents]


def without_stamps(console: bytes) -> bytes:
    return substituted(rb"(?m)^" + STAMP, b"", console)


def with_callers(console: bytes, caller: bytes) -> bytes:
    return substituted(STAMP, rb"\1[%6s] " % caller, console)


def test_a_recorded_fault_is_recognised() -> None:
    assert {name: told(scan(CONSOLES[name])) for name in FAULTY} == EXPECTED


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_boot_has_no_incident(name: str) -> None:
    assert scan(CONSOLES[name]) == ()


def test_the_kernels_banner_is_seen() -> None:
    assert [name for name, console in CONSOLES.items() if not kernel_spoke(console)] == []


@pytest.mark.parametrize(
    "console", [b"", b"qemu-system-x86_64: could not open disk", b"\x1bc\x1b[2JSeaBIOS\r\n\r\n"]
)
def test_without_a_banner_the_kernel_has_not_spoken(console: bytes) -> None:
    assert not kernel_spoke(console)


@pytest.mark.parametrize("stamped", [True, False])
def test_a_report_in_the_words_of_the_kernel_is_recognised(stamped: bool) -> None:
    for name, (text, *expected) in REPORTS.items():
        lines = ["Linux version 6.6.1", *text.splitlines(), "reboot: Power down"]
        console = "".join(f"[    1.{n:06}] {line}\r\n" if stamped else f"{line}\r\n"
                          for n, line in enumerate(lines))  # fmt: skip
        assert told(scan(console.encode())) == [tuple(expected)], name


@pytest.mark.parametrize("prefix", ["", "[    1.234567] ", "<4>[    1.234567][  T123] "])
def test_what_is_said_on_a_good_boot_is_no_incident(prefix: str) -> None:
    for line in HARMLESS.splitlines():
        assert scan(f"{prefix}Linux version 6.6.1\n{prefix}{line}\n".encode()) == (), line


def test_a_program_that_sounds_like_a_kernel_is_no_incident() -> None:
    for line in PROGRAM.splitlines():
        assert scan(CONSOLES["clean-6.1"] + f"{line}\r\n".encode()) == (), line


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda c: replaced(c, b"\r\n", b"\n"), id="LF"),
        pytest.param(lambda c: replaced(c, b"\r\n", b"\r\r\n"), id="CRCRLF"),
        pytest.param(without_stamps, id="no timestamps"),
        pytest.param(lambda c: with_callers(c, b"T124"), id="task callers"),
        pytest.param(lambda c: with_callers(c, b"C0"), id="CPU callers"),
        pytest.param(lambda c: substituted(rb"(?m)^\[", b"<4>[", c), id="levels"),
        pytest.param(lambda c: b"<4>".join(without_stamps(c).splitlines(True)), id="levels only"),
        pytest.param(lambda c: replaced(c, b"] ", b"]\x1b[0;1m \x1b[m"), id="colours"),
        pytest.param(lambda c: replaced(c, b"e", b"\x00e\xff"), id="NUL and invalid UTF-8"),
        pytest.param(lambda c: b"\x1bc\x1b[?7l\x1b[2J" + c, id="firmware's escapes"),
        pytest.param(lambda c: substituted(rb"(?m)^\[", b"ok: true [", c), id="output before"),
    ],
)
def test_the_shape_of_the_console_hides_and_adds_nothing(spoil: Callable[[bytes], bytes]) -> None:
    for name, console in CONSOLES.items():
        assert told(scan(spoil(console))) == EXPECTED.get(name, []), name


ESCAPES = [b"\x1b[0m", b"\x1b[1;31m", b"\x1b[2K", b"\x1b]0;title\x07", b"\x1b(B"]
NOISE = st.sampled_from([*ESCAPES, b"\0", b"\x07", b"\xff", b"\xc3\xa9", b"\xf0\x9f", b"\x80\x80"])


@settings(deadline=None)
@given(
    name=st.sampled_from(list(CONSOLES)),
    noise=st.lists(st.tuples(st.floats(0, 1), NOISE), min_size=1, max_size=40),
)
def test_bytes_that_are_not_text_change_nothing_wherever_they_stand(
    name: str, noise: list[tuple[float, bytes]]
) -> None:
    console = CONSOLES[name]
    # From the end on, so that none of it falls into another, which would spoil the escapes.
    for place, junk in sorted(noise, reverse=True):
        at = _outside_escapes(console, int(place * len(CONSOLES[name])))
        console = console[:at] + junk + console[at:]
    assert told(scan(console)) == EXPECTED.get(name, [])


_ESCAPE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|.)")


def _outside_escapes(console: bytes, at: int) -> int:
    """``at``, or the end of the console's own escape sequence that it lies in."""
    start = console.rfind(b"\x1b", max(0, at - 32), at)
    escape = _ESCAPE.match(console, start) if start >= 0 else None
    return max(at, escape.end()) if escape else at


def every_other(name: str, count: int) -> range:
    """The even places of ``count``, or the odd ones: the consoles of two kernels share a report."""
    return range(SMALL.index(name) % 2, count, 2)


@pytest.mark.parametrize("name", SMALL)
def test_a_headline_cut_in_two_by_a_program_is_still_found(name: str) -> None:
    (kind, *_), *_ = EXPECTED[name]
    before, headline, after = parts(name)
    others = cycle([b"hello world\r\n", b"\r\nprogress 12%\r\n", b"ok"])
    for at, other in zip(every_other(name, len(headline.rstrip())), others, strict=False):
        incidents = scan(before + headline[:at] + other + headline[at:] + after)
        assert incidents, headline[:at]
        assert any(one.kind.is_crash for one in incidents) or not kind.is_crash


@functools.cache
def parts(name: str) -> tuple[bytes, bytes, bytes]:
    """A console at the line that gave its first incident its kind: what is before, it, and after.

    Of what is before, the last lines and the banner: all of a boot would be read each time.
    """
    lines = CONSOLES[name].splitlines(keepends=True)
    at = bisect.bisect_left(
        range(len(lines)), True, key=lambda n: bool(scan(b"".join(lines[: n + 1])))
    )
    assert not scan(b"".join(lines[:at]))
    banner = next(line for line in lines if b"Linux version " in line)
    return b"".join([banner, *lines[at - 3 : at]]), lines[at], b"".join(lines[at + 1 :])


@pytest.mark.parametrize("name", SMALL)
def test_a_console_that_ends_early_still_shows_what_it_had(name: str) -> None:
    before, headline, after = parts(name)
    lines = after.splitlines(keepends=True)
    for end in every_other(name, len(lines)):
        assert scan(b"".join([before, headline, *lines[:end]])), lines[end - 1]


@pytest.mark.parametrize(
    ("one", "two"),
    [("warn-6.1", "null-dereference-7.3"), ("bug-6.1", "warn-7.3"), ("refcount-6.1", "warn-6.1")],
)
def test_reports_of_two_cpus_line_by_line_are_told_apart_by_their_callers(
    one: str, two: str
) -> None:
    first, second = (
        with_callers(CONSOLES[name], caller).splitlines(keepends=True)
        for name, caller in ((one, b"T124"), (two, b"C1"))
    )
    pairs = zip_longest(reversed(first), reversed(second), fillvalue=b"")
    console = b"".join(reversed([a + b for a, b in pairs]))
    assert sorted(told(scan(console))) == sorted(EXPECTED[one] + EXPECTED[two])


def test_an_incident_belongs_to_the_check_that_was_running() -> None:
    console = CONSOLES["warn-6.1"]
    at = console.index(b"------------[ cut here ]")
    start = console.rindex(b"\n", 0, at) + 1
    running = [(0, "first"), (start, "second"), (len(console), "third")]
    assert [one.check for one in scan(console, running)] == ["second"]


def test_an_incident_before_the_first_check_belongs_to_none() -> None:
    console = CONSOLES["missing-root-7.3"]
    assert scan(console, [(len(console), "first")])[0].check is None


def test_a_check_that_starts_within_a_line_is_not_charged_with_it() -> None:
    console = CONSOLES["panic-7.3"]
    at = console.index(b"not syncing")
    assert scan(console, [(0, "first"), (at, "second")])[0].check == "first"


def test_escapes_before_an_incident_do_not_shift_it_into_another_check() -> None:
    console = b"\x1b[2J\x00\xff" * 1000 + CONSOLES["panic-7.3"]
    start = console.index(b"Kernel panic")
    assert scan(console, [(0, "first"), (start - 15, "second")])[0].check == "second"


def test_an_excerpt_shows_the_report_in_bounds_and_without_escapes() -> None:
    for name in FAULTY:
        for one in scan(replaced(CONSOLES[name], b"] ", b"]\x1b[31m ")):
            assert len(one.excerpt) <= MAX_EXCERPT, name
            assert len(one.excerpt.splitlines()) <= MAX_EXCERPT_LINES, name
            assert one.excerpt.replace("\n", "").replace("\t", "").isprintable(), name
            assert one.title.isprintable(), name


def test_the_excerpt_of_a_warning_holds_its_whole_trace() -> None:
    (incident,) = scan(CONSOLES["warn-6.1"])
    assert "mptcp test: level 77 of warn" in incident.excerpt
    assert incident.excerpt.endswith("---[ end trace 0000000000000000 ]---")


def test_the_excerpt_ends_with_the_panic_that_followed() -> None:
    (incident,) = scan(CONSOLES["oops-then-panic-6.1"])
    assert incident.excerpt.endswith("Kernel panic - not syncing: Fatal exception")


def test_the_same_bug_has_the_same_fingerprint_on_another_kernel() -> None:
    old, new = (scan(CONSOLES[f"general-protection-{v}"])[0] for v in ("6.1", "7.3"))
    assert old.fingerprint == new.fingerprint


@pytest.mark.parametrize("suffix", ["isra.0", "constprop.0", "part.3", "cold", "llvm.123"])
def test_a_compilers_suffix_does_not_change_the_fingerprint(suffix: str) -> None:
    console = replaced(
        CONSOLES["warn-6.1"], b"t_warn.isra.0+0x1e", b"t_warn.%s+0x77" % suffix.encode()
    )
    assert told(scan(console)) == EXPECTED["warn-6.1"]


def test_a_fault_that_repeats_is_one_incident() -> None:
    assert told(scan(CONSOLES["bug-6.1"] * 20)) == EXPECTED["bug-6.1"]


def test_a_panic_is_not_lost_behind_a_flood_of_warnings() -> None:
    flood = CONSOLES["warn-6.1"] * 200 + CONSOLES["panic-7.3"]
    assert told(scan(flood)) == EXPECTED["warn-6.1"] + EXPECTED["panic-7.3"]


def test_of_too_many_incidents_the_crash_is_kept() -> None:
    report = CONSOLES["warn-6.1"][CONSOLES["warn-6.1"].index(b"--[ cut") - 30 :]
    flood = b"".join(replaced(report, b"t_warn", b"t_" + b"x" * n) for n in range(1, 60))
    incidents = scan(flood + CONSOLES["panic-7.3"])
    assert len(incidents) == MAX_INCIDENTS
    assert incidents[-1].kind is K.PANIC


def test_a_panic_is_found_behind_any_number_of_made_up_reports() -> None:
    words = map("".join, product("ghijklmnop", repeat=3))
    flood = "".join(f"[    1.000000] BUG: {word}\n" for word in words)
    incidents = scan(flood.encode() + CONSOLES["panic-7.3"])
    assert len(incidents) <= MAX_INCIDENTS
    assert any(one.title == "Kernel panic: mptcp test: cannot go on, level 77" for one in incidents)


@pytest.mark.parametrize("junk", [b"BUG: ", b"z", b"[    ", b"\x1b[", b"\x1b]", b"[    1.000000] "])
def test_a_line_without_an_end_hides_nothing_behind_it(junk: bytes) -> None:
    console = junk * 100_000 + b"\n" + CONSOLES["panic-7.3"]
    assert told(scan(console))[-1] == EXPECTED["panic-7.3"][0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing-root-6.1", True),
        ("missing-root-7.3", True),
        ("missing-init-6.1", True),
        ("missing-init-7.3", True),
        ("init-exits-6.1", True),
        ("panic-7.3", False),
        ("sysrq-crash-5.10", False),
        ("hung-task-then-panic-6.1", False),
        ("warn-6.1", False),
    ],
)
def test_a_panic_for_want_of_something_to_boot_is_told_from_the_kernels_own(
    name: str, expected: bool
) -> None:
    assert is_environment_panic(scan(CONSOLES[name])[0]) is expected


def test_an_init_killed_by_a_signal_may_be_the_kernels_fault() -> None:
    console = replaced(CONSOLES["init-exits-6.1"], b"exitcode=0x00000100", b"exitcode=0x0000000b")
    assert not is_environment_panic(scan(console)[0])


@given(st.binary(max_size=2000))
def test_any_bytes_can_be_scanned(console: bytes) -> None:
    scan(console)


LINES = sorted({line for text, *_ in REPORTS.values() for line in text.splitlines()})
PIECES = [
    *LINES,
    *(line[: len(line) // 2] for line in LINES),
    *(line[len(line) // 2 :] for line in LINES),
]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "[    1.234567] "]), st.sampled_from(PIECES))))
def test_any_mixture_of_the_kernels_messages_can_be_scanned(lines: list[tuple[str, str]]) -> None:
    for incident in scan("\n".join(map("".join, lines)).encode()):
        assert incident.title
        assert incident.fingerprint.startswith(tuple(K))
