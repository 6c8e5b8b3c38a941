# SPDX-License-Identifier: GPL-2.0-only
"""The data that the script of the HTML report shows on demand, as compact JSON.

Every text stands once, in ``texts``, and is named by its number. A check that passed costs a letter
for each kernel and family. The script only ever puts these texts into text nodes.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from harness.host.architectures import Arch
from harness.report.details import rounds_summary
from harness.report.fields import Structure, decode
from harness.report.overview import Mark, Overview, mark_of, results, worst_mark
from harness.text import printable
from harness.verdict.failures import Failure, Variant, failures, lost, phrases, place
from harness.verdict.results import Incident, KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict

#: A letter for each mark; ``.`` where the check was not planned.
LETTERS = {
    Mark.FAIL: "F",
    Mark.LOST: "L",
    Mark.ERROR: "E",
    Mark.KNOWN: "K",
    Mark.PASS: "P",
    Mark.NONE: "U",
    Mark.ABSENT: ".",
}
#: Characters of one text; a check's own texts are shorter.
MAX_TEXT = 4096
MAX_PHRASES = 20
MAX_EXCERPT_LINES = 200
#: Failures of one kernel: after a panic of the network stack, every check may have failed.
MAX_FAILURES = 1000


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """``text`` with everything invisible made visible, and its end left out if it is long."""
    shown = printable(text[:limit])
    return f"{shown} … ({len(text) - limit} more characters)" if len(text) > limit else shown


def excerpt(incident: Incident) -> tuple[list[str], list[int]]:
    """The console around an incident as lines, and the numbers of those that name it."""
    lines = [
        cut(line.rstrip("\r").expandtabs()) for line in incident.excerpt.strip("\r\n").split("\n")
    ]
    marked = _named(lines, cut(incident.title))
    if len(lines) > MAX_EXCERPT_LINES:
        more = len(lines) - MAX_EXCERPT_LINES
        lines = [*lines[:MAX_EXCERPT_LINES], f"… ({more} more lines)"]
    return lines, [number for number in marked if number < MAX_EXCERPT_LINES]


def _named(lines: Sequence[str], title: str) -> list[int]:
    """The numbers of the lines with ``title``; else of the first with most of its words.

    A title names a place as people do: ``WARNING in f (net/mptcp/pm.c:7)``, where the kernel says
    ``WARNING: net/mptcp/pm.c:7 at f+0x80/0x90``.
    """
    whole = [number for number, line in enumerate(lines) if title and title in line]
    words = {*re.findall(r"\w{2,}", title)} - {"in"}
    counted = [len(words & {*re.findall(r"\w{2,}", line)}) for line in lines]
    most = max(counted, default=0)
    return whole or ([counted.index(most)] if most > 1 else [])


def repeat_command(run: RunResult, kernel: KernelResult, check: str = "") -> str:
    """The command that tests ``kernel`` again with the same seed, with one ``check`` or all."""
    words = ["mptcp-harness", "matrix", "-k", kernel.name]
    if PurePath(kernel.origin).is_absolute() and PurePath(kernel.origin).name == kernel.name:
        words = ["mptcp-harness", "check", kernel.origin]
    words += ["--check", check] if check and not check.startswith("capability.") else []
    return shlex.join([*words, "--seed", str(run.seed)])


def page_data(run: RunResult, shown: Overview, meanings: Mapping[str, str]) -> str:
    """JSON for a ``<script type="application/json">``: no character in it ends the element."""
    return in_script(_Page(run, shown, meanings).data())


def in_script(data: object) -> str:
    """``data`` as JSON without ``<``, ``>`` and ``&``, which may stand in its strings only."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


