# SPDX-License-Identifier: GPL-2.0-only
"""``step``: one commit of a kernel tree, for ``git bisect run``."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from harness.bisect import predicate
from harness.bisect.predicate import Outcome
from harness.cli import arguments
from harness.cli.common import (
    check_fingerprint,
    check_pattern,
    complain,
    families,
    profile_of,
    stopping,
)
from harness.errors import Interrupted, KernelUnavailable, UsageError
from harness.host import tools
from harness.kernels import Cache, kconfig
from harness.kernels.build import Recipe
from harness.manifest.plan import Plan
from harness.report.plain import PlainProgress
from harness.run.request import RunRequest
from harness.step.step import Step, StepAnswer, StepRequest
from harness.text import printable
from harness.verdict.verdicts import EXIT_INTERRUPTED, Family

#: git reads 0 as good, 125 as untestable and any other status below 128 as bad; it stops at the
#: rest.
EXIT = {Outcome.GOOD: 0, Outcome.BAD: 1, Outcome.UNTESTABLE: 125}
EXIT_STOP = 128
#: The first word of the last line.
WORD = {Outcome.GOOD: "good", Outcome.BAD: "bad", Outcome.UNTESTABLE: "skip"}


def add(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "step", run)
    arguments.add_predicate(command)
    command.add_argument(
        "--patch",
        dest="patches",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="apply FILE to the copy of the tree that is built; may be given several times",
    )
    command.add_argument(
        "--config",
        dest="fragments",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a .config, or lines of one; they override those of `mptcp-harness config`; may be "
        "given several times",
    )
    command.add_argument(
        "--confirm",
        type=arguments.Number(0, 1000),
        default=0,
        metavar="N",
        help="boot a good commit N more times, for an intermittent failure (default: 0)",
    )
    command.add_argument(
        "--save", type=Path, metavar="FILE", help="copy the image to FILE, for `check`"
    )
    command.add_argument(
        "--fresh", action="store_true", help="build and boot the commit even if its result is known"
    )
    command.add_argument(
        "--family", type=Family, choices=list(Family), help="one address family (default: both)"
    )
    command.add_argument(
        "--seed", type=arguments.Number(0, (1 << 63) - 1), metavar="N", help="seed of the payloads"
    )
    arguments.add_profile(command, "quick if --check names only its checks, otherwise full")
    arguments.add_resources(command)


def run(given: argparse.Namespace) -> int:
    """Judge the commit that is checked out; the last line of output is the answer."""
    cache = Cache(given.cache)
    request = _request(given)
    progress = PlainProgress(sys.stdout, time.monotonic)
    with stopping(cache.stop) as stop, progress.ticking():
        try:
            answer = Step(Path.cwd(), request, cache, progress.line, progress, stop).run()
        except (Interrupted, KernelUnavailable) as error:
            if not stop.is_set():
                raise
            complain(f"interrupted: {error}")
            return EXIT_INTERRUPTED
    _show(answer)
    return EXIT[answer.outcome]


def for_git(command: Callable[[], int]) -> int:
    """The exit status of ``command``, or one at which git stops: a fault of the harness is not
    "bad"."""
    try:
        status = command()
    except SystemExit as end:  # wrong arguments, or --help
        return EXIT_STOP if end.code else 0
    except Exception:
        complain(traceback.format_exc())
        return EXIT_STOP
    return status if status in EXIT.values() or status >= EXIT_STOP else EXIT_STOP


def _request(given: argparse.Namespace) -> StepRequest:
    check_pattern(given.check, profile_of(given))
    check_fingerprint(given.incident)
    wanted = predicate.of(check=given.check, incident=given.incident, anything=given.any)
    assert wanted is not None, "the parser requires one"
    for path in given.patches:
        if not path.is_file():
            raise UsageError(f"--patch {path}: there is no such file")
    return StepRequest(
        predicate=wanted,
        recipe=Recipe(
            (kconfig.fragment(), *map(_read, given.fragments)), given.jobs or tools.processors()
        ),
        boots=RunRequest(
            Plan(families(given), profile=profile_of(given), seed=given.seed),
            jobs=1,
            accel=given.accel,
        ),
        patches=tuple(path.absolute() for path in given.patches),
        confirm=given.confirm,
        fresh=given.fresh,
        save=given.save,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: cannot be read ({error})") from error


def _show(answer: StepAnswer) -> None:
    for line in f"{WORD[answer.outcome]}: {answer.commit}: {answer.why}".splitlines():
        print(printable(line), flush=True)
