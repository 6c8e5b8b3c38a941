# SPDX-License-Identifier: GPL-2.0-only
"""The report of a nightly: one text for a terminal or a log, one in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from email import policy
from email.message import EmailMessage

from harness.nightly.results import Compared, Night, RegressionBisect, Selftest
from harness.report import compare, markdown, table
from harness.report.terminal import UNICODE, Glyphs
from harness.selftest import faults
from harness.text import printable
from harness.verdict.results import KernelResult


def render(night: Night, glyphs: Glyphs, *, width: int = 100, colour: bool = False) -> str:
    """``night`` as text: new findings first, the whole table last."""
    lines = [
        f"nightly of {glyphs.safe(night.manifest, 200)}, {night.run.started}: {night.summary}",
        *(f"note: {glyphs.safe(note)}" for note in night.notes),
        *_selftest(night.selftest, glyphs),
        *(line for section in _sections(night, glyphs) for line in ("", *section)),
        "",
    ]
    text = table.render(night.run, width=width, colour=colour, unicode=glyphs.unicode)
    return "".join(f"{line}\n" for line in lines) + text


def to_markdown(night: Night) -> str:
    """``night`` for a mail or a merge-request comment; at most markdown.MAX_BYTES."""
    head = [
        f"### mptcp-harness nightly: {night.summary}",
        "",
        f"{markdown.code(night.manifest)}, {markdown.code(night.run.started, 64)}",
        "",
        *markdown.table(night.run),
    ]
    parts = [list(_selftest(night.selftest, UNICODE)), *_sections(night, UNICODE)]
    sections = [["", *markdown.fenced(lines, escaped=True)] for lines in parts]
    notes = [f"Note: {markdown.code(note)}  " for note in night.notes]
    return markdown.bounded(head, sections, ["", *notes, *markdown.setting(night.run)])


def to_mail(night: Night, page: str) -> EmailMessage:
    """``night`` as a mail: the text in it, and ``page``, its HTML, attached. Without addresses."""
    # No line longer than mail servers take, whatever the report holds.
    message = EmailMessage(policy.default.clone(cte_type="7bit"))
    message["Subject"] = printable(f"mptcp-harness nightly: {night.summary}")
    message.set_content(_encodable(render(night, UNICODE)))
    message.add_attachment(_encodable(page), subtype="html", filename="nightly.html")
    return message


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _selftest(found: Selftest, glyphs: Glyphs) -> Iterator[str]:
    if found.skipped:
        yield "selftest skipped (--no-selftest)"
    elif found.trouble:
        yield f"selftest could not run: {glyphs.safe(found.trouble, 2000)}"
    else:
        yield faults.summary(found.rows, found.wanted, found.seconds)
        yield from (faults.line(row) for row in found.rows if not row.ok)


def _sections(night: Night, glyphs: Glyphs) -> Iterator[list[str]]:
    """New findings first, one section each; then one list of those that are not new."""
    bisects = {bisect.kernel: bisect for bisect in night.bisects}
    for compared in night.regressions:
        lines = [f"NEW: {_against(compared, glyphs)}"]
        lines += _indented(compare.render(compared.difference, glyphs))
        if compared.kernel.name in bisects:
            lines += _bisect(bisects[compared.kernel.name], glyphs)
        yield lines
    for kernel in night.wrong_at_first:
        yield [f"NEW: {_state(kernel, glyphs)}; no earlier result to compare with"]
    if night.uncompared:
        yield [f"not compared with earlier nights: {glyphs.safe(night.uncompared)}"]
    for title, found in (
        ("still wrong, not worse", night.still_wrong),
        ("mended", night.better),
        ("not comparable", night.incomparable),
    ):
        if found:
            yield [f"{title}:", *(f"  {_against(c, glyphs)}" for c in found)]
    if night.untested:
        yield ["not tested:", *(f"  {_state(kernel, glyphs)}" for kernel in night.untested)]


def _against(compared: Compared, glyphs: Glyphs) -> str:
    before = compared.difference.before
    was = f"{before.verdict} in run {compared.run} of {compared.started}"
    why = compared.difference.cannot
    return f"{_state(compared.kernel, glyphs)}; {was}" + (f"; {glyphs.safe(why)}" if why else "")


def _state(kernel: KernelResult, glyphs: Glyphs) -> str:
    release = f" ({glyphs.safe(kernel.release, 80)})" if kernel.release else ""
    reason = f": {glyphs.safe(kernel.reason, 300)}" if not kernel.verdict.as_expected else ""
    return f"{glyphs.safe(kernel.name, 80)}{release} is {kernel.verdict}{reason}"


def _bisect(bisect: RegressionBisect, glyphs: Glyphs) -> Iterator[str]:
    sought = glyphs.safe(bisect.sought, 300)
    if bisect.why_not:
        yield f"  not bisected for {sought}: {glyphs.safe(bisect.why_not, 600)}"
    else:
        yield f"  bisected for {sought}:"
        yield from (f"    {glyphs.safe(line, 300)}" for line in bisect.answer)


def _indented(text: str) -> Sequence[str]:
    return [f"  {line}".rstrip() for line in text.splitlines()]
