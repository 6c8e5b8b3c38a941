# SPDX-License-Identifier: GPL-2.0-only
"""What a person sees on pytest's terminal while a kernel boots."""

from __future__ import annotations

from typing import Any

import pytest

from harness.pytest_plugin.active import _Terminal


class Reporter:
    """What the terminal of pytest's reporter shows, line by line, as a terminal would."""

    def __init__(self, *, isatty: bool = True, verbosity: int = 0) -> None:
        self.isatty = isatty
        self.verbosity = verbosity
        self.showfspath = True
        self.currentfspath: str | None = "kernels.yaml"
        self.lines = ["kernels.yaml "]
        self.column = len(self.lines[0])
        self._tw = self
        self.fullwidth = 40

    def write(self, text: str, flush: bool = False) -> None:
        for part in text.splitlines(keepends=True) or [text]:
            if part == "\r":
                self.column = 0
                continue
            line = self.lines[-1]
            self.lines[-1] = line[: self.column] + part + line[self.column + len(part) :]
            self.column += len(part)

    def rewrite(self, text: str) -> None:
        self.write("\r")
        self.write(text)

    def ensure_newline(self) -> None:
        if self.currentfspath:
            self._next()
            self.currentfspath = None

    def write_line(self, text: str) -> None:
        self.ensure_newline()
        self.write(text)
        self._next()

    def write_fspath_result(self, nodeid: str, result: str) -> None:
        self.currentfspath = nodeid.partition("::")[0]
        self._next()
        self.write(f"{self.currentfspath} {result}")

    def _next(self) -> None:
        self.lines.append("")
        self.column = 0

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


def terminal(reporter: Reporter | None) -> _Terminal:
    plugins: dict[str, Any] = {"terminalreporter": reporter, "capturemanager": None}
    manager: Any = type("Manager", (), {"get_plugin": lambda _, name: plugins[name]})
    config: Any = type("Config", (), {"pluginmanager": manager()})
    made = _Terminal(config)
    made.nodeid = "kernels.yaml::good::kernel"
    return made


def test_the_stage_is_replaced_and_lines_stay() -> None:
    reporter = Reporter()
    made = terminal(reporter)
    made.line("good: booting")
    made.now("good: checking 10/20")
    made.now("good: checking 9/9")
    assert reporter.shown == ["kernels.yaml", "good: booting", "good: checking 9/9"]
    made.line("good: pass")
    made.end()
    assert reporter.shown == ["kernels.yaml", "good: booting", "good: pass", "kernels.yaml"]


def test_a_stage_that_is_too_long_stays_on_its_line() -> None:
    reporter = Reporter()
    terminal(reporter).now("x" * 100)
    assert reporter.shown[-1] == "x" * 39


def test_nothing_is_replaced_where_there_is_no_terminal() -> None:
    reporter = Reporter(isatty=False)
    made = terminal(reporter)
    made.now("good: checking 10/20")
    made.line("good: pass")
    assert reporter.shown == ["kernels.yaml", "good: pass"]


@pytest.mark.parametrize("reporter", [None, Reporter(verbosity=-1)])
def test_nothing_is_shown_to_who_wants_nothing(reporter: Reporter | None) -> None:
    made = terminal(reporter)
    made.line("good: booting")
    made.now("good: checking")
    made.end()
    assert reporter is None or reporter.shown == ["kernels.yaml"]
