# SPDX-License-Identifier: GPL-2.0-only
"""The options that several commands share, and the help of every command with its examples."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.verdict.verdicts import Family

if TYPE_CHECKING:
    from harness.verdict.results import Shard

DESCRIPTION = """\
Does this kernel still do what user space relies on, on MPTCP sockets?
Boots kernels under virtme-ng, runs checks in them over IPv4 and IPv6, and judges each kernel.
"""

EPILOG = """\
examples:
  mptcp-harness matrix                               every kernel of ./kernels.yaml
  mptcp-harness check arch/x86/boot/bzImage          one image
  mptcp-harness check bzImage --against debian-6.12  show what differs between two kernels
  mptcp-harness bisect --good A --bad B              find the kernel that changed something
  git bisect run mptcp-harness step --check ID       find the commit that changed something
  mptcp-harness nightly --notify CMD                 report what is newly wrong, for a timer
  mptcp-harness doctor                               show what this host lacks

exit status: 0 all as expected; 1 a kernel fails, crashes, hangs or warns; 2 wrong arguments or
manifest; 3 a kernel could not be tested; 130 interrupted. A command whose statuses differ lists
them in its --help.
"""

#: argparse's type of subcommands.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

RUN_HELP = "a run's id or a prefix of it, 'last', its directory, or a file written by --json"
MANIFEST_HELP = "the list of kernels (default: ./kernels.yaml)"


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """A new command ``name``; ``run`` takes the parsed arguments and returns the exit status."""
    what = SUMMARIES[name]
    command = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=epilog(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep prepared kernels in DIR (default: mptcp-harness in XDG_CACHE_HOME)",
    )
    command.set_defaults(run=run)
    return command


class Patterns(argparse.Action):
    """An option that may be given several times; its patterns are joined by commas."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, f"{before},{values}" if before else values)


def add_manifest(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "manifest", type=Path, nargs="?", default=Path("kernels.yaml"), help=MANIFEST_HELP
    )


def add_selection(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-k",
        dest="kernels",
        metavar="PATTERN",
        action=Patterns,
        help="only kernels whose names match, such as 'debian-6.*,patched'; a series, or kernels "
        "of one (trixie-6.12-*), are tested only if this option names them; may be given several "
        "times",
    )


def add_shard(command: argparse.ArgumentParser, what: str = "of the kernels") -> None:
    command.add_argument(
        "--shard",
        type=shard,
        metavar="K/N",
        help=f"only part K of N {what}, such as 2/8, for N machines",
    )


def add_durations(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--durations",
        metavar="RUN",
        action="append",
        default=[],
        help="divide the kernels into shards by their durations in RUN, a stored run or a file of "
        "--json, or by names alone with 'none' (default: the last complete runs stored here, so "
        "machines without a common store need this option); may be given several times",
    )


def add_run_options(command: argparse.ArgumentParser, json_file: str | None = None) -> None:
    # Imported only here: pydantic takes longer than `history` and `runs` may.
    from harness.manifest.entries import Abi

    add_resources(command)
    add_fleet(command)
    command.add_argument(
        "--fleet-consoles",
        action="store_true",
        help="with --fleet: fetch consoles and events of good kernels as well",
    )
    command.add_argument(
        "--family", type=Family, choices=list(Family), help="one address family (default: both)"
    )
    command.add_argument(
        "--check",
        metavar="PATTERN",
        action=Patterns,
        help="only checks whose names match, such as 'mptcp_info.*'; may be given several times",
    )
    command.add_argument(
        "--seed",
        type=Number(0, (1 << 63) - 1),
        metavar="N",
        help="seed of the payloads (default: random); each run prints its seed, and the same seed "
        "gives the same payloads",
    )
    command.add_argument(
        "--payload",
        type=Number(1, 1 << 24),
        metavar="BYTES",
        help="send one payload of this size instead of a byte, a segment and a stream",
    )
    add_profile(command, "full")
    _add_repeat(command)
    command.add_argument(
        "--reuse",
        action="store_true",
        help="do not boot a kernel whose last result was good and for which nothing changed; show "
        "that result and the run it is from",
    )
    command.add_argument(
        "--confirm",
        type=Number(0, 100),
        default=0,
        metavar="N",
        help="boot a failing kernel N more times, and report whether it fails every time "
        "(default: 0)",
    )
    command.add_argument(
        "--abi",
        type=Abi,
        choices=list(Abi),
        help="user space of the guest (default: the manifest's, or native); i386 runs the checks "
        "with Debian's 32-bit Python on the same kernel",
    )
    command.add_argument(
        "--cross-check",
        metavar="PROGRAM",
        action="append",
        default=[],
        help="after the checks, run a compiled program in the guest for each family, and show "
        "whether its exit status agrees with the checks; PROGRAM may have arguments, split as by a "
        "shell; {family} in them is replaced by ipv4 or ipv6; without {family}, -6 is inserted for "
        "IPv6; may be given several times",
    )
    command.add_argument(
        "--bundle-image",
        action="store_true",
        help="include the image in the bundle of a failing kernel",
    )
    command.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        nargs=json_file,
        const=Path("-") if json_file else None,
        help="also write the results to FILE",
    )
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page for a browser to FILE"
    )
    add_output(command)


