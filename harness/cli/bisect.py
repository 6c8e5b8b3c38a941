# SPDX-License-Identifier: GPL-2.0-only
"""``bisect``: the kernel that broke something, or every change along a series."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from harness.bisect import bisection, candidates, commits, compatibility, predicate
from harness.bisect.candidates import Series, between, whole
from harness.bisect.commit_search import Onward
from harness.cli import arguments
from harness.cli.common import (
    check_fingerprint,
    check_pattern,
    check_writable,
    families,
    fleet_of,
    listener,
    matching_checks,
    profile_of,
    say,
    stopping,
    write,
)
from harness.errors import HostError, UsageError
from harness.host.files import write_atomically
from harness.kernels import Cache, gitref
from harness.manifest import kernels_yaml
from harness.manifest.plan import Plan
from harness.report import bisect as report
from harness.report import terminal
from harness.run import shards
from harness.run.request import RunRequest
from harness.run.workspace import store_place
from harness.verdict.verdicts import EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED, EXIT_OK, Family


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
    command.add_argument(
        "--repo",
        type=_clone,
        metavar="CLONE",
        help="continue in git, between the two neighbouring kernels, and find the commit; CLONE is "
        "a clone of Linux with the tags of their versions, which is only read, or an address, "
        "which is cloned once",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="continue the last unfinished bisect with its arguments; give no others, except -j, "
        "--json and --output",
    )
    arguments.add_shard(command, "of the series, with --boundaries")
    arguments.add_resources(command)
    arguments.add_fleet(command)
    command.add_argument(
        "--confirm",
        type=arguments.Number(0, 1000),
        default=0,
        metavar="N",
        help="boot each kernel N more times, for an intermittent failure (default: 0)",
    )
    command.add_argument(
        "--family", type=Family, choices=list(Family), help="one address family (default: both)"
    )
    command.add_argument(
        "--seed", type=arguments.Number(0, (1 << 63) - 1), metavar="N", help="seed of the payloads"
    )
    arguments.add_profile(command, "quick if --check names only its checks, otherwise full")
    command.add_argument(
        "--fresh", action="store_true", help="start again instead of continuing an earlier bisect"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the result to FILE")
    arguments.add_output(command)
    command.set_defaults(parser=command)


def _clone(text: str) -> str:
    """An address, or an absolute path."""
    if not text:
        raise argparse.ArgumentTypeError("give the path or the address of a clone of Linux")
    return text if "://" in text else str(Path(text).absolute())


def run_bisect(given: argparse.Namespace) -> int:
    """Search, and print the answer."""
    check_writable(given.json)
    if given.resume:
        given = _resumed(given)
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
    if status not in (EXIT_INTERRUPTED, EXIT_INFRASTRUCTURE):
        _unfinished(given).unlink(missing_ok=True)
    sys.stdout.write(text)
    sys.stdout.flush()
    if given.json is not None:
        remedy = "repeat the command with another file; it boots nothing again"
        write("--json", given.json, data, remedy)
    return status


#: In the state directory: the arguments of the last bisect until it ends.
UNFINISHED = "bisect.unfinished"
#: Options that each command has for itself.
_OWN = ("resume", "fresh", "json", "output")


def _unfinished(given: argparse.Namespace) -> Path:
    return store_place(given.output).with_name(UNFINISHED)


def _begin(given: argparse.Namespace) -> None:
    """Note the arguments for --resume; they were found to be right."""
    note = _unfinished(given)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps(arguments.words(given.parser, given, but=_OWN)))


def _resumed(given: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the unfinished bisect, with the jobs and outputs that are ``given``."""
    defaults = given.parser.parse_args([])
    but = (*_OWN, "jobs", "cache", *(["manifest"] if given.manifest == defaults.manifest else []))
    extra = arguments.words(given.parser, given, but=but)
    if extra:
        raise UsageError(f"--resume repeats the arguments of the last bisect; omit {extra[0]}")
    note = _unfinished(given)
    try:
        words = json.loads(note.read_text(encoding="utf-8"))
        resumed: argparse.Namespace = given.parser.parse_args(words)
    except FileNotFoundError:
        raise UsageError(
            "nothing to resume: the last bisect ended; omit --resume to start one"
        ) from None
    except (OSError, ValueError, TypeError, SystemExit) as error:
        raise UsageError(
            f"{note} cannot be read ({error}); repeat the command without --resume"
        ) from error
    for name in ("json", "output", "jobs", "cache"):
        if getattr(given, name) != getattr(defaults, name):
            setattr(resumed, name, getattr(given, name))
    say(f"continuing: mptcp-harness bisect {shlex.join(words)}")
    return resumed


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
        onward = _onward(given.repo, cache)
        series = candidates.between(entries, given.good, given.bad, cache, say)
        _begin(given)
        asking = (series, wanted, request, cache, listener, say, changes, stop)
        found = bisection.bisect(*asking, fresh=given.fresh, onward=onward)
    return (
        report.render(found),
        json.dumps(report.to_json(found), indent=1) + "\n",
        found.exit_status,
    )


def _onward(repo: str | None, cache: Cache) -> Onward | None:
    """The clone that --repo names; that it is one of Linux shows before anything is booted."""
    if repo is None:
        return None
    is_address = "://" in repo
    if not is_address and not Path(repo).is_dir():
        raise UsageError(f"--repo {repo}: there is no such directory; give a clone of Linux")
    try:
        gitref.check_clone(repo, cache, say)
    except HostError as error:
        if is_address:  # the network may have failed
            raise
        raise UsageError(f"--repo {repo}: {error}") from error
    return Onward(repo)


def _boundaries(
    given: argparse.Namespace, request: RunRequest, cache: Cache
) -> tuple[str, str, int]:
    """Map the changes from --good to --bad, or along all kernels of the manifest.

    Returns the text to print, the same as JSON, and the exit status.
    """
    if given.repo is not None:
        raise UsageError(
            "--repo finds the commit of one change, and --boundaries finds all changes; "
            "omit one of the two"
        )
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
        _begin(given)
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
