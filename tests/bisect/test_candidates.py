# SPDX-License-Identifier: GPL-2.0-only
"""Which kernels lie between two names, from recorded package indexes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.bisect import candidates
from harness.bisect.candidates import Candidate, Series
from harness.errors import KernelUnavailable, UsageError
from harness.kernels import Cache, apt
from harness.kernels.debian import Package
from harness.manifest.kernels_yaml import DebSource, KernelEntry, UpstreamSource
from tests.kernels.conftest import DATA

PLAIN = KernelEntry("debian-6.1", DebSource("bookworm", "linux-image-amd64"), "the tests")
NEWEST = KernelEntry("newest", DebSource("trixie-backports", "linux-image-amd64"), "the tests")
MAINLINE = KernelEntry("mainline", UpstreamSource("v6.6"), "the tests")
BACKPORTS = KernelEntry(
    "backports",
    DebSource("trixie-backports", "linux-image-*+deb13-amd64"),
    "the tests",
    is_series=True,
)
ENTRIES = (NEWEST, PLAIN, MAINLINE, BACKPORTS)

Between = Callable[[str, str], Series]


@pytest.fixture
def between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Between:
    def index(suite: str, *_: object, **__: object) -> dict[str, Package]:
        file = DATA / f"{suite}.deb822"
        if not file.exists():
            raise KernelUnavailable(f"the mirror has no suite {suite}")
        return apt.distil(file.read_text())

    monkeypatch.setattr(apt, "index", index)
    return lambda good, bad: candidates.between(ENTRIES, good, bad, Cache(tmp_path))


def names(series: Series) -> list[str]:
    return [candidate.entry.name for candidate in series.candidates]


def test_two_of_a_series_mean_that_series_from_the_one_to_the_other(between: Between) -> None:
    whole = names(between("debian-6.1", "newest"))
    some = [name for name in whole if name.startswith("backports-")]
    found = between(some[1], some[3])
    assert names(found) == some[1:4]
    assert not found.reversed


def test_versions_are_those_of_the_packages(between: Between) -> None:
    found = between("debian-6.1", "newest").candidates[0]
    assert found == Candidate(PLAIN, "6.1.0-50-amd64", "6.1.176-1")


def test_other_two_mean_all_between_in_the_order_of_their_versions(between: Between) -> None:
    found = between("debian-6.1", "newest")
    assert names(found)[:2] == ["debian-6.1", "mainline"]
    assert names(found)[-1] == "newest"
    keys = [candidates.age(candidate) for candidate in found.candidates]
    assert keys == sorted(keys)


def test_a_package_with_two_names_is_there_once(between: Between) -> None:
    found = between("debian-6.1", "newest")
    releases = [candidate.release for candidate in found.candidates]
    assert len(releases) == len(set(releases))
    assert "backports-7.3.4+deb13-amd64" not in names(found)


def test_a_good_kernel_that_is_newer_reverses_the_series(between: Between) -> None:
    found = between("newest", "debian-6.1")
    assert found.reversed
    assert names(found)[0] == "debian-6.1"


@pytest.mark.parametrize("name", ["6.1.0-50-amd64", "6.1.176-1", "6.1.176"])
def test_a_release_or_version_is_a_name_too(between: Between, name: str) -> None:
    assert names(between(name, "mainline")) == ["debian-6.1", "mainline"]


def test_an_unknown_name_leads_to_the_nearest(between: Between) -> None:
    with pytest.raises(UsageError, match=r"no kernel debian-6\.2; did you mean debian-6\.1"):
        between("debian-6.2", "newest")


def test_two_names_of_one_kernel_are_refused(between: Between) -> None:
    with pytest.raises(UsageError, match="the same kernel"):
        between("newest", "7.3.4+deb13-amd64")


def test_a_suite_that_cannot_be_read_is_left_out_in_words(between: Between, tmp_path: Path) -> None:
    gone = KernelEntry("gone", DebSource("nowhere", "linux-image-amd64"), "the tests")
    found = candidates.between((gone, *ENTRIES), "debian-6.1", "newest", Cache(tmp_path))
    assert found.notes == ("gone is skipped: the mirror has no suite nowhere",)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("6.19.0-rc3", "6.19.0"),
        ("6.9.1", "6.10.0"),
        ("6.12.9+deb13-amd64", "6.12.10+deb13-amd64"),
    ],
)
def test_kernels_without_a_package_are_ordered_by_their_releases(older: str, newer: str) -> None:
    entry = KernelEntry("k", UpstreamSource("v6.6"), "the tests")
    assert candidates.age(Candidate(entry, older, "")) < candidates.age(Candidate(entry, newer, ""))


@pytest.mark.parametrize("name", ["gone", "lost-6.17.8+deb13-amd64"])
def test_an_end_that_cannot_be_had_is_not_called_unknown(
    between: Between, tmp_path: Path, name: str
) -> None:
    source = DebSource("nowhere", "linux-image-amd64")
    series = KernelEntry("lost", source, "the tests", is_series=True)
    entries = (KernelEntry("gone", source, "the tests"), series, *ENTRIES)
    with pytest.raises(
        KernelUnavailable, match=r"is not available: the mirror has no suite nowhere"
    ):
        candidates.between(entries, "debian-6.1", name, Cache(tmp_path))


def test_the_same_package_with_other_kernel_arguments_is_another_kernel(
    between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    nosmp = replace(PLAIN, name="debian-6.1-nosmp", append=("nosmp",))
    monkeypatch.setattr(sys.modules[__name__], "ENTRIES", (*ENTRIES, nosmp))
    assert names(between("debian-6.1", "debian-6.1-nosmp")) == ["debian-6.1", "debian-6.1-nosmp"]