def add_predicate(command: argparse.ArgumentParser, default: str = "") -> None:
    """Add the options that define a bad kernel; one is required unless there is a ``default``."""
    wanted = command.add_mutually_exclusive_group(required=not default)
    wanted.add_argument(
        "--check",
        metavar="PATTERN",
        action=Patterns,
        help="a kernel is bad if a check that matches fails; for capability.NAME, if the "
        "capability is absent" + (f" (default: {default})" if default else ""),
    )
    wanted.add_argument(
        "--incident",
        metavar="FINGERPRINT",
        help="a kernel is bad if its log contains this incident; a unique prefix of the "
        "fingerprint is enough",
    )
    wanted.add_argument(
        "--any",
        action="store_true",
        help="a kernel is bad if it boots but misses its expected verdict",
    )


def add_profile(command: argparse.ArgumentParser, default: str) -> None:
    # Imported only here: pydantic takes longer than `history` and `runs` may.
    from harness.manifest.plan import Profile

    command.add_argument(
        "--profile",
        type=Profile,
        choices=list(Profile),
        help="quick: only checks of loopback connections; full: also checks of scenarios, such as "
        f"several subflows (default: {default})",
    )


def _add_repeat(command: argparse.ArgumentParser) -> None:
    from harness.verdict.rounds import MOST  # imported only here, as the plan is

    command.add_argument(
        "--repeat",
        type=Number(1, MOST),
        metavar="N",
        help="run the checks N times in one boot, each round with the next seed, and report how "
        "often each check failed; --seed repeats a round",
    )
    command.add_argument(
        "--until-fail",
        action="store_true",
        help=f"repeat until a check fails, at most --repeat times (default: {MOST})",
    )
    command.add_argument(
        "--for",
        dest="duration",
        type=span,
        metavar="TIME",
        help="repeat for this long, such as 90s, 10m or 8h, and finish the current round",
    )


def add_resources(command: argparse.ArgumentParser) -> None:
    # Imported only here: pydantic takes longer than `history` and `runs` may.
    from harness.manifest.entries import Accel

    command.add_argument(
        "-j",
        dest="jobs",
        type=Number(1, 1024),
        metavar="N",
        help="run N VMs at a time (default: as many as processors and free memory allow)",
    )
    command.add_argument(
        "--accel",
        type=Accel,
        choices=list(Accel),
        help="run VMs under KVM, or under TCG, QEMU's emulation (default: the manifest's, or auto, "
        "which uses KVM if a trial boot succeeds)",
    )


def add_fleet(
    command: argparse.ArgumentParser,
    effect: str = "test on the workers of this Dask scheduler, such as tls://lab:8786, instead of "
    "on this host",
) -> None:
    command.add_argument("--fleet", metavar="ADDRESS", help=f"{effect} (docs/fleet.md)")
    command.add_argument(
        "--fleet-certificates",
        type=Path,
        metavar="DIR",
        help="the directory with ca.pem, client.pem and client-key.pem of the fleet",
    )


def add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write consoles, events and results to DIR (default: a new one in XDG_STATE_HOME)",
    )


def shard(text: str) -> Shard:
    """``K/N``."""
    from harness.verdict.results import Shard

    match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a part such as 2/8, the second of eight (the first is 1/8)"
        )
    return Shard(int(match[1]), int(match[2]))


_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}


def seconds_of(duration: str) -> int:
    """The seconds in ``12h``, ``30d`` or ``2w``."""
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", duration)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{duration!r} is not a time such as 12h, 30d or 2w (hours, days, weeks)"
        )
    return int(match[1]) * _UNITS[match[2]]


_SPAN_UNITS = {"s": 1, "m": 60, "h": 3600}


