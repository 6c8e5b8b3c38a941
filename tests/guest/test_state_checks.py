# SPDX-License-Identifier: GPL-2.0-only
"""The checks of states: a sound kernel passes, and a call that says something else is seen."""

from __future__ import annotations

import _socket
import itertools
import select
from collections.abc import Callable, Iterator

import pytest

from guest import abi, checks, sockopt, states, traces
from guest.checks import Check
from guest.checks import states as module
from guest.lab import MPTCP, Lab
from tests.guest import namespaces
from tests.guest.faults import EIO, Call, FaultyKernel

pytestmark = pytest.mark.mptcp

FAMILIES = {"ipv4": _socket.AF_INET, "ipv6": _socket.AF_INET6}
CALLS = [(check, call) for check, calls in module.CALLS.items() for call in calls]


@pytest.fixture(autouse=True)
def fresh_traces() -> Iterator[None]:
    traces.forget()
    yield
    traces.forget()


def state_checks() -> list[Check]:
    return [c for c in checks.all_checks() if c.payloads == (module.SCENARIO,)]


def failures(family: str) -> dict[str, str]:
    """What failed, by check."""
    found = {}
    for item in state_checks():
        try:
            item.function(Lab(FAMILIES[family]))  # type: ignore[arg-type]
        except checks.Failed as failed:
            found[item.id] = failed.what
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_kernel_passes(family: str) -> None:
    assert failures(family) == {}


# The families by turns: what a call says is noted in one place for both.
@pytest.mark.parametrize(
    ("family", "check", "name"),
    [(family, *call) for family, call in zip(itertools.cycle(FAMILIES), CALLS)],
)
def test_a_call_that_says_something_else_is_seen(
    family: str, check: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = traces.Tracer.call

    def call(self: traces.Tracer, called: str, function: Callable[[], object]) -> bool:
        succeeded = real(self, called, function)
        if called == name and self.protocol == MPTCP:
            self.said[name] = "EIO"
        return succeeded

    monkeypatch.setattr(traces.Tracer, "call", call)
    assert failures(family).keys() == {f"state.{check}"}


def test_a_poll_event_that_is_missing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = states.events

    def events(sock: _socket.socket) -> int:
        found = real(sock)
        return found & ~select.POLLHUP if sock.proto == MPTCP else found

    monkeypatch.setattr(states, "events", events)
    for waiting in (states, traces):
        monkeypatch.setattr(waiting, "wait_until", namespaces.wait_in_vain)
    assert "state.poll" in failures("ipv4")


def of_mptcp(option: int, error: int) -> Callable[[Call], None]:
    def fault(call: Call) -> None:
        if call.of(option):
            call.error = error

    return fault


@pytest.mark.parametrize(
    ("option", "check"),
    [
        (abi.MPTCP_INFO, "state.mptcp_info"),
        (abi.MPTCP_TCPINFO, "state.tcpinfo"),
        (abi.MPTCP_SUBFLOW_ADDRS, "state.subflow_addrs"),
        (abi.MPTCP_FULL_INFO, "state.full_info"),
        (99, "state.unknown_option"),
    ],
)
@pytest.mark.parametrize("error", [0, EIO])
def test_another_error_of_sol_mptcp_is_seen(
    option: int, check: str, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockopt, "_getsockopt", FaultyKernel(of_mptcp(option, error)).getsockopt)
    assert check in failures("ipv4")


def flags(value: int) -> Callable[[Call], None]:
    def fault(call: Call) -> None:
        if call.of(abi.MPTCP_INFO) and not call.error:
            call.data[abi.MPTCP_INFO_LAYOUT.offsets["mptcpi_flags"]] = value

    return fault


def test_a_second_connection_that_fell_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockopt, "_getsockopt", FaultyKernel(flags(3)).getsockopt)
    assert "state.reconnected_is_mptcp" in failures("ipv4")


def test_counters_that_go_on_after_a_disconnect_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(call: Call) -> None:
        if call.of(abi.MPTCP_INFO):
            call.add(abi.MPTCP_INFO_LAYOUT.offsets["mptcpi_bytes_sent"], "=Q", 1)

    monkeypatch.setattr(sockopt, "_getsockopt", FaultyKernel(fault).getsockopt)
    assert "state.reconnected_is_mptcp" in failures("ipv4")


def test_a_fallback_that_still_calls_itself_mptcp_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(call: Call) -> None:
        if (call.level, call.option) == (_socket.IPPROTO_TCP, traces.TCP_IS_MPTCP):
            call.data[0] = 1

    monkeypatch.setattr(sockopt, "_getsockopt", FaultyKernel(fault).getsockopt)
    assert "state.tcp_is_mptcp" in failures("ipv4")


def test_setting_an_option_of_sol_mptcp_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockopt, "_setsockopt", lambda *call: 0)
    assert failures("ipv4").keys() == {
        "state.sol_mptcp_is_read_only",
        "state.sets_at_no_unknown_level",
    }


def test_an_errno_of_another_level_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(call: Call) -> None:
        if call.level == traces.UNKNOWN_LEVEL:
            call.error = EIO

    monkeypatch.setattr(sockopt, "_getsockopt", FaultyKernel(fault).getsockopt)
    assert "state.unknown_level" in failures("ipv4")


def test_a_state_that_cannot_be_reached_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def place(lab: Lab, state: str, protocol: int = MPTCP) -> states.Placed:
        raise OSError(EIO, "no")

    monkeypatch.setattr(states, "place", place)
    assert len(failures("ipv4")) == len(state_checks())


def test_each_difference_from_tcp_names_a_call_and_states_that_exist() -> None:
    known = {call for calls in module.CALLS.values() for call in calls}
    for call, where, said, reason in module.DIFFERENCES:
        assert call in known
        assert set(where) <= states.STATES.keys()
        assert said
        assert reason


def test_a_failure_names_every_state_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = traces.trace_of

    def trace_of(family: int, state: str, protocol: int = MPTCP) -> traces.Trace:
        trace = dict(real(family, state, protocol))
        if state in ("bound", "reset") and protocol == MPTCP:
            trace["poll"] = "POLLPRI"
        return trace

    monkeypatch.setattr(module, "trace_of", trace_of)
    assert failures("ipv4") == {"state.poll": "poll, state bound; also reset"}


@pytest.mark.parametrize(
    ("state", "said", "fails"),
    [
        ("client", "flags 2, subflows 1", False),
        ("client", "flags 2, subflows 0", True),
        ("client", "flags 2", False),  # does not count: up to 6.7
        ("client", "flags 0", True),
        ("client", "EOPNOTSUPP", True),
        ("closed-last", "flags 2, subflows 1", False),
        ("closed-last", "flags 0, subflows 0", True),
        ("fallback", "flags 1, subflows 1", True),
    ],
)
def test_what_mptcp_info_may_say(
    state: str, said: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = traces.trace_of

    def trace_of(family: int, where: str, protocol: int = MPTCP) -> traces.Trace:
        trace = dict(real(family, where, protocol))
        if where == state:
            trace["MPTCP_INFO"] = said
        return trace

    monkeypatch.setattr(module, "trace_of", trace_of)
    assert ("state.mptcp_info" in failures("ipv4")) is fails
