# SPDX-License-Identifier: GPL-2.0-only
"""``check``: one image, without a manifest."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.cli import against, arguments, shell
from harness.cli.testing import test
from harness.kernels import Cache
from harness.manifest import kernels_yaml


def add(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "check", "boot and check one kernel image", run)
    command.add_argument("image", type=Path, help="a bzImage or vmlinux")
    command.add_argument(
        "--modules",
        type=Path,
        metavar="DIR",
        help="a built tree, or a directory with lib/modules (default: found beside the image)",
    )
    against.add(command)
    command.add_argument(
        "--shell",
        action="store_true",
        help="open a shell in the same guest, on this terminal, instead of running the checks",
    )
    arguments.add_run_options(command)
    command.set_defaults(manifest=None, resume=False)


def run(given: argparse.Namespace) -> int:
    """Test one image."""
    entry = kernels_yaml.for_image(given.image, given.modules)
    cache = Cache(given.cache)
    if given.shell:
        return shell.run(entry, given, cache)
    if given.against is not None:
        return against.check(entry, given, cache)
    return test([entry], given, cache)
