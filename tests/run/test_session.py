# SPDX-License-Identifier: GPL-2.0-only
"""A run from end to end, what is left of it when it is cut off, and how it is gone on with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundles
from harness.errors import HostError, UsageError
from harness.host import tools
from harness.manifest.kernels_yaml import ImageSource, KernelEntry
from harness.records import prune, reuse, stored_runs
from harness.records.store import FILE, Store
from harness.run import workspace
from harness.run.request import Progress, Stage
from harness.verdict.results import BootEnd, RunResult, exit_status
from harness.verdict.verdicts import EXIT_OK
from harness.vm import initramfs
from tests import fake_boots
from tests.fake_boots import GOOD, MANY, Outcomes

ROOT = Path(__file__).parents[2]
NAMES = ["kernel-0", "kernel-1", "kernel-2"]


class Desk:
    """Somebody who runs three kernels, and may press Ctrl-C when one of them is done."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outcomes = Outcomes(directory)
        self.entries = fake_boots.entries(3)
        self.heard: list[Progress] = []
        self.state = directory / "state" / "mptcp-harness"
        self.store = self.state / FILE
        self.home: str | None = str(directory / "state")

    def run(self, *, stop_after: str = "", **request: object) -> RunResult:
        stop = threading.Event()
        self.outcomes.booted.clear()
        self.heard.clear()

        def listener(progress: Progress) -> None:
            self.heard.append(progress)
            if progress.stage is Stage.DONE and progress.kernel == stop_after:
                stop.set()

        chosen = fake_boots.asking(jobs=1, **request)
        return fake_boots.run(self.directory, self.entries, listener, chosen, stop)

    def interrupted(self) -> RunResult:
        """A run in which only the first kernel was tested."""
        found = self.run(stop_after=NAMES[0])
        assert found.missing == ("kernel-1", "kernel-2")
        return found

    def resume(self) -> RunResult:
        return self.run(resume=True)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("harness.run.matrix.PREPARING", 1)  # so that kernels come to boot in order
    made = Desk(tmp_path)
    made.outcomes.install(monkeypatch.setattr)
    return made


def names(run: RunResult) -> list[str]:
    return [kernel.name for kernel in run.kernels]


def test_every_result_is_in_the_store_and_the_run_at_its_end(desk: Desk) -> None:
    run = desk.run()
    with Store(desk.store) as store:
        (kept,) = store.runs()
        assert (kept.id, kept.seed, kept.directory) == (run.id, run.seed, run.directory)
        assert kept.finished
        assert [result.kernel for result in store.results(run.id)] == NAMES


def test_an_interrupted_run_names_what_is_missing(desk: Desk) -> None:
    run = desk.interrupted()
    record = json.loads(Path(run.directory, "run.json").read_text())
    assert record["run"]["missing"] == ["kernel-1", "kernel-2"]
    assert "`matrix --resume` with the same kernels boots those that are missing" in run.notes


def test_an_interrupted_run_has_no_end_in_the_store(desk: Desk) -> None:
    run = desk.interrupted()
    with Store(desk.store) as store:
        assert [kept.finished for kept in store.runs()] == [""]
        assert [result.kernel for result in store.results(run.id)] == ["kernel-0"]


def test_only_what_is_missing_is_booted(desk: Desk) -> None:
    desk.interrupted()
    desk.resume()
    assert desk.outcomes.booted == ["kernel-1", "kernel-2"]


def test_a_run_that_is_gone_on_with_stays_the_same_run(desk: Desk) -> None:
    first, second = desk.interrupted(), desk.resume()
    for same in ("id", "started", "seed", "directory"):
        assert getattr(second, same) == getattr(first, same)


def test_a_run_that_was_gone_on_with_has_all_results(desk: Desk) -> None:
    desk.interrupted()
    run = desk.resume()
    assert names(run) == NAMES
    assert (run.missing, run.interrupted) == ((), False)
    record = json.loads(Path(run.directory, "run.json").read_text())
    assert [kernel["name"] for kernel in record["kernels"]] == NAMES
    with Store(desk.store) as store:
        assert [result.kernel for result in store.results(run.id)] == NAMES


def test_results_come_in_the_order_of_the_manifest(desk: Desk) -> None:
    desk.entries.reverse()
    desk.run(stop_after="kernel-1")
    assert names(desk.resume()) == ["kernel-2", "kernel-1", "kernel-0"]


def test_the_listener_is_told_of_what_is_done(desk: Desk) -> None:
    first = desk.interrupted()
    desk.resume()
    said = f"from the interrupted run {first.id}"
    assert Progress("kernel-0", Stage.DONE, said, verdict="pass") in desk.heard


def test_a_run_may_be_interrupted_more_than_once(desk: Desk) -> None:
    desk.interrupted()
    desk.run(stop_after="kernel-1", resume=True)
    assert names(desk.resume()) == NAMES
    assert desk.outcomes.booted == ["kernel-2"]


