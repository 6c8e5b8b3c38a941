# SPDX-License-Identifier: GPL-2.0-only
"""In GitHub Actions: the step's summary, annotations, and a log that the guest cannot command."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli import ci
from harness.nightly.results import Night, Selftest
from harness.report import nightly
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import CheckVerdict
from tests import factories

BAD = factories.failing(factories.kernel(), factories.check("x.y", CheckVerdict.FAIL))


@pytest.fixture
def summary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return tmp_path / "summary"


def test_a_run_is_added_to_the_summary_and_annotated(
    summary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary.write_text("before\n")
    ci.report_run(factories.run(BAD))
    assert summary.read_text().startswith("before\n### mptcp-harness: 1 kernel: 1 fail\n")
    assert capsys.readouterr().out.startswith("::error title=debian-6.12%3A x.y::")


@pytest.mark.usefixtures("summary")
def test_a_good_run_has_no_annotation(capsys: pytest.CaptureFixture[str]) -> None:
    ci.report_run(factories.run(factories.kernel()))
    assert capsys.readouterr().out == ""


def test_elsewhere_there_is_neither(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    with ci.no_commands():
        ci.report_run(factories.run(BAD))
    assert capsys.readouterr() == ("", "")


def many(count: int) -> list[KernelResult]:
    checks = [factories.check(f"x.y{n}", CheckVerdict.FAIL, detail="d" * 500) for n in range(50)]
    one = factories.failing(factories.kernel(), *checks)
    return [replace(one, name=f"kernel-{n}") for n in range(count)]


@pytest.mark.parametrize(("before", "kernels"), [(0, 400), (900_000, 150)])
def test_a_summary_is_never_larger_than_github_takes(
    summary: Path, before: int, kernels: int
) -> None:
    summary.write_bytes(b"x" * before)
    worst = factories.crashed(factories.kernel("crashed"))
    ci.report_run(factories.run(*many(kernels), worst))
    text = summary.read_text()[before:]
    assert 100_000 < len(text) + before <= ci.MAX_SUMMARY
    assert text.index("`crashed`") < text.index("`kernel-0`"), "the worst comes first"
    assert re.search(r"\| and [0-9]+ more kernels \|", text)
    assert re.search(r"No room for [0-9]+ more kernels with details", text)


def test_a_summary_without_room_is_left_out_with_a_warning(
    summary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary.write_bytes(b"x" * (ci.MAX_SUMMARY - 100))
    ci.report_run(factories.run(BAD))
    assert summary.stat().st_size == ci.MAX_SUMMARY - 100
    assert "has no room for more" in capsys.readouterr().err


def test_a_night_that_has_no_room_is_left_out(
    summary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report of a night has its own limit, which may be more than what is left."""
    monkeypatch.setattr(nightly, "to_markdown", lambda _: "x" * 5001)
    summary.write_bytes(b"x" * (ci.MAX_SUMMARY - 5000))
    ci.report_night(Night("kernels.yaml", Selftest(skipped=True), factories.run()))
    assert summary.stat().st_size == ci.MAX_SUMMARY - 5000
    assert "has no room for more" in capsys.readouterr().err


def test_a_summary_that_cannot_be_written_is_a_warning(
    summary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary.mkdir()
    ci.report_run(factories.run(BAD))
    shown = capsys.readouterr()
    assert "warning: no summary: " in shown.err
    assert shown.out.startswith("::error ")


@pytest.mark.usefixtures("summary")
def test_the_log_of_a_run_is_no_command_until_the_token_of_this_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = set()
    for _ in range(2):
        with ci.no_commands():
            sys.stdout.write("::error::of a guest\n")
        start, _, end = capsys.readouterr().out.splitlines()
        token = start.removeprefix("::stop-commands::")
        assert re.fullmatch("[0-9a-f]{32}", token)
        assert end == f"::{token}::"
        tokens.add(token)
    assert len(tokens) == 2


@pytest.mark.usefixtures("summary")
def test_commands_are_read_again_after_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), ci.no_commands():
        raise KeyError
    start, end = capsys.readouterr().out.splitlines()
    assert end == f"::{start.removeprefix('::stop-commands::')}::"


def test_an_interrupted_run_says_what_was_not_tested(
    summary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ci.report_run(replace(factories.run(), missing=("a", "b"), interrupted=True))
    assert "::error title=2 kernels not tested::a, b" in capsys.readouterr().out
    assert "**missing**" in summary.read_text()
