# SPDX-License-Identifier: GPL-2.0-only
"""Finds stored runs by the names that users give them, and reads them.

A run is named by its id, by a prefix of it, by ``last``, by its directory, or by a file that
``--json`` wrote. A damaged result counts as ``infrastructure``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.records.from_json import kernel_from_text, run_from_text
from harness.records.store import Run, Store, StoredResult
from harness.verdict.results import KernelResult, KernelVerdict, RunResult

LAST = "last"
MAKE = "make one with `mptcp-harness matrix`"
AGAIN = "the same command looks among them"
#: The record in a run's directory.
RECORD = "run.json"
#: Bytes; every record is smaller: that of sixty kernels has 10 MB.
MAX_BYTES = 256 << 20


def find(word: str, place: Path) -> RunResult:
    """The run that ``word`` names, from the store ``place`` unless ``word`` is a path.

    Raises :class:`UsageError`, and HostError.
    """
    path = Path(word)
    if word not in ("", LAST) and (path.is_dir() or path.is_file()):
        return read(path)
    with _opened(place) as store:
        return load(store, _head(store, word))


def read(path: Path) -> RunResult:
    """The run in the directory or file ``path``. Raises :class:`UsageError`."""
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

    The older one comes first.

    Raises :class:`UsageError`, and HostError.
    """
    with _opened(place) as store:
        for head in store.runs():
            results = store.results(head.id)
            if results:
                return _before(store, head), _load(head, results)
        raise UsageError(f"no run has a result yet: {MAKE}")


def with_the_one_before(word: str, place: Path) -> tuple[RunResult, RunResult]:
    """The run that ``word`` names, and the last complete run before it with the same question.

    The older one comes first.

    Raises :class:`UsageError`, and HostError.
    """
    run = find(word, place)
    with _opened(place) as store:
        head = store.run(run.id)
        if head is None:
            raise UsageError(
                f"run {run.id} is not in {place}, so the run before it is unknown; give both"
            )
        return _before(store, head), run


def history(place: Path, count: int, wanted: Callable[[str], bool]) -> tuple[RunResult, ...]:
    """The last ``count`` runs that have a kernel whose name is ``wanted``, oldest first.

    They contain only those kernels. Raises :class:`UsageError`, and HostError.
    """
    found: list[RunResult] = []
    with _opened(place) as store:
        for head in store.runs():
            results = [kept for kept in store.results(head.id) if wanted(kept.kernel)]
            if results:
                found.append(_load(head, results))
            if len(found) == count:
                break
        if not found and not any(store.results(head.id) for head in store.runs()):
            raise UsageError(f"no run has a result yet: {MAKE}")
    if not found:
        raise UsageError(
            "no run has a result of such a kernel; `mptcp-harness history` shows all kernels"
        )
    return tuple(reversed(found))


def last_results(place: Path, wanted: Sequence[str]) -> list[KernelResult]:
    """The last conclusive result of each kernel whose name matches ``wanted``.

    In the order of the newest run that has the kernel. Raises :class:`UsageError`, HostError.
    """
    found: dict[str, KernelResult] = {}
    with _opened(place) as store:
        for head in store.runs():
            for kept in store.results(head.id):
                if kept.kernel in found or not any(fnmatchcase(kept.kernel, w) for w in wanted):
                    continue
                result = _kernel(kept)
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


def _before(store: Store, run: Run) -> RunResult:
    """The last finished run before ``run`` with the same question."""
    older = iter(store.runs())
    for head in older:
        if head.id == run.id:
            break
    wanted = question(run)
    for head in older:
        if head.finished and question(head) == wanted:
            return load(store, head)
    raise UsageError(
        f"no complete run before {run.id} has the same kernels and settings; give two runs to "
        f"compare them anyway"
    )


def _load(head: Run, results: Iterable[StoredResult]) -> RunResult:
    found = {kept.kernel: _kernel(kept) for kept in results}
    asked = [name for name in _kernels(head) if name in found]
    kernels = tuple(found[name] for name in [*asked, *(n for n in found if n not in asked)])
    about = {name: str(text) for name, text in _object(head.about).items()}
    return RunResult(
        id=head.id,
        started=head.started,
        finished=head.finished,
        harness_version=about.get("harness", "").partition(" ")[0],
        host=about.get("host", ""),
        qemu=about.get("QEMU", ""),
        virtme_ng=about.get("virtme-ng", ""),
        accel=", ".join(sorted({kernel.accel for kernel in kernels if kernel.accel})),
        seed=head.seed,
        kernels=kernels,
        directory=head.directory,
        interrupted=not head.finished,
        missing=tuple(name for name in _kernels(head) if name not in found),
    )


def _kernel(kept: StoredResult) -> KernelResult:
    try:
        result = kernel_from_text(kept.record())
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
