# SPDX-License-Identifier: GPL-2.0-only
"""What a bisect found, as text for people and as data for ``--json``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from harness.bisect.results import Bisection, Ending, Kernel, KernelEvidence
from harness.text import plural, printable

SCHEMA = 1
#: Lines of a changelog that people are shown; --json has all.
SHOWN = 40


def render(found: Bisection) -> str:
    """The result as plain text, several lines, with nothing in it that a terminal obeys."""
    lines = [*_answer(found), ""]
    if found.evidence and found.ending is not Ending.INTERRUPTED:
        lines += ["tested, oldest first:", *map(_tested, found.evidence), ""]
    lines.append(_effort(found))
    if found.changes:
        lines += ["", f"what the changelog says of what is between them ({len(found.changes)}):"]
        lines += [f"  {change.version}: {change.text}" for change in found.changes[:SHOWN]]
    if len(found.changes) > SHOWN:
        lines.append(f"  and {len(found.changes) - SHOWN} more, which --json FILE has")
    lines += [f"note: {note}" for note in found.notes]
    if found.git:
        lines += ["", "on in a tree of the kernel:", f"  {found.git}"]
    if found.directory:
        lines += ["", f"consoles and events: {found.directory}"]
    return "".join(f"{printable(line)}\n" for line in lines)


def _answer(found: Bisection) -> Iterable[str]:
    if found.last_good is None or found.first_bad is None:
        yield f"bisect {found.what}: no answer ({found.ending}): {found.text}"
        return
    # In the order of time: what is good at last may have been bad at first.
    rows = [("last good", found.last_good), ("first bad", found.first_bad)]
    if found.reversed:
        rows = [("last bad", found.first_bad), ("first good", found.last_good)]
    between = f", or one of the {len(found.skipped)} before it" if found.skipped else ""
    yield f"bisect {found.what}: the change came with {rows[1][1].name}{between}"
    for word, kernel in rows:
        yield f"  {word:10}  {_kernel(kernel)}"
    for tested in found.skipped:
        yield f"  {'skipped':10}  {_kernel(tested.kernel)}: {tested.why or 'not tested'}"
    flaky = f"; flaky: bad kernels showed it in {found.failed} of {plural(found.of, 'boot')}"
    yield f"  confidence  {_percent(found.confidence)}{flaky if found.failed < found.of else ''}"


def _percent(confidence: float) -> str:
    """Rounded down: nothing is certain."""
    return f"{math.floor(min(confidence, 0.999) * 1000) / 10:g} %"


def _kernel(kernel: Kernel) -> str:
    version = f", package version {kernel.version}" if kernel.version else ""
    return f"{kernel.name} ({kernel.release}{version})"


def _tested(tested: KernelEvidence) -> str:
    counts = {"good": tested.good, "bad": tested.bad, "untestable": tested.untestable}
    total = sum(counts.values())
    said = ", ".join(
        word if count == total == 1 else f"{count} of {total} {word}"
        for word, count in counts.items()
        if count
    )
    source = f" [run {tested.reused_from}]" if tested.reused_from else ""
    return f"  {tested.kernel.name:40} {said}: {tested.why}{source}"


def _effort(found: Bisection) -> str:
    earlier = f" ({found.earlier} of them earlier)" if found.earlier else ""
    return (
        f"{plural(found.kernels, 'kernel')}, {plural(found.rounds, 'round')}, "
        f"{plural(found.boots, 'boot')}{earlier}, {found.seconds:.0f} s"
    )


def to_json(found: Bisection) -> dict[str, Any]:
    """``found`` for a JSON writer: ``schema`` (1), ``ending``, ``what``, ``text``, ``reversed``,
    ``kernels``, ``rounds``, ``boots``, ``earlier``, ``seconds``, ``last_good`` and ``first_bad``
    {name, release, version} or null, ``skipped`` and ``evidence``: lists of {kernel, good, bad,
    untestable, why, reused_from}, ``confidence`` (0 to 1), ``failed``, ``of``, ``changes``: a list
    of {version, text}, ``git``, ``notes``, ``directory``. Keys are added, never renamed."""
    return {"schema": SCHEMA, **asdict(found)}
