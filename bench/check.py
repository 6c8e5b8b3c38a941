# SPDX-License-Identifier: GPL-2.0-only
"""The compiled check, which stands for the program that people run in the guest today."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from bench.runner import Failed

SOURCE = Path(__file__).with_name("check.c")
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-static")
#: What it prints for each family.
IPV4, IPV6 = "check: ipv4 ok", "check: ipv6 ok"


def build(directory: Path) -> Path:
    """The program below ``directory``, compiled if it is not there yet. Raises :class:`Failed`."""
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16]
    program = directory / f"check-{key}" / "check"
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    new = program.with_name("new")
    run = subprocess.run(
        ["gcc", *FLAGS, "-o", str(new), str(SOURCE)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if run.returncode != 0:
        raise Failed(f"gcc cannot compile and statically link {SOURCE}: {run.stderr.strip()}")
    new.replace(program)
    return program
