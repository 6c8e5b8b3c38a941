# SPDX-License-Identifier: GPL-2.0-only
"""Divides the kernels of a list into shards, which run on machines that know nothing of each other.

The division follows from the names and the known durations alone, not from their order, so that
machines with the same list and the same durations divide it alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import UsageError
from harness.manifest import fingerprint
from harness.manifest.entries import KernelEntry
from harness.records import stored_runs
from harness.verdict.results import Shard

_T = TypeVar("_T")

#: For --durations: no duration is known.
NONE = "none"


@dataclass(frozen=True)
class Part:
    """One shard: its ``kernels`` in the order of the list, and their seconds as far as known."""

    shard: Shard
    kernels: tuple[str, ...]
    seconds: float


def split(names: Sequence[str], seconds: Mapping[str, float], of: int) -> list[tuple[str, ...]]:
    """``names`` in ``of`` parts that take equally long; each keeps the order of ``names``.

    The longest comes first, and each goes to the part with the least so far. Kernels of unknown
    duration count as the mean, so that without durations the names alone decide.
    """
    known = [seconds[name] for name in names if name in seconds]
    mean = sum(known) / len(known) if known else 1.0
    weights = {name: seconds.get(name, mean) for name in names}
    loads = [(0.0, 0, number) for number in range(of)]
    place: dict[str, int] = {}
    for name in sorted(names, key=lambda name: (-weights[name], name)):
        load, count, number = min(loads)
        place[name] = number
        loads[number] = (load + weights[name], count + 1, number)
    return [tuple(name for name in names if place[name] == number) for number in range(of)]


def parts(entries: Sequence[KernelEntry], seconds: Mapping[str, float], of: int) -> list[Part]:
    """The ``of`` shards of ``entries``."""
    names = tuple(entry.name for entry in entries)
    whole = Shard(0, of, names, digest(entries))
    return [
        Part(
            replace(whole, number=number),
            kernels,
            round(sum(seconds.get(name, 0.0) for name in kernels), 3),
        )
        for number, kernels in enumerate(split(names, seconds, of), 1)
    ]


def stretch(items: Sequence[_T], shard: Shard) -> Sequence[_T]:
    """The part of an ordered series for ``shard``: it begins with the last item of the part before.

    So every step from one item to the next lies in exactly one part. Raises UsageError if there
    are more shards than steps.
    """
    steps = len(items) - 1
    if steps < shard.of:
        raise UsageError(
            f"--shard {shard}: the series has {len(items)} kernels, so {max(steps, 0)} steps from "
            "one to the next; divide it into no more parts than that"
        )
    first, last = ((number * steps) // shard.of for number in (shard.number - 1, shard.number))
    return items[first : last + 1]


def durations(words: Sequence[str], names: Sequence[str], place: Path) -> dict[str, float]:
    """The seconds of each kernel in the runs that ``words`` name, the first that has it.

    Without ``words``, those of the last complete runs in the store ``place``. Raises UsageError,
    HostError.
    """
    if not words:
        return stored_runs.durations(place, names)
    found: dict[str, float] = {}
    for word in words:
        if word == NONE:
            continue
        for kernel in stored_runs.find(word, place).kernels:
            earlier = kernel.reused_from.total_s if kernel.reused_from else 0.0
            if took := kernel.timing.total_s or earlier:
                found.setdefault(kernel.name, took)
    return found


def digest(entries: Sequence[KernelEntry]) -> str:
    """A hash of all settings of ``entries``; the directory of their manifest does not count."""
    members = []
    for entry in entries:
        directory = str(Path(entry.where.partition(":")[0]).absolute().parent)
        members.append(_beside(fingerprint.members(entry), directory))
    return fingerprint.digest(members)


def _beside(value: Any, directory: str) -> Any:
    """``value`` with paths below ``directory`` relative to it."""
    if isinstance(value, str):
        return value.replace(f"{directory}/", "./", 1) if value.startswith(directory) else value
    if isinstance(value, list):
        return [_beside(item, directory) for item in value]
    if isinstance(value, dict):
        return {name: _beside(item, directory) for name, item in value.items()}
    return value
