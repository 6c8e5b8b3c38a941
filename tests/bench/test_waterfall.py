# SPDX-License-Identifier: GPL-2.0-only
"""The waterfall of a boot, as text and as a picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import waterfall
from harness.verdict.results import Phase

PHASES = (Phase("qemu", 1.0), Phase("kernel", 2.0), Phase("ipv4", 1.0))
ANY_PHASES = st.lists(
    st.builds(
        Phase,
        st.text(st.characters(codec="ascii", categories=("L", "P")), max_size=20),
        st.floats(min_value=0, max_value=1e6),
    ),
    min_size=1,
    max_size=20,
)
SVG = "{http://www.w3.org/2000/svg}"


def test_each_phase_begins_where_the_last_ended() -> None:
    assert waterfall.as_text(PHASES, width=36) == (
        "qemu     1.000  █████\n"
        "kernel   2.000       ██████████\n"
        "ipv4     1.000                 █████\n"
        "         4.000 s\n"
    )


def test_a_phase_too_short_for_a_column_is_seen() -> None:
    lines = waterfall.as_text((Phase("lay-out", 0.001), Phase("kernel", 9.0))).splitlines()
    assert lines[0].endswith("▏")


def test_no_phases_are_said_to_be_none() -> None:
    assert waterfall.as_text(()) == "no phase was recorded\n"


@given(ANY_PHASES)
def test_the_text_keeps_to_its_width(phases: list[Phase]) -> None:
    lines = waterfall.as_text(phases, width=80).splitlines()
    assert max(map(len, lines)) <= 86


@pytest.mark.parametrize("seconds", [0.0, 0.4, 12.0, 700.0, 1e5])
def test_the_picture_is_well_formed_whatever_the_time(seconds: float) -> None:
    ElementTree.fromstring(waterfall.as_svg((Phase("kernel", seconds),), "a boot"))


def test_the_picture_has_a_bar_for_each_phase() -> None:
    root = ElementTree.fromstring(waterfall.as_svg(PHASES, "a boot"))
    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.get("height") != "100%"]
    widths = [float(bar.get("width", "0")) for bar in bars]
    assert widths == [pytest.approx(w, abs=0.1) for w in (143.5, 287.0, 143.5)]


def test_what_is_named_in_the_picture_is_escaped() -> None:
    root = ElementTree.fromstring(waterfall.as_svg((Phase("<b>", 1.0),), "6.1 & <newer>"))
    assert root.findtext(f"{SVG}title") == "6.1 & <newer>"
