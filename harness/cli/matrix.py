# SPDX-License-Identifier: GPL-2.0-only
"""``matrix``: the kernels of a manifest. ``check``: one image, alone or compared with another
kernel; or a shell in its guest.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import shlex
import shutil
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import bundle, kernels
from harness.cli import arguments, ci
from harness.cli.common import (
    STDOUT,
    Sharded,
    check_writable,
    chosen,
    colourful,
    complain,
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
from harness.errors import HostError, UsageError
from harness.host.architectures import ARCHITECTURES, HOST, Arch
from harness.kernels import Cache
from harness.manifest import cross_check, kernels_yaml
from harness.manifest.kernels_yaml import KernelEntry
from harness.manifest.plan import Plan
from harness.manifest.schema import Abi
from harness.records import stored_runs, to_json
from harness.records.from_json import COMPARISON
from harness.report import compare as report
from harness.report import table, terminal
from harness.run import session, workspace
from harness.run.request import RunRequest
from harness.text import printable
from harness.verdict import comparison
from harness.verdict.comparison import Difference
from harness.verdict.results import KernelResult, RunResult, Shard, exit_status
from harness.verdict.rounds import MOST, Repeat
from harness.verdict.verdicts import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    KernelVerdict,
)
from harness.vm import shell
from harness.vm.commandline import Unsafe


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
    _write_page(run, given)
    ci.report_run(run)
    return exit_status(run)


def _write_page(run: RunResult, given: argparse.Namespace) -> None:
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
        return session.run(entries, request, cache, listening, stop)


def _repeat(given: argparse.Namespace) -> Repeat:
    endless = given.until_fail or given.duration is not None
    if endless and given.repeat == 1:
        raise UsageError("--repeat 1 repeats nothing; omit it, or give a larger number")
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
        return run_shell(entry, given, cache)
    if given.against is not None:
        return run_against(entry, given, cache)
    return test(Sharded([entry]), given, cache)


DEFAULT_MANIFEST = Path("kernels.yaml")


@dataclass(frozen=True)
class Reference:
    """What the image is compared with: a ``kernel`` tested beside it, or a stored ``result``."""

    what: str  # for people
    kernel: KernelEntry | None = None
    result: KernelResult | None = None


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


def run_against(entry: KernelEntry, given: argparse.Namespace, cache: Cache) -> int:
    """Test ``entry``, and what it is compared with unless that is stored."""
    with ci.no_commands():
        status, run = _run_against(entry, given, cache)
    ci.report_run(run)
    return status


def _run_against(
    entry: KernelEntry, given: argparse.Namespace, cache: Cache
) -> tuple[int, RunResult]:
    reference = resolve(given.against, entry, given.kernels_of, cache)
    print(f"against {printable(reference.what)}", flush=True)
    entries = [entry] if reference.kernel is None else [reference.kernel, entry]
    run = run_tests(entries, given, cache)
    found = {kernel.name: kernel for kernel in run.kernels}
    before = reference.result
    if reference.kernel is not None:
        before = found.get(reference.kernel.name)
    after = found.get(entry.name)
    if before is None or after is None:
        show(run, given.json)
        complain("interrupted before both kernels were tested; nothing was compared")
        return EXIT_INTERRUPTED, run
    difference = comparison.kernels(before, after)
    _show_difference(run, difference)
    if given.json is not None:
        more = json.dumps({COMPARISON: to_json.clean(report.to_json(difference))})[1:-1]
        copy_record(Path(run.directory, stored_runs.RECORD), given.json, more)
    _write_page(run, given)
    return EXIT_INTERRUPTED if run.interrupted else difference_status(difference), run


def difference_status(difference: Difference) -> int:
    """The exit status; the image's own verdict outweighs that it could not be compared."""
    after = difference.after.verdict
    if after is KernelVerdict.INFRASTRUCTURE:
        return EXIT_INFRASTRUCTURE
    if difference.is_worse or not after.as_expected:
        return EXIT_FAILED
    return EXIT_INFRASTRUCTURE if difference.cannot else EXIT_OK


def _show_difference(run: RunResult, difference: Difference) -> None:
    glyphs = terminal.glyphs_for(sys.stdout)
    if difference.cannot:
        show(run, None)  # the table's details say what went wrong
    print(report.render(difference, glyphs), end="")
    if not difference.cannot:
        for note in run.notes:
            print(f"note: {glyphs.safe(note, 1024)}")
        print(f"seed {run.seed}, results in {glyphs.safe(run.directory, 4096)}", flush=True)


