# SPDX-License-Identifier: GPL-2.0-only
"""The selftest itself, as a nightly run starts it: real faults in real kernels."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.kernels.cache import Cache
from harness.selftest import FAULTS
from tests.boots.conftest import command, manifest

ROOT = Path(__file__).parents[2]
#: Seconds that the whole selftest may take on two processors under TCG, once kernels are fetched.
LIMIT = 240
NONE = "none"

Selftest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_selftest(cache: Cache, tmp_path: Path) -> Selftest:
    def run(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(tmp_path / "run", cache, ["selftest", str(file), *arguments]),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
        )

    return run


def rows(output: str) -> dict[str, str]:
    """By fault: "ok" or "NOT OK"."""
    known = {NONE, *(fault.name for fault in FAULTS)}
    found = (line.split(maxsplit=1) for line in output.splitlines() if line[:1].strip())
    return {
        name: "NOT OK" if rest[0].endswith("NOT OK") else rest[0].split()[-1]
        for name, *rest in found
        if name in known
    }


def test_every_fault_is_seen_in_time(run_selftest: Selftest) -> None:
    done = run_selftest(ROOT / "kernels.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(done.stdout) == dict.fromkeys([NONE, *(fault.name for fault in FAULTS)], "ok")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("selftest ok: 13 faults")
    assert int(last.rpartition("(")[2].removesuffix(" s)")) < LIMIT


def test_code_runs_in_a_kernel_with_other_structures(run_selftest: Selftest) -> None:
    """Debian's 6.1 lays out its modules otherwise, and checks the versions of what they use."""
    names = ("oops", "warning", "busy-hang")
    done = run_selftest(ROOT / "kernels.yaml", "--kernel", "debian-6.1", "--only", ",".join(names))
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(done.stdout) == dict.fromkeys([NONE, *names], "ok")


def test_a_kernel_that_does_not_pass_gives_way_to_an_older_one(
    run_selftest: Selftest, tmp_path: Path
) -> None:
    file = manifest(
        tmp_path,
        "  - name: new\n"
        "    deb: {suite: trixie, package: linux-image-amd64}\n"
        "    expect: {full_info: false}\n"
        "  - name: old\n"
        "    deb: {suite: bookworm, package: linux-image-amd64}\n",
    )
    done = run_selftest(file, "--only", "early-end")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "new: fail, so the next older kernel is tried" in done.stdout
    assert "old: 6.1" in done.stdout


def test_a_named_kernel_that_does_not_pass_proves_nothing(run_selftest: Selftest) -> None:
    done = run_selftest(ROOT / "kernels.yaml", "--kernel", "debian-5.10", "--only", "panic")
    assert done.returncode == 1
    assert rows(done.stdout) == {NONE: "NOT OK"}


def test_an_unknown_fault_is_a_wrong_argument(run_selftest: Selftest) -> None:
    done = run_selftest(ROOT / "kernels.yaml", "--only", "panick")
    assert done.returncode == 2
    assert "'panick' is not a fault of the selftest" in done.stderr
