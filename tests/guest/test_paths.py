# SPDX-License-Identifier: GPL-2.0-only
"""Checks of several subflows: they pass on the running kernel, and each fault fails its check.

A fault stands between the kernel and the check: a number that is off by one, an event that does
not come. The checks run as in a VM, in a process and a network namespace of their own.
"""

from __future__ import annotations

import _socket
import contextlib
import functools
import os
import pickle
from collections.abc import Callable, Sequence

import pytest

from guest import abi, checks, diag, isolation, mib, multipath, pm
from guest.checks import Failed
from guest.lab import Lab
from tests.guest import namespaces

pytestmark = [
    pytest.mark.mptcp,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
]

BY_ID = {item.id: item for item in checks.all_checks()}
Outcome = str | None


def run(check: str, fault: Callable[[], None] | None = None) -> Outcome:
    """What ``check`` failed with, None if it passed, on a kernel with ``fault``."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        outcome: Outcome = "no outcome"
        try:
            isolation.isolate()
            if fault is not None:
                namespaces.shorten_waits()
                fault()
            item = BY_ID[check]
            lab = Lab(_socket.AF_INET, item.phases[0], item.sides[0], 1)
            try:
                item.function(lab)  # type: ignore[arg-type]
                outcome = None
            except Failed as failed:
                outcome = failed.what
        except BaseException as error:
            outcome = repr(error)
        finally:
            os.write(writing, pickle.dumps(outcome))
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        found = pickle.loads(file.read())
    os.waitpid(child, 0)
    assert found is None or isinstance(found, str)
    return found


@functools.cache
def sound(check: str) -> Outcome:
    """What ``check`` failed with on the running kernel, asked once for all faults of it."""
    return run(check)


def miscounted(field: str) -> Callable[[], None]:
    """MPTCP_INFO counts 100 too many of ``field``: more than what a check waits for on its way."""

    def fault() -> None:
        real = multipath.info

        def info(sock: _socket.socket) -> abi.View:
            found = real(sock)
            data = bytearray(found.raw)
            data[abi.MPTCP_INFO_LAYOUT.offsets[field]] += 100
            return abi.MPTCP_INFO_LAYOUT.view(data)

        multipath.info = info

    return fault


def counted_twice(counter: str) -> Callable[[], None]:
    def fault() -> None:
        real = mib.numbers

        def numbers(group: str) -> tuple[Sequence[str], Sequence[bytes]]:
            names, found = real(group)
            at = names.index(counter)
            return names, [*found[:at], b"%d" % (2 * int(found[at])), *found[at + 1 :]]

        mib.numbers = numbers

    return fault


def without_events(kind: int) -> Callable[[], None]:
    def fault() -> None:
        real = pm.Events.read

        def read(self: pm.Events) -> list[pm.Event]:
            return [one for one in real(self) if one.kind != kind]

        pm.Events.read = read  # type: ignore[method-assign]

    return fault


def told_twice(kind: int) -> Callable[[], None]:
    """Each event of that kind comes a second time, which no step has to say that it expects."""

    def fault() -> None:
        real = pm.Events.read

        def read(self: pm.Events) -> list[pm.Event]:
            return [one for one in real(self) for _ in range(1 + (one.kind == kind))]

        pm.Events.read = read  # type: ignore[method-assign]

    return fault


def ulp_says(name: str, value: object) -> Callable[[], None]:
    """Every subflow has this in its ULP info."""

    def fault() -> None:
        real = diag.Ulp.__init__

        def init(self: diag.Ulp, data: bytes) -> None:
            real(self, data)
            setattr(self, name, value)

        diag.Ulp.__init__ = init  # type: ignore[method-assign]

    return fault


def record_says(name: str, value: object) -> Callable[[], None]:
    def fault() -> None:
        setattr(diag.Record, name, property(lambda self: value))

    return fault


def refuses_nothing() -> None:
    """What the path manager refuses looks like a success."""
    for name in ("add", "set_limits", "set_flags", "create", "announce"):
        real = getattr(pm.PathManager, name)

        def call(self: object, *given: object, real: object = real, **more: object) -> None:
            with contextlib.suppress(OSError):
                real(self, *given, **more)  # type: ignore[operator]

        setattr(pm.PathManager, name, call)


FAULTS = [
    ("subflows.counted_at_both_ends", miscounted("mptcpi_subflows"), "mptcpi_subflows"),
    ("subflows.local_addr_used", miscounted("mptcpi_local_addr_used"), "mptcpi_local_addr_used"),
    ("subflows.limits_in_info", miscounted("mptcpi_subflows_max"), "mptcpi_subflows_max"),
    ("subflows.nothing_announced", miscounted("mptcpi_add_addr_signal"), "add_addr_signal"),
    ("subflows.join_counters", counted_twice("MPJoinAckRx"), "MPTcpExt"),
    ("subflows.flags_in_diag", ulp_says("flags", 0), "flags"),
    ("subflows.address_ids_in_diag", ulp_says("id_loc", 0), "ids"),
    ("subflows.tokens_in_diag", ulp_says("token_rem", 0), "remote token"),
    ("subflows.so_mark", record_says("mark", 0), "SO_MARK"),
    ("subflows.tcp_congestion", record_says("congestion", "cubic"), "TCP_CONGESTION"),
    ("pm_changes.delete", miscounted("mptcpi_local_addr_used"), "client's MPTCP_INFO"),
    ("pm_changes.delete", counted_twice("RmAddr"), "MPTcpExt"),
    ("pm_changes.delete", without_events(pm.REMOVED), "events"),
    ("pm_changes.set_backup", ulp_says("flags", 0), "backup flag"),
    ("initial_address.returns_twice", miscounted("mptcpi_local_addr_used"), "client's MPTCP_INFO"),
    ("initial_address.id_zero_is_gone", counted_twice("RmAddrTx"), "MPTcpExt"),
    ("announced_address.returns", without_events(pm.ANNOUNCED), "events"),
    ("closed_address.returns_after_a_flush", without_events(pm.SUB_ESTABLISHED), "events"),
    ("commanded_address.goes", told_twice(pm.SUB_CLOSED), "events"),
    ("limits.lowered", miscounted("mptcpi_add_addr_accepted"), "mptcpi_add_addr_accepted"),
    ("join.with_syn_cookies", ulp_says("id_rem", 0), "ids and backup flags"),
    ("flush.of_many_endpoints", miscounted("mptcpi_add_addr_signal"), "mptcpi_add_addr_signal"),
    ("add_addr.accept", miscounted("mptcpi_add_addr_accepted"), "client's MPTCP_INFO"),
    ("add_addr.accept", without_events(pm.ANNOUNCED), "events"),
    ("signals.delete", miscounted("mptcpi_add_addr_signal"), "mptcpi_add_addr_signal"),
    ("userspace_pm.destroy", without_events(pm.SUB_CLOSED), "events"),
    ("userspace_pm.announce_refused", refuses_nothing, "id 0"),
    ("userspace_pm.refused_address_is_forgotten", refuses_nothing, "create"),
    ("userspace_pm.announced_as_backup", ulp_says("flags", 0), "backup flags"),
    ("failures.remove_without_subflow", miscounted("mptcpi_subflows"), "mptcpi_subflows"),
    ("pm.duplicates_refused", refuses_nothing, "the same address"),
    ("pm.limits_too_high", refuses_nothing, "limits"),
    ("failures.destroyed_subflow", miscounted("mptcpi_subflows"), "subflow"),
    ("counters.handshake", counted_twice("MPCapableSYNRX"), "MPTcpExt"),
    ("diag.options_of_mptcp_socket", record_says("mark", None), "mark"),
]


@pytest.mark.parametrize(
    ("check", "fault", "what"), FAULTS, ids=[f"{n}-{case[0]}" for n, case in enumerate(FAULTS)]
)
def test_a_fault_fails_the_check_that_is_about_it(
    check: str, fault: Callable[[], None], what: str
) -> None:
    assert sound(check) is None
    found = run(check, fault)
    assert found is not None
    assert what in found


def test_a_step_that_fails_leaves_the_others_to_be_judged() -> None:
    broken = without_events(pm.SUB_PRIORITY)
    assert run("pm_changes.set_backup", broken) == "events"
    assert run("pm_changes.delete", broken) is None


def test_an_event_of_a_kind_that_must_be_silent_fails_the_step() -> None:
    assert run("initial_address.returns_twice", told_twice(pm.SUB_ESTABLISHED)) == "events"


def test_a_story_that_fails_fails_each_check_of_it_with_its_reason() -> None:
    def refuse() -> None:
        def add(*_: object, **__: object) -> None:
            raise OSError(95, "no endpoints")

        pm.PathManager.add = add  # type: ignore[method-assign]

    for check in ("subflows.each_endpoint_joins", "subflows.local_addr_used"):
        assert "no endpoints" in str(run(check, refuse))


def test_an_address_of_no_family_fails_a_check_and_does_not_break_it() -> None:
    """As a 32-bit program sees MPTCP_FULL_INFO: its structure begins four bytes earlier."""
    with pytest.raises(Failed, match="family of a subflow's address"):
        multipath._address(bytes(128))
