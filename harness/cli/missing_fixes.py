# SPDX-License-Identifier: GPL-2.0-only
"""``missing-fixes``: the repairs of mainline's that kernels were seen to lack."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from harness.cli import arguments
from harness.cli.common import check_writable, globs, write
from harness.errors import UsageError
from harness.records import stored_runs
from harness.report import fixes, terminal
from harness.run import workspace
from harness.verdict.results import EXIT_OK, KernelResult


def add(commands: arguments.Commands) -> None:
    command = arguments.command(
        commands,
        "missing-fixes",
        "list the fixes that each kernel lacks, as its last results show",
        run,
    )
    command.add_argument(
        "kernel",
        nargs="?",
        default="*",
        metavar="KERNEL",
        help="only kernels of this name, or such as 'debian-*' (default: every kernel)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the list to FILE")


def run(given: argparse.Namespace) -> int:
    """List, for each kernel, the fixes that its last stored result shows to be missing."""
    check_writable(given.json)
    wanted = globs(given.kernel)
    kernels = _last_results(wanted)
    print(fixes.render(kernels, terminal.glyphs_for(sys.stdout)), end="")
    if given.json is not None:
        write("--json", given.json, json.dumps(fixes.to_json(kernels), indent=1) + "\n")
    return EXIT_OK


def _last_results(wanted: list[str]) -> list[KernelResult]:
    try:
        return stored_runs.last_results(workspace.store_file(), wanted)
    except UsageError as error:
        raise UsageError(str(error)) from None
