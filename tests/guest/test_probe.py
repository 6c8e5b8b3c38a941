# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel's answers are taken for: the running kernel's, altered."""

from __future__ import annotations

import _socket
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest import abi, options, probe, sockopt
from guest.connection import LOOPBACK, Connection
from guest.options import Option
from harness.manifest.expectations import CAPABILITIES
from tests.guest.faults import Call, Fault, FaultyKernel, writes_beyond

pytestmark = pytest.mark.mptcp

FAMILIES = {"ipv4": _socket.AF_INET, "ipv6": _socket.AF_INET6}
#: Every option in each family that has it, with the capability that goes with it.
CASES = [
    (family, name, option)
    for family in FAMILIES.values()
    for name in options.OPTIONS
    for option in options.of_family(name, family)
]
SETTABLE = [case for case in CASES if case[2].probed]


@pytest.fixture
def connections() -> Iterator[dict[int, Connection]]:
    made = {family: Connection(family, b"payload" * 20) for family in FAMILIES.values()}
    yield made
    for connection in made.values():
        connection.close()


def answers(number: int, option: Option) -> Fault:
    """getsockopt fails with ``number``."""

    def fault(call: Call) -> None:
        if (call.level, call.option) == (option.level, option.number):
            call.error = number

    return fault


def refuse_to_set(number: int, option: Option, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sockopt.setsockopt

    def setsockopt(fd: int, level: int, wanted: int, value: bytes) -> int:
        if (level, wanted) == (option.level, option.number):
            return number
        return real(fd, level, wanted, value)

    monkeypatch.setattr(sockopt, "setsockopt", setsockopt)


def break_kernel(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockopt, "_getsockopt", FaultyKernel(fault).getsockopt)


def test_the_host_knows_what_the_guest_asks_for() -> None:
    assert {"ipv6", "mptcp_ipv6", *probe.NAMES} == set(CAPABILITIES)


@pytest.mark.parametrize("label", FAMILIES)
def test_every_name_is_answered_for(label: str) -> None:
    found = set(probe.capabilities(FAMILIES[label]))
    assert found - {"ipv6", "mptcp_ipv6"} == set(probe.NAMES)
    assert (found >= {"ipv6", "mptcp_ipv6"}) == (label == "ipv6")


def refuse_sockets(families: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """socket(2) of a kernel that makes no MPTCP socket of these."""
    real = _socket.socket

    class Socket(real):  # type: ignore[misc, valid-type]
        def __new__(cls, family: int, kind: int, protocol: int = 0, *_: object) -> Socket:
            if family in families and protocol == abi.IPPROTO_MPTCP:
                raise OSError(errno.EPROTONOSUPPORT, "no")
            return super().__new__(cls, family, kind, protocol, *_)  # type: ignore[no-any-return]

    monkeypatch.setattr(_socket, "socket", Socket)


def test_a_kernel_without_mptcp_over_ipv6_lacks_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONFIG_MPTCP_IPV6=n is one cause, and eighteen capabilities."""
    refuse_sockets({_socket.AF_INET6}, monkeypatch)
    found = probe.capabilities(_socket.AF_INET6)
    assert {name: finding.present for name, finding in found.items()} == {
        "ipv6": True,
        "mptcp_ipv6": False,
    }
    assert found["mptcp_ipv6"].detail.startswith("EPROTONOSUPPORT")
    assert probe.capabilities(_socket.AF_INET)["mptcp"].present


def test_a_kernel_without_mptcp_lacks_mptcp(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_sockets(set(FAMILIES.values()), monkeypatch)
    found = probe.capabilities(_socket.AF_INET6)
    assert not found["mptcp"].present
    assert "mptcp_ipv6" not in found


def test_an_argument_that_turns_ipv6_off_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cmdline").write_text("console=ttyS0 ipv6.disable=1 quiet\n")
    monkeypatch.setattr(probe, "COMMAND_LINE", str(tmp_path / "cmdline"))
    monkeypatch.setitem(LOOPBACK, _socket.AF_INET6, "2001:db8::1")  # which nobody has here
    finding = probe.capabilities(_socket.AF_INET6)["ipv6"]
    assert "command line has ipv6.disable=1: leave it out" in finding.detail
    (tmp_path / "cmdline").write_text("console=ttyS0 ipv6.disable=0\n")
    assert "command line" not in probe.capabilities(_socket.AF_INET6)["ipv6"].detail


@pytest.mark.parametrize("number", probe.ABSENT)
def test_an_option_that_cannot_be_read_is_absent(
    number: int, connections: dict[int, Connection]
) -> None:
    for family, name, option in CASES:
        with pytest.MonkeyPatch.context() as patch:
            break_kernel(answers(number, option), patch)
            found = probe.answers(connections[family].client)[name]
        assert not found.present, (family, name)
        assert found.detail.startswith(f"getting {option.name}: E"), (family, name)


def test_an_option_that_cannot_be_set_is_absent(connections: dict[int, Connection]) -> None:
    lacking = []
    for family, name, option in SETTABLE:
        client = connections[family].client
        if not probe.answers(client)[name].present:
            lacking.append(name)
            continue
        with pytest.MonkeyPatch.context() as patch:
            refuse_to_set(errno.EOPNOTSUPP, option, patch)
            found = probe.answers(client)[name]
        assert (found.present, found.detail) == (False, f"setting {option.name}: EOPNOTSUPP")
    if lacking:
        pytest.skip(f"the running kernel has no {', '.join(lacking)}")


def test_an_option_that_fails_in_another_way_is_there_and_broken(
    connections: dict[int, Connection],
) -> None:
    for family, name, option in CASES:
        with pytest.MonkeyPatch.context() as patch:
            break_kernel(answers(errno.EIO, option), patch)
            found = probe.answers(connections[family].client)[name]
        assert found.present, (family, name)
        assert f"{option.name}: EIO" in found.detail, (family, name)


def test_an_option_that_overruns_its_buffer_is_there_and_broken(
    connections: dict[int, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    option = options.BY_NAME["TCP_IS_MPTCP"]
    break_kernel(writes_beyond(option.number, option.level), monkeypatch)
    found = probe.answers(connections[_socket.AF_INET].client)["tcp_is_mptcp"]
    assert found.present
    assert "overwritten" in found.detail


@pytest.mark.parametrize(
    ("length", "there"),
    [
        (48, set()),
        (80, {"packet_stats"}),
        (88, {"packet_stats", "subflows_total"}),
        (96, {"packet_stats", "subflows_total", "last_data"}),
    ],
)
def test_what_mptcp_info_has_shows_in_its_length(
    length: int,
    there: set[str],
    connections: dict[int, Connection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut(call: Call) -> None:
        if call.of(abi.MPTCP_INFO):
            call.length = length

    break_kernel(cut, monkeypatch)
    found = probe.answers(connections[_socket.AF_INET].client)
    parts = {"packet_stats", "subflows_total", "last_data"}
    assert {name for name in parts if found[name].present} == there


@pytest.mark.parametrize("label", FAMILIES)
def test_asking_leaves_the_connection_as_it_was(
    label: str, connections: dict[int, Connection]
) -> None:
    client = connections[FAMILIES[label]].client

    def state() -> list[object]:
        wanted = [o for name in options.OPTIONS for o in options.of_family(name, client.family)]
        info = abi.MPTCP_INFO_LAYOUT.view(client.mptcp_info().filled)
        return [
            [options.number_in(option.get(client.fd)) for option in wanted],
            [info.mptcpi_write_seq, info.mptcpi_rcv_nxt, info.mptcpi_bytes_sent],
        ]

    before = state()
    probe.answers(client)
    assert state() == before
