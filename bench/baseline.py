# SPDX-License-Identifier: GPL-2.0-only
"""The baseline: the ratios of an earlier run, which mean something on another machine too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.figures import Figure, Spread, Unit

Baseline = Mapping[str, Spread]


class Trend(StrEnum):
    NEW = "new"
    WORSE = "WORSE"
    BETTER = "better"


@dataclass(frozen=True)
class Change:
    """Of the ratio ``key``; ``then`` is None where the baseline lacks it."""

    key: str
    trend: Trend
    now: float
    then: float | None = None

    def __str__(self) -> str:
        before = "" if self.then is None else f"{self.then:.3f} became "
        return f"{self.key}: {self.trend}, {before}{self.now:.3f}"


class Unusable(Exception):
    """The file is no baseline; a sentence."""


def ratios(figures: Iterable[Figure]) -> dict[str, Spread]:
    """What of ``figures`` belongs into a baseline."""
    return {
        figure.key: figure.result
        for figure in figures
        if figure.unit is Unit.RATIO and figure.result is not None
    }


def dump(baseline: Baseline, machine: str) -> str:
    """The file's text; ``machine`` is for people."""
    entries = {
        key: {"ratio": round(r.value, 3), "low": round(r.low, 3), "high": round(r.high, 3)}
        for key, r in baseline.items()
    }
    return json.dumps({"schema": 1, "machine": machine, "ratios": entries}, indent=1) + "\n"


def load(text: str) -> dict[str, Spread]:
    """The baseline in a file's text. Raises :class:`Unusable`."""
    try:
        record: dict[str, Any] = json.loads(text)
        if record["schema"] != 1:
            raise Unusable(f"it has schema {record['schema']}, and this program knows 1")
        return {
            key: Spread(float(entry["ratio"]), float(entry["low"]), float(entry["high"]))
            for key, entry in record["ratios"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unusable(f"{type(error).__name__}: {error}") from error


def merged(old: Baseline, new: Baseline) -> dict[str, Spread]:
    """``old`` with what was measured again."""
    return {**old, **new}


def changes(figures: Iterable[Figure], baseline: Baseline) -> list[Change]:
    """What of ``figures`` is not as in ``baseline``, beyond the spread of both runs.

    That is, where each median lies outside the range of the other's run.
    """
    found = []
    for key, now in ratios(figures).items():
        then = baseline.get(key)
        if then is None:
            found.append(Change(key, Trend.NEW, now.value))
        elif now.value > then.high and then.value < now.low:
            found.append(Change(key, Trend.WORSE, now.value, then.value))
        elif now.value < then.low and then.value > now.high:
            found.append(Change(key, Trend.BETTER, now.value, then.value))
    return found
