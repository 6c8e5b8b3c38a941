# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that are not what was expected, and images that are no kernels, by the real thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.kernels import prepare
from harness.kernels.cache import Cache
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest.kernels_yaml import DebSource, KernelEntry
from tests.boots.conftest import Harness, manifest

TRIXIE = "deb: {suite: trixie, package: linux-image-amd64}"
#: One payload, few checks: these tests are about the judgement.
QUICK = ("--check", "mptcp_info.readable,full_info.readable")


@pytest.fixture(scope="module")
def trixie(cache: Cache) -> PreparedKernel:
    entry = KernelEntry("trixie", DebSource("trixie", "linux-image-amd64"), "the tests")
    return prepare(entry, cache, lambda _: None)


def test_images_that_are_none_leave_the_others_their_results(
    harness: Harness, tmp_path: Path, trixie: PreparedKernel
) -> None:
    """Beside them is one in which MPTCP is turned off: it is turned on, and that is said."""
    whole = trixie.image.read_bytes()
    (tmp_path / "truncated").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("not a kernel\n")
    (tmp_path / "empty").touch()
    (tmp_path / "directory").mkdir()
    bad = ("truncated", "text", "empty", "directory")
    entries = "".join(f"  - {{name: {name}, image: {name}}}\n" for name in bad)
    good = f"  - name: good\n    {TRIXIE}\n    append: sysctl.net.mptcp.enabled=0\n"
    run = harness("matrix", str(manifest(tmp_path, entries + good)), *QUICK)
    assert run.status == 3
    assert run.kernel("good")["verdict"] == "pass"
    assert "net.mptcp.enabled was 0; turned on" in run.stdout
    for name in bad:
        assert run.kernel(name)["verdict"] == "infrastructure"
        assert str(tmp_path / name) in run.kernel(name)["reason"]
    assert "Traceback" not in run.stdout + run.stderr
    # The root is an initramfs, and nothing else is mounted that holds files of the host.
    console = run.console("good")
    assert "Run /init as init process" in console
    assert "9pnet" not in console


def test_one_image_is_checked_with_the_modules_beside_it(
    harness: Harness, trixie: PreparedKernel
) -> None:
    run = harness("check", str(trixie.boot_image), "--family", "ipv6", *QUICK)
    assert run.status == 0, run.stdout + run.stderr
    (kernel,) = run.record["kernels"]
    assert kernel["release"] == trixie.release
    assert list(kernel["families"]) == ["ipv6"]


def test_a_kernel_without_ipv6_is_recognised(harness: Harness, tmp_path: Path) -> None:
    file = manifest(
        tmp_path,
        f"  - name: four\n    {TRIXIE}\n    append: ipv6.disable=1\n    expect: {{ipv6: false}}\n",
    )
    run = harness("matrix", str(file), *QUICK)
    kernel = run.kernel("four")
    assert run.status == 0, run.stdout
    assert kernel["capabilities"]["ipv6"] is False
    assert kernel["capabilities"]["mptcp"] is True
    assert kernel["families"]["ipv6"]["verdict"] == "unsupported"


def test_a_kernel_without_its_modules_could_not_be_tested(
    harness: Harness, tmp_path: Path, cache: Cache
) -> None:
    """Debian's 6.1 has virtio_console as a module: without it the checker has nowhere to report."""
    entry = KernelEntry("old", DebSource("bookworm", "linux-image-amd64"), "the tests")
    alone = tmp_path / "vmlinuz"
    alone.write_bytes(prepare(entry, cache, lambda _: None).image.read_bytes())
    run = harness("check", str(alone))
    (kernel,) = run.record["kernels"]
    assert run.status == 3
    assert kernel["verdict"] == "infrastructure"
    assert "virtio_console" in kernel["reason"]
    assert "--modules" in kernel["reason"]
