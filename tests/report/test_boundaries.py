# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.bisect.results import (
    Boundary,
    BoundaryKind,
    CompatibilityMap,
    Feature,
    Kernel,
    SeriesChange,
    UntestableKernel,
)
from harness.report.bisect import ASSUMPTION, map_to_json, render_map
from harness.report.terminal import ASCII, UNICODE
from harness.verdict.verdicts import Family

OLD = Kernel("debian-6.1", "6.1.0-50-amd64", "6.1.176-1")
LAST = Kernel("bookworm-6.1-6.1.0-56-amd64", "6.1.0-56-amd64", "6.1.192-2")
FIRST = Kernel("trixie-6.12-6.12.90+deb13-amd64", "6.12.90+deb13-amd64", "6.12.90-1")
NEW = Kernel("mine", "7.3.4", "")


def both(kind: BoundaryKind, name: str, old: str, new: str) -> list[SeriesChange]:
    return [SeriesChange(Feature(kind, name, family), old, new) for family in Family]


CHANGES = (
    *both(BoundaryKind.CAPABILITY, "full_info", "absent", "present"),
    *both(BoundaryKind.SIZE, "mptcp_info", "48 bytes", "96 bytes"),
    *both(BoundaryKind.CHECK, "full_info.readable", "unsupported", "pass"),
    *both(BoundaryKind.CHECK, "full_info.sizes", "unsupported", "pass"),
    *both(BoundaryKind.CHECK, "ip_tos.kept", "unsupported", "pass"),
    *both(BoundaryKind.CHECK, "payload.arrives", "pass", "fail")[:1],
)
MAP = CompatibilityMap(
    kernels=54,
    oldest=OLD,
    newest=NEW,
    oldest_tested=OLD,
    newest_tested=NEW,
    boundaries=(Boundary(LAST, FIRST, CHANGES),),
    untestable=(),
    booted=12,
    known=0,
    rounds=6,
    seconds=130.4,
)


def test_a_map_is_a_table_for_each_boundary_and_what_it_cost() -> None:
    assert render_map(MAP, ASCII) == (
        "54 kernels from debian-6.1 (6.1.0-50-amd64, 6.1.176-1) to mine (7.3.4)\n"
        "\n"
        "between bookworm-6.1-6.1.0-56-amd64 (6.1.192-2) "
        "and trixie-6.12-6.12.90+deb13-amd64 (6.12.90-1)\n"
        "  full_info               absent -> present\n"
        "  size of mptcp_info      48 bytes -> 96 bytes\n"
        "  full_info.*, 2 checks   unsupported -> pass\n"
        "  ip_tos.kept             unsupported -> pass\n"
        "  payload.arrives (ipv4)  pass -> fail\n"
        "\n"
        "12 of 54 kernels booted, in 6 rounds and 130 s.\n"
        f"{ASSUMPTION}\n"
    )


def test_ends_that_agree_are_said_in_words() -> None:
    shown = render_map(replace(MAP, boundaries=()), ASCII)
    assert "the oldest and the newest kernel do not differ" in shown


def test_what_could_not_be_tested_stands_with_its_boundary_and_with_its_reason() -> None:
    dead = Kernel("dead", "6.1.999")
    boundary = Boundary(LAST, FIRST, CHANGES, (dead,))
    lost = UntestableKernel(dead, "boot-failure: no root")
    shown = render_map(replace(MAP, boundaries=(boundary,), untestable=(lost,)), ASCII)
    assert "could not be tested: 6.1.999)" in shown
    assert "  dead (6.1.999): boot-failure: no root\n" in shown


def test_what_is_beyond_the_tested_ends_is_said_to_be_unknown() -> None:
    shown = render_map(replace(MAP, newest_tested=FIRST), ASCII)
    assert "note: nothing is known about kernels newer than trixie-6.12-6.12.90" in shown


def test_results_of_earlier_runs_are_counted_apart() -> None:
    shown = render_map(replace(MAP, booted=3, known=9), ASCII)
    assert "3 of 54 kernels booted, 9 results from earlier runs reused" in shown


@pytest.mark.parametrize("glyphs", [ASCII, UNICODE])
def test_nothing_of_a_guest_reaches_a_terminal_unescaped(glyphs: object) -> None:
    evil = "\x1b[2J\nfake: pass\u202e"
    kernel = Kernel(evil, evil, evil)
    change = SeriesChange(Feature(BoundaryKind.CHECK, evil, Family.IPV4), evil, evil)
    found = replace(
        MAP,
        oldest=kernel,
        newest=kernel,
        boundaries=(Boundary(kernel, kernel, (change,), (kernel,)),),
        untestable=(UntestableKernel(kernel, evil),),
        notes=(evil,),
        directory=evil,
    )
    shown = render_map(found, glyphs)  # type: ignore[arg-type]
    assert not set("\x1b\u202e") & set(shown)
    assert "\nfake" not in shown


def test_the_record_for_scripts_has_every_change_in_each_family() -> None:
    record = json.loads(map_to_json(MAP))
    assert (record["schema"], record["booted"], record["kernels"]) == (1, 12, 54)
    (boundary,) = record["boundaries"]
    assert boundary["last"]["version"] == "6.1.192-2"
    assert len(boundary["changes"]) == len(CHANGES)
    assert boundary["changes"][0] == {
        "kind": "capability",
        "name": "full_info",
        "family": "ipv4",
        "old": "absent",
        "new": "present",
    }
