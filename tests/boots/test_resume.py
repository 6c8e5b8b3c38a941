# SPDX-License-Identifier: GPL-2.0-only
"""A run that was killed or interrupted between two kernels, and what --resume makes of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.kernels.cache import Cache
from tests.boots.conftest import PATIENCE, SOON, manifest, virtual_machines, wait_until

NAMES = ["first", "second"]
KERNEL = "  - name: {}\n    deb: {{suite: trixie, package: linux-image-amd64}}\n"
OPTIONS = ("-j", "1", "--check", "mptcp_info.readable")


class Matrix:
    """Two kernels, one VM at a time, whose run is cut off after the first result."""

    def __init__(self, place: Path, cache: Cache, temporary: Path) -> None:
        file = manifest(place, "".join(map(KERNEL.format, NAMES)))
        self.command = [
            *(sys.executable, "-m", "harness", "matrix", str(file), *OPTIONS),
            *("--cache", str(cache.root)),
        ]
        self.temporary = temporary
        self.output = place / "stdout"
        self.environment = {
            **os.environ,
            "TMPDIR": str(temporary),
            "XDG_STATE_HOME": str(place / "state"),
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                env=self.environment,
            )
        self._runs = place / "state" / "mptcp-harness" / "runs"
        assert wait_until(self._between_two, PATIENCE)

    def _between_two(self) -> bool:
        return bool(self.results()) and bool(virtual_machines(self.temporary))

    def results(self) -> dict[str, bytes]:
        """What each result's file holds, by the kernel's name."""
        files = self._runs.glob("*/kernels/*/result.json")
        return {file.parent.name: file.read_bytes() for file in files}

    def resume(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, "--resume"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=self.environment,
        )

    def record(self) -> dict[str, Any]:
        """That of the only run."""
        (file,) = self._runs.glob("*/run.json")
        read = json.loads(file.read_text())
        assert isinstance(read, dict)
        return read


@pytest.fixture
def matrix(tmp_path: Path, cache: Cache, temporary: Path) -> Iterator[Matrix]:
    made = Matrix(tmp_path, cache, temporary)
    yield made
    made.process.kill()
    made.process.wait()


def assert_completed(matrix: Matrix, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert [kernel["name"] for kernel in matrix.record()["kernels"]] == NAMES
    assert "2 kernels: 2 pass; all as expected" in done.stdout


def test_a_run_that_was_killed_is_gone_on_with_and_one_that_goes_on_is_not(matrix: Matrix) -> None:
    matrix.process.send_signal(signal.SIGSTOP)  # else it could end meanwhile
    second = matrix.resume()
    assert second.returncode == 2
    assert "two would spoil each other" in second.stderr
    matrix.process.kill()
    matrix.process.wait()
    kept = matrix.results()
    (finished,) = kept  # whichever was prepared first
    done = matrix.resume()
    assert_completed(matrix, done)
    assert matrix.results()[finished] == kept[finished]
    # A slow boot has more lines: "second: booting: TCG, for 60 s".
    begun = [line for line in done.stdout.splitlines() if re.search(r": booting: \w+$", line)]
    booted = [line.split()[-3] for line in begun]
    assert sorted(booted) == [f"{name}:" for name in NAMES if name != finished]
    assert f"{finished}: pass: from the interrupted run" in done.stdout


def test_an_interrupted_run_ends_at_once_says_what_is_missing_and_is_gone_on_with(
    matrix: Matrix,
) -> None:
    matrix.process.send_signal(signal.SIGINT)
    assert wait_until(lambda: not virtual_machines(matrix.temporary), SOON)
    assert matrix.process.wait(timeout=SOON) == 130
    (finished,) = matrix.results()
    (missing,) = (name for name in NAMES if name != finished)
    said = f"1 kernel: 1 pass; interrupted; missing: {missing}"
    assert said in matrix.output.read_text()
    assert matrix.record()["run"]["missing"] == [missing]
    assert_completed(matrix, matrix.resume())
