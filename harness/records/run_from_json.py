# SPDX-License-Identifier: GPL-2.0-only
"""The way back from :func:`harness.records.to_json.to_json`, as strict as that of one kernel."""

from __future__ import annotations

import json
from typing import Any

from harness.errors import Malformed
from harness.records.from_json import Fields, kernel_from_json
from harness.records.to_json import SCHEMA
from harness.verdict.results import RunResult

#: What ``check --against`` adds to the record of a run; not part of the run.
COMPARISON = "comparison"


def run_from_text(text: str) -> RunResult:
    """The run in the JSON ``text``. Raises :class:`Malformed`."""
    try:
        return _whole(json.loads(text))
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON: {error}") from error


def _whole(value: Any) -> RunResult:
    if isinstance(value, dict):
        value = {name: member for name, member in value.items() if name != COMPARISON}
    given = Fields("record", value)
    schema = given.take("schema", int)
    if schema != SCHEMA:
        raise Malformed(f"its schema is {schema}, this mptcp-harness reads {SCHEMA}")
    head = given.fields("run")
    kernels = given.take("kernels", list)
    given.end()
    run = _run(head, kernels)
    names = [kernel.name for kernel in run.kernels]
    if len(set(names)) < len(names):
        raise Malformed("two kernels have the same name")
    return run


def _run(given: Fields, kernels: list[Any]) -> RunResult:
    timing = given.fields("timing")
    run = RunResult(
        id=given.text("id"),
        started=given.text("started"),
        finished=given.text("finished"),
        harness_version=given.text("harness_version"),
        host=given.text("host"),
        qemu=given.text("qemu"),
        virtme_ng=given.text("virtme_ng"),
        accel=given.text("accel"),
        seed=given.take("seed", int),
        interrupted=given.take("interrupted", bool),
        missing=given.texts("missing"),
        directory=given.text("directory"),
        startup_s=timing.take("startup_s", float),
        notes=given.texts("notes"),
        kernels=tuple(kernel_from_json(kernel) for kernel in kernels),
    )
    timing.end()
    given.end()
    return run
