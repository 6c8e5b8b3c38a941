# SPDX-License-Identifier: GPL-2.0-only
"""VMs, and all else that a harness began, end with it, however it ends."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.kernels.cache import Cache
from tests.boots.conftest import SOON, command, manifest, virtual_machines, wait_until

Start = Callable[..., tuple[subprocess.Popen[bytes], Path]]
KERNEL = "  - name: k\n    deb: {suite: trixie, package: linux-image-amd64}\n"
ENDINGS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def heeding_hangups() -> Iterator[None]:
    """Tests below nohup(1) inherit that SIGHUP is ignored; a harness they start must not."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def booting(started: Start, tmp_path: Path, temporary: Path) -> subprocess.Popen[bytes]:
    """A harness whose VM runs."""
    process, _ = started("matrix", str(manifest(tmp_path, KERNEL)))
    assert wait_until(lambda: virtual_machines(temporary), 120)
    return process


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_ends_the_vm(
    booting: subprocess.Popen[bytes], temporary: Path, number: signal.Signals
) -> None:
    booting.send_signal(number)
    assert wait_until(lambda: not virtual_machines(temporary), SOON)
    assert booting.wait(timeout=SOON) == 130
    assert not list(temporary.iterdir())


def test_nothing_outlives_a_harness_that_is_killed(
    booting: subprocess.Popen[bytes], temporary: Path
) -> None:
    assert list(temporary.iterdir())
    booting.kill()
    assert wait_until(lambda: not virtual_machines(temporary), SOON)
    assert wait_until(lambda: not list(temporary.iterdir()), SOON)


@pytest.fixture
def preparing(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A harness that waits for what another one prepares."""
    cache = Cache(tmp_path / "cache")
    arguments = ["matrix", str(manifest(tmp_path, KERNEL))]
    said = tmp_path / "said"
    with (
        said.open("wb") as output,
        cache.lock("apt-trixie"),
        subprocess.Popen(
            command(tmp_path / "run", cache, arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            assert wait_until(lambda: b"apt-trixie is locked" in said.read_bytes(), 60)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_ends_a_harness_that_prepares(
    preparing: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    preparing.send_signal(number)
    assert preparing.wait(timeout=SOON) == 130
