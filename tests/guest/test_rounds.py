# SPDX-License-Identifier: GPL-2.0-only
"""Repeated checks on the running kernel: what a round is, and that it leaves nothing behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guest import abi, checks, events, sockopt
from guest.runner import Options, Runner
from harness.verdict.rounds import Repeat
from harness.verdict.verdicts import Family
from harness.vm.stream import StreamReader
from tests.guest.faults import Call, Fault, FaultyKernel

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.mptcp
NONCE = "0" * 16


def infos(id: str) -> bool:
    return id.startswith("mptcp_info.")


class Kept:
    """Keeps the events, and encodes them as the guest in a VM does."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._emitter = events.Emitter(self.sent.append)

    def emit(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))
        self._emitter.emit(kind, **fields)

    port = -1

    def hold(self, on: bool) -> None:
        self._emitter.hold(on)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == kind]


def run(seed: int = 7, rounds: int = 1, **more: Any) -> tuple[Runner, Kept]:
    kept = Kept()
    hello = {name: "" for name, kind in events.FIELDS["hello"].items() if kind is str}
    numbers = {"protocol": events.PROTOCOL, "seed": seed, "taint": 0}
    kept.emit("hello", **{**hello, **numbers, "nonce": NONCE})
    options = Options(("ipv4",), seed, infos, rounds=rounds, profile=checks.QUICK, **more)
    runner = Runner(options, kept)  # type: ignore[arg-type]
    results = runner.run()
    kept.emit("end", nonce=NONCE, results=results, rounds=runner.rounds, taint=0)
    return runner, kept


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def install(fault: Fault) -> None:
        kernel = FaultyKernel(fault)
        monkeypatch.setattr(sockopt, "_getsockopt", kernel.getsockopt)

    return install  # type: ignore[return-value]


def fails_from(call_number: int) -> Fault:
    """MPTCP_INFO breaks after so many calls of it."""

    def fault(call: Call) -> None:
        if call.of(abi.MPTCP_INFO) and call.sample >= call_number:
            call.error = 5

    return fault


def test_the_host_believes_what_the_guest_says_of_its_rounds() -> None:
    _, kept = run(rounds=5)
    reader = StreamReader(NONCE, (Family.IPV4,), seed=7, repeat=Repeat(5))
    reader.feed(b"".join(kept.sent))
    stream = reader.finish()
    assert stream.errors == ()
    assert stream.rounds is not None
    assert (stream.rounds.done, stream.rounds.failed) == (5, 0)


def test_each_round_has_the_next_seed() -> None:
    _, kept = run(seed=(1 << 63) - 2, rounds=4)
    assert [fields["seed"] for fields in kept.of("round")] == [(1 << 63) - 1, 0, 1]


def test_a_round_is_what_a_run_with_its_seed_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, bytes]] = []
    contents = Runner._contents

    def remember(runner: Runner, seed: int) -> Any:
        made = contents(runner, seed)
        sent.append(dict(made))
        return made

    monkeypatch.setattr(Runner, "_contents", remember)
    _, kept = run(rounds=3)
    run(seed=kept.of("round")[1]["seed"])
    assert sent[3] == sent[2]
    assert sent[2] != sent[1]


def test_a_failure_of_a_later_round_is_told_and_fails_the_run(faulty: Any) -> None:
    _, once = run()
    faulty(fails_from(_calls(faulty) + 10))
    runner, kept = run(rounds=2)
    assert runner.failed
    assert not [r for r in kept.of("result") if r["verdict"] != "pass"]
    assert len(kept.of("failure")) == events.MAX_FAILURES
    assert len(kept.of("outcome")[0]["verdicts"]) == len(once.of("result"))


def _calls(faulty: Any) -> int:
    """How often a round asks for MPTCP_INFO."""
    seen = []
    faulty(lambda call: seen.append(call) if call.of(abi.MPTCP_INFO) else None)
    run()
    return len(seen)


def test_until_fail_ends_after_the_round_that_failed(faulty: Any) -> None:
    # In the middle of the second round: on a busy machine a round asks more often, while it waits.
    faulty(fails_from(_calls(faulty) * 3 // 2))
    runner, _ = run(rounds=50, until_fail=True)
    assert runner.rounds == 2


def test_a_time_that_has_passed_ends_the_rounds() -> None:
    runner, _ = run(rounds=50, seconds=0)
    assert runner.rounds == 1


@pytest.mark.parametrize("fault", [None, fails_from(0), fails_from(300)])
def test_rounds_leave_no_cycles_behind(faulty: Any, fault: Fault | None) -> None:
    """Nobody collects them in a VM."""
    if fault is not None:
        faulty(fault)
    run(rounds=2)  # what is made once
    child = os.fork()  # without the threads of other tests, which leave some behind
    if not child:
        left = 255
        try:
            gc.collect()
            gc.disable()
            run(rounds=5)
            left = min(gc.collect(), 254)
        finally:
            os._exit(left)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_checker_repeats_for_a_person_too() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", "guest", "-4", "--check", "payload.*"),
            *("--repeat", "5", "--seed", "1"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1].endswith("- 4 further rounds, 0 failed")
    (plan,) = (line for line in lines if line.startswith("1.."))
    assert lines[-1].startswith(f"ok {plan[3:]} ")
