# SPDX-License-Identifier: GPL-2.0-only
"""A kernel of another architecture: big-endian, from the newest package that the mirror has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.host import tools
from harness.host.architectures import HOST, Arch
from tests.boots.conftest import Harness

MANIFEST = """\
kernels:
  - name: big-endian
    arch: s390x
    deb: {suite: trixie, package: linux-image-s390x}
"""


@pytest.mark.apt
@pytest.mark.skipif(
    HOST is Arch.S390X or tools.locate(tools.qemu_of(Arch.S390X)) is None,
    reason="no qemu-system-s390x (package qemu-system-misc)",
)
@pytest.mark.skipif(
    bool(os.environ.get("CI")), reason="CI has no QEMU and no packages for s390x, and 8 minutes"
)
def test_a_big_endian_kernel_passes(harness: Harness, tmp_path: Path) -> None:
    manifest = tmp_path / "s390x.yaml"
    manifest.write_text(MANIFEST)
    run = harness("matrix", str(manifest), "--profile", "quick")
    assert run.status == 0, run.stdout
    kernel = run.kernel("big-endian")
    assert (kernel["verdict"], kernel["arch"], kernel["accel"]) == ("pass", "s390x", "tcg")
    assert kernel["release"].endswith("-s390x")
