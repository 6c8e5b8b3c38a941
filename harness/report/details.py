# SPDX-License-Identifier: GPL-2.0-only
"""The details below the table for one kernel: failures, incidents, boots and notes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.report import fixes
from harness.report.terminal import Glyphs, style_of
from harness.text import plural
from harness.verdict.failures import Failure, Variant, failures, lost, phrases, place
from harness.verdict.results import (
    KNOWN_BUG,
    Attempt,
    Incident,
    KernelResult,
    RoundFailures,
    Rounds,
    RunResult,
)
from harness.verdict.rounds import MOST
from harness.verdict.verdicts import KernelVerdict

# Anything beyond these limits is only counted, with the file that holds the rest.
MAX_REASON_LINES = 10
MAX_FAILURES = 10
MAX_VARIANTS = 2
MAX_PHRASES = 6
MAX_RAW_BYTES = 128  # more than a whole mptcp_info
MAX_INCIDENTS = 5
MAX_EXCERPT_LINES = 20
MAX_STREAM_ERRORS = 3
MAX_NOTES = 10
MAX_FIXES = 5


def kernel_details(
    run: RunResult, kernel: KernelResult, glyphs: Glyphs
) -> Iterator[RenderableType]:
    """Empty for a kernel that passed and has no notes and no known issues."""
    passed = kernel.verdict is KernelVerdict.PASS and not kernel.known
    if (
        passed
        and not kernel.missing_fixes
        and not kernel.notes
        and len(kernel.attempts) < 2
        and kernel.rounds is None
    ):
        return
    heading = Text(glyphs.safe(kernel.name, 64), style="bold")
    yield heading.append(": ").append(kernel.verdict, style=style_of(kernel.verdict))
    if not passed:
        yield from _block(kernel.reason, MAX_REASON_LINES, 2, glyphs)
    if kernel.rounds is not None:
        yield _indented(2, _fields([("rounds", glyphs.safe(rounds_summary(kernel.rounds)))]))
    yield from _missing_fixes(kernel, glyphs)
    if kernel.known or not kernel.verdict.as_expected:
        yield from _failures(run, kernel, glyphs)
        yield from _lost(kernel, glyphs)
        yield from _incidents(run, kernel, glyphs)
    if kernel.known or not kernel.verdict.as_expected or len(kernel.attempts) > 1:
        yield from _attempts(run, kernel, glyphs)
    for note in kernel.notes[:MAX_NOTES]:
        yield _indented(2, _fields([("note", glyphs.safe(note))]))
    yield from _more(len(kernel.notes) - MAX_NOTES, "note", 2, _rest(run, kernel), glyphs)


def _missing_fixes(kernel: KernelResult, glyphs: Glyphs) -> Iterator[RenderableType]:
    missing = kernel.missing_fixes
    for fix in missing[:MAX_FIXES]:
        yield _indented(2, _fields([("lacks", fixes.fix_line(fix, glyphs))]))
    if len(missing) > MAX_FIXES:
        more = plural(len(missing) - MAX_FIXES, "more fix")
        command = f"`mptcp-harness missing-fixes {glyphs.safe(kernel.name, 64)}` lists all"
        yield _unwrapped(2, f"{glyphs.ellipsis} and {more}; {command}")


def _failures(run: RunResult, kernel: KernelResult, glyphs: Glyphs) -> Iterator[RenderableType]:
    # A failure that a missing fix explains is shown with the fix.
    found = [failure for failure in failures(kernel) if not failure.known.startswith(KNOWN_BUG)]
    for failure in found[:MAX_FAILURES]:
        yield _failure(failure, kernel, _rest(run, kernel), glyphs)
    yield from _more(len(found) - MAX_FAILURES, "check", 2, _rest(run, kernel), glyphs)


def _failure(failure: Failure, kernel: KernelResult, rest: str, glyphs: Glyphs) -> RenderableType:
    title = Text(glyphs.safe(failure.check, 64), style="bold")
    title.append(": ").append(failure.verdict, style=style_of(failure.verdict))
    title.append(f" at {failure.places} of {plural(failure.planned, 'place')}", style="not bold")
    title.append(", known" if failure.known else "", style="not bold")
    shown = failure.variants[:MAX_VARIANTS]
    others = failure.places - sum(len(variant.places) for variant in shown)
    return Group(
        _indented(2, title),
        *_known(failure.known, glyphs),
        *_often(failure.check, kernel, glyphs),
        *(_indented(4, _variant(variant, glyphs)) for variant in shown),
        *_more(others, "place", 4, rest, glyphs),
    )


def _known(text: str, glyphs: Glyphs) -> Iterator[RenderableType]:
    if text:
        yield _indented(4, _fields([("known", glyphs.safe(text.removeprefix("known ")))]))


def _often(check: str, kernel: KernelResult, glyphs: Glyphs) -> Iterator[RenderableType]:
    said = rounds_of_check(kernel.rounds, check) if kernel.rounds is not None else ""
    if said:
        yield _indented(4, _fields([("in", glyphs.safe(said))]))


def _variant(variant: Variant, glyphs: Glyphs) -> Table:
    where = phrases(variant.places)
    at = "; ".join(where[:MAX_PHRASES])
    if len(where) > MAX_PHRASES:
        at += f"; {glyphs.ellipsis} ({len(variant.places)} places)"
    return _fields(
        [
            ("at", glyphs.safe(at)),
            ("what", glyphs.safe(variant.first.detail)),
            ("expected", glyphs.safe(variant.first.expected)),
            ("got", glyphs.safe(variant.first.got)),
            ("raw", _raw(variant.first.raw, glyphs)),
        ]
    )


def _raw(raw: str, glyphs: Glyphs) -> str:
    """Hexadecimal in groups of four bytes, like the fields of these structures."""
    if not re.fullmatch("(?:[0-9a-fA-F]{2})+", raw):
        return glyphs.safe(raw)
    size = len(raw) // 2
    shown = " ".join(re.findall(".{1,8}", raw[: 2 * MAX_RAW_BYTES]))
    return f"{shown} {glyphs.ellipsis} ({size} bytes)" if size > MAX_RAW_BYTES else shown


def _lost(kernel: KernelResult, glyphs: Glyphs) -> Iterator[RenderableType]:
    missing = lost(kernel)
    if not missing:
        return
    planned = sum(len(family.checks) for family in kernel.families.values())
    key = missing[0].key
    first = glyphs.safe(f"{key.id} at {phrases([place(key)])[0]}")
    yield _indented(2, Text(f"{len(missing)} of {planned} results are missing, the first: {first}"))


def _incidents(run: RunResult, kernel: KernelResult, glyphs: Glyphs) -> Iterator[RenderableType]:
    console = next((attempt.console for attempt in _deciding(kernel) if attempt.console), "")
    rest = _path(run, console) if console else run.directory
    for incident in sorted(kernel.incidents, key=lambda i: bool(i.known))[:MAX_INCIDENTS]:
        yield from _incident(incident, rest, glyphs)
    yield from _more(len(kernel.incidents) - MAX_INCIDENTS, "incident", 2, rest, glyphs)


def _incident(incident: Incident, rest: str, glyphs: Glyphs) -> Iterator[RenderableType]:
    title = Text("  ").append(incident.kind, style="bold red")
    yield title.append(f": {glyphs.safe(incident.title)}{', known' if incident.known else ''}")
    yield from _known(incident.known, glyphs)
    known_by = [("during", incident.check or ""), ("fingerprint", incident.fingerprint)]
    yield _indented(4, _fields([(name, glyphs.safe(text)) for name, text in known_by]))
    lines = incident.excerpt.strip("\r\n").split("\n")
    yield from _block(incident.excerpt, MAX_EXCERPT_LINES, 4, glyphs)
    yield from _more(len(lines) - MAX_EXCERPT_LINES, "line", 4, rest, glyphs)


def _attempts(run: RunResult, kernel: KernelResult, glyphs: Glyphs) -> Iterator[RenderableType]:
    for attempt in kernel.attempts:
        if len(kernel.attempts) > 1:
            yield _indented(2, Text(_attempt(attempt, glyphs)))
        errors = attempt.stream.errors
        for error in errors[:MAX_STREAM_ERRORS]:
            yield _indented(2, _fields([("stream", glyphs.safe(error))]))
        events = _path(run, attempt.events)
        yield from _more(len(errors) - MAX_STREAM_ERRORS, "stream error", 2, events, glyphs)
        if attempt.console:
            yield _unwrapped(2, f"console   {glyphs.safe(_path(run, attempt.console), 4096)}")


def _attempt(attempt: Attempt, glyphs: Glyphs) -> str:
    detail = f": {glyphs.safe(attempt.detail)}" if attempt.detail else ""
    verdict = f"{attempt.verdict}, " if attempt.verdict else ""
    return f"attempt {attempt.number}: {verdict}{attempt.end.value}{detail}"


def _more(
    count: int, noun: str, indent: int, rest: str, glyphs: Glyphs
) -> Iterator[RenderableType]:
    if count > 0:
        see = f", see {glyphs.safe(rest, 4096)}" if rest else ""
        yield _unwrapped(indent, f"{glyphs.ellipsis} and {plural(count, f'more {noun}')}{see}")


def _rest(run: RunResult, kernel: KernelResult) -> str:
    """The file with every result of ``kernel``: the events of the boot that decided."""
    events = next((attempt.events for attempt in _deciding(kernel) if attempt.events), "")
    return _path(run, events) if events else run.directory


def _deciding(kernel: KernelResult) -> list[Attempt]:
    """The attempts, starting with the one that decided: the last, or the worst of several."""
    if kernel.confirmed is None:
        return list(reversed(kernel.attempts))
    return sorted(kernel.attempts, key=lambda attempt: attempt.verdict is not kernel.verdict)


def _path(run: RunResult, relative: str) -> str:
    return str(PurePath(run.directory, relative))


def _block(text: str, limit: int, indent: int, glyphs: Glyphs) -> Iterator[RenderableType]:
    """At most ``limit`` lines of ``text``, each escaped."""
    for line in text.strip("\r\n").split("\n")[:limit]:
        if line.strip():
            yield _indented(indent, Text(glyphs.safe(line.rstrip("\r").expandtabs())))


def _fields(rows: Sequence[tuple[str, str]]) -> Table:
    """Labels and values, without empty ones."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=8)
    grid.add_column(overflow="fold")
    for label, value in rows:
        if value:
            grid.add_row(label, Text(value))
    return grid


