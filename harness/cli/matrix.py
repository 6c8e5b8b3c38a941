# SPDX-License-Identifier: GPL-2.0-only
"""``matrix``: the kernels of a manifest. ``check``: one image, alone or compared with another
kernel (against.py); or a shell in its guest (shell.py).
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness import bundle, kernels
from harness.cli import arguments, ci
from harness.cli.common import (
    STDOUT,
    Sharded,
    check_writable,
    chosen,
    colourful,
    divided,
    families,
    fleet_of,
    listener,
    matching_checks,
    profile_of,
    say,
    sharded,
    stopping,
    width,
    write,
)
from harness.errors import UsageError
from harness.host.architectures import ARCHITECTURES, HOST, Arch
from harness.kernels import Cache
from harness.manifest import cross_check
from harness.manifest.entries import Abi, KernelEntry
from harness.manifest.plan import Plan
from harness.records import stored_runs
from harness.run import session, workspace
from harness.run.request import Listener, Progress, RunRequest, Stage
from harness.text import printable
from harness.verdict.results import RunResult, Shard, exit_status
from harness.verdict.rounds import MOST, Repeat
from harness.verdict.verdicts import EXIT_OK

#: The module of the table, which brings rich: 0.06 s that a user would wait for at the end.
_TABLE = "harness.report.table"


def add_matrix(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "matrix", run_matrix)
    arguments.add_manifest(command)
    arguments.add_selection(command)
    arguments.add_run_options(command, "?")
    arguments.add_shard(command)
    arguments.add_durations(command)
    command.add_argument(
        "--list-shards",
        type=arguments.Number(1, 99999),
        metavar="N",
        help="boot nothing; print the kernels of each of N shards, with --json as JSON",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="continue the last interrupted run with the same manifest and settings: boot only "
        "kernels without a result",
    )


def run_matrix(given: argparse.Namespace) -> int:
    """Test the manifest's kernels."""
    cache = Cache(given.cache)
    entries = with_abi(chosen(given, cache), given)
    if given.list_shards is not None:
        return _list_shards(entries, given)
    return test(sharded(entries, given), given, cache)


def _list_shards(entries: list[KernelEntry], given: argparse.Namespace) -> int:
    """Print the shards; their JSON is a list that GitHub takes as ``matrix.include``."""
    if given.shard is not None:
        raise UsageError("--list-shards prints all shards: omit --shard")
    parts = divided(entries, given, given.list_shards)
    data = [
        {"shard": str(part.shard), "kernels": part.kernels, "seconds": part.seconds}
        for part in parts
    ]
    if given.json is None:
        for part in parts:
            took = f"  {part.seconds:.0f} s" if part.seconds else ""
            say(f"{part.shard!s:8} {', '.join(part.kernels) or 'no kernel'}{took}")
    elif given.json == STDOUT:
        print(json.dumps(data))
    else:
        write("--json", given.json, json.dumps(data, indent=1) + "\n")
    return EXIT_OK


def test(chosen: Sharded, given: argparse.Namespace, cache: Cache) -> int:
    with ci.no_commands():
        run = run_tests(chosen.entries, given, cache, chosen.shard)
        show(run, given.json)
    return finish(run, given)


def finish(run: RunResult, given: argparse.Namespace) -> int:
    """Write what is asked for beside the table of ``run``; returns the exit status."""
    write_page(run, given)
    ci.report_run(run)
    return exit_status(run)


def write_page(run: RunResult, given: argparse.Namespace) -> None:
    if given.html is not None:
        from harness.cli import pages  # not for every run: it takes 0.1 s

        pages.write_run(run, workspace.store_place(given.output), given.html)


def with_abi(entries: Sequence[KernelEntry], given: argparse.Namespace) -> list[KernelEntry]:
    """``entries`` with the user space of --abi.

    Raises UsageError for options that not all architectures have.
    """
    abi = {Abi.I386: "--abi i386 needs kernels for amd64"}.get(given.abi, "")
    other = f"--cross-check runs a program of {ARCHITECTURES[HOST].name}" * bool(given.cross_check)
    for entry in entries:
        why = abi if entry.arch is not Arch.AMD64 else ""
        why = why or (other if entry.arch is not HOST else "")
        if why:
            raise UsageError(
                f"{why}, but {entry.name} is for {entry.arch}; omit the option, or choose kernels "
                "with -k"
            )
    return [replace(entry, abi=given.abi or entry.abi) for entry in entries]


