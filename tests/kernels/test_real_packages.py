# SPDX-License-Identifier: GPL-2.0-only
"""Real kernels from Debian's archive, through the host's apt; a cache in CI keeps them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import kernels
from harness.kernels import Cache, KernelUnavailable, PreparedKernel
from harness.manifest import DebSource, KernelEntry
from tests.kernels.conftest import Said

pytestmark = pytest.mark.apt

SUITES = {"bullseye": "5.10.", "bookworm": "6.1.", "trixie": "6.12.", "trixie-backports": ""}


def entry(
    suite: str, package: str = "linux-image-amd64", *, is_series: bool = False
) -> KernelEntry:
    return KernelEntry(f"debian-{suite}", DebSource(suite, package), "test", is_series=is_series)


@pytest.fixture(scope="module")
def prepared() -> dict[str, PreparedKernel]:
    """The current kernel of each suite, prepared in parallel, in the user's own cache."""
    cache = Cache()
    with ThreadPoolExecutor(len(SUITES)) as pool:
        found = pool.map(lambda suite: kernels.prepare(entry(suite), cache, Said()), SUITES)
    return dict(zip(SUITES, found, strict=True))


@pytest.mark.parametrize("suite", SUITES)
def test_a_suites_current_kernel_is_laid_out_for_virtme_ng(
    prepared: dict[str, PreparedKernel], suite: str
) -> None:
    kernel = prepared[suite]
    assert kernel.release.startswith(SUITES[suite])
    assert kernel.boot_image == kernel.root / "boot" / f"vmlinux-{kernel.release}"
    modules = kernel.root / "lib" / "modules" / kernel.release
    assert "9pnet_virtio.ko:" in (modules / "modules.dep").read_text()
    assert {path.name for path in modules.rglob("*.ko.*")} == set()


@pytest.mark.parametrize("suite", SUITES)
def test_a_prepared_kernel_is_small(prepared: dict[str, PreparedKernel], suite: str) -> None:
    files = [path for path in prepared[suite].root.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 150e6
    assert len(files) < 40


def test_what_was_prepared_needs_no_download(prepared: dict[str, PreparedKernel]) -> None:
    said = Said()
    assert kernels.prepare(entry("bookworm"), Cache(), said) == prepared["bookworm"]
    assert "downloading" not in said


def test_the_builds_in_backports_are_a_series() -> None:
    series = entry("trixie-backports", "linux-image-*-amd64", is_series=True)
    found = kernels.expand(series, Cache())
    assert len(found) > 10
    assert len({kernel.name for kernel in found}) == len(found)


def test_a_suite_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(KernelUnavailable, match="has no suite bookwork"):
        kernels.prepare(entry("bookwork"), Cache(tmp_path), Said())
