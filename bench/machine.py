# SPDX-License-Identifier: GPL-2.0-only
"""The machine that figures come from, in words."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from harness.vm.accelerator import ask_version


def describe(program: Path | None) -> str:
    """Processors, memory, and the versions that matter, on one line; ``program`` is QEMU, if it is
    used."""
    qemu = f"QEMU {ask_version(program)}, " if program else ""
    return (
        f"{len(os.sched_getaffinity(0))} x {_processor(Path('/proc/cpuinfo').read_text())}, "
        f"{_memory_gib():.0f} GiB, Linux {platform.release()}, "
        f"{qemu}virtme-ng {importlib.metadata.version('virtme-ng')}, "
        f"Python {platform.python_version()}"
    )


def _processor(cpuinfo: str) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(found[1].split()) if found else "unknown processor"


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
