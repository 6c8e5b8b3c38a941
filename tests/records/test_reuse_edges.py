# SPDX-License-Identifier: GPL-2.0-only
"""Earlier results at the edges: evidence that differs, keys that must not meet, what resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.manifest.kernels_yaml import TreeSource
from harness.manifest.plan import Plan
from harness.records import reuse
from harness.records.reuse import Results
from harness.records.store import Store
from harness.records.to_json import kernel_text
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests import factories
from tests.records.test_reuse import ENTRY, KERNEL, PASSED, RUNS, SETTING, Past, of


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    with Store(tmp_path / "results.sqlite") as store:
        yield Past(store)


def why_not(past: Past, *, evidence: bool = False) -> str:
    answer = Results(past.store, SETTING, evidence=evidence).find(ENTRY, KERNEL, kvm=False)
    assert answer.result is None
    return answer.why


def failing(name: str) -> KernelResult:
    check = factories.check(name, CheckVerdict.FAIL)
    return replace(of(KernelVerdict.FAIL), families=factories.families(check))


# Evidence of a bisect.


def test_failures_that_differ_are_no_evidence(past: Past) -> None:
    past.keep(failing("a.a"))
    past.keep(failing("b.b"))
    assert why_not(past, evidence=True) == "the last results differ: testing again"


def test_failures_that_are_alike_are_evidence(past: Past) -> None:
    for _ in range(2):
        past.keep(failing("a.a"))
    found = Results(past.store, SETTING, evidence=True).find(ENTRY, KERNEL, kvm=False)
    assert found.result is not None


def test_a_failure_beside_one_that_cannot_be_read_is_no_evidence(past: Past) -> None:
    run = past.keep(failing("a.a"))
    key = Results(past.store, SETTING).key(ENTRY, KERNEL, PASSED)
    past.store.add(run.id, "k", "fail", "{}", key)
    past.keep(failing("a.a"))
    assert why_not(past, evidence=True) == "the last results differ: testing again"


@pytest.mark.parametrize(("kept", "says"), [("fail", "pass"), ("pass", "unsupported")])
def test_a_result_of_another_verdict_than_the_store_has_is_damaged(
    past: Past, kept: str, says: str
) -> None:
    run = past.keep(PASSED)
    key = Results(past.store, SETTING).key(ENTRY, KERNEL, PASSED)
    past.store.add(run.id, "k", kept, kernel_text(of(KernelVerdict(says))), key)
    assert "it is damaged: two verdicts" in why_not(past)


# Keys.


@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_a_result_is_found_under_its_own_accelerator_alone(past: Past, accel: str) -> None:
    past.keep(replace(PASSED, accel=str(accel.encode(), "ascii")))  # equal, and another object
    results = Results(past.store, SETTING)
    found = {kvm: results.find(ENTRY, KERNEL, kvm=kvm).result for kvm in (True, False)}
    assert [kvm for kvm, result in found.items() if result] == [accel == "kvm"]


@pytest.mark.parametrize("name", ["vmlinuz-6.12.1", "bzImage", "Image"])
def test_an_image_that_boots_unpacked_is_another_than_one_that_boots_as_it_is(
    past: Past, name: str
) -> None:
    image = KERNEL.root / "boot" / name
    whole = replace(KERNEL, image=image, boot_image=Path(str(image)))
    past.keep(PASSED, kernel=whole)
    results = Results(past.store, SETTING)
    unpacked = replace(whole, boot_image=image.with_name("vmlinux-6.12.1"))
    assert results.find(ENTRY, unpacked, kvm=False).result is None
    assert results.find(ENTRY, replace(whole, boot_image=image), kvm=False).result is not None


# Resuming.


@pytest.mark.parametrize("built", ["arch/x86/boot/bzImage", "vmlinux"])
def test_a_tree_that_was_built_again_is_another_kernel(tmp_path: Path, built: str) -> None:
    entry = replace(ENTRY, source=TreeSource(tmp_path))
    before = reuse.asked([entry], Plan(), {})
    place = tmp_path / built
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("one")
    assert reuse.asked([entry], Plan(), {}) != before


def test_what_is_resumed_must_not_have_changed_in_any_direction() -> None:
    run = replace(RUNS[0], about=json.dumps({"QEMU": "7.2", "guest": "0b"}))
    for other in ("10.0", "6.0"):
        with pytest.raises(UsageError, match="these have changed: QEMU;"):
            reuse.check_alike(run, {"QEMU": other, "guest": "0b"})


def test_a_run_that_finished_is_called_that_though_its_directory_is_gone(past: Past) -> None:
    run = past.keep(PASSED)
    past.store.finish(run.id)
    with pytest.raises(UsageError, match=f"{run.id}, began at .* and finished at"):
        reuse.interrupted(past.store.path, run.asked)


def test_in_a_store_that_was_damaged_there_is_nothing_to_resume_yet(tmp_path: Path) -> None:
    place = tmp_path / "results.sqlite"
    place.write_text("no database" * 100)
    with pytest.raises(UsageError, match=r"nothing to resume yet: .* was damaged"):
        reuse.interrupted(place, "all")


@pytest.mark.parametrize(("good", "is_reused"), [(2, False), (3, True)])
def test_three_good_results_outlive_a_failure(past: Past, good: int, is_reused: bool) -> None:
    past.keep(of(KernelVerdict.FAIL))
    for _ in range(good):
        past.keep(PASSED)
    found = Results(past.store, SETTING).find(ENTRY, KERNEL, kvm=False)
    assert (found.result is not None) is is_reused


@pytest.mark.parametrize("kind", [reuse.Setting, reuse.Answer])
def test_what_a_key_is_made_of_cannot_be_changed_meanwhile(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
