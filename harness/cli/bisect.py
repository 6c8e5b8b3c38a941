# SPDX-License-Identifier: GPL-2.0-only
"""``bisect``: the kernel that broke something, or every change along a series. ``step``: one commit
of a kernel tree, for ``git bisect run``."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.bisect import bisection, candidates, commits, compatibility, predicate
from harness.bisect.candidates import Series, between, whole
from harness.bisect.predicate import Outcome
from harness.cli import arguments
from harness.cli.common import (
    all_names,
    check_fingerprint,
    check_writable,
    complain,
    families,
    fleet_of,
    globs,
    listener,
    matching_checks,
    profile_of,
    say,
    stopping,
    write,
)
from harness.errors import Interrupted, KernelUnavailable, UsageError
from harness.host import tools
from harness.kernels import Cache, kconfig
from harness.kernels.build import Recipe
from harness.manifest import kernels_yaml
from harness.manifest.plan import Plan, Profile
from harness.report import bisect as report
from harness.report import terminal
from harness.report.plain import PlainProgress
from harness.run import shards
from harness.run.request import RunRequest
from harness.step.step import Step, StepAnswer, StepRequest
from harness.text import printable
from harness.verdict.verdicts import EXIT_INTERRUPTED, EXIT_OK, Family


def add_bisect(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "bisect", run_bisect)
    arguments.add_manifest(command)
    command.add_argument(
        "--good",
        "--from",
        metavar="NAME",
        help="a good kernel; with --boundaries, one end of the series",
    )
    command.add_argument(
        "--bad",
        "--to",
        metavar="NAME",
        help="a bad kernel, which may be the older one; with --boundaries, the other end",
    )
    arguments.add_predicate(
        command, "the checks that fail on the bad kernel and pass on the good one"
    )
    command.add_argument(
        "--boundaries",
        action="store_true",
        help="find where each check and capability changed, along all kernels or between the two",
    )
    arguments.add_shard(command, "of the series, with --boundaries")
    arguments.add_resources(command)
    arguments.add_fleet(command)
    command.add_argument(
        "--confirm",
        type=arguments.Number(0, 1000),
        default=0,
        metavar="N",
        help="boot each kernel N more times, for a failure that comes and goes",
    )
    command.add_argument(
        "--family", type=Family, choices=list(Family), help="one address family (default: both)"
    )
    command.add_argument(
        "--seed", type=arguments.Number(0, (1 << 63) - 1), metavar="N", help="seed of the payloads"
    )
    arguments.add_profile(command, "quick if --check names only its checks, otherwise full")
    command.add_argument("--fresh", action="store_true", help="do not continue an earlier bisect")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the result to FILE")
    arguments.add_output(command)


def run_bisect(given: argparse.Namespace) -> int:
    """Search, and print the answer."""
    check_writable(given.json)
    request = RunRequest(
        plan=Plan(families(given), profile=profile_of(given), seed=given.seed),
        jobs=given.jobs,
        accel=given.accel,
        output=given.output,
        confirm=given.confirm,
        manifest=given.manifest,
        fleet=fleet_of(given),
    )
    if given.shard is not None and not given.boundaries:
        raise UsageError(
            "--shard divides the kernels of --boundaries; a search for one change boots one kernel "
            "after another, so omit it"
        )
    search = _boundaries if given.boundaries else _search
    text, data, status = search(given, request, Cache(given.cache))
    sys.stdout.write(text)
    sys.stdout.flush()
    if given.json is not None:
        remedy = "repeat the command with another file; it boots nothing again"
        write("--json", given.json, data, remedy)
    return status


def _search(given: argparse.Namespace, request: RunRequest, cache: Cache) -> tuple[str, str, int]:
    """Returns the text to print, the same as JSON, and the exit status."""
    if given.good is None or given.bad is None:
        raise UsageError("--good and --bad must both name a kernel")
    entries = kernels_yaml.load(given.manifest).entries
    check_pattern(given.check, profile_of(given))
    check_fingerprint(given.incident)
    wanted = predicate.of(check=given.check, incident=given.incident, anything=given.any)
    changes = commits.teller(cache, say)
    with stopping(cache.stop) as stop:
        series = candidates.between(entries, given.good, given.bad, cache, say)
        found = bisection.bisect(
            series, wanted, request, cache, listener, say, changes, stop, fresh=given.fresh
        )
    return (
        report.render(found),
        json.dumps(report.to_json(found), indent=1) + "\n",
        found.exit_status,
    )


def check_pattern(pattern: str | None, profile: Profile) -> None:
    """Raise UsageError if a part of ``pattern`` matches no check or capability of the
    ``profile``."""
    known = all_names(profile)
    of = "" if profile is Profile.FULL else f" of the profile {profile}"
    for glob in globs(pattern) if pattern is not None else ():
        if not fnmatch.filter(known, glob):
            raise UsageError(
                f"--check {glob!r} matches no check{of} and no capability.NAME; `mptcp-harness "
                "list checks` and `mptcp-harness list capabilities` show them"
            )


def _boundaries(
    given: argparse.Namespace, request: RunRequest, cache: Cache
) -> tuple[str, str, int]:
    """Map the changes from --good to --bad, or along all kernels of the manifest.

    Returns the text to print, the same as JSON, and the exit status.
    """
    if given.any or given.incident is not None or given.confirm:
        raise UsageError(
            "--boundaries looks for all changes with one boot of each kernel; omit --any, "
            "--incident and --confirm"
        )
    plan = request.plan
    plan = replace(plan, checks=matching_checks(given.check, plan.profile, plan.families))
    request = replace(request, plan=plan)
    with stopping(cache.stop) as stop:
        series = _series(given, cache)
        if given.shard is not None:
            ours = tuple(shards.stretch(series.candidates, given.shard))
            say(f"shard {given.shard}: {ours[0].entry.name} to {ours[-1].entry.name}")
            series = replace(series, candidates=ours)
        found = compatibility.draw(
            series.candidates,
            request,
            cache,
            say,
            listener,
            stop,
            fresh=given.fresh,
            notes=series.notes,
        )
    glyphs = terminal.glyphs_for(sys.stdout)
    return report.render_map(found, glyphs), report.map_to_json(found), EXIT_OK


def _series(given: argparse.Namespace, cache: Cache) -> Series:
    entries = kernels_yaml.load(given.manifest).entries
    if (given.good is None) != (given.bad is None):
        raise UsageError(
            "--boundaries needs both ends, --good NAME and --bad NAME, or neither for all kernels "
            "of the manifest"
        )
    if given.good is None:
        return whole(entries, cache, say)
    return between(entries, given.good, given.bad, cache, say)


#: git reads 0 as good, 125 as untestable and any other status below 128 as bad; it stops at the
#: rest.
EXIT = {Outcome.GOOD: 0, Outcome.BAD: 1, Outcome.UNTESTABLE: 125}
EXIT_STOP = 128
#: The first word of the last line.
WORD = {Outcome.GOOD: "good", Outcome.BAD: "bad", Outcome.UNTESTABLE: "skip"}


def add_step(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "step", run_step)
    arguments.add_predicate(command)
    command.add_argument(
        "--patch",
        dest="patches",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="apply FILE to the copy that is built; may be given several times",
    )
    command.add_argument(
        "--config",
        dest="fragments",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a .config, or some of its lines; they override those of `mptcp-harness config`",
    )
    command.add_argument(
        "--confirm",
        type=arguments.Number(0, 1000),
        default=0,
        metavar="N",
        help="boot a good commit N more times, for a failure that comes and goes",
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


def run_step(given: argparse.Namespace) -> int:
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


def for_git(run: Callable[[], int]) -> int:
    """The exit status of ``run``, or one at which git stops: a fault of the harness is not
    "bad"."""
    try:
        status = run()
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
