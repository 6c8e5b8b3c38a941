# SPDX-License-Identifier: GPL-2.0-only
"""``mptcp-harness replay``: what it says, and the status it ends with."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness import cli
from harness.bundle import place
from harness.verdict.failures import Tried
from harness.verdict.verdicts import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from tests.fake_boots import GOOD, Outcomes
from tests.replay.conftest import NAME, Bench


@pytest.fixture
def bundle(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle, on a host that has all that is needed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(bench.directory / "state"))
    bench.bundle()
    fake = Outcomes(bench.directory)
    fake.install(monkeypatch.setattr)
    monkeypatch.setattr("harness.vm.boot.boot", bench.boot)
    return place(bench.directory / "run-then", NAME)


def replay(bench: Bench, *arguments: object) -> int:
    words = [str(argument) for argument in arguments]
    return cli.main(["replay", *words, "--cache", str(bench.cache.root)])


def test_a_failure_that_comes_again_is_status_1(
    bench: Bench, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(bench, bundle) == EXIT_FAILED
    said = capsys.readouterr().out
    assert "the same: fails in ipv4 payload.arrives" in said
    assert "the failure was reproduced in 1 of 1 boot\n" in said


def test_a_failure_that_stays_away_is_status_0(bench: Bench, bundle: Path) -> None:
    bench.outcomes = [GOOD]
    assert replay(bench, bundle) == EXIT_OK


def test_variations_end_in_a_conclusion(
    bench: Bench, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(bench, bundle, "--vary") == EXIT_FAILED
    assert len(bench.plans) == 6
    assert (
        "the failure depends on the kernel: it was reproduced in 6 of 6 boots"
        in capsys.readouterr().out
    )


def test_what_is_no_bundle_is_status_2(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("it failed again\n")
    assert replay(bench, text) == EXIT_USAGE
    assert capsys.readouterr().err.startswith(f"{text} is not a bundle, which is a .tar.zst")


def test_another_image_is_status_2(bench: Bench, bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"another")
    assert replay(bench, bundle, "--image", other) == EXIT_USAGE


def test_a_qemu_that_is_none_is_status_2(bench: Bench, bundle: Path, tmp_path: Path) -> None:
    assert replay(bench, bundle, "--qemu", tmp_path / "nothing") == EXIT_USAGE


def test_an_interrupted_replay_says_so(
    bench: Bench, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> tuple[Tried, ...]:
        os.kill(os.getpid(), signal.SIGINT)
        return ()

    monkeypatch.setattr("harness.replay.run", interrupted)
    assert replay(bench, bundle) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted before all boots were made\n"
