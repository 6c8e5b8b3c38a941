# SPDX-License-Identifier: GPL-2.0-only
"""The test plan: one object, from the command line to the guest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from guest import checks as guest_checks
from harness.manifest.cross_check import Program
from harness.manifest.fingerprint import added
from harness.verdict.rounds import ONCE, Repeat
from harness.verdict.verdicts import Family

#: Seconds that a program may run in each family.
PROGRAM_S = 60


class Profile(StrEnum):
    """Which checks run: those of loopback connections, or also those of scenarios."""

    QUICK = "quick"
    FULL = "full"


def families_of(checks: Collection[str]) -> frozenset[Family]:
    """The families in which one of ``checks`` runs; both if it is empty, which means all checks."""
    if not checks:
        return frozenset(Family)
    items = [item for item in guest_checks.all_checks() if item.id in checks]
    return frozenset(Family(family) for item in items for family in item.families)


@dataclass(frozen=True)
class Plan:
    """The tests for each kernel.

    ``payload``, in bytes, replaces all sizes. With ``seed`` None, each run chooses a seed. A new
    setting is a field here: it is in every key (harness.manifest.fingerprint), and
    :meth:`arguments` passes it to the guest.
    """

    families: tuple[Family, ...] = tuple(Family)  # without those in which no check runs
    checks: tuple[str, ...] = ()  # all checks of the profile if empty
    profile: Profile = Profile.FULL
    payload: int | None = None
    repeat: Repeat = ONCE
    seed: int | None = None
    #: Programs to run after the checks and to compare with them.
    programs: tuple[Program, ...] = field(default=(), metadata=added())

    def __post_init__(self) -> None:
        # Where no chosen check runs there is nothing to report, which would look like a loss.
        run_in = families_of(self.checks)
        if kept := tuple(family for family in self.families if family in run_in):
            object.__setattr__(self, "families", kept)

    @property
    def is_narrowed(self) -> bool:
        """Whether some of the checks do not run."""
        return (
            bool(self.checks) or self.profile is not Profile.FULL or set(self.families) < {*Family}
        )

    def arguments(self, seed: int) -> dict[str, str]:
        """The plan as arguments of guest/vm.py; ``seed`` is the run's."""
        given: dict[str, Any] = {
            "seed": seed,
            "families": ",".join(self.families),
            "profile": self.profile,
        }
        if self.checks:
            given["checks"] = ",".join(self.checks)
        if self.payload is not None:
            given["payload"] = self.payload
        if self.repeat.repeats:
            given["rounds"] = self.repeat.rounds
            if self.repeat.seconds is not None:
                given["seconds"] = self.repeat.seconds
            if self.repeat.until_fail:
                given["until_fail"] = "yes"
        if self.programs:
            given["program_s"] = PROGRAM_S
        return {name: str(value) for name, value in given.items()}
