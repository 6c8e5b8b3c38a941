# SPDX-License-Identifier: GPL-2.0-only
"""What the boots of a bisect told, kernel by kernel, as its journal has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from harness.bisect.predicate import Checks, Outcome, Predicate
from harness.bisect.search import Boots
from harness.bisect.state import Journal, Record
from harness.errors import Damaged
from harness.verdict.results import KernelVerdict

_BOOT, _PREDICATE = "boot", "predicate"
#: Of several outcomes the one whose reason says most.
_TELLING = (Outcome.BAD, Outcome.GOOD, Outcome.UNTESTABLE)


@dataclass(frozen=True)
class Made:
    """What came of one boot, or, with ``reused_from``, of a boot of that earlier run.

    ``round`` is 0 for the ends. ``seconds`` are those of the boot.
    """

    kernel: str
    outcome: Outcome
    why: str
    verdict: KernelVerdict
    round: int
    seconds: float
    reused_from: str = ""


class Evidence:
    """The outcomes on the kernels called ``names``, each on the disk as soon as it is added.

    May be told from several threads. Of an earlier bisect what failed for the host's sake is
    forgotten: that is tried again. Raises Damaged.
    """

    def __init__(self, journal: Journal, names: Sequence[str]) -> None:
        self._journal = journal
        self._names = names
        self._made: dict[str, list[Made]] = {name: [] for name in names}
        self.predicate: Predicate | None = None
        self.all: list[Made] = []
        for record in journal.records:
            self._recall(record)

    def add(self, made: Made) -> None:
        """Raises OSError where it cannot be kept."""
        self._journal.add({"e": _BOOT, **asdict(made)})
        self._note(made)

    def add_predicate(self, found: Checks) -> None:
        """What the ends differ in, where nothing else was asked for."""
        self._journal.add({"e": _PREDICATE, "checks": found.globs})
        self.predicate = found

    @property
    def booted(self) -> int:
        """How many boots were made for this bisect."""
        return sum(1 for made in self.all if not made.reused_from and _was_booted(made))

    @property
    def rounds(self) -> int:
        return max((made.round for made in self.all), default=0)

    def boots(self, place: int) -> Boots:
        outcomes = [made.outcome for made in self._of(place)]
        return Boots(
            outcomes.count(Outcome.GOOD),
            outcomes.count(Outcome.BAD),
            outcomes.count(Outcome.UNTESTABLE),
        )

    def why(self, place: int) -> str:
        """What the boot said that tells most."""
        for outcome in _TELLING:
            for made in self._of(place):
                if made.outcome is outcome:
                    return made.why
        return ""

    def host_failed(self, place: int) -> bool:
        """Whether it is the host's fault that nothing is known of it."""
        made = self._of(place)
        return bool(made) and all(one.verdict is KernelVerdict.INFRASTRUCTURE for one in made)

    def reused_from(self, place: int) -> str:
        return next((made.reused_from for made in self._of(place) if made.reused_from), "")

    def seconds(self, place: int) -> float:
        """How long a boot of it took; 0 where none was made."""
        return max((made.seconds for made in self._of(place)), default=0.0)

    def _of(self, place: int) -> list[Made]:
        return self._made[self._names[place]]

    def _recall(self, record: Record) -> None:
        if record["e"] == _PREDICATE:
            self.predicate = _checks(record)
            return
        made = _made(record, self._names)
        if made.verdict is not KernelVerdict.INFRASTRUCTURE:
            self._note(made)

    def _note(self, made: Made) -> None:
        self.all.append(made)
        self._made[made.kernel].append(made)


def _was_booted(made: Made) -> bool:
    """A kernel that could not be had was not."""
    return made.verdict is not KernelVerdict.INFRASTRUCTURE or made.seconds > 0


def _checks(record: Record) -> Checks:
    globs = record.get("checks")
    if not isinstance(globs, list) or not globs or not all(type(g) is str for g in globs):
        raise _odd(record)
    return Checks(tuple(globs))


def _made(record: Record, names: Sequence[str]) -> Made:
    """Exactly as it was written, and of a kernel that is looked at."""
    told: dict[str, Any] = {name: value for name, value in record.items() if name != "e"}
    if record["e"] != _BOOT or told.keys() != {field.name for field in fields(Made)}:
        raise _odd(record)
    texts = (told["kernel"], told["why"], told["reused_from"])
    if not all(type(text) is str for text in texts) or told["kernel"] not in names:
        raise _odd(record)
    if type(told["round"]) is not int or type(told["seconds"]) not in (int, float):
        raise _odd(record)
    try:
        told["outcome"] = Outcome(told["outcome"])
        told["verdict"] = KernelVerdict(told["verdict"])
    except ValueError:
        raise _odd(record) from None
    return Made(**told)


def _odd(record: Record) -> Damaged:
    return Damaged(
        f"the state of this bisect has a line that no harness wrote ({str(record)[:200]}); begin "
        "anew with --fresh"
    )