def run_tests(
    entries: Sequence[KernelEntry],
    given: argparse.Namespace,
    cache: Cache,
    shard: Shard | None = None,
) -> RunResult:
    """Run the tests, showing only their progress."""
    entries = with_abi(entries, given)
    profile = profile_of(given)
    request = RunRequest(
        plan=Plan(
            families=families(given),
            checks=matching_checks(given.check, profile, families(given)),
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
        shard=shard,
        fleet=fleet_of(given),
    )
    check_writable(given.json)
    check_writable(given.html, "--html")
    names = [entry.name for entry in entries]
    with stopping(cache.stop) as stop, listener(names) as listening:
        return session.run(entries, request, cache, _importing(listening), stop)


def _importing(listening: Listener) -> Listener:
    """``listening``, which imports what shows the results while the first VM runs."""
    begun = threading.Event()

    def listen(progress: Progress) -> None:
        if progress.stage is Stage.CHECKING and not begun.is_set():
            begun.set()
            threading.Thread(target=importlib.import_module, args=[_TABLE]).start()
        listening(progress)

    return listen


def _repeat(given: argparse.Namespace) -> Repeat:
    endless = given.until_fail or given.duration is not None
    if endless and given.repeat == 1:
        raise UsageError("--repeat 1 repeats nothing; omit it, or give a larger number")
    rounds = given.repeat or (MOST if endless else 1)
    return Repeat(rounds, given.until_fail, given.duration)


def show(run: RunResult, json_file: Path | None) -> None:
    from harness.report import table, terminal  # not before the boots, for they bring rich

    glyphs = terminal.glyphs_for(sys.stdout)
    text = table.render(run, width=width(), colour=colourful(), unicode=glyphs.unicode)
    try:
        sys.stdout.write(text + _replays(run))
        sys.stdout.flush()
    finally:
        if json_file is not None:
            copy_record(Path(run.directory, stored_runs.RECORD), json_file)


def _replays(run: RunResult, most: int = 3) -> str:
    """The commands that replay failed kernels, at most ``most``."""
    places = [bundle.place(Path(run.directory), kernel.name) for kernel in run.kernels]
    found = [place for place in places if place.is_file()]
    commands = [shlex.join(["mptcp-harness", "replay", str(place)]) for place in found[:most]]
    return "".join(f"to replay: {printable(command)}\n" for command in commands)


def copy_record(record: Path, target: Path, more: str = "") -> None:
    """Copy ``record`` to the user's file ``target``, with the JSON members ``more`` appended."""
    # The record is not composed again: for sixty kernels that takes half a second.
    text = record.read_text(encoding="utf-8")
    if more:
        text = f"{text.rstrip().removesuffix('}').rstrip()},\n {more}\n}}\n"
    write("--json", target, text, f"the same record is in {record}")


def add_check(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "check", run_check)
    command.add_argument(
        "image",
        type=Path,
        nargs="?",
        default=Path(),
        help="a bzImage, vmlinux or UKI; a kernel's .deb, .rpm or tar archive; a built tree or the "
        "directory of a build with O= (default: the current directory)",
    )
    command.add_argument(
        "--modules",
        type=Path,
        metavar="DIR",
        help="a built tree, or a directory with lib/modules (default: found beside the image)",
    )
    command.add_argument(
        "--arch",
        type=Arch,
        choices=list(Arch),
        default=HOST,
        help="architecture of the image (default: %(default)s, this host's); others are emulated",
    )
    _add_against(command)
    command.add_argument(
        "--shell",
        action="store_true",
        help="open a shell in the same guest, on this terminal, instead of running the checks",
    )
    arguments.add_run_options(command)
    command.set_defaults(manifest=None, resume=False)


def run_check(given: argparse.Namespace) -> int:
    """Test one image."""
    entry = kernels.for_path(given.image, given.modules, given.arch)
    cache = Cache(given.cache)
    if given.shell:
        from harness.cli import shell  # each of them has its own modules

        return shell.run(entry, given, cache)
    if given.against is not None:
        from harness.cli import against

        return against.run_against(entry, given, cache)
    return test(Sharded([entry]), given, cache)


def _add_against(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--against",
        metavar="NAME",
        help="show only what differs from a kernel of the manifest, another image, or a stored run "
        "(its id, RUN:KERNEL, or 'last')",
    )
    command.add_argument(
        "--manifest",
        dest="kernels_of",
        type=Path,
        metavar="FILE",
        help="manifest with kernels for --against (default: ./kernels.yaml, if it exists)",
    )
