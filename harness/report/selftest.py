# SPDX-License-Identifier: GPL-2.0-only
"""The selftest's report: a line for each fault, and one for all."""

from __future__ import annotations

from collections.abc import Sequence

from harness.selftest.faults import Row
from harness.text import plural

HEADER = f"{'fault':17} {'expected':21} {'got':21} seconds"


def summary(rows: Sequence[Row], wanted: int, seconds: float) -> str:
    """The last line: ``wanted`` is how many lines there should have been."""
    bad = [row.fault for row in rows if not row.ok]
    if bad:
        said = f"NOT OK: {', '.join(bad)}"
    elif len(rows) < wanted:
        said = f"NOT OK: {wanted - len(rows)} of {plural(wanted, 'boot')} not done"
    else:
        said = f"ok: {plural(len(rows) - 1, 'fault')}, all detected correctly"
    return f"selftest {said} ({seconds:.0f} s)"
