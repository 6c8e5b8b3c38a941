# SPDX-License-Identifier: GPL-2.0-only
"""Bisects with all that a run has: matrix, store, run directory. Only VMs and kernels are not."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.bisect import bisection
from harness.bisect.results import Bisection, Ending
from harness.kernels import Cache, PreparedKernel
from harness.manifest.kernels_yaml import KernelEntry
from harness.records.store import Store
from harness.run.request import Listener
from harness.run.workspace import store_file
from harness.verdict.results import Attempt
from harness.verdict.verdicts import Family
from harness.vm.boot import BootPlan
from tests import fake_boots
from tests.bisect.simulated import NAMES, SERIES, WANTED, Guests, attempt_of, flaky, from_on, told
from tests.fake_boots import Outcomes


class Laboratory(Outcomes):
    """Each kernel has an image of its own, and a guest that sends what a test wants."""

    def __init__(self, directory: Path, guests: Guests) -> None:
        super().__init__(directory)
        self.guests = guests

    def prepare(self, entry: KernelEntry, *_: object) -> PreparedKernel:
        image = f"{NAMES.index(entry.name):064x}"
        return replace(super().prepare(entry), image_sha256=image)

    def boot(self, plan: BootPlan, *_: object) -> Attempt:
        self.of[plan.kernel.name] = attempt_of(self.guests(NAMES.index(plan.kernel.name)))
        return super().boot(plan)

    def bisect(self, *, fresh: bool = False, stop_after: int = 0, **request: object) -> Bisection:
        stop = threading.Event()
        before = len(self.booted)

        @contextlib.contextmanager
        def listening(_: Sequence[str]) -> Iterator[Listener]:
            def listener(*_: object) -> None:
                if stop_after and len(self.booted) - before >= stop_after:
                    stop.set()

            yield listener

        return bisection.bisect(
            SERIES,
            WANTED,
            fake_boots.asking(families=(Family.IPV4,), jobs=2, **request),
            Cache(self.directory / "cache"),
            listening,
            lambda _: None,
            lambda *_: ((), ()),
            stop,
            fresh=fresh,
        )


@pytest.fixture
def laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = Laboratory(tmp_path, from_on(10))
    made.install(monkeypatch.setattr)
    return made


def first_bad(found: Bisection) -> str:
    assert found.first_bad, found.text
    return found.first_bad.name


def test_every_boot_is_kept_in_the_store_and_the_run_directory(laboratory: Laboratory) -> None:
    found = laboratory.bisect()
    assert first_bad(found) == NAMES[10]
    with Store(store_file()) as store:
        (run,) = store.runs()
        assert run.finished
        assert {kept.kernel for kept in store.results(run.id)} == set(laboratory.booted)
    for name in laboratory.booted:
        assert Path(found.directory, "kernels", name, "result.json").is_file()


def test_what_another_checker_told_is_no_evidence(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    laboratory.bisect()
    booted = len(laboratory.booted)
    other = laboratory.directory / "other.cpio"
    monkeypatch.setattr("harness.vm.initramfs.prepare", lambda *_: other)
    assert first_bad(laboratory.bisect()) == NAMES[10]
    assert len(laboratory.booted) == 2 * booted


def test_what_other_judging_told_is_no_evidence(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    laboratory.bisect()
    booted = len(laboratory.booted)
    monkeypatch.setattr("harness.records.reuse.judging", lambda: "another")
    assert laboratory.bisect().earlier == 0
    assert len(laboratory.booted) == 2 * booted


def test_each_further_boot_of_a_kernel_has_a_place_of_its_own(laboratory: Laboratory) -> None:
    found = laboratory.bisect(confirm=2)
    assert all(laboratory.booted.count(name) == 3 for name in set(laboratory.booted))
    assert Path(found.directory, "boot-3", "kernels", NAMES[10], "result.json").is_file()
    with Store(store_file()) as store:
        assert len(store.runs()) == 3


def test_results_of_earlier_runs_take_the_place_of_boots_bad_ones_too(
    laboratory: Laboratory,
) -> None:
    first = laboratory.bisect()
    laboratory.booted.clear()
    second = laboratory.bisect(fresh=True)
    assert laboratory.booted == []
    assert first_bad(second) == first_bad(first)
    assert second.boots == 0
    assert all(tested.reused_from for tested in second.evidence)


def test_where_boots_are_to_be_confirmed_no_earlier_result_takes_their_place(
    laboratory: Laboratory,
) -> None:
    laboratory.bisect()
    laboratory.booted.clear()
    laboratory.bisect(fresh=True, confirm=1)
    assert all(laboratory.booted.count(name) == 2 for name in set(laboratory.booted))


def test_a_kernel_whose_stored_results_differ_is_booted(laboratory: Laboratory) -> None:
    laboratory.bisect()
    laboratory.guests = from_on(11)
    laboratory.bisect(fresh=True, confirm=1)  # now the eleventh is good
    laboratory.booted.clear()
    laboratory.bisect(fresh=True)
    assert NAMES[10] in laboratory.booted


def test_of_results_that_fail_in_different_checks_none_takes_the_place_of_a_boot(
    laboratory: Laboratory,
) -> None:
    def guests(*, fault: bool) -> Guests:
        # Each kernel fails in any case, for FULL_INFO is expected.
        return lambda place: told(SERIES.candidates[place].release, fault=fault, full_info=False)

    laboratory.guests = guests(fault=False)
    laboratory.bisect()
    laboratory.guests = guests(fault=True)
    laboratory.bisect(fresh=True, confirm=1)
    laboratory.booted.clear()
    laboratory.bisect(fresh=True)
    assert set(laboratory.booted) == {NAMES[0], NAMES[-1]}


def test_interrupted_it_goes_on_with_the_kernels_that_are_missing(laboratory: Laboratory) -> None:
    found = laboratory.bisect(stop_after=4)
    assert found.ending is Ending.INTERRUPTED
    done = {tested.kernel.name for tested in found.evidence}
    laboratory.booted.clear()
    again = laboratory.bisect()
    assert first_bad(again) == NAMES[10]
    assert again.earlier == len(done)
    assert not done & set(laboratory.booted)


def test_kernels_that_do_not_start_are_skipped(laboratory: Laboratory) -> None:
    laboratory.guests = from_on(10, unbootable=(9, 10, 11))
    found = laboratory.bisect()
    assert first_bad(found) == NAMES[12]
    assert [tested.kernel.name for tested in found.skipped] == NAMES[9:12]


def test_a_flaky_fault_is_found_by_more_boots(laboratory: Laboratory) -> None:
    laboratory.guests = flaky(10, 0.5, 11)
    found = laboratory.bisect(confirm=7)
    assert first_bad(found) == NAMES[10]
    assert found.failed < found.of
