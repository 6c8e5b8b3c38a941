# SPDX-License-Identifier: GPL-2.0-only
"""docs/decision-table.md names only what exists."""

from __future__ import annotations

import re
from pathlib import Path

from harness.selftest import FAULTS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "decision-table.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "`" in line]
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
SELFTESTS = sorted(set(re.findall(r"`selftest ([a-z0-9-]+)`", TEXT)))


def test_every_row_names_what_shows_it() -> None:
    shows = re.compile(r"`(tests/[\w/]+\.py::\w+|selftest [a-z0-9-]+)`")
    assert ROWS
    assert [row for row in ROWS if not shows.search(row.strip(" |").rpartition("|")[2])] == []


def test_a_test_that_is_named_exists() -> None:
    assert TESTS
    missing = [
        f"{file}::{name}"
        for file, name in TESTS
        if not re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_the_faults_of_the_selftest_are_those_named() -> None:
    assert sorted(fault.name for fault in FAULTS) == SELFTESTS
