# SPDX-License-Identifier: GPL-2.0-only
"""A run of the benchmark as JSON, for scripts. Keys are added, never renamed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bench.figures import Figure, Sample
from harness.verdict.results import Phase


def as_json(
    figures: Sequence[Figure], phases: Sequence[Phase], changes: Sequence[str], machine: str
) -> str:
    """All of it; values are in the unit of their figure, samples of a ratio in seconds."""
    record = {
        "schema": 1,
        "machine": machine,
        "figures": [_figure(figure) for figure in figures],
        "waterfall": [{"name": phase.name, "seconds": phase.seconds} for phase in phases],
        "changes": list(changes),
    }
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def _figure(figure: Figure) -> dict[str, Any]:
    result = figure.result
    return {
        "key": figure.key,
        "what": figure.what,
        "unit": figure.unit.value,
        "target": figure.target,
        "standing": figure.standing.value,
        "value": None if result is None else round(result.value, 3),
        "low": None if result is None else round(result.low, 3),
        "high": None if result is None else round(result.high, 3),
        "ours": _sample(figure.ours),
        "theirs": _sample(figure.theirs),
        "note": figure.note,
    }


def _sample(sample: Sample | None) -> list[float]:
    return [round(value, 3) for value in sample.values] if sample else []
