# SPDX-License-Identifier: GPL-2.0-only
"""What virtme-ng is told: nothing of a user's or a package's reaches its shell unquoted."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from harness.host.architectures import Arch
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest.plan import Plan
from harness.verdict.verdicts import Family
from harness.vm import commandline
from harness.vm.commandline import Machine, Request, Unsafe
from harness.vm.initramfs import REQUEST as REQUEST_FILE


def kernel(root: Path, release: str = "6.12.1-amd64") -> PreparedKernel:
    image = root / "boot" / f"vmlinux-{release}"
    return PreparedKernel("k", release, "v", "origin", image, "0" * 64, root, image)


@pytest.fixture
def qemu(tmp_path: Path) -> Path:
    program = tmp_path / "it's a tool" / "qemu-system-x86_64"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@"\nexit 7\n')
    program.chmod(0o755)
    return program


@pytest.fixture
def work(tmp_path: Path) -> Path:
    # pytest's own directories have harmless names.
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


REQUEST = Request(nonce="ab12", seed=5, plan=Plan((Family.IPV4,), ("ip_tos.is_one_byte",)))


def test_paths_with_blanks_are_reached_through_links(
    tmp_path: Path, work: Path, qemu: Path
) -> None:
    prepared = kernel(tmp_path / "a cache; with ünusual $names")
    commandline.lay_out(work, prepared, qemu)
    arguments = commandline.command(work, Machine())
    assert arguments[arguments.index("--run") + 1] == f"{work}/kernel"
    assert (work / "kernel").readlink() == prepared.boot_image
    assert "ünusual" not in " ".join(arguments)


@pytest.mark.parametrize("release", ["6.1;reboot", "$(id)", "6.1 init=/bin/sh", "../../etc", ""])
def test_an_unusual_release_is_refused(
    release: str, tmp_path: Path, work: Path, qemu: Path
) -> None:
    with pytest.raises(Unsafe):
        commandline.lay_out(work, kernel(tmp_path, release), qemu)


def test_a_work_directory_that_a_shell_would_take_apart_is_refused(
    tmp_path: Path, qemu: Path
) -> None:
    with pytest.raises(Unsafe):
        commandline.lay_out(tmp_path / "a b", kernel(tmp_path), qemu)


@pytest.mark.parametrize("value", ["a b", "a;b", "a'b", "$(a)", "a\nb"])
def test_an_unusual_value_for_the_guest_is_refused(value: str) -> None:
    with pytest.raises(Unsafe):
        Request(nonce="ab", seed=1, plan=Plan(checks=(value,))).arguments()


def test_kvm_is_never_left_to_fall_back(work: Path) -> None:
    arguments = commandline.command(work, Machine(kvm=True))
    assert "--disable-kvm" not in arguments
    assert any("accel=kvm" in argument for argument in arguments)


def test_tcg_turns_kvm_off(work: Path) -> None:
    assert "--disable-kvm" in commandline.command(work, Machine())


@pytest.mark.parametrize("kvm", [False, True])
def test_an_emulated_processor_hands_events_over_itself(work: Path, kvm: bool) -> None:
    """Otherwise it spins until another thread of QEMU wakes up, 0.2 ms for each event."""
    arguments = commandline.command(work, Machine(kvm=kvm))
    assert any("id=mptcpbus,ioeventfd=off" in argument for argument in arguments) is not kvm


def test_the_script_is_what_the_guest_parses(work: Path) -> None:
    arguments = commandline.command(work, Machine())
    script = shlex.split(arguments[arguments.index("--exec") + 1])
    assert script[:3] == ["python3", "-I", "-S"]
    assert script[-1] == f"@/{REQUEST_FILE}"
    assert {"nonce=ab12", "checks=ip_tos.is_one_byte"} <= set(REQUEST.arguments())


def test_the_environment_has_a_home_of_its_own(work: Path) -> None:
    inherited = {"HOME": "/home/user", "PATH": "/usr/bin", "A": "b"}
    environment = commandline.environment(work, inherited)
    assert environment["HOME"] == f"{work}/home"
    assert "A" not in environment
    assert environment["PATH"].startswith(f"{work}/bin:")


def test_the_qemu_wrapper_keeps_the_exit_status(tmp_path: Path, work: Path, qemu: Path) -> None:
    commandline.lay_out(work, kernel(tmp_path), qemu)
    wrapper = work / "bin" / "qemu-system-x86_64"
    answer = subprocess.run([wrapper, "-m", "a  b"], capture_output=True, text=True)
    assert answer.stdout == "-m a  b\n"
    assert answer.returncode == 7
    assert (work / commandline.QEMU_STATUS).read_text().strip() == "7"


def test_a_guest_cannot_fill_the_disk_through_qemu(tmp_path: Path, work: Path, qemu: Path) -> None:
    """Nor end QEMU by it, which would look like a failure of the host."""
    qemu.write_text('#!/bin/sh\nhead -c 40000000 /dev/zero > "$1"; echo goes on\n')
    commandline.lay_out(work, kernel(tmp_path), qemu)
    port = work / "port"
    answer = subprocess.run(
        [work / "bin" / "qemu-system-x86_64", port], capture_output=True, text=True
    )
    assert port.stat().st_size == 32 << 20
    assert answer.stdout == "goes on\n"


def test_asking_qemu_for_its_version_leaves_no_status(
    tmp_path: Path, work: Path, qemu: Path
) -> None:
    commandline.lay_out(work, kernel(tmp_path), qemu)
    subprocess.run([work / "bin" / "qemu-system-x86_64", "--version"], capture_output=True)
    assert not (work / commandline.QEMU_STATUS).exists()


def test_file_answers_with_the_release(tmp_path: Path, work: Path, qemu: Path) -> None:
    commandline.lay_out(work, kernel(tmp_path), qemu)
    answer = subprocess.run([work / "bin" / "file", "image"], capture_output=True, text=True)
    assert "version 6.12.1-amd64" in answer.stdout.split(", ")


def test_another_architecture_is_virtme_ngs_to_boot(work: Path) -> None:
    command = commandline.command(work, Machine(arch=Arch.S390X))
    assert command[command.index("--arch") + 1] == "s390x"
    # With it, QEMU 7.2 computes wrong checksums.
    assert any("-cpu qemu,vx=off" in word for word in command)


@pytest.mark.parametrize(
    "dropped",
    [
        ("-device", "virtio-9p-ccw,fsdev=x"),
        ("-device", "virtio-9p-device,fsdev=x"),
        ("-device", "virtio-serial-ccw"),
        ("-device", "virtio-serial-device"),
        ("-device", "diag288,id=watchdog0"),
    ],
)
def test_no_device_of_virtme_ngs_init_reaches_qemu_on_any_architecture(
    tmp_path: Path, work: Path, qemu: Path, dropped: tuple[str, str]
) -> None:
    commandline.lay_out(work, kernel(tmp_path), qemu)
    kept = ("-device", "sclpconsole,chardev=console", "-device", "virtio-serial-pci,id=mptcpbus")
    subprocess.run([str(work / "bin" / qemu.name), *dropped, *kept], check=False)
    words = (work / commandline.QEMU_COMMAND).read_text().split("\0")[1:-1]
    assert words == list(kept)
