# SPDX-License-Identifier: GPL-2.0-only
"""The report of a replay: a line for each boot, and the conclusion."""

from __future__ import annotations

from collections.abc import Sequence

from harness.replay.replay import ReplayRow
from harness.text import plural, printable
from harness.verdict.failures import Again, Conclusion, Follows, MachineUsed, Symptom, Tried

#: Symptoms that are named; more are only counted.
MOST = 6


def line(row: ReplayRow) -> str:
    """``row`` as a line; differences from the original failure are on lines of their own."""
    comparison = row.comparison
    head = f"{machine(row.machine)}, boot {row.number}: {row.verdict}: "
    tail = f" ({row.seconds:.1f} s)"
    match comparison.again:
        case Again.UNTESTED | Again.OTHER:
            text = f"{head}{comparison.again.value}: {printable(row.reason)}{tail}"
        case Again.GONE:
            text = f"{head}the failure was not reproduced{tail}"
        case _:
            text = f"{head}{comparison.again.value}: {_named(comparison.same)}{tail}"
    more = (("not this time", comparison.gone), ("new", comparison.new))
    if comparison.again in (Again.PARTLY, Again.OTHER):
        text += "".join(f"\n    {name}: {_listed(found)}" for name, found in more if found)
    if comparison.again not in (Again.SAME, Again.GONE) and row.console:
        text += f"\n    console: {printable(row.console)}"
    return text


def machine(of: MachineUsed) -> str:
    return f"{of.accel.upper()}, {plural(of.cpus, 'processor')}, QEMU {printable(of.qemu)}"


def _named(found: Sequence[Symptom]) -> str:
    checks = all(symptom.key.startswith("check ") for symptom in found)
    return f"fails in {_listed(found)}" if checks else _listed(found)


def _listed(found: Sequence[Symptom]) -> str:
    shown = "; ".join(printable(symptom.text) for symptom in found[:MOST])
    return f"{shown}; and {len(found) - MOST} more" if len(found) > MOST else shown


def summary(tried: Sequence[Tried]) -> str:
    """The conclusion of a replay without variations."""
    boots = [again for one in tried for again in one.again]
    told = [again for again in boots if again is not Again.UNTESTED]
    hits, others = sum(a.is_it for a in told), sum(a is Again.OTHER for a in told)
    if not told:
        return "nothing was learned about the kernel"
    text = f"the failure was reproduced in {hits} of {plural(len(told), 'boot')}"
    if others:
        text += f", another one in {others}"
    return text


def table(tried: Sequence[Tried], conclusion: Conclusion) -> str:
    """The variations, and the conclusion."""
    rows = [("variation", "boots", "same failure", "other failure")]
    for one in tried:
        told = [again for again in one.again if again is not Again.UNTESTED]
        hits, others = sum(a.is_it for a in told), sum(a is Again.OTHER for a in told)
        counts = (f"{hits} of {len(told)}", str(others)) if told else ("not tried", "")
        rows.append((machine(one.machine), str(len(told)), *counts))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    verdict = (
        "it is not known what the failure depends on"
        if conclusion.follows is Follows.UNCLEAR
        else f"the failure depends on {conclusion.follows.value}"
    )
    lines += ["", f"{verdict}: {printable(conclusion.why)}"]
    lines += [f"  {printable(text)}" for text in conclusion.unknown]
    return "\n".join(lines)
