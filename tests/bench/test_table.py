# SPDX-License-Identifier: GPL-2.0-only
"""The table, for a terminal and for Markdown alike."""

from __future__ import annotations

from bench import figures, table
from bench.figures import Figure, Unit

RATIO = figures.against(Figure("loop", "the loop", Unit.RATIO, 0.38), [16.0, 18.0], [60.0, 60.0])
PEAK = figures.absolute(Figure("memory", "peak memory", Unit.MIB, 150), [61.4])
KVM = figures.unmeasured(Figure("kvm", "with KVM", Unit.SECONDS, 1.0), "this host has no KVM")


def test_a_ratio_has_both_medians_and_its_range() -> None:
    row = table.render([RATIO]).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("the loop", "17.00 s", "60.00 s", "0.28", "0.27-0.30", "≤ 0.38", "met")
    ]


def test_a_single_value_has_no_range() -> None:
    row = table.render([PEAK]).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("peak memory", "", "", "61 MiB", "", "≤ 150 MiB", "met")
    ]


def test_the_reason_for_what_is_not_measured_stands_below() -> None:
    text = table.render([RATIO, KVM])
    assert "not measured" in text
    assert text.endswith("\n\nwith KVM: this host has no KVM\n")


def test_all_lines_of_the_table_are_of_one_width() -> None:
    lines = table.render([RATIO, PEAK]).splitlines()
    assert len({len(line) for line in lines}) == 1
