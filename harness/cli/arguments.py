# SPDX-License-Identifier: GPL-2.0-only
"""The grammar that commands share, and its help. Commands bring their own, each in its module."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from harness.manifest.kernels_yaml import Accel
from harness.manifest.plan import Profile
from harness.manifest.schema import Abi
from harness.verdict.results import Family
from harness.verdict.rounds import MOST

DESCRIPTION = """\
Does this kernel still do what user space relies on, on MPTCP sockets?
Boots kernels under virtme-ng, runs socket option checks in them over IPv4 and IPv6, and judges.
"""

EPILOG = """\
examples:
  mptcp-harness matrix                               every kernel of ./kernels.yaml
  mptcp-harness matrix -k 'debian-6.*' --json r.json some of them, with a record for scripts
  mptcp-harness matrix --resume                      what an interrupted run did not get to
  mptcp-harness check bzImage --against debian-6.12  what differs between two kernels
  mptcp-harness bisect --good debian-6.12 --bad debian-newest
                                                     which kernel between them changed it
  git bisect run mptcp-harness step --any            which commit, in a kernel tree
  mptcp-harness nightly                              what is newly wrong, for a timer
  mptcp-harness check arch/x86/boot/bzImage          one image, modules found beside it
  mptcp-harness check bzImage --against debian-6.12  only what differs
  mptcp-harness bisect --good A --bad B              which kernel of a series began it
  git bisect run mptcp-harness step --check ID       which commit of a tree
  mptcp-harness nightly --notify CMD                 what a timer runs
  mptcp-harness doctor                               what this host lacks

exit status: 0 all as expected; 1 a kernel fails, crashes, hangs or warns; 2 wrong arguments or
manifest; 3 some kernel could not be tested; 130 interrupted. A command whose own statuses mean
something else says so in its --help.
"""

#: What argparse calls its subcommands.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

MANIFEST_HELP = "the kernels (default: ./kernels.yaml)"


def command(
    commands: Commands, name: str, what: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """A new command ``name``: ``run`` takes what was given and returns the exit status."""
    command = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    command.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where prepared kernels are kept (default: mptcp-harness in XDG_CACHE_HOME)",
    )
    command.set_defaults(run=run)
    return command


def add_manifest(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "manifest", type=Path, nargs="?", default=Path("kernels.yaml"), help=MANIFEST_HELP
    )


def add_selection(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-k",
        dest="kernels",
        metavar="PATTERN",
        help="only kernels whose names match, such as 'debian-6.*,patched'; a series, or kernels "
        "of one (trixie-6.12-*), only when named here",
    )


def add_run_options(command: argparse.ArgumentParser) -> None:
    add_resources(command)
    command.add_argument(
        "--family", type=Family, choices=list(Family), help="one address family (default: both)"
    )
    command.add_argument(
        "--check", metavar="PATTERN", help="only these checks, such as 'mptcp_info.*'"
    )
    command.add_argument(
        "--seed",
        type=Number(0, (1 << 63) - 1),
        metavar="N",
        help="what payloads derive from; printed and recorded, so that a run can be repeated",
    )
    command.add_argument(
        "--payload",
        type=Number(1, 1 << 24),
        metavar="BYTES",
        help="one size instead of a byte, a segment and a stream",
    )
    add_profile(command, "full")
    _add_repeat(command)
    command.add_argument(
        "--reuse",
        action="store_true",
        help="do not boot a kernel again whose last result was good and whose circumstances are "
        "the same; its earlier result is shown, and from which run",
    )
    command.add_argument(
        "--confirm",
        type=Number(0, 100),
        default=0,
        metavar="N",
        help="boot a kernel that fails N more times, and say whether it always does",
    )
    command.add_argument(
        "--abi",
        type=Abi,
        choices=list(Abi),
        help="user space of the guest, instead of the manifest's; i386 runs the checks in a 32-bit "
        "Python of Debian's on the same kernel",
    )
    command.add_argument(
        "--bundle-image",
        action="store_true",
        help="put the image into what a failing kernel leaves for `replay`, too",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    add_output(command)


def add_predicate(command: argparse.ArgumentParser, default: str = "") -> None:
    """What is looked for; one of them has to be given where there is no ``default``."""
    wanted = command.add_mutually_exclusive_group(required=not default)
    wanted.add_argument(
        "--check",
        metavar="PATTERN",
        help="bad is where such a check fails, or the capability of capability.NAME is absent"
        + (f" (default: {default})" if default else ""),
    )
    wanted.add_argument(
        "--incident", metavar="FINGERPRINT", help="bad is where the log has it; its beginning does"
    )
    wanted.add_argument(
        "--any", action="store_true", help="bad is what starts and is not as expected"
    )


def add_profile(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--profile",
        type=Profile,
        choices=list(Profile),
        help="quick: checks of loopback connections; full: checks of scenarios, too, such as "
        f"several subflows (default: {default})",
    )


def _add_repeat(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--repeat",
        type=Number(1, MOST),
        metavar="N",
        help="check N times in one boot, each time with the next seed, and say how often what "
        "failed; --seed with that of a round repeats it",
    )
    command.add_argument(
        "--until-fail",
        action="store_true",
        help=f"repeat until a check fails, --repeat times at most (default: {MOST})",
    )
    command.add_argument(
        "--for",
        dest="duration",
        type=span,
        metavar="TIME",
        help="repeat no longer than 90s, 10m, 8h; the round that is under way is finished",
    )


def add_resources(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-j",
        dest="jobs",
        type=Number(1, 1024),
        metavar="N",
        help="VMs at a time (default: as many as processors and free memory allow)",
    )
    command.add_argument(
        "--accel",
        type=Accel,
        choices=list(Accel),
        help="over the manifest's; auto tries whether KVM boots a kernel, and says so",
    )


def add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="consoles, events and results go there (default: a new directory in XDG_STATE_HOME)",
    )


_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}


def seconds_of(duration: str) -> int:
    """``12h``, ``30d`` or ``2w`` in seconds."""
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", duration)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{duration!r} is no time such as 12h, 30d or 2w (hours, days, weeks)"
        )
    return int(match[1]) * _UNITS[match[2]]


_SPAN_UNITS = {"s": 1, "m": 60, "h": 3600}


def span(duration: str) -> int:
    """``90s``, ``10m`` or ``8h`` in seconds."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})([smh])", duration)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{duration!r} is no time such as 90s, 10m or 8h (seconds, minutes, hours)"
        )
    return int(match[1]) * _SPAN_UNITS[match[2]]


class Number:
    """An integer from ``least`` to ``most``."""

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most

    def __call__(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not self._least <= number <= self._most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number from {self._least} to {self._most}"
            )
        return number
