# SPDX-License-Identifier: GPL-2.0-only
"""``check --shell``: a shell in the guest, on the user's terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import termios
import tty
from collections.abc import Iterator

from harness import kernels
from harness.cli.common import complain, stopping
from harness.errors import HostError, UsageError
from harness.kernels import Cache
from harness.manifest.kernels_yaml import KernelEntry
from harness.run import workspace
from harness.verdict.results import EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED, EXIT_OK
from harness.vm import accelerator, foreign_root, shell
from harness.vm.commandline import Machine, Unsafe

#: Options of `check` that mean nothing where no checks are run.
_OF_CHECKS = (
    *("against", "repeat", "until_fail", "duration", "check", "family", "seed", "payload"),
    *("confirm", "reuse", "bundle_image", "json", "output"),
)
HOW = f"run the checker with: {shell.CHECKER} (see {shell.CHECKER} --help); leave with: exit"


def run(entry: KernelEntry, given: argparse.Namespace, cache: Cache) -> int:
    """Boot ``entry`` and give the user its console; returns the exit status."""
    idle = [name for name in _OF_CHECKS if getattr(given, name, None) not in (None, False)]
    if idle:
        option = {"duration": "for"}.get(idle[0], idle[0].replace("_", "-"))
        raise UsageError(f"--shell runs no checks, so that --{option} means nothing; leave one out")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("--shell needs a terminal, and there is none; start it from one")
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
def _plan(entry: KernelEntry, given: argparse.Namespace, cache: Cache) -> Iterator[shell.Plan]:
    qemu, busybox = workspace.find_tools()
    with cache.scratch():  # nothing is pruned that is used
        base = foreign_root.prepare(given.abi or entry.abi, cache, busybox, complain)
        kernel = kernels.prepare(entry, cache, complain)
        choice = accelerator.choose(
            given.accel or entry.accel, kernel, qemu, cache.root / "kvm.json", complain
        )
        machine = Machine(entry.cpus, entry.memory_mib, entry.append, choice.kvm)
        yield shell.Plan(kernel, base, qemu, machine, HOW)


def _terminal() -> shell.Terminal:
    columns, rows = shutil.get_terminal_size((80, 24))
    name = os.environ.get("TERM", "vt100")
    return shell.Terminal(sys.stdin.fileno(), sys.stdout.fileno(), rows, columns, name)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """The terminal passes every key on, until whatever happens; then it is as it was."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        sys.stdout.write("\n")
