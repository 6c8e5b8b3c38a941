# SPDX-License-Identifier: GPL-2.0-only
"""docs/compatibility.md, made from the record of a map."""

from __future__ import annotations

from typing import Any

import pytest

from bench import compatibility
from harness.manifest.fixes import Fix

FIX = Fix(
    "0123456789ab",
    "mptcp: mend it",
    fixed="6.18",
    backports=("6.12.59",),
    checks=("msg_peek.*",),
)


def kernel(version: str) -> dict[str, str]:
    return {"name": f"s-{version}", "release": f"{version}+deb13-amd64", "version": f"{version}-1"}


def record(*boundaries: dict[str, Any]) -> dict[str, Any]:
    return {
        "kernels": 9,
        "booted": 3,
        "reused": 1,
        "oldest": kernel("6.12.40"),
        "newest": kernel("7.3.4"),
        "boundaries": list(boundaries),
        "untestable": [{"kernel": kernel("6.17.1"), "reason": "gone"}],
    }


def boundary(last: str, first: str, **change: str) -> dict[str, Any]:
    changes = [{"family": family, **change} for family in ("ipv4", "ipv6")]
    return {"last": kernel(last), "first": kernel(first), "untestable": [], "changes": changes}


def mended(last: str, first: str) -> dict[str, Any]:
    return boundary(last, first, kind="check", name="msg_peek.all", old="fail", new="pass")


def test_an_option_is_named_once_with_the_kernels_around_it() -> None:
    came = boundary(
        "6.16.12", "6.17.8", kind="capability", name="tcp_maxseg", old="absent", new="present"
    )
    assert (
        "| `tcp_maxseg` | 6.17 | 6.16.12+deb13-amd64 (6.16.12-1) | 6.17.8+deb13-amd64 (6.17.8-1) |"
        in compatibility.page(record(came))
    )
    assert compatibility.page(record(came)).count("`tcp_maxseg`") == 1


@pytest.mark.parametrize(
    ("last", "first", "agrees"),
    [
        ("6.12.58", "6.12.59", "yes"),
        ("6.12.57", "6.12.63", "yes"),
        ("6.12.59", "6.12.63", "no"),  # later than the change log says
        ("6.17.13", "6.18.5", "yes"),
        ("6.16.3", "6.16.12", "not listed"),
    ],
)
def test_a_fix_is_held_against_the_change_log(
    monkeypatch: pytest.MonkeyPatch, last: str, first: str, agrees: str
) -> None:
    monkeypatch.setattr(compatibility, "FIXES", (FIX,))
    (line,) = [
        line
        for line in compatibility.page(record(mended(last, first))).splitlines()
        if "0123456789ab" in line
    ]
    assert line.endswith(f"| {agrees} |")
    assert "| 6.18, 6.12.59 |" in line


def test_a_check_that_begins_to_fail_shows_no_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "FIXES", (FIX,))
    broke = boundary("6.12.63", "6.16.3", kind="check", name="msg_peek.all", old="pass", new="fail")
    assert "0123456789ab" not in compatibility.page(record(broke))


def test_a_note_says_how_the_map_was_made() -> None:
    assert "\nWith -j 8.\n" in compatibility.page(record(), "With -j 8.")


def test_what_could_not_be_tested_is_listed() -> None:
    assert "- 6.17.1+deb13-amd64 (6.17.1-1): gone" in compatibility.page(record())
