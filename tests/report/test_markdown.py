# SPDX-License-Identifier: GPL-2.0-only
"""A run as Markdown: short, and nothing foreign gets out of its code."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.report import markdown
from harness.verdict import comparison
from harness.verdict.verdicts import CheckVerdict, Family
from tests import factories
from tests.report import hostile


def test_a_good_run_is_a_title_a_table_and_a_line() -> None:
    text = markdown.to_markdown(factories.run(*factories.four_kernels()))
    lines = text.splitlines()
    assert lines[0] == "### mptcp-harness: 4 kernels: 3 pass, 1 unsupported"
    assert sum(line.startswith("|") for line in lines) == 6
    assert not any(line.startswith("####") for line in lines)
    assert "seed 20240612" in lines[-1]


def test_a_failing_check_is_named_with_what_was_expected_and_came() -> None:
    bad = factories.check(
        verdict=CheckVerdict.FAIL, detail="too long", expected="96 bytes", got="104 bytes"
    )
    text = markdown.to_markdown(factories.run(factories.failing(factories.kernel(), bad)))
    assert "- `mptcp_info.readable`: fail at 1 of 1 place\n" in text
    assert "  - expected `96 bytes`\n  - got `104 bytes`\n" in text


def test_the_host_of_a_bad_kernel_is_named() -> None:
    bad = replace(factories.failing(factories.kernel()), host="lab-3 (one)")
    assert "\ntested on `lab-3 (one)`\n" in markdown.to_markdown(factories.run(bad))


def test_an_incident_is_shown_as_a_block_of_code() -> None:
    text = markdown.to_markdown(factories.run(factories.crashed(factories.kernel())))
    assert "\n```text\n[    4.102231] sysrq: Trigger a crash\n" in text


def outside_code(text: str) -> str:
    """``text`` without blocks and spans of code, as CommonMark finds their ends."""
    text = re.sub(r"^(`{3,})text\n.*?^\1\n", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)


@pytest.mark.parametrize("escape", ["<script", "<!--", "@root", "](http", "alert", "forged"])
def test_nothing_foreign_stands_outside_code(escape: str) -> None:
    text = markdown.to_markdown(hostile.run())
    assert escape in text
    assert escape not in outside_code(text)


def test_every_row_of_the_table_has_its_six_cells() -> None:
    rows = [
        line for line in markdown.to_markdown(hostile.run()).splitlines() if line.startswith("|")
    ]
    assert {line.count("|") for line in rows} == {7}


def test_no_control_character_is_left() -> None:
    text = markdown.to_markdown(hostile.run())
    assert all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize("count", [1, 80, 2000])
def test_it_is_never_longer_than_a_comment_may_be(count: int) -> None:
    results = factories.everywhere(
        factories.check(verdict=CheckVerdict.FAIL, family=Family.IPV6, detail="é" * 4000)
    )
    bad = factories.failing(factories.crashed(factories.kernel()), *results)
    run = factories.run(*(replace(bad, name=f"kernel-{number}") for number in range(count)))
    text = markdown.to_markdown(run)
    assert len(text.encode()) <= markdown.MAX_BYTES


def test_kernels_for_which_there_is_no_room_are_counted() -> None:
    bad = factories.crashed(factories.kernel())
    run = factories.run(*(replace(bad, name=f"kernel-{number}") for number in range(90)))
    text = markdown.to_markdown(run)
    shown = text.count("\n#### ")
    assert f"No room for {90 - shown} more kernels" in text


def test_where_rows_are_left_out_those_that_are_wrong_are_not() -> None:
    good = [replace(factories.kernel(), name=f"kernel-{number}") for number in range(300)]
    text = markdown.to_markdown(factories.run(*good, factories.crashed(factories.kernel("bad"))))
    assert "| `bad` |" in text


def test_a_kernel_that_is_missing_is_in_the_table() -> None:
    run = replace(factories.run(factories.kernel()), interrupted=True, missing=("debian-6.1",))
    text = markdown.to_markdown(run)
    assert "1 missing, interrupted" in text.splitlines()[0]
    assert "| `debian-6.1` | | | | **missing** | |" in text


def test_a_comparison_says_in_its_title_whether_anything_is_newly_wrong() -> None:
    before = factories.run(factories.kernel())
    after = factories.run(factories.crashed(factories.kernel()))
    worse = markdown.difference_to_markdown(comparison.runs(before, after))
    same = markdown.difference_to_markdown(comparison.runs(before, before))
    assert worse.startswith("### mptcp-harness: newly wrong\n")
    assert same.startswith("### mptcp-harness: nothing newly wrong\n")


def test_a_comparison_does_not_get_out_of_its_block() -> None:
    before = factories.run(replace(hostile.run().kernels[0], incidents=(), families={}))
    text = markdown.difference_to_markdown(comparison.runs(before, hostile.run()))
    assert "<script" in text
    assert "<script" not in outside_code(text)
