# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios that hang, die, or take a real kernel down."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import guest
from harness.kernels import PreparedKernel, prepare
from harness.kernels.cache import Cache
from harness.manifest.expectations import expectations
from harness.manifest.kernels_yaml import DebSource, KernelEntry
from harness.manifest.plan import Plan
from harness.run.workspace import find_tools
from harness.verdict import judge
from harness.verdict.results import Attempt, BootEnd
from harness.verdict.rounds import ONCE, Repeat
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from harness.vm import boot, initramfs
from harness.vm.boot import BootPlan, Deadlines
from harness.vm.commandline import Machine, Request

FAMILIES = (Family.IPV4,)
SEED = 7
#: A module of checks, some of which stop.
MODULE = """\
import os, time
from guest import child
from guest.checks import scenario_check
from guest.scenarios import Scenario, declare

declare(Scenario("sleepy", waits=True))
declare(Scenario("hasty", deadline_s=3.0))


def good(lab):
    pair = lab.pair()
    pair.client.sendall(b"x")
    assert pair.server.recv(1) == b"x"


def spins(lab):
    while True:
        pass


def forks(lab):
    if os.fork() == 0:
        os.setsid()
        while True:
            time.sleep(60)


def panics(lab):
    time.sleep(1.0)
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")


def panics_late(lab):
    if lab.seed % 5 == 0:
        panics(lab)


def in_scenario(name, *functions):
    for number, function in enumerate(functions):
        scenario_check("%s.%d" % (name, number), scenario=name)(function)


in_scenario("hasty", good, spins, good)
in_scenario("deadly", good, lambda lab: os.kill(os.getpid(), 9), good)
in_scenario("leaving", forks, good)
in_scenario("sleepy", lambda lab: time.sleep(5), good)
in_scenario("panicky", good, panics)
in_scenario("late", good, panics_late)
"""


@pytest.fixture(scope="module")
def kernel(cache: Cache) -> PreparedKernel:
    entry = KernelEntry("trixie", DebSource("trixie", "linux-image-amd64"), "the tests")
    return prepare(entry, cache, lambda _: None)


Boot = Callable[..., Attempt]


@pytest.fixture
def booted(kernel: PreparedKernel, cache: Cache, tmp_path: Path) -> Boot:
    """Boots with a checker that has the module above, and runs some of its checks."""
    qemu, busybox = find_tools()
    base = initramfs.prepare(cache.root, busybox)
    registry = (Path(guest.__file__).parent / "checks" / "__init__.py").read_text()
    start = registry.index("FULL_MODULES: Sequence[str] = (")
    end = registry.index(")\n", start)
    registry = f'{registry[:start]}FULL_MODULES: Sequence[str] = ("stopping",{registry[end:]}'

    def run(*checks: str, repeat: Repeat = ONCE) -> Attempt:
        plan = BootPlan(
            kernel=kernel,
            base=base,
            qemu=qemu,
            machine=Machine(),
            request=Request("0" * 16, SEED, Plan(FAMILIES, checks, repeat=repeat)),
            deadlines=Deadlines.scaled(120, kvm=False),
            directory=tmp_path / "boot",
            extra=initramfs.instead_of_checker(
                {
                    **initramfs.checker(),
                    "checks/__init__.py": registry.encode(),
                    "checks/stopping.py": MODULE.encode(),
                }
            ),
        )
        return boot.boot(plan, threading.Event(), lambda _: None)

    return run


def verdict(attempt: Attempt) -> tuple[KernelVerdict, str]:
    expected = expectations(attempt.stream.release, True, {})
    return judge.kernel(attempt, judge.families(attempt, FAMILIES, expected))


def test_scenarios_that_stop_lose_their_own_checks_and_the_rest_goes_on(booted: Boot) -> None:
    attempt = booted(
        *("hasty.0", "hasty.1", "hasty.2", "deadly.0", "deadly.1", "deadly.2"),
        *("leaving.0", "leaving.1", "sleepy.0", "sleepy.1"),
    )
    assert attempt.end is BootEnd.POWERED_OFF
    assert attempt.stream.errors == ()
    found = {result.key.id: result for result in attempt.stream.results}
    bad = {"hasty.1", "hasty.2", "deadly.1", "deadly.2"}
    assert {id for id, result in found.items() if result.verdict is not CheckVerdict.PASS} == bad
    assert "state R" in found["hasty.1"].got
    assert "in spins" in found["hasty.1"].got
    assert "killed by SIGKILL" in found["deadly.1"].detail
    assert found["hasty.2"].verdict is found["deadly.2"].verdict is CheckVerdict.LOST
    assert verdict(attempt)[0] is KernelVerdict.FAIL


def test_a_crash_is_charged_to_every_check_that_was_running(booted: Boot) -> None:
    attempt = booted("panicky.0", "panicky.1", "sleepy.0", "sleepy.1")
    found, reason = verdict(attempt)
    assert found is KernelVerdict.CRASH
    assert "ipv4 sleepy.0 (sleepy/run/both), ipv4 panicky.1 (panicky/run/both) ran" in reason


def test_a_crash_in_a_later_round_names_the_scenarios_the_round_and_its_seed(
    booted: Boot,
) -> None:
    attempt = booted("late.0", "late.1", repeat=Repeat(60))
    rounds = attempt.stream.rounds
    assert rounds is not None
    assert rounds.cut is not None
    assert rounds.done > 0
    found, reason = verdict(attempt)
    assert found is KernelVerdict.CRASH
    assert f"ipv4 late checks in round {rounds.done}, seed {SEED + rounds.done}" in reason
