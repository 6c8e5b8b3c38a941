# SPDX-License-Identifier: GPL-2.0-only
"""One boot, with a small program in the place of virtme-ng, QEMU, kernel and guest."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.host.programs import RunningClock
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest.plan import Plan
from harness.verdict import judge
from harness.verdict.results import Attempt, BootEnd
from harness.verdict.verdicts import Family, KernelVerdict
from harness.vm import boot, commandline, hang
from harness.vm.boot import BootPlan, Deadlines
from harness.vm.commandline import Machine, Request
from harness.vm.machines import Machines, Start
from tests.vm.support import NONCE, sound

LONG = Deadlines(boot=3600, silence=3600, power_off=3600, total=3600)

#: What a program in the place of virtme-ng begins with.
PRELUDE = """
import pathlib, socket, sys, time
work, stream, given = pathlib.Path.cwd(), pathlib.Path({stream!r}), pathlib.Path({given!r})
def say(text):
    sys.stderr.write(text + "\\n")
    sys.stderr.flush()
def wait_for(path):
    while not path.exists():
        time.sleep(0.01)
events = socket.socket(socket.AF_UNIX)
events.connect(str(work / "events"))
say("[    0.000000] Linux version 6.12.1 (me@here) #1 SMP")
"""
POWER_OFF = """
(work / "qemu.status").write_text("0")
say("[    9.000000] reboot: Power down")
"""
PANIC = """
say("[    0.020000] Kernel panic - not syncing: Cannot find place for new RAMDISK of size 55042092")
say("[    0.020000] ---[ end Kernel panic - not syncing: Cannot find place for new RAMDISK ]---")
time.sleep(3600)
"""

Run = Callable[..., Attempt]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A boot in which the given program runs, which has the helpers of PRELUDE."""
    for name in ("vmlinux", "base"):
        (tmp_path / name).write_bytes(b"never read")
    (tmp_path / "stream").write_bytes(sound())
    prelude = PRELUDE.format(stream=str(tmp_path / "stream"), given=str(tmp_path / "given"))
    image = tmp_path / "vmlinux"

    def boot_it(
        program: str, deadlines: Deadlines = LONG, machines: Machines | None = None
    ) -> Attempt:
        command = [sys.executable, "-I", "-S", "-c", prelude + program]
        monkeypatch.setattr(commandline, "command", lambda *_: command)
        kernel = PreparedKernel("k", "6.12.1", "v", "o", image, "0" * 64, tmp_path, image)
        request = Request(NONCE, 7, Plan((Family.IPV4,)))
        plan = BootPlan(
            *(kernel, tmp_path / "base", Path("/bin/true"), Machine(), request),
            *(deadlines, tmp_path / "attempt"),
            machines=machines,
        )
        return boot.boot(plan, threading.Event(), lambda _: None)

    return boot_it


SAY_ALL = "events.sendall(stream.read_bytes())\n"
HELLO = "events.sendall(stream.read_bytes().partition(b'\\n')[0] + b'\\n')\n"


def test_a_whole_run_is_read(run: Run) -> None:
    attempt = run(SAY_ALL + POWER_OFF)
    assert (attempt.end, attempt.stream.closed) == (BootEnd.POWERED_OFF, True)
    assert attempt.stopped_s == 0


def test_the_end_of_the_vm_is_seen_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the harness waits for more data."""
    for name in ("NAP", "NAP_OF_CONSOLE"):
        monkeypatch.setattr(boot, name, 30.0)
    started = time.monotonic()
    attempt = run(SAY_ALL + POWER_OFF)
    assert (attempt.end, attempt.stream.closed) == (BootEnd.POWERED_OFF, True)
    assert time.monotonic() - started < 25


def test_what_is_written_in_small_pieces_is_read_in_few(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look takes a tenth of a millisecond, from a processor that another VM could use."""
    looks = []
    real = boot._Boot._serve

    def noted(self: boot._Boot, timeout: float) -> None:
        looks.append(timeout)
        real(self, timeout)

    monkeypatch.setattr(boot._Boot, "_serve", noted)
    pieces = "for i in range(200):\n    say(f'[    1.000000] line {i}')\n    time.sleep(0.002)\n"
    started = time.monotonic()
    assert run(pieces + SAY_ALL + POWER_OFF).end is BootEnd.POWERED_OFF
    assert len(looks) < 20 + 25 * (time.monotonic() - started)


