# SPDX-License-Identifier: GPL-2.0-only
"""Finds the reports of kernel faults on the console of one boot.

A console is read in three steps: :data:`~harness.vm.signatures.TELLTALES` find candidate lines in
one pass; signatures recognise the messages in them, which are grouped into reports (an oops alone
prints four messages); each report becomes an incident, one per fingerprint. The work is linear in
the console's length, whatever a guest writes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.verdict.results import MAX_INCIDENTS, Incident, IncidentKind
from harness.vm import traces
from harness.vm.signatures import (
    AFTERMATH,
    BANNER,
    COMMAND_LINE,
    FATAL_TELLTALES,
    SIGNATURES,
    TELLTALES,
    WRONG_ENVIRONMENT,
    Role,
    Signature,
)

MAX_EXCERPT_LINES = 60
MAX_EXCERPT = 4096
_MAX_EXCERPT_LINE = 240
_MAX_TITLE = 160
#: A kernel record has at most 1 KiB; a longer line is not one, and is examined in pieces.
_MAX_LINE = 1024
#: The most lines of equal wording that are examined; a kernel in a loop prints one for hours.
_MAX_ALIKE = 64
#: After so many lines or messages, only fatal messages are searched for; after twice as many, none.
_MAX_LOOKED_AT = 3000
_MAX_FOUND = 200_000
#: Frames in a fingerprint: fewer would join different bugs, more would split one bug by its
#: callers.
_FRAMES = 3
#: The most lines between the halves of a message that a program's output has cut in two.
_SPLIT = 3
_BANNER_WITHIN = 1 << 20


def scan(console: bytes, running: Sequence[tuple[int, str]] = ()) -> tuple[Incident, ...]:
    """The incidents on ``console``, the raw bytes of one boot, in order.

    ``running`` has sorted pairs: the console's length in bytes when a check started, and the check.
    Returns at most :data:`MAX_INCIDENTS`: panics are preferred to other crashes and those to the
    rest, and earlier ones to later ones.
    """
    text = traces.plain(console)
    reports = _gather(_Messages(text))
    others = {line.at: report for report in reports for line in report.messages if line.starts}
    found: dict[tuple[str, bool], Incident] = {}
    timeline = _timeline(console, running)
    for report in reports:
        incident = _describe(text, report, others, _check_at(report.line, timeline))
        found.setdefault((incident.fingerprint, incident.kind.is_crash), incident)
    return _bounded(_without_parts(found.values()))


def is_environment_panic(incident: Incident) -> bool:
    """Whether the kernel panicked because of its boot environment, which is not its fault.

    For incidents before the guest's hello; later, an init that ends is the guest's fault.
    """
    return incident.kind is IncidentKind.PANIC and bool(WRONG_ENVIRONMENT.match(incident.title))


def kernel_spoke(console: bytes) -> bool:
    """Whether the kernel's own banner ("Linux version …") is on ``console``."""
    return bool(BANNER.search(traces.plain(console[:_BANNER_WITHIN])))


@dataclass(frozen=True)
class _Message:
    """One message of a report; ``at`` and ``line`` are the start of its line in the plain text."""

    signature: Signature
    groups: Mapping[str, str]
    at: int
    line: int
    caller: str

    @property
    def starts(self) -> bool:
        return self.signature.role is not Role.ECHO


@dataclass
class _Report:
    """The messages of one report, and the panic that it ended in."""

    messages: list[_Message]
    panic: _Message | None = None
    roles: set[Role] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.roles = {message.signature.role for message in self.messages}

    @property
    def line(self) -> int:
        return self.messages[0].line

    @property
    def headline(self) -> _Message:
        return max(self.messages, key=lambda message: message.signature.rank)

    @property
    def kind(self) -> IncidentKind:
        return self.headline.signature.kind

    def add(self, message: _Message) -> None:
        if message.signature.role is Role.BANNER and message.line - self.messages[-1].line > 20:
            self.messages = []  # messages in between are another CPU's
        self.messages.append(message)
        self.roles.add(message.signature.role)

    def takes(self, message: _Message) -> bool:
        """Whether ``message`` continues this report instead of starting the next."""
        distance = message.line - self.messages[-1].line
        if message.caller and self.messages[-1].caller not in ("", message.caller):
            return False
        match message.signature.role:
            case Role.ECHO:
                near = distance <= message.signature.within
                return near and self.kind in message.signature.echoes
            case Role.DIE:
                reach = _SPLIT if Role.DIE in self.roles else message.signature.within
                return distance <= reach and (self.kind.is_crash or self.roles <= {Role.CUT})
            case Role.BANNER if Role.BANNER not in self.roles:
                # Between "cut here" and the banner another CPU may print a whole report.
                return (self.roles == {Role.CUT} and distance <= 400) or self._is_fresh(distance)
            case Role.CUT:
                return self.roles == {Role.PREAMBLE} and distance <= 4
            case Role.HEADLINE | Role.PREAMBLE:
                unnamed = self.roles <= {Role.CUT, Role.PREAMBLE} and distance <= 20
                # If WARN() is a call, its message follows the banner (kernel/panic.c, __warn()).
                return unnamed or (self.roles == {Role.CUT, Role.BANNER} and distance <= 2)
        return False

    def is_stub_of(self, panic: _Message) -> bool:
        """Whether this is "Kernel panic -", and ``panic`` the other half of the message."""
        distance = panic.line - self.line
        return self.kind is IncidentKind.PANIC and not _text(self.headline) and distance <= _SPLIT

    def _is_fresh(self, distance: int) -> bool:
        """Whether it so far has only what precedes WARN()'s banner: "refcount_t: …"."""
        bare = self.kind is IncidentKind.REFCOUNT or self.roles <= {Role.CUT, Role.PREAMBLE}
        return distance <= 4 and bare


