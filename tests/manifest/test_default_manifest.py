# SPDX-License-Identifier: GPL-2.0-only
"""The kernels.yaml that the project ships."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from harness.manifest.kernels_yaml import DebSource, KernelEntry, load

# Names as the archive has them: one of each generation, and the variants beside it.
BACKPORTS = ["6.16.3+deb13", "6.19.14+deb13", "7.3.4+deb13"]
VARIANTS = ["{}-cloud-amd64", "{}-rt-amd64", "{}-amd64-dbg", "{}-amd64-unsigned"]


@pytest.fixture
def entries() -> dict[str, KernelEntry]:
    manifest = load(Path(__file__).parents[2] / "kernels.yaml")
    return {entry.name: entry for entry in manifest.entries}


def pattern(entry: KernelEntry) -> str:
    assert isinstance(entry.source, DebSource)
    return entry.source.package


def test_it_holds_the_current_kernels_of_four_generations(entries: dict[str, KernelEntry]) -> None:
    kernels = {name: entry.source for name, entry in entries.items() if not entry.is_series}
    assert kernels == {
        "debian-5.10": DebSource("bullseye", "linux-image-amd64"),
        "debian-6.1": DebSource("bookworm", "linux-image-amd64"),
        "debian-6.12": DebSource("trixie", "linux-image-amd64"),
        "debian-newest": DebSource("trixie-backports", "linux-image-amd64"),
    }


def test_only_bullseye_is_declared_to_lack_anything(entries: dict[str, KernelEntry]) -> None:
    declared = {name: entry.expect for name, entry in entries.items() if entry.expect}
    assert declared == {"debian-5.10": {"mptcp": False}}


def test_it_holds_a_series_for_each_suite_with_several_kernels(
    entries: dict[str, KernelEntry],
) -> None:
    series = {
        entry.source.suite
        for entry in entries.values()
        if entry.is_series and isinstance(entry.source, DebSource)
    }
    assert series == {
        *("bookworm-security", "bookworm-backports"),
        *("trixie", "trixie-security", "trixie-backports"),
    }


@pytest.mark.parametrize("version", BACKPORTS)
def test_the_series_of_backports_matches_each_generation(
    entries: dict[str, KernelEntry], version: str
) -> None:
    assert fnmatchcase(f"linux-image-{version}-amd64", pattern(entries["backports"]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_series_of_backports_leaves_variants_out(
    entries: dict[str, KernelEntry], variant: str
) -> None:
    package = f"linux-image-{variant.format(BACKPORTS[0])}"
    assert not fnmatchcase(package, pattern(entries["backports"]))


def test_the_series_of_6_12_leaves_the_cloud_kernel_out(entries: dict[str, KernelEntry]) -> None:
    package = "linux-image-6.12.107+deb13-cloud-amd64"
    assert not fnmatchcase(package, pattern(entries["trixie-6.12"]))


def test_the_series_of_6_12_matches_a_stable_update(entries: dict[str, KernelEntry]) -> None:
    assert fnmatchcase("linux-image-6.12.107+deb13-amd64", pattern(entries["trixie-6.12"]))
