# SPDX-License-Identifier: GPL-2.0-only
"""The failures of a run, as annotations of GitHub Actions.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions: a line ``::error
title=TITLE::TEXT`` on standard output. GitHub shows ten of them for each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.report.compare import sentence
from harness.report.markdown import worst_first
from harness.report.terminal import UNICODE
from harness.text import plural, printable
from harness.verdict.failures import failures
from harness.verdict.results import KernelResult, RunResult
from harness.verdict.verdicts import KernelVerdict

if TYPE_CHECKING:  # it takes with it all that a night does
    from harness.nightly.results import Night

MAX_ERRORS = 10
MAX_TITLE, MAX_TEXT = 200, 2000


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. Both texts may hold whatever a guest sent."""

    title: str
    text: str


def of_run(run: RunResult) -> list[Problem]:
    """The failures of ``run`` that count, the worst kernel first."""
    found = [problem for kernel in worst_first(run.kernels) for problem in _of_kernel(kernel)]
    if run.missing:
        names = ", ".join(run.missing)
        found.append(Problem(f"{plural(len(run.missing), 'kernel')} not tested", names))
    return found


def of_night(night: Night) -> list[Problem]:
    """The new failures of ``night``."""
    worse = [
        Problem(f"{found.kernel.name}: newly wrong", sentence(found.difference, UNICODE))
        for found in night.regressions
    ]
    return worse + [problem for k in night.wrong_at_first for problem in _of_kernel(k)]


def _of_kernel(kernel: KernelResult) -> Iterator[Problem]:
    if kernel.verdict.as_expected:
        return
    counting = [failure for failure in failures(kernel) if not failure.known]
    if kernel.verdict is not KernelVerdict.FAIL or not counting:
        yield Problem(f"{kernel.name}: {kernel.verdict}", kernel.reason)
        return
    for failure in counting:
        first = failure.variants[0].first
        said = [first.detail, first.expected and f"expected {first.expected}"]
        said += [first.got and f"got {first.got}", f"at {first.key}"]
        places = f"{failure.places} of {plural(failure.planned, 'place')}"
        text = f"{'; '.join(filter(None, said))}; {places}"
        yield Problem(f"{kernel.name}: {failure.check}", text)


def error_commands(problems: Sequence[Problem]) -> str:
    """``problems`` as at most ten workflow commands; the last one counts those left out."""
    shown = list(problems)
    if len(shown) > MAX_ERRORS:
        left = len(shown) - (MAX_ERRORS - 1)
        more = Problem(f"and {plural(left, 'more failure')}", "the summary has all of them")
        shown = [*shown[: MAX_ERRORS - 1], more]
    return "".join(f"::error title={_property(p.title)}::{_data(p.text)}\n" for p in shown)


# As actions/toolkit escapes them; a line break would begin another command.


def _data(text: str) -> str:
    return _escaped(text, MAX_TEXT, {"%": "%25", "\r": "%0D", "\n": "%0A"})


def _property(text: str) -> str:
    marks = {"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"}
    return _escaped(text, MAX_TITLE, marks)


def _escaped(text: str, limit: int, marks: dict[str, str]) -> str:
    # "##[" anywhere in a line begins a command of the older form.
    shown = printable(text[:limit]).replace("##[", "##\\x5b")
    return "".join(marks.get(char, char) for char in shown)
