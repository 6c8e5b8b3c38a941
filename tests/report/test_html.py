# SPDX-License-Identifier: GPL-2.0-only
"""A run as HTML: one file that answers, in which nothing foreign acts or loads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import jinja2
import pytest

from guest import abi
from harness.report import html
from harness.report.page_data import MAX_TEXT, in_script
from harness.verdict import comparison
from harness.verdict.results import Incident, IncidentKind, KernelResult, Rounds, RunResult
from harness.verdict.verdicts import CheckVerdict, Family
from tests import factories
from tests.report import hostile

VOID = {"meta", "input", "line", "polyline", "circle"}
LOADS = {"link", "img", "iframe", "object", "embed", "form", "base", "audio", "video", "source"}


class Reader(HTMLParser):
    """Sees that elements are closed in order, and which there are with what in them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.policy = ""
        self.texts: list[tuple[str, dict[str, str | None], str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.seen.add(tag)
        self.attributes.update(found)
        self.links.add(found.get("href") or "#")
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        if tag in ("style", "script"):
            self.texts.append((tag, found, ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            tag, attributes, text = self.texts.pop()
            self.texts.append((tag, attributes, text + data))

    @property
    def data(self) -> Any:
        (text,) = (text for _, attributes, text in self.texts if attributes.get("id") == "data")
        return json.loads(text)


def read(run: RunResult, context: html.Context | None = None) -> Reader:
    reader = Reader()
    reader.feed(html.to_html(run, context))
    reader.close()
    return reader


RUNS = pytest.mark.parametrize(
    "run",
    [
        factories.run(*factories.four_kernels(), factories.crashed(factories.kernel("crashed"))),
        hostile.run(),
        factories.run(),
        replace(factories.run(KernelResult.infrastructure("x", "no")), interrupted=True),
    ],
    ids=["good and crashed", "hostile", "empty", "untested"],
)


@RUNS
def test_every_element_is_closed(run: RunResult) -> None:
    assert read(run).open == []


def test_the_index_of_a_site_is_safe_too() -> None:
    evil = hostile.EVIL
    entries = [html.Entry(evil, evil, "run-1.html", evil, good) for good in (True, False)]
    reader = Reader()
    reader.feed(html.index(entries, ()))
    assert reader.open == []
    assert "script-src 'none'" in reader.policy
    assert "script" not in reader.seen
    assert reader.links == {"#", "run-1.html"}


@RUNS
def test_nothing_is_loaded(run: RunResult) -> None:
    reader = read(run)
    assert not reader.seen & LOADS
    assert not reader.attributes & {"src", "srcset", "style", "action", "srcdoc", "background"}
    assert all(link.startswith("#") for link in reader.links)


@RUNS
def test_only_its_own_style_and_script_may_act(run: RunResult) -> None:
    reader = read(run)
    code = {tag: text for tag, attributes, text in reader.texts if "type" not in attributes}
    assert len(reader.texts) == 3
    allowed = dict(part.split(" ", 1) for part in reader.policy.split("; "))
    assert allowed.pop("default-src") == "'none'"
    assert allowed == {
        "style-src": f"'{digest(code['style'])}'",
        "script-src": f"'{digest(code['script'])}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not any(name.startswith("on") for name in reader.attributes)


def digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def test_no_text_is_put_into_the_page_as_markup_by_the_script() -> None:
    code = html._source("report.js")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(", code
    )


def test_no_control_character_is_left() -> None:
    text = html.to_html(hostile.run())
    assert all(char.isprintable() or char == "\n" for char in text)


def test_a_long_text_is_cut_and_says_so() -> None:
    long = factories.check(verdict=CheckVerdict.FAIL, got="x" * 1_000_000)
    run = factories.run(factories.failing(factories.kernel(), long))
    text = html.to_html(run)
    assert len(text) < 200_000
    assert f"({1_000_000 - MAX_TEXT} more characters)" in text


def test_data_cannot_end_their_element() -> None:
    evil = ["</script><!--", "&lt;", "\u2028\u2029"]
    text = in_script(evil)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == evil


def test_a_name_that_a_template_misspells_is_an_error() -> None:
    template = html._environment().from_string("{{ run.identity }}")
    with pytest.raises(jinja2.UndefinedError):
        template.render(run=factories.run())


def test_a_kernel_that_failed_stands_open_with_what_failed() -> None:
    bad = factories.check(verdict=CheckVerdict.FAIL, detail="too long", expected="96", got="104")
    text = html.to_html(factories.run(factories.failing(factories.kernel(), bad)))
    assert '<details class="kernel" id="k0" open>' in text
    assert "<dt>got</dt><dd><code>104</code></dd>" in text
    assert "mptcp-harness matrix -k debian-6.12 --check mptcp_info.readable --seed 20240612" in text


def test_how_often_it_failed_in_many_rounds_is_said() -> None:
    kernel = replace(factories.kernel(), rounds=Rounds(asked=9, done=9, failed=2))
    assert "9 rounds, 2 failed" in html.to_html(factories.run(kernel))


def test_a_kernel_that_passed_is_folded() -> None:
    text = html.to_html(factories.run(factories.kernel()))
    assert '<details class="kernel" id="k0">' in text


def test_the_line_of_an_incident_is_marked() -> None:
    text = html.to_html(factories.run(factories.crashed(factories.kernel())))
    assert "<mark>[    4.102544] Kernel panic - not syncing: sysrq triggered crash</mark>" in text


def test_the_line_is_marked_that_a_title_was_made_of() -> None:
    excerpt = "[ 1.0] before\n[ 2.0] WARNING: net/mptcp/pm.c:7 at rm_addr+0x80/0x90\n[ 2.1] after"
    title = "WARNING in rm_addr (net/mptcp/pm.c:7)"
    incident = Incident(IncidentKind.WARNING, title, "f00d", excerpt)
    kernel = replace(factories.kernel(), incidents=(incident,))
    text = html.to_html(factories.run(kernel))
    assert "<mark>[ 2.0] WARNING: net/mptcp/pm.c:7 at rm_addr+0x80/0x90</mark>" in text
    assert text.count("</mark>") == 1


def test_bytes_are_shown_field_by_field() -> None:
    raw = bytes(abi.MPTCP_INFO_LAYOUT.pack(mptcpi_token=0xABCD)).hex()
    bad = factories.check(verdict=CheckVerdict.FAIL, detail="mptcpi_token", got="43981", raw=raw)
    run = factories.run(factories.failing(factories.kernel(), bad))
    row = "<td>12</td><td><code>mptcpi_token</code></td><td><code>43981</code></td>"
    assert f'<tr class="hit">{row}</tr>' in html.to_html(run)
    data = read(run).data
    ((_, _, _, _, _, [variant]),) = data["kernels"][0]["failures"]
    [[type_, offset, values]] = variant[5]
    name, fields = data["structs"][type_]
    assert (name, offset) == ("mptcp_info", 0)
    assert dict(zip((f[0] for f in fields), values, strict=True))["mptcpi_token"] == "43981"


def test_a_check_that_passes_costs_a_letter() -> None:
    def size(names: int, kernels: int) -> int:
        results = [
            factories.check(f"mptcp_info.check_{n}", family=family)
            for n in range(names)
            for family in Family
        ]
        like = replace(factories.kernel(), families=factories.families(*results))
        run = factories.run(*(replace(like, name=f"k{n}") for n in range(kernels)))
        return len(html.to_html(run))

    assert (size(400, 20) - size(400, 10)) - (size(10, 20) - size(10, 10)) <= 390 * 2 * 10 + 100


def test_twenty_kernels_of_400_checks_have_less_than_a_megabyte() -> None:
    subjects = ("mptcp_info", "tcpinfo", "so_linger", "poll", "join", "pm", "fallback", "dss")
    raw = bytes(abi.MPTCP_INFO_LAYOUT.pack(mptcpi_token=7)).hex()
    kernels = []
    for number in range(20):
        results = [
            factories.check(
                f"{subjects[n % 8]}.property_number_{n}",
                CheckVerdict.FAIL if (n + number) % 20 == 0 else CheckVerdict.PASS,
                family=family,
                payload=payload,
                detail="mptcpi_token" if (n + number) % 20 == 0 else "",
                expected=f"{n}" * ((n + number) % 20 == 0),
                got=f"{number}" * ((n + number) % 20 == 0),
                raw=raw * ((n + number) % 20 == 0),
            )
            for n in range(400)
            for family in Family
            for payload in factories.PAYLOADS
        ]
        kernels.append(factories.failing(factories.kernel(f"kernel-{number}"), *results))
    assert len(html.to_html(factories.run(*kernels))) < 1_000_000


def changed(before: KernelResult, after: KernelResult) -> html.Context:
    difference = comparison.runs(factories.run(before), factories.run(after))
    return html.Context(difference, meanings={"mptcp_info.readable": "It can be read."})


def test_the_first_line_says_what_is_newly_wrong() -> None:
    good = replace(factories.kernel(), families=factories.families(factories.check()))
    bad = factories.failing(good, factories.check(verdict=CheckVerdict.FAIL))
    text = html.to_html(factories.run(bad), changed(good, bad))
    assert '<span id="answer">1 of 1 kernel is newly wrong: debian-6.12.</span>' in text
    assert re.search(r'<td class="fail[a-z ]* fresh"', text)
    assert "mptcp_info.readable: newly failing at 1 of 1 place" in text
    assert "It can be read." in text


def test_what_was_wrong_before_is_not_new() -> None:
    bad = factories.failing(factories.kernel(), factories.check(verdict=CheckVerdict.FAIL))
    text = html.to_html(factories.run(bad), changed(bad, bad))
    assert "Nothing is newly wrong." in text
    assert "1 of 1 kernel is still wrong: debian-6.12" in text
    assert '<header class="bad">' in text
    assert "fresh" not in re.sub(r"(?s)<style>.*?</style>|<ul class=.legend.*?</ul>", "", text)


def test_the_worst_kernel_is_on_top() -> None:
    good, crashed = factories.kernel("good"), factories.crashed(factories.kernel("crashed"))
    text = html.to_html(factories.run(good, crashed))
    assert text.index('<a href="#k0">crashed') < text.index('<a href="#k1">good')
