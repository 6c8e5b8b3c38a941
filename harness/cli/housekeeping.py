# SPDX-License-Identifier: GPL-2.0-only
"""``doctor`` and ``prune``: the host, and what the harness keeps on it."""

from __future__ import annotations

import argparse

from harness.cli import arguments
from harness.host import tools
from harness.kernels import Cache
from harness.records import prune
from harness.run import workspace
from harness.step import toolchain
from harness.text import printable
from harness.verdict.results import EXIT_INFRASTRUCTURE, EXIT_OK
from harness.vm import process


def run_doctor(given: argparse.Namespace) -> int:
    """Say what this host lacks, and the command that mends it."""
    cache = Cache(given.cache).root
    kept = prune.doctor(cache, workspace.runs_directory(), workspace.store_file())
    findings = (*tools.doctor(cache), process.doctor(), toolchain.doctor(), *kept)
    for finding in findings:
        what = " ".join(word for word in (finding.found, finding.version) if word)
        print(f"{finding.standing:8} {finding.subject:22} {printable(what)}")
        if finding.remedy:
            print(f"{'':31} {printable(finding.remedy)}")
    lacking = any(finding.standing is tools.Standing.MISSING for finding in findings)
    return EXIT_INFRASTRUCTURE if lacking else EXIT_OK


def run_prune(given: argparse.Namespace) -> int:
    """Remove what has long not been used, and say what that was."""
    runs = workspace.runs_directory()
    removed = prune.prune(Cache(given.cache), runs, given.keep, dry_run=given.dry_run)
    for item in removed:
        if item.kind == prune.LOCKS:  # hundreds, of no size: they are counted
            continue
        path = printable(str(item.paths[0]))
        print(
            f"{prune.mebibytes(item.size):>12}  {'obsolete' if item.obsolete else 'old':8}  {path}"
        )
    stored = prune.prune_store(workspace.store_file(), given.keep, dry_run=given.dry_run)
    kinds = (*prune.KINDS, prune.LEFT, *prune.KEPT, prune.LOCKS)
    totals = [*(prune.total(removed, kind) for kind in kinds), stored]
    what = prune.summary(totals) or "nothing"
    size = sum(kind.size for kind in totals)
    print(f"{'would be removed' if given.dry_run else 'removed'}: {what}; {size} bytes")
    return EXIT_OK


def add_doctor(commands: arguments.Commands) -> None:
    arguments.command(
        commands, "doctor", "show what this host lacks, and the command that mends it", run_doctor
    )


def add_prune(commands: arguments.Commands) -> None:
    command = arguments.command(
        commands,
        "prune",
        "remove kernels, results and runs that have long not been used",
        run_prune,
    )
    command.add_argument(
        "--keep",
        type=arguments.seconds_of,
        default="30d",
        metavar="AGE",
        help="keep what was used within AGE, such as 12h, 30d or 2w (default: 30d)",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="list what would be removed, and remove nothing"
    )
