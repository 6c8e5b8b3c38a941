# SPDX-License-Identifier: GPL-2.0-only
"""``matrix``: the kernels of a manifest."""

from __future__ import annotations

import argparse

from harness.cli import arguments
from harness.cli.common import chosen
from harness.cli.testing import test
from harness.kernels import Cache


def add(commands: arguments.Commands) -> None:
    command = arguments.command(
        commands, "matrix", "boot and check every kernel of a manifest", run
    )
    arguments.add_manifest(command)
    arguments.add_selection(command)
    arguments.add_run_options(command)
    command.add_argument(
        "--resume",
        action="store_true",
        help="continue the last interrupted run with the same manifest and settings: boot only "
        "kernels without a result",
    )


def run(given: argparse.Namespace) -> int:
    """Test the manifest's kernels."""
    cache = Cache(given.cache)
    return test(chosen(given, cache), given, cache)
