# SPDX-License-Identifier: GPL-2.0-only
"""Addresses on lo, a second namespace, counters of /proc/net, messages of the path managers."""

from __future__ import annotations

import _socket
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from guest import mib, netlink, pm, topology
from tests.guest.test_paths import pytestmark as needs_root

NAMESPACE = Path("/proc/thread-self/ns/net")
FAMILIES = [_socket.AF_INET, _socket.AF_INET6]


def inside(work: Callable[[], None]) -> None:
    """Run ``work`` in a process and a network namespace of its own."""
    from guest import isolation

    child = os.fork()
    if child == 0:
        status = 1
        try:
            isolation.isolate()
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("family", FAMILIES)
@needs_root[1]
def test_an_address_is_usable_at_once_and_gone_after_its_removal(family: int) -> None:
    def work() -> None:
        loopback = topology.Loopback()
        address = topology.client_address(family, 3)
        for _ in range(3):
            loopback.add(address)
            sock = _socket.socket(family, _socket.SOCK_STREAM)
            sock.bind((address, 0))
            sock.close()
            loopback.remove(address)
        sock = _socket.socket(family, _socket.SOCK_STREAM)
        with pytest.raises(OSError, match="assign"):
            sock.bind((address, 0))

    inside(work)


@needs_root[1]
def test_a_second_namespace_is_entered_and_left() -> None:
    def work() -> None:
        home = NAMESPACE.readlink()
        other = topology.Namespace()
        assert NAMESPACE.readlink() == home
        with other:
            assert NAMESPACE.readlink() != home
        assert NAMESPACE.readlink() == home
        other.close()

    inside(work)


NETSTAT = "TcpExt: A B\nTcpExt: 1 2\nMPTcpExt: C D\nMPTcpExt: 3 4\n"
PROTOCOLS = (
    "protocol  size sockets  memory\nMPTCPv6   2352      5       0\nMPTCP     2176      7       0\n"
)
SOCKSTAT = "sockets: used 9\nTCP: inuse 4 orphan 1\n"


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    files = {"netstat": NETSTAT, "protocols": PROTOCOLS, "sockstat": SOCKSTAT, "sockstat6": ""}
    monkeypatch.setattr(mib, "_read_bytes", lambda name: files[name].encode())
    return files


def test_counters_are_read_by_group_and_name(proc: dict[str, str]) -> None:
    assert mib.counters() == {"C": 3, "D": 4}
    assert mib.counters("TcpExt") == {"A": 1, "B": 2}
    assert mib.counters("IpExt") == {}


def test_what_moved_is_told_and_a_counter_that_is_not_there_stands_still(
    proc: dict[str, str],
) -> None:
    since = mib.Since()
    proc["netstat"] = "MPTcpExt: C D\nMPTcpExt: 3 6\n"
    assert since.moved() == {"D": 2}
    assert (since.of("D"), since.of("E")) == (2, 0)


def test_sockets_are_counted_by_protocol(proc: dict[str, str]) -> None:
    assert (mib.sockets("MPTCP"), mib.sockets("MPTCPv6"), mib.sockets("UDP")) == (7, 5, -1)
    assert (mib.sockstat("TCP", "inuse"), mib.sockstat("TCP", "mem")) == (4, -1)
    assert mib.sockstat("UDP", "inuse") == -1


def test_an_event_is_read_by_name() -> None:
    data = netlink.attribute(1, netlink.u32(77)) + netlink.attribute(4, netlink.u8(5))
    data += netlink.attribute(7, bytes([10, 0, 2, 2])) + netlink.attribute(
        10, struct.pack("!H", 80)
    )
    event = pm.Event(pm.ANNOUNCED, data)
    assert (event.token, event.number("rem_id"), event.number("error")) == (77, 5, None)
    assert (event.address("daddr"), event.port("dport")) == ("10.0.2.2", 80)
    assert (event.address("saddr"), event.port("sport")) == (None, None)


def test_an_endpoint_is_read_by_name() -> None:
    data = netlink.attribute(1, netlink.u16(_socket.AF_INET6)) + netlink.attribute(2, netlink.u8(9))
    data += netlink.attribute(4, _socket.inet_pton(_socket.AF_INET6, "fd00::1"))
    data += netlink.attribute(6, netlink.u32(pm.SUBFLOW | pm.BACKUP))
    found = pm.Endpoint(data)
    assert (found.address, found.id, found.flags) == ("fd00::1", 9, 6)
    assert (found.port, found.interface) == (0, 0)
