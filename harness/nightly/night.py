# SPDX-License-Identifier: GPL-2.0-only
"""One night: the selftest, the matrix, the comparison, and a bisect of each new regression.

Each kernel is compared with its last result, not with the last run: a kernel that could not be
tested last night is compared with the night before, so that its regression is not missed."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import selftest
from harness.bisect.predicate import Predicate
from harness.errors import HarnessError, HostError
from harness.host.files import write_atomically
from harness.kernels import Cache
from harness.manifest.entries import Accel, KernelEntry
from harness.manifest.fingerprint import counting
from harness.manifest.plan import Plan
from harness.nightly.ends import Ends, ends_of, predicate_of
from harness.nightly.results import Compared, Night, RegressionBisect, Selftest
from harness.records.from_json import kernel_from_text
from harness.records.store import Run, Store
from harness.run import session
from harness.run.request import Fleet, Listener, RunRequest
from harness.selftest import FAULTS
from harness.selftest.faults import FaultRow, line
from harness.verdict import comparison
from harness.verdict.results import KernelResult, RunResult
from harness.verdict.verdicts import KernelVerdict

#: The fields of a plan that may differ between runs whose results are compared.
_FREE = {"repeat", "seed"}
#: The parts of the question that must be equal for results to be comparable.
ALIKE = ("manifest", *(name for name in counting(Plan) if name not in _FREE))
#: The values for runs that lack these parts: runs of older harnesses, or without programs.
_THEN: dict[str, object] = {"profile": "full", "programs": []}
#: The number of runs that are searched, including runs of other manifests.
MAX_RUNS = 1000


@dataclass(frozen=True)
class Baseline:
    """The last ``result`` of a kernel, and its ``run``."""

    result: KernelResult
    run: Run


def baselines(
    store: Store,
    tonight: Run,
    kernels: Collection[str],
    say: Callable[[str], None],
    newest: str | None = None,
) -> dict[str, Baseline]:
    """The last result of each of ``kernels`` before ``tonight``, by name.

    ``newest`` is the newest run to consider; None: the last before ``tonight``. ``say`` gets a
    message for unreadable results. Raises HostError.
    """
    found: dict[str, Baseline] = {}
    for head in _heads(store, tonight, newest):
        for kept in store.results(head.id):
            if kept.kernel in found or kept.kernel not in kernels:
                continue
            if kept.verdict == KernelVerdict.INFRASTRUCTURE:
                continue
            try:
                result = kernel_from_text(kept.record())
            except ValueError as error:
                say(f"{kept.kernel}: its result in run {head.id} cannot be read ({error})")
                continue
            found[kept.kernel] = Baseline(result, head)
        if len(found) == len(kernels):
            break
    return found


def left_out(
    store: Store, tonight: Run, names: Collection[str], newest: str | None = None
) -> list[str]:
    """The kernels of the last run with the same question as ``tonight`` that are not in
    ``names``."""
    last = next(_heads(store, tonight, newest), None)
    kept = store.results(last.id) if last is not None else ()
    return sorted({result.kernel for result in kept} - set(names))


def _heads(store: Store, tonight: Run, newest: str | None) -> Iterator[Run]:
    """The runs with the same question as ``tonight``, newest first."""
    wanted = _question(tonight)
    runs = iter(store.runs(MAX_RUNS))
    if newest is not None:
        runs = itertools.dropwhile(lambda run: run.id != newest, runs)
    for run in runs:
        if run.id != tonight.id and wanted is not None and _question(run) == wanted:
            yield run


def _question(run: Run) -> list[object] | None:
    """The question of ``run`` without the kernels; None if it cannot be read."""
    try:
        asked = json.loads(run.asked)
        return [asked[key] if key in asked else _THEN[key] for key in ALIKE]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None


#: Characters of the note that are read; a run's id has about twenty.
_MAX = 100


@dataclass(frozen=True)
class LastReported:
    """``run`` is the newest run to compare with, "" if there is none.

    ``unreported`` is set if the report of a later night was not delivered.
    """

    run: str
    unreported: bool = False


def note_begin(note: Path, newest: str) -> LastReported:
    """Record in the file ``note`` that a night begins; ``newest`` is the last run before it.

    A note left by an earlier night stays valid. Raises OSError.
    """
    try:
        with note.open(encoding="utf-8", errors="replace") as file:
            return LastReported(file.read(_MAX).strip(), unreported=True)
    except FileNotFoundError:
        write_atomically(note, newest)
        return LastReported(newest)


def note_end(note: Path) -> None:
    """Remove the note, because the report was delivered."""
    note.unlink(missing_ok=True)


Say = Callable[[str], None]
#: Shows the progress of the matrix.
Listening = Callable[[], contextlib.AbstractContextManager[Listener]]
#: Bisects between the ends for the predicate; returns the answer as lines. Raises HarnessError.
Search = Callable[[Ends, Predicate], Sequence[str]]
#: Writes the report of the night as known so far.
Report = Callable[[Night], None]


@dataclass(frozen=True)
class NightRequest:
    """The settings of a night; None means that the harness chooses.

    ``entries`` is the whole manifest, and ``clone`` its clone of Linux, if it names one; ``chosen``
    are its kernels to test. ``store`` is the file
    with the results of all runs, including this night's. ``last_reported`` limits the runs to
    compare with; None: all earlier ones.
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
    clone: str = ""
    fleet: Fleet | None = None  # for the matrix and the bisects; the selftest is of this host


def run(
    request: NightRequest,
    cache: Cache,
    listening: Listening,
    say: Say,
    search: Search,
    report: Report,
    stop: threading.Event,
) -> Night:
    """Run one night. ``report`` is called before the bisects and again at the end.

    Raises as :func:`harness.run.session.run` does, and what ``report`` raises.
    """
    tested = _selftest(request, cache, say, stop)
    asked = RunRequest(
        jobs=request.jobs,
        accel=request.accel,
        output=request.output and request.output / "matrix",
        confirm=request.confirm,
        fleet=request.fleet,
        manifest=request.manifest,
        store=request.store,
    )
    with listening() as listener:
        result = session.run(request.chosen, asked, cache, listener, stop)
    night = _compared(Night(str(request.manifest), tested, result), request)
    if request.bisect and night.regressions and not stop.is_set():
        # Bisects take hours; the findings so far must be on the disk, however they end.
        report(replace(night, notes=(*night.notes, "the regressions are still being bisected")))
        found = []
        for compared in night.regressions:
            if not stop.is_set():
                found.append(_bisected(compared, request, cache, say, search))
        night = replace(night, bisects=tuple(found))
    report(night)
    return night


def _selftest(request: NightRequest, cache: Cache, say: Say, stop: threading.Event) -> Selftest:
    """Run the selftest; whatever its result, the kernels are tested, and the report has both."""
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
    """``night`` with each kernel compared with its last result, or the reason why not."""
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
                f"run {result.id} is no longer in {store.path}: it was pruned in the meantime; run "
                "it again"
            )
        before = baselines(store, tonight, names, note, newest)
        gone = left_out(store, tonight, [*names, *(e.name for e in request.entries)], newest)
    if request.last_reported and request.last_reported.unreported:
        note("the report of an earlier night was not delivered; its findings count as new")
    if gone and not result.interrupted:
        note(f"tested before, but no longer in the manifest: {', '.join(gone)}")
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
    """Bisect one regression. An error ends only this bisect."""
    name = found.kernel.name
    sought = predicate_of(found.difference)
    try:
        ends = ends_of(request.entries, found.difference, cache, say, request.clone)
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
