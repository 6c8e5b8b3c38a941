# SPDX-License-Identifier: GPL-2.0-only
"""One night: the selftest, the matrix, the comparison, and a bisect of each new regression."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import selftest
from harness.bisect.predicate import Predicate
from harness.kernels import Cache, KernelUnavailable
from harness.manifest.kernels_yaml import Accel, KernelEntry
from harness.nightly import regression_bisects
from harness.nightly.baseline import baselines, left_out
from harness.nightly.regression_bisects import Ends, NoHunt
from harness.nightly.reported import Told
from harness.nightly.results import Compared, Hunt, Night, Selftest
from harness.records.store import Store
from harness.run import session, workspace
from harness.run.progress import Listener
from harness.selftest import FAULTS
from harness.selftest.faults import Row, line
from harness.verdict import comparison
from harness.verdict.results import RunResult

Say = Callable[[str], None]
#: Shows the progress of the matrix, as long as it lasts.
Listening = Callable[[], contextlib.AbstractContextManager[Listener]]
#: Searches between the ends for what the predicate says; the answer in lines. Raises NoHunt.
Search = Callable[[Ends, Predicate], Sequence[str]]


@dataclass(frozen=True)
class NightRequest:
    """What the user asked for; None where the harness is to choose.

    ``entries`` is the whole manifest, in which ``chosen`` are the kernels to be tested. ``told``
    is up to which run results may be compared with; None: all that came before.
    """

    manifest: Path
    entries: Sequence[KernelEntry]
    chosen: Sequence[KernelEntry]
    jobs: int | None = None
    accel: Accel | None = None
    confirm: int = 0
    output: Path | None = None
    selftest: bool = True
    bisect: bool = True
    told: Told | None = None


def run(
    request: NightRequest,
    cache: Cache,
    listening: Listening,
    say: Say,
    search: Search,
    stop: threading.Event,
) -> Night:
    """One night. Raises as :func:`harness.run.session.run` does."""
    tested = _selftest(request, cache, say, stop)
    asked = session.RunRequest(
        jobs=request.jobs,
        accel=request.accel,
        output=request.output and request.output / "matrix",
        confirm=request.confirm,
        manifest=request.manifest,
    )
    with listening() as listener:
        result = session.run(request.chosen, asked, cache, listener, stop)
    notes: list[str] = []
    compared, first = _compare(result, request, notes.append)
    night = Night(
        str(request.manifest),
        tested,
        result,
        compared,
        tuple(kernel for kernel in result.kernels if kernel.name in first),
        notes=tuple(notes),
    )
    if not request.bisect or stop.is_set():
        return night
    found = [_hunt(c, request, cache, say, search) for c in night.regressions if not stop.is_set()]
    return replace(night, hunts=tuple(found))


def _selftest(request: NightRequest, cache: Cache, say: Say, stop: threading.Event) -> Selftest:
    """Whatever goes wrong here, the kernels are tested all the same: the report says both."""
    if not request.selftest:
        return Selftest(skipped=True)
    say("selftest: would a fault be seen at all?")
    started = time.monotonic()
    asked = selftest.SelftestRequest(
        jobs=request.jobs,
        accel=request.accel,
        output=request.output and request.output / "selftest",
    )

    def told(row: Row) -> None:
        for text in line(row).splitlines():
            say(text)

    try:
        rows = selftest.run(request.chosen, asked, cache, say, told, stop)
    except (workspace.SessionUnavailable, KernelUnavailable) as error:
        return Selftest(trouble=str(error), wanted=len(FAULTS) + 1)
    return Selftest(rows, len(FAULTS) + 1, time.monotonic() - started)


def _compare(
    result: RunResult, request: NightRequest, say: Say
) -> tuple[tuple[Compared, ...], frozenset[str]]:
    """Each kernel against its last result, and the names of those that have none."""
    names = [kernel.name for kernel in result.kernels]
    newest = request.told.run if request.told else None
    with Store(workspace.store_place(request.output)) as store:
        tonight = store.run(result.id)
        if tonight is None:
            raise workspace.SessionUnavailable(
                f"run {result.id} is gone from {store.path}: it was pruned meanwhile; run it again"
            )
        before = baselines(store, tonight, names, say, newest)
        gone = left_out(store, tonight, [*names, *(e.name for e in request.entries)], newest)
    if request.told and request.told.late:
        say(
            "an earlier night ended before its report was with anybody: what it found is looked at "
            "as if it had not been"
        )
    if gone and not result.interrupted:
        say(f"tested before, and not in the manifest any more: {', '.join(gone)}")
    compared = tuple(
        Compared(
            comparison.kernels(before[kernel.name].result, kernel),
            before[kernel.name].run.id,
            before[kernel.name].run.started,
        )
        for kernel in result.kernels
        if kernel.name in before
    )
    return compared, frozenset(names) - before.keys()


def _hunt(found: Compared, request: NightRequest, cache: Cache, say: Say, search: Search) -> Hunt:
    name = found.kernel.name
    sought = regression_bisects.sought(found.difference)
    try:
        ends = regression_bisects.ends(request.entries, found.difference, cache, say)
        say(f"{name}: bisecting {ends.series} from {ends.good} to {ends.bad} for {sought}")
        answer = search(ends, sought)
    except NoHunt as error:
        return Hunt(name, str(sought), why_not=str(error))
    noted = (ends.note, *answer) if ends.note else tuple(answer)
    return Hunt(name, str(sought), noted)
