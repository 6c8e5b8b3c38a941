# SPDX-License-Identifier: GPL-2.0-only
"""What the user asks of a run, and the progress that a run reports to a listener."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from harness.manifest.fingerprint import apart, members
from harness.manifest.kernels_yaml import Accel
from harness.manifest.plan import Plan


@dataclass(frozen=True)
class RunRequest:
    """``plan`` on the kernels of a run; None where the harness is to choose.

    ``manifest`` is the file that the kernels are from, if any; ``confirm`` how many more boots a
    bad result is confirmed by; ``bundle_image`` puts the image into a failing kernel's bundle.
    ``store`` is the file with the results of all runs, where that is not for this run to choose.
    """

    plan: Plan = field(default_factory=Plan)
    accel: Accel | None = None  # over the manifest's
    manifest: Path | None = None
    jobs: int | None = field(default=None, metadata=apart("results are the same one by one"))
    output: Path | None = field(default=None, metadata=apart("a place is no setting"))
    store: Path | None = field(default=None, metadata=apart("a place is no setting"))
    reuse: bool = field(default=False, metadata=apart("a result that is reused still holds"))
    resume: bool = field(default=False, metadata=apart("it says what is done with the answer"))
    confirm: int = field(default=0, metadata=apart("more boots answer the same question"))
    bundle_image: bool = field(default=False, metadata=apart("it is what is kept of a failure"))

    def settings(self) -> dict[str, Any]:
        """All but the plan that counts, as JSON has it."""
        whole = self if self.manifest is None else replace(self, manifest=self.manifest.resolve())
        return {name: value for name, value in members(whole).items() if name != "plan"}

    def seed(self) -> int:
        """The seed that the user gave, or one of this run's own."""
        return secrets.randbits(32) if self.plan.seed is None else self.plan.seed


class Stage(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"
    WAITING = "waiting"
    BOOTING = "booting"
    CHECKING = "checking"
    REPEATING = "repeating"
    RETRYING = "retrying"
    CONFIRMING = "confirming"
    DONE = "done"


@dataclass(frozen=True)
class Progress:
    """``kernel`` entered ``stage``, or went on within it; ``detail`` is text for a person.

    ``kernel`` is "" for what concerns the whole run, such as the choice of the accelerator.
    ``done`` and ``planned`` count checks in CHECKING, rounds of all of them in REPEATING. A DONE
    carries the verdict. ``planned`` is 0 where there is no end of rounds.
    """

    kernel: str
    stage: Stage
    detail: str = ""
    done: int = 0
    planned: int = 0
    verdict: str = ""


class Listener(Protocol):
    """Told of progress, from any thread; must not block or raise."""

    def __call__(self, progress: Progress, /) -> None: ...
