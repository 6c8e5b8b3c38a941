# SPDX-License-Identifier: GPL-2.0-only
"""A run, or what changed since another, as Markdown for a mail or a merge-request comment.

All foreign text is inside code, whose fence is longer than any row of backticks in it, so that
HTML, mentions and links in it stay plain text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from harness.report.compare import render_runs
from harness.report.terminal import UNICODE
from harness.text import plural, printable
from harness.verdict.comparison import RunDifference
from harness.verdict.failures import Failure, failures, lost, phrases
from harness.verdict.results import Incident, KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict

#: Bytes of UTF-8. The smallest common limit for a merge-request comment is 65,536.
MAX_BYTES = 60_000
# Anything beyond these limits is only counted.
MAX_ROWS = 100
MAX_SUMMARY_ROWS = 500
#: Bytes of a row of the table: every cell is cut, and a character may be escaped with six.
MAX_ROW = 2000
MAX_FAILURES = 10
MAX_PHRASES = 4
MAX_INCIDENTS = 3
MAX_EXCERPT_LINES = 25
MAX_WIDTH = 200  # of a line of code


def to_markdown(run: RunResult) -> str:
    """Title, table, failures of each kernel, and how the run was made; at most MAX_BYTES."""
    return _whole(run, MAX_BYTES, MAX_ROWS)


def to_summary(run: RunResult, most: int) -> str:
    """As :func:`to_markdown`, for a page that takes up to ``most`` bytes, with more kernels."""
    rows = min(MAX_SUMMARY_ROWS, most // (4 * MAX_ROW))
    return _whole(run, most, rows)


def _whole(run: RunResult, most: int, rows: int) -> str:
    """The worst kernels come first, in the table if it cannot have all of them."""
    head = [_title(run), *table(run, rows)]
    foot = ["", *setting(run)]
    kernels = filter(kernel_needs_words, worst_first(run.kernels))
    return bounded(head, map(_section, kernels), foot, most)


def worst_first(kernels: Iterable[KernelResult]) -> list[KernelResult]:
    """``kernels`` by their verdicts; those that are as expected come last."""
    order = list(KernelVerdict)
    return sorted(kernels, key=lambda k: (k.verdict.as_expected, order.index(k.verdict)))


def difference_to_markdown(difference: RunDifference) -> str:
    """What changed between two runs; at most MAX_BYTES."""
    title = "mptcp-harness: " + ("newly wrong" if difference.is_worse else "nothing newly wrong")
    if not difference.is_complete:
        title += ", but not everything could be compared"
    text = render_runs(difference, UNICODE)
    room = MAX_BYTES - 1024
    lines, size = [], 0
    for line in text.splitlines():
        size += len(line.encode()) + 1
        if size > room:
            lines.append("…")
            break
        lines.append(line)
    return "\n".join([f"### {title}", "", *fenced(lines, escaped=True)]) + "\n"


def bounded(
    head: Sequence[str],
    sections: Iterable[Sequence[str]],
    foot: Sequence[str],
    most: int = MAX_BYTES,
) -> str:
    """As many whole ``sections`` as fit, and a line with the number of those left out."""

    def size(lines: Iterable[str]) -> int:
        return sum(len(line.encode("utf-8", "replace")) + 1 for line in lines)

    room = most - size(head) - size(foot) - 100  # for the line about omitted sections
    body: list[str] = []
    left = 0
    for section in sections:
        if size(section) <= room:
            body += section
            room -= size(section)
        else:
            left += 1
    if left:
        body += [
            "",
            f"No room for {plural(left, 'more kernel')} with details.",
        ]
    return "\n".join([*head, *body, *foot]) + "\n"


def code(text: str, limit: int = 300) -> str:
    """``text`` as inline code on one line, in at most about ``limit`` characters."""
    shown = UNICODE.safe(text, limit)
    if not shown.strip():
        return "–"  # noqa: RUF001
    fence = "`" * (_longest_row(shown) + 1)
    pad = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def cell(text: str, limit: int = 160) -> str:
    """:func:`code` for a table, in which a bar ends the cell even inside code."""
    return code(text, limit).replace("|", "\\x7c")


def fenced(lines: Iterable[str], *, escaped: bool = False) -> list[str]:
    """``lines`` as a code block that their content cannot close."""
    shown = [line if escaped else UNICODE.safe(line, MAX_WIDTH) for line in lines]
    fence = "`" * max(3, 1 + max(map(_longest_row, shown), default=0))
    return [fence + "text", *shown, fence]


def kernel_needs_words(kernel: KernelResult) -> bool:
    return bool(kernel.known) or not kernel.verdict.as_expected


def _longest_row(text: str) -> int:
    return max((len(row) for row in re.findall("`+", text)), default=0)


def _title(run: RunResult) -> str:
    verdicts = Counter(kernel.verdict for kernel in run.kernels)
    tally = ", ".join(f"{verdicts[v]} {v}" for v in KernelVerdict if verdicts[v])
    parts = [f"{plural(len(run.kernels), 'kernel')}{': ' if tally else ''}{tally}"]
    if run.missing:
        parts.append(f"{len(run.missing)} missing")
    if run.interrupted:
        parts.append("interrupted")
    return f"### mptcp-harness: {', '.join(parts)}"


def table(run: RunResult, rows: int = MAX_ROWS) -> Iterator[str]:
    """A row for each kernel; if there are more than ``rows``, the worst come first."""
    yield ""
    yield "| kernel | release | IPv4 | IPv6 | verdict | reason |"
    yield "|---|---|---|---|---|---|"
    # Failing kernels must not be the ones that are omitted.
    for kernel in worst_first(run.kernels)[:rows] if len(run.kernels) > rows else run.kernels:
        known = f", {len(kernel.known)} known" if kernel.known else ""
        cells = (
            cell(kernel.name, 64),
            cell(kernel.release, 64),
            _family(kernel, Family.IPV4),
            _family(kernel, Family.IPV6),
            kernel.verdict if kernel.verdict.as_expected else f"**{kernel.verdict}**",
            "" if kernel.verdict.as_expected else cell(kernel.reason),
        )
        cells = (*cells[:4], cells[4] + known, cells[5])
        yield f"| {' | '.join(cells)} |"
    for name in run.missing[:rows]:
        yield f"| {cell(name, 64)} | | | | **missing** | |"
    left = max(0, len(run.kernels) - rows) + max(0, len(run.missing) - rows)
    if left:
        yield f"| and {plural(left, 'more kernel')} | | | | | |"


def _family(kernel: KernelResult, family: Family) -> str:
    result = kernel.families.get(family)
    if result is None or result.verdict is CheckVerdict.UNSUPPORTED:
        return "–"  # noqa: RUF001
    return result.verdict if result.verdict is CheckVerdict.PASS else f"**{result.verdict}**"


def _section(kernel: KernelResult) -> list[str]:
    lines = ["", f"#### {code(kernel.name, 64)}: {kernel.verdict}", ""]
    if not kernel.verdict.as_expected:
        lines.append(code(kernel.reason))
    if kernel.host:
        lines.append(f"tested on {code(kernel.host, 200)}")
    found = failures(kernel)
    if found:
        lines.append("")
    for failure in found[:MAX_FAILURES]:
        lines += _failure(failure)
    if len(found) > MAX_FAILURES:
        lines.append(f"- and {plural(len(found) - MAX_FAILURES, 'more check')}")
    missing = lost(kernel)
    if missing:
        never = f"{plural(len(missing), 'result')} missing, the first: "
        lines += ["", never + code(str(missing[0].key))]
    for incident in kernel.incidents[:MAX_INCIDENTS]:
        lines += _incident(incident)
    if len(kernel.incidents) > MAX_INCIDENTS:
        more = len(kernel.incidents) - MAX_INCIDENTS
        lines += ["", f"And {plural(more, 'more incident')}."]
    return lines


def _failure(failure: Failure) -> Iterator[str]:
    count = f"{failure.places} of {plural(failure.planned, 'place')}"
    known = f", {code(failure.known)}" if failure.known else ""
    yield f"- {code(failure.check, 64)}: {failure.verdict} at {count}{known}"
    variant = failure.variants[0]
    where = phrases([place for variant in failure.variants for place in variant.places])
    more = "; …" if len(where) > MAX_PHRASES else ""
    first = "first " if len(failure.variants) > 1 else ""
    told = (
        ("at", "; ".join(where[:MAX_PHRASES]) + more),
        (f"{first}what", variant.first.detail),
        (f"{first}expected", variant.first.expected),
        (f"{first}got", variant.first.got),
    )
    for label, text in told:
        if text:
            yield f"  - {label} {code(text)}"


def _incident(incident: Incident) -> Iterator[str]:
    known = f", {code(incident.known)}" if incident.known else ""
    yield ""
    yield f"{incident.kind}: {code(incident.title)}{known}"
    if incident.check:
        yield f"during {code(incident.check)}"
    lines = incident.excerpt.strip("\r\n").split("\n")
    shown = [line.rstrip("\r").expandtabs() for line in lines[:MAX_EXCERPT_LINES]]
    if len(lines) > MAX_EXCERPT_LINES:
        shown.append(f"… {plural(len(lines) - MAX_EXCERPT_LINES, 'more line')}")
    if any(line.strip() for line in shown):
        yield ""
        yield from fenced(shown)


def setting(run: RunResult) -> Iterator[str]:
    """The settings of the run, in one paragraph."""
    for note in run.notes[:5]:
        yield f"Note: {code(note)}"
        yield ""
    parts = [f"run {code(run.id, 64)}", code(printable(run.started), 64)]
    parts += [f"{code(run.accel, 32)}"] if run.accel else []
    parts += [f"QEMU {code(run.qemu, 32)}"] if run.qemu else []
    parts += [f"virtme-ng {code(run.virtme_ng, 32)}"] if run.virtme_ng else []
    parts += [f"seed {run.seed}"]
    parts += [f"mptcp-harness {code(run.harness_version, 32)}"] if run.harness_version else []
    yield ", ".join(parts)
