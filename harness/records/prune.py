# SPDX-License-Identifier: GPL-2.0-only
"""Lists what the harness keeps and its size, and removes what was not used for a long time.

The last use of an item is the time of its file: ``entry.json`` of a prepared kernel, the archive of
a guest's root, a change log. A note on an image is as old as its last reading, a run and its stored
results as old as the run, a bisect as old as its last boot. Package indexes stay, because there is
only one for each suite. Whatever a running harness has used or may still use stays: see
Cache.frozen for the cache and the state of step, and :func:`in_use` for a run and a bisect.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Busy
from harness.host import locks
from harness.host.tools import Finding, Standing
from harness.kernels import Cache
from harness.kernels import cache as kernel_cache
from harness.records import recovery
from harness.records.store import Run, Store
from harness.vm import initramfs

#: Bytes from which on doctor shows a remedy.
LARGE = 10 << 30
#: The directory of the cache for each kind.
KINDS = {
    "prepared kernels": "kernels",
    "guest roots": "roots",
    "notes on images": "images",
    "change logs": "changelogs",
    "copies of kernel trees": "builds",
    "kernels from a fleet": "fleet",
}
#: Kept by older harnesses in directories of the cache that are no longer used.
LEFT = "results of an older version"
LEFT_IN = ("results",)
RUNS = "runs"
#: The directory beside that of the runs for each kind.
BESIDE = {"bisects": "bisects", "compatibility maps": "maps"}
STEPS = "results of step"
STEPS_IN = "step"
#: The only directory in it; directories named by a key are from older harnesses.
COMMITS = "commits"
#: All kinds outside the cache.
KEPT = (RUNS, *BESIDE, STEPS)
STORED = "runs in the store"
LOCKS = "lock files"
INDEXES = "package indexes"
#: The suffix of files of a kind.
ENDINGS = {"roots": ".cpio", "images": ".json", "changelogs": ".gz"}
#: Those of the files beside a guest's root.
BESIDE_ROOT = (initramfs.CHECKSUM, initramfs.VERIFIED)
#: The remedy if something has become too large.
REMEDY = "mptcp-harness prune --keep 30d"
# The names of run directories; other directories there are not ours to remove.
_RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
#: The names of directories of harness.bisect.state and harness.step.
_KEY = re.compile(rf"[0-9a-f]{{16}}|{COMMITS}")


@dataclass(frozen=True)
class Item:
    """A stored item: last ``used`` in seconds since the epoch, ``size`` in bytes on disk.

    All ``paths`` are removed together; the first is the item itself.
    """

    kind: str
    paths: tuple[Path, ...]
    used: float
    size: int
    obsolete: bool = False  # from an older harness, so never used again


@dataclass(frozen=True)
class Usage:
    """The number of items of a kind, and their bytes."""

    kind: str
    count: int
    size: int


def doctor(cache: Path, runs: Path, store: Path) -> tuple[Finding, ...]:
    """The contents of ``cache``, of ``runs`` and of the file ``store``, as findings.

    A finding has a remedy if it has become large.
    """
    items = [*cached(cache), *runs_in(runs), *bisects(runs), *steps(runs)]
    indexes = _entries(cache / "apt")
    in_cache = [
        *(total(items, kind) for kind in (*KINDS, LEFT)),
        Usage(INDEXES, len(indexes), sum(map(disk_usage, indexes))),
    ]
    return (
        _finding("cache", cache, in_cache),
        _finding("runs", runs, [total(items, RUNS)]),
        _finding("bisects", runs.parent, [total(items, kind) for kind in (*BESIDE, STEPS)]),
        _of_store(store),
    )


def _of_store(store: Path) -> Finding:
    wrong = recovery.examine(store)
    if not wrong:
        return _finding("results", store, [Usage("", 0, _size_of(store))])
    return Finding(
        "results",
        Standing.LIMITED,
        f"{store} is damaged: {wrong}",
        remedy="the next run sets it aside and keeps the rows that can be read",
    )


def _finding(subject: str, place: Path, kinds: Sequence[Usage]) -> Finding:
    size = sum(kind.size for kind in kinds)
    counts = summary(kinds)
    found = f"{mebibytes(size)} in {place}" + (f": {counts}" if counts else "")
    return Finding(subject, Standing.OK, found, "", REMEDY if size > LARGE else "")


def summary(kinds: Iterable[Usage]) -> str:
    """``prepared kernels 18, runs 5``."""
    return ", ".join(f"{kind.kind} {kind.count}" for kind in kinds if kind.count)


def mebibytes(size: int) -> str:
    """``size``, in bytes, as text for people."""
    return f"{size / (1 << 20):.1f} MiB"


def total(items: Iterable[Item], kind: str) -> Usage:
    sizes = [item.size for item in items if item.kind == kind]
    return Usage(kind, len(sizes), sum(sizes))


def prune(cache: Cache, runs: Path, keep_s: float, *, dry_run: bool) -> list[Item]:
    """Remove what was last used more than ``keep_s`` seconds ago, or can never be used again.

    Returns what was removed, or with ``dry_run`` would be removed. Raises OSError.
    """
    before = time.time() - keep_s
    removed = _prune_cache(cache, before, dry_run) if cache.root.is_dir() else []
    removed += _prune_locks(cache.root / "locks", before, dry_run)
    removed += _prune_steps(cache, runs, before, dry_run)
    for item in (*runs_in(runs), *bisects(runs)):
        if item.used < before and _remove_run(item.paths[0], dry_run):
            removed.append(item)
    return removed


def prune_store(path: Path, keep_s: float, *, dry_run: bool) -> Usage:
    """Remove runs that began more than ``keep_s`` seconds ago from the store ``path``.

    Returns their number and the freed bytes. Raises HostError.
    """
    if not path.exists():
        return Usage(STORED, 0, 0)
    size = _size_of(path)
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=keep_s)
    with Store(path) as store:
        old = [
            run.id
            for run in store.runs()
            if datetime.datetime.fromisoformat(run.started) < before
            and (run.finished or not _goes_on(run))
        ]
        if old and not dry_run:
            store.prune(old)
    return Usage(STORED, len(old), max(0, size - _size_of(path)))


def _size_of(store: Path) -> int:
    """The store's size, including SQLite's other files and damaged stores that were set aside."""
    return sum(map(disk_usage, store.parent.glob(f"{store.name}*")))


def _prune_cache(cache: Cache, before: float, dry_run: bool) -> list[Item]:
    removed: list[Item] = []
    with cache.scratch() as trash, cache.frozen() as oldest_use:
        for item in cached(cache.root):
            if item.used < oldest_use and (item.obsolete or item.used < before):
                for path in () if dry_run else item.paths:
                    path.rename(trash / f"{len(removed)}-{path.name}")
                removed.append(item)
    return removed


def _prune_locks(place: Path, before: float, dry_run: bool) -> list[Item]:
    removed = []
    for path in _entries(place):
        with contextlib.suppress(FileNotFoundError):
            used = path.stat().st_mtime
            if used < before and (
                not locks.is_held(path) if dry_run else locks.remove(path, before)
            ):
                removed.append(Item(LOCKS, (path,), used, 0))
    return removed


def _prune_steps(cache: Cache, runs: Path, before: float, dry_run: bool) -> list[Item]:
    old = [item for item in steps(runs) if item.used < before]
    if not old:
        return []
    with cache.frozen() as oldest_use:
        unused = [item for item in old if _last_used(item.paths[0]) < min(before, oldest_use)]
        for item in () if dry_run else unused:
            shutil.rmtree(item.paths[0])
    return unused


def in_use(run: Path) -> contextlib.AbstractContextManager[int]:
    """While this is held, the run in the directory is not removed or resumed by others.

    Raises Busy, and OSError.
    """
    return locks.directory(
        run,
        f"another harness is working in {run}, and two would spoil each other's results; wait for "
        f"it, or end it",
    )


def _goes_on(run: Run) -> bool:
    """Whether a harness is working on it; further boots of a bisect are in its first run."""
    directory = Path(run.directory)
    return any(map(locks.is_held, (directory, directory.parent)))


def cached(cache: Path) -> Iterator[Item]:
    """The items in ``cache``, complete or not."""
    for kind, name in KINDS.items():
        for path in _entries(cache / name):
            if path.suffix in BESIDE_ROOT and path.with_suffix(ENDINGS["roots"]).exists():
                continue  # removed together with the archive
            endings = BESIDE_ROOT if path.suffix == ENDINGS["roots"] else ()
            beside = [path.with_suffix(ending) for ending in endings]
            paths = (path, *(each for each in beside if each.exists()))
            record = path / kernel_cache.RECORD if name == "kernels" else path
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                last = [record if record.exists() else path, *paths[1:]]
                used = max(each.stat().st_mtime for each in last)
                size = sum(map(disk_usage, paths))
                yield Item(kind, paths, used, size, _is_obsolete(name, path))
    for place in (cache / name for name in LEFT_IN):
        if place.is_dir():
            yield Item(LEFT, (place,), place.stat().st_mtime, disk_usage(place), obsolete=True)


def runs_in(runs: Path) -> Iterator[Item]:
    """The runs below ``runs``; a run was last used when its record was written."""
    for path in _entries(runs):
        if _RUN.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                record = path / "run.json"
                used = (record if record.exists() else path).stat().st_mtime
                yield Item(RUNS, (path,), used, disk_usage(path))


def bisects(runs: Path) -> Iterator[Item]:
    """The state of bisects and maps, beside the directory ``runs``."""
    for kind, name in BESIDE.items():
        for path in _keyed(runs.with_name(name)):
            with contextlib.suppress(FileNotFoundError):
                yield Item(kind, (path,), _last_used(path), disk_usage(path))


def steps(runs: Path) -> Iterator[Item]:
    """The state of step for the commits of each tree, beside the directory ``runs``."""
    for path in _keyed(runs.with_name(STEPS_IN)):
        with contextlib.suppress(FileNotFoundError):
            yield Item(STEPS, (path,), _last_used(path), disk_usage(path))


def _keyed(directory: Path) -> Iterator[Path]:
    for path in _entries(directory):
        if _KEY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path


def _last_used(directory: Path) -> float:
    """The last time that it, or something in it, was used or written."""
    return max(path.stat().st_mtime for path in (directory, *directory.iterdir()))


def disk_usage(path: Path) -> int:
    """The bytes of ``path`` and everything below it on the disk."""
    size = 0
    for file in (path, *path.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            size += file.lstat().st_blocks * 512
    return size


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_obsolete(name: str, path: Path) -> bool:
    """Whether this and newer versions of the harness never use ``path``."""
    if name == "kernels":
        return _format(path / kernel_cache.RECORD) < kernel_cache.FORMAT
    return path.suffix != ENDINGS.get(name, "")


def _format(record: Path) -> int:
    """The format of a prepared kernel; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        return int(json.loads(record.read_bytes())["format"])
    return 0


def _remove_run(run: Path, dry_run: bool) -> bool:
    """Remove the directory ``run`` unless a harness is working in it; returns whether it was
    removed."""
    try:
        with in_use(run):
            if not dry_run:
                shutil.rmtree(run)
    except Busy:
        return False
    return True
