# SPDX-License-Identifier: GPL-2.0-only
"""The checks many times in one boot of a real kernel."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import guest
from guest import events
from harness.kernels import PreparedKernel, prepare
from harness.kernels.cache import Cache
from harness.manifest.expectations import expectations
from harness.manifest.kernels_yaml import DebSource, KernelEntry
from harness.manifest.plan import Plan
from harness.run.workspace import find_tools
from harness.verdict import judge
from harness.verdict.results import Attempt, BootEnd
from harness.verdict.rounds import Repeat
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from harness.vm import boot, initramfs
from harness.vm.boot import BootPlan, Deadlines
from harness.vm.commandline import Machine, Request
from tests.boots.conftest import Harness, virtual_machines, wait_until
from tests.replacing import replaced

CHECKS = ("payload.arrives", "payload.survives_the_echo")
SEED = 7  # with the first failure in round 7
#: A checker in which a payload does not arrive where its size is divisible by five.
FLAKY = """\
def _compare(end: End) -> None:
    if len(end.expected) % 5 == 0:
        raise Failed("made to fail", "other", str(len(end.expected)))
"""
#: One in which the kernel panics there.
PANICS = """\
def _compare(end: End) -> None:
    if len(end.expected) % 5 == 0:
        open("/proc/sysrq-trigger", "w").write("c")
"""


@pytest.fixture(scope="module")
def kernel(cache: Cache) -> PreparedKernel:
    entry = KernelEntry("trixie", DebSource("trixie", "linux-image-amd64"), "the tests")
    return prepare(entry, cache, lambda _: None)


Boot = Callable[..., Attempt]


@pytest.fixture
def booted(kernel: PreparedKernel, cache: Cache, tmp_path: Path) -> Boot:
    """Boots with the flaky checker, or with another one."""
    qemu, busybox = find_tools()
    base = initramfs.prepare(cache.root, busybox)
    source = (Path(guest.__file__).parent / "checks" / "payload.py").read_text()

    def run(name: str, seed: int, repeat: Repeat, compare: str = FLAKY) -> Attempt:
        spoiled = replaced(source, "def _compare(end: End) -> None:\n", compare)
        families = (Family.IPV4,)
        plan = BootPlan(
            kernel=kernel,
            base=base,
            qemu=qemu,
            machine=Machine(),
            request=Request("0" * 16, seed, Plan(families, CHECKS, repeat=repeat)),
            deadlines=Deadlines.scaled(120, kvm=False),
            directory=tmp_path / name,
            extra=initramfs.instead_of_checker(
                {**initramfs.checker(), "checks/payload.py": spoiled.encode()}
            ),
        )
        return boot.boot(plan, threading.Event(), lambda _: None)

    return run


def verdict(attempt: Attempt) -> tuple[KernelVerdict, str]:
    families = (Family.IPV4,)
    expected = expectations(attempt.stream.release, True, {})
    return judge.kernel(attempt, judge.families(attempt, families, expected))


def failed(attempt: Attempt) -> set[str]:
    return {str(r.key) for r in attempt.stream.results if r.verdict is CheckVerdict.FAIL}


def test_the_seed_of_the_first_round_that_failed_repeats_it(booted: Boot) -> None:
    many = booted("many", SEED, Repeat(200, until_fail=True))
    assert many.end is BootEnd.POWERED_OFF
    assert many.stream.errors == ()
    rounds = many.stream.rounds
    assert rounds is not None
    last = rounds.done - 1
    assert 0 < last < 199, "the seed that this test begins with fails at once, or never"
    assert {failure.first for failure in rounds.failures} == {last}
    assert verdict(many)[0] is KernelVerdict.FAIL
    again = booted("again", rounds.failures[0].seed, Repeat())
    assert failed(again) == failed(many)
    before = booted("before", events.round_seed(SEED, last - 1), Repeat())
    assert verdict(before)[0] is KernelVerdict.PASS


def test_failing_rounds_are_counted_and_do_not_end_the_others(booted: Boot) -> None:
    attempt = booted("counted", SEED, Repeat(60))
    rounds = attempt.stream.rounds
    assert rounds is not None
    assert rounds.done == 60
    assert 0 < rounds.failed < 60
    assert rounds.by_check["payload.arrives"] == rounds.failed
    assert f"{rounds.failed} of 60 rounds failed" in verdict(attempt)[1]


def test_a_crash_in_a_later_round_is_a_crash_and_names_the_round(booted: Boot) -> None:
    attempt = booted("crash", SEED, Repeat(60), PANICS)
    rounds = attempt.stream.rounds
    assert rounds is not None
    assert rounds.cut is not None
    assert (rounds.done, rounds.cut.seed) == (7, SEED + 7)
    found, reason = verdict(attempt)
    assert found is KernelVerdict.CRASH
    assert f"in round 7, seed {SEED + 7}" in reason


def test_many_rounds_of_all_checks_pass(harness: Harness, kernel: PreparedKernel) -> None:
    run = harness("check", str(kernel.image), "--repeat", "5", "--profile", "quick")
    assert run.status == 0, run.stdout + run.stderr
    (found,) = run.record["kernels"]
    assert (found["rounds"]["done"], found["rounds"]["failed"]) == (5, 0)
    assert "5 rounds, none failed" in run.stdout


def test_an_interrupted_repeat_says_what_was_seen(
    kernel: PreparedKernel,
    temporary: Path,
    started: Callable[..., tuple[subprocess.Popen[bytes], Path]],
) -> None:
    options = ("--repeat", "1000000", "--check", "payload.*")
    process, directory = started("check", str(kernel.image), *options)
    place = directory / "kernels"
    assert wait_until(
        lambda: any(b'"round"' in f.read_bytes() for f in place.rglob("events*")), 120
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    (record,) = json.loads((directory / "run.json").read_text())["kernels"]
    assert record["rounds"]["done"] > 0
    assert record["reason"].startswith("interrupted after")
    assert not virtual_machines(temporary)
