# SPDX-License-Identifier: GPL-2.0-only
"""``check --against``: one image compared with another kernel or a stored run."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import kernels
from harness.cli import ci
from harness.cli.common import complain
from harness.cli.matrix import copy_record, run_tests, show, write_page
from harness.errors import UsageError
from harness.kernels import Cache
from harness.manifest import kernels_yaml
from harness.manifest.entries import KernelEntry
from harness.records import stored_runs, to_json
from harness.records.from_json import COMPARISON
from harness.report import compare as report
from harness.report import terminal
from harness.run import workspace
from harness.text import printable
from harness.verdict import comparison
from harness.verdict.comparison import Difference
from harness.verdict.results import KernelResult, RunResult
from harness.verdict.verdicts import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    KernelVerdict,
)

DEFAULT_MANIFEST = Path("kernels.yaml")


@dataclass(frozen=True)
class Reference:
    """The other side of a comparison: a ``kernel`` of the same run, or a stored ``result``."""

    what: str  # for people
    kernel: KernelEntry | None = None
    result: KernelResult | None = None


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
    write_page(run, given)
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
    """Resolve ``word``: as a kernel of the manifest, else as a path, else as a stored run."""
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
            f"{', '.join(list(kept)[:20]) or 'none, because it has no result'}"
        )
    return Reference(f"{wanted} as stored by run {run.id}, {run.started}", result=kept[wanted])


def _unknown(word: str, names: Sequence[str], file: Path | None, why: str) -> str:
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.4)
    of = (
        f"not a kernel of {file}"
        if file
        else "not a kernel, because there is no ./kernels.yaml (--manifest)"
    )
    like = f"; kernels with similar names: {', '.join(near)}" if near else ""
    has = f"; it has {', '.join(names)}" if names and not near else ""
    return f"--against {word}: {of}, not a file, and {why}{like}{has}"
