# SPDX-License-Identifier: GPL-2.0-only
"""The architectures of kernels, and which of them a manifest names."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.host import architectures, tools
from harness.host.architectures import ARCHITECTURES, HOST, Arch


def test_every_architecture_is_described() -> None:
    assert set(ARCHITECTURES) == set(Arch)
    machines = [data.machine for data in ARCHITECTURES.values()]
    assert len(set(machines)) == len(machines)


@pytest.mark.parametrize(
    ("machine", "arch"),
    [("x86_64", Arch.AMD64), ("aarch64", Arch.ARM64), ("ppc64le", Arch.PPC64EL), ("sparc64", None)],
)
def test_a_machine_has_debians_name(machine: str, arch: Arch | None) -> None:
    assert architectures.of_machine(machine) is arch


def test_the_text_of_a_manifest_shows_its_architectures(tmp_path: Path) -> None:
    manifest = tmp_path / "kernels.yaml"
    manifest.write_text("a:\n  - arch: s390x\n  # arch: riscv64\n  - {x: 1, arch: 'arm64'}\n")
    assert architectures.named_in(manifest) == {Arch.S390X, Arch.ARM64}


def test_a_manifest_that_cannot_be_read_names_none(tmp_path: Path) -> None:
    assert architectures.named_in(tmp_path / "none") == frozenset()


def test_only_the_qemus_that_a_manifest_names_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "locate", lambda _: None)
    wanted = {tool.debian for tool in tools.missing({Arch.S390X, HOST})}
    assert "qemu-system-misc" in wanted
    assert not wanted & {"qemu-system-arm", "qemu-system-ppc"} - {ARCHITECTURES[HOST].qemu_package}
