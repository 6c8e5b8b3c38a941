# SPDX-License-Identifier: GPL-2.0-only
"""The compatibility map of a series: what changed between which two kernels. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.bisect.results import Kernel
from harness.verdict.results import Family


class Kind(StrEnum):
    CAPABILITY = "capability"  # values: present, absent
    SIZE = "size"  # values: what the kernel says, such as "96 bytes"
    CHECK = "check"  # values: a CheckVerdict, the worst of the check in the family


@dataclass(frozen=True, order=True)
class Feature:
    """Something of a kernel that may change; ``name`` is a capability's or a check's id."""

    kind: Kind
    name: str
    family: Family


@dataclass(frozen=True)
class Change:
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
    changes: tuple[Change, ...]
    untestable: tuple[Kernel, ...] = ()


@dataclass(frozen=True)
class Untestable:
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
    untestable: tuple[Untestable, ...]
    booted: int
    known: int
    rounds: int
    seconds: float
    notes: tuple[str, ...] = ()
    directory: str = ""  # with what the last boots left, "" where there were none
