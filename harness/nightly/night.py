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
from harness.bisect import predicate
from harness.bisect.candidates import Candidate, age, everything
from harness.bisect.predicate import Predicate
from harness.errors import HarnessError, HostError
from harness.kernels import Cache
from harness.manifest.kernels_yaml import Accel, KernelEntry
from harness.nightly.baseline import LastReported, baselines, left_out
from harness.nightly.results import Compared, Night, RegressionBisect, Selftest
from harness.records.store import Store
from harness.run import session
from harness.run.progress import Listener
from harness.run.request import RunRequest
from harness.selftest import FAULTS
from harness.selftest.faults import FaultRow, line
from harness.verdict import comparison
from harness.verdict.comparison import CAPABILITY, ChangeKind, Difference
from harness.verdict.results import KernelResult, RunResult


class NotBisected(HarnessError):
    """There is nothing to bisect; a sentence that says why."""


@dataclass(frozen=True)
class Ends:
    """The kernels to search between, both of the series ``series``; ``note`` is for people."""

    good: str
    bad: str
    series: str
    note: str = ""


def predicate_of(difference: Difference) -> Predicate:
    """What became worse: the checks that newly fail, else a new incident, else anything."""
    worse = [
        c.check for c in difference.changes if c.kind in (ChangeKind.FAILING, ChangeKind.COUNTING)
    ]
    lost = [CAPABILITY + change.name for change in difference.capabilities if change.is_lost]
    checks = list(dict.fromkeys([*lost, *worse]))
    if checks:
        found = predicate.of(check=",".join(checks))
    elif difference.new_incidents:
        found = predicate.of(incident=difference.new_incidents[0].fingerprint)
    else:
        found = predicate.of(anything=True)
    assert found is not None, "one of the three was asked for"
    return found


def ends_of(
    entries: Sequence[KernelEntry],
    difference: Difference,
    cache: Cache,
    say: Callable[[str], None],
) -> Ends:
    """The kernels of a series among ``entries`` that the regression lies between.

    Raises :class:`NotBisected`.
    """
    before, after = difference.before, difference.after
    if before.image_sha256 and before.image_sha256 == after.image_sha256:
        raise NotBisected(
            "it is the same kernel that did better before: not the kernel changed, but what is "
            "around it, or chance; `check --confirm` or `--repeat` may tell"
        )
    problems: list[str] = []
    for entry in entries:
        if not entry.is_series:
            continue
        found, notes = everything([entry], cache, say)
        problems += notes
        members = sorted(found, key=age)
        bad = _which(members, after)
        if bad is not None:
            return _ends(entry.name, members, bad, before)
    why = "; ".join(problems) or f"no series of the manifest holds {after.release}"
    raise NotBisected(
        f"{why}: add one that does, as kernels.yaml explains, and it will be bisected"
    )


def _ends(series: str, members: Sequence[Candidate], bad: Candidate, before: KernelResult) -> Ends:
    """From the kernel that was good, or where it is gone from one that is as near as can be.

    The good one is the newer where somebody went back to an older kernel.
    """
    exact = _which(members, before)
    if exact is not None:
        return Ends(exact.entry.name, bad.entry.name, series)
    older = members[: members.index(bad)]
    if not older:
        raise NotBisected(
            f"{bad.release} is the oldest kernel of {series}: none is left to compare"
        )
    like = Candidate(bad.entry, before.release, before.version)
    elders = [candidate for candidate in older if age(candidate) < age(like)]
    nearest = elders[-1] if elders else older[0]
    note = f"{before.release}, which was good, is gone from {series}; {nearest.release} is taken"
    return Ends(nearest.entry.name, bad.entry.name, series, note)


def _which(members: Sequence[Candidate], result: KernelResult) -> Candidate | None:
    for member in members:
        if member.release == result.release and member.version in ("", result.version):
            return member
    return None


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
    sought = predicate_of(found.difference)
    try:
        ends = ends_of(request.entries, found.difference, cache, say)
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
