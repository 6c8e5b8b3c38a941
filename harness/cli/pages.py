# SPDX-License-Identifier: GPL-2.0-only
"""Writes the HTML report of a run, compared with an earlier run.

Imported only where a page is made: the template engine takes longer than most commands may.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guest import checks as guest_checks
from harness.cli.common import write
from harness.errors import HarnessError
from harness.nightly.results import Night
from harness.records import stored_runs
from harness.records.summaries import RunSummary
from harness.report import html
from harness.verdict import comparison
from harness.verdict.comparison import RunDifference
from harness.verdict.results import RunResult

#: Runs in the history of a page, and how far back the page of an older run is looked for.
MAX_RUNS = 30
MAX_SEARCHED = 400


def of_run(run: RunResult, store: Path) -> str:
    """``run`` as HTML, compared with the last run before it in ``store``, if there is one."""
    return html.to_html(run, context_of(run, store))


def context_of(run: RunResult, store: Path) -> html.Context:
    """What the page of ``run`` says beyond it, from ``store``."""
    difference = _since_last(run, store)
    return html.Context(difference, runs=_up_to(run, store), meanings=_meanings())


def of_night(night: Night, store: Path) -> str:
    """``night`` as HTML; each kernel is compared with its last result."""
    difference = None
    if night.compared:
        difference = RunDifference(
            night.run,
            night.run,
            kernels=tuple(compared.difference for compared in night.compared),
            new=night.first,
        )
    since = "the last result of each kernel"
    context = html.Context(difference, since, _up_to(night.run, store), _meanings())
    return html.to_html(night.run, context)


def write_run(run: RunResult, store: Path, target: Path) -> None:
    """Write ``run`` to the user's file ``target``. Raises HostError."""
    again = f"`mptcp-harness report --format html {run.id}` writes it elsewhere"
    write("--html", target, of_run(run, store), again)


def _since_last(run: RunResult, store: Path) -> RunDifference | None:
    try:
        before, _ = stored_runs.with_the_one_before(run.id, store)
    except HarnessError:  # it is the first, or not of this store
        return None
    return comparison.runs(before, run)


def _up_to(run: RunResult, store: Path) -> Sequence[RunSummary]:
    """The last runs with the kernels of ``run``, up to ``run`` itself; none if it is not stored."""
    names = {kernel.name for kernel in run.kernels}
    try:
        runs = stored_runs.summaries(store, MAX_SEARCHED, names.__contains__, times=True)
    except HarnessError:
        return ()
    ids = [found.id for found in runs]
    return runs[: ids.index(run.id) + 1][-MAX_RUNS:] if run.id in ids else ()


def _meanings() -> dict[str, str]:
    return {check.id: check.summary for check in guest_checks.all_checks()}
