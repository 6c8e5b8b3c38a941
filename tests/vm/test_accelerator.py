# SPDX-License-Identifier: GPL-2.0-only
"""KVM counts when it has been seen to boot; a script stands for QEMU, which this needs to break.

What it says is recorded from QEMU 7.2 on a host whose /dev/kvm opens and boots nothing.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import time
from pathlib import Path

import pytest

from harness.errors import HostError
from harness.host import tools
from harness.host.architectures import HOST, Arch
from harness.kernels.cache import Cache
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest.kernels_yaml import Accel
from harness.vm import accelerator
from harness.vm.accelerator import choose
from tests.processes import StandingClock, is_gone, read_pid

BOOTS = "echo 'Linux version 6.12'; echo 'Kernel panic - not syncing: VFS: no root'"
ABORTS = """
echo 'qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69' >&2
echo 'qemu-system-x86_64: ../../target/i386/kvm/kvm.c:3183: kvm_buf_set_msrs: Assertion' >&2
kill -ABRT $$
"""
BREAKS = "echo 'KVM internal error. Suberror: 1'; sleep 60"
#: It goes on, and says nothing more, until it is given up: see :func:`trials_clock`.
HANGS = 'echo >> "${0%/*}/hanging"; sleep 60'
UNKNOWN = "echo 'qemu-system-x86_64: -machine q35,accel=kvm: invalid accelerator kvm' >&2; exit 1"
#: Faults of the host: by what QEMU does, a word of the sentence.
OF_THE_HOST = [
    pytest.param(ABORTS, "QEMU aborts .* failed to set MSR", id="aborting"),
    pytest.param(BREAKS, "internal error", id="internal error"),
    pytest.param(HANGS, "prints nothing for", id="hanging"),
    pytest.param(UNKNOWN, "invalid accelerator kvm", id="QEMU without KVM"),
]
NOT_OF_THE_HOST = [
    pytest.param(f"echo 'Linux version 6.12'; {HANGS}", "began to boot", id="kernel hangs"),
    pytest.param("echo 'Linux version 6.12'; exit 0", "began to boot", id="kernel resets"),
    pytest.param("exit 0", "status 0 before 6.12 printed anything", id="kernel silently resets"),
    pytest.param(
        "echo 'Error loading uncompressed kernel without PVH ELF Note' >&2; exit 1",
        "PVH ELF Note",
        id="no kernel",
    ),
    pytest.param(
        "echo 'cannot set up guest memory: Cannot allocate memory' >&2; exit 1",
        "Cannot allocate memory",
        id="out of memory",
    ),
    pytest.param(
        "echo 'ioctl(KVM_CREATE_VM) failed: 16 Device or resource busy' >&2; exit 1",
        "resource busy",
        id="another hypervisor",
    ),
    pytest.param("kill -KILL $$", "status 137", id="killed"),
]


def trials_clock(directory: Path, seen: list[int]) -> StandingClock:
    """All patience with a QEMU is over once it hangs; ``seen`` is how often one did before.

    It may hang already when the clock is made.
    """
    hanging = directory / "hanging"

    def hangs() -> bool:
        times = hanging.stat().st_size if hanging.exists() else 0
        if times > before:
            seen[:] = [times]
        return times > before

    (before,) = seen
    return StandingClock(hangs)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(accelerator, "DEVICE", path)
    seen = [0]
    monkeypatch.setattr(accelerator, "RunningClock", lambda: trials_clock(tmp_path, seen))
    return path


def qemu(tmp_path: Path, script: str) -> Path:
    program = tmp_path / "qemu-system-x86_64"
    text = f"#!/bin/sh\necho >> {tmp_path}/runs\n{script}\n"
    if not program.exists() or program.read_text() != text:  # a new date makes it another one
        program.write_text(text)
        program.chmod(0o755)
    return program


def kernel(tmp_path: Path, sha256: str = "0" * 64) -> PreparedKernel:
    image = tmp_path / "vmlinux"
    return PreparedKernel("k", "6.12", "v", "o", image, sha256, tmp_path, image)


def ask(
    tmp_path: Path,
    script: str,
    wanted: Accel = Accel.AUTO,
    *,
    sha256: str = "0" * 64,
    stop: threading.Event | None = None,
) -> accelerator.Choice:
    remembered = tmp_path / "cache" / "kvm.json"
    booted = kernel(tmp_path, sha256)
    return choose(wanted, booted, qemu(tmp_path, script), remembered, lambda _: None, stop)


def runs(tmp_path: Path) -> int:
    path = tmp_path / "runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.usefixtures("device")
def test_a_kvm_that_boots_a_kernel_is_used(tmp_path: Path) -> None:
    assert ask(tmp_path, BOOTS).kvm


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("script", "why"), [*OF_THE_HOST, *NOT_OF_THE_HOST])
def test_a_kvm_that_does_not_boot_a_kernel_is_not_used(
    tmp_path: Path, script: str, why: str
) -> None:
    choice = ask(tmp_path, script)
    assert not choice.kvm
    assert re.search(why, choice.why)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("script", "why"), OF_THE_HOST)
def test_a_fault_of_the_host_is_remembered_with_its_remedy(
    tmp_path: Path, script: str, why: str
) -> None:
    first = ask(tmp_path, script)
    again = ask(tmp_path, script)
    assert runs(tmp_path) == 1
    assert re.search(f"{why}.*; in a virtual machine, enable nested virtualisation", again.why)
    assert again == first


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("script", "why"), NOT_OF_THE_HOST)
def test_what_may_be_a_fault_of_the_kernel_or_pass_is_not_remembered(
    tmp_path: Path, script: str, why: str
) -> None:
    assert not ask(tmp_path, script).settled
    assert not ask(tmp_path, script).settled
    assert runs(tmp_path) == 2


@pytest.mark.usefixtures("device")
def test_a_silent_kernel_does_not_speak_for_others(tmp_path: Path) -> None:
    ask(tmp_path, HANGS)
    ask(tmp_path, HANGS, sha256="1" * 64)
    assert runs(tmp_path) == 2


@pytest.mark.usefixtures("device")
def test_a_fault_of_the_host_holds_for_every_kernel(tmp_path: Path) -> None:
    ask(tmp_path, ABORTS)
    ask(tmp_path, ABORTS, sha256="1" * 64)
    assert runs(tmp_path) == 1


def test_a_broken_kvm_is_found_within_15_seconds() -> None:
    assert accelerator.PATIENCE <= accelerator.LIMIT < 15


@pytest.mark.usefixtures("device")
def test_a_kvm_that_works_is_remembered(tmp_path: Path) -> None:
    ask(tmp_path, BOOTS)
    assert ask(tmp_path, BOOTS).kvm
    assert runs(tmp_path) == 1


@pytest.mark.usefixtures("device")
def test_another_qemu_is_asked_again(tmp_path: Path) -> None:
    ask(tmp_path, ABORTS)
    assert ask(tmp_path, BOOTS).kvm


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}", '{"trouble": "of an older harness"}'])
def test_a_damaged_memory_is_no_answer(tmp_path: Path, text: str) -> None:
    remembered = tmp_path / "cache" / "kvm.json"
    remembered.parent.mkdir()
    remembered.write_text(text)
    assert ask(tmp_path, BOOTS).kvm
    assert json.loads(remembered.read_text())["answers"][""][1] == ""


@pytest.mark.usefixtures("device")
def test_a_memory_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert ask(tmp_path, BOOTS).kvm


@pytest.mark.usefixtures("device")
def test_a_stop_ends_the_trial(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert not ask(tmp_path, HANGS, stop=stop).kvm
    # What a trial finds that does not stop is remembered.
    assert not (tmp_path / "cache" / "kvm.json").exists()


@pytest.mark.usefixtures("device")
def test_the_qemu_of_a_trial_does_not_outlive_it(tmp_path: Path) -> None:
    ask(tmp_path, f"sleep infinity & echo $! > {tmp_path}/pid; {HANGS}")
    assert is_gone(read_pid(tmp_path / "pid"))


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("script", "why"), OF_THE_HOST)
def test_kvm_in_so_many_words_does_not_fall_back(tmp_path: Path, script: str, why: str) -> None:
    with pytest.raises(HostError, match=f"{why}.*accel: auto or tcg"):
        ask(tmp_path, script, Accel.KVM)


@pytest.mark.usefixtures("device")
def test_kvm_in_so_many_words_shows_what_a_broken_kernel_does_under_it(tmp_path: Path) -> None:
    assert ask(tmp_path, "echo 'Linux version 6.12'; exit 0", Accel.KVM).kvm


@pytest.mark.usefixtures("device")
def test_tcg_in_so_many_words_tries_nothing(tmp_path: Path) -> None:
    assert not ask(tmp_path, BOOTS, Accel.TCG).kvm
    assert runs(tmp_path) == 0


def test_a_host_without_the_device_says_so(tmp_path: Path, device: Path) -> None:
    device.unlink()
    assert re.search("is absent: load kvm_intel or kvm_amd", ask(tmp_path, BOOTS).why)
    assert runs(tmp_path) == 0


def test_a_device_that_is_not_permitted_is_said(
    tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = os.open

    def refuse(path: str | Path, flags: int, mode: int = 0o777, **options: int) -> int:
        if path == device:  # root may open everything
            raise PermissionError(errno.EACCES, "Permission denied")
        return really_open(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", refuse)
    why = ask(tmp_path, BOOTS).why
    assert "is not permitted for this user: sudo usermod -aG kvm $USER" in why
    assert runs(tmp_path) == 0


def cached_kernel() -> PreparedKernel | None:
    """A real kernel, if one was prepared here before: these tests fetch none."""
    images = sorted((Cache().root / "kernels").glob("deb-6.*/root/boot/vmlinux-*"))
    image = images[-1] if images else None
    if image is None:
        return None
    return PreparedKernel("k", image.name, "v", "o", image, "0" * 64, image.parents[1], image)


@pytest.mark.boots
def test_the_kvm_of_this_host_is_judged_in_time(tmp_path: Path) -> None:
    """The real QEMU and the real device, whatever they do here."""
    program, booted = tools.find("qemu-system-x86_64"), cached_kernel()
    if program is None or booted is None or tools.kvm_obstacle(tools.KVM) is not None:
        pytest.skip("needs QEMU, /dev/kvm and a kernel that was prepared before")
    started = time.monotonic()
    choice = choose(Accel.AUTO, booted, program, tmp_path / "kvm.json", lambda _: None)
    assert time.monotonic() - started < 4 * accelerator.LIMIT  # and not for ever
    assert choice.settled
    assert choice.kvm is (choice.why == "KVM boots kernels here")


def test_another_device_or_permission_is_tried_again(device: Path, tmp_path: Path) -> None:
    """/dev/null bound over /dev/kvm for one run must not decide for the next ones."""
    ask(tmp_path, ABORTS)
    device.chmod(0o600 if device.stat().st_mode & 0o777 != 0o600 else 0o660)
    ask(tmp_path, ABORTS)
    assert runs(tmp_path) == 2
    other = device.with_name("other")
    other.touch()
    other.replace(device)
    ask(tmp_path, ABORTS)
    assert runs(tmp_path) == 3


@pytest.mark.usefixtures("device")
def test_what_is_remembered_ages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(tmp_path, ABORTS)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + accelerator.VALID - 60)
    ask(tmp_path, ABORTS)
    assert runs(tmp_path) == 1
    monkeypatch.setattr(time, "time", lambda: now + accelerator.VALID + 60)
    ask(tmp_path, ABORTS)
    assert runs(tmp_path) == 2


@pytest.mark.usefixtures("device")
def test_silent_kernels_that_take_turns_are_each_tried_once(tmp_path: Path) -> None:
    for image in ("a", "b", "a", "b"):
        choice = ask(tmp_path, HANGS, sha256=image * 64)
        assert not choice.kvm
    assert runs(tmp_path) == 2


@pytest.mark.parametrize("wanted", [Accel.AUTO, Accel.KVM])
def test_kvm_is_not_tried_for_another_architecture(tmp_path: Path, wanted: Accel) -> None:
    image = tmp_path / "Image"
    foreign = next(arch for arch in Arch if arch is not HOST)
    kernel = PreparedKernel("k", "6.12", "", "", image, "0", tmp_path, image, arch=foreign)

    def chosen() -> accelerator.Choice:
        return choose(wanted, kernel, tmp_path / "qemu", tmp_path / "kvm.json", lambda _: None)

    if wanted is Accel.KVM:
        with pytest.raises(HostError, match=f"has no KVM for {foreign}; use accel: auto or tcg"):
            chosen()
    else:
        assert not chosen().kvm
        assert not chosen().settled  # it says nothing about kernels of the host's architecture
