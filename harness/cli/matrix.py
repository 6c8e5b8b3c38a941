# SPDX-License-Identifier: GPL-2.0-only
"""``matrix``: the kernels of a manifest; and a run of tests, as other commands make it too."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness import bundle
from harness.cli import arguments
from harness.cli.common import (
    check_writable,
    chosen,
    colourful,
    families,
    listener,
    matching_checks,
    profile_of,
    stopping,
    width,
    write,
)
from harness.errors import UsageError
from harness.kernels import Cache
from harness.manifest import cross_check
from harness.manifest.kernels_yaml import KernelEntry
from harness.manifest.plan import Plan
from harness.records import stored_runs
from harness.report import table, terminal
from harness.run import session
from harness.run.request import RunRequest
from harness.text import printable
from harness.verdict.results import RunResult, exit_status
from harness.verdict.rounds import MOST, Repeat


def add(commands: arguments.Commands) -> None:
    command = arguments.command(
        commands, "matrix", "boot and check every kernel of a manifest", run
    )
    arguments.add_manifest(command)
    arguments.add_selection(command)
    arguments.add_run_options(command)
    command.add_argument(
        "--resume",
        action="store_true",
        help="continue the last interrupted run with the same manifest and settings: boot only "
        "kernels without a result",
    )


def run(given: argparse.Namespace) -> int:
    """Test the manifest's kernels."""
    cache = Cache(given.cache)
    return test(chosen(given, cache), given, cache)


def test(entries: Sequence[KernelEntry], given: argparse.Namespace, cache: Cache) -> int:
    run = run_tests(entries, given, cache)
    show(run, given.json)
    return exit_status(run)


def run_tests(entries: Sequence[KernelEntry], given: argparse.Namespace, cache: Cache) -> RunResult:
    """Run the tests, and show nothing but their progress."""
    if given.abi is not None:
        entries = [replace(entry, abi=given.abi) for entry in entries]
    profile = profile_of(given)
    request = RunRequest(
        plan=Plan(
            families=families(given),
            checks=matching_checks(given.check, profile),
            profile=profile,
            payload=given.payload,
            repeat=_repeat(given),
            seed=given.seed,
            programs=cross_check.find(given.cross_check),
        ),
        jobs=given.jobs,
        accel=given.accel,
        output=given.output,
        reuse=given.reuse,
        resume=given.resume,
        confirm=given.confirm,
        manifest=given.manifest,
        bundle_image=given.bundle_image,
    )
    check_writable(given.json)
    names = [entry.name for entry in entries]
    with stopping(cache.stop) as stop, listener(names) as listening:
        return session.run(entries, request, cache, listening, stop)


def _repeat(given: argparse.Namespace) -> Repeat:
    endless = given.until_fail or given.duration is not None
    if endless and given.repeat == 1:
        raise UsageError("--repeat 1 repeats nothing; leave it out, or give a larger number")
    rounds = given.repeat or (MOST if endless else 1)
    return Repeat(rounds, given.until_fail, given.duration)


def show(run: RunResult, json_file: Path | None) -> None:
    glyphs = terminal.glyphs_for(sys.stdout)
    text = table.render(run, width=width(), colour=colourful(), unicode=glyphs.unicode)
    try:
        sys.stdout.write(text + _replays(run))
        sys.stdout.flush()
    finally:
        if json_file is not None:
            copy_record(Path(run.directory, stored_runs.RECORD), json_file)


def _replays(run: RunResult, most: int = 3) -> str:
    """The commands that boot kernels which failed again, of ``most`` of them."""
    places = [bundle.place(Path(run.directory), kernel.name) for kernel in run.kernels]
    found = [place for place in places if place.is_file()]
    commands = [shlex.join(["mptcp-harness", "replay", str(place)]) for place in found[:most]]
    return "".join(f"again: {printable(command)}\n" for command in commands)


def copy_record(record: Path, target: Path, more: str = "") -> None:
    """``record`` under the user's own name, with the members ``more`` of JSON at its end."""
    # Not composed again: of sixty kernels that takes half a second.
    text = record.read_text(encoding="utf-8")
    if more:
        text = f"{text.rstrip().removesuffix('}').rstrip()},\n {more}\n}}\n"
    write("--json", target, text, f"the same is in {record}")
