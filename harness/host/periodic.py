# SPDX-License-Identifier: GPL-2.0-only
"""Periodic work in a background thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def every(
    seconds: float, act: Callable[[], None], name: str, patience: float | None = None
) -> Iterator[None]:
    """Call ``act`` every ``seconds`` in a thread called ``name``; not at once, nor at the end.

    A call that is under way at the end is waited for, for at most ``patience`` seconds.
    """
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds):
            act()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=patience)