def test_what_an_interrupted_boot_left_is_no_attempt(desk: Desk) -> None:
    run = desk.interrupted()
    left = Path(run.directory, "kernels/kernel-1/attempt-1")
    left.mkdir(parents=True)
    (left / "console.log").write_text("cut off")
    desk.resume()
    assert not (left / "console.log").exists()


def test_a_result_without_its_file_is_a_result(desk: Desk) -> None:
    """The harness was killed after the one, and before the other."""
    run = desk.interrupted()
    Path(run.directory, "kernels/kernel-0/result.json").unlink()
    assert names(desk.resume()) == NAMES
    assert "kernel-0" not in desk.outcomes.booted


def test_a_damaged_result_is_said_and_tested_again(desk: Desk) -> None:
    run = desk.interrupted()
    with Store(desk.store) as store:
        store.add(run.id, "kernel-0", "pass", "{}")
    desk.resume()
    assert desk.outcomes.booted == NAMES
    assert any("kernel-0 cannot be read" in progress.detail for progress in desk.heard)


def test_how_many_at_a_time_makes_no_other_run(desk: Desk) -> None:
    desk.interrupted()
    assert names(desk.run(resume=True, confirm=2, reuse=True)) == NAMES


def test_a_whole_run_is_not_gone_on_with(desk: Desk) -> None:
    run = desk.run()
    with pytest.raises(UsageError, match=f"{run.id}, began at {run.started[:10]}.*finished"):
        desk.resume()


def test_where_nothing_was_asked_for_nothing_is_gone_on_with(desk: Desk) -> None:
    with pytest.raises(UsageError, match="no run has the same kernels"):
        desk.resume()
    assert not desk.store.exists()


@pytest.mark.parametrize(
    "settings", [{"seed": 7}, {"checks": ("payload.arrives",)}, {"payload": 9}], ids=str
)
def test_other_settings_make_another_run(desk: Desk, settings: dict[str, Any]) -> None:
    desk.interrupted()
    with pytest.raises(UsageError, match="no run has the same"):
        desk.run(resume=True, **settings)


def changed(entry: KernelEntry) -> Iterator[KernelEntry]:
    yield replace(entry, name="other")
    yield replace(entry, source=ImageSource(Path("/src/other")))
    yield replace(entry, cpus=2)
    yield replace(entry, append=("quiet",))
    yield replace(entry, expect={"mptcp": False})


@pytest.mark.parametrize("number", range(5))
def test_another_manifest_makes_another_run(desk: Desk, number: int) -> None:
    desk.interrupted()
    desk.entries[2] = list(changed(desk.entries[2]))[number]
    with pytest.raises(UsageError):
        desk.resume()


def test_an_image_that_was_built_again_makes_another_run(desk: Desk) -> None:
    image = desk.directory / "bzImage"
    image.write_text("one")
    desk.entries[0] = replace(desk.entries[0], source=ImageSource(image))
    desk.interrupted()
    image.write_text("another")
    with pytest.raises(UsageError, match="as they are now"):
        desk.resume()


