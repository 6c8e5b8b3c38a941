# SPDX-License-Identifier: GPL-2.0-only
"""KVM counts when it has been seen to boot; a script stands for QEMU, which this needs to break."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.kernels.prepared import PreparedKernel
from harness.manifest import Accel
from harness.vm import accelerator
from harness.vm.accelerator import AcceleratorUnavailable, choose

BOOTS = "echo 'Linux version 6.12'; echo 'Kernel panic - not syncing: VFS: no root'"


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(accelerator, "DEVICE", path)
    monkeypatch.setattr(accelerator, "PATIENCE", 1.0)
    return path


def qemu(tmp_path: Path, script: str) -> Path:
    program = tmp_path / "qemu-system-x86_64"
    text = f"#!/bin/sh\necho >> {tmp_path}/runs\n{script}\n"
    if not program.exists() or program.read_text() != text:  # a new date makes it another one
        program.write_text(text)
        program.chmod(0o755)
    return program


def kernel(tmp_path: Path) -> PreparedKernel:
    image = tmp_path / "vmlinux"
    return PreparedKernel("k", "6.12", "v", "o", image, "0" * 64, tmp_path, image)


def ask(tmp_path: Path, script: str, wanted: Accel = Accel.AUTO) -> accelerator.Choice:
    remembered = tmp_path / "cache" / "kvm.json"
    return choose(wanted, kernel(tmp_path), qemu(tmp_path, script), remembered, lambda _: None)


def runs(tmp_path: Path) -> int:
    path = tmp_path / "runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.usefixtures("device")
def test_a_kvm_that_boots_a_kernel_is_used(tmp_path: Path) -> None:
    assert ask(tmp_path, BOOTS).kvm


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'failed to set MSR 0x10a' >&2; exit 134", "failed to set MSR"),
        ("echo 'KVM internal error. Suberror: 1'; sleep 60", "internal error"),
        ("sleep 60", "nothing at all"),
        ("echo 'Linux version 6.12'; sleep 60", "Linux version"),
        ("exit 0", "nothing at all"),
    ],
)
def test_a_kvm_that_does_not_boot_a_kernel_is_not_used(
    tmp_path: Path, script: str, why: str
) -> None:
    choice = ask(tmp_path, script)
    assert not choice.kvm
    assert why in choice.why


@pytest.mark.usefixtures("device")
def test_the_answer_is_remembered(tmp_path: Path) -> None:
    ask(tmp_path, "exit 1")
    ask(tmp_path, "exit 1")
    assert runs(tmp_path) == 1


@pytest.mark.usefixtures("device")
def test_another_qemu_is_asked_again(tmp_path: Path) -> None:
    ask(tmp_path, "exit 1")
    assert ask(tmp_path, BOOTS).kvm


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}"])
def test_a_damaged_memory_is_no_answer(tmp_path: Path, text: str) -> None:
    remembered = tmp_path / "cache" / "kvm.json"
    remembered.parent.mkdir()
    remembered.write_text(text)
    assert ask(tmp_path, BOOTS).kvm
    assert json.loads(remembered.read_text())["trouble"] == ""


@pytest.mark.usefixtures("device")
def test_kvm_in_so_many_words_does_not_fall_back(tmp_path: Path) -> None:
    with pytest.raises(AcceleratorUnavailable, match="accel: auto or tcg"):
        ask(tmp_path, "exit 1", Accel.KVM)


@pytest.mark.usefixtures("device")
def test_tcg_in_so_many_words_tries_nothing(tmp_path: Path) -> None:
    assert not ask(tmp_path, BOOTS, Accel.TCG).kvm
    assert runs(tmp_path) == 0


def test_a_host_without_the_device_says_so(tmp_path: Path, device: Path) -> None:
    device.unlink()
    assert "has no" in ask(tmp_path, BOOTS).why
    assert runs(tmp_path) == 0
