# SPDX-License-Identifier: GPL-2.0-only
"""Progress without a terminal."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from io import StringIO

import pytest

from harness.report.plain import PlainProgress, plain
from harness.run.request import Progress, Stage
from tests.report.support import Clock, Encoded, Gone


def lines_of(*progress: Progress) -> list[str]:
    """What is printed of ``progress``, each a second after the one before, the first line aside."""
    clock, stream = Clock(), StringIO()
    with plain(["debian-6.1"], stream, clock=clock) as listener:
        for item in progress:
            clock.now += 1
            listener(item)
    return stream.getvalue().splitlines()[1:]


def test_run_opens_with_its_kernels() -> None:
    stream = StringIO()
    with plain(["debian-6.1", "patched"], stream, clock=Clock()):
        pass
    assert stream.getvalue() == "[  0.0s] 2 kernels: debian-6.1, patched\n"


def test_life_of_a_kernel() -> None:
    kernel = "debian-6.1"
    assert lines_of(
        Progress(kernel, Stage.QUEUED),
        Progress(kernel, Stage.PREPARING, "linux-image-amd64 of bookworm"),
        Progress(kernel, Stage.WAITING),
        Progress(kernel, Stage.BOOTING),
        Progress(kernel, Stage.CHECKING, "capability.mptcp", planned=480),
        Progress(kernel, Stage.CHECKING, "mptcp_info.readable", done=1, planned=480),
        Progress(kernel, Stage.DONE, "all checks passed", verdict="pass"),
    ) == [
        "[  2.0s] debian-6.1: preparing: linux-image-amd64 of bookworm",
        "[  3.0s] debian-6.1: waiting",
        "[  4.0s] debian-6.1: booting",
        "[  5.0s] debian-6.1: checking, 480 results planned",
        "[  7.0s] debian-6.1: pass: all checks passed",
    ]


def test_each_retry_is_said_with_its_reason() -> None:
    assert lines_of(
        Progress("k", Stage.RETRYING, "QEMU died"),
        Progress("k", Stage.RETRYING, "QEMU died again"),
    ) == ["[  1.0s] k: retrying: QEMU died", "[  2.0s] k: retrying: QEMU died again"]


def test_boots_that_confirm_are_said() -> None:
    said = "boot 1 of 3 more, for fail: payload.arrives"
    assert lines_of(Progress("k", Stage.CONFIRMING, said)) == [f"[  1.0s] k: confirming: {said}"]


def test_stage_that_comes_again_is_said_again() -> None:
    again = [
        Progress("k", Stage.BOOTING),
        Progress("k", Stage.RETRYING, "QEMU died"),
        Progress("k", Stage.BOOTING),
    ]
    assert [line[9:] for line in lines_of(*again)] == [
        "k: booting",
        "k: retrying: QEMU died",
        "k: booting",
    ]


def test_kernels_are_followed_apart() -> None:
    both = [Progress(name, Stage.BOOTING) for name in ("a", "b", "a", "b")]
    assert [line[9:] for line in lines_of(*both)] == ["a: booting", "b: booting"]


def test_what_concerns_the_whole_run_is_always_said() -> None:
    assert lines_of(*[Progress("", Stage.QUEUED, "KVM does not boot, using TCG")] * 2) == [
        "[  1.0s] KVM does not boot, using TCG",
        "[  2.0s] KVM does not boot, using TCG",
    ]


def test_hostile_text_stays_on_its_line() -> None:
    hostile = "\x1b[2J\n[  9.9s] k: pass\u202e"
    assert lines_of(Progress("k", Stage.DONE, hostile, verdict="fail")) == [
        r"[  1.0s] k: fail: \x1b[2J\n[  9.9s] k: pass\u202e"
    ]


def test_ascii_stream_gets_ascii() -> None:
    stream = Encoded("ascii")
    with plain(["ké"], stream, clock=Clock()):
        pass
    assert stream.written() == b"[  0.0s] 1 kernel: k\\xe9\n"


def test_closed_stdout_does_not_end_the_run() -> None:
    with plain(["k"], Gone(BrokenPipeError()), clock=Clock()) as listener:
        listener(Progress("k", Stage.BOOTING))


def test_lines_of_threads_do_not_mix() -> None:
    stream = StringIO()
    names = [f"kernel-{n}" for n in range(200)]
    with plain([], stream, clock=Clock()) as listener, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: listener(Progress(name, Stage.BOOTING)), names))
    lines = stream.getvalue().splitlines()[1:]
    assert sorted(lines) == sorted(f"[  0.0s] {name}: booting" for name in names)


@pytest.mark.parametrize(
    ("done", "planned", "said"),
    [(1, 0, "1 round, none"), (14, 0, "14 rounds, none"), (1, 5000, "1 of 5000 rounds, none")],
)
def test_rounds_are_counted_in_words(done: int, planned: int, said: str) -> None:
    progress = Progress("k", Stage.REPEATING, "none failed", done=done, planned=planned)
    assert lines_of(progress) == [f"[  1.0s] k: {said} failed"]


def test_each_step_of_a_preparation_is_said() -> None:
    """Fails if only the first word on a stage is printed: then a download is silence."""
    assert [
        line[9:]
        for line in lines_of(
            Progress("k", Stage.PREPARING),
            Progress("k", Stage.PREPARING, "downloading linux-image (70 MB)"),
            Progress("k", Stage.PREPARING, "downloading linux-image (70 MB)"),
            Progress("k", Stage.PREPARING, "unpacking linux-image"),
        )
    ] == [
        "k: preparing",
        "k: preparing: downloading linux-image (70 MB)",
        "k: preparing: unpacking linux-image",
    ]


def test_what_goes_on_is_said_every_half_minute() -> None:
    clock, stream = Clock(), StringIO()
    listener = PlainProgress(stream, clock)
    listener(Progress("k", Stage.CHECKING, "a.check", done=0, planned=900))
    listener(Progress("queued", Stage.QUEUED))
    listener(Progress("done", Stage.DONE, "all", verdict="pass"))
    for second in range(1, 71):
        clock.now += 1
        listener(Progress("k", Stage.CHECKING, "a.check", done=second, planned=900))
        listener.tick()
    assert [line for line in stream.getvalue().splitlines() if "for " in line] == [
        "[ 30.0s] k: checking, 30 of 900 results, for 30 s",
        "[ 60.0s] k: checking, 60 of 900 results, for 60 s",
    ]


def test_ticks_come_while_a_run_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.plain.EVERY", 0.0)
    ticked = threading.Event()
    monkeypatch.setattr(PlainProgress, "tick", lambda _: ticked.set())
    with plain(["k"], StringIO(), clock=Clock()):
        assert ticked.wait(60)
    assert "progress" not in [thread.name for thread in threading.enumerate()]
