# SPDX-License-Identifier: GPL-2.0-only
"""How progress flows up: nothing below the command line prints, it tells a listener."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


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
