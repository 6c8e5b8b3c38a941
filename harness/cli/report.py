# SPDX-License-Identifier: GPL-2.0-only
"""``report``: a kept run, in one of several formats."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.cli import arguments
from harness.cli.common import write
from harness.cli.compare import RUN_HELP
from harness.records import stored_runs, to_json
from harness.report import html, junit, kcidb, ktap, markdown
from harness.run import workspace
from harness.verdict.results import EXIT_OK, RunResult

FORMATS: Mapping[str, Callable[[RunResult], str]] = {
    "html": html.to_html,
    "junit": junit.to_junit,
    "ktap": ktap.to_ktap,
    "json": to_json.to_json,
    "markdown": markdown.to_markdown,
    "kcidb": kcidb.to_kcidb,
}


def add(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "report", "show a kept run in another format", run)
    command.add_argument(
        "run_name",
        nargs="?",
        default=stored_runs.LAST,
        metavar="RUN",
        help=f"{RUN_HELP} (the default)",
    )
    command.add_argument(
        "--format", choices=sorted(FORMATS), default="markdown", help="(default: markdown)"
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the report to FILE (default: standard output)",
    )


def run(given: argparse.Namespace) -> int:
    """Write the run; whatever its verdicts are, that is a success."""
    kept = stored_runs.find(given.run_name, workspace.store_file())
    text = FORMATS[given.format](kept)
    if given.output is None:
        sys.stdout.buffer.write(text.encode("utf-8"))  # all of these are UTF-8 by definition
        return EXIT_OK
    write("--output", given.output, text, "name another file")
    return EXIT_OK
