# SPDX-License-Identifier: GPL-2.0-only
"""``bisect --boundaries``: the compatibility map of a series."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from harness.bisect import compatibility
from harness.bisect.candidates import Series, between, whole
from harness.cli.common import listener, matching_checks, say, stopping
from harness.errors import UsageError
from harness.kernels import Cache
from harness.manifest.kernels_yaml import load
from harness.report import boundaries, terminal
from harness.run.request import RunRequest
from harness.verdict.results import EXIT_OK


def search(given: argparse.Namespace, request: RunRequest, cache: Cache) -> tuple[str, str, int]:
    """Map what ``given`` names, from --good to --bad, or all kernels of the manifest.

    What is to be shown, the same as JSON, and the exit status.
    """
    if given.any or given.incident is not None or given.confirm:
        raise UsageError(
            "--boundaries looks at all changes, with one boot of each kernel; leave --any, "
            "--incident and --confirm away"
        )
    plan = replace(request.plan, checks=matching_checks(given.check, request.plan.profile))
    request = replace(request, plan=plan)
    with stopping(cache.stop) as stop:
        series = _series(given, cache)
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
    return boundaries.render(found, glyphs), boundaries.to_json(found), EXIT_OK


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
