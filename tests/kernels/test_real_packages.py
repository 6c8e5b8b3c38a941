# SPDX-License-Identifier: GPL-2.0-only
"""Real kernels from Debian's archive, through the host's apt; a cache in CI keeps them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import kernels
from harness.errors import KernelUnavailable
from harness.kernels import Cache, PreparedKernel, modules
from harness.manifest.kernels_yaml import DebSource, KernelEntry
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
def test_a_suites_current_kernel_is_booted_uncompressed(
    prepared: dict[str, PreparedKernel], suite: str
) -> None:
    kernel = prepared[suite]
    assert kernel.release.startswith(SUITES[suite])
    assert kernel.boot_image == kernel.root / "boot" / f"vmlinux-{kernel.release}"


def check_order(kernel: PreparedKernel) -> None:
    loaded: set[str] = set()
    for path in kernel.modules:
        module = modules.load(path.name, path.read_bytes())
        assert module.release == kernel.release
        assert set(module.depends) <= loaded, f"{module.name} does not load yet"
        loaded.add(module.name)


@pytest.mark.parametrize(
    ("suite", "also"),
    [("bullseye", set()), ("bookworm", {"virtio_pci_legacy_dev", "virtio_pci_modern_dev"})],
)
def test_the_modules_of_an_older_kernel_are_in_the_order_in_which_they_load(
    prepared: dict[str, PreparedKernel], suite: str, also: set[str]
) -> None:
    kernel = prepared[suite]
    base = {"virtio", "virtio_ring", "virtio_pci", "virtio_console"}
    assert {path.stem for path in kernel.modules} - set(modules.ON_DEMAND) == base | also
    check_order(kernel)


@pytest.mark.parametrize("suite", ["trixie", "trixie-backports"])
def test_from_6_12_on_a_boot_needs_no_module(
    prepared: dict[str, PreparedKernel], suite: str
) -> None:
    """Only those of sock_diag, which the checker loads where scenarios run."""
    assert [path.stem for path in prepared[suite].modules] == list(modules.ON_DEMAND)
    check_order(prepared[suite])


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_the_kernel_for_clouds_which_has_no_9p_can_be_booted(suite: str) -> None:
    kernel = kernels.prepare(entry(suite, "linux-image-cloud-amd64"), Cache(), Said())
    assert kernel.release.endswith("-cloud-amd64")
    check_order(kernel)


@pytest.mark.parametrize("suite", SUITES)
def test_a_prepared_kernel_is_small(prepared: dict[str, PreparedKernel], suite: str) -> None:
    files = [path for path in prepared[suite].root.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 150e6
    assert len(files) < 16


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