@pytest.mark.parametrize(
    ("place", "name", "changed"),
    [
        (workspace, "qemu_version", "QEMU"),
        (reuse, "judging", "harness"),
        (tools, "virtme_ng_version", "virtme-ng"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_of_other_tools_or_other_judging_is_not_gone_on_with(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, place: object, name: str, changed: str
) -> None:
    desk.interrupted()
    monkeypatch.setattr(place, name, lambda *_: "99")
    with pytest.raises(UsageError, match=f"these have changed: {changed};"):
        desk.resume()


def test_a_run_of_another_guest_is_not_gone_on_with(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.interrupted()
    monkeypatch.setattr(initramfs, "prepare", lambda *_: desk.directory / "other")
    with pytest.raises(UsageError, match="these have changed: guest;"):
        desk.resume()


def test_a_run_may_be_gone_on_with_on_another_host(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.interrupted()
    monkeypatch.setattr(os, "cpu_count", lambda: 99)
    assert names(desk.resume()) == NAMES


def test_a_run_whose_directory_is_gone_is_not_gone_on_with(desk: Desk) -> None:
    run = desk.interrupted()
    Path(run.directory).rename(desk.directory / "elsewhere")
    with pytest.raises(UsageError, match="no longer exists"):
        desk.resume()


def test_a_run_that_goes_on_is_refused(desk: Desk) -> None:
    run = desk.interrupted()
    with (
        prune.in_use(Path(run.directory)),
        pytest.raises(UsageError, match="two would spoil each other"),
    ):
        desk.resume()


def test_the_directory_of_an_interrupted_run_may_be_named(desk: Desk) -> None:
    output = desk.directory / "output"
    desk.run(stop_after=NAMES[0], output=output)
    assert names(desk.run(resume=True, output=output)) == NAMES


def test_another_directory_than_that_of_the_interrupted_run_is_refused(desk: Desk) -> None:
    run = desk.interrupted()
    with pytest.raises(UsageError, match=f"is in {run.directory}; omit --output"):
        desk.run(resume=True, output=desk.directory / "output")


def test_an_interruption_after_the_last_kernel_interrupts_nothing(desk: Desk) -> None:
    run = desk.run(stop_after=NAMES[-1])
    assert (run.interrupted, run.missing, exit_status(run)) == (False, (), EXIT_OK)
    assert json.loads(Path(run.directory, "run.json").read_text())["run"]["interrupted"] is False
    with Store(desk.store) as store:
        head = store.run(run.id)
        assert head is not None
        assert head.finished


def test_a_store_that_is_damaged_in_its_middle_is_said_and_the_run_goes_on(desk: Desk) -> None:
    desk.run()
    with desk.store.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(random.Random(0).randbytes(6 * 4096))
    run = desk.run()
    assert names(run) == NAMES
    assert [note for note in run.notes if "was damaged and was moved to" in note]
    assert [p for p in desk.heard if "was damaged and was moved to" in p.detail]
    with Store(desk.store) as store:
        assert [kept.kernel for kept in store.results(run.id)] == NAMES


def test_a_bundle_that_cannot_be_made_costs_no_result(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise LookupError("nobody expected this")

    monkeypatch.setattr(Bundles, "keep", broken)
    run = desk.run()
    assert names(run) == NAMES
    assert any("its bundle could not be made" in note for note in run.notes)


def test_a_damaged_store_is_set_aside_and_that_is_said(desk: Desk) -> None:
    desk.store.parent.mkdir(parents=True)
    desk.store.write_text("no database" * 100)
    run = desk.run()
    assert names(run) == NAMES
    (aside,) = desk.store.parent.glob(f"{FILE}.damaged-*")
    said = f"was damaged and was moved to {aside}"
    assert any(said in note for note in run.notes)
    assert any(said in progress.detail for progress in desk.heard)


def test_without_a_store_nothing_is_tested(desk: Desk) -> None:
    desk.store.mkdir(parents=True)
    with pytest.raises(HostError, match=f"{FILE}, the store of results, cannot be used"):
        desk.run()
    assert desk.outcomes.booted == []


@pytest.mark.parametrize("where", ["no home", "a home that cannot be made"])
def test_without_a_home_the_store_is_in_the_output(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def nowhere() -> Path:
        if where == "no home":
            raise HostError("set HOME")
        return Path("/proc/nobody")

    monkeypatch.setattr(stored_runs, "state_directory", nowhere)
    output = desk.directory / "output"
    desk.run(stop_after=NAMES[0], output=output)
    assert (output / FILE).exists()
    assert names(desk.run(resume=True, output=output)) == NAMES


def test_the_accelerators_of_both_parts_are_named(desk: Desk) -> None:
    desk.interrupted()
    assert desk.resume().accel == "tcg"


def test_a_boot_that_was_cut_off_is_no_result(desk: Desk) -> None:
    desk.outcomes.of["kernel-1"] = replace(GOOD, end=BootEnd.INTERRUPTED)
    desk.outcomes.of["kernel-2"] = replace(GOOD, end=BootEnd.INTERRUPTED)
    assert desk.run(stop_after=NAMES[0]).missing == ("kernel-1", "kernel-2")


#: How often it is killed, at moments that the test's own seed decides.
KILLS = 20


def test_kills_at_any_moment_lose_no_result_and_each_run_goes_on(tmp_path: Path) -> None:
    moments = random.Random(50)
    done: set[str] = set()
    place = tmp_path / "mptcp-harness" / FILE
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fake_boots", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        text=True,
    ) as harness:
        assert harness.stdin is not None
        assert harness.stdout is not None
        for _ in range(KILLS):
            harness.stdin.write("go on\n")
            harness.stdin.flush()
            process = int(harness.stdout.readline().split()[1])
            said: list[str] = []
            for _ in range(moments.randrange(4)):
                said.append(harness.stdout.readline().strip())
                assert said[-1] != "end", "it ended by itself"
            # At its start where nothing is waited for, else anywhere between two results.
            threading.Event().wait(moments.random() * (0.01 if said else 0.06))
            os.kill(process, signal.SIGKILL)
            said += iter(lambda: harness.stdout.readline().strip(), "end")  # type: ignore[union-attr]
            assert not done & set(said), "what had a result was booted again"
            done |= set(said)
            if place.exists():
                with Store(place) as store:
                    assert store.damage is None
                    assert store.complaints() == []
                    (run,) = store.runs()
                    assert done <= {result.kernel for result in store.results(run.id)}
    assert KILLS // 2 < len(done) < MANY


def test_a_state_directory_that_cannot_be_made_comes_with_its_remedy(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk.directory / "file").touch()
    monkeypatch.setattr(workspace, "runs_directory", lambda: desk.directory / "file")
    with pytest.raises(HostError, match=r"cannot be used \(Not a directory\); make it"):
        desk.run()
