# SPDX-License-Identifier: GPL-2.0-only
"""Runs whose kernels fail, from end to end but for the boots."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from harness.bundle import Bundles, archive, load, place
from harness.records.store import FILE, Store
from harness.run.request import Progress
from harness.verdict.results import BootEnd, RunResult
from tests import fake_boots
from tests.fake_boots import GOOD, Outcomes

HUNG = replace(GOOD, end=BootEnd.SILENCE_DEADLINE, stream=replace(GOOD.stream, closed=False))


@pytest.fixture
def outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outcomes:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = Outcomes(tmp_path)
    made.install(monkeypatch.setattr)
    made.of["kernel-1"] = HUNG
    return made


def run(outcomes: Outcomes, *heard: list[Progress], **request: object) -> RunResult:
    chosen = fake_boots.asking(jobs=1, **request)
    listener = heard[0].append if heard else lambda _: None
    stop = threading.Event()
    return fake_boots.run(outcomes.directory, fake_boots.entries(2), listener, chosen, stop)


def test_a_kernel_that_fails_leaves_a_bundle(outcomes: Outcomes) -> None:
    done = run(outcomes, seed=5)
    found = load(place(Path(done.directory), "kernel-1"))
    assert (found.entry.name, found.asked.seed) == ("kernel-1", 5)
    assert found.result.reason == done.kernels[1].reason


def test_a_kernel_that_passes_leaves_none(outcomes: Outcomes) -> None:
    done = run(outcomes)
    assert not place(Path(done.directory), "kernel-0").exists()


def test_every_attempt_is_in_the_bundle(outcomes: Outcomes) -> None:
    done = run(outcomes, confirm=1)
    assert len(load(place(Path(done.directory), "kernel-1")).result.attempts) == 2


def test_the_result_is_in_the_store_before_there_is_a_bundle(
    outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = []

    def look(*_: object) -> str:
        with Store(outcomes.directory / "state" / "mptcp-harness" / FILE) as store:
            stored.append([kept.kernel for kept in store.results(store.runs()[0].id)])
        return ""

    monkeypatch.setattr(Bundles, "keep", look)
    run(outcomes)
    assert stored[-1] == ["kernel-0", "kernel-1"]


def test_a_bundle_that_cannot_be_written_is_a_note_on_a_run_that_goes_on(
    outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(archive, "write", full)
    heard: list[Progress] = []
    done = run(outcomes, heard)
    said = "kernel-1 failed, but its bundle could not be made: No space left on device"
    assert said in done.notes
    assert said in [progress.detail for progress in heard]
    assert len(done.kernels) == 2
