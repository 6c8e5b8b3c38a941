# SPDX-License-Identifier: GPL-2.0-only
"""Known issues at the edges: sizes, numbers of kernels, versions, and verdicts that say nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.manifest import known_issues, positions
from harness.manifest.entries import Abi
from harness.manifest.kernels_yaml import ManifestError
from harness.manifest.known_issues import Applied, KnownIssue, KnownIssues, apply, idle, load
from harness.verdict.results import MAX_INCIDENTS, Incident
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests.manifest.test_known_issues import (
    BOTH_PASS,
    ENTRY,
    KNOWN,
    KNOWN_WARN,
    NAME,
    RELEASE,
    TODAY,
    WARN,
    kernel,
    of_bug,
)

SOUND = b"known_issues: [{check: a.b, reason: r, owner: o, expires: 2099-12-31}]\n"


@pytest.mark.parametrize("kind", [KnownIssue, Applied, KnownIssues])
def test_what_is_known_cannot_be_changed_by_who_reads_it(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_a_fingerprint_with_brackets_is_known_by_what_it_says() -> None:
    """As a pattern it would not match itself; nor is it the same object."""
    found = replace(WARN, fingerprint=str(b"warning:f[0]", "ascii"))
    issue = replace(KNOWN_WARN, fingerprint=str(b"warning:f[0]", "ascii"))
    assert issue.is_about(found)


@pytest.mark.parametrize(("more", "known"), [(-1, True), (0, False), (1, False)])
def test_no_report_is_known_among_as_many_as_are_kept(more: int, known: bool) -> None:
    reports: list[Incident] = [WARN] * (MAX_INCIDENTS + more)
    seen = apply({}, reports, [KNOWN_WARN], NAME, RELEASE, TODAY, Abi.NATIVE)
    assert bool(seen.incidents[0].known) is known


@pytest.mark.parametrize("verdict", [v for v in CheckVerdict if v is not CheckVerdict.PASS])
def test_only_a_check_that_passes_shows_that_its_issue_is_gone(verdict: CheckVerdict) -> None:
    checks = [replace(check, verdict=verdict) for check in BOTH_PASS]
    result = replace(kernel(checks), verdict=KernelVerdict.FAIL)
    assert idle([KNOWN], [result], TODAY) == ()
    assert not known_issues._tries(result, KNOWN)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "k0: "),
        (3, "k0, k1, k2: "),
        (4, "k0, k1, k2, k3: "),
        (5, "k0, k1, k2, k3 and 1 more: "),
        (9, "k0, k1, k2, k3 and 5 more: "),
    ],
)
def test_at_most_four_kernels_are_named_on_which_an_issue_was_tried(count: int, said: str) -> None:
    kernels = [kernel(BOTH_PASS, name=f"k{number}") for number in range(count)]
    (note,) = idle([KNOWN], kernels, TODAY)
    assert f"no longer occurs, tried on {said}remove" in note


@pytest.mark.parametrize(
    ("seen_in", "release", "is_newer"),
    [
        ((7, 3, 4), "7.3.4", False),
        ((7, 3, 4), "7.3.5", True),
        ((7, 3, 4), "7.3.0-4-amd64", False),
        ((7, 4, 0), "7.4.0-4-amd64", False),  # of which the name hides the stable release
        ((7, 4, 0), "7.4.1", True),
    ],
)
def test_a_repair_is_one_of_a_kernel_that_is_newer_than_the_last_with_the_bug(
    monkeypatch: pytest.MonkeyPatch, seen_in: tuple[int, int, int], release: str, is_newer: bool
) -> None:
    monkeypatch.setattr(known_issues, "SEEN_IN", seen_in)
    passing = replace(kernel(of_bug(CheckVerdict.PASS)), release=release, version="")
    assert bool(KnownIssues(TODAY).idle([ENTRY], [passing], narrowed=True)) is is_newer


# The file.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "issues.yaml"


@pytest.mark.parametrize("most", [len(SOUND), len(SOUND) + 1])
def test_a_file_of_the_largest_size_is_read(
    file: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(positions, "MAX_BYTES", most)
    file.write_bytes(SOUND)
    assert [issue.check for issue in load(file)] == ["a.b"]


@pytest.mark.parametrize("excess", [1, 2, 1000])
def test_a_larger_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch, excess: int) -> None:
    file.write_bytes(SOUND)
    for most in (len(SOUND) - excess, len(SOUND) - excess - 1):
        monkeypatch.setattr(positions, "MAX_BYTES", max(1, most))
        with pytest.raises(
            ManifestError, match=r"larger than .* bytes, so not a list of known issues"
        ):
            load(file)


def test_an_entry_that_contradicts_itself_is_refused_though_each_key_is_sound(file: Path) -> None:
    file.write_text(
        "known_issues: [{check: a.b, fingerprint: 'warning:f', reason: r, owner: o, "
        "expires: 2099-12-31}]\n"
    )
    with pytest.raises(ManifestError, match="both a fingerprint and a check"):
        load(file)
