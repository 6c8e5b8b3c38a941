# SPDX-License-Identifier: GPL-2.0-only
"""``check --shell``: a shell in the guest of one image, on the user's terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import termios
import tty
from collections.abc import Iterator

from harness.cli.common import complain, stopping
from harness.cli.matrix import with_abi
from harness.errors import HostError, UsageError
from harness.kernels import Cache
from harness.manifest.entries import KernelEntry
from harness.run import workspace
from harness.verdict.verdicts import EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED, EXIT_OK
from harness.vm import shell
from harness.vm.commandline import Unsafe

#: Options of `check` that have no effect with --shell.
_OF_CHECKS = (
    *("against", "repeat", "until_fail", "duration", "check", "family", "seed", "payload"),
    *("confirm", "reuse", "cross_check", "bundle_image", "json", "html", "output"),
)
HOW = f"run the checker with: {shell.CHECKER} (see {shell.CHECKER} --help); leave with: exit"


def run(entry: KernelEntry, given: argparse.Namespace, cache: Cache) -> int:
    """Boot ``entry`` and give the user its console; returns the exit status."""
    idle = [name for name in _OF_CHECKS if getattr(given, name, None) not in (None, False, [])]
    if idle:
        option = {"duration": "for"}.get(idle[0], idle[0].replace("_", "-"))
        raise UsageError(
            f"--shell runs no checks, so --{option} has no effect; omit one of the two"
        )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("--shell needs a terminal; start it from one")
    with stopping(cache.stop) as stop, _plan(entry, given, cache) as plan:
        complain(f"{plan.kernel.release}: {plan.greeting}, poweroff or Ctrl-A x")
        try:
            with _raw(sys.stdin.fileno()):
                shell.run(plan, _terminal(), stop)
        except (HostError, Unsafe) as error:
            complain(f"no shell: {error}")
            return EXIT_INFRASTRUCTURE
        return EXIT_INTERRUPTED if stop.is_set() else EXIT_OK


@contextlib.contextmanager
def _plan(entry: KernelEntry, given: argparse.Namespace, cache: Cache) -> Iterator[shell.ShellPlan]:
    [entry] = with_abi([entry], given)
    with workspace.machinery(entry, cache, given.accel, complain) as found:
        yield shell.ShellPlan(found.kernel, found.base, found.qemu, found.machine, HOW)


def _terminal() -> shell.Terminal:
    columns, rows = shutil.get_terminal_size((80, 24))
    name = os.environ.get("TERM", "vt100")
    return shell.Terminal(sys.stdin.fileno(), sys.stdout.fileno(), rows, columns, name)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Put the terminal into raw mode, and restore it at the end."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        sys.stdout.write("\n")
