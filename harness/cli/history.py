# SPDX-License-Identifier: GPL-2.0-only
"""``history``: kernels and checks over the last runs."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Callable

from harness.cli import arguments
from harness.cli.common import globs
from harness.records import stored_runs
from harness.report import history, terminal
from harness.run import workspace
from harness.verdict.results import EXIT_OK


def add(commands: arguments.Commands) -> None:
    command = arguments.command(
        commands, "history", "show how kernels and checks fared over the last runs", run
    )
    command.add_argument(
        "-k", dest="kernels", metavar="PATTERN", help="only kernels such as 'debian-6.*'"
    )
    command.add_argument(
        "--check",
        metavar="PATTERN",
        help="show each check, such as 'mptcp_info.*' or '*', that ever failed, kernel by kernel",
    )
    command.add_argument(
        "--last",
        type=arguments.Number(1, 1000),
        default=20,
        metavar="N",
        help="the last N runs that have such a kernel (default: 20)",
    )


def run(given: argparse.Namespace) -> int:
    """Show a line for each kernel, or for each check that was ever bad."""
    wanted = _matching(given.kernels)
    runs = stored_runs.history(workspace.store_file(), given.last, wanted)
    if given.check is None:
        lines = history.kernel_lines(runs, wanted)
    else:
        lines = history.check_lines(runs, wanted, _matching(given.check))
    print(history.render(lines, runs, terminal.glyphs_for(sys.stdout)), end="")
    if not lines and given.check is not None:
        print("no such check was bad in any of them")
    return EXIT_OK


def _matching(pattern: str | None) -> Callable[[str], bool]:
    wanted = globs(pattern) if pattern is not None else ["*"]
    return lambda name: any(fnmatch.fnmatchcase(name, glob) for glob in wanted)
