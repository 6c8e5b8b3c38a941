# SPDX-License-Identifier: GPL-2.0-only
"""``config``: the configuration that a kernel must be built with to be tested."""

from __future__ import annotations

import argparse

from harness.cli import arguments
from harness.kernels import kconfig
from harness.verdict.results import EXIT_OK

HEADER = f"""\
# For a kernel that mptcp-harness can test; in a kernel tree:
#   {kconfig.REMEDY}
"""


def add(commands: arguments.Commands) -> None:
    command = arguments.command(
        commands, "config", "print the kernel configuration that a build needs", run
    )
    command.add_argument(
        "--modules",
        action="store_true",
        help="for a kernel that can load modules; the harness needs none",
    )
    command.add_argument(
        "--debug-info",
        action="store_true",
        help="with debug information, for source lines in traces; the build takes three times as "
        "long, and gigabytes",
    )


def run(given: argparse.Namespace) -> int:
    """Print the fragment."""
    print(HEADER + kconfig.fragment(modules=given.modules, debug_info=given.debug_info), end="")
    return EXIT_OK
