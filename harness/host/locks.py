# SPDX-License-Identifier: GPL-2.0-only
"""Locks between harnesses, with flock(2): the kernel releases them however their holder ends.

A lock is on its own file, or on the directory that it protects. A lock file says who holds it. Its
holder may remove it; a waiter that locked a removed file tries again.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import Busy, Interrupted

#: Seconds between messages while waiting for a lock.
SAY_EVERY = 30.0
#: Seconds between attempts to lock; most locks are held for milliseconds, some for minutes.
_SHORTEST, _LONGEST = 0.005, 0.1
#: Bytes of a lock file that are read.
_MAX_NOTE = 200


@contextlib.contextmanager
def waited_for(
    path: Path,
    stop: threading.Event,
    say: Callable[[str], None] = lambda _: None,
    what: str = "another harness",
) -> Iterator[int]:
    """Hold the lock in the file ``path``. While waiting, ``say`` gets a message with its holder.

    Yields a file descriptor: a child that inherits it keeps the lock if this process dies first.
    Raises Interrupted once ``stop`` is set, and OSError.
    """
    descriptor = _locked(path)
    if descriptor is None:
        descriptor = _wait(path, stop, say, what)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def at_once(path: Path, remedy: str) -> Iterator[int]:
    """Hold the lock in the file ``path``, without waiting. Raises Busy with ``remedy``, and
    OSError."""
    descriptor = _locked(path)
    if descriptor is None:
        raise Busy(f"{remedy} ({holder(path)})")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def directory(path: Path, sentence: str = "") -> Iterator[int]:
    """Hold the lock on the directory ``path``. Raises Busy with ``sentence``, and OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _try(descriptor) or not _is_still(descriptor, path):
            raise Busy(sentence or f"another harness is working in {path}; wait for it, or end it")
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether the lock on ``path``, a file or a directory, is held; False if it does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try(descriptor)
    finally:
        os.close(descriptor)


def holder(path: Path) -> str:
    """The process that holds the lock file ``path``, and since when."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        said = file.read(_MAX_NOTE).decode("utf-8", "replace").strip()
        if said:
            return said
    return "an unknown process"


def remove(path: Path, before: float) -> bool:
    """Remove the lock file ``path`` unless it was used since ``before``; returns whether it did.

    ``before`` is in seconds since the epoch. Raises OSError.
    """
    descriptor = _locked(path, sign=False)
    if descriptor is None:
        return False
    try:
        unused = os.fstat(descriptor).st_mtime < before
        if unused:
            path.unlink()
        return unused
    finally:
        os.close(descriptor)


def _wait(path: Path, stop: threading.Event, say: Callable[[str], None], what: str) -> int:
    began = said = time.monotonic()
    say(f"waiting for {what}: {holder(path)} ({path} is locked)")
    pause = _SHORTEST
    while (descriptor := _locked(path)) is None:
        if stop.wait(pause):
            raise Interrupted(f"interrupted while waiting for {what}")
        pause = min(2 * pause, _LONGEST)
        now = time.monotonic()
        if now - said >= SAY_EVERY:
            said = now
            say(f"still waiting for {what}, for {now - began:.0f} s: {holder(path)}")
    return descriptor


def _locked(path: Path, *, sign: bool = True) -> int | None:
    """A descriptor of the file ``path`` with its lock, None if another has it."""
    while True:
        descriptor, writable = _open(path)
        try:
            if not _try(descriptor):
                return None
            if _is_still(descriptor, path):
                if sign and writable:
                    _sign(descriptor)
                kept, descriptor = descriptor, -1
                return kept
        finally:
            if descriptor != -1:
                os.close(descriptor)


def _open(path: Path) -> tuple[int, bool]:
    """A descriptor of the file ``path``, created if necessary, and whether it is writable."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), True
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES) or not path.exists():
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False  # flock(2) asks for no more


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is still the open file: it may have been removed and created again."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _sign(descriptor: int) -> None:
    """Write who holds the lock, which also sets its time; a full disk does not matter."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}, since {now}\n".encode(), 0)
