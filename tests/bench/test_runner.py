# SPDX-License-Identifier: GPL-2.0-only
"""Running and counting, with small programs in the place of QEMU and apt-get."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from bench import runner
from bench.runner import Failed, Runner

BUSY = "i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done"


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    qemu = script(
        tmp_path / "qemu-system-x86_64", f'[ "$1" = busy ] && {{ {BUSY}; }}; exit "${{2:-0}}"'
    )
    apt = script(tmp_path / "apt-get", 'case "$*" in *slow*) exec sleep 0.2 ;; esac')
    place = tmp_path / "own"
    place.mkdir()
    return Runner(place, qemu, apt)


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def test_status_and_output_are_those_of_the_command(run: Runner, tmp_path: Path) -> None:
    found = run.run(shell("echo said; echo complained >&2; exit 3"), tmp_path)
    assert (found.status, found.output) == (3, "said\ncomplained\n")


def test_the_wall_time_is_that_of_the_command(run: Runner, tmp_path: Path) -> None:
    assert 0.2 <= run.run(["sleep", "0.2"], tmp_path).seconds < 20


def test_the_command_runs_where_it_is_told_to(run: Runner, tmp_path: Path) -> None:
    assert run.run(["pwd", "-P"], tmp_path).output == f"{tmp_path.resolve()}\n"


def test_each_qemu_is_counted(run: Runner, tmp_path: Path) -> None:
    found = run.run(shell("qemu-system-x86_64 & qemu-system-x86_64; wait"), tmp_path)
    assert found.qemus == 2


def test_qemu_that_is_asked_for_its_version_is_not_counted(run: Runner, tmp_path: Path) -> None:
    assert run.run(["qemu-system-x86_64", "--version"], tmp_path).qemus == 0


def test_the_qemus_of_one_command_do_not_count_for_the_next(run: Runner, tmp_path: Path) -> None:
    run.run(["qemu-system-x86_64"], tmp_path)
    assert run.run(["true"], tmp_path).qemus == 0


def test_the_status_of_qemu_gets_through(run: Runner, tmp_path: Path) -> None:
    assert run.run(["qemu-system-x86_64", "idle", "7"], tmp_path).status == 7


def test_the_processor_time_of_qemu_is_left_out(run: Runner, tmp_path: Path) -> None:
    with_qemu = run.run(["qemu-system-x86_64", "busy"], tmp_path)
    without = run.run(shell(BUSY), tmp_path)
    assert with_qemu.processor_s < without.processor_s / 2


def test_downloads_at_the_same_time_count_once(run: Runner, tmp_path: Path) -> None:
    both = "apt-get download slow & apt-get -c x update slow & wait"
    found = run.run(shell(both), tmp_path)
    assert 0.2 <= found.downloading_s <= found.seconds


def test_what_else_apt_get_does_is_no_download(run: Runner, tmp_path: Path) -> None:
    assert run.run(["apt-get", "indextargets", "slow"], tmp_path).downloading_s == 0


def test_a_command_that_hangs_is_ended_with_its_children(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "DEADLINE", 0.1)
    started = time.monotonic()
    with pytest.raises(Failed, match=r"sleep 60.* did not end within"):
        run.run(shell("sleep 60 & sleep 60"), tmp_path)
    assert time.monotonic() - started < 10


def test_a_host_without_apt_get_can_be_measured(tmp_path: Path) -> None:
    true = shutil.which("true")
    assert true is not None
    assert Runner(tmp_path, Path(true), None).run(["true"], tmp_path).status == 0


def test_the_time_in_which_qemu_or_make_runs_is_not_the_hosts(tmp_path: Path) -> None:
    qemu = script(tmp_path / "qemu-system-x86_64", "exec sleep 0.2")
    make = script(tmp_path / "make", "exec sleep 0.1")
    place = tmp_path / "own"
    place.mkdir()
    both = shell("qemu-system-x86_64 & qemu-system-x86_64; wait; make; sleep 0.1")
    found = Runner(place, qemu, None, make).run(both, tmp_path)
    assert 0.2 <= found.qemu_s < found.seconds
    assert 0.1 <= found.making_s < found.seconds
    assert found.host_s == pytest.approx(found.seconds - found.qemu_s - found.making_s)
    assert found.host_s >= 0.1
