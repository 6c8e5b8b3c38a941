# SPDX-License-Identifier: GPL-2.0-only
"""A run as one HTML file that loads nothing: a page that answers, and a script that sorts.

Without the script the page can be read as a whole. All text of the guest, the image and the
manifest is escaped by the template engine, with invisible characters made visible. The page's own
policy lets only its own style and script act, each by its hash.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.records.summaries import RunSummary
from harness.report import page_data
from harness.report.features import feature_map
from harness.report.fields import decode
from harness.report.overview import SYMBOLS, Mark, Overview, answer, overview
from harness.report.page_data import cut
from harness.report.trends import trends
from harness.text import plural
from harness.verdict.comparison import RunDifference
from harness.verdict.failures import Failure, Variant, failures, lost, phrases
from harness.verdict.results import KernelResult, RunResult
from harness.verdict.verdicts import KernelVerdict

#: Of what is shown without the script; with it, a cell shows all.
MAX_FAILURES = 10
MAX_VARIANTS = 3
MAX_PHRASES = 8


@dataclass(frozen=True)
class Context:
    """The contents of a report besides its run.

    ``difference`` is what changed; ``since`` says since when, if that is not one run. ``runs`` are
    the last runs, oldest first, and ``meanings`` has a sentence for each check.
    """

    difference: RunDifference | None = None
    since: str = ""
    runs: Sequence[RunSummary] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """The ``text`` of a page, and what its first line says."""

    text: str
    sentence: str
    good: bool


def to_html(run: RunResult, context: Context | None = None) -> str:
    """``run`` as HTML; all foreign text is escaped."""
    return page(run, context or Context()).text


def page(run: RunResult, context: Context) -> Page:
    """The page of ``run``."""
    shown = overview(run, context.difference)
    said = answer(run, shown, context.difference, context.since)
    text = _rendered(
        "report.html",
        "report.js",
        run=run,
        answer=said,
        overview=shown,
        verdicts=_verdicts(shown),
        features=feature_map(run),
        history=trends(context.runs),
        setting=_setting(run),
        data=Markup(page_data.page_data(run, shown, context.meanings)),  # noqa: S704
    )
    return Page(text, said.sentence, said.good)


@dataclass(frozen=True)
class Entry:
    """A run in the index of a site: its ``file`` beside it, and what its page says first."""

    id: str
    started: str
    file: str
    sentence: str
    good: bool


def index(entries: Sequence[Entry], runs: Sequence[RunSummary]) -> str:
    """The index of a site, the newest run first; ``runs`` are the last ones, oldest first."""
    return _rendered("index.html", "", entries=entries, history=trends(runs))


def _rendered(name: str, script: str, **values: Any) -> str:
    """The template ``name`` with the common style, and with the file ``script``, if any."""
    style, code = _source("report.css"), _source(script) if script else ""
    text = (
        _environment()
        .get_template(name)
        .render(
            **values,
            style=Markup(style),  # noqa: S704  (files of this package)
            script=Markup(code),  # noqa: S704
            policy=policy(style, code),
        )
    )
    return text + "\n"


def policy(style: str, script: str) -> str:
    """A Content-Security-Policy under which nothing but these two acts, and nothing is loaded."""
    scripts = f"'{_hash(script)}'" if script else "'none'"
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src {scripts}; "
        f"base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        about=page_data.about,
        excerpt=page_data.excerpt,
        failures=_shown_failures,
        known_failures=lambda kernel: [each for each in failures(kernel) if each.known],
        lost=lost,
        named=lambda detail: re.split(r"\W+", detail[:1000]),
        marks=[(mark, SYMBOLS[mark]) for mark in Mark if mark is not Mark.ABSENT],
        more_failures=lambda kernel: max(0, len(_counting(kernel)) - MAX_FAILURES),
        plural=plural,
        repeat=page_data.repeat_command,
        style_of=_style_of,
        variants=_shown_variants,
    )
    return environment


def _visible(value: Any) -> Any:
    """The value of an expression in the page; numbers, and the engine's own text, stay."""
    return cut(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _source(name: str) -> str:
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


def _verdicts(shown: Overview) -> list[KernelVerdict]:
    found = {row.kernel.verdict for row in shown.rows}
    return [verdict for verdict in KernelVerdict if verdict in found]


def _style_of(verdict: KernelVerdict) -> str:
    if verdict is KernelVerdict.UNSUPPORTED:
        return "unsupported"
    if verdict.as_expected:
        return "pass"
    weak = verdict in (KernelVerdict.WARNING, KernelVerdict.INFRASTRUCTURE)
    return "error" if weak else "fail"


def _counting(kernel: KernelResult) -> list[Failure]:
    return [failure for failure in failures(kernel) if not failure.known]


def _shown_failures(kernel: KernelResult) -> list[Failure]:
    return _counting(kernel)[:MAX_FAILURES]


def _shown_variants(kernel: KernelResult, failure: Failure) -> Iterator[tuple[str, Variant, Any]]:
    """The places of each variant, the variant, and its decoded bytes."""
    for variant in failure.variants[:MAX_VARIANTS]:
        where = phrases(variant.places)
        more = "; …" if len(where) > MAX_PHRASES else ""
        first = variant.first
        yield (
            "; ".join(where[:MAX_PHRASES]) + more,
            variant,
            decode(failure.check, first.detail, first.raw, kernel.arch),
        )


def _setting(run: RunResult) -> list[tuple[str, str]]:
    return [
        ("run", run.id),
        ("started", run.started),
        ("finished", run.finished or "interrupted"),
        ("accelerator", run.accel),
        ("QEMU", run.qemu),
        ("virtme-ng", run.virtme_ng),
        ("seed", str(run.seed)),
        ("host", run.host),
        ("mptcp-harness", run.harness_version),
        ("results in", run.directory),
    ]