class _Messages:
    """Walks a plain text once, from one telltale to the next."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._stamped = traces.is_stamped(text)
        self._alike: Counter[str] = Counter()
        self._done = 0  # everything before it was examined
        self._at = self._line = 0  # start and number of the line last examined

    def __iter__(self) -> Iterator[_Message]:
        """Everything that has a signature, in order."""
        yield from self._holding(TELLTALES)
        yield from self._holding(FATAL_TELLTALES)

    def _holding(self, telltales: Sequence[str]) -> Iterator[_Message]:
        # Most do not occur on a console, and searching for each separately finds that out faster.
        present = [telltale for telltale in telltales if telltale in self._text]
        if not present:
            return
        pattern = re.compile("|".join(map(re.escape, present)))
        looked_at = 0
        for _ in range(_MAX_FOUND):
            hit = pattern.search(self._text, self._done)
            if hit is None or looked_at == _MAX_LOOKED_AT:
                return
            line = self._line_around(hit.start(), hit.end())
            wording = _NUMBERS.sub("", line)
            self._alike[wording] += 1
            if self._alike[wording] > _MAX_ALIKE:
                continue
            looked_at += 1
            for record in traces.records(line):
                if message := self._recognise(record):
                    yield message

    def _line_around(self, start: int, end: int) -> str:
        begin = max(_line_start(self._text, start), self._done)
        finish = self._text.find("\n", end, end + _MAX_LINE)
        self._done = finish if finish >= 0 else min(end + _MAX_LINE, len(self._text))
        self._line += self._text.count("\n", self._at, begin)
        self._at = begin
        return self._text[begin : self._done]

    def _recognise(self, record: traces.Record) -> _Message | None:
        if COMMAND_LINE.match(record.text):
            return None
        for signature in SIGNATURES:
            if signature.strict and self._stamped and not record.stamped:
                continue
            if match := signature.pattern.search(record.text):
                groups = {name: value or "" for name, value in match.groupdict().items()}
                return _Message(signature, groups, self._at, self._line, record.caller)
        return None


_NUMBERS = re.compile(r"[0-9a-f]*\d[0-9a-f]*")


def _gather(messages: Iterable[_Message]) -> list[_Report]:
    reports: list[_Report] = []
    for message in messages:
        # Two CPUs can print reports at the same time.
        open_reports = reports[:-5:-1]
        if message.signature.role is Role.PANIC_END:
            if not any(_has_panicked(report) for report in reports):
                reports.append(_Report([message]))
        elif message.signature.role is Role.PANIC:
            if reports and reports[-1].is_stub_of(message):
                reports.pop()
            cause = _cause_of(message, reports)
            if cause is None:
                reports.append(_Report([message]))
            else:
                cause.panic = message
        elif report := next((one for one in open_reports if one.takes(message)), None):
            report.add(message)
        else:
            reports.append(_Report([message]))
    return reports


def _has_panicked(report: _Report) -> bool:
    return report.panic is not None or report.kind is IncidentKind.PANIC


def _cause_of(panic: _Message, reports: Sequence[_Report]) -> _Report | None:
    """The report that ended in ``panic``, by its reason."""
    for reason, kinds, within in AFTERMATH:
        if reason.search(_text(panic)):
            for report in reversed(reports):
                if within is not None and panic.line - report.messages[-1].line > within:
                    return None
                if report.kind in kinds and report.panic is None:
                    return report
    return None


def _text(message: _Message) -> str:
    return message.groups.get("what") or message.groups.get("rest") or ""


def _describe(
    text: str, report: _Report, others: Mapping[int, _Report], check: str | None
) -> Incident:
    headline = report.headline
    trace = _trace(text, report, others)
    functions = _functions(headline, trace)
    kind, title = headline.signature.kind, _title(report, functions)
    if report.panic and not kind.is_crash:
        kind, title = IncidentKind.PANIC, f"{title}, then panic"
    return Incident(
        kind=kind,
        title=title[:_MAX_TITLE],
        fingerprint=_fingerprint(headline.signature, functions, _title(report, ())),
        excerpt=_excerpt(text, report, trace.length),
        check=check,
    )


def _trace(text: str, report: _Report, others: Mapping[int, _Report]) -> traces.Trace:
    start, caller = report.messages[0].at, report.headline.caller
    stalled = report.headline.signature.stalled
    trace = traces.read(_lines(text, start, report, others), caller, stalled=stalled)
    if stalled and caller and not trace.functions:
        # The stalled CPU reports for itself, under its own name.
        trace = traces.read(_lines(text, start, report, others), "", stalled=True)
    return trace


def _functions(headline: _Message, trace: traces.Trace) -> tuple[str, ...]:
    if headline.signature.kind is IncidentKind.KCSAN:
        # Two traces of equal rank; the headline has them in alphabetical order.
        racing = _text(headline).partition(" in ")[2].split(" / ")
        return traces.functions(name.split("+")[0] for name in racing)
    function = traces.functions([headline.groups.get("function", "")], helpers=True)
    if function and trace.location not in ("", *function):
        return function  # the trace is of another CPU that printed at the same time
    return traces.functions((*function, *trace.functions))


def _title(report: _Report, functions: Sequence[str]) -> str:
    headline = report.headline
    signature = headline.signature
    what = " ".join(_text(headline).split()).rstrip(" .:;,")
    title = signature.title.replace("{what}", what).rstrip(" :") if what else signature.title
    title = title.replace("{what}", "").rstrip(" :")
    where = next((m.groups["where"] for m in report.messages if m.groups.get("where")), "")
    if functions and signature.in_function:
        title += f" in {functions[0]}"
    return f"{title} ({where})" if where else title


def _fingerprint(signature: Signature, functions: Sequence[str], title: str) -> str:
    if signature.kind is IncidentKind.OUT_OF_MEMORY:
        # The allocating task and the killed one are random.
        return signature.kind.value
    if functions:
        return ":".join((signature.kind.value, *functions[:_FRAMES]))
    words = "-".join(re.findall(r"[a-z_]{2,}", _VOLATILE.sub(" ", title).lower())[:10])
    return signature.kind.value if words in ("", signature.kind) else f"{signature.kind}:{words}"


#: Addresses, numbers, "comm/pid", "[comm:pid]", and file positions.
_VOLATILE = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\S+/\d+|\[[^\]]*\]|\(\S+:\d+\)|\S*\d\S*")


def _line_start(text: str, at: int) -> int:
    """The start of the line around ``at``, unless it is too far back."""
    earliest = max(at - _MAX_LINE, 0)
    return max(text.rfind("\n", earliest, at) + 1, earliest)


def _lines(
    text: str, at: int, report: _Report, others: Mapping[int, _Report]
) -> Iterator[tuple[str, bool]]:
    """The lines of ``text`` from ``at`` on, each with whether it starts another report."""
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        yield text[at : min(end, at + _MAX_LINE)], others.get(at, report) is not report
        at = end + 1


def _excerpt(text: str, report: _Report, length: int) -> str:
    """The report as on the console, with two lines before it and the panic that it ended in."""
    first, last = report.messages[0], report.messages[-1]
    length = min(max(length, last.line - first.line + 1, 3), MAX_EXCERPT_LINES)
    start = first.at
    for _ in range(2):
        start = _line_start(text, max(start - 1, 0))
    lines: list[str] = []
    for line, _ in _lines(text, start, report, {}):
        if len(lines) >= length + 2:
            break
        lines.append(line.rstrip()[:_MAX_EXCERPT_LINE])
    if report.panic and report.panic.line >= first.line + length:
        panic = next(_lines(text, report.panic.at, report, {}))[0].rstrip()[:_MAX_EXCERPT_LINE]
        lines[MAX_EXCERPT_LINES - 1 :] = []
        lines.append(panic)
    return "\n".join(lines[:MAX_EXCERPT_LINES]).strip("\n")[:MAX_EXCERPT]


def _timeline(console: bytes, running: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """``running`` by line number: a check is charged with lines that begin after its start."""
    line, counted, timeline = 0, 0, []
    for offset, check in running:
        line += console.count(b"\n", counted, offset)
        counted = offset
        in_line = 0 < offset <= len(console) and console[offset - 1 : offset] != b"\n"
        timeline.append((line + in_line, check))
    return timeline


def _check_at(line: int, timeline: Sequence[tuple[int, str]]) -> str | None:
    index = bisect_right(timeline, line, key=lambda entry: entry[0])
    return timeline[index - 1][1] if index else None


def _without_parts(incidents: Iterable[Incident]) -> list[Incident]:
    """``incidents`` without those whose cut-off traces another incident shows in full."""
    every = list(incidents)
    cut = {
        (one.kind, one.fingerprint[: colon.start()])
        for one in every
        for colon in re.finditer(":", one.fingerprint)
    }
    return [one for one in every if (one.kind, one.fingerprint) not in cut]


def _bounded(incidents: Sequence[Incident]) -> tuple[Incident, ...]:
    def weight(index: int) -> tuple[bool, bool, int]:
        kind = incidents[index].kind
        return kind is not IncidentKind.PANIC, not kind.is_crash, index

    kept = sorted(range(len(incidents)), key=weight)[:MAX_INCIDENTS]
    return tuple(incidents[index] for index in sorted(kept))
