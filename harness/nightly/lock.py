# SPDX-License-Identifier: GPL-2.0-only
"""One nightly at a time: two would take each other's processors and bisect the same twice."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

#: Seconds between two looks at a lock that another one holds.
LOOK = 1.0
#: Characters of what the holder wrote that are read.
MAX_NOTE = 200


class Busy(Exception):
    """Another nightly is under way; a sentence with the remedy."""


@contextlib.contextmanager
def only_one(
    place: Path, say: Callable[[str], None], stop: threading.Event, *, wait: bool
) -> Iterator[None]:
    """Hold the lock in the file ``place``; the kernel releases it with this process.

    With ``wait`` until it is free or ``stop`` is set. Raises :class:`Busy`, and OSError.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a+", encoding="utf-8", errors="replace") as file:
        said = False
        while not _locked(file):
            if not wait:
                raise Busy(
                    f"a nightly is under way ({_holder(file)}), and two at a time would disturb "
                    "each other: wait for it, or give --wait"
                )
            if not said:
                say(f"waiting for the nightly that is under way ({_holder(file)})")
                said = True
            if stop.wait(LOOK):
                raise Busy("interrupted while another nightly was under way")
        file.seek(0)
        file.truncate()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        file.write(f"process {os.getpid()}, begun at {now}")
        file.flush()
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read(MAX_NOTE).strip() or "it has not yet said which"