def resolve(word: str, entry: KernelEntry, file: Path | None, cache: Cache) -> Reference:
    """What ``word`` names: a kernel of the manifest, else a path, else a stored run."""
    if file is None and DEFAULT_MANIFEST.is_file():
        file = DEFAULT_MANIFEST
    entries = kernels_yaml.load(file).entries if file is not None else ()
    path = Path(word)
    if (kernel := _of_manifest(word, entries, cache)) is not None:
        other = f"; not the file {path}, which is ./{path}" if path.is_file() else ""
        return Reference(f"the kernel {word} of {file}{other}", _apart(kernel, entry))
    if path.is_file() and path.suffix != ".json":
        image = kernels.for_path(path, arch=entry.arch)
        return Reference(f"the image {path}", _apart(image, entry))
    return _of_run(word, entry, [kernel.name for kernel in entries], file)


def _of_manifest(word: str, entries: Sequence[KernelEntry], cache: Cache) -> KernelEntry | None:
    for kernel in entries:
        if kernel.name == word and kernel.is_series:
            raise UsageError(
                f"--against {word}: this is a series of kernels; name one of them (`mptcp-harness "
                f"list kernels --expand` shows them), or an image"
            )
        if kernel.name == word:
            return kernel
    for series in entries:
        if series.is_series and word.startswith(f"{series.name}-"):
            for kernel in kernels.expand(series, cache):
                if kernel.name == word:
                    return kernel
    return None


def _apart(kernel: KernelEntry, entry: KernelEntry) -> KernelEntry:
    """``kernel`` under a name that differs from that of ``entry``."""
    return replace(kernel, name=f"{kernel.name}-before") if kernel.name == entry.name else kernel


def _of_run(word: str, entry: KernelEntry, names: Sequence[str], file: Path | None) -> Reference:
    name, wanted = word, ""
    if ":" in word and not Path(word).exists():
        name, _, wanted = word.rpartition(":")
    try:
        run = stored_runs.find(name, workspace.store_file())
    except UsageError as error:
        if Path(name).exists():
            raise UsageError(f"--against {word}: {error}") from None
        raise UsageError(_unknown(word, names, file, str(error))) from None
    kept = {kernel.name: kernel for kernel in run.kernels}
    if not wanted and len(kept) == 1:
        wanted = next(iter(kept))
    elif not wanted and entry.name in kept:
        wanted = entry.name
    if wanted not in kept:
        which = f"no kernel {wanted!r}" if wanted else f"{len(kept)} kernels"
        raise UsageError(
            f"--against {word}: run {run.id} has {which}; name one as {name}:KERNEL, of "
            f"{', '.join(list(kept)[:20]) or 'none, for it has no result'}"
        )
    return Reference(f"{wanted} as kept of run {run.id}, {run.started}", result=kept[wanted])


def _unknown(word: str, names: Sequence[str], file: Path | None, why: str) -> str:
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.4)
    of = (
        f"no kernel of {file}" if file else "no kernel, for there is no ./kernels.yaml (--manifest)"
    )
    like = f"; kernels of like name: {', '.join(near)}" if near else ""
    has = f"; it has {', '.join(names)}" if names and not near else ""
    return f"--against {word}: {of}, no file, and {why}{like}{has}"


#: Options of `check` that have no effect with --shell.
_OF_CHECKS = (
    *("against", "repeat", "until_fail", "duration", "check", "family", "seed", "payload"),
    *("confirm", "reuse", "cross_check", "bundle_image", "json", "html", "output"),
)
HOW = f"run the checker with: {shell.CHECKER} (see {shell.CHECKER} --help); leave with: exit"


def run_shell(entry: KernelEntry, given: argparse.Namespace, cache: Cache) -> int:
    """Boot ``entry`` and give the user its console; returns the exit status."""
    idle = [name for name in _OF_CHECKS if getattr(given, name, None) not in (None, False, [])]
    if idle:
        option = {"duration": "for"}.get(idle[0], idle[0].replace("_", "-"))
        raise UsageError(
            f"--shell runs no checks, so --{option} has no effect; omit one of the two"
        )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("--shell needs a terminal; start it from one")
    with stopping(cache.stop) as stop, _plan(entry, given, cache) as plan:
        complain(f"{plan.kernel.release}: {plan.greeting}, poweroff or Ctrl-A x")
        try:
            with _raw(sys.stdin.fileno()):
                shell.run(plan, _terminal(), stop)
        except (HostError, Unsafe) as error:
            complain(f"no shell: {error}")
            return EXIT_INFRASTRUCTURE
        return EXIT_INTERRUPTED if stop.is_set() else EXIT_OK


@contextlib.contextmanager
def _plan(entry: KernelEntry, given: argparse.Namespace, cache: Cache) -> Iterator[shell.ShellPlan]:
    [entry] = with_abi([entry], given)
    with workspace.machinery(entry, cache, given.accel, complain) as found:
        yield shell.ShellPlan(found.kernel, found.base, found.qemu, found.machine, HOW)


def _terminal() -> shell.Terminal:
    columns, rows = shutil.get_terminal_size((80, 24))
    name = os.environ.get("TERM", "vt100")
    return shell.Terminal(sys.stdin.fileno(), sys.stdout.fileno(), rows, columns, name)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Put the terminal into raw mode, and restore it at the end."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        sys.stdout.write("\n")
