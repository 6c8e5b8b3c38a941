# SPDX-License-Identifier: GPL-2.0-only
"""What is tested: one object, from the command line to the guest."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from harness.manifest.cross_check import Program
from harness.manifest.fingerprint import added
from harness.verdict.results import Family
from harness.verdict.rounds import ONCE, Repeat

#: Seconds that a program may take in each family.
PROGRAM_S = 60


class Profile(StrEnum):
    """Which checks there are: those of loopback connections, or those of scenarios, too."""

    QUICK = "quick"
    FULL = "full"


@dataclass(frozen=True)
class Plan:
    """What is tested on each kernel.

    ``payload`` in bytes takes the place of all sizes. ``seed`` None gives each run a seed of its
    own. A new setting is a field here: every key has it (harness.manifest.fingerprint), and
    :meth:`arguments` hands it to the guest.
    """

    families: tuple[Family, ...] = tuple(Family)
    checks: tuple[str, ...] = ()  # all of the profile when empty
    profile: Profile = Profile.FULL
    payload: int | None = None
    repeat: Repeat = ONCE
    seed: int | None = None
    #: Run after the checks, to be compared with them.
    programs: tuple[Program, ...] = field(default=(), metadata=added())

    @property
    def is_narrowed(self) -> bool:
        """Whether fewer checks run than there are."""
        return (
            bool(self.checks) or self.profile is not Profile.FULL or set(self.families) < {*Family}
        )

    def arguments(self, seed: int) -> dict[str, str]:
        """The arguments of guest/vm.py that say the same; ``seed`` is that of the run."""
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
