# SPDX-License-Identifier: GPL-2.0-only
"""``selftest``: faults of kernels and guests, which must be detected."""

from __future__ import annotations

import argparse
import time

from harness import selftest
from harness.cli import arguments
from harness.cli.common import chosen, stopping
from harness.errors import UsageError
from harness.kernels import Cache
from harness.selftest.faults import line, summary
from harness.text import printable
from harness.verdict.results import EXIT_INTERRUPTED


def run(given: argparse.Namespace) -> int:
    """Boot a good kernel with one fault after another, and see whether each is seen."""
    started = time.monotonic()
    cache = Cache(given.cache)
    try:
        faults = selftest.select(given.only)
    except UsageError as error:
        raise UsageError(f"--only: {error}") from None
    entries = chosen(given, cache)
    request = selftest.SelftestRequest(
        faults, bool(given.kernels), given.jobs, given.accel, given.output
    )

    def say(text: str) -> None:
        print(printable(text), flush=True)

    with stopping(cache.stop) as stop:
        rows = selftest.run(
            entries,
            request,
            cache,
            say,
            lambda row: print(line(row), flush=True),
            stop,
        )
    print(summary(rows, len(faults) + 1, time.monotonic() - started))
    return EXIT_INTERRUPTED if stop.is_set() else selftest.exit_status(rows, request)


def add(commands: arguments.Commands) -> None:
    command = arguments.command(
        commands, "selftest", "prove on a real kernel that faults are seen", run
    )
    arguments.add_manifest(command)
    command.add_argument(
        "--kernel",
        dest="kernels",
        metavar="NAME",
        help="the kernel of the manifest (default: the newest that passes)",
    )
    command.add_argument("--only", metavar="FAULT,...", help="only these faults (default: all)")
    arguments.add_resources(command)
    arguments.add_output(command)
