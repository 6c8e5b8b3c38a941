# SPDX-License-Identifier: GPL-2.0-only
"""What a bisect found, as text for people and as data for ``--json``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from harness.report.terminal import plural, printable
from harness.results import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
)

SCHEMA = 1
#: Lines of a changelog that people are shown; --json has all.
SHOWN = 40


class Ending(StrEnum):
    FOUND = "found"
    NO_DIFFERENCE = "no-difference"  # both ends are good, or both are bad
    SWAPPED = "swapped"  # the good end is bad, and the bad one good
    CONTRADICTION = "contradiction"
    UNTESTABLE = "untestable"  # an end could not be tested
    INTERRUPTED = "interrupted"


_STATUS = {
    Ending.FOUND: EXIT_OK,
    Ending.UNTESTABLE: EXIT_INFRASTRUCTURE,
    Ending.INTERRUPTED: EXIT_INTERRUPTED,
}


@dataclass(frozen=True)
class Kernel:
    """``version`` is that of its package, "" where it is in none."""

    name: str
    release: str
    version: str


@dataclass(frozen=True)
class KernelEvidence:
    """The evidence on a kernel: how many boots were good, bad, and told nothing.

    ``why`` says so of the boot that tells most, ``reused_from`` is the run that it was made in, if
    that was an earlier one.
    """

    kernel: Kernel
    good: int
    bad: int
    untestable: int
    why: str
    reused_from: str = ""


@dataclass(frozen=True)
class Change:
    """What a package's changelog says of the version."""

    version: str
    text: str


@dataclass(frozen=True)
class Bisection:
    """How a bisect for ``what`` ended.

    ``last_good``, ``first_bad``, ``skipped`` (kernels between them, which cannot be tested),
    ``confidence`` (0 to 1) and ``failed`` of ``of`` boots of bad kernels are set if it is FOUND,
    ``text`` says why where it is not. ``reversed``: the good kernels are the newer ones.
    ``evidence`` is oldest first. ``boots`` were made, ``earlier`` of them before an interruption;
    ``seconds`` are those since this process went on.
    """

    ending: Ending
    what: str
    reversed: bool
    kernels: int
    evidence: tuple[KernelEvidence, ...]
    rounds: int
    boots: int
    earlier: int
    seconds: float
    text: str = ""
    last_good: Kernel | None = None
    first_bad: Kernel | None = None
    skipped: tuple[KernelEvidence, ...] = ()
    confidence: float = 0.0
    failed: int = 0
    of: int = 0
    changes: tuple[Change, ...] = ()
    git: str = ""
    notes: tuple[str, ...] = field(default=())
    directory: str = ""

    @property
    def exit_status(self) -> int:
        return _STATUS.get(self.ending, EXIT_FAILED)


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
