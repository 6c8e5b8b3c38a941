# SPDX-License-Identifier: GPL-2.0-only
"""A real kernel that fails, booted again to see whether it always does."""

from __future__ import annotations

from pathlib import Path

from tests.boots.conftest import Harness, manifest

OLD = "  - name: k\n    deb: {suite: bookworm, package: linux-image-amd64}\n"


def test_a_failure_is_confirmed_and_every_boot_kept(harness: Harness, tmp_path: Path) -> None:
    failing = manifest(tmp_path, f"{OLD}    expect: {{full_info: true}}\n")
    options = ("--check", "mptcp_info.readable", "--family", "ipv4", "--confirm", "1")
    run = harness("matrix", str(failing), *options)
    assert run.status == 1
    kernel = run.kernel("k")
    assert kernel["confirmed"] == {"boots": 2, "bad": 2}
    assert kernel["reason"].startswith("fails 2 of 2: capability.full_info: ")
    assert [attempt["verdict"] for attempt in kernel["attempts"]] == ["fail", "fail"]
    for number in (1, 2):
        assert (run.directory / f"kernels/k/attempt-{number}/console.log").stat().st_size > 10_000
    assert "confirming: boot 1 of 1 more" in run.stdout
    assert "attempt 2: fail, the VM powered off" in run.stdout