def _indented(indent: int, renderable: RenderableType) -> Padding:
    return Padding(renderable, (0, 0, 0, indent), expand=False)


def _unwrapped(indent: int, text: str) -> Text:
    """One line even on a narrow terminal, so that a path can be copied."""
    return Text(" " * indent + text, no_wrap=True, overflow="ignore")


#: How many differing counts are shown, and how many places for each.
MAX_COUNTS = 3
MAX_PHRASES_OF_ROUNDS = 2


def rounds_summary(rounds: Rounds) -> str:
    """``200 rounds, 3 failed; the first was round 17: --seed 1234 repeats it``."""
    if rounds.done < rounds.asked < MOST:
        said = f"{rounds.done} of {plural(rounds.asked, 'round')}"
    else:
        said = plural(rounds.done, "round")
    said += f", {rounds.failed or 'none'} failed"
    first = min(rounds.failures, key=lambda failure: failure.first, default=None)
    if first is not None:
        said += f"; the first was round {first.first}: --seed {first.seed} repeats it"
    if rounds.cut is not None:
        said += f"; cut off during {rounds.cut}"
    return said


def rounds_of_check(rounds: Rounds, check: str) -> str:
    """``3 of 200 rounds (ipv4 segment established client); the first was …``; "" where none."""
    count = rounds.by_check.get(check, 0)
    found = [failure for failure in rounds.failures if failure.key.id == check]
    if not found:
        return ""
    first = min(found, key=lambda failure: failure.first)
    often = f"{count} of {plural(rounds.done, 'round')}" if count else "the round that was cut off"
    said = f"{often}; first in round {first.first}, seed {first.seed}"
    several = _by_count(found, count)
    return f"{said}; {'; '.join(several)}" if several else said


def _by_count(found: Sequence[RoundFailures], rounds: int) -> list[str]:
    """Places that failed in fewer rounds than the check itself, most frequent first."""
    alike: dict[int, list[RoundFailures]] = {}
    for failure in found:
        if failure.count < rounds:
            alike.setdefault(failure.count, []).append(failure)
    return [
        f"{phrase}: {plural(count, 'round')}"
        for count in sorted(alike, reverse=True)[:MAX_COUNTS]
        for phrase in phrases([place(failure.key) for failure in alike[count]])[
            :MAX_PHRASES_OF_ROUNDS
        ]
    ]