WARN_IN_THE_FIRST_CHECK = """
for line in stream.read_bytes().splitlines(keepends=True):
    events.sendall(line)
    if line.startswith(b'{"e":"start"') and b'"i":0' in line:
        say("[    2.000000] WARNING: CPU: 0 PID: 9 at net/mptcp/protocol.c:25 f+0x1/0x2")
    time.sleep(0.02)
"""


def test_an_incident_is_charged_to_the_check_that_ran_though_checks_are_short(run: Run) -> None:
    attempt = run(WARN_IN_THE_FIRST_CHECK + POWER_OFF)
    (incident,) = attempt.incidents
    assert str(incident.check).startswith("ipv4 mptcp_info.readable")


class Doubted(Machines):
    """Starts what virtme-ng would have started, it seems."""

    def __init__(self, objection: str) -> None:
        self.objection = objection

    def start(self, work: Path, *_: object) -> Start:
        return Start(commandline.command(work, Machine()), lambda: self.objection)


def test_a_boot_of_a_machine_that_is_not_virtme_ngs_teaches_nothing(run: Run) -> None:
    attempt = run(SAY_ALL + POWER_OFF, machines=Doubted("it has changed"))
    assert (attempt.end, attempt.detail) == (BootEnd.LAUNCH_FAILED, "it has changed")
    verdict, reason = judge.kernel(attempt, {})
    assert verdict is KernelVerdict.INFRASTRUCTURE
    assert "it has changed" in reason


def test_a_boot_of_the_machine_that_virtme_ng_confirms_counts(run: Run) -> None:
    attempt = run(SAY_ALL + POWER_OFF, machines=Doubted(""))
    assert attempt.end is BootEnd.POWERED_OFF


