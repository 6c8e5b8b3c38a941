# SPDX-License-Identifier: GPL-2.0-only
"""``check --against NAME``: what NAME is, and what differs from it."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import kernels
from harness.cli import testing
from harness.cli.common import complain
from harness.errors import UsageError
from harness.kernels import Cache
from harness.manifest import kernels_yaml
from harness.manifest.kernels_yaml import KernelEntry
from harness.records import stored_runs, to_json
from harness.records.from_json import COMPARISON
from harness.report import compare as report
from harness.report import terminal
from harness.run import workspace
from harness.text import printable
from harness.verdict import comparison
from harness.verdict.comparison import Difference
from harness.verdict.results import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    KernelResult,
    KernelVerdict,
    RunResult,
)

DEFAULT_MANIFEST = Path("kernels.yaml")


@dataclass(frozen=True)
class Reference:
    """What is compared with: ``kernel`` is tested beside the image, or ``result`` was kept."""

    what: str  # for people
    kernel: KernelEntry | None = None
    result: KernelResult | None = None


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--against",
        metavar="NAME",
        help="show only what differs from a kernel of the manifest, from another image, or from a "
        "stored run (its id, RUN:KERNEL, or 'last')",
    )
    command.add_argument(
        "--manifest",
        dest="kernels_of",
        type=Path,
        metavar="FILE",
        help="where --against finds kernels (default: ./kernels.yaml, if there is one)",
    )


def check(entry: KernelEntry, given: argparse.Namespace, cache: Cache) -> int:
    """Test ``entry``, beside what it is compared with where that was not kept."""
    reference = resolve(given.against, entry, given.kernels_of, cache)
    print(f"against {printable(reference.what)}", flush=True)
    entries = [entry] if reference.kernel is None else [reference.kernel, entry]
    run = testing.make(entries, given, cache)
    found = {kernel.name: kernel for kernel in run.kernels}
    before = reference.result
    if reference.kernel is not None:
        before = found.get(reference.kernel.name)
    after = found.get(entry.name)
    if before is None or after is None:
        testing.report(run, given.json)
        complain("interrupted before both kernels were tested: nothing is compared")
        return EXIT_INTERRUPTED
    difference = comparison.kernels(before, after)
    _show(run, difference)
    if given.json is not None:
        more = json.dumps({COMPARISON: to_json.clean(report.to_json(difference))})[1:-1]
        testing.copy_record(Path(run.directory, stored_runs.RECORD), given.json, more)
    return EXIT_INTERRUPTED if run.interrupted else exit_status(difference)


def exit_status(difference: Difference) -> int:
    """What the image is found to be outweighs that it could not be compared."""
    after = difference.after.verdict
    if after is KernelVerdict.INFRASTRUCTURE:
        return EXIT_INFRASTRUCTURE
    if difference.is_worse or not after.as_expected:
        return EXIT_FAILED
    return EXIT_INFRASTRUCTURE if difference.cannot else EXIT_OK


def _show(run: RunResult, difference: Difference) -> None:
    glyphs = terminal.glyphs_for(sys.stdout)
    if difference.cannot:
        testing.report(run, None)  # what went wrong is in the table's details
    print(report.render(difference, glyphs), end="")
    if not difference.cannot:
        for note in run.notes:
            print(f"note: {glyphs.safe(note, 1024)}")
        print(f"seed {run.seed}, results in {glyphs.safe(run.directory, 4096)}", flush=True)


def resolve(word: str, entry: KernelEntry, file: Path | None, cache: Cache) -> Reference:
    """What ``word`` names: first a kernel of the manifest, then a path, then a stored run."""
    if file is None and DEFAULT_MANIFEST.is_file():
        file = DEFAULT_MANIFEST
    entries = kernels_yaml.load(file).entries if file is not None else ()
    path = Path(word)
    if (kernel := _of_manifest(word, entries, cache)) is not None:
        other = f"; not the file {path}, which is ./{path}" if path.is_file() else ""
        return Reference(f"the kernel {word} of {file}{other}", _apart(kernel, entry))
    if path.is_file() and path.suffix != ".json":
        return Reference(f"the image {path}", _apart(kernels_yaml.for_image(path), entry))
    return _of_run(word, entry, [kernel.name for kernel in entries], file)


def _of_manifest(word: str, entries: Sequence[KernelEntry], cache: Cache) -> KernelEntry | None:
    for kernel in entries:
        if kernel.name == word and kernel.is_series:
            raise UsageError(
                f"--against {word}: that is a series, many kernels; name one of them, as "
                f"`mptcp-harness prepare -k '{word}'` lists them, or an image"
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
    """``kernel`` under a name that is not also that of ``entry``."""
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
