# SPDX-License-Identifier: GPL-2.0-only
"""Compiled programs beside the checks, in the guest of a real kernel."""

from __future__ import annotations

from pathlib import Path

from harness.host import tools
from tests.boots.conftest import Harness, manifest

KERNEL = "  - name: k\n    deb: {suite: trixie, package: linux-image-amd64}\n"


def test_programs_run_in_both_families_and_are_compared(harness: Harness, tmp_path: Path) -> None:
    busybox = tools.find_static_busybox()
    static = f"{busybox} sh -c 'echo over {{family}}; test {{family}} = ipv4'"
    linked = "printf {family}"
    options = ("--check", "mptcp_info.readable", "--cross-check", static, "--cross-check", linked)
    run = harness("matrix", str(manifest(tmp_path, KERNEL)), *options)
    assert run.status == 0, run.stdout  # what a program says changes no verdict
    found = run.kernel("k")["cross_checks"]
    ends = [(each["family"], each["end"], each["status"], each["agrees"]) for each in found]
    assert ends == [
        ("ipv4", "exit", 0, True),
        ("ipv6", "exit", 1, False),
        ("ipv4", "exit", 0, True),
        ("ipv6", "exit", 0, True),
    ]
    assert [each["output"] for each in found] == ["over ipv4\n", "over ipv6\n", "ipv4", "ipv6"]
    assert "disagrees: exit 1 (over ipv6); the checks pass" in " ".join(run.stdout.split())
