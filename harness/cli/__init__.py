# SPDX-License-Identifier: GPL-2.0-only
"""The command line: arguments in, exit status out. The only place that prints or exits."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from harness import __version__, programs, resume, session
from harness.cli import (
    bisect,
    check,
    compare,
    config,
    history,
    housekeeping,
    kernels,
    matrix,
    nightly,
    replay,
    report,
    selftest,
    step,
)
from harness.cli.arguments import DESCRIPTION, EPILOG
from harness.cli.common import NotWritten, UsageError, complain
from harness.kernels import KernelUnavailable
from harness.kernels.files import NoHome
from harness.manifest import ManifestError
from harness.results import EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED, EXIT_USAGE
from harness.store import StoreUnusable

#: What adds a command to the grammar, in the order of --help.
COMMANDS = (
    matrix.add,
    check.add,
    bisect.add,
    nightly.add,
    kernels.add_prepare,
    kernels.add_list,
    report.add,
    compare.add,
    history.add,
    config.add,
    step.add,
    housekeeping.add_doctor,
    selftest.add,
    replay.add,
    housekeeping.add_prune,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (docs: README, "Exit status")."""
    if list(sys.argv[1:] if argv is None else argv)[:1] == ["step"]:
        return step.for_git(lambda: _main(argv))
    return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    if sys.stdout is None:  # the shell's >&-
        complain("standard output is closed; give it a place to go, such as /dev/null")
        return EXIT_INFRASTRUCTURE
    try:
        try:
            programs.adopt_orphans()
            given = parser().parse_args(argv)
            status: int = given.run(given)
            return status
        finally:
            sys.stdout.flush()
    except (UsageError, ManifestError, session.OutputRefused, resume.NothingToResume) as error:
        complain(str(error))
        return EXIT_USAGE
    except (
        *(session.SessionUnavailable, KernelUnavailable, StoreUnusable),
        *(NoHome, NotWritten),
    ) as error:
        complain(str(error))
        return EXIT_INFRASTRUCTURE
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): nothing is left to be said.
        _abandon_output()
        return EXIT_INTERRUPTED
    except OSError as error:  # a full disk, a directory that went away: of the host, not a kernel
        _abandon_output()
        hint = "" if error.filename else "; look at the disk, and at where standard output goes"
        complain(f"the host failed: {error.strerror or error}{_file_of(error)}{hint}")
        return EXIT_INFRASTRUCTURE


def parser() -> argparse.ArgumentParser:
    """The whole command line; each command sets ``run``, which takes what was given."""
    top = argparse.ArgumentParser(
        prog="mptcp-harness",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return top


def _file_of(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _abandon_output() -> None:
    """Where standard output takes nothing any more, let Python not try it again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
