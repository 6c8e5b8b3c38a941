# SPDX-License-Identifier: GPL-2.0-only
"""A real kernel that fails, again when it is confirmed, and again from its bundle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.bundle import archive, load, place
from harness.kernels.cache import Cache
from tests.boots.conftest import PATIENCE, Harness, Run, manifest

FAILING = (
    "  - name: k\n    deb: {suite: bookworm, package: linux-image-amd64}\n"
    "    expect: {full_info: true}\n"
)
OPTIONS = ("--check", "mptcp_info.readable", "--family", "ipv4", "--seed", "77")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return manifest(tmp_path_factory.mktemp("failing"), FAILING)


@pytest.fixture(scope="module")
def failing(harness: Harness, kernels: Path) -> Run:
    """A kernel that fails, booted twice."""
    return harness("matrix", str(kernels), *OPTIONS, "--confirm", "1", "--bundle-image")


@pytest.fixture(scope="module")
def bundle(failing: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(place(failing.directory, "k"), tmp_path_factory.mktemp("bundle")))


def test_an_expected_capability_that_is_absent_fails(failing: Run) -> None:
    assert failing.status == 1
    assert failing.kernel("k")["verdict"] == "fail"
    sentence = (
        "full_info is expected (the manifest says full_info: true), "
        "but the kernel lacks it: EOPNOTSUPP"
    )
    assert sentence in failing.kernel("k")["reason"]
    assert sentence in " ".join(failing.stdout.split())


def test_a_failure_is_confirmed_and_every_boot_kept(failing: Run) -> None:
    kernel = failing.kernel("k")
    assert kernel["confirmed"] == {"boots": 2, "bad": 2}
    assert kernel["reason"].startswith("fails 2 of 2: capability.full_info: ")
    assert [attempt["verdict"] for attempt in kernel["attempts"]] == ["fail", "fail"]
    for number in (1, 2):
        console = failing.directory / f"kernels/k/attempt-{number}/console.log"
        assert console.stat().st_size > 10_000
    assert "confirming: boot 1 of 1 more" in failing.stdout
    assert "attempt 2: fail, the VM powered off" in failing.stdout


def test_a_failing_kernel_is_booted_again_by_a_run_that_reuses(
    harness: Harness, kernels: Path, failing: Run
) -> None:
    assert failing.status == 1
    again = harness("matrix", str(kernels), "--reuse", *OPTIONS)
    assert again.status == 1
    assert list((again.directory / "kernels").glob("*/attempt-*"))
    assert "the last result was fail (fails 2 of 2): testing again" in again.stdout


def replay(directory: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "replay", *arguments]
    return subprocess.run(
        [*command, "--cache", str(cache), "--output", str(directory)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_a_bundle_has_the_command_line_of_its_qemu(bundle: Path) -> None:
    (command,) = archive.read(bundle)["attempt-1/qemu.txt"].decode().splitlines()
    assert "qemu-system-x86_64 " in command
    assert " -m 512M " in command
    assert "virtserialport,bus=mptcpbus.0" in command


def test_the_image_of_a_bundle_fails_again_with_nothing_cached(
    bundle: Path, tmp_path: Path
) -> None:
    done = replay(tmp_path / "run", tmp_path / "cache", str(bundle))
    assert done.returncode == 1, done.stderr
    assert "fail: the same: fails in ipv4 capability.full_info" in done.stdout
    assert (tmp_path / "run/tcg-1-1/kernels/k/attempt-1/console.log").stat().st_size > 10_000


def test_another_checker_in_a_bundle_is_what_the_guest_runs(
    bundle: Path, cache: Cache, tmp_path: Path
) -> None:
    other = tmp_path / "other.bundle.tar.zst"
    _with_file(other, archive.read(bundle), "checker/vm.py", b"raise SystemExit('this was run')\n")
    done = replay(tmp_path / "run", cache.root, str(other))
    assert "differs from the installed one in vm.py: the bundle's is used" in done.stdout
    console = tmp_path / "run/tcg-1-1/kernels/k/attempt-1/console.log"
    assert b"this was run" in console.read_bytes()


def _with_file(path: Path, members: dict[str, bytes], name: str, content: bytes) -> None:
    """Write the bundle of ``members`` with another file of that name."""
    described = json.loads(members["bundle.json"])
    digest = hashlib.sha256(content).hexdigest()
    described["files"][name] = {"size": len(content), "sha256": digest}
    archive.write(path, {**members, name: content, "bundle.json": json.dumps(described).encode()})


def test_what_was_not_varied_for_want_of_kvm_is_said(
    bundle: Path, cache: Cache, tmp_path: Path
) -> None:
    done = replay(tmp_path / "run", cache.root, str(bundle), "--vary", "--times", "1")
    assert done.returncode == 1, done.stderr
    assert "the failure depends on the kernel: it was reproduced in " in done.stdout
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        assert "KVM was not tried: /dev/kvm is " in done.stdout


def test_the_bundle_is_of_the_seed_that_was_given(bundle: Path) -> None:
    assert load(bundle).asked.seed == 77
