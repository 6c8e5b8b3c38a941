# SPDX-License-Identifier: GPL-2.0-only
"""What people and scripts are told of a bisect."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.bisect.results import Bisection, Ending, Kernel, KernelEvidence, LogEntry
from harness.report.bisect import SHOWN, render, to_json

GOOD = Kernel("backports-6.17.8+deb13-amd64", "6.17.8+deb13-amd64", "6.17.8-1~bpo13+1")
MIDDLE = Kernel("backports-6.17.13+deb13-amd64", "6.17.13+deb13-amd64", "6.17.13-1~bpo13+1")
BAD = Kernel("mine", "6.18.0", "")
FOUND = Bisection(
    ending=Ending.FOUND,
    what="--check full_info.*",
    reversed=False,
    kernels=32,
    evidence=(
        KernelEvidence(GOOD, 1, 0, 0, "it passed", "20260101-000000-abcdef"),
        KernelEvidence(MIDDLE, 0, 0, 1, "boot-failure: it is silent"),
        KernelEvidence(BAD, 1, 3, 0, "0 bytes"),
    ),
    rounds=4,
    boots=9,
    earlier=0,
    seconds=41.4,
    last_good=GOOD,
    first_bad=BAD,
    confidence=0.98765,
    failed=4,
    of=4,
    git="git bisect start v6.18 v6.17.8",
)


def test_the_answer_has_both_kernels_and_the_confidence_rounded_down() -> None:
    assert render(FOUND).splitlines()[:4] == [
        "bisect --check full_info.*: the change came with mine",
        "  last good   backports-6.17.8+deb13-amd64 (6.17.8+deb13-amd64, package version "
        "6.17.8-1~bpo13+1)",
        "  first bad   mine (6.18.0)",
        "  confidence  98.7 %",
    ]


def test_nothing_is_said_to_be_certain() -> None:
    assert "confidence  99.9 %" in render(replace(FOUND, confidence=1.0))


def test_a_range_names_what_was_skipped_and_why() -> None:
    text = render(replace(FOUND, skipped=FOUND.evidence[1:2]))
    assert "came with mine, or one of the 1 before it" in text
    assert "skipped     backports-6.17.13+deb13-amd64" in text
    assert "boot-failure: it is silent" in text


def test_a_flaky_fault_comes_with_its_rate() -> None:
    assert "flaky: bad kernels showed it in 3 of 7 boots" in render(replace(FOUND, failed=3, of=7))


def test_the_evidence_is_counted_where_there_was_more_than_one_boot() -> None:
    text = render(FOUND)
    assert "good: it passed [run 20260101-000000-abcdef]" in text
    assert "1 of 4 good, 3 of 4 bad: 0 bytes" in text


def test_without_an_answer_it_says_why() -> None:
    none = replace(FOUND, ending=Ending.SWAPPED, last_good=None, first_bad=None, text="swapped")
    assert render(none).startswith("bisect --check full_info.*: no answer (swapped): swapped\n")


def test_boots_before_an_interruption_are_told() -> None:
    assert "9 boots (3 of them earlier), 41 s" in render(replace(FOUND, earlier=3))


def test_what_a_guest_or_a_changelog_says_is_escaped() -> None:
    nasty = replace(
        FOUND,
        changes=(LogEntry("6.18-1", "\x1b[2J tcp: \u202e"),),
        evidence=(KernelEvidence(BAD, 0, 1, 0, "\x1b]0;x\x07\n bad"),),
    )
    text = render(nasty)
    assert "\\x1b[2J" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_a_long_changelog_is_cut_for_people_only() -> None:
    long = replace(FOUND, changes=(LogEntry("6.18-1", "tcp: a"),) * (SHOWN + 5))
    assert "and 5 more (see --json FILE)" in render(long)
    assert len(to_json(long)["changes"]) == SHOWN + 5


def test_the_json_is_what_the_docstring_says() -> None:
    data = json.loads(json.dumps(to_json(FOUND)))
    assert data["schema"] == 1
    assert data["ending"] == "found"
    assert data["first_bad"] == {"name": "mine", "release": "6.18.0", "version": ""}
    assert data["evidence"][0]["kernel"]["release"] == "6.17.8+deb13-amd64"
    documented = to_json.__doc__ or ""
    assert [key for key in data if f"``{key}``" not in documented] == []


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (Ending.FOUND, 0),
        (Ending.NO_DIFFERENCE, 1),
        (Ending.SWAPPED, 1),
        (Ending.CONTRADICTION, 1),
        (Ending.UNTESTABLE, 3),
        (Ending.INTERRUPTED, 130),
    ],
)
def test_the_exit_status_goes_by_how_it_ended(ending: Ending, status: int) -> None:
    assert replace(FOUND, ending=ending).exit_status == status
