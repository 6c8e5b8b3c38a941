# SPDX-License-Identifier: GPL-2.0-only
"""Runs the harness in this process and writes down its peak memory: `python -m bench.peak FILE ...`

Not getrusage(2): a process inherits the peak that its parent had when it was started.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from harness import cli

STATUS = Path("/proc/self/status")


def peak_kib(status: str) -> int:
    """VmHWM in the text of proc_pid_status(5)."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise ValueError("the kernel does not say VmHWM")
    return int(found[1])


def main(target: Path, arguments: list[str]) -> int:
    """The exit status of the harness; KiB go to ``target``."""
    try:
        return cli.main(arguments)
    finally:
        target.write_text(str(peak_kib(STATUS.read_text())))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
