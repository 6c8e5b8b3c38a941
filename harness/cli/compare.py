# SPDX-License-Identifier: GPL-2.0-only
"""``compare``: what changed between two runs."""

from __future__ import annotations

import argparse
import sys

from harness.cli import arguments
from harness.errors import UsageError
from harness.records import stored_runs
from harness.report import compare as report
from harness.report import terminal
from harness.run import workspace
from harness.verdict import comparison
from harness.verdict.comparison import RunDifference
from harness.verdict.results import EXIT_FAILED, EXIT_INFRASTRUCTURE, EXIT_OK, RunResult

RUN_HELP = "its id or the beginning of that, 'last', its directory, or a file of --json"


def add(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "compare", "show what changed between two runs", run)
    command.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help=f"{RUN_HELP}; one run is compared with the last one before it that asked the same, "
        "none means the last two",
    )


def run(given: argparse.Namespace) -> int:
    """Compare two kept runs, the older with the newer as they are given."""
    before, after = _runs(given.runs)
    difference = comparison.runs(before, after)
    print(report.render_runs(difference, terminal.glyphs_for(sys.stdout)), end="", flush=True)
    return exit_status(difference)


def exit_status(difference: RunDifference) -> int:
    """A regression found outweighs what could not be compared."""
    if difference.is_worse:
        return EXIT_FAILED
    return EXIT_OK if difference.is_complete else EXIT_INFRASTRUCTURE


def _runs(words: list[str]) -> tuple[RunResult, RunResult]:
    place = workspace.store_file()
    match words:
        case []:
            return stored_runs.last_two(place)
        case [word]:
            return stored_runs.with_the_one_before(word, place)
        case [before, after]:
            return stored_runs.find(before, place), stored_runs.find(after, place)
    raise UsageError(f"{len(words)} runs given; name two, or fewer")
