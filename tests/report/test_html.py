# SPDX-License-Identifier: GPL-2.0-only
"""A run as HTML: one file, nothing in it runs or loads, every element closed."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from harness.report import html
from harness.verdict.results import CheckVerdict, RunResult
from tests import factories
from tests.report import hostile

VOID = {"meta"}


class Reader(HTMLParser):
    """Sees that elements are closed in order, and which there are."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(run: RunResult) -> Reader:
    reader = Reader()
    reader.feed(html.to_html(run))
    reader.close()
    return reader


RUNS = pytest.mark.parametrize(
    "run",
    [
        factories.run(*factories.four_kernels(), factories.crashed(factories.kernel("crashed"))),
        hostile.run(),
    ],
    ids=["good and crashed", "hostile"],
)


@RUNS
def test_every_element_is_closed(run: RunResult) -> None:
    assert read(run).open == []


@RUNS
def test_nothing_runs_and_nothing_is_loaded(run: RunResult) -> None:
    reader = read(run)
    assert not reader.seen & {"script", "link", "img", "iframe", "object", "a", "form"}
    assert reader.attributes <= {
        *("lang", "charset", "http-equiv", "content", "class", "colspan", "open"),
    }


def test_no_control_character_is_left() -> None:
    text = html.to_html(hostile.run())
    assert all(char.isprintable() or char == "\n" for char in text)


def test_a_kernel_that_failed_stands_open_with_what_failed() -> None:
    bad = factories.check(verdict=CheckVerdict.FAIL, detail="too long", expected="96", got="104")
    text = html.to_html(factories.run(factories.failing(factories.kernel(), bad)))
    assert "<details open>" in text
    assert "<dt>got</dt><dd><code>104</code></dd>" in text


def test_a_kernel_that_passed_is_folded() -> None:
    assert "<details open>" not in html.to_html(factories.run(factories.kernel()))
