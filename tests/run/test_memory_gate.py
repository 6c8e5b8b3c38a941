# SPDX-License-Identifier: GPL-2.0-only
"""Whether a VM may start, by a host and a clock of the tests' own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from harness.run.workspace import PAUSE, SETTLING, MemoryGate

#: MiB
VM = 600


class Host(threading.Event):
    """Its memory and its clock; as what is waited on, time passes and ``meanwhile`` happens."""

    def __init__(self) -> None:
        super().__init__()
        self.available = 1000
        self.now = 0.0
        self.said: list[str] = []
        self.meanwhile: list[Callable[[], object]] = []
        self.gate = MemoryGate(lambda: self.available, clock=lambda: self.now)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout == PAUSE
        assert self.meanwhile, "it would wait for ever"
        self.now += timeout
        self.meanwhile.pop(0)()
        return self.is_set()

    @contextmanager
    def vm(self, mib: int = VM) -> Iterator[None]:
        with self.gate.wait(mib, self, self.said.append):
            yield

    def has(self, mib: int) -> Callable[[], None]:
        def change() -> None:
            self.available = mib

        return change


@pytest.fixture
def host() -> Host:
    return Host()


def nothing() -> None:
    """Time passes."""


def test_a_vm_for_which_there_is_memory_does_not_wait(host: Host) -> None:
    with host.vm():
        host.available -= VM
        host.now += SETTLING
        with host.vm(host.available):
            pass
    assert host.said == []


def test_a_vm_waits_until_another_program_gives_memory_back(host: Host) -> None:
    with host.vm():
        host.now += SETTLING
        host.available = VM - 1
        host.meanwhile = [nothing, host.has(VM)]
        with host.vm():
            assert host.available == VM
    assert not host.meanwhile


def test_a_vm_waits_until_another_ends(host: Host) -> None:
    with ExitStack() as first:
        first.enter_context(host.vm())
        host.meanwhile = [nothing, first.close]
        with host.vm():
            assert not host.meanwhile


def test_what_a_vm_will_take_counts_before_it_has_taken_it(host: Host) -> None:
    host.available = 2 * VM - 1
    with ExitStack() as first:
        first.enter_context(host.vm())
        host.meanwhile = [first.close]
        with host.vm():
            assert not host.meanwhile


def test_what_a_vm_left_untouched_is_there_for_the_next(host: Host) -> None:
    """A guest seldom uses all of its memory."""
    host.available = 2 * VM - 1
    pauses = int(SETTLING / PAUSE)
    host.meanwhile = [nothing] * pauses
    with host.vm(), host.vm():
        assert not host.meanwhile


def test_a_vm_alone_is_let_in_whatever_it_needs(host: Host) -> None:
    host.available = 0
    with host.vm(64 << 10):
        pass
    assert host.said == []


def test_after_a_vm_has_ended_the_next_is_alone(host: Host) -> None:
    host.available = 0
    for _ in range(2):
        with host.vm():
            pass


def test_a_vm_that_ended_by_an_error_has_ended(host: Host) -> None:
    host.available = 0
    with pytest.raises(ZeroDivisionError), host.vm():
        raise ZeroDivisionError
    with host.vm():
        pass


def test_that_it_waits_is_said_once(host: Host) -> None:
    with host.vm():
        host.now += SETTLING
        host.available = 40
        host.meanwhile = [nothing, nothing, host.has(VM)]
        with host.vm():
            pass
    (said,) = host.said
    assert said == (
        "waiting for memory: a VM needs 600 MiB, 40 MiB are left; end other programs, or use -j 1"
    )


def test_an_interruption_ends_the_wait(host: Host) -> None:
    with host.vm():
        host.meanwhile = [host.set]
        with host.vm():
            assert host.is_set()


def test_of_many_at_once_as_many_run_as_there_is_memory_for() -> None:
    """Threads and all; each VM takes its memory when it likes."""
    lock = threading.Lock()
    running = most = 0

    def run(gate: MemoryGate) -> None:
        nonlocal running, most
        with gate.wait(VM, threading.Event(), lambda _: None):
            with lock:
                running += 1
                most = max(most, running)
            barrier.wait(timeout=30)
            with lock:
                running -= 1

    barrier = threading.Barrier(2)
    gate = MemoryGate(lambda: 2 * VM)
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(run, gate) for _ in range(8)]:
            future.result()
    assert most == 2