def test_a_panic_before_the_command_line_was_read_ends_the_boot(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a look at the console this boot lasts an hour."""
    monkeypatch.setattr(boot, "PANIC_SILENCE", 0.2)
    attempt = run(PANIC)
    assert attempt.end is BootEnd.PANICKED
    (panic,) = attempt.incidents
    assert panic.environment
    assert "RAMDISK" in panic.title


@pytest.mark.parametrize("before", ["", SAY_ALL], ids=["while it boots", "while it powers off"])
def test_time_in_which_the_harness_was_stopped_exceeds_no_deadline(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str
) -> None:
    looks = 0

    def clock() -> float:
        """A machine that sleeps for a year between two looks, whereupon the guest goes on."""
        nonlocal looks
        looks += 1
        if looks < 5:
            return time.monotonic()
        (tmp_path / "given").touch()
        return time.monotonic() + 3.2e7

    monkeypatch.setattr(boot, "RunningClock", lambda: RunningClock(clock))
    rest = "" if before else SAY_ALL
    attempt = run(before + "wait_for(given)\n" + rest + POWER_OFF)
    assert (attempt.end, attempt.stream.closed) == (BootEnd.POWERED_OFF, True)
    assert attempt.stopped_s > 3e7


def test_a_guest_that_stays_silent_exceeds_its_deadline(run: Run) -> None:
    short = Deadlines(boot=0.5, silence=3600, power_off=3600, total=3600)
    assert run("time.sleep(3600)", short).end is BootEnd.BOOT_DEADLINE


#: In the place of QEMU's monitor: a kernel that prints, when it is asked, what would be a crash.
MONITOR = """
import json
monitor = socket.socket(socket.AF_UNIX)
monitor.bind(str(work / "monitor"))
monitor.listen(1)
{before}
given.touch()
peer, _ = monitor.accept()
peer.sendall(b'{{"QMP": {{"version": {{}}}}}}\\n')
for line in peer.makefile("rb"):
    asked = json.loads(line)
    command = asked["arguments"].get("command-line", "")
    answer = {{"info registers -a": "CPU#0\\nRIP=ffffffff821b8d0f RFL=2"}}.get(command, "")
    if command == "sendkey alt-sysrq-w":
        say("[   73.740088] sysrq: Show Blocked State")
        say("[   73.740100] task:python3         state:D stack:0     pid:98")
        say("[   73.740101] Call Trace:")
        say("[   73.740102]  <TASK>")
        say("[   73.740103]  __schedule+0x52a/0x1080")
        say("[   73.740104]  ? not_sure+0x1/0x2")
        say("[   73.740105]  mptcp_recvmsg+0x28/0xa0 [mptcp]")
    if command == "sendkey alt-sysrq-l":
        say("[   74.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000")
        say("[   74.000001] Kernel panic - not syncing: as if")
    peer.sendall(b'{{"timestamp": {{}}, "event": "RTC_CHANGE"}}\\n')
    peer.sendall(json.dumps({{"return": answer}}).encode() + b"\\n")
time.sleep(3600)
"""


def flying(given: Path) -> Callable[[], float]:
    """A clock that stands until ``given`` is there; from then on each look takes half a second."""
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += given.exists()
        return looks / 2

    return clock


@pytest.mark.parametrize(
    ("before", "deadlines", "end"),
    [
        ("", {"boot": 1.0}, BootEnd.BOOT_DEADLINE),
        (HELLO, {"silence": 1.0}, BootEnd.SILENCE_DEADLINE),
        (HELLO, {"total": 1.0}, BootEnd.TOTAL_DEADLINE),
        (SAY_ALL, {"power_off": 1.0}, BootEnd.POWER_OFF_DEADLINE),
    ],
    ids=["boot", "silence", "total", "power-off"],
)
def test_a_guest_that_hangs_is_asked_what_it_was_doing(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    deadlines: dict[str, float],
    end: BootEnd,
) -> None:
    monkeypatch.setattr(hang, "BEGINS", 0.2)
    monkeypatch.setattr(boot, "RunningClock", lambda: RunningClock(flying(tmp_path / "given")))
    attempt = run(MONITOR.format(before=before), replace(LONG, **deadlines))
    assert attempt.end is end
    text = (tmp_path / "attempt" / boot.HANG).read_text()
    assert "RIP=ffffffff821b8d0f" in text
    assert "Show Blocked State" in text
    assert "sysrq t: all tasks\nnothing was printed" in text
    assert attempt.stream.notes[-3:] == (
        "what it was doing: see attempt/hang.txt",
        "CPU 0 was at RIP ffffffff821b8d0f",
        "python3 (D) was in __schedule < mptcp_recvmsg",
    )
    # What the kernel printed because it was asked is no incident.
    assert attempt.incidents == ()
    assert b"NULL pointer" not in (tmp_path / "attempt" / boot.CONSOLE).read_bytes()


def test_a_qemu_that_does_not_answer_is_not_waited_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "LIMIT", 0.2)
    deaf = "m = socket.socket(socket.AF_UNIX)\nm.bind(str(work / 'monitor'))\nm.listen(1)\n"
    attempt = run(deaf + "time.sleep(3600)", replace(LONG, boot=0.5))
    assert attempt.end is BootEnd.BOOT_DEADLINE
    assert not (tmp_path / "attempt" / boot.HANG).exists()


def test_a_boot_that_ends_well_is_asked_nothing(run: Run, tmp_path: Path) -> None:
    run(SAY_ALL + POWER_OFF)
    assert not (tmp_path / "attempt" / boot.HANG).exists()


@pytest.mark.parametrize(("timeout", "seconds"), [(10, 10), (120, 20), (600, 100)])
def test_a_kernel_with_a_longer_timeout_has_longer_to_power_off(
    timeout: float, seconds: float
) -> None:
    """One with KASAN and kmemleak needs more than 80 s for the two scans on a busy host."""
    assert Deadlines.scaled(timeout, kvm=True).power_off == seconds
    assert Deadlines.scaled(timeout, kvm=False).power_off == 4 * seconds
