# SPDX-License-Identifier: GPL-2.0-only
"""One night: the selftest, the matrix, the comparison, and a bisect of each new regression."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import selftest
from harness.bisect.predicate import Predicate
from harness.errors import HarnessError, HostError
from harness.kernels import Cache
from harness.manifest.kernels_yaml import Accel, KernelEntry
from harness.nightly import regression_bisects
from harness.nightly.baseline import LastReported, baselines, left_out
from harness.nightly.regression_bisects import Ends
from harness.nightly.results import Compared, Night, RegressionBisect, Selftest
from harness.records.store import Store
from harness.run import session
from harness.run.progress import Listener
from harness.run.request import RunRequest
from harness.selftest import FAULTS
from harness.selftest.faults import FaultRow, line
from harness.verdict import comparison
from harness.verdict.results import RunResult

Say = Callable[[str], None]
#: Shows the progress of the matrix, as long as it lasts.
Listening = Callable[[], contextlib.AbstractContextManager[Listener]]
#: Searches between the ends for what the predicate says; the answer in lines. Raises HarnessError.
Search = Callable[[Ends, Predicate], Sequence[str]]
#: Writes the report of the night as far as it is known.
Report = Callable[[Night], None]


@dataclass(frozen=True)
class NightRequest:
    """What a night does; None where the harness is to choose.

    ``entries`` is the whole manifest, in which ``chosen`` are the kernels to be tested. ``store``
    is the file with the results of all runs, this night's included. ``last_reported`` says up to
    which run results may be compared with; None: all that came before.
    """

    manifest: Path
    entries: Sequence[KernelEntry]
    chosen: Sequence[KernelEntry]
    store: Path
    jobs: int | None = None
    accel: Accel | None = None
    confirm: int = 0
    output: Path | None = None
    selftest: bool = True
    bisect: bool = True
    last_reported: LastReported | None = None


def run(
    request: NightRequest,
    cache: Cache,
    listening: Listening,
    say: Say,
    search: Search,
    report: Report,
    stop: threading.Event,
) -> Night:
    """One night. ``report`` gets what is known before the bisects, and again at the end.

    Raises as :func:`harness.run.session.run` does, and what ``report`` raises.
    """
    tested = _selftest(request, cache, say, stop)
    asked = RunRequest(
        jobs=request.jobs,
        accel=request.accel,
        output=request.output and request.output / "matrix",
        confirm=request.confirm,
        manifest=request.manifest,
        store=request.store,
    )
    with listening() as listener:
        result = session.run(request.chosen, asked, cache, listener, stop)
    night = _compared(Night(str(request.manifest), tested, result), request)
    if request.bisect and night.regressions and not stop.is_set():
        # Bisects take hours: whatever ends them, what the night found is on the disk.
        report(replace(night, notes=(*night.notes, "the regressions are still being bisected")))
        found = []
        for compared in night.regressions:
            if not stop.is_set():
                found.append(_bisected(compared, request, cache, say, search))
        night = replace(night, bisects=tuple(found))
    report(night)
    return night


def _selftest(request: NightRequest, cache: Cache, say: Say, stop: threading.Event) -> Selftest:
    """Whatever goes wrong here, the kernels are tested all the same: the report says both."""
    if not request.selftest:
        return Selftest(skipped=True)
    say("selftest: are faults of kernels and guests detected?")
    started = time.monotonic()
    asked = selftest.SelftestRequest(
        jobs=request.jobs,
        accel=request.accel,
        output=request.output and request.output / "selftest",
    )

    def show(row: FaultRow) -> None:
        for text in line(row).splitlines():
            say(text)

    try:
        rows = selftest.run(request.chosen, asked, cache, say, show, stop)
    except HarnessError as error:
        return Selftest(trouble=str(error), wanted=len(FAULTS) + 1)
    return Selftest(rows, len(FAULTS) + 1, time.monotonic() - started)


def _compared(night: Night, request: NightRequest) -> Night:
    """``night`` with each kernel compared with its last result; if that fails, the reason."""
    notes: list[str] = []
    try:
        compared = _compare(night.run, request, notes.append)
    except HarnessError as error:
        return replace(night, uncompared=str(error), first=night.run.kernels, notes=tuple(notes))
    known = {found.kernel.name for found in compared}
    first = tuple(kernel for kernel in night.run.kernels if kernel.name not in known)
    return replace(night, compared=compared, first=first, notes=tuple(notes))


def _compare(result: RunResult, request: NightRequest, note: Say) -> tuple[Compared, ...]:
    names = [kernel.name for kernel in result.kernels]
    newest = request.last_reported.run if request.last_reported else None
    with Store(request.store) as store:
        tonight = store.run(result.id)
        if tonight is None:
            raise HostError(
                f"run {result.id} is gone from {store.path}: it was pruned meanwhile; run it again"
            )
        before = baselines(store, tonight, names, note, newest)
        gone = left_out(store, tonight, [*names, *(e.name for e in request.entries)], newest)
    if request.last_reported and request.last_reported.unreported:
        note("an earlier night ended before its report reached anybody: its findings count as new")
    if gone and not result.interrupted:
        note(f"tested before, and not in the manifest any more: {', '.join(gone)}")
    return tuple(
        Compared(
            comparison.kernels(before[kernel.name].result, kernel),
            before[kernel.name].run.id,
            before[kernel.name].run.started,
        )
        for kernel in result.kernels
        if kernel.name in before
    )


def _bisected(
    found: Compared, request: NightRequest, cache: Cache, say: Say, search: Search
) -> RegressionBisect:
    """The bisect of one regression. Whatever ends it, the other findings are reported."""
    name = found.kernel.name
    sought = regression_bisects.sought(found.difference)
    try:
        ends = regression_bisects.ends(request.entries, found.difference, cache, say)
        say(f"{name}: bisecting {ends.series} from {ends.good} to {ends.bad} for {sought}")
        answer = search(ends, sought)
    except (HarnessError, OSError) as error:
        return RegressionBisect(name, str(sought), why_not=str(error))
    except Exception as error:
        for text in traceback.format_exc().splitlines():
            say(text)
        why = f"the bisect failed with {type(error).__name__}: {error}"
        return RegressionBisect(name, str(sought), why_not=why)
    noted = (ends.note, *answer) if ends.note else tuple(answer)
    return RegressionBisect(name, str(sought), noted)
