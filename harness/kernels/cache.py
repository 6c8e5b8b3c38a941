# SPDX-License-Identifier: GPL-2.0-only
"""The cache of prepared kernels: found by content, complete or absent, verified.

Layout below the root::

    kernels/KEY/            one prepared kernel: entry.json, root/ as PreparedKernel says, and
                            verified.json (harness.host.files)
    images/                 what was found in image files (harness.kernels.image)
    apt/SUITE/              the private state of apt for a suite (harness.kernels.apt)
    changelogs/             those of packages (harness.bisect.commits)
    locks/NAME              harness.host.locks; unused ones go with harness.records.prune
    tmp/                    builds under way, each with a locked file NAME.lock beside it

An entry is built in ``tmp`` and renamed into place. Nothing is flushed to the disk explicitly:
``entry.json`` has the SHA-256 of every other file, so damage by a power failure is found at the
next use, like any other damage, and the entry is built again. A file is read again if it was
touched, if the host was restarted, and after a day. An entry's last use is the time of its
``entry.json``; harness.records.prune removes unused ones.

A symbolic link in an entry counts as damage, because nothing may lead out of the cache. A read-only
cache can still be used; harness.records.prune does not see its users.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from harness.errors import Damaged, Interrupted, KernelUnavailable
from harness.host import locks
from harness.host.files import (
    note_verified,
    stamp,
    touch,
    user_directory,
    were_verified,
    write_atomically,
)

# Part of every key, so that a changed build does not find entries of an older harness.
FORMAT = 3
RECORD = "entry.json"
STAMPS = "verified.json"
TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# Kernels fetched and unpacked by mptcp-harness; may be deleted at any time.\n"
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Built:
    """The result of a build, independent of the manifest entry; paths are in its root.

    ``modules`` are in load order, ``notes`` as in PreparedKernel.
    """

    release: str
    version: str
    image: str
    boot_image: str
    modules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CacheEntry:
    """A verified entry of the cache."""

    built: Built
    root: Path
    image_sha256: str
    modules_sha256: tuple[str, ...]  # in the order of modules

    @property
    def image(self) -> Path:
        return self.root / self.built.image

    @property
    def boot_image(self) -> Path:
        return self.root / self.built.boot_image

    @property
    def modules(self) -> tuple[Path, ...]:
        return tuple(self.root / name for name in self.built.modules)


class Cache:
    """The cache below ``root``. Several processes and threads may use one directory at once.

    Nothing is created before the first use, which raises KernelUnavailable if the directory cannot
    be used. Raises HostError if ``root`` is None and the user's cache directory is unknown.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or _users_own()).absolute()
        #: Set to interrupt whatever waits for the cache or works for it.
        self.stop = threading.Event()
        self._opening = threading.Lock()
        self._opened = False
        self._found: dict[str, Any] | None = None
        #: The clones that were fetched since the start, see harness.kernels.gitref.
        self.fetched: set[str] = set()

    def trusting(self) -> Cache:
        """The same cache for decisions without a boot: files that look untouched are not read
        again, however long ago they were read.
        """
        other = copy.copy(self)
        other._found = {}
        return other

    @property
    def trusts(self) -> bool:
        return self._found is not None

    @property
    def is_read_only(self) -> bool:
        """Whether nothing can be written to the cache."""
        return self.root.is_dir() and not all(
            os.access(place, os.W_OK) for place in (self.root / "tmp", self.root / "kernels")
        )

    def once(self, what: str, find: Callable[[], _T]) -> _T:
        """The result of ``find``; a trusting cache calls it once for each ``what``."""
        if self._found is None:
            return find()
        if what not in self._found:
            self._found[what] = find()
        found: _T = self._found[what]
        return found

    def directory(self, *parts: str) -> Path:
        """The directory ``parts`` of the cache, created if necessary."""
        self._open()
        path = self.root.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def lock(
        self,
        name: str,
        say: Callable[[str], None] = lambda _: None,
        what: str = "another preparation",
    ) -> Iterator[int]:
        """Hold the lock ``name``; ``say`` gets a message if it has to wait for ``what``.

        Yields its file descriptor: a child that inherits it (``pass_fds``) keeps the lock if this
        process dies first. Raises KernelUnavailable once ``stop`` is set.
        """
        path = self.directory("locks") / name
        with contextlib.ExitStack() as held:
            with unavailable():
                lock = held.enter_context(locks.waited_for(path, self.stop, say, what))
            yield lock

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary directory on the cache's disk; removed at the end, or at the start of a later
        run.

        A later run sees by its lock file that its owner is dead; process ids are reused. While it
        exists, callers of :meth:`frozen` remove nothing that was used since. For a read-only cache,
        it is an ordinary temporary directory.
        """
        self._open()
        if self.is_read_only:
            with tempfile.TemporaryDirectory(prefix="mptcp-harness-") as elsewhere:
                yield Path(elsewhere)
            return
        with contextlib.ExitStack() as alive:
            with self.lock("tmp"):  # so that nobody sees the directory without its lock
                path = Path(tempfile.mkdtemp(prefix="build-", dir=self.directory("tmp")))
                alive.enter_context(locks.at_once(_lock_file(path), "another harness has it"))
            try:
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)
                # If interrupted while waiting here, it leaves an empty file for the next run.
                with contextlib.suppress(KernelUnavailable), self.lock("tmp"):
                    _lock_file(path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[float]:
        """While this is held, no other harness begins to use the cache (see :meth:`scratch`).

        Yields the start of the oldest current use: seconds since the epoch, or infinity.
        """
        with self.lock("tmp"):
            tmp = self.root / "tmp"
            began = [path.stat().st_mtime for path in _owned(tmp) if path.is_dir()]
            yield min(began, default=float("inf"))

    def existing(self, key: str) -> CacheEntry | None:
        """The entry ``key`` if it exists and is undamaged."""
        place = self.directory("kernels") / key
        try:
            return self._load(place)
        except Damaged:
            return None

    def entry(
        self, key: str, build: Callable[[Path], Built], say: Callable[[str], None]
    ) -> CacheEntry:
        """The entry ``key``; if there is none, ``build`` makes it in an empty root.

        If several callers ask for the same key, one builds it and the others wait.
        """
        place = self.directory("kernels") / key
        found = self.existing(key)
        if found is not None:
            return found
        if self.is_read_only:
            raise KernelUnavailable(
                f"the cache {self.root} has no valid {key} and cannot be written to; make it "
                f"writable for this user, or use another one with --cache DIR"
            )
        with self.lock(key, say):
            if os.path.lexists(place):
                try:
                    return self._load(place)
                except Damaged as damage:
                    say(f"the cached {key} is damaged ({damage}): making it again")
            with self.scratch() as scratch:
                new = scratch / "new"
                root = new / "root"
                root.mkdir(parents=True)
                _seal(new, build(root))
                if os.path.lexists(place):
                    place.rename(scratch / "damaged")
                new.rename(place)
            try:
                return self._load(place)
            except Damaged as damage:
                raise KernelUnavailable(
                    f"{place} differs from what was just written there ({damage}); check the disk, "
                    f"or use another cache directory"
                ) from damage

    def _load(self, place: Path) -> CacheEntry:
        entry = _load(place, self.trusts)
        touch(place / RECORD)
        return entry

    def _open(self) -> None:
        with self._opening:
            if self._opened:
                return
            try:
                self._lay_out()
            except OSError as error:
                raise KernelUnavailable(
                    f"the cache {self.root} cannot be used: {error.strerror} ({error.filename}); "
                    f"it must be writable for this user and on a disk with free space; use another "
                    f"one with --cache DIR"
                ) from error
            self._opened = True
        self._remove_abandoned()

    def _lay_out(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for name in ("kernels", "apt", "locks", "tmp"):
            (self.root / name).mkdir(exist_ok=True)
        tag = self.root / "CACHEDIR.TAG"
        if not tag.exists():
            write_atomically(tag, TAG)

    def _remove_abandoned(self) -> None:
        if self.is_read_only:
            return
        tmp = self.root / "tmp"
        with self.lock("tmp"):
            names = {path.name.removesuffix(".lock") for path in tmp.iterdir()}
            for path in {tmp / name for name in names} - set(_owned(tmp)):
                shutil.rmtree(path, ignore_errors=True)
                _lock_file(path).unlink(missing_ok=True)


def _users_own() -> Path:
    return user_directory(
        lambda: platformdirs.user_cache_path("mptcp-harness"), "XDG_CACHE_HOME, or give --cache DIR"
    )


@contextlib.contextmanager
def unavailable(too_long: str = "") -> Iterator[None]:
    """Raise KernelUnavailable where a wait or a supervised program is interrupted.

    Or where a program takes too long: then its text is ``too_long``, and it is transient.
    """
    try:
        yield
    except Interrupted as interruption:
        raise KernelUnavailable("interrupted") from interruption
    except subprocess.TimeoutExpired as error:
        raise KernelUnavailable(too_long, transient=True) from error


def digest(value: Any) -> str:
    """The hash in a key: 16 hexadecimal digits over ``value``, which is JSON data.

    It is short because people read it in paths; 64 bits are enough for one user.
    """
    text = json.dumps([FORMAT, value], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _owned(tmp: Path) -> Iterator[Path]:
    """The directories in ``tmp`` whose owners are alive."""
    for lock in tmp.glob("*.lock"):
        if locks.is_held(lock):
            yield lock.with_suffix("")


def _files(place: Path) -> dict[str, Path]:
    return {
        str(path.relative_to(place)): path
        for path in sorted((place / "root").rglob("*"))
        if not path.is_dir()
    }


def _seal(place: Path, built: Built) -> None:
    record = {
        "format": FORMAT,
        "built": asdict(built),
        "files": {
            name: {"size": path.stat().st_size, "sha256": file_sha256(path)}
            for name, path in _files(place).items()
        },
    }
    (place / RECORD).write_text(json.dumps(record, indent=1))


def _refuse_links(place: Path) -> None:
    """Raise Damaged if the entry is or contains a symbolic link; no build makes any."""
    for path in (place, *place.rglob("*")):
        if path.is_symlink():
            within = "" if path == place else f"{path.relative_to(place)} of "
            raise Damaged(f"{within}{place.name} is a symbolic link")


def _load(place: Path, trusting: bool) -> CacheEntry:
    try:
        _refuse_links(place)
        record = json.loads((place / RECORD).read_text())
        made = record["built"]
        lists = {name: tuple(made.get(name, ())) for name in ("modules", "notes")}
        built = Built(**{**made, **lists})
        files = record["files"]
        _verify(place, files, trusting)
        image_sha256 = files[f"root/{built.image}"]["sha256"]
        modules_sha256 = tuple(files[f"root/{name}"]["sha256"] for name in built.modules)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error
    return CacheEntry(built, place / "root", image_sha256, modules_sha256)


def _verify(place: Path, files: dict[str, dict[str, Any]], trusting: bool) -> None:
    """Raise Damaged if the files differ from the record.

    Files that are untouched since they were read are read again after a day, and after the host was
    restarted; if ``trusting``, never.
    """
    present = _files(place)
    for name in present.keys() ^ files.keys():
        raise Damaged(f"{name} is {'unexpected' if name in present else 'missing'}")
    # Taken before the bytes are read, so that a concurrent change is noticed later.
    seen = {name: stamp(path) for name, path in present.items()}
    for name, (size, *_) in seen.items():
        if size != files[name]["size"]:
            raise Damaged(f"{name} has {size} bytes instead of {files[name]['size']}")
    if were_verified(place / STAMPS, seen, recently=not trusting):
        return
    for name, path in present.items():
        if file_sha256(path) != files[name]["sha256"]:
            raise Damaged(f"{name} has other bytes than were written")
    note_verified(place / STAMPS, seen)
