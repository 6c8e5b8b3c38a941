# SPDX-License-Identifier: GPL-2.0-only
"""Files: atomic replacement, and detection of changes without reading them."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import HostError

#: Size in bytes, mtime and ctime in nanoseconds, and inode.
Stamp = list[int]
#: Seconds that must have passed since a change, because the next change may get the same times:
#: file times advance every few milliseconds, on some file systems every 2 s.
SETTLED = 2.0
#: Seconds for which a file that looks untouched is taken to have the bytes that were read.
RECENT = 24 * 3600.0
_HOST_START = Path("/proc/sys/kernel/random/boot_id")


def user_directory(find: Callable[[], Path], instead: str) -> Path:
    """The directory that ``find``, of platformdirs, returns; ``instead`` is the remedy if it fails.

    Raises :class:`HostError` for a user without HOME and without an entry in passwd(5).
    """
    try:
        path = find()
    except RuntimeError:
        path = Path("~")
    if not path.is_absolute():  # platformdirs before 4.5 keeps an unknown ~
        raise HostError(f"this user has no known home directory; set HOME, or {instead}")
    return path


def stamp(path: Path) -> Stamp:
    """The stamp of the file at ``path``, following links; it changes when the file is touched."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_settled(stamp: Stamp) -> bool:
    """Whether any change after ``stamp``, which was just taken, is certain to change it."""
    return max(stamp[1], stamp[2]) < (time.time() - SETTLED) * 1e9


def recall(place: Path) -> Any:
    """What :func:`remember` wrote to ``place``; None if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(place.read_bytes())
    return None


def remember(place: Path, what: Mapping[str, Any]) -> None:
    """Write ``what`` to the file ``place``; errors are ignored, because they only cost time
    later."""
    with contextlib.suppress(OSError):
        write_atomically(place, json.dumps(what))


def host_start() -> str:
    """Identifies the host's current boot. Raises OSError if it is unknown."""
    return _HOST_START.read_text().strip()


def note_verified(place: Path, seen: Mapping[str, Stamp]) -> None:
    """Note in ``place`` that the files with the stamps ``seen``, taken before, had the right
    bytes."""
    if all(map(is_settled, seen.values())):
        with contextlib.suppress(OSError):
            remember(place, {"stamps": seen, "host_start": host_start(), "at": time.time()})


def were_verified(place: Path, seen: Mapping[str, Stamp], *, recently: bool) -> bool:
    """Whether the files with the stamps ``seen`` are noted in ``place``.

    ``recently``: since the host started, and in the last day. A power failure can damage a file
    that was never flushed to the disk, and a failing disk any file, without changing a stamp.
    """
    noted = recall(place)
    try:
        if not recently or noted["stamps"] != seen:
            return bool(noted["stamps"] == seen)
        age = time.time() - noted["at"]
        return bool(noted["host_start"] == host_start() and 0 <= age < RECENT)
    except (OSError, LookupError, TypeError):
        return False


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` atomically: a reader sees the old file or the new one."""
    write_parts(path, (text,))


def write_parts(path: Path, texts: Iterable[str]) -> None:
    """:func:`write_atomically` with ``texts``, one after another."""
    # The name is unique to this thread, because several may write the same file.
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.writelines(texts)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def write_through(path: Path, text: str) -> None:
    """Write ``text`` to ``path``; a link or a pipe is written through, not replaced.

    A plain file is replaced atomically if its directory is writable.
    """
    plain = not path.is_symlink() and (path.is_file() or not path.exists())
    if plain and os.access(path.parent, os.W_OK | os.X_OK):
        write_atomically(path, text)
    else:
        with path.open("w", encoding="utf-8") as file:
            file.write(text)


def size_below(directory: Path) -> int:
    """The bytes of all files below ``directory``; files may appear and vanish meanwhile."""
    size = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                size += path.stat().st_size
    return size


def touch(path: Path) -> None:
    """Update the time of ``path`` to show that it was used; errors are ignored."""
    with contextlib.suppress(OSError):
        os.utime(path)
