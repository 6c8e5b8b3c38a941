# SPDX-License-Identifier: GPL-2.0-only
"""``mptcp-harness bisect``: arguments in, exit status out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.bisect import bisection, candidates
from harness.bisect.predicate import Checks
from harness.bisect.results import Bisection, Ending
from harness.errors import Busy
from harness.kernels import Cache
from tests.bisect.simulated import SERIES

MANIFEST = """\
kernels:
  - name: mainline-6.6
    upstream: v6.6
  - name: mainline-6.8
    upstream: v6.8
"""
ENDS = ("--good", "mainline-6.6", "--bad", "mainline-6.8")

Bisect = Callable[..., int]


@pytest.fixture
def bisect(tmp_path: Path) -> Bisect:
    path = tmp_path / "kernels.yaml"
    path.write_text(MANIFEST)
    return lambda *words: cli.main(["bisect", str(path), "--cache", str(tmp_path / "c"), *words])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the runner, which answers that nothing differs, was called with."""
    calls: list[Any] = []

    def stand_in(*given: object, **_: object) -> Bisection:
        calls.append(given)
        return Bisection(Ending.NO_DIFFERENCE, "--any", False, 2, (), 0, 2, 0, 9.0, "both are good")

    monkeypatch.setattr(bisection, "bisect", stand_in)
    return calls


def test_both_ends_are_wanted(bisect: Bisect, capsys: pytest.CaptureFixture[str]) -> None:
    assert bisect("--good", "mainline-6.6") == 2
    assert "--good and --bad" in capsys.readouterr().err


def test_an_unknown_kernel_is_an_error_in_the_arguments(
    bisect: Bisect, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect("--good", "mainline-6.7", "--bad", "mainline-6.8") == 2
    assert "did you mean mainline-6." in capsys.readouterr().err


def test_a_check_that_there_is_not_is_an_error_in_the_arguments(
    bisect: Bisect, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect(*ENDS, "--check", "full_infoo.*") == 2
    assert "matches no check and no capability.NAME" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["capability.full_info", "mptcp_info.*"])
def test_a_check_or_a_capability_is_looked_for(
    bisect: Bisect, asked: list[Any], pattern: str
) -> None:
    assert bisect(*ENDS, "--check", pattern) == 1
    series, wanted = asked[0][:2]
    assert [kernel.release for kernel in series.candidates] == ["6.6", "6.8"]
    assert wanted == Checks((pattern,))


def test_how_it_ended_is_printed_and_written(
    bisect: Bisect, asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bisect(*ENDS, "--any", "--json", str(tmp_path / "b.json"))
    assert "no answer (no-difference): both are good" in capsys.readouterr().out
    assert json.loads((tmp_path / "b.json").read_text())["text"] == "both are good"


def test_a_json_file_that_cannot_be_written_is_refused_before_anything_is_booted(
    bisect: Bisect, asked: list[Any], tmp_path: Path
) -> None:
    assert bisect(*ENDS, "--any", "--json", str(tmp_path / "no" / "b.json")) == 2
    assert asked == []


def test_boundaries_are_of_all_changes(bisect: Bisect) -> None:
    assert bisect("--boundaries", "--any") == 2


def test_the_series_is_asked_for_by_its_names(
    bisect: Bisect, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def between(_: object, good: str, bad: str, cache: Cache, say: object) -> candidates.Series:
        assert (good, bad) == ("a", "b")
        return SERIES

    monkeypatch.setattr(candidates, "between", between)
    bisect("--good", "a", "--bad", "b", "--confirm", "3", "-j", "4")
    series, wanted, request = asked[0][:3]
    assert (series, wanted, request.confirm, request.jobs) == (SERIES, None, 3, 4)


def test_no_fingerprint_is_not_the_beginning_of_all(bisect: Bisect, asked: list[Any]) -> None:
    assert bisect(*ENDS, "--incident", "") == 2
    assert asked == []


def test_two_at_the_same_bisect_are_no_wrong_argument(
    bisect: Bisect, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def busy(*_: object, **__: object) -> Bisection:
        raise Busy("another harness is at the same bisect: wait for it")

    monkeypatch.setattr(bisection, "bisect", busy)
    assert bisect(*ENDS, "--any") == 3
    assert "another harness" in capsys.readouterr().err
