# SPDX-License-Identifier: GPL-2.0-only
"""Files: replaced in one step, and found to be untouched without being read."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import HostError

#: Size in bytes, time of the last change of its bytes and of its inode in nanoseconds, and inode.
Stamp = list[int]
#: Seconds that must have passed since a change: one that follows at once may get the same times
#: (the kernel's clock for files ticks every few milliseconds, other file systems' every 2 s).
SETTLED = 2.0


def user_directory(find: Callable[[], Path], instead: str) -> Path:
    """What ``find``, of platformdirs, gives; ``instead`` is what may be given where it cannot.

    Raises :class:`HostError` for a user without HOME and without an entry in passwd(5).
    """
    try:
        path = find()
    except RuntimeError:
        path = Path("~")
    if not path.is_absolute():  # before platformdirs 4.5 an unknown ~ stayed as it was
        raise HostError(f"this user has no home directory that is known; set HOME, or {instead}")
    return path


def stamp(path: Path) -> Stamp:
    """Of what ``path`` leads to; two stamps that differ mean that it was touched."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_settled(stamp: Stamp) -> bool:
    """Whether a change after ``stamp`` was taken, just now, is sure to give another stamp."""
    return max(stamp[1], stamp[2]) < (time.time() - SETTLED) * 1e9


def recall(place: Path) -> Any:
    """What :func:`remember` wrote there; None where that is gone or torn."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(place.read_bytes())
    return None


def remember(place: Path, what: Mapping[str, Any]) -> None:
    """Keep ``what`` in the file ``place``; a disk that does not take it costs time, no more."""
    with contextlib.suppress(OSError):
        write_atomically(place, json.dumps(what))


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step: a reader sees the old file or the new one."""
    # Of this thread's own: several may write the same.
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def write_through(path: Path, text: str) -> None:
    """Write ``text`` to where ``path`` leads: what is no plain file (a link, a pipe) stays.

    A plain file is replaced in one step, if its directory lets us.
    """
    plain = not path.is_symlink() and (path.is_file() or not path.exists())
    if plain and os.access(path.parent, os.W_OK | os.X_OK):
        write_atomically(path, text)
    else:
        with path.open("w", encoding="utf-8") as file:
            file.write(text)


def size_below(directory: Path) -> int:
    """The bytes of all files below ``directory``, which may come and go meanwhile."""
    size = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                size += path.stat().st_size
    return size


def touch(path: Path) -> None:
    """Note that ``path`` was used, for who removes what is not; also where it cannot be noted."""
    with contextlib.suppress(OSError):
        os.utime(path)
