# SPDX-License-Identifier: GPL-2.0-only
"""Which QEMU it is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from harness.host import files
from harness.kernels.cache import Cache

#: Seconds; a QEMU on a slow disk takes one.
PATIENCE = 30.0


def version(qemu: Path, cache: Cache) -> str:
    """The version that ``qemu`` says it has, or ``unknown`` and why.

    Remembered as long as the file is not touched: to load QEMU with its libraries takes 40 ms,
    which every run would wait for.
    """
    try:
        seen = [str(qemu), files.stamp(qemu)]
        memory = cache.directory() / "qemu.json"
    except OSError as error:
        return f"unknown ({error.strerror})"
    known = files.recall(memory)
    if isinstance(known, dict) and known.get("of") == seen and isinstance(known.get("is"), str):
        return str(known["is"])
    found = ask(qemu)
    if not found.startswith("unknown") and files.is_settled(files.stamp(qemu)):
        files.remember(memory, {"of": seen, "is": found})
    return found


def ask(qemu: Path) -> str:
    """What :func:`version` gives, without a memory."""
    try:
        answer = subprocess.run(
            [str(qemu), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    match = re.search(r"version (\S+)", answer.stdout)
    return match[1] if match else "unknown"
