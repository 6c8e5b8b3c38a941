# SPDX-License-Identifier: GPL-2.0-only
"""A run that was written down is read back as it was, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from harness.errors import Malformed
from harness.records import to_json
from harness.records.from_json import run_from_text
from harness.verdict.results import RunResult
from tests import factories


def plain(run: RunResult) -> RunResult:
    """``run`` without what JSON does not keep of an attempt."""
    kernels = (
        replace(k, attempts=tuple(replace(a, incidents=(), kernel_spoke=False) for a in k.attempts))
        for k in run.kernels
    )
    return replace(run, kernels=tuple(kernels))


@pytest.mark.parametrize(
    "run",
    [
        plain(factories.run(*factories.four_kernels())),
        plain(factories.run(factories.crashed(factories.kernel()))),
        replace(factories.run(), interrupted=True, missing=("a",), notes=("n",), startup_s=0.25),
    ],
    ids=["good", "crashed", "interrupted"],
)
def test_a_run_comes_back_as_it_was(run: RunResult) -> None:
    assert run_from_text(to_json.to_json(run)) == run


def test_a_comparison_beside_the_run_is_passed_over() -> None:
    run = plain(factories.run(factories.kernel()))
    value = json.loads(to_json.to_json(run)) | {"comparison": {"worse": True}}
    assert run_from_text(json.dumps(value)) == run


def broken(**changes: Any) -> str:
    value = json.loads(to_json.to_json(factories.run(factories.kernel())))
    return json.dumps(value | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        broken(schema=2),
        broken(schema=True),
        broken(kernels={}),
        broken(kernels=[{}]),
        broken(run={}),
        broken(more=1),
        to_json.to_json(factories.run(factories.kernel(), factories.kernel())),
        to_json.to_json(factories.run(factories.kernel()))[:-100],
    ],
    ids=range(12),
)
def test_what_is_not_exactly_a_run_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        run_from_text(text)
