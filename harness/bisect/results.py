# SPDX-License-Identifier: GPL-2.0-only
"""What a bisect found, and the compatibility map of a series: pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from harness.verdict.results import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    Family,
)


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
    version: str = ""


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
class LogEntry:
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
    changes: tuple[LogEntry, ...] = ()
    git: str = ""
    notes: tuple[str, ...] = field(default=())
    directory: str = ""

    @property
    def exit_status(self) -> int:
        return _STATUS.get(self.ending, EXIT_FAILED)


class BoundaryKind(StrEnum):
    CAPABILITY = "capability"  # values: present, absent
    SIZE = "size"  # values: what the kernel says, such as "96 bytes"
    CHECK = "check"  # values: a CheckVerdict, the worst of the check in the family


@dataclass(frozen=True, order=True)
class Feature:
    """Something of a kernel that may change; ``name`` is a capability's or a check's id."""

    kind: BoundaryKind
    name: str
    family: Family


@dataclass(frozen=True)
class SeriesChange:
    feature: Feature
    old: str
    new: str


@dataclass(frozen=True)
class Boundary:
    """``changes`` came after ``last``, and were there in ``first``.

    Nothing lies between the two but ``untestable`` kernels.
    """

    last: Kernel
    first: Kernel
    changes: tuple[SeriesChange, ...]
    untestable: tuple[Kernel, ...] = ()


@dataclass(frozen=True)
class UntestableKernel:
    """A kernel that could not be tested, and why."""

    kernel: Kernel
    reason: str


@dataclass(frozen=True)
class CompatibilityMap:
    """A whole series; its oldest and newest kernel are ``oldest`` and ``newest``.

    ``oldest_tested`` and ``newest_tested`` are the ends of what could be tested: beyond them
    nothing is known. ``booted`` counts the kernels that were booted for it, now or before it was
    interrupted; ``known`` those of which a stored result was used. ``boundaries`` are oldest first,
    ``seconds`` are those of all rounds.
    """

    kernels: int
    oldest: Kernel
    newest: Kernel
    oldest_tested: Kernel
    newest_tested: Kernel
    boundaries: tuple[Boundary, ...]
    untestable: tuple[UntestableKernel, ...]
    booted: int
    known: int
    rounds: int
    seconds: float
    notes: tuple[str, ...] = ()
    directory: str = ""  # with what the last boots left, "" where there were none
