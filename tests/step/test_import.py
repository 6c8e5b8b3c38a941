# SPDX-License-Identifier: GPL-2.0-only
"""A harness that is broken itself, as after half an upgrade, under git bisect run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("command", "status"), [("step", 128), ("matrix", 1)])
def test_a_harness_that_cannot_be_imported_calls_no_commit_bad(
    command: str, status: int, tmp_path: Path
) -> None:
    (tmp_path / "platformdirs.py").write_text("raise ImportError('half an upgrade')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "harness", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert "half an upgrade" in done.stderr
