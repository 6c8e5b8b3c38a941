# SPDX-License-Identifier: GPL-2.0-only
"""Checks of effects, flags, fallback, fast open and the like: a sound kernel passes them all.

That each can fail is shown with faults in the kernel itself (bench/faults), and here with answers
that are altered on their way to the checker.
"""

from __future__ import annotations

import _socket
import os
from collections.abc import Callable

import pytest

from guest import calls, checks, diag, flow, setting
from guest.checks import Check, closing, control, fallback, inherit, receive, reconnect
from guest.lab import Lab
from harness.manifest import fixes
from harness.manifest.fixes_table import FIXES
from tests.guest import namespaces
from tests.guest.namespaces import Failure

pytestmark = [
    pytest.mark.mptcp,
    pytest.mark.skipif(not namespaces.available(), reason="network namespaces need root"),
]

SCENARIOS = (
    "binding",
    "effects",
    "fallback",
    "fastopen",
    "flags",
    "inherit",
    "reconnect",
    "transfers",
    "wire",
)
WAITING = ("buffers", "waits", "wakeups")


def patch(module: object, **names: object) -> None:
    """Only in the child that the checks run in."""
    for name, value in names.items():
        setattr(module, name, value)


def of(*scenarios: str) -> list[Check]:
    return [item for item in checks.all_checks() if item.scenario in scenarios]


def repaired(items: list[Check]) -> list[Check]:
    """Those that are not about a bug that the running kernel still has."""
    host = os.uname()
    bugs = fixes.lacking(FIXES, host.release, host.version, {})
    return [item for item in items if not any(bug.is_about(item.id) for bug in bugs)]


def ids(failures: list[Failure]) -> set[str]:
    return {failure[0] for failure in failures}


@pytest.mark.parametrize("family", namespaces.FAMILIES)
@pytest.mark.parametrize("scenario", [*SCENARIOS, *WAITING])
def test_a_sound_kernel_passes(scenario: str, family: str) -> None:
    items = repaired(of(scenario))
    assert items
    assert namespaces.failures(family, items) == []


def by_stage(row: inherit.Row) -> Check:
    """The check of ``row`` with a result for each of its stages."""
    function: Callable[[Lab], None] = inherit._run(row)
    return Check("row", function, (), ("run",), row.stages, (), "", row.families)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted({row.name for row in inherit.ROWS if row.back}))
def test_an_option_that_is_not_set_is_seen(name: str) -> None:
    def break_it() -> None:
        real = setting.put

        def put(sock: _socket.socket, wanted: str, value: int | bytes) -> None:
            if wanted != name:
                real(sock, wanted, value)

        patch(inherit, put=put)

    row = next(row for row in inherit.ROWS if row.name == name)
    found = namespaces.failures(row.families[0], [by_stage(row)], break_it)
    assert {failure[2] for failure in found} == set(row.stages)


@pytest.mark.parametrize("row", [row for row in inherit.ROWS if row.effect], ids=lambda r: r.name)
def test_an_option_that_stays_on_the_mptcp_socket_is_seen(row: inherit.Row) -> None:
    def break_it() -> None:
        """The subflow is another one, on which nothing was set."""

        def tcp(self: diag.Diag, *names: object, interface: int = 0) -> diag.Record:
            lab = Lab(namespaces.FAMILIES[row.families[0]])
            pair = lab.pair(before_connect=plain)
            return real(self, pair.client.getsockname(), pair.client.getpeername())

        def plain(sock: _socket.socket) -> None:
            setting.put(sock, "TCP_CONGESTION", b"cubic")

        real = diag.Diag.tcp
        patch(diag.Diag, tcp=tcp)

    found = namespaces.failures(row.families[0], [by_stage(row)], break_it)
    assert {failure[2] for failure in found} == set(row.stages)


def be_impatient() -> None:
    for function in (calls.equal_events, calls.has_events):
        patch(function, __defaults__=(0.1,))


def wrong_ioctl() -> None:
    def ioctl(sock: _socket.socket, request: int) -> int:
        return calls.ioctl(sock, request) + 1

    for module in (receive, fallback, reconnect):
        patch(module, ioctl=ioctl)


def no_hangup() -> None:
    real = calls.poll

    def poll(sock: _socket.socket, timeout_s: float = 0.0, events: int = calls.ALL_EVENTS) -> int:
        return real(sock, timeout_s, events) & ~calls.POLLHUP

    patch(calls, poll=poll)
    be_impatient()


def no_linger() -> None:
    def linger(seconds: int, on: int = 1) -> Callable[[_socket.socket], None]:
        return lambda sock: None

    for module in (closing, fallback):
        patch(module, linger=linger)
    be_impatient()


def altered_content() -> None:
    real = flow.recv_now

    def recv_now(sock: _socket.socket, size: int, flags: int = 0) -> bytes:
        data = real(sock, size, flags)
        return data if flags or len(data) < 2 else data[:-1] + bytes([data[-1] ^ 1])

    patch(flow, recv_now=recv_now)


def no_control_messages() -> None:
    def inq(sock: _socket.socket, size: int, flags: int = 0) -> tuple[bytes, int | None]:
        return control_inq(sock, size, flags)[0], None

    control_inq = control.inq
    for module in (control, fallback):
        patch(module, inq=inq)


BROKEN: dict[str, tuple[Callable[[], None], tuple[str, ...], set[str]]] = {
    "ioctl off by one": (
        wrong_ioctl,
        ("flags", "fallback"),
        {"siocinq.counts_unread_bytes", "fallback.siocinq_counts_unread_bytes"},
    ),
    "no POLLHUP": (
        no_hangup,
        ("effects",),
        {"shutdown.both_ways_hangs_up", "shutdown.half_close_keeps_the_other_way"},
    ),
    "no SO_LINGER": (
        no_linger,
        ("effects", "fallback"),
        {"so_linger.zero_resets", "fallback.linger_zero_resets"},
    ),
    "altered content": (
        altered_content,
        ("fallback",),
        {"fallback.carries_data_both_ways", "fallback.carries_data_through_small_buffers"},
    ),
    "no control messages": (
        no_control_messages,
        ("flags", "fallback"),
        {"tcp_inq.cmsg_counts_unread_bytes", "fallback.tcp_inq_set_before_connect"},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_seen(name: str) -> None:
    break_it, scenarios, noticed = BROKEN[name]
    wanted = [item for item in of(*scenarios) if item.id in noticed]
    assert {item.id for item in wanted} == noticed
    found = set()
    for family in namespaces.FAMILIES:
        first = [item for item in wanted if item.families[0] == family]
        found |= ids(namespaces.failures(family, first, break_it))
    assert found == noticed
