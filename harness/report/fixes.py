# SPDX-License-Identifier: GPL-2.0-only
"""The fixes that kernels lack, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from harness.report.terminal import Glyphs
from harness.text import plural
from harness.verdict.results import KernelResult, MissingFix

SCHEMA = 1
#: Checks named for a fix; more are only counted.
MOST_CHECKS = 3


def fix_line(fix: MissingFix, glyphs: Glyphs) -> str:
    """``8c3963375988 (6.15) mptcp: sockopt: fix getting IPV6_V6ONLY: ipv6_v6only.get``."""
    shown = ", ".join(glyphs.safe(check, 64) for check in fix.checks[:MOST_CHECKS])
    more = len(fix.checks) - MOST_CHECKS
    rest = f" and {plural(more, 'more check')}" if more > 0 else ""
    title = glyphs.safe(fix.title, 120)
    return f"{glyphs.safe(fix.commit, 40)} ({glyphs.safe(fix.fixed_in, 16)}) {title}: {shown}{rest}"


def render_fixes(kernels: Sequence[KernelResult], glyphs: Glyphs) -> str:
    """A section for each kernel: the fixes that it lacks according to its checks."""
    return "\n".join(text for kernel in kernels for text in _fixes_of(kernel, glyphs)) + "\n"


def _fixes_of(kernel: KernelResult, glyphs: Glyphs) -> Iterator[str]:
    name, release = glyphs.safe(kernel.name, 64), glyphs.safe(kernel.release, 64)
    if not kernel.families:
        yield f"{name}: not tested ({glyphs.safe(kernel.verdict)})"
        return
    count = plural(len(kernel.missing_fixes), "fix")
    yield f"{name} ({release}): {count} missing"
    for fix in kernel.missing_fixes:
        yield f"  {fix_line(fix, glyphs)}"


def fixes_to_json(kernels: Sequence[KernelResult]) -> dict[str, Any]:
    """``schema`` (1) and ``kernels``: {name, release, version, verdict, missing_fixes: [{commit,
    title, fixed_in, checks}]}. Keys are added, never renamed."""
    return {
        "schema": SCHEMA,
        "kernels": [
            {
                "name": kernel.name,
                "release": kernel.release,
                "version": kernel.version,
                "verdict": kernel.verdict.value,
                "missing_fixes": [asdict(fix) for fix in kernel.missing_fixes],
            }
            for kernel in kernels
        ],
    }
