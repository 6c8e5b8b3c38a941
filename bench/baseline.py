# SPDX-License-Identifier: GPL-2.0-only
"""The baseline: the ratios of an earlier run, which mean something on another machine too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bench.figures import Figure, Spread, Unit

Baseline = Mapping[str, Spread]


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


def changes(figures: Iterable[Figure], baseline: Baseline) -> list[str]:
    """A sentence for each ratio that is worse, or better, by more than the spread of both runs.

    That is, where each median lies outside the range of the other's run.
    """
    lines = []
    for key, now in ratios(figures).items():
        then = baseline.get(key)
        if then is None:
            lines.append(f"{key}: new, {now.value:.3f}")
        elif now.value > then.high and then.value < now.low:
            lines.append(f"{key}: WORSE, {then.value:.3f} became {now.value:.3f}")
        elif now.value < then.low and then.value > now.high:
            lines.append(f"{key}: better, {then.value:.3f} became {now.value:.3f}")
    return lines or ["no ratio changed by more than its spread"]