class _Page:
    """Collects the data of one page."""

    def __init__(self, run: RunResult, shown: Overview, meanings: Mapping[str, str]) -> None:
        self._run = run
        self._shown = shown
        self._meanings = meanings
        self._texts: dict[str, int] = {}
        self._structs: dict[str, tuple[int, list[Any]]] = {}
        ids = (r.key.id for row in shown.rows for r in results(row.kernel))
        self._checks = {check: number for number, check in enumerate(dict.fromkeys(ids))}

    def data(self) -> dict[str, Any]:
        kernels = [self._kernel(row.kernel, row.new) for row in self._shown.rows]
        return {
            "run": {"id": cut(self._run.id), "started": cut(self._run.started)},
            "checks": [cut(check, 256) for check in self._checks],
            "meanings": [cut(self._meanings.get(check, "")) for check in self._checks],
            "capabilities": [cut(name, 256) for name in self._shown.capabilities],
            "groups": [
                [cut(name, 256), [self._checks[check] for check in checks]]
                for name, checks in self._shown.groups.items()
            ],
            "kernels": kernels,
            "structs": [fields for _, fields in self._structs.values()],
            "texts": list(self._texts),
        }

    def _text(self, text: str) -> int:
        return self._texts.setdefault(cut(text), len(self._texts))

    def _kernel(self, kernel: KernelResult, new: Sequence[str]) -> dict[str, Any]:
        found = failures(kernel)
        marked = {failure.check for failure in found[:MAX_FAILURES]}
        return {
            "name": self._text(kernel.name),
            "release": self._text(kernel.release),
            "verdict": str(kernel.verdict),
            "expected": kernel.verdict.as_expected,
            "reason": self._text(kernel.reason),
            "new": [self._text(sentence) for sentence in new],
            "about": [
                [label, self._text(text)] for label, text in about(self._run, kernel) if text
            ],
            "marks": {str(name): self._marks(kernel, name) for name in kernel.families},
            "present": {cut(k, 256): int(v) for k, v in kernel.capabilities.items()},
            "failures": [self._failure(kernel, failure) for failure in found[:MAX_FAILURES]],
            "lost": [self._lost(kernel), max(0, len(found) - MAX_FAILURES)],
            "details": self._details(kernel, marked),
            "incidents": [self._incident(incident) for incident in kernel.incidents],
            "fixes": [
                [*map(self._text, (fix.commit, fix.fixed_in, fix.title)), self._named(fix.checks)]
                for fix in kernel.missing_fixes
            ],
        }

    def _named(self, checks: Iterable[str]) -> list[int]:
        return [self._checks[check] for check in checks if check in self._checks]

    def _marks(self, kernel: KernelResult, family: Any) -> str:
        found: dict[str, list[Mark]] = {}
        for result in kernel.families[family].checks:
            found.setdefault(result.key.id, []).append(mark_of(result))
        return "".join(LETTERS[worst_mark(found.get(check, ()))] for check in self._checks)

    def _failure(self, kernel: KernelResult, failure: Failure) -> list[Any]:
        return [
            self._checks[failure.check],
            str(failure.verdict),
            failure.places,
            failure.planned,
            self._text(failure.known),
            [self._variant(failure.check, variant, kernel.arch) for variant in failure.variants],
        ]

    def _variant(self, check: str, variant: Variant, arch: str) -> list[Any]:
        where = phrases(variant.places)
        first = variant.first
        more = f"; … ({len(variant.places)} places)" if len(where) > MAX_PHRASES else ""
        return [
            self._text("; ".join(where[:MAX_PHRASES]) + more),
            *map(self._text, (first.detail, first.expected, first.got, first.raw)),
            [self._structure(part) for part in decode(check, first.detail, first.raw, arch)],
        ]

    def _structure(self, part: Structure) -> list[Any]:
        """The number of its type, its offset, and its values."""
        key = f"{part.name} {len(part.fields)} {part.fields[-1].offset}"
        if key not in self._structs:
            fields = [[field.name, field.offset, field.size] for field in part.fields]
            self._structs[key] = (len(self._structs), [part.name, fields])
        return [self._structs[key][0], part.offset, list(part.values)]

    def _lost(self, kernel: KernelResult) -> list[Any]:
        """The number of missing results, and the place of the first one."""
        missing = lost(kernel)
        if not missing:
            return []
        key = missing[0].key
        return [len(missing), self._text(f"{key.id} at {phrases([place(key)])[0]}")]

    def _details(self, kernel: KernelResult, failed: set[str]) -> list[list[Any]]:
        """The details of checks that did not fail, such as a size or the reason for unsupported."""
        said: dict[str, dict[int, None]] = {}
        for result in results(kernel):
            quiet = result.verdict in (CheckVerdict.PASS, CheckVerdict.UNSUPPORTED)
            if quiet and result.detail and result.key.id not in failed:
                said.setdefault(result.detail, {})[self._checks[result.key.id]] = None
        return [[self._text(text), list(checks)] for text, checks in said.items()]

    def _incident(self, incident: Incident) -> list[Any]:
        lines, marked = excerpt(incident)
        texts = (incident.title, incident.check or "", incident.fingerprint, incident.known)
        return [str(incident.kind), *map(self._text, texts), lines, marked]


def about(run: RunResult, kernel: KernelResult) -> list[tuple[str, str]]:
    """Further facts about a kernel: labels and values, empty if unknown."""
    timing = kernel.timing
    times = f"boot {timing.boot_s:.1f} s, checks {timing.checks_s:.1f} s, {kernel.accel.upper()}"
    console = next((a.console for a in reversed(kernel.attempts) if a.console), "")
    reused = kernel.reused_from
    return [
        ("version", kernel.version),
        ("origin", kernel.origin),
        ("image", f"sha256 {kernel.image_sha256}" if kernel.image_sha256 else ""),
        ("architecture", kernel.arch if kernel.arch != Arch.AMD64 else ""),
        ("user space", kernel.abi if kernel.abi != "native" else ""),
        ("tested on", kernel.host),
        ("times", times if timing.boot_s else ""),
        ("confirmed", str(kernel.confirmed) if kernel.confirmed is not None else ""),
        ("rounds", rounds_summary(kernel.rounds) if kernel.rounds is not None else ""),
        ("reused", f"from run {reused.run}" if reused is not None else ""),
        *(("attempt", _attempt(a)) for a in kernel.attempts if len(kernel.attempts) > 1),
        *(("cross-check", str(each)) for each in kernel.cross_checks),
        *(("note", note) for note in kernel.notes),
        ("console", str(PurePath(run.directory, console)) if console else ""),
        ("repeat", repeat_command(run, kernel)),
    ]


def _attempt(attempt: Any) -> str:
    verdict = f"{attempt.verdict}, " if attempt.verdict else ""
    detail = f": {attempt.detail}" if attempt.detail else ""
    return f"{attempt.number}: {verdict}{attempt.end.value}{detail}"