def span(duration: str) -> int:
    """The seconds in ``90s``, ``10m`` or ``8h``."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})([smh])", duration)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{duration!r} is not a time such as 90s, 10m or 8h (seconds, minutes, hours)"
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


SHELLS = ("bash", "zsh", "tcsh")


class PrintCompletion(argparse.Action):
    """Print the completion script for a shell, and exit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        import shtab  # imported only here, so that other commands start faster

        for action in _actions(parser):
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, str(values)))
        parser.exit()


def add_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        metavar="SHELL",
        help=f"print a completion script for {', '.join(SHELLS)} and exit",
    )


def words(
    parser: argparse.ArgumentParser, given: argparse.Namespace, but: Sequence[str] = ()
) -> list[str]:
    """The arguments in ``given`` as the words of a command line, without options at their defaults.

    Files become absolute; those named ``but`` are left out.
    """
    found: list[str] = []
    for action in parser._actions:
        value = getattr(given, action.dest, None)
        is_default = value == parser.get_default(action.dest) and action.option_strings
        if action.dest in but or is_default or value is None:
            continue
        values = value if isinstance(value, list) else [value]
        texts = [str(each.absolute() if isinstance(each, Path) else each) for each in values]
        if not action.option_strings:
            found += texts
        elif action.nargs == 0:
            found.append(action.option_strings[0])
        else:
            found += [word for text in texts for word in (action.option_strings[0], text)]
    return found


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


#: What each command does, in the order of --help.
SUMMARIES = {
    "matrix": "boot and check every kernel of a manifest",
    "check": "boot and check one kernel",
    "bisect": "find the prebuilt kernel, and then the commit, that broke something",
    "step": "build, boot and judge one commit, for git bisect run",
    "nightly": "run selftest and matrix, compare with the last run, and bisect each regression",
    "replay": "boot a failed kernel again from its bundle",
    "merge": "merge the results of shards, or of other parts of a list, into one run",
    "report": "show a stored run in another format",
    "runs": "list the stored runs, newest first",
    "compare": "show what changed between two runs, or two kernels",
    "history": "show the verdicts of kernels and checks over the last runs, when they changed, and "
    "how often they are bad",
    "missing-fixes": "list the fixes that each kernel lacks according to its last results",
    "config": "print the kernel configuration that a build needs",
    "prepare": "fetch and unpack the kernels of a manifest without booting them",
    "list": "list kernels, checks, capabilities or fixes",
    "fleet": "make the certificates of a fleet (docs/fleet.md)",
    "doctor": "show the tools that this host lacks, and the command that installs them",
    "selftest": "prove on a real kernel that the harness detects faults",
    "prune": "remove kernels, results and runs that were not used for a long time",
}

