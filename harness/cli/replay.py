# SPDX-License-Identifier: GPL-2.0-only
"""``replay``: a kernel that failed, booted again as it was then."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import bundle, replay
from harness.bundle import Bundle
from harness.cli import arguments
from harness.cli.common import complain, say, stopping
from harness.kernels import Cache
from harness.report import replay as report
from harness.run import workspace as workspaces
from harness.verdict.failures import conclude
from harness.verdict.results import EXIT_INTERRUPTED

#: How often each variation is booted, unless the user says.
TIMES = 3


def add(commands: arguments.Commands) -> None:
    command = arguments.command(
        commands, "replay", "boot a kernel that failed again, from the bundle that it left", run
    )
    command.add_argument(
        "bundle", type=Path, help="kernels/NAME/NAME.bundle.tar.zst in the directory of a run"
    )
    command.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="the image, if the bundle has none (default: found by its hash)",
    )
    command.add_argument(
        "--vary",
        action="store_true",
        help="also boot under the other accelerator, with one and two processors and with another "
        "QEMU, and say whether the failure depends on the kernel, the timing or the environment",
    )
    command.add_argument(
        "--times",
        type=arguments.Number(1, 1000),
        metavar="N",
        help=f"number of boots of each variation (default: 1, with --vary {TIMES})",
    )
    command.add_argument(
        "--qemu",
        type=Path,
        metavar="FILE",
        help="another qemu-system-x86_64 (default: one in PATH); --vary uses both",
    )
    arguments.add_output(command)


def run(given: argparse.Namespace) -> int:
    """Boot the bundle's kernel again, and compare."""
    found = bundle.load(given.bundle)
    cache = Cache(given.cache)
    times = given.times or (TIMES if given.vary else 1)
    request = replay.ReplayRequest(given.image, given.qemu, given.vary, times)
    say(_about(found))
    with (
        stopping(cache.stop) as stop,
        workspaces.opened(given.output, cache, abis=[found.entry.abi], say=say) as workspace,
    ):
        tried = replay.run(
            *(found, request, workspace, cache, say),
            lambda row: print(report.line(row), flush=True),
            stop,
        )
        stopped = stop.is_set()
    if given.vary:
        print("", report.table(tried, conclude(tried)), sep="\n")
    else:
        print(report.summary(tried))
    say(f"consoles and events: {workspace.directory}")
    if stopped:
        complain("interrupted: not every boot was made")
        return EXIT_INTERRUPTED
    return replay.exit_status(tried)


def _about(found: Bundle) -> str:
    failed = f"{found.entry.name} ({found.result.release}, seed {found.asked.seed})"
    return f"{failed} failed on {found.created:%Y-%m-%d}: {found.result.reason}"
