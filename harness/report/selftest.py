# SPDX-License-Identifier: GPL-2.0-only
"""The selftest's report: a line for each fault, and one for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.terminal import plural, printable
from harness.results import KernelVerdict


@dataclass(frozen=True)
class Row:
    """What became of one fault. ``objection`` is empty if all is as expected.

    ``console`` is the file that holds the kernel's log, "" where nothing was booted.
    """

    fault: str
    expected: str
    got: str
    verdict: KernelVerdict
    seconds: float
    objection: str = ""
    console: str = ""

    @property
    def ok(self) -> bool:
        return not self.objection


HEADER = f"{'fault':17} {'expected':21} {'got':21} seconds"


def line(row: Row) -> str:
    """``row`` as a line; what is wrong with it stands on lines of its own."""
    standing = "ok" if row.ok else "NOT OK"
    text = f"{row.fault:17} {row.expected:21} {row.got:21} {row.seconds:7.1f} {standing}"
    if not row.ok:
        text += f"\n    {printable(row.objection)}"
        if row.console:
            text += f"\n    console: {printable(row.console)}"
    return text


def summary(rows: Sequence[Row], wanted: int, seconds: float) -> str:
    """The last line: ``wanted`` is how many lines there should have been."""
    bad = [row.fault for row in rows if not row.ok]
    if bad:
        said = f"NOT OK: {', '.join(bad)}"
    elif len(rows) < wanted:
        said = f"NOT OK: {wanted - len(rows)} of {plural(wanted, 'boot')} not done"
    else:
        said = f"ok: {plural(len(rows) - 1, 'fault')}, each seen for what it is"
    return f"selftest {said} ({seconds:.0f} s)"
