# SPDX-License-Identifier: GPL-2.0-only
"""The checker for a person: arguments in, KTAP 1 out."""

from __future__ import annotations

import argparse
import fnmatch
import os
import signal
import sys

from guest import checks, probe
from guest.ktap import Ktap
from guest.runner import FAMILIES, Options, Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

MOST_ROUNDS = 1_000_000
EPILOG = """\
examples:
  python3 guest                                 both families, a new seed
  python3 guest -6 --seed 1234                  IPv6, with the payloads of an earlier run
  python3 guest --check 'full_info.*'           one option
  python3 guest --profile quick                 only checks that need no root
  python3 guest --require full_info             fail if the kernel lacks MPTCP_FULL_INFO
  python3 guest --repeat 1000 --until-fail      until a check fails, each time with the next seed

exit status: 0 all checks passed or were skipped; 1 a check failed; 2 wrong arguments.
A skipped check needs something that this kernel, or this user, does not have.
"""


def parser() -> argparse.ArgumentParser:
    what = argparse.ArgumentParser(
        prog="python3 guest",
        description="Checks the socket options of MPTCP on the running kernel; prints KTAP 1.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    family = what.add_mutually_exclusive_group()
    family.add_argument(
        "-4", dest="families", action="store_const", const=["ipv4"], help="only IPv4"
    )
    family.add_argument(
        "-6", dest="families", action="store_const", const=["ipv6"], help="only IPv6"
    )
    family.add_argument(
        "--family",
        dest="families",
        type=lambda f: [f],
        metavar="ipv4|ipv6",
        help="one address family (default: both)",
    )
    what.add_argument("--seed", type=_natural, help="seed of the payloads (default: random)")
    what.add_argument(
        "--check",
        action="append",
        metavar="PATTERN",
        help="only checks whose names match, of either profile, such as 'full_info.*,ip_tos.*'; "
        "may be given several times",
    )
    what.add_argument(
        "--profile",
        choices=checks.PROFILES,
        default=checks.FULL,
        help="quick: only checks of one loopback connection (default: full)",
    )
    what.add_argument(
        "--payload",
        type=_size,
        metavar="BYTES",
        help="send one payload of this size instead of several that follow from the seed",
    )
    what.add_argument(
        "--repeat",
        type=_rounds,
        metavar="N",
        help="run the checks N times, each time with the next seed",
    )
    what.add_argument(
        "--until-fail", action="store_true", help="repeat until a check fails, at most N times"
    )
    what.add_argument(
        "--require",
        action="append",
        default=["mptcp"],
        metavar="CAPABILITY",
        help="fail if the kernel lacks this capability (mptcp is always required); may be given "
        "several times",
    )
    what.add_argument("--list", action="store_true", help="list the checks and stop")
    return what


def _number(text: str, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError("%r is not a number from %d to %d" % (text, least, most))
    return number


def _natural(text: str) -> int:
    return _number(text, 0, (1 << 63) - 1)


def _rounds(text: str) -> int:
    return _number(text, 1, MOST_ROUNDS)


def _size(text: str) -> int:
    return _number(text, 1, 1 << 24)


def main(arguments: Sequence[str]) -> int:
    # A reader that has seen enough, such as head, ends us as it ends other programs.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    given = parser().parse_args(arguments)
    if given.list:
        for item in checks.all_checks(given.profile):
            print("%-45s %s" % (item.id, item.summary))
        return 0
    families = given.families or list(FAMILIES)
    if any(family not in FAMILIES for family in families):
        parser().error("--family must be one of %s" % ", ".join(FAMILIES))
    unknown = [name for name in given.require if name not in (*probe.NAMES, "ipv6", "mptcp_ipv6")]
    if unknown:
        parser().error("--require: %s is none of %s" % (unknown[0], ", ".join(probe.NAMES)))
    profile = given.profile if given.check is None else checks.FULL
    names = [item.id for item in checks.all_checks(profile)]
    selected: list[str] = []
    for pattern in ",".join(given.check or ()).split(",") if given.check else ():
        matching = fnmatch.filter(names, pattern)
        if not matching:
            parser().error("--check %r matches no check; --list shows them" % pattern)
        selected += matching
    seed = int.from_bytes(os.urandom(4), "big") if given.seed is None else given.seed
    print("KTAP version 1")
    print("# kernel %s, python %s, seed %d" % (os.uname().release, sys.version.split()[0], seed))
    # A host without IPv6 is no failure of MPTCP, unless IPv6 was asked for.
    rounds = given.repeat or (MOST_ROUNDS if given.until_fail else 1)
    report = Ktap([*given.require, *(given.families or ())], repeated=rounds > 1)
    chosen = set(selected).__contains__ if given.check else None
    options = Options(
        families, seed, chosen, given.payload, rounds, given.until_fail, profile=profile
    )
    Runner(options, report).run()
    return 1 if report.finish() else 0
