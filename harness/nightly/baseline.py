# SPDX-License-Identifier: GPL-2.0-only
"""What each kernel of a manifest was like when it was last tested.

Not simply the last run: a kernel that could not be tested last night is compared with the night
before, or its regression would go by unseen.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.host.files import write_atomically
from harness.manifest.fingerprint import counting
from harness.manifest.plan import Plan
from harness.records.from_json import kernel_from_text
from harness.records.store import Run, Store
from harness.verdict.results import KernelResult, KernelVerdict

#: Of a plan, what may differ between runs whose results are compared.
_FREE = {"repeat", "seed"}
#: Of what a run was asked for, what must be alike for its results to be comparable.
ALIKE = ("manifest", *(name for name in counting(Plan) if name not in _FREE))
#: What a run was asked for that does not say it: one of an older harness, or without programs.
_THEN: dict[str, object] = {"profile": "full", "programs": []}
#: How many runs are looked through. Runs of other manifests are among them.
MAX_RUNS = 1000


@dataclass(frozen=True)
class Baseline:
    """The last ``result`` of a kernel, and the ``run`` that it is of."""

    result: KernelResult
    run: Run


def baselines(
    store: Store,
    tonight: Run,
    kernels: Collection[str],
    say: Callable[[str], None],
    newest: str | None = None,
) -> dict[str, Baseline]:
    """By name the last result of each of ``kernels`` before ``tonight``, where there is one.

    ``newest`` is the last run that is looked at; None: the last before ``tonight``. ``say`` is
    told of results that are of no use. Raises HostError.
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
    """The kernels of the last run for the same as ``tonight`` that are not among ``names``."""
    last = next(_heads(store, tonight, newest), None)
    kept = store.results(last.id) if last is not None else ()
    return sorted({result.kernel for result in kept} - set(names))


def _heads(store: Store, tonight: Run, newest: str | None) -> Iterator[Run]:
    """The runs for the same as ``tonight``, the last one first."""
    wanted = _question(tonight)
    runs = iter(store.runs(MAX_RUNS))
    if newest is not None:
        runs = itertools.dropwhile(lambda run: run.id != newest, runs)
    for run in runs:
        if run.id != tonight.id and wanted is not None and _question(run) == wanted:
            yield run


def _question(run: Run) -> list[object] | None:
    """What ``run`` was asked, but for which kernels; None where that cannot be read."""
    try:
        asked = json.loads(run.asked)
        return [asked[key] if key in asked else _THEN[key] for key in ALIKE]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None


#: Characters of the note that are read; a run's name has some twenty.
_MAX = 100


@dataclass(frozen=True)
class LastReported:
    """``run`` is the newest run that may be compared with, "" if there is none.

    ``unreported`` is set if a night after it ended before its report reached anybody.
    """

    run: str
    unreported: bool = False


def note_begin(note: Path, newest: str) -> LastReported:
    """Note in the file ``note`` that a night begins; ``newest`` is the last run before it.

    A note that an earlier night left keeps counting. Raises OSError.
    """
    try:
        with note.open(encoding="utf-8", errors="replace") as file:
            return LastReported(file.read(_MAX).strip(), unreported=True)
    except FileNotFoundError:
        write_atomically(note, newest)
        return LastReported(newest)


def note_end(note: Path) -> None:
    """The report reached those who want it."""
    note.unlink(missing_ok=True)
