# SPDX-License-Identifier: GPL-2.0-only
"""A run of tests, as ``matrix`` and ``check`` make it: wishes in, a report and a status out."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import session
from harness.cli.common import (
    NotWritten,
    check_writable,
    colourful,
    listener,
    matching_checks,
    stopping,
)
from harness.kernels import Cache
from harness.kernels.files import write_through
from harness.manifest import KernelEntry
from harness.report import table, terminal
from harness.results import Family, RunResult, exit_status


def test(entries: Sequence[KernelEntry], given: argparse.Namespace, cache: Cache) -> int:
    wishes = session.Wishes(
        families=(given.family,) if given.family else tuple(Family),
        checks=matching_checks(given.check),
        payload=given.payload,
        seed=given.seed,
        jobs=given.jobs,
        accel=given.accel,
        output=given.output,
        reuse=given.reuse,
        resume=given.resume,
        confirm=given.confirm,
        manifest=given.manifest,
    )
    check_writable(given.json)
    names = [entry.name for entry in entries]
    with stopping(cache.stop) as stop, listener(names) as told:
        run = session.run(entries, wishes, cache, told, stop)
    _report(run, given.json)
    return exit_status(run)


def _report(run: RunResult, json_file: Path | None) -> None:
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    glyphs = terminal.glyphs_for(sys.stdout)
    text = table.render(run, width=width, colour=colourful(), unicode=glyphs.unicode)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    finally:
        if json_file is not None:
            _copy_record(Path(run.directory, session.RECORD), json_file)


def _copy_record(record: Path, target: Path) -> None:
    try:
        # Not composed again: of sixty kernels that takes half a second.
        write_through(target, record.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotWritten(
            f"--json {target}: it could not be written: {error.strerror}; the same is in {record}"
        ) from error
