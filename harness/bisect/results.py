# SPDX-License-Identifier: GPL-2.0-only
"""What a bisect found: pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from harness.verdict.results import EXIT_FAILED, EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED, EXIT_OK


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
