# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from pathlib import Path

import pytest

from harness.host import files
from harness.kernels import Cache
from harness.vm import accelerator


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def fake(path: Path, said: str) -> Path:
    """A QEMU that was installed long ago."""
    path.write_text(f"#!/bin/sh\necho asked >> {path}.log\necho '{said}'\n")
    path.chmod(0o755)
    return path


def settle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "is_settled", lambda _: True)


def asked(path: Path) -> int:
    return len(Path(f"{path}.log").read_text().splitlines())


def test_version_is_asked_for_once(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake(tmp_path / "qemu", "QEMU emulator version 7.2.22 (Debian 1:7.2)")
    settle(program, monkeypatch)
    assert [accelerator.qemu_version(program, cache) for _ in range(3)] == ["7.2.22"] * 3
    assert asked(program) == 1


def test_other_qemu_in_its_place_is_asked_again(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake(tmp_path / "qemu", "QEMU emulator version 7.2.22")
    settle(program, monkeypatch)
    accelerator.qemu_version(program, cache)
    fake(tmp_path / "new", "QEMU emulator version 10.0.1").replace(program)
    assert accelerator.qemu_version(program, cache) == "10.0.1"


def test_qemu_that_was_just_installed_is_not_remembered(tmp_path: Path, cache: Cache) -> None:
    program = fake(tmp_path / "qemu", "QEMU emulator version 7.2.22")
    accelerator.qemu_version(program, cache)
    accelerator.qemu_version(program, cache)
    assert asked(program) == 2


@pytest.mark.parametrize("content", ["", "[]", '{"of": 1}', '{"of": [], "is": 3}'])
def test_damaged_memory_costs_a_question(tmp_path: Path, cache: Cache, content: str) -> None:
    program = fake(tmp_path / "qemu", "QEMU emulator version 7.2.22")
    (cache.directory() / "qemu.json").write_text(content)
    assert accelerator.qemu_version(program, cache) == "7.2.22"


def test_qemu_that_is_gone_or_mute_is_said_to_be_unknown(tmp_path: Path, cache: Cache) -> None:
    assert accelerator.qemu_version(tmp_path / "none", cache).startswith("unknown")
    assert accelerator.qemu_version(fake(tmp_path / "mute", "hello"), cache) == "unknown"
    (tmp_path / "mute").chmod(0o644)
    assert accelerator.qemu_version(tmp_path / "mute", cache).startswith("unknown")
