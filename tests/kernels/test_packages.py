# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import functools
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import KernelUnavailable
from harness.kernels import apt, debian
from harness.kernels.debian import Package
from tests.kernels.conftest import DATA, needs

Index = dict[str, Package]


@pytest.fixture
def bookworm() -> Index:
    return apt.distil((DATA / "bookworm.deb822").read_text())


@pytest.fixture
def backports() -> Index:
    return apt.distil((DATA / "trixie-backports.deb822").read_text())


def part_names(kernel: debian.KernelPackages) -> list[str]:
    return [part.name for part in kernel.parts]


def test_a_metapackage_leads_to_the_current_kernel(bookworm: Index) -> None:
    kernel = debian.resolve(bookworm, "linux-image-amd64", "bookworm")
    assert (kernel.name, kernel.version) == ("linux-image-6.1.0-50-amd64", "6.1.176-1")
    assert kernel.release == "6.1.0-50-amd64"


def test_an_old_kernel_is_one_package(bookworm: Index) -> None:
    kernel = debian.resolve(bookworm, "linux-image-6.1.0-47-amd64", "bookworm")
    assert part_names(kernel) == ["linux-image-6.1.0-47-amd64"]


@pytest.mark.parametrize("name", ["linux-image-amd64", "linux-image-7.3.4+deb13-amd64"])
def test_a_new_kernel_is_three_packages_and_its_shell_is_left_out(
    backports: Index, name: str
) -> None:
    kernel = debian.resolve(backports, name, "trixie-backports")
    assert kernel.name == "linux-image-7.3.4+deb13-amd64"
    assert part_names(kernel) == [
        "linux-base-7.3.4+deb13-amd64",
        "linux-binary-7.3.4+deb13-amd64",
        "linux-modules-7.3.4+deb13-amd64",
    ]


def test_parts_of_another_version_are_not_mixed_in(backports: Index) -> None:
    name = "linux-modules-7.3.4+deb13-amd64"
    old = backports[name]
    backports[name] = Package(name, "7.3.4-0", old.depends, old.size, old.sha256)
    kernel = debian.resolve(backports, "linux-image-amd64", "trixie-backports")
    assert name not in part_names(kernel)


def test_an_unknown_package_is_answered_with_the_nearest_names(bookworm: Index) -> None:
    with pytest.raises(KernelUnavailable, match=r"did you mean linux-image-6\.1\.0-50-amd64"):
        debian.resolve(bookworm, "linux-image-6.1.0-51-amd64", "bookworm")


def test_a_package_like_nothing_known_is_answered_with_what_there_is(bookworm: Index) -> None:
    with pytest.raises(KernelUnavailable, match=r"it has linux-image-6\.1\.0-47-amd64, "):
        debian.resolve(bookworm, "zsh", "bookworm")


def test_a_package_that_leads_to_no_image_is_refused(backports: Index) -> None:
    with pytest.raises(KernelUnavailable, match="has no kernel image"):
        debian.resolve(backports, "linux-modules-amd64", "trixie-backports")


def test_a_series_is_in_the_order_of_its_versions(backports: Index) -> None:
    found = debian.matching(backports, "linux-image-6.1*+deb13-amd64", "trixie-backports")
    assert [package.name.split("-")[2] for package in found] == [
        "6.16.3+deb13",
        "6.16.12+deb13",
        "6.17.8+deb13",
        "6.17.13+deb13",
        "6.18.5+deb13",
        "6.19.6+deb13",
    ]


def test_a_series_holds_no_metapackage_and_no_variant(bookworm: Index) -> None:
    found = debian.matching(bookworm, "linux-*", "bookworm")
    assert [package.name for package in found] == [
        "linux-image-6.1.0-47-amd64",
        "linux-image-6.1.0-50-amd64",
    ]


def test_a_variant_that_the_pattern_names_is_in_the_series(bookworm: Index) -> None:
    found = debian.matching(bookworm, "linux-image-*-rt-amd64", "bookworm")
    assert [package.name for package in found] == [
        "linux-image-6.1.0-47-rt-amd64",
        "linux-image-6.1.0-50-rt-amd64",
    ]


def test_a_pattern_that_matches_nothing_is_answered_with_what_there_is(bookworm: Index) -> None:
    with pytest.raises(KernelUnavailable, match=r"matches 'linux-image-9\*'; it has linux-image-6"):
        debian.matching(bookworm, "linux-image-9*", "bookworm")


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("6.12.94-1", "6.12.107-1"),
        ("7.3.4-1~bpo13+1", "7.3.4-1"),
        ("6.1~rc3-1", "6.1-1"),
        ("6.1-1", "6.1.1-1"),
        ("6.1-1", "1:5.0-1"),
        ("6.1-1", "6.1-1+deb12u1"),
        ("6.1-1a", "6.1-1+"),
    ],
)
def test_versions_sort_as_debians_do(older: str, newer: str) -> None:
    assert debian.version_key(older) < debian.version_key(newer)


VERSION = st.from_regex(r"([0-2]:)?[0-9][0-9a-b.+~]{0,6}(-[0-9a-b.+~]{1,4})?", fullmatch=True)


@functools.cache
def dpkg_says(first: str, operator: str, second: str) -> bool:
    command = ["dpkg", "--compare-versions", first, operator, second]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@needs("dpkg")
@settings(deadline=None)
@given(VERSION, VERSION)
def test_versions_sort_as_dpkg_says(first: str, second: str) -> None:
    key = debian.version_key
    assert (key(first) < key(second)) == dpkg_says(first, "lt", second)
    assert (key(first) == key(second)) == dpkg_says(first, "eq", second)


def test_older_kernels_of_the_same_flavour_come_newest_first() -> None:
    versions = {
        "linux-image-6.12.107+deb13-s390x": "6.12.107-1",
        "linux-image-6.12.90+deb13.1-s390x": "6.12.90-2",
        "linux-image-6.12.117+deb13-s390x": "6.12.117-1",
        "linux-image-6.12.107+deb13-cloud-s390x": "6.12.107-1",
        "linux-image-6.12.107+deb13-s390x-dbg": "6.12.107-1",
        "linux-image-s390x": "6.12.117-1",
    }
    index = {name: Package(name, version, "", 1, "0" * 64) for name, version in versions.items()}
    current = debian.resolve(index, "linux-image-6.12.117+deb13-s390x", "trixie")
    assert [package.name for package in debian.older(index, current)] == [
        "linux-image-6.12.107+deb13-s390x",
        "linux-image-6.12.90+deb13.1-s390x",
    ]
