# SPDX-License-Identifier: GPL-2.0-only
"""``runs``, ``history``, ``compare`` and ``missing-fixes``: queries over the stored runs.

They take a fraction of a second, so this module imports nothing that boots or prepares kernels.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import arguments
from harness.cli.common import check_writable, globs, write
from harness.errors import UsageError
from harness.records import stored_runs
from harness.report import terminal
from harness.verdict.verdicts import EXIT_FAILED, EXIT_INFRASTRUCTURE, EXIT_OK

if TYPE_CHECKING:
    from harness.verdict.comparison import Difference, RunDifference
    from harness.verdict.results import RunResult

# Results, their comparison and what renders an answer are imported where they are needed.
# Most queries read summaries only.


def add_compare(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "compare", run_compare)
    command.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help=f"{arguments.RUN_HELP}; with one RUN, it is compared with the last earlier run with "
        f"the same settings; with none, the last two runs are compared",
    )
    command.add_argument(
        "--kernels",
        nargs=2,
        metavar=("BEFORE", "AFTER"),
        help="compare these two kernels of one RUN (default: the last), or BEFORE of the first RUN "
        "with AFTER of the second",
    )
    _add_json(command)


def run_compare(given: argparse.Namespace) -> int:
    """Compare two stored runs, given the older one first, or two kernels."""
    from harness.report import compare
    from harness.verdict import comparison

    check_writable(given.json)
    glyphs = terminal.glyphs_for(sys.stdout)
    if given.kernels:
        difference = _kernels(given.runs, *given.kernels)
        print(compare.render(difference, glyphs), end="", flush=True)
        _write_json(given.json, lambda: {"schema": 1, **compare.to_json(difference)})
        return exit_status_of_kernels(difference)
    between = comparison.runs(*_runs(given.runs))
    print(compare.render_runs(between, glyphs), end="", flush=True)
    _write_json(given.json, lambda: compare.runs_to_json(between))
    return exit_status(between)


def exit_status(difference: RunDifference) -> int:
    """The exit status; a regression outweighs something that could not be compared."""
    if difference.is_worse:
        return EXIT_FAILED
    return EXIT_OK if difference.is_complete else EXIT_INFRASTRUCTURE


def exit_status_of_kernels(difference: Difference) -> int:
    """The exit status for two kernels."""
    if difference.is_worse:
        return EXIT_FAILED
    return EXIT_INFRASTRUCTURE if difference.cannot else EXIT_OK


def _runs(words: list[str]) -> tuple[RunResult, RunResult]:
    place = stored_runs.store_file()
    match words:
        case []:
            return stored_runs.last_two(place)
        case [word]:
            return stored_runs.two(stored_runs.the_one_before(word, place), word, place)
        case [before, after]:
            return stored_runs.two(before, after, place)
    raise UsageError(f"{len(words)} runs given; give at most two")


def _kernels(words: list[str], before: str, after: str) -> Difference:
    if len(words) > 2:
        raise UsageError(f"{len(words)} runs given; give at most two")
    runs = words or [stored_runs.LAST]
    from harness.verdict import comparison

    place = stored_runs.store_file()
    old = stored_runs.find_kernel(runs[0], before, place)
    return comparison.kernels(old, stored_runs.find_kernel(runs[-1], after, place))


def add_history(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "history", run_history)
    _add_kernels(command)
    command.add_argument(
        "--check",
        metavar="PATTERN",
        help="show each check that ever failed and whose name matches, such as 'mptcp_info.*' or "
        "'*', for each kernel",
    )
    _add_last(command)
    _add_json(command)


def run_history(given: argparse.Namespace) -> int:
    """Show a line for each kernel, or for each check that ever failed."""
    from harness.report import history

    check_writable(given.json)
    runs = stored_runs.summaries(stored_runs.store_file(), given.last, _matching(given.kernels))
    if given.check is None:
        lines = history.kernel_lines(runs)
    else:
        lines = history.check_lines(runs, _matching(given.check))
    print(history.render(lines, runs, terminal.glyphs_for(sys.stdout)), end="")
    if not lines and given.check is not None:
        print("no such check failed in any of these runs")
    _write_json(given.json, lambda: history.to_json(lines, runs))
    return EXIT_OK


def add_runs(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "runs", run_runs)
    _add_kernels(command)
    _add_last(command)
    _add_json(command)


def run_runs(given: argparse.Namespace) -> int:
    """Show a line for each run."""
    from harness.report import history

    check_writable(given.json)
    place, wanted = stored_runs.store_file(), _matching(given.kernels)
    runs = stored_runs.summaries(place, given.last, wanted, times=given.json is not None)
    print(history.render_runs(runs, terminal.glyphs_for(sys.stdout)), end="")
    _write_json(given.json, lambda: history.runs_to_json(runs))
    return EXIT_OK


def add_missing_fixes(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "missing-fixes", run_missing_fixes)
    command.add_argument(
        "kernel",
        nargs="?",
        default="*",
        metavar="KERNEL",
        help="only kernels whose names match, such as 'debian-*' (default: every kernel)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the list to FILE")


def run_missing_fixes(given: argparse.Namespace) -> int:
    """List the fixes that each kernel lacks according to its last stored result."""
    from harness.report import fixes

    check_writable(given.json)
    kernels = stored_runs.last_results(stored_runs.store_file(), globs(given.kernel))
    print(fixes.render_fixes(kernels, terminal.glyphs_for(sys.stdout)), end="")
    _write_json(given.json, lambda: fixes.fixes_to_json(kernels))
    return EXIT_OK


def _add_kernels(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-k",
        dest="kernels",
        metavar="PATTERN",
        help="only kernels whose names match, such as 'debian-6.*'",
    )


def _add_last(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--last",
        type=arguments.Number(1, 1000),
        default=20,
        metavar="N",
        help="look at the last N runs that have such a kernel (default: 20)",
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the answer to FILE, for scripts"
    )


def _write_json(path: Path | None, answer: Callable[[], dict[str, Any]]) -> None:
    if path is not None:
        from harness.records import to_json

        write("--json", path, json.dumps(to_json.clean(answer()), indent=1) + "\n")


def _matching(pattern: str | None) -> Callable[[str], bool]:
    wanted = globs(pattern) if pattern is not None else ["*"]
    return lambda name: any(fnmatch.fnmatchcase(name, glob) for glob in wanted)
