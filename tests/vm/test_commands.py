# SPDX-License-Identifier: GPL-2.0-only
"""Programs in a guest: both sides of the port, without a VM between them."""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.vm import commands
from harness.vm.commands import Guest, GuestLost
from tests.vm.local_guest import SOON, Console, Vm, guest_of

ENVIRONMENT = {"PATH": os.environ["PATH"]}


@pytest.fixture
def vm() -> Iterator[Vm]:
    made = Vm()
    yield made
    made.close()


@pytest.fixture
def guest(vm: Vm) -> Guest:
    made = guest_of(vm, Console())
    made.wait_for_hello()
    return made


def run(guest: Guest, *command: str, timeout_s: float = SOON) -> commands.Ended:
    return guest.run(command, ENVIRONMENT, timeout_s)


def test_hello_names_the_kernel(guest: Guest) -> None:
    assert guest.release == os.uname().release


def test_a_program_ends_with_status_and_output(guest: Guest) -> None:
    ended = run(guest, "sh", "-c", "echo one; echo two >&2; exit 3")
    assert (ended.status, ended.output, ended.timed_out) == (3, "one\ntwo\n", False)
    assert run(guest, "true").status == 0


def test_a_program_that_is_killed_has_minus_the_signal(guest: Guest) -> None:
    assert run(guest, "sh", "-c", "kill -TERM $$").status == -signal.SIGTERM


def test_a_program_has_its_environment_and_no_other(guest: Guest) -> None:
    ended = guest.run(("env",), {**ENVIRONMENT, "A": "b=c"}, SOON)
    assert sorted(ended.output.splitlines()) == sorted(["A=b=c", f"PATH={ENVIRONMENT['PATH']}"])


def test_a_program_that_takes_too_long_is_killed(guest: Guest) -> None:
    ended = run(guest, "sh", "-c", "echo before; sleep 1000", timeout_s=0.2)
    assert (ended.timed_out, ended.output) == (True, "before\n")
    assert run(guest, "true").status == 0


def test_a_daemon_does_not_keep_the_program_from_ending(guest: Guest) -> None:
    assert run(guest, "sh", "-c", "sleep 1000 & echo started").output == "started\n"


def test_a_program_that_does_not_exist_is_an_error(guest: Guest) -> None:
    with pytest.raises(OSError, match=r"the guest cannot run no-such-program: .*No such file"):
        run(guest, "no-such-program")
    with pytest.raises(OSError, match=r"the guest cannot run /no/such: .*No such file"):
        run(guest, "/no/such")


def test_much_output_arrives_whole(guest: Guest) -> None:
    assert len(run(guest, "sh", "-c", "head -c 3000000 /dev/zero").output) == 3_000_000


def test_endless_output_is_cut(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_OUTPUT", 1000)
    assert len(run(guest, "sh", "-c", "head -c 3000000 /dev/zero").output) == 1000


def test_output_that_is_not_text_is_no_obstacle(guest: Guest) -> None:
    assert run(guest, "printf", r"\377").output == "\ufffd"


@pytest.mark.parametrize("size", [0, 5, (2 << 20) + 1])
def test_a_file_is_written_whole(guest: Guest, tmp_path: Path, size: int) -> None:
    place = tmp_path / "new" / "file"
    content = os.urandom(size)
    guest.put(str(place), content)
    assert place.read_bytes() == content
    assert os.access(place, os.X_OK)


def test_a_file_that_is_in_use_is_replaced_not_changed(guest: Guest, tmp_path: Path) -> None:
    """A shared library that is written over would kill all that use it."""
    place = tmp_path / "library"
    place.write_bytes(b"old")
    with place.open("rb") as used:
        guest.put(str(place), b"new")
        assert used.read() == b"old"
    assert place.read_bytes() == b"new"


def test_a_file_that_cannot_be_written_is_an_error(guest: Guest) -> None:
    with pytest.raises(OSError, match="/proc/none/file cannot be written in the guest"):
        guest.put("/proc/none/file", b"")
    assert run(guest, "true").status == 0


def test_a_guest_that_ends_is_lost_for_good(guest: Guest, vm: Vm) -> None:
    vm.kill()
    with pytest.raises(GuestLost, match=r"the guest of 6\.12 is lost: its VM ended"):
        run(guest, "true")
    with pytest.raises(GuestLost, match="is lost: its VM ended"):
        run(guest, "true")


def test_a_guest_that_does_not_answer_is_lost(
    guest: Guest, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_GRACE_S", 0.0)
    vm.process.send_signal(signal.SIGSTOP)
    with pytest.raises(GuestLost, match="it did not answer for 0 s"):
        run(guest, "true", timeout_s=0.01)


def test_a_lost_guest_tells_of_the_crash(vm: Vm) -> None:
    console = b"[    1.0] Linux version 6.12\n[    2.0] Kernel panic - not syncing: at last\n"
    guest = guest_of(vm, Console(console))
    guest.wait_for_hello()
    vm.kill()
    with pytest.raises(GuestLost, match="; Kernel panic: at last"):
        run(guest, "true")


def test_a_request_to_stop_ends_the_waiting(vm: Vm) -> None:
    stop = threading.Event()
    guest = guest_of(vm, Console(), stop)
    guest.wait_for_hello()
    stop.set()
    with pytest.raises(GuestLost, match="interrupted"):
        run(guest, "sleep", "1000")


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (struct.pack(">cI", b"h", 1 << 20), "it sends 1048576 bytes at once"),
        (struct.pack(">cI", b"x", 0), "its first event is b'x' instead of hello"),
        (b"h", "its VM ended"),
    ],
)
def test_what_is_no_frame_loses_the_guest(sent: bytes, message: str) -> None:
    program = "import os, sys; os.write(int(sys.argv[2]), bytes.fromhex(sys.argv[1]))"
    vm = Vm(sys.executable, "-c", program, sent.hex())
    try:
        with pytest.raises(GuestLost) as raised:
            guest_of(vm, Console()).wait_for_hello()
        assert message in str(raised.value)
    finally:
        vm.close()
