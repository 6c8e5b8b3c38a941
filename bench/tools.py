# SPDX-License-Identifier: GPL-2.0-only
"""What the benchmark needs of the host beside what the harness does. Standard library only:
noxfile.py imports this before any dependency is installed.
"""

from __future__ import annotations

from harness.host import tools
from harness.host.tools import Tool

#: For the compiled check, and for virtme-ng as people use it: with the modules of a kernel, whose
#: release it asks file(1) for.
TOOLS = (
    Tool("gcc", ("gcc",), "compiles the check", "gcc", "gcc"),
    # There is no program in it; gencat is in a package that it depends on.
    Tool("libc6-dev", ("gencat",), "is linked into the check", "libc6-dev", "glibc-static"),
    Tool("depmod", ("depmod",), "orders modules", "kmod", "kmod"),
    Tool("modprobe", ("modprobe",), "finds modules", "kmod", "kmod"),
    Tool("file", ("file",), "tells virtme-ng the kernel's release", "file", "file"),
)


def missing() -> tuple[Tool, ...]:
    """The tools without which nothing can be compared, and which this host lacks."""
    absent = tuple(tool for tool in TOOLS if tools.locate(tool) is None)
    return (*tools.missing(), *absent)
