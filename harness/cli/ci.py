# SPDX-License-Identifier: GPL-2.0-only
"""GitHub Actions: the summary of the step, annotations, and output without workflow commands."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.common import complain

if TYPE_CHECKING:
    from harness.nightly.results import Night
    from harness.report.github import Problem
    from harness.verdict.results import RunResult

# The reports are imported where there is something to write to.

#: GitHub refuses a summary that is larger; it has the bytes of all commands of the step.
MAX_SUMMARY = 1024 * 1024
#: Less room is not worth a summary.
MIN_SUMMARY = 4096


@contextlib.contextmanager
def no_commands() -> Iterator[None]:
    """Within this context, GitHub Actions ignores workflow commands in the output."""
    if not _in_actions():
        yield
        return
    token = secrets.token_hex(16)
    print(f"::stop-commands::{token}", flush=True)
    try:
        yield
    finally:
        print(f"::{token}::", flush=True)


def report_run(run: RunResult) -> None:
    """Add ``run`` to the step's summary, and annotate what is wrong."""

    def summary(most: int) -> str:
        from harness.report import markdown

        return markdown.to_summary(run, most)

    def problems() -> Sequence[Problem]:
        from harness.report import github

        return github.of_run(run)

    _summarise(summary)
    _annotate(problems)


def report_night(night: Night) -> None:
    """Add ``night`` to the step's summary, and annotate what is newly wrong."""
    from harness.report import github
    from harness.report import nightly as nightly_report

    _summarise(lambda _: nightly_report.to_markdown(night))
    _annotate(lambda: github.of_night(night))


def _annotate(problems: Callable[[], Sequence[Problem]]) -> None:
    if _in_actions():
        from harness.report import github

        print(github.error_commands(problems()), end="", flush=True)


def _in_actions() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _summarise(text_of: Callable[[int], str]) -> None:
    place = os.environ.get("GITHUB_STEP_SUMMARY", "")
    if not place:
        return
    try:
        with Path(place).open("ab") as file:
            room = MAX_SUMMARY - file.tell()
            summary = text_of(room).encode("utf-8", "replace") if room >= MIN_SUMMARY else b""
            if not 0 < len(summary) <= room:
                complain(f"warning: no summary: {place} has no room for more")
                return
            file.write(summary)
    except OSError as error:
        complain(f"warning: no summary: {place} cannot be written ({error.strerror or error})")
