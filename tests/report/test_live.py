# SPDX-License-Identifier: GPL-2.0-only
"""Progress on a terminal. Frames are drawn by hand: no test waits for the refreshing thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import TextIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from harness.report.live import Display, Screen, live
from harness.report.terminal import ASCII, UNICODE, Glyphs
from harness.run.request import Progress, Stage
from tests.report.support import Clock, Encoded, Gone

NAMES = ["debian-5.10", "debian-6.1", "debian-newest"]
CHECKING = Progress(
    "debian-newest",
    Stage.CHECKING,
    "ipv4 mptcp_info.write_seq_counts_sent_bytes (byte/transferred/client)",
    done=17,
    planned=480,
)


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")


def frame(display: Display, width: int = 100, height: int = 24) -> list[str]:
    """``display`` as it looks on a terminal of this size."""
    buffer = StringIO()
    Console(file=buffer, width=width, height=height, color_system=None).print(display)
    return [line.rstrip() for line in buffer.getvalue().splitlines()]


class Scene:
    """A display, its clock, and what it was told."""

    def __init__(self, names: list[str] = NAMES, glyphs: Glyphs = UNICODE) -> None:
        self.clock = Clock()
        self.display = Display(names, glyphs, self.clock)

    def after(self, seconds: float, *told: Progress) -> Scene:
        self.clock.now += seconds
        for progress in told:
            self.display(progress)
        return self


def under_way() -> Scene:
    return (
        Scene()
        .after(0, Progress("debian-5.10", Stage.PREPARING, "unpacking"))
        .after(1.5, Progress("debian-5.10", Stage.BOOTING), CHECKING)
        .after(4, Progress("debian-5.10", Stage.DONE, "no MPTCP", verdict="unsupported"))
        .after(2)
    )


def test_frame_of_a_run_under_way() -> None:
    assert frame(under_way().display, 80) == [
        "debian-5.10    unsupported       5.5s  no MPTCP",
        "debian-6.1     queued",
        "debian-newest  checking          6.0s  17/480  ipv4 mptcp_info.write_seq_counts…",
    ]


def test_kernel_that_was_not_named_gets_a_line() -> None:
    scene = Scene([]).after(0, Progress("found-later", Stage.BOOTING))
    assert frame(scene.display) == ["found-later  booting           0.0s"]


def test_time_of_a_kernel_counts_from_its_first_stage_through_retries() -> None:
    scene = (
        Scene(["k"])
        .after(5, Progress("k", Stage.PREPARING))
        .after(3, Progress("k", Stage.RETRYING, "QEMU died"))
        .after(4, Progress("k", Stage.BOOTING))
    )
    assert frame(scene.display) == ["k  booting           7.0s"]


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
@pytest.mark.parametrize("width", [1, 2, 3, 10, 17, 39, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int, glyphs: Glyphs) -> None:
    scene = Scene(NAMES, glyphs).after(1, CHECKING)
    lines = frame(scene.display, width)
    assert len(lines) == len(NAMES)
    assert max(cell_len(line) for line in lines) <= width


def test_narrow_terminal_keeps_name_and_stage() -> None:
    assert frame(under_way().display, 30)[2] == "debian-ne…  checking         …"


def test_more_kernels_than_lines_shows_those_under_way() -> None:
    names = [f"k{n:02}" for n in range(30)]
    scene = Scene(names).after(0, *(Progress(n, Stage.DONE, verdict="pass") for n in names[:20]))
    scene.after(0, Progress("k25", Stage.BOOTING))
    assert frame(scene.display, height=5) == [
        "k20  queued",
        "k21  queued",
        "k25  booting           0.0s",
        "… 27 more kernels; 20 of 30 done",
    ]


def test_hostile_text_is_escaped() -> None:
    name = "\x1b[2J[red]\n"
    scene = Scene([]).after(0, Progress(name, Stage.DONE, "\u202e\r", verdict="\x9bm"))
    assert frame(scene.display) == [r"\x1b[2J[red]\n  \x9bm             0.0s  \u202e\r"]


def test_what_concerns_the_whole_run_is_taken_once() -> None:
    display = Scene().after(0, Progress("", Stage.QUEUED, "KVM \x1b does not boot")).display
    assert [text.plain for text in display.take_notices()] == [r"KVM \x1b does not boot"]
    assert display.take_notices() == []


def test_line_above_is_written_before_the_next_frame() -> None:
    scene, stream = under_way(), StringIO()
    screen = Screen(scene.display, stream)
    screen.open()
    scene.after(0, Progress("", Stage.QUEUED, "KVM does not boot, using TCG"))
    before = len(stream.getvalue())
    screen.refresh()
    written = stream.getvalue()[before:]
    assert written.index("KVM does not boot, using TCG\n") < written.index("debian-5.10")
    screen.close()


def test_being_told_writes_nothing() -> None:
    scene, stream = under_way(), StringIO()
    screen = Screen(scene.display, stream)
    screen.open()
    before = stream.getvalue()
    scene.after(1, *[CHECKING] * 100)
    assert stream.getvalue() == before
    screen.close()


def test_cursor_is_hidden_meanwhile_and_shown_at_the_end() -> None:
    stream = StringIO()
    with live(NAMES, stream, clock=Clock()):
        assert "\x1b[?25l" in stream.getvalue()
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_cursor_is_shown_again_after_an_exception() -> None:
    stream = StringIO()
    with pytest.raises(KeyboardInterrupt), live(NAMES, stream, clock=Clock()):
        raise KeyboardInterrupt
    assert "\x1b[?25h" in stream.getvalue()


def test_last_verdict_is_drawn_before_the_lines_go() -> None:
    stream = StringIO()
    with live(NAMES, stream, clock=Clock()) as listener:
        listener(Progress("debian-6.1", Stage.DONE, verdict="boot-failure"))
    assert "boot-failure" in stream.getvalue()


def test_thread_ends_with_the_display() -> None:
    with live(NAMES, StringIO(), clock=Clock()):
        assert "live display" in {thread.name for thread in threading.enumerate()}
    assert "live display" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("stream", [Gone(BrokenPipeError()), Gone(ValueError("closed file"))])
def test_closed_stdout_does_not_end_the_run(stream: TextIO) -> None:
    with live(NAMES, stream, clock=Clock()) as listener:
        listener(CHECKING)
        listener(Progress("", Stage.QUEUED, "said"))


def test_ascii_terminal_gets_ascii() -> None:
    stream = Encoded("ascii")
    with live(["ké"], stream, clock=Clock()) as listener:
        listener(Progress("ké", Stage.BOOTING, "x" * 100))
    last = stream.written().rpartition(rb"k\xe9")[2]
    assert b"..." in last


def test_threads_may_tell_while_another_draws() -> None:
    scene = Scene([])
    names = [f"kernel-{n:03}" for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        told = pool.map(lambda name: scene.display(Progress(name, Stage.BOOTING)), names)
        for _ in range(5):
            frame(scene.display, height=300)
        list(told)
    assert sorted(line.split()[0] for line in frame(scene.display, height=300)) == names
