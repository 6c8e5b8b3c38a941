# SPDX-License-Identifier: GPL-2.0-only
"""A run as one HTML file that loads nothing and contains no scripts."""

from __future__ import annotations

import html
from collections.abc import Iterator

from harness.text import plural, printable
from harness.verdict.failures import Failure, failures, lost, phrases
from harness.verdict.results import CheckVerdict, Family, Incident, KernelResult, RunResult

MAX_TEXT = 4096
MAX_PHRASES = 8
MAX_EXCERPT_LINES = 200

STYLE = """\
body { font: 15px/1.45 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3em .7em; border-bottom: 1px solid #ccc; vertical-align: top; }
code, pre { font: 13px/1.4 monospace; }
pre { background: #f4f4f4; padding: .7em; overflow-x: auto; }
.good { color: #17692f; } .bad { color: #b3161f; font-weight: bold; } .dim { color: #666; }
summary { cursor: pointer; margin: .6em 0; font-weight: bold; }
"""


def to_html(run: RunResult) -> str:
    """``run`` as HTML; all foreign text is escaped."""
    return "\n".join(_page(run)) + "\n"


def _page(run: RunResult) -> Iterator[str]:
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    # Even text that was left unescaped by mistake must not run or load anything.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>mptcp-harness {_text(run.id)}</title>"
    yield f"<style>\n{STYLE}</style></head><body>"
    yield f"<h1>mptcp-harness: {plural(len(run.kernels), 'kernel')}</h1>"
    yield from _table(run)
    for kernel in run.kernels:
        yield from _kernel(kernel)
    for note in run.notes:
        yield f"<p>Note: {_text(note)}</p>"
    yield f'<p class="dim">{_setting(run)}</p>'
    yield "</body></html>"


def _setting(run: RunResult) -> str:
    parts = [
        f"run {_text(run.id)}",
        f"{_text(run.started)} to {_text(run.finished) or 'its interruption'}",
        _text(run.accel),
        f"QEMU {_text(run.qemu)}",
        f"virtme-ng {_text(run.virtme_ng)}",
        f"seed {run.seed}",
        _text(run.host),
        f"mptcp-harness {_text(run.harness_version)}",
    ]
    return ", ".join(filter(None, parts))


def _table(run: RunResult) -> Iterator[str]:
    names = list(dict.fromkeys(name for kernel in run.kernels for name in kernel.capabilities))
    heads = ["kernel", "release", *names[:32], "IPv4", "IPv6", "verdict", "seconds"]
    yield "<table><thead><tr>"
    yield "".join(f"<th>{_text(head)}</th>" for head in heads)
    yield "</tr></thead><tbody>"
    for kernel in run.kernels:
        there = [_mark(kernel.capabilities.get(name)) for name in names[:32]]
        known = f", {len(kernel.known)} known" if kernel.known else ""
        cells = [
            _text(kernel.name),
            _text(kernel.release),
            *there,
            _family(kernel, Family.IPV4),
            _family(kernel, Family.IPV6),
            f"{_verdict(kernel)}{known}",
            "reused" if kernel.reused_from else f"{kernel.timing.total_s:.1f}",
        ]
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    for name in run.missing:
        yield f'<tr><td>{_text(name)}</td><td class="bad" colspan="{len(heads) - 1}">missing</td>'
        yield "</tr>"
    yield "</tbody></table>"


def _mark(present: bool | None) -> str:
    return '<span class="dim">–</span>' if present is None else "yes" if present else "no"  # noqa: RUF001


def _verdict(kernel: KernelResult) -> str:
    style = "good" if kernel.verdict.as_expected else "bad"
    return f'<span class="{style}">{kernel.verdict}</span>'


def _family(kernel: KernelResult, family: Family) -> str:
    result = kernel.families.get(family)
    if result is None or result.verdict is CheckVerdict.UNSUPPORTED:
        return '<span class="dim">–</span>'  # noqa: RUF001
    style = "bad" if result.verdict.is_bad else "good"
    return f'<span class="{style}">{result.verdict}</span>'


def _kernel(kernel: KernelResult) -> Iterator[str]:
    opened = "" if kernel.verdict.as_expected else " open"
    yield f"<details{opened}><summary>{_text(kernel.name)}: {_verdict(kernel)}</summary>"
    if kernel.reason:
        yield f"<p>{_text(kernel.reason)}</p>"
    found = failures(kernel)
    if found:
        yield "<ul>"
        for failure in found:
            yield from _failure(failure)
        yield "</ul>"
    missing = lost(kernel)
    if missing:
        yield f"<p>{plural(len(missing), 'result')} missing, the first: "
        yield f"<code>{_text(str(missing[0].key))}</code></p>"
    for incident in kernel.incidents:
        yield from _incident(incident)
    for note in kernel.notes:
        yield f"<p>Note: {_text(note)}</p>"
    about = (kernel.origin, kernel.version, f"sha256 {kernel.image_sha256}", kernel.accel)
    yield f'<p class="dim">{_text(", ".join(filter(None, about)))}</p>'
    yield "</details>"


def _failure(failure: Failure) -> Iterator[str]:
    count = f"{failure.places} of {plural(failure.planned, 'place')}"
    known = f", {_text(failure.known)}" if failure.known else ""
    yield f"<li><code>{_text(failure.check)}</code>: {failure.verdict} at {count}{known}<dl>"
    for variant in failure.variants:
        where = phrases(variant.places)
        more = "; …" if len(where) > MAX_PHRASES else ""
        told = (
            ("at", "; ".join(where[:MAX_PHRASES]) + more),
            ("what", variant.first.detail),
            ("expected", variant.first.expected),
            ("got", variant.first.got),
            ("raw", variant.first.raw),
        )
        for label, text in told:
            if text:
                yield f"<dt>{label}</dt><dd><code>{_text(text)}</code></dd>"
    yield "</dl></li>"


def _incident(incident: Incident) -> Iterator[str]:
    known = f", {_text(incident.known)}" if incident.known else ""
    during = f", during <code>{_text(incident.check)}</code>" if incident.check else ""
    yield f"<p>{incident.kind}: <code>{_text(incident.title)}</code>{during}{known}, "
    yield f"fingerprint <code>{_text(incident.fingerprint)}</code></p>"
    lines = incident.excerpt.strip("\r\n").split("\n")
    shown = [_text(line.rstrip("\r").expandtabs()) for line in lines[:MAX_EXCERPT_LINES]]
    if len(lines) > MAX_EXCERPT_LINES:
        shown.append(f"… {plural(len(lines) - MAX_EXCERPT_LINES, 'more line')}")
    yield "<pre>" + "\n".join(shown) + "</pre>"


def _text(text: str) -> str:
    return html.escape(printable(text[:MAX_TEXT]))
