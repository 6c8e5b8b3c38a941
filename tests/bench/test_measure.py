# SPDX-License-Identifier: GPL-2.0-only
"""What is run when, and what a figure is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from bench import lab, measure
from bench.figures import Standing
from bench.lab import Lab, Observation
from bench.measure import Observations, Planned, Subject, Times
from bench.runner import Failed, Run
from harness.verdict.results import Phase

NO_LAB = cast(Lab, None)
LATER = Phase("ipv4", 9.0)
RUN = Run(seconds=8.0, processor_s=2.0, status=0, output="", qemus=4, downloading_s=0.0)
PLANS = measure.planned(lab.entries())


def plan(key: str) -> Planned:
    return next(plan for plan in PLANS if plan.blank.key == key)


def seen(**observations: Observation) -> Observations:
    found = Observations()
    for name, observation in observations.items():
        found.add(name, observation)
    return found


def ignore(_: str) -> None:
    pass


def subject(name: str, order: list[str], times: int = 1, needs: tuple[str, ...] = ()) -> Subject:
    def run(_: Lab) -> Observation:
        order.append(name)
        return Observation(RUN)

    return Subject(name, times, run, needs)


def failing(name: str, order: list[str], times: int = 1) -> Subject:
    def run(_: Lab) -> Observation:
        order.append(name)
        raise Failed("virtme-ng hung")

    return Subject(name, times, run)


def test_keys_are_unique() -> None:
    keys = [plan.blank.key for plan in PLANS]
    assert len(set(keys)) == len(keys)


def test_every_subject_of_a_figure_can_be_run() -> None:
    known = {subject.name for subject in measure.subjects(lab.entries(), Times())}
    assert {name for plan in PLANS for name in plan.subjects} == known


def test_no_pattern_selects_all() -> None:
    assert measure.select(PLANS, []) == PLANS


def test_patterns_select_by_key() -> None:
    chosen = measure.select(PLANS, ["floor.*", "reuse"])
    assert [plan.blank.key for plan in chosen][-2:] == ["floor.debian-newest", "reuse"]


def test_a_pattern_that_selects_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="speed"):
        measure.select(PLANS, ["loop", "speed"])


def test_what_a_subject_needs_is_run_before_it() -> None:
    needed = measure.needed([plan("reuse")], measure.subjects(lab.entries(), Times()))
    assert [subject.name for subject in needed] == ["many", "reuse"]


def test_what_is_compared_is_run_alternately() -> None:
    order: list[str] = []
    measure.observe([subject("a", order, 2), subject("b", order, 2)], NO_LAB, ignore)
    assert order == ["a", "b", "a", "b"]


def test_what_takes_long_is_run_less_often() -> None:
    order: list[str] = []
    measure.observe([subject("a", order, 2), subject("long", order)], NO_LAB, ignore)
    assert order == ["a", "long", "a"]


def test_what_failed_is_not_run_again() -> None:
    order: list[str] = []
    measure.observe([failing("a", order, 2), subject("b", order, 2)], NO_LAB, ignore)
    assert order == ["a", "b", "b"]


def test_what_needs_something_that_failed_is_not_run() -> None:
    order: list[str] = []
    chosen = [failing("a", order), subject("b", order, needs=("a",))]
    _, failures = measure.observe(chosen, NO_LAB, ignore)
    assert (order, failures) == (["a"], {"a": "virtme-ng hung", "b": "virtme-ng hung"})


def test_a_figure_without_its_values_says_what_failed() -> None:
    found = measure.figure(plan("loop"), Observations(), {"loop": "virtme-ng hung"})
    assert (found.standing, found.note) == (Standing.FAILED, "loop: virtme-ng hung")


@pytest.mark.parametrize(
    ("key", "names", "change", "value"),
    [
        ("loop", "matrix loop", lambda o: o, 1.0),
        ("processor", "matrix", lambda o: o, 0.5),
        ("many", "many matrix", lambda o: o, 4 / 60),
        ("memory", "many", lambda o: replace(o, peak_mib=64.0), 64.0),
        ("small", "small", lambda o: replace(o, bad=2), 2.0),
        ("reuse", "reuse", lambda o: o, 8.0),
        ("host", "check", lambda o: replace(o, run=replace(RUN, qemu_s=7.5)), 0.5),
        ("kvm.host", "check.kvm", lambda o: replace(o, run=replace(RUN, qemu_s=7.5)), 0.5),
        ("stand-in.host", "stand-in.check", lambda o: o, 8.0),
        ("stand-in.memory", "stand-in.many", lambda o: replace(o, peak_mib=90.0), 90.0),
        ("stand-in.processor", "stand-in.matrix", lambda o: o, 0.5),
        (
            *("full", "full harness.debian-newest"),
            lambda o: replace(o, results=100, checks_s=5.0),
            0.0,
        ),
        ("step", "step", lambda o: replace(o, run=replace(RUN, qemu_s=2.0, making_s=5.0)), 1.0),
        (
            *("init.debian-6.1", "harness.debian-6.1"),
            lambda o: replace(o, phases=(Phase("init", 0.5), Phase("probes", 0.2), LATER)),
            0.7,
        ),
        ("cold", "cold", lambda o: replace(o, run=replace(RUN, downloading_s=3.0)), 5.0),
    ],
)
def test_the_value_of_a_figure(
    key: str, names: str, change: Callable[[Observation], Observation], value: float
) -> None:
    observation = change(Observation(RUN))
    result = plan(key).work_out(seen(**dict.fromkeys(names.split(), observation))).result
    assert result is not None
    assert result.value == pytest.approx(value)


def test_only_the_oldest_kernel_has_to_halve_its_time() -> None:
    targets = {plan.blank.key: plan.blank.target for plan in PLANS}
    assert targets["habit.debian-6.1"] < targets["habit.debian-6.12"]
