# SPDX-License-Identifier: GPL-2.0-only
"""The result of a bisect, and the compatibility map of a series: pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from harness.verdict.verdicts import (
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
    """A kernel. ``version`` is that of its package, "" if there is none."""

    name: str
    release: str
    version: str = ""


@dataclass(frozen=True)
class KernelEvidence:
    """The evidence on a kernel: the number of good, bad and inconclusive boots.

    ``why`` is from the most conclusive boot; ``reused_from`` is the run of that boot if it was an
    earlier one.
    """

    kernel: Kernel
    good: int
    bad: int
    untestable: int
    why: str
    reused_from: str = ""


@dataclass(frozen=True)
class LogEntry:
    """The change log's text about a version of the package."""

    version: str
    text: str


class CommitEnding(StrEnum):
    FOUND = "found"  # a commit, or several if some cannot be tested
    SAME_SOURCE = "same-source"  # both kernels are of one commit
    NOT_IN_GIT = "not-in-git"  # built from git, an end does not behave as the kernel
    UNTESTABLE = "untestable"  # an end could not be tested, or the host failed
    OUT_OF_TIME = "out-of-time"
    INTERRUPTED = "interrupted"


_COMMIT_STATUS = {
    CommitEnding.FOUND: EXIT_OK,
    CommitEnding.SAME_SOURCE: EXIT_OK,
    CommitEnding.UNTESTABLE: EXIT_INFRASTRUCTURE,
    CommitEnding.OUT_OF_TIME: EXIT_INTERRUPTED,
    CommitEnding.INTERRUPTED: EXIT_INTERRUPTED,
}


@dataclass(frozen=True)
class GitCommit:
    """A commit; ``id`` has all 40 digits, ``date`` is the author's, as 2026-11-27."""

    id: str
    subject: str = ""
    author: str = ""
    date: str = ""


@dataclass(frozen=True)
class CommitEvidence:
    """The evidence on a commit, as that on a kernel; it ``builds`` or not."""

    commit: GitCommit
    good: int
    bad: int
    untestable: int
    why: str
    builds: bool = True
    reused_from: str = ""


@dataclass(frozen=True)
class CommitSearch:
    """The search in ``repository`` between the refs ``good`` and ``bad``.

    If the ending is FOUND, the change came with ``first``, or with one of ``others``, which cannot
    be tested; otherwise ``text`` says why not. ``fixed``: the commit repairs what was bad before.
    ``commits`` is the number of commits between the ends, ``evidence`` is oldest first; ``boots``,
    ``earlier`` and ``seconds`` are as in :class:`Bisection`.
    """

    ending: CommitEnding
    repository: str
    good: str
    bad: str
    text: str = ""
    first: GitCommit | None = None
    others: tuple[GitCommit, ...] = ()
    fixed: bool = False
    evidence: tuple[CommitEvidence, ...] = ()
    commits: int = 0
    boots: int = 0
    earlier: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    directory: str = ""

    @property
    def exit_status(self) -> int:
        return _COMMIT_STATUS.get(self.ending, EXIT_FAILED)


@dataclass(frozen=True)
class Bisection:
    """The result of a bisect for ``what``.

    ``last_good``, ``first_bad``, ``skipped`` (kernels between them, which cannot be tested),
    ``confidence`` (0 to 1) and ``failed`` of ``of`` boots of bad kernels are set if the ending is
    FOUND; otherwise ``text`` says why not. ``reversed``: the good kernels are the newer ones.
    ``evidence`` is oldest first. ``boots`` were made, ``earlier`` of them before an interruption;
    ``seconds`` count from the start of this process. ``commits`` is the search that goes on in git,
    if one was asked for and the ending is FOUND.
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
    commits: CommitSearch | None = None

    @property
    def exit_status(self) -> int:
        if self.commits is not None:
            return self.commits.exit_status
        return _STATUS.get(self.ending, EXIT_FAILED)


class BoundaryKind(StrEnum):
    CAPABILITY = "capability"  # values: present, absent
    SIZE = "size"  # values: the kernel's answer, such as "96 bytes"
    CHECK = "check"  # values: a CheckVerdict, the worst of the check in the family


@dataclass(frozen=True, order=True)
class Feature:
    """A feature of a kernel; ``name`` is that of a capability or a check."""

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
    """``changes`` happened after ``last``, at ``first`` at the latest.

    Only ``untestable`` kernels are between the two.
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
    """The map of a series from ``oldest`` to ``newest``.

    ``oldest_tested`` and ``newest_tested`` are the outermost kernels that could be tested.
    ``booted`` counts the kernels that were booted for the map, including before an interruption;
    ``known`` those whose stored result was used. ``boundaries`` are oldest first; ``seconds`` is
    the duration of all rounds.
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
    directory: str = ""  # of the last boots, "" if there were none
