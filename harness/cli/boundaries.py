# SPDX-License-Identifier: GPL-2.0-only
"""``bisect --boundaries``: the compatibility map of a series."""

from __future__ import annotations

import argparse
import sys

from harness import grounds, session
from harness.bisect import compatibility
from harness.bisect.candidates import Series, UnknownKernel, between, whole
from harness.bisect.state import Busy, Damaged
from harness.cli.common import (
    UsageError,
    check_writable,
    complain,
    listener,
    matching_checks,
    say,
    stopping,
    write,
)
from harness.kernels import Cache
from harness.manifest import load
from harness.report import boundaries, terminal
from harness.results import EXIT_INTERRUPTED, EXIT_OK, Family


def run(given: argparse.Namespace) -> int:
    """Map what ``given`` names, from --good to --bad, or all kernels of the manifest."""
    check_writable(given.json)
    if given.any or given.incident is not None or given.confirm:
        raise UsageError(
            "--boundaries looks at all changes, with one boot of each kernel; leave --any, "
            "--incident and --confirm away"
        )
    wishes = session.Wishes(
        families=(given.family,) if given.family else tuple(Family),
        checks=matching_checks(given.check),
        seed=given.seed,
        jobs=given.jobs,
        accel=given.accel,
        output=given.output,
        manifest=given.manifest,
    )
    cache = Cache(given.cache)
    try:
        with stopping(cache.stop) as stop:
            series = _series(given, cache)
            found = compatibility.draw(
                series.candidates,
                wishes,
                cache,
                say,
                listener,
                stop,
                fresh=given.fresh,
                notes=series.notes,
            )
    except compatibility.Interrupted as interruption:
        complain(str(interruption))
        return EXIT_INTERRUPTED
    except (UnknownKernel, Damaged) as error:
        raise UsageError(str(error)) from None
    except Busy as error:
        raise grounds.SessionUnavailable(str(error)) from None
    sys.stdout.write(boundaries.render(found, terminal.glyphs_for(sys.stdout)))
    if given.json is not None:
        remedy = "the same command boots nothing again, and writes it elsewhere"
        write("--json", given.json, boundaries.to_json(found), remedy)
    return EXIT_OK


def _series(given: argparse.Namespace, cache: Cache) -> Series:
    entries = load(given.manifest).entries
    if (given.good is None) != (given.bad is None):
        raise UsageError(
            "--boundaries takes both ends, --good NAME and --bad NAME, or neither for all kernels "
            "of the manifest"
        )
    if given.good is None:
        return whole(entries, cache, say)
    return between(entries, given.good, given.bad, cache, say)
