# SPDX-License-Identifier: GPL-2.0-only
"""What was written comes back, and nothing else is taken for a result."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from harness.errors import Malformed
from harness.records.from_json import kernel_from_json, kernel_from_text
from harness.records.to_json import kernel_to_json
from harness.verdict.results import (
    Attempt,
    Confirmed,
    CrossCheck,
    CutRound,
    EarlierRun,
    KernelResult,
    MissingFix,
    Phase,
    ProgramEnd,
    ProgramRun,
    RoundFailures,
    Rounds,
    Stream,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from tests import factories
from tests.records.test_to_json import KERNELS
from tests.report.support import UNHURRIED

#: Any name may stand in these, so that one more or one less is no mistake.
OPEN = (("capabilities",), ("families",), ("rounds", "by_check"))
OPTIONAL = (
    *("payload", "expected", "got", "raw", "rounds", "missing_fixes", "abi", "cross_checks"),
    "arch",
    "host",
)
NULLABLE = ("check", "reused_from", "confirmed", "rounds", "cut", "agrees")
JUNK: tuple[Any, ...] = (None, 1, 1.5, True, "junk", [], {}, ["junk", 1], {"junk": 1})

Path = tuple[str | int, ...]
ADDED: tuple[Path, ...] = (("reused_from", "total_s"),)  # where older records have none


def sample() -> KernelResult:
    """One of everything that a result may hold, and of most no more than one."""
    phases = (Phase("prepare", 0.25),)
    failed = factories.check(verdict=CheckVerdict.FAIL, expected="1", got="2", raw="02")
    passed = factories.check(family=Family.IPV6)
    crashed = factories.crashed(factories.kernel())
    return replace(
        crashed,
        capabilities={"mptcp": True},
        families=factories.families(failed, passed),
        attempts=(
            replace(
                crashed.attempts[0],
                stream=Stream(errors=("odd",)),
                phases=phases,
                verdict=KernelVerdict.CRASH,
            ),
        ),
        notes=("a note",),
        timing=replace(crashed.timing, phases=phases),
        reused_from=EarlierRun("20260101-000000-abcdef", "2026-01-01T00:00:01+00:00", 7, "/runs/1"),
        confirmed=Confirmed(4, 1),
        cross_checks=(
            CrossCheck(
                program="mptcp_sockopt -6",
                family=Family.IPV6,
                run=ProgramRun(ProgramEnd.EXIT, 1, 0.5, "why"),
                agrees=False,
                detail="disagrees: exit 1",
            ),
        ),
        missing_fixes=(MissingFix("8c3963375988", "fix getting it", "6.15", ("ipv6_v6only.get",)),),
        rounds=Rounds(
            asked=9,
            done=5,
            failed=1,
            by_check={failed.key.id: 1},
            failures=(RoundFailures(failed.key, 1, 3, 10),),
            cut=CutRound(5, 12, "ipv4 byte checks"),
        ),
    )


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def as_kept(attempt: Attempt) -> Attempt:
    """``attempt`` with what JSON has of it."""
    stream = Stream(errors=attempt.stream.errors)
    return replace(attempt, kernel_spoke=False, incidents=(), stream=stream)


@UNHURRIED
@given(KERNELS)
def test_what_was_read_is_written_the_same(kernel: KernelResult) -> None:
    written = through_json(kernel_to_json(kernel))
    assert kernel_to_json(kernel_from_json(written)) == written


@pytest.mark.parametrize("kernel", [*factories.four_kernels(), sample()], ids=lambda k: k.name)
def test_a_result_comes_back_as_it_was(kernel: KernelResult) -> None:
    kept = replace(kernel, attempts=tuple(map(as_kept, kernel.attempts)))
    assert kernel_from_json(through_json(kernel_to_json(kernel))) == kept


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value within ``value``, itself included, and how to get there."""
    yield path, value
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for name, member in members:
            yield from places(member, (*path, name))


def changed(whole: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    whole = copy.deepcopy(whole)
    place = whole
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = new
    return whole


WHOLE = through_json(kernel_to_json(sample()))
PLACES = list(places(WHOLE))
OBJECTS = [(path, value) for path, value in PLACES if isinstance(value, dict)]


def show(path: Path) -> str:
    return ".".join(map(str, path)) or "whole"


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_a_value_of_another_type_is_refused(junk: Any) -> None:
    taken = []
    for path, value in PLACES:
        if not is_of_its_type(path, value, junk):
            with contextlib.suppress(Malformed):
                kernel_from_json(changed(WHOLE, path, junk))
                taken.append(show(path))
    assert taken == []


def is_of_its_type(path: Path, value: Any, junk: Any) -> bool:
    """Whether ``junk`` may stand at ``path``, where ``value`` does."""
    nullable = bool(path) and (path[-1] in NULLABLE or path == ("attempts", 0, "verdict"))
    same = type(junk) is type(value) and junk not in (["junk", 1], {"junk": 1})
    counts = path == ("rounds", "by_check") and junk == {"junk": 1}  # of a check's rounds
    return same or counts or (nullable and junk is None)


@pytest.mark.parametrize(("path", "value"), OBJECTS, ids=[show(path) for path, _ in OBJECTS])
def test_a_member_that_is_missing_is_refused(path: Path, value: dict[str, Any]) -> None:
    if path in OPEN:
        return
    for name in value:
        if name not in OPTIONAL and (*path, name) not in ADDED:
            rest = {key: member for key, member in value.items() if key != name}
            with pytest.raises(Malformed):
                kernel_from_json(changed(WHOLE, path, rest))


@pytest.mark.parametrize(("path", "value"), OBJECTS, ids=[show(path) for path, _ in OBJECTS])
def test_a_member_that_is_not_known_is_refused(path: Path, value: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        kernel_from_json(changed(WHOLE, path, {**value, "unheard_of": "of"}))


@pytest.mark.parametrize(
    "path",
    [
        ("verdict",),
        ("families", "ipv4", "verdict"),
        ("families", "ipv4", "checks", 0, "verdict"),
        ("incidents", 0, "kind"),
        ("attempts", 0, "end"),
        ("attempts", 0, "verdict"),
    ],
    ids=show,
)
def test_a_word_that_is_not_known_is_refused(path: Path) -> None:
    with pytest.raises(Malformed):
        kernel_from_json(changed(WHOLE, path, "fine"))


def test_a_family_that_is_not_known_is_refused() -> None:
    families = {"ipv5": WHOLE["families"]["ipv4"]}
    with pytest.raises(Malformed, match="ipv5"):
        kernel_from_json(changed(WHOLE, ("families",), families))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_time_that_is_no_number_is_refused(number: float) -> None:
    with pytest.raises(Malformed, match="boot_s"):
        kernel_from_json(changed(WHOLE, ("timing", "boot_s"), number))


def test_a_refusal_says_where() -> None:
    attempt = {k: v for k, v in WHOLE["attempts"][0].items() if k != "end"}
    with pytest.raises(Malformed, match=r"kernel\.attempts\[0\] lacks 'end'"):
        kernel_from_json(changed(WHOLE, ("attempts", 0), attempt))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", "{}"], ids=range(5))
def test_text_that_holds_no_result_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        kernel_from_text(text)
