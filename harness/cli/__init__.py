# SPDX-License-Identifier: GPL-2.0-only
"""The command line: arguments in, exit status out. The only place that prints or exits."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness import __version__
from harness.cli.arguments import DESCRIPTION, EPILOG, SUMMARIES, add_completion
from harness.cli.common import complain
from harness.errors import HostError, Interrupted, UsageError
from harness.verdict.verdicts import EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED, EXIT_USAGE

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

#: The commands in the order of --help, each with its module and the function that adds its parser.
COMMANDS = {
    "matrix": ("matrix", "add_matrix"),
    "check": ("matrix", "add_check"),
    "bisect": ("bisect", "add_bisect"),
    "step": ("step", "add"),
    "nightly": ("nightly", "add"),
    "replay": ("kept_runs", "add_replay"),
    "report": ("kept_runs", "add_report"),
    "runs": ("history", "add_runs"),
    "merge": ("kept_runs", "add_merge"),
    "compare": ("history", "add_compare"),
    "history": ("history", "add_history"),
    "missing-fixes": ("history", "add_missing_fixes"),
    "config": ("kernels", "add_config"),
    "prepare": ("kernels", "add_prepare"),
    "list": ("kernels", "add_list"),
    "fleet": ("fleet", "add_fleet"),
    "doctor": ("housekeeping", "add_doctor"),
    "selftest": ("housekeeping", "add_selftest"),
    "prune": ("housekeeping", "add_prune"),
}


#: Environment variables that hold paths.
_PLACES = ("HOME", "PWD", "TMPDIR", "XDG_CACHE_HOME", "XDG_STATE_HOME")

_REMEDY = {
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "; make it writable, or use another directory (--output, --cache, XDG_STATE_HOME)",
    ),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "; free some space on the disk"),
}


def load(command: Sequence[str]) -> None:
    """Import what the named command needs, if one is named: a broken library shows here."""
    for name in command:
        if name in COMMANDS:
            importlib.import_module(f"harness.cli.{COMMANDS[name][0]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (docs: README, "Exit status")."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["step"]:
        from harness.cli import step  # imported only when needed, as every command

        return step.for_git(lambda: _main(arguments))
    return _main(arguments)


def _main(arguments: Sequence[str]) -> int:
    if sys.stdout is None:  # the shell's >&-
        complain("standard output is closed; redirect it, for example to /dev/null")
        return EXIT_INFRASTRUCTURE
    try:
        try:
            _check_names(arguments)
            given = parser(arguments[:1]).parse_args(arguments)
            status: int = given.run(given)
            return status
        finally:
            sys.stdout.flush()
    except UsageError as error:
        complain(str(error))
        return EXIT_USAGE
    except HostError as error:
        complain(str(error))
        return EXIT_INFRASTRUCTURE
    except Interrupted as error:
        complain(str(error))
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone (`| head`), so there is nobody to report to.
        _abandon_output()
        return EXIT_INTERRUPTED
    except OSError as error:  # the host failed (a full disk, a removed directory), not a kernel
        _abandon_output()
        hint = _REMEDY.get(error.errno or 0, "")
        if not error.filename:
            hint = "; check the disk, and where standard output goes"
        complain(f"the host failed: {error.strerror or error}{_file_of(error)}{hint}")
        return EXIT_INFRASTRUCTURE


def parser(first: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of the whole command line, or only as much of it as the ``first`` argument needs.

    Importing all commands takes half a second. Each sets ``run``, which takes the parsed arguments.
    """
    top = _Parser(
        prog="mptcp-harness",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    add_completion(top)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    if first and first[0] in ("-h", "--help", "--version"):
        for name in COMMANDS:
            commands.add_parser(name, help=SUMMARIES[name])
        return top
    for name in first if first and first[0] in COMMANDS else COMMANDS:
        module, add = COMMANDS[name]
        getattr(importlib.import_module(f"harness.cli.{module}"), add)(commands)
    return top


def _check_names(arguments: Sequence[str]) -> None:
    """Raise UsageError for a name that is not UTF-8, because records, reports and manifests are.

    Python represents such bytes by surrogates; under an ASCII locale, all bytes but ASCII ones.
    """
    named = [("the argument", argument) for argument in arguments]
    named += [(name, os.environ.get(name, "")) for name in _PLACES]
    for what, text in named:
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise UsageError(
                f"{what} {text!r} is not text in UTF-8: use another path, or a UTF-8 locale such "
                "as LC_ALL=C.UTF-8"
            )


class _Parser(argparse.ArgumentParser):
    """A parser that fails if its help cannot be written; argparse's own ignores that and exits with
    0."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        file = file or sys.stderr
        if message and file is not sys.stdout:
            super()._print_message(message, file)
        elif message:
            file.write(message)


def _file_of(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _abandon_output() -> None:
    """Keep Python from writing to a broken standard output again when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
