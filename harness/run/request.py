# SPDX-License-Identifier: GPL-2.0-only
"""The user's request for a run, and the progress that a run reports to a listener."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from harness.manifest.entries import Accel
from harness.manifest.fingerprint import added, apart, members
from harness.manifest.plan import Plan
from harness.verdict.results import Shard


@dataclass(frozen=True)
class Fleet:
    """The Dask scheduler at ``address``, and the directory with the client's certificates, if any.

    ``all_files`` asks for the consoles and events of good kernels as well.
    """

    address: str
    certificates: Path | None = None
    all_files: bool = False


@dataclass(frozen=True)
class RunRequest:
    """A ``plan`` and how it is carried out; None means that the harness chooses.

    ``manifest`` is the file that the kernels are from, if any. ``confirm`` is the number of boots
    that confirm a bad result. ``bundle_image`` includes the image in a failing kernel's bundle.
    ``store`` is the file with the results of all runs, if the caller chooses it.
    """

    plan: Plan = field(default_factory=Plan)
    accel: Accel | None = None  # overrides the manifest
    manifest: Path | None = None
    jobs: int | None = field(
        default=None, metadata=apart("the number of VMs does not change results")
    )
    output: Path | None = field(default=None, metadata=apart("a path does not change results"))
    store: Path | None = field(default=None, metadata=apart("a path does not change results"))
    reuse: bool = field(default=False, metadata=apart("a reused result is still valid"))
    resume: bool = field(default=False, metadata=apart("it does not change results"))
    confirm: int = field(default=0, metadata=apart("more boots answer the same question"))
    bundle_image: bool = field(
        default=False, metadata=apart("it only changes what is kept of a failure")
    )

    fleet: Fleet | None = field(
        default=None, metadata=apart("a kernel behaves alike wherever it is tested")
    )
    shard: Shard | None = field(default=None, metadata=added())  # that the kernels are

    def settings(self) -> dict[str, Any]:
        """All settings that count except the plan, as JSON values."""
        whole = self if self.manifest is None else replace(self, manifest=self.manifest.resolve())
        return {name: value for name, value in members(whole).items() if name != "plan"}

    def seed(self) -> int:
        """The user's seed, or a random one; all shards derive one from their list."""
        if self.plan.seed is not None:
            return self.plan.seed
        return int(self.shard.manifest[:8], 16) if self.shard else secrets.randbits(32)


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
    """``kernel`` entered ``stage``, or advanced in it; ``detail`` is text for people.

    ``kernel`` is "" for the whole run, for example for the choice of the accelerator. ``done`` and
    ``planned`` count checks in CHECKING, and rounds in REPEATING. DONE has the verdict. ``planned``
    is 0 if the number of rounds is unlimited.
    """

    kernel: str
    stage: Stage
    detail: str = ""
    done: int = 0
    planned: int = 0
    verdict: str = ""


class Listener(Protocol):
    """Receives progress from any thread; must not block or raise."""

    def __call__(self, progress: Progress, /) -> None: ...
