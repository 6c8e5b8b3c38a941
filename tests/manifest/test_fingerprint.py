# SPDX-License-Identifier: GPL-2.0-only
"""Every setting is in the keys by which earlier results are found, or says why it is not."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any

import pytest

from guest import checks
from harness.bisect import testing
from harness.bisect.candidates import Candidate
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest import fingerprint
from harness.manifest.cross_check import Program
from harness.manifest.fingerprint import apart, counting, members, text
from harness.manifest.kernels_yaml import DebSource, ImageSource, KernelEntry, Source, TreeSource
from harness.manifest.plan import Plan, Profile
from harness.records import reuse
from harness.run.request import Fleet, RunRequest
from harness.verdict.results import Shard
from harness.verdict.rounds import Repeat
from harness.verdict.verdicts import Family

ENTRY = KernelEntry("k", ImageSource(Path("/src/bzImage")), "k.yaml:1:1")
PLAN = Plan()
SETTING = reuse.Setting(PLAN, "0b", "7.2", "1.42")
KERNEL = PreparedKernel("k", "6.12.1", "v", "o", Path("/i"), "1" * 64, Path("/r"), Path("/b"))
#: Another value for a field, by its type.
OTHERS: dict[Any, Any] = {
    str: "another",
    int: 77,
    bool: True,
    Path: Path("/another"),
    Repeat: Repeat(3),
    Source: DebSource("trixie", "linux-image"),
    Plan: Plan(payload=5),
    Shard: Shard(1, 2),
    Fleet: Fleet("tls://lab:8786"),
    tuple[Program, ...]: (Program(Path("/p"), "1" * 64),),
    tuple[Family, ...]: (Family.IPV6,),
    tuple[str, ...]: ("another",),
    Mapping[str, bool]: {"mptcp_info": False},
}


def others(like: Any) -> dict[str, Any]:
    """``like`` with each of its fields changed, by the field's name."""
    hints = typing.get_type_hints(type(like))
    return {
        f.name: replace(like, **{f.name: another(hints[f.name], getattr(like, f.name))})
        for f in dataclasses.fields(like)
    }


def another(kind: Any, value: Any) -> Any:
    if kind in OTHERS:
        return OTHERS[kind]
    if isinstance(kind, UnionType):  # what may be None
        (kind,) = (member for member in typing.get_args(kind) if member is not type(None))
        return another(kind, value)
    assert issubclass(kind, Enum), f"write down another value of {kind} in OTHERS"
    return next(member for member in kind if member is not value)


def asked(entry: KernelEntry = ENTRY, request: RunRequest = RunRequest()) -> str:  # noqa: B008
    return reuse.asked([entry], request.plan, request.settings())


def reused(entry: KernelEntry = ENTRY, setting: reuse.Setting = SETTING) -> str:
    found = reuse.circumstances_of(entry, KERNEL, setting, kvm=False)
    return fingerprint.digest(found)


def bisected(entry: KernelEntry = ENTRY, request: RunRequest = RunRequest()) -> str:  # noqa: B008
    return testing.question([Candidate(entry, "6.12", "6.12")], request, {}, "guest")


def differing(like: Any) -> dict[str, Any]:
    return {name: other for name, other in others(like).items() if name in counting(type(like))}


#: What does not belong to the question, by the class: who adds to it has a reason.
NO_PART = {
    Plan: set(),
    KernelEntry: {"where"},
    RunRequest: {"jobs", "output", "store", "reuse", "resume", "confirm", "bundle_image", "fleet"},
}


@pytest.mark.parametrize("kind", NO_PART)
def test_nothing_else_is_left_out_of_a_key(kind: type[Any]) -> None:
    assert {f.name for f in dataclasses.fields(kind)} - {*counting(kind)} == NO_PART[kind]


def test_nothing_else_is_found_out_by_reuse_itself() -> None:
    assert reuse.FOUND.keys() == {"name", "source", "accel", "known_issues"}


@pytest.mark.parametrize("field", others(PLAN))
def test_another_plan_is_another_in_every_key(field: str) -> None:
    plan = others(PLAN)[field]
    assert asked(request=RunRequest(plan)) != asked()
    assert bisected(request=RunRequest(plan)) != bisected()
    assert reused(setting=replace(SETTING, plan=plan)) != reused()
    assert text(RunRequest(plan)) != text(RunRequest())  # step's


@pytest.mark.parametrize("field", sorted(others(PLAN).keys() - {"seed"}))
def test_the_guest_is_told_of_every_setting(field: str) -> None:
    assert others(PLAN)[field].arguments(1) != PLAN.arguments(1)


def test_the_guest_is_told_the_seed_of_the_run() -> None:
    assert Plan(seed=5).arguments(7)["seed"] == "7"


@pytest.mark.parametrize("field", differing(ENTRY))
def test_another_kernel_is_another_for_resume_and_bisect(field: str) -> None:
    entry = others(ENTRY)[field]
    assert asked(entry) != asked()
    assert bisected(entry) != bisected()


@pytest.mark.parametrize("field", sorted(differing(ENTRY).keys() - reuse.FOUND.keys()))
def test_another_kernel_is_another_for_reuse(field: str) -> None:
    assert reused(others(ENTRY)[field]) != reused()


def test_what_reuse_finds_for_itself_is_a_field() -> None:
    assert reuse.FOUND.keys() < set(counting(KernelEntry))


@pytest.mark.parametrize("field", differing(RunRequest()))
def test_another_request_is_another_for_resume(field: str) -> None:
    assert asked(request=others(RunRequest())[field]) != asked()


@pytest.mark.parametrize("kind", [Plan, KernelEntry, RunRequest, Repeat, DebSource, TreeSource])
def test_a_field_that_does_not_count_says_why(kind: type[Any]) -> None:
    left_out = {f.name: f.metadata for f in dataclasses.fields(kind)}
    assert all(
        len(reason) > 10
        for name, metadata in left_out.items()
        if name not in counting(kind)
        for reason in metadata.values()
    )


@dataclasses.dataclass(frozen=True)
class Some:
    first: object
    second: object = dataclasses.field(default=0, metadata=apart("it is of no interest"))


def test_what_is_apart_does_not_count() -> None:
    assert text(Some(1, 2)) == text(Some(1, 3)) != text(Some(2, 2))


def test_a_path_that_is_not_utf_8_has_a_canonical_form() -> None:
    assert "\\udcff" in text(Some(Path("/o\udcff")))


def test_the_same_fields_of_another_class_are_another() -> None:
    @dataclasses.dataclass(frozen=True)
    class Other:
        first: int

    assert text([Some(1)]) != text([Other(1)])


def test_the_order_of_a_mapping_does_not_count() -> None:
    assert text({"a": 1, "b": 2}) == text({"b": 2, "a": 1})


def test_what_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(TypeError, match="set has no canonical form"):
        text(Some({1}))


def test_a_plan_is_written_as_runs_before_were() -> None:
    """By these a night finds what was asked of the runs before it."""
    assert members(Plan(checks=("a.b",), payload=9)) == {
        "families": ["ipv4", "ipv6"],
        "checks": ["a.b"],
        "profile": "full",
        "payload": 9,
        "repeat": {"Repeat": {"rounds": 1, "until_fail": False, "seconds": None}},
        "seed": None,
    }


def test_the_profiles_are_those_of_the_guest() -> None:
    assert tuple(Profile) == checks.PROFILES