#: For each command, its examples: a command line and its purpose.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "matrix": (
        ("matrix", "every kernel of ./kernels.yaml"),
        ("matrix my.yaml -k 'debian-6.*' --json r.json", "some kernels, with results for scripts"),
        ("matrix --html report.html", "also write a page for a browser"),
        ("matrix --reuse", "only kernels for which something changed"),
        ("matrix --resume", "the kernels that an interrupted run did not reach"),
        ("matrix --fleet tls://lab:8786 --fleet-certificates certs", "on the hosts of a lab"),
        ("matrix --shard 2/8 --durations none --json 2.json", "the second of eight machines"),
        ("matrix --list-shards 8 --json", "what each of eight shards would test, as JSON"),
    ),
    "merge": (
        ("merge 1.json 2.json 3.json --json all.json", "one run out of three shards"),
        ("merge shard-*/ --html report.html", "from the shards' directories, with consoles"),
        ("merge 1.json 3.json --allow missing", "although a shard was lost"),
    ),
    "check": (
        ("check arch/x86/boot/bzImage", "one image; its modules are found beside it"),
        ("check bzImage --against debian-6.12", "only what differs from another kernel"),
        ("check bzImage --until-fail --for 10m", "many rounds in one boot"),
        ("check bzImage --shell", "a shell in the same guest"),
        ("check bzImage --cross-check ./mptcp_sockopt", "also run a program, and compare with it"),
    ),
    "bisect": (
        ("bisect --good debian-6.12 --bad debian-newest", "what changed between the two"),
        ("bisect --good A --bad B --check 'so_linger.*'", "where one option changed"),
        ("bisect --good A --bad B --repo ~/src/linux", "which commit changed it"),
        ("bisect --resume", "continue the last unfinished bisect"),
        ("bisect --boundaries --from A --to B", "where each check changed"),
        ("bisect --boundaries --from A --to B --shard 1/4", "the same in the oldest quarter"),
    ),
    "step": (
        ("step --check 'so_linger.*'", "for `git bisect run`, after `git bisect start BAD GOOD`"),
        ("step --any --patch fix-build.patch", "any failure; each commit is patched first"),
    ),
    "nightly": (
        ("nightly", "what is newly wrong, for a timer"),
        ("nightly --wait --notify ./tell-us", "run tell-us with the report and the status"),
        ("nightly --bisect-time 90m", "start no build after 90 minutes of bisects"),
        ("nightly --mail me@example.org", "the report as a mail, with its HTML attached"),
    ),
    "replay": (
        ("replay debian-6.12.bundle.tar.zst", "repeat the boot"),
        ("replay debian-6.12.bundle.tar.zst --vary", "what the failure depends on"),
    ),
    "report": (
        ("report", "the last run as Markdown"),
        ("report --format html --output report.html", "a page with matrix and details"),
        ("report --site public", "a page for each stored run, and an index"),
        ("report results.json --format junit --output junit.xml", "for a CI system"),
        ("report --format flakes --output normal.json", "what did not pass in the last 100 runs"),
    ),
    "compare": (
        ("compare", "the last run with the one before it"),
        ("compare 20261101 last", "two runs, the older one first"),
        ("compare --kernels debian-6.12 debian-newest", "two kernels of the last run"),
    ),
    "history": (
        ("history", "each kernel over the last 20 runs"),
        ("history --check '*' -k 'debian-6.*'", "each check that ever failed"),
        ("history --last 365 --json history.json", "a year with every change, also as JSON"),
    ),
    "runs": (
        ("runs", "the last 20 runs, newest first"),
        ("runs -k debian-newest --json runs.json", "runs of one kernel, also as JSON"),
    ),
    "missing-fixes": (
        ("missing-fixes", "fixes that each kernel lacks"),
        ("missing-fixes debian-6.1 --json fixes.json", "fixes that one kernel lacks, also as JSON"),
    ),
    "config": (("config | vng --kconfig --config -", "configure a kernel tree"),),
    "prepare": (
        ("prepare -k 'debian-*'", "download now, boot later"),
        ("prepare --shard 2/8", "the kernels of one shard"),
    ),
    "list": (
        ("list kernels", "the kernels of ./kernels.yaml"),
        ("list checks", "every check, with the property that it verifies"),
        ("list capabilities", "the names that `expect` takes"),
        ("list fixes", "the fixes that the checks can detect"),
    ),
    "doctor": (
        ("doctor", "tools that this host lacks, and how much is stored"),
        ("doctor --fleet tls://lab:8786 --fleet-certificates certs", "what each worker can test"),
    ),
    "fleet": (
        ("fleet certificates certs", "a CA and certificates for one fleet"),
        ("fleet certificates certs --days 90", "certificates that expire after 90 days"),
    ),
    "selftest": (
        ("selftest", "every fault, on the newest good kernel"),
        ("selftest --only panic,hang --kernel debian-6.1", "two faults on one kernel"),
    ),
    "prune": (
        ("prune --dry-run", "list what would be removed"),
        ("prune --keep 2w", "remove what was not used for two weeks"),
    ),
}
#: Commands whose exit statuses differ from those in the top-level help.
STATUSES = {
    "bisect": "0 a kernel, a range, the commit or the map is found; 1 no answer: the ends do not "
    "differ, are swapped, or the evidence contradicts itself; 2 wrong arguments or manifest; 3 an "
    "end could not be tested, or another harness runs the same bisect; 130 interrupted, and the "
    "same command continues, as does --resume",
    "step": "as git bisect run reads it: 0 good; 1 bad; 125 this commit cannot be tested; 128 or "
    "more stop",
    "nightly": "0 no new failure, and everything was tested; 1 a new failure, or the selftest "
    "missed a fault; 2 wrong arguments or manifest; 3 something could not be "
    "tested, another nightly runs, or the notification or the mail failed; 130 interrupted",
    "replay": "0 the failure was not reproduced, and nothing else failed; 1 a boot failed; 2 not a "
    "valid bundle, or a wrong argument; 3 too little was learned; 130 interrupted",
    "compare": "0 nothing is worse; 1 something is worse; 2 there is no such run; 3 something "
    "could not be compared",
}


def epilog(command: str) -> str:
    """The examples of ``command``, and its exit statuses if they differ from the usual ones."""
    lines = [(f"  mptcp-harness {line}", what) for line, what in EXAMPLES[command]]
    width = max(len(line) for line, _ in lines)
    text = "examples:\n" + "\n".join(f"{line:{width}}  {what}" for line, what in lines)
    if command in STATUSES:
        text += "\n\n" + textwrap.fill(f"exit status: {STATUSES[command]}", 92)
    return text
