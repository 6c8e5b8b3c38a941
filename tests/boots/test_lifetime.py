# SPDX-License-Identifier: GPL-2.0-only
"""VMs end with the harness, however it ends."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boots.conftest import manifest, virtual_machines, wait_until

Start = Callable[..., tuple[subprocess.Popen[bytes], Path]]


@pytest.fixture
def booting(started: Start, tmp_path: Path, temporary: Path) -> subprocess.Popen[bytes]:
    """A harness whose VM runs."""
    file = manifest(tmp_path, "  - name: k\n    deb: {suite: trixie, package: linux-image-amd64}\n")
    process, _ = started("matrix", str(file))
    assert wait_until(lambda: virtual_machines(temporary), 120)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_vm_within_two_seconds(
    booting: subprocess.Popen[bytes], temporary: Path, number: signal.Signals
) -> None:
    booting.send_signal(number)
    assert wait_until(lambda: not virtual_machines(temporary), 2)
    assert booting.wait(timeout=10) == 130
    assert not list(temporary.iterdir())


def test_the_vm_does_not_outlive_a_harness_that_is_killed(
    booting: subprocess.Popen[bytes], temporary: Path
) -> None:
    booting.kill()
    assert wait_until(lambda: not virtual_machines(temporary), 2)
