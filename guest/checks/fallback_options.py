# SPDX-License-Identifier: GPL-2.0-only
"""Options that MPTCP hands to TCP after a fallback, and sockets that connect to themselves."""

from __future__ import annotations

import _socket
import struct

from guest import mib
from guest.checks import equal, errno_name, scenario_check
from guest.lab import TCP
from guest.option import IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP
from guest.sockopt import getsockopt, setsockopt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

    from guest.lab import Lab

SCENARIO = "fallback"
INT = struct.Struct("=i")
#: Number and value, by level. Only what mptcp_supported_sockopt() has always named.
OPTIONS: dict[int, Sequence[tuple[str, int, int]]] = {
    IPPROTO_IP: (
        ("IP_TTL", 2, 33),
        ("IP_PKTINFO", 8, 1),
        ("IP_MTU_DISCOVER", 10, 2),
        ("IP_RECVERR", 11, 1),
        ("IP_RECVTTL", 12, 1),
        ("IP_RECVTOS", 13, 1),
        ("IP_MINTTL", 21, 5),
    ),
    IPPROTO_IPV6: (
        ("IPV6_UNICAST_HOPS", 16, 33),
        ("IPV6_MTU_DISCOVER", 23, 2),
        ("IPV6_RECVERR", 25, 1),
        ("IPV6_RECVPKTINFO", 49, 1),
        ("IPV6_RECVHOPLIMIT", 51, 1),
        ("IPV6_DONTFRAG", 62, 1),
        ("IPV6_RECVTCLASS", 66, 1),
        ("IPV6_TCLASS", 67, 32),
        ("IPV6_MINHOPCOUNT", 73, 5),
    ),
    IPPROTO_TCP: (
        ("TCP_SYNCNT", 7, 3),
        ("TCP_LINGER2", 8, 7),
        ("TCP_WINDOW_CLAMP", 10, 100_000),
        ("TCP_QUICKACK", 12, 1),
        ("TCP_THIN_LINEAR_TIMEOUTS", 16, 1),
        ("TCP_USER_TIMEOUT", 18, 5000),
        ("TCP_SAVE_SYN", 27, 1),
        ("TCP_TX_DELAY", 37, 0),
    ),
}


@scenario_check("fallback.hands_options_to_tcp", scenario=SCENARIO)
def hands_options_to_tcp(lab: Lab) -> None:
    """Each option of TCP and IP is set and read on a client that fell back as on a TCP socket."""
    fallen, plain = lab.pair(server=TCP).client, lab.pair(client=TCP, server=TCP).client
    of_family = IPPROTO_IPV6 if lab.family == _socket.AF_INET6 else IPPROTO_IP
    for level in (of_family, IPPROTO_TCP):
        for name, number, value in OPTIONS[level]:
            told = _told(fallen, level, number, value)
            equal(name + " set and read", told, _told(plain, level, number, value))


def _told(sock: _socket.socket, level: int, number: int, value: int) -> str:
    errno = setsockopt(sock.fileno(), level, number, INT.pack(value))
    answer = getsockopt(sock.fileno(), level, number, bytes(INT.size))
    read = errno_name(answer.errno) if answer.errno else str(INT.unpack(answer.data)[0])
    return "%s, %s" % (errno_name(errno) if errno else "success", read)


@scenario_check("fallback.connects_to_itself", scenario=SCENARIO)
def connects_to_itself(lab: Lab) -> None:
    """A socket can connect to its own address, and falls back to TCP."""
    since = mib.Since()
    sock = own_peer(lab)
    equal("getpeername()", sock.getpeername(), sock.getsockname())
    if "SimultConnectFallback" in since.start:
        equal("SimultConnectFallback", since.of("SimultConnectFallback"), 1)


def own_peer(lab: Lab) -> _socket.socket:
    """A socket that is connected to itself: its SYN is answered by a SYN, not by a SYN/ACK."""
    sock = lab.socket()
    sock.bind((lab.address, 0))
    sock.connect(sock.getsockname())
    return sock
