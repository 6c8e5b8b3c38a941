# SPDX-License-Identifier: GPL-2.0-only
"""``mptcp-harness bisect``: arguments in, exit status out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.bisect import bisection, candidates
from harness.bisect.predicate import Checks
from harness.bisect.results import Bisection, Ending
from harness.cli.bisect import UNFINISHED
from harness.errors import Busy
from harness.kernels import Cache
from tests.bisect.histories import git, line, make
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
def bisect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bisect:
    path = tmp_path / "kernels.yaml"
    path.write_text(MANIFEST)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return lambda *words: cli.main(["bisect", str(path), "--cache", str(tmp_path / "c"), *words])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the runner, which answers that nothing differs, was called with."""
    calls: list[Any] = []

    def stand_in(*given: object, onward: object = None, **_: object) -> Bisection:
        calls.append((*given, onward))
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


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    make(tmp_path / "linux", line("good", "bad"))
    return tmp_path / "linux"


def test_a_clone_is_gone_on_in(
    bisect: Bisect, asked: list[Any], clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone.parent)
    bisect(*ENDS, "--any", "--repo", "linux")
    assert asked[0][-1].clone == str(clone)
    bisect(*ENDS, "--any", "--repo", clone.as_uri())
    assert asked[1][-1].clone == clone.as_uri()
    bisect(*ENDS, "--any")
    assert asked[2][-1] is None


def test_what_is_no_clone_of_linux_is_refused_before_anything_is_booted(
    bisect: Bisect, asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect(*ENDS, "--any", "--repo", str(tmp_path / "none")) == 2
    assert f"--repo {tmp_path / 'none'}: there is no such dir" in capsys.readouterr().err
    assert bisect(*ENDS, "--any", "--repo", str(tmp_path)) == 2
    assert "is not in a git repository" in capsys.readouterr().err
    assert bisect(*ENDS, "--any", "--repo", "file:///none") == 3
    assert "cannot be cloned" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        bisect(*ENDS, "--any", "--repo", "")
    other = tmp_path / "other"
    other.mkdir()
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        git(other, "-c", "user.name=x", "-c", "user.email=x@example.org", *words)
    assert bisect(*ENDS, "--any", "--repo", str(other)) == 2
    assert "is not a kernel: it lacks Kbuild" in capsys.readouterr().err
    assert bisect("--boundaries", "--repo", str(other)) == 2
    assert asked == []


def test_an_unfinished_bisect_is_continued_with_its_arguments(
    bisect: Bisect,
    clone: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails if --resume forgets an argument, or goes on with a bisect that ended."""
    calls: list[Any] = []
    endings = [Ending.INTERRUPTED, Ending.NO_DIFFERENCE]

    def stand_in(*given: object, **more: object) -> Bisection:
        calls.append((given[:3], more))
        return Bisection(endings[len(calls) - 1], "--any", False, 2, (), 0, 2, 0, 9.0, "x")

    monkeypatch.setattr(bisection, "bisect", stand_in)
    words = ("--check", "mptcp_info.*", "--confirm", "2", "--family", "ipv6", "-j", "3")
    assert bisect(*ENDS, *words, "--repo", str(clone)) == 130
    monkeypatch.chdir(tmp_path.parent)
    capsys.readouterr()
    assert cli.main(["bisect", "--resume", "--cache", str(tmp_path / "c"), "-j", "1"]) == 1
    assert "continuing: mptcp-harness bisect" in capsys.readouterr().out
    (first, more), (second, resumed) = calls
    assert first[:2] == second[:2]
    assert replace(first[2], jobs=1) == second[2]
    assert more == resumed
    assert cli.main(["bisect", "--resume", "--cache", str(tmp_path / "c")]) == 2
    assert "nothing to resume: the last bisect ended" in capsys.readouterr().err


def test_resuming_takes_no_other_arguments(
    bisect: Bisect, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["bisect", "--resume", "--good", "x"]) == 2
    assert "omit --good" in capsys.readouterr().err
    (tmp_path / "state/mptcp-harness").mkdir(parents=True)
    (tmp_path / "state/mptcp-harness" / UNFINISHED).write_text('["--nonsense"]')
    assert cli.main(["bisect", "--resume"]) == 2
    assert "repeat the command without --resume" in capsys.readouterr().err
