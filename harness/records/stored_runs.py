# SPDX-License-Identifier: GPL-2.0-only
"""Finds stored runs by the names that users give them, and reads them.

A run is named by its id, by a prefix of it, by ``last``, by its directory, or by a file that
``--json`` wrote. A damaged result counts as ``infrastructure``.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from harness.errors import UsageError
from harness.host.files import user_directory
from harness.records.store import FILE, Run, Store, StoredResult
from harness.records.summaries import BAD_LETTERS, RunSummary, Summary
from harness.verdict.verdicts import KernelVerdict

if TYPE_CHECKING:
    from harness.verdict.results import KernelResult, RunResult, Shard

# Results and what reads their records are imported where they are needed: most queries read
# summaries only.

LAST = "last"
MAKE = "make one with `mptcp-harness matrix`"
AGAIN = "the same command looks among them"
#: The record in a run's directory.
RECORD = "run.json"
#: The number of runs in which durations are looked for.
RECENT = 50
#: Bytes; every record is smaller: that of sixty kernels has 10 MB.
MAX_BYTES = 256 << 20


def state_directory() -> Path:
    """The directory of runs and of the store. Raises HostError."""
    return user_directory(
        lambda: platformdirs.user_state_path("mptcp-harness"),
        "XDG_STATE_HOME, or give --output DIR",
    )


def store_file() -> Path:
    """The file with the results of all runs. Raises HostError."""
    return state_directory() / FILE


def find(word: str, place: Path) -> RunResult:
    """The run that ``word`` names, from the store ``place`` unless ``word`` is a path.

    Raises :class:`UsageError`, and HostError.
    """
    if _is_path(word):
        return read(Path(word))
    with _opened(place) as store:
        return load(store, _head(store, word))


def _is_path(word: str) -> bool:
    return word not in ("", LAST) and (Path(word).is_dir() or Path(word).is_file())


def find_kernel(word: str, kernel: str, place: Path) -> KernelResult:
    """The result of ``kernel`` in the run that ``word`` names. Raises as :func:`find` does."""
    if _is_path(word):
        run = read(Path(word))
        found = next((result for result in run.kernels if result.name == kernel), None)
        identity, names = run.id, [result.name for result in run.kernels]
    else:
        with _opened(place) as store:
            head = _head(store, word)
            kept = store.result(head.id, kernel)
            found = _kernel(kept) if kept is not None else None
            identity, names = head.id, [] if kept else _names(store.results(head.id))
    if found is None:
        has = ", ".join(names) or "none"
        raise UsageError(f"run {identity} has no result of a kernel {kernel!r}; it has {has}")
    return found


def _names(results: Iterable[StoredResult]) -> list[str]:
    return [kept.kernel for kept in results]


def read(path: Path) -> RunResult:
    """The run in the directory or file ``path``. Raises :class:`UsageError`."""
    from harness.records.from_json import run_from_text

    file = path / RECORD if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UsageError(f"{file}: larger than any record of a run; give another file")
        return run_from_text(content.decode("utf-8"))
    except OSError as error:
        raise UsageError(
            f"{file}: the record of a run cannot be read ({error.strerror}); give a run's "
            f"directory, or a file that --json wrote"
        ) from error
    except ValueError as error:
        raise UsageError(f"{file}: not the record of a run ({error}); give another file") from error


def last_two(place: Path) -> tuple[RunResult, RunResult]:
    """The last run with a result, and the last complete run before it with the same question.

    The older one comes first. As in :func:`two`, a kernel whose results are equal has no checks.

    Raises :class:`UsageError`, and HostError.
    """
    with _opened(place) as store:
        for head in store.runs():
            if store.results(head.id):
                return _pair(store, _before(store, head), head)
        raise UsageError(f"no run has a result yet: {MAKE}")


def with_the_one_before(word: str, place: Path) -> tuple[RunResult, RunResult]:
    """The run that ``word`` names, and the last complete run before it with the same question.

    The older one comes first, and both are complete. Raises :class:`UsageError`, and HostError.
    """
    return find(the_one_before(word, place), place), find(word, place)


def the_one_before(word: str, place: Path) -> str:
    """The id of the last complete run with the same question before the run that ``word`` names.

    Raises :class:`UsageError`, and HostError.
    """
    identity = read(Path(word)).id if _is_path(word) else ""
    with _opened(place) as store:
        head = store.run(identity) if identity else _head(store, word)
        if head is None:
            raise UsageError(
                f"run {identity} is not in {place}, so the run before it is unknown; give both"
            )
        return _before(store, head).id


def two(before: str, after: str, place: Path) -> tuple[RunResult, RunResult]:
    """The runs that ``before`` and ``after`` name, to be compared.

    Most kernels give the same results every night. Their records are not read: such a kernel has
    no checks, capabilities and incidents in either run. Raises :class:`UsageError`, HostError.
    """
    if _is_path(before) or _is_path(after):
        return find(before, place), find(after, place)
    with _opened(place) as store:
        return _pair(store, _head(store, before), _head(store, after))


def _pair(store: Store, before: Run, after: Run) -> tuple[RunResult, RunResult]:
    then, now = store.contents(before.id), store.contents(after.id)
    alike = {name for name, content in now.items() if then.get(name) == content}

    def loaded(head: Run) -> RunResult:
        return _load(head, store.results(head.id), alike)

    return loaded(before), loaded(after)


def summaries(
    place: Path, count: int, wanted: Callable[[str], bool], *, times: bool = False
) -> tuple[RunSummary, ...]:
    """The last ``count`` runs that have a kernel whose name is ``wanted``, oldest first.

    They contain only those kernels; the order of kernels is that of the newest run that has each.
    Raises :class:`UsageError`, and HostError.
    """
    with _opened(place) as store:
        found = store.summaries(count, wanted, times=times)
        if found:
            return _in_order(store, found)
        if not store.kernels():
            raise UsageError(f"no run has a result yet: {MAKE}")
    raise UsageError(
        "no run has a result of such a kernel; `mptcp-harness history` shows all kernels"
    )


def _in_order(store: Store, runs: Sequence[RunSummary]) -> tuple[RunSummary, ...]:
    """``runs``; where one has kernels that no newer run has, its kernels are in their order."""
    seen: set[str] = set()
    ordered: list[RunSummary] = []
    for run in reversed(runs):
        head = store.run(run.id) if run.kernels.keys() - seen else None
        if head is not None:
            names = [name for name in _kernels(head) if name in run.kernels]
            kernels = {name: run.kernels[name] for name in [*names, *run.kernels]}
            run = replace(run, kernels=kernels)
            seen.update(kernels)
        ordered.append(run)
    return tuple(reversed(ordered))


def failures(word: str, place: Path, count: int) -> tuple[RunResult, ...]:
    """The last ``count`` runs up to the one that ``word`` names, oldest first.

    They have only those kernels that are not as expected or have a bad check. Raises
    :class:`UsageError`, and HostError.
    """
    with _opened(place) as store:
        newest = _head(store, word).id
        runs = store.summaries(count if word == LAST else sys.maxsize, lambda _: True)
        ids = [run.id for run in runs]
        end = ids.index(newest) + 1 if newest in ids else len(ids)
        return tuple(_failures(store, run) for run in runs[:end][-count:])


def _failures(store: Store, run: RunSummary) -> RunResult:
    bad = (name for name, kernel in run.kernels.items() if _is_bad(kernel))
    results = (store.result(run.id, name) for name in bad)
    head = store.run(run.id) or Run(run.id, run.started, "", 0, "", finished=run.finished)
    return replace(_load(head, [kept for kept in results if kept is not None]), missing=())


def _is_bad(kernel: Summary) -> bool:
    return not kernel.verdict.as_expected or not set(BAD_LETTERS).isdisjoint(kernel.outcome.letters)


def last_results(place: Path, wanted: Sequence[str]) -> list[KernelResult]:
    """The last conclusive result of each kernel whose name matches ``wanted``.

    In the order of the newest run that has the kernel, and without checks. Raises
    :class:`UsageError`, HostError.
    """
    found: dict[str, KernelResult] = {}
    with _opened(place) as store:
        names = {n for n in store.kernels() if any(fnmatchcase(n, w) for w in wanted)}
        for head in store.runs():
            if found.keys() >= names:
                break
            for kept in store.results(head.id):
                if kept.kernel in found or kept.kernel not in names:
                    continue
                result = _kernel(kept, checks=False)
                if result.verdict is not KernelVerdict.INFRASTRUCTURE:
                    found[kept.kernel] = result
    if not found:
        raise UsageError(f"no run has a result of a kernel {', '.join(wanted)}: {MAKE}")
    return list(found.values())


def load(store: Store, head: Run) -> RunResult:
    """The run with this ``head``. Raises HostError."""
    return _load(head, store.results(head.id))


def question(run: Run) -> str:
    """The question of ``run``, without the identity of images that the user builds."""
    asked = _object(run.asked)
    kernels = asked.get("kernels")
    for kernel in kernels if isinstance(kernels, list) else ():
        if isinstance(kernel, dict):
            kernel.pop("touched", None)
    return json.dumps(asked, sort_keys=True)


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[Store]:
    if not place.exists():
        raise UsageError(f"no run is kept in {place} yet: {MAKE}, or give a run's directory")
    with Store(place) as store:
        try:
            yield store
        finally:
            if store.damage is not None:
                raise UsageError(f"{store.damage}: {AGAIN if store.damage.results else MAKE}")


def _head(store: Store, word: str) -> Run:
    heads = store.runs()
    if not heads:
        raise UsageError(f"no run is kept yet: {MAKE}, or give a run's directory")
    if word == LAST:
        return heads[0]
    exact = [head for head in heads if head.id == word]
    found = exact or [head for head in heads if word and head.id.startswith(word)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(head.id for head in found[:5]) + (", …" if len(found) > 5 else "")
        raise UsageError(f"{len(found)} runs begin with {word!r}: {ids}; give a longer prefix")
    recent = ", ".join(head.id for head in heads[:5])
    raise UsageError(f"there is no run {word!r}; the last ones are {recent}")


def _before(store: Store, run: Run) -> Run:
    """The last finished run before ``run`` with the same question."""
    older = iter(store.runs())
    for head in older:
        if head.id == run.id:
            break
    wanted = question(run)
    for head in older:
        if head.finished and question(head) == wanted:
            return head
    raise UsageError(
        f"no complete run before {run.id} has the same kernels and settings; give two runs to "
        f"compare them anyway"
    )


def _load(head: Run, results: Iterable[StoredResult], unread: Container[str] = ()) -> RunResult:
    """The run of ``head``; the records of the kernels ``unread`` are not read."""
    from harness.verdict.results import RunResult

    found = {
        kept.kernel: _unread(kept) if kept.kernel in unread else _kernel(kept) for kept in results
    }
    asked = [name for name in _kernels(head) if name in found]
    kernels = tuple(found[name] for name in [*asked, *(n for n in found if n not in asked)])
    about = {name: str(text) for name, text in _object(head.about).items()}
    version, _, code = about.get("harness", "").partition(" ")
    question = head.asked if _object(head.asked) else ""
    return RunResult(
        id=head.id,
        started=head.started,
        finished=head.finished,
        harness_version=version,
        host=about.get("host", ""),
        qemu=about.get("QEMU", ""),
        virtme_ng=about.get("virtme-ng", ""),
        accel=", ".join(sorted({kernel.accel for kernel in kernels if kernel.accel})),
        seed=head.seed,
        kernels=kernels,
        directory=head.directory,
        interrupted=not head.finished,
        missing=tuple(name for name in _kernels(head) if name not in found),
        asked=question,
        code=code,
        shard=_shard(question),
    )


def _shard(asked: str) -> Shard | None:
    from harness.records.from_json import shard_in

    try:
        return shard_in(asked)
    except ValueError:  # an edited store
        return None


def durations(place: Path, names: Iterable[str]) -> dict[str, float]:
    """The seconds that each kernel took in the last complete run with it, if one has it.

    A shard is no complete run: while the shards of a list run one after another on one host, they
    are split alike. Raises HostError.
    """
    wanted, found = {*names}, dict[str, float]()
    if not place.exists():
        return found
    with Store(place) as store:
        for run in reversed(store.summaries(RECENT, wanted.__contains__, times=True)):
            head = store.run(run.id)
            if head is None or not head.finished or _shard_of(head):
                continue
            for name, took in run.times.items():
                if took.total_s > 0:
                    found.setdefault(name, took.total_s)
    return found


def _shard_of(head: Run) -> bool:
    return _object(head.asked).get("shard") is not None


def _unread(kept: StoredResult) -> KernelResult:
    from harness.verdict.results import KernelResult

    return KernelResult(kept.kernel, KernelVerdict(kept.verdict), "")


def _kernel(kept: StoredResult, *, checks: bool = True) -> KernelResult:
    from harness.records.from_json import kernel_from_text
    from harness.verdict.results import KernelResult

    try:
        result = kernel_from_text(kept.record(), checks=checks)
        if result.verdict != kept.verdict or result.name != kept.kernel:
            raise ValueError("it contradicts itself")
    except ValueError as error:
        return KernelResult.infrastructure(
            kept.kernel, f"its stored result of run {kept.run.id} cannot be read: {error}"
        )
    return result


def _kernels(head: Run) -> list[str]:
    kernels = _object(head.asked).get("kernels")
    found = kernels if isinstance(kernels, list) else []
    return [kernel["name"] for kernel in found if isinstance(kernel, dict) and "name" in kernel]


def _object(text: str) -> dict[str, Any]:
    """The object in ``text``; empty if there is none, as in an edited store."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
