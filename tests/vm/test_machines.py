# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command lines, remembered: each start is what virtme-ng would do, or does not count."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.host import tools
from harness.kernels.kernel_image import PreparedKernel
from harness.vm import commandline, machines
from harness.vm.commandline import QEMU_COMMAND, Machine
from harness.vm.machines import Machines, Start
from tests.replacing import replaced

RELEASE = "6.12.1-amd64"
#: Makes QEMU's command line of its arguments: the work directory, then those of the kernel.
VIRTME_NG = """\
work=$1
shift
exec "$work/bin/qemu-system-x86_64" -m 512M -kernel "$work/kernel" -append "quiet $* -- init"
"""


class Host:
    """A virtme-ng, a QEMU and what is remembered of them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.virtme_ng = place / "vng"
        self.virtme_ng.write_text(VIRTME_NG)
        self.qemu = place / "qemu-system-x86_64"
        self.qemu.write_text("#!/bin/sh\necho QEMU emulator version 7.2.22\n")
        self.qemu.chmod(0o755)
        image = place / "vmlinux"
        image.touch()
        self.kernel = PreparedKernel("k", RELEASE, "v", "o", image, "0" * 64, place, image)
        self.memory = place / machines.MEMORY

    def command(self, work: Path, machine: Machine, script: Sequence[str] = ()) -> list[str]:
        return ["sh", str(self.virtme_ng), str(work), *machine.append]

    def machines(self, version: str = "1.42") -> Machines:
        return Machines(self.memory, version, lambda _: "7.2.22", threading.Event())

    def work(self) -> Path:
        work = self.place / f"work-{len([*self.place.iterdir()])}"
        work.mkdir()
        commandline.lay_out(work, self.kernel, self.qemu)
        return work

    def start(self, of: Machines, machine: Machine | None = None) -> tuple[Start, Path]:
        work = self.work()
        return of.start(work, self.kernel, self.qemu, machine or Machine()), work

    def learn(self) -> None:
        """One run, which ends when virtme-ng has answered."""
        known = self.machines()
        self.start(known)
        known.close()

    def is_virtme_ng(self, start: Start) -> bool:
        return str(self.virtme_ng) in start.command


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path)
    monkeypatch.setattr(commandline, "command", found.command)
    return found


def test_the_first_run_boots_through_virtme_ng(host: Host) -> None:
    known = host.machines()
    start, _ = host.start(known)
    assert host.is_virtme_ng(start)
    assert start.objection() == ""
    known.close()


def test_the_next_run_starts_qemu_itself_with_the_places_and_arguments_of_its_boot(
    host: Host,
) -> None:
    host.learn()
    known = host.machines()
    start, work = host.start(known, Machine(append=("a=1", "b=@work@")))
    qemu = str(work / "bin/qemu-system-x86_64")
    append = "quiet a=1 b=@work@ -- init"
    expected = [qemu, "-m", "512M", "-kernel", f"{work}/kernel", "-append", append]
    assert start.command == expected
    assert start.objection() == ""
    known.close()


def test_no_blank_is_left_where_a_kernel_has_no_arguments(host: Host) -> None:
    host.learn()
    known = host.machines()
    start, _ = host.start(known)
    assert start.command[-1] == "quiet -- init"
    known.close()


def test_long_arguments_are_virtme_ngs_to_fit_in(host: Host) -> None:
    """Beyond a length, it makes the rest of the command line shorter."""
    host.learn()
    known = host.machines()
    short, _ = host.start(known, Machine(append=("a" * 10, "b" * 9)))
    long, _ = host.start(known, Machine(append=("a" * 10, "b" * 10)))
    assert [host.is_virtme_ng(short), host.is_virtme_ng(long)] == [False, True]
    known.close()


def test_virtme_ng_is_asked_once_in_a_run(host: Host) -> None:
    host.virtme_ng.write_text(f"echo asked >> {host.place}/log\n{VIRTME_NG}")
    known = host.machines()
    for _ in range(3):
        host.start(known)
    known.close()
    assert (host.place / "log").read_text() == "asked\n"


def test_qemu_is_not_started_by_asking(host: Host) -> None:
    host.qemu.write_text(f"#!/bin/sh\necho started >> {host.place}/log\n")
    host.learn()
    assert host.memory.exists()
    assert not (host.place / "log").exists()


def other_version(host: Host) -> Machines:
    return host.machines("1.43")


def other_qemu(host: Host) -> Machines:
    host.qemu.write_text("#!/bin/sh\necho QEMU emulator version 10.0.0\n")
    return host.machines()


def damaged(host: Host) -> Machines:
    host.memory.write_text("{")
    return host.machines()


def of_another_form(host: Host) -> Machines:
    found = json.loads(host.memory.read_text())
    host.memory.write_text(json.dumps(dict.fromkeys(found, "qemu")))
    return host.machines()


@pytest.mark.parametrize("change", [other_version, other_qemu, damaged, of_another_form])
def test_what_was_remembered_of_another_virtme_ng_or_qemu_is_not_used(
    host: Host, change: Callable[[Host], Machines]
) -> None:
    host.learn()
    known = change(host)
    start, _ = host.start(known)
    assert host.is_virtme_ng(start)
    known.close()


@pytest.mark.parametrize("machine", [Machine(cpus=2), Machine(memory_mib=256), Machine(kvm=True)])
def test_a_machine_of_another_shape_is_asked_for(
    host: Host, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    def command(work: Path, machine: Machine, script: Sequence[str] = ()) -> list[str]:
        return [*host.command(work, machine), f"{machine.cpus}-{machine.memory_mib}-{machine.kvm}"]

    monkeypatch.setattr(commandline, "command", command)
    host.learn()
    known = host.machines()
    start, _ = host.start(known, machine)
    assert host.is_virtme_ng(start)
    known.close()


def test_a_boot_does_not_count_if_virtme_ng_says_something_else_now(host: Host) -> None:
    host.learn()
    host.virtme_ng.write_text(replaced(VIRTME_NG, "512M", "1G"))
    known = host.machines()
    before, _ = host.start(known)
    assert "512M" in before.command
    assert "otherwise" in before.objection()
    after, _ = host.start(known)
    assert "1G" in after.command
    assert after.objection() == ""
    known.close()


def test_a_boot_does_not_count_if_virtme_ng_fails_now(host: Host) -> None:
    host.learn()
    host.virtme_ng.write_text("exit 1\n")
    known = host.machines()
    before, _ = host.start(known)
    assert "cannot be asked" in before.objection()
    after, _ = host.start(known)
    assert host.is_virtme_ng(after)
    known.close()
    assert json.loads(host.memory.read_text()) == {}


@pytest.mark.parametrize(
    "virtme_ng",
    [
        "exit 1\n",
        replaced(VIRTME_NG, "$*", ""),
        replaced(VIRTME_NG, "$*", "$* $*"),
        replaced(VIRTME_NG, "quiet", RELEASE),
        replaced(VIRTME_NG, "-- init", "init=/bin/sh /virtme-init-$$"),
    ],
    ids=["fails", "drops an argument", "has it twice", "names the kernel", "makes a file"],
)
def test_a_virtme_ng_that_cannot_be_asked_boots_each_kernel(host: Host, virtme_ng: str) -> None:
    host.virtme_ng.write_text(virtme_ng)
    host.learn()
    known = host.machines()
    starts = [host.start(known)[0] for _ in range(2)]
    known.close()
    starts.append(host.start(host.machines())[0])
    assert all(map(host.is_virtme_ng, starts))


def test_the_memory_stays_small(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "MOST", 3)
    for number in range(5):
        known = host.machines(f"1.{number}")
        host.start(known)
        known.close()
    assert len(json.loads(host.memory.read_text())) == 3


def test_a_run_that_is_stopped_waits_for_no_answer(host: Host) -> None:
    host.learn()
    host.virtme_ng.write_text("sleep 3600\n")
    stop = threading.Event()
    known = Machines(host.memory, "1.42", lambda _: "7.2.22", stop)
    start, _ = host.start(known)
    stop.set()
    assert start.objection()
    known.close()


def test_the_real_virtme_ng_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes half a second, because only the real one can show it."""
    host = Host(tmp_path)
    version = tools.virtme_ng_version()
    known = Machines(host.memory, version, lambda _: "7.2.22", threading.Event())
    machine = Machine(append=("a=*", "?", "~", "{b,c}", "[b]", "!a"))
    host.start(known, machine)
    known.close()
    known = Machines(host.memory, version, lambda _: "7.2.22", threading.Event())
    start, work = host.start(known, machine)
    assert start.command[0] == str(work / "bin/qemu-system-x86_64")
    subprocess.run(commandline.command(work, machine), env=commandline.environment(work))
    by_virtme_ng = (work / QEMU_COMMAND).read_text().split("\0")[1:-1]
    assert start.command[1:] == by_virtme_ng
    known.close()
