# SPDX-License-Identifier: GPL-2.0-only
"""sock_diag: what is asked and how answers are read, against sockets of the running kernel."""

from __future__ import annotations

import _socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from guest import abi, diag, netlink
from guest.checks import diag_sockets
from guest.lab import TCP, Lab

pytestmark = pytest.mark.mptcp

SO_PRIORITY, SO_SNDBUF, TCP_CONGESTION = 12, 7, 13


@pytest.fixture(params=[_socket.AF_INET, _socket.AF_INET6], ids=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(request.param)
    yield made
    made.close()


@pytest.fixture
def asking() -> Iterator[diag.Diag]:
    made = diag.Diag()
    yield made
    made.close()


def test_a_subflow_shows_addresses_state_and_owner(lab: Lab, asking: diag.Diag) -> None:
    pair = lab.pair()
    found = asking.subflow(pair.client)
    assert found.local == pair.client.getsockname()[:2]
    assert found.remote == pair.client.getpeername()[:2]
    assert found.state == diag.ESTABLISHED
    assert found.family == lab.family
    assert found.inode != 0


def test_a_subflow_shows_what_was_set_on_the_mptcp_socket(lab: Lab, asking: diag.Diag) -> None:
    pair = lab.pair()
    pair.client.setsockopt(_socket.SOL_SOCKET, SO_PRIORITY, 5)
    pair.client.setsockopt(_socket.IPPROTO_TCP, TCP_CONGESTION, b"reno")
    found = asking.subflow(pair.client)
    assert (found.priority, found.congestion) == (5, "reno")
    pair.client.setsockopt(_socket.SOL_SOCKET, SO_SNDBUF, 50_000)
    assert asking.subflow(pair.client).skmem.sndbuf == 100_000


def test_the_ulp_info_leads_to_the_mptcp_socket_and_its_info(lab: Lab, asking: diag.Diag) -> None:
    pair = lab.pair()
    ulp = asking.subflow(pair.client).ulp
    assert ulp is not None
    assert ulp.name == "mptcp"
    assert ulp.flags & diag.MCAP_LOC
    found = asking.mptcp(ulp.token_loc)
    assert found.local == pair.client.getsockname()[:2]
    assert found.info.mptcpi_token == ulp.token_loc


def test_a_tcp_socket_is_no_subflow(lab: Lab, asking: diag.Diag) -> None:
    pair = lab.pair(client=TCP, server=TCP)
    found = asking.subflow(pair.client)
    assert not found.is_subflow
    assert found.info.tcpi_state == diag.ESTABLISHED


def test_dumps_hold_listener_and_both_ends(lab: Lab, asking: diag.Diag) -> None:
    pair = lab.pair()
    port = pair.listener.getsockname()[1]
    states = sorted(found.state for found in asking.subflows(port))
    assert states == [diag.ESTABLISHED, diag.ESTABLISHED, diag.LISTEN]
    ends = [*asking.mptcp_sockets(sport=port), *asking.mptcp_sockets(dport=port)]
    assert sorted(found.state for found in ends) == states
    assert asking.tcp_listener(pair.listener).local[1] == port


def test_a_socket_that_is_gone_is_refused_with_enoent(lab: Lab, asking: diag.Diag) -> None:
    with pytest.raises(netlink.Refused) as refused:
        asking.tcp((lab.address, 1), (lab.address, 2))
    assert refused.value.errno == netlink.ENOENT


def test_a_plain_tcp_socket_can_be_destroyed(lab: Lab, asking: diag.Diag) -> None:
    pair = lab.pair(client=TCP, server=TCP)
    asking.destroy(asking.subflow(pair.client))
    with pytest.raises(ConnectionAbortedError):
        pair.client.recv(1)


def test_numbers_of_a_record_are_read_by_name() -> None:
    body = struct.pack("=BBBB", _socket.AF_INET, 1, 2, 3)
    body += struct.pack("!HH", 80, 8080) + bytes([127, 0, 0, 1]) + bytes(12)
    body += bytes([10, 0, 0, 2]) + bytes(12) + struct.pack("=III", 4, 5, 6)
    body += struct.pack("=IIIII", 7, 8, 9, 10, 11)
    body += netlink.attribute(diag.MARK, netlink.u32(12))
    body += netlink.attribute(diag.CONG, b"reno\0")
    found = diag.Record(body, 6)
    assert (found.state, found.timer, found.retrans) == (1, 2, 3)
    assert (found.local, found.remote) == (("127.0.0.1", 80), ("10.0.0.2", 8080))
    assert (found.interface, found.cookie) == (4, (5, 6))
    assert (found.expires, found.rqueue, found.wqueue) == (7, 8, 9)
    assert (found.uid, found.inode) == (10, 11)
    assert (found.mark, found.congestion, found.tos) == (12, "reno", None)
    with pytest.raises(abi.Truncated):
        _ = found.skmem.sndbuf


def test_the_first_member_of_a_bit_field_is_the_lowest_bit_on_any_machine() -> None:
    # recverr, is_icsk, freebind: on big endian from the highest bit down.
    assert diag.bit_field(0b00000110, "little") == diag.bit_field(0b01100000, "big") == 0b110


def test_listeners_of_a_dump_share_no_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel leaves out one of two in a bucket, behind a listener of another namespace."""
    ports = iter([48637, 35585, 56317, 37295, 39693, 47797])
    opened = []

    def pair() -> SimpleNamespace:
        port, closed = next(ports), [False]
        listener = SimpleNamespace(
            getsockname=lambda: ("127.0.0.1", port), close=lambda: closed.__setitem__(0, True)
        )
        opened.append((port, closed))
        return SimpleNamespace(listener=listener)

    others = [SimpleNamespace(local=("127.0.0.1", 39693 + diag_sockets.BUCKETS))]
    bench = SimpleNamespace(diag=SimpleNamespace(mptcp_sockets=lambda **_: others))
    monkeypatch.setattr("guest.multipath.bench", lambda lab: bench)
    pairs = diag_sockets.apart(SimpleNamespace(pair=pair), 4)  # type: ignore[arg-type]
    found = [one.listener.getsockname()[1] for one in pairs]
    assert found == [48637, 35585, 37295, 47797]
    assert [port for port, closed in opened if closed[0]] == [56317, 39693]
