# SPDX-License-Identifier: GPL-2.0-only
"""A harness that is broken itself, as after half an upgrade, under git bisect run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def started(command: str, library: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """The harness, where a library that it imports holds ``library``."""
    (directory / "platformdirs.py").write_text(library)
    return subprocess.run(
        [sys.executable, "-m", "harness", command],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{directory}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("command", "status"), [("step", 128), ("matrix", 1)])
def test_a_harness_that_cannot_be_imported_calls_no_commit_bad(
    command: str, status: int, tmp_path: Path
) -> None:
    done = started(command, "raise ImportError('half an upgrade')\n", tmp_path)
    assert done.returncode == status
    assert "half an upgrade" in done.stderr


@pytest.mark.parametrize("command", ["step", "matrix"])
def test_an_interruption_while_modules_load_shows_no_traceback(
    command: str, tmp_path: Path
) -> None:
    done = started(command, "raise KeyboardInterrupt\n", tmp_path)
    assert (done.returncode, done.stderr) == (130, "")
