# SPDX-License-Identifier: GPL-2.0-only
"""What a failure follows, by where it came again. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from harness.verdict.reproduction import Again

#: Boots on each side that have to agree before one side is blamed: what comes and goes by chance
#: half of the time looks like that once in 32 times.
ENOUGH = 3


class Follows(Enum):
    """Whose failure it is."""

    KERNEL = "the kernel"
    TIMING = "the timing"
    ENVIRONMENT = "the environment"
    UNCLEAR = "it cannot be told"


@dataclass(frozen=True)
class Machine:
    """What is varied; ``qemu`` is its path and version, for people."""

    accel: str
    cpus: int
    qemu: str


@dataclass(frozen=True)
class Tried:
    """``again`` has what came of each boot on ``machine``.

    Where there is none, ``obstacle`` says why, if not that it was interrupted.
    """

    machine: Machine
    again: tuple[Again, ...] = ()
    obstacle: str = ""

    @property
    def told(self) -> tuple[Again, ...]:
        return tuple(again for again in self.again if again is not Again.UNTESTED)


@dataclass(frozen=True)
class Conclusion:
    """``why`` is a sentence, ``untold`` are others, on what there is no evidence for."""

    follows: Follows
    why: str
    untold: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Side:
    """All boots that have one value of what is varied."""

    boots: int
    hits: int

    @property
    def is_even(self) -> bool:
        return self.hits in (0, self.boots)


#: What is varied: how it is called, and its value on a machine.
_FACTORS: tuple[tuple[str, Follows, Callable[[Machine], str]], ...] = (
    ("accelerator", Follows.ENVIRONMENT, lambda machine: machine.accel.upper()),
    ("QEMU", Follows.ENVIRONMENT, lambda machine: machine.qemu),
    ("number of processors", Follows.TIMING, lambda machine: str(machine.cpus)),
)


def conclude(tried: Sequence[Tried]) -> Conclusion:
    """What the failure follows. A failure of another kind is as if it did not come again.

    +----------------------------------------------+-------------+
    | it came again in                             | it follows  |
    +==============================================+=============+
    | no boot                                      | unclear     |
    | every boot, on at least two machines         | kernel      |
    | every boot of one accelerator or QEMU,       | environment |
    | and none of another                          |             |
    | every boot of one number of processors,      | timing      |
    | and none of another                          |             |
    | else: some boots                             | timing      |
    +----------------------------------------------+-------------+

    Where one of the rows about sides fits by fewer than ENOUGH boots on a side, or two of them
    fit, it is unclear.
    """
    untold = _untold(tried)
    boots = [again for one in tried for again in one.told]
    hits = sum(again.is_it for again in boots)
    count = f"{hits} of {len(boots)} boots"
    if not boots:
        return Conclusion(Follows.UNCLEAR, "no boot told anything", untold)
    if not hits:
        other = ", though others did" if any(again.failed for again in boots) else ""
        why = (
            f"it was reproduced in none of {len(boots)} boots{other}: give --times a larger number"
        )
        return Conclusion(Follows.UNCLEAR, why, untold)
    if hits == len(boots):
        if sum(bool(one.told) for one in tried) < 2:
            why = f"it came again in {count}, all of them on one kind of machine"
            return Conclusion(Follows.UNCLEAR, why, untold)
        return Conclusion(Follows.KERNEL, f"it came again in {count}", untold)
    return _uneven(tried, count, untold)


def _uneven(tried: Sequence[Tried], count: str, untold: tuple[str, ...]) -> Conclusion:
    """It came again in some boots and not in others."""
    fitting = [
        (name, follows, sides)
        for name, follows, value in _FACTORS
        if len(sides := _sides(tried, value)) > 1 and all(s.is_even for s in sides.values())
    ]
    if not fitting:
        why = f"it came again in {count}, with the same kernel and the same seed"
        return Conclusion(Follows.TIMING, why, untold)
    name, follows, sides = fitting[0]
    shown = ", ".join(f"{value}: {s.hits} of {s.boots}" for value, s in sides.items())
    why = f"it goes by the {name} ({shown})"
    if len(fitting) > 1:
        why = f"it goes by the {name} ({shown}), or by the {fitting[1][0]}"
        return Conclusion(Follows.UNCLEAR, why, untold)
    if min(side.boots for side in sides.values()) < ENOUGH:
        why = f"perhaps {why}, but that may be chance: give --times a larger number"
        return Conclusion(Follows.UNCLEAR, why, untold)
    return Conclusion(follows, why, untold)


def _sides(tried: Sequence[Tried], value: Callable[[Machine], str]) -> dict[str, _Side]:
    sides: dict[str, _Side] = {}
    for one in tried:
        for again in one.told:
            side = sides.get(value(one.machine), _Side(0, 0))
            sides[value(one.machine)] = _Side(side.boots + 1, side.hits + again.is_it)
    return sides


def _untold(tried: Sequence[Tried]) -> tuple[str, ...]:
    """What was not varied, and why not."""
    found = []
    for name, _, value in _FACTORS:
        if len(_sides(tried, value)) < 2:
            found.append(f"whether it depends on the {name} cannot be told")
    return (*found, *dict.fromkeys(one.obstacle for one in tried if one.obstacle))
