# SPDX-License-Identifier: GPL-2.0-only
"""The git bisect that goes on where prebuilt kernels end."""

from __future__ import annotations

import pytest

from harness.bisect import commits
from harness.bisect.candidates import Candidate
from harness.bisect.predicate import Anything, Checks
from harness.manifest.kernels_yaml import DebSource, KernelEntry, UpstreamSource

ENTRY = KernelEntry("k", DebSource("sid", "linux-image-amd64"), "the tests")
WANTED = Checks(("full_info.*",))


def kernel(version: str, release: str = "") -> Candidate:
    return Candidate(ENTRY, release, version)


@pytest.mark.parametrize(
    ("version", "release", "tag"),
    [
        ("6.17.8-1~bpo13+1", "6.17.8+deb13-amd64", "v6.17.8"),
        ("6.1.176-1", "6.1.0-50-amd64", "v6.1.176"),
        ("6.19~rc4-1~exp1", "6.19-rc4-amd64", "v6.19-rc4"),
        ("6.17-1~exp1", "", "v6.17"),
        ("", "6.17.0", "v6.17"),
        ("", "6.12.117-dirty", "v6.12.117"),
        ("", "custom", ""),
    ],
)
def test_the_tag_is_that_of_the_upstream_release(version: str, release: str, tag: str) -> None:
    assert commits.tag(kernel(version, release)) == tag


def test_the_command_begins_with_the_bad_one() -> None:
    found = commits.git_bisect(kernel("6.16.12-1"), kernel("6.17.8-1"), WANTED)
    assert found.text == (
        "git bisect start v6.17.8 v6.16.12 && git bisect run mptcp-harness step "
        "--check 'full_info.*'"
    )


def test_what_was_mended_is_looked_for_with_the_answers_exchanged() -> None:
    found = commits.git_bisect(kernel("6.17.8-1"), kernel("6.16.12-1"), Anything(), reverse=True)
    assert "--term-old=broken --term-new=fixed v6.17.8 v6.16.12" in found.text
    assert "step --any; s=$?; [ $s -le 1 ] && exit $((1 - s)); exit $s" in found.text


def test_it_says_that_debians_kernels_are_patched() -> None:
    notes = commits.git_bisect(kernel("6.17.1-1"), kernel("6.17.8-1"), WANTED).notes
    assert any("patches" in note for note in notes)


def test_it_says_where_the_tags_are_not_on_one_branch() -> None:
    notes = commits.git_bisect(kernel("6.16.12-1"), kernel("6.17.8-1"), WANTED).notes
    assert any("different stable branches" in note for note in notes)


def test_two_packages_of_one_release_have_nothing_between_them_upstream() -> None:
    found = commits.git_bisect(kernel("6.17.8-1"), kernel("6.17.8-2"), WANTED)
    assert found.text == ""
    assert "Debian's patches" in found.notes[0]


def test_without_a_tag_there_is_no_command() -> None:
    assert commits.git_bisect(kernel("", "custom"), kernel("6.17.8-1"), WANTED).text == ""


def test_of_two_builds_of_ones_own_debian_is_not_spoken_of() -> None:
    entry = KernelEntry("k", UpstreamSource("v6.12"), "the tests")
    mine = Candidate(entry, "6.12.117-dirty", "")
    found = commits.git_bisect(mine, mine, WANTED)
    assert found.notes == (
        "both kernels are built from v6.12.117: they differ in their patches or settings",
    )
