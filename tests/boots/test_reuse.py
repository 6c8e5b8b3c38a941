# SPDX-License-Identifier: GPL-2.0-only
"""What was tested is not tested again while nothing changed, by the real thing."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

import pytest

from harness.records.store import FILE
from tests.boots.conftest import Harness, Run, manifest

TRIXIE = "deb: {suite: trixie, package: linux-image-amd64}"
QUICK = ("--check", "mptcp_info.readable,full_info.readable")


def unheard_of() -> str:
    """A kernel argument that does nothing: results of other tests lie in the same cache."""
    return f"mptcp_test={secrets.token_hex(8)}"


def booted(run: Run) -> bool:
    return bool(list((run.directory / "kernels").glob("*/attempt-*")))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest")
    return manifest(path, f"  - name: k\n    {TRIXIE}\n    append: {unheard_of()}\n")


@pytest.fixture(scope="module")
def first(harness: Harness, kernels: Path) -> Run:
    return harness("matrix", str(kernels), "--reuse", *QUICK)


def test_a_kernel_that_is_not_known_is_booted(first: Run) -> None:
    assert first.status == 0, first.stdout + first.stderr
    assert booted(first)
    assert first.kernel("k")["reused_from"] is None
    assert "reused" not in first.stdout


def test_the_second_run_boots_nothing(harness: Harness, kernels: Path, first: Run) -> None:
    second = harness("matrix", str(kernels), "--reuse", *QUICK)
    assert second.status == 0, second.stdout + second.stderr
    assert not booted(second)
    assert f"reused from run {first.record['run']['id']}: 1 kernel" in second.stdout
    again, once = second.kernel("k"), first.kernel("k")
    assert again["reused_from"]["run"] == first.record["run"]["id"]
    assert again["reused_from"]["directory"] == str(first.directory)
    for same in ("verdict", "capabilities", "families", "image_sha256", "release"):
        assert again[same] == once[same]


def test_another_argument_of_the_kernel_boots_again(
    harness: Harness, tmp_path: Path, first: Run
) -> None:
    changed = manifest(tmp_path, f"  - name: k\n    {TRIXIE}\n    append: {unheard_of()}\n")
    run = harness("matrix", str(changed), "--reuse", *QUICK)
    assert booted(run)
    assert run.kernel("k")["reused_from"] is None


def test_a_damaged_result_is_said_and_the_kernel_booted_again(
    harness: Harness, kernels: Path, first: Run, state: Path
) -> None:
    with sqlite3.connect(state / "mptcp-harness" / FILE) as database:
        database.execute(
            "UPDATE results SET record = substr(record, 1, length(record) - 1)"
            " WHERE run = (SELECT number FROM runs WHERE id = ?)",
            (first.record["run"]["id"],),
        )
    database.close()
    run = harness("matrix", str(kernels), "--reuse", *QUICK)
    assert booted(run)
    assert "it is damaged" in run.stdout
