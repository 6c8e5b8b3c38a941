# SPDX-License-Identifier: GPL-2.0-only
"""Sockets that listen, or have tried to: MPTCP_INFO, a second listen(2), one that fails."""

from __future__ import annotations

import _socket
import errno
import struct

from guest import multipath
from guest.calls import POLLHUP, POLLOUT, equal_events, fails
from guest.checks import equal, require, scenario_check
from guest.flow import exchange
from guest.lab import TCP, wait_until
from guest.setting import get_int, put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab

SCENARIO = "binding"
SO_ACCEPTCONN, SO_MEMINFO = 30, 55


@scenario_check("mptcp_info.of_a_listener_is_empty", scenario=SCENARIO, needs=("subflows_total",))
def info_of_a_listener(lab: Lab) -> None:
    """MPTCP_INFO of a listener is all 0, including the path manager's limits."""
    fresh = multipath.info(lab.socket())
    found = multipath.info(lab.listener())
    equal("MPTCP_INFO of a listener", found.raw, bytes(len(found.raw)), found.raw)
    # The defaults of the in-kernel path manager, unless they were changed.
    equal("mptcpi_subflows_max of a new socket", fresh.mptcpi_subflows_max, 2, fresh.raw)
    equal("mptcpi_token of a new socket", fresh.mptcpi_token, 0, fresh.raw)


@scenario_check("listen.that_fails_changes_nothing", scenario=SCENARIO)
def failing_listen(lab: Lab) -> None:
    """listen(2) on a port that another socket has fails: EADDRINUSE; the socket is as before."""
    first, second = lab.socket(), lab.socket()
    for sock in (first, second):
        put(sock, "SO_REUSEADDR", 1)
    first.bind((lab.address, 0))
    second.bind(first.getsockname())
    first.listen(4)
    fails("listen() on the same port", errno.EADDRINUSE, second.listen, 4)
    equal("SO_ACCEPTCONN", second.getsockopt(_socket.SOL_SOCKET, SO_ACCEPTCONN), 0)
    equal_events("after a listen() that failed", second, POLLOUT | POLLHUP)
    first.close()
    fails("listen() once the port is free", 0, second.listen, 4)
    client = lab.socket()
    client.connect(second.getsockname())
    exchange(client, lab.accept(second), b"forth", b"back")


@scenario_check("so_rcvlowat.is_capped", scenario=SCENARIO)
def lowat_is_capped(lab: Lab) -> None:
    """SO_RCVLOWAT is at most half of the largest receive buffer, or of the one that was set."""
    for name, buffer in (("no SO_RCVBUF", 0), ("SO_RCVBUF 50000", 50_000)):
        read = []
        for protocol in (TCP, None):
            sock = lab.socket(TCP) if protocol else lab.socket()
            if buffer:
                put(sock, "SO_RCVBUF", buffer)
            put(sock, "SO_RCVLOWAT", 1 << 30)
            read.append((get_int(sock, "SO_RCVLOWAT"), get_int(sock, "SO_RCVBUF")))
        equal("SO_RCVLOWAT and SO_RCVBUF with %s, as TCP" % name, read[1], read[0])


@scenario_check(
    "so_sndbuf.begins_with_that_of_the_subflow",
    scenario="diag",
    needs=("inet_diag", "userspace_pm"),
)
def accepted_sndbuf(lab: Lab) -> None:
    """SO_SNDBUF of newly connected sockets is about that of their subflows."""
    pair = lab.pair()
    asking = multipath.bench(lab).diag
    for name, sock in (("server", pair.server), ("client", pair.client)):
        if name == "client":
            # If no call owns the socket when the SYN/ACK arrives, as on a slow machine, SO_SNDBUF
            # is that of the subflow before the handshake, until data are acknowledged.
            exchange(pair.client, pair.server, bytes(100_000))
        read = get_int(sock, "SO_SNDBUF")
        least = asking.subflow(sock).skmem.sndbuf // 2  # that may still grow
        require("SO_SNDBUF of the " + name, read >= least, "%d or more" % least, read)


@scenario_check("so_meminfo.counts_no_acknowledged_data", scenario=SCENARIO)
def no_acknowledged_data(lab: Lab) -> None:
    """SO_MEMINFO shows no queued data once everything sent is acknowledged."""
    pair = lab.pair()
    for size in (1000, 100, 1):
        exchange(pair.client, pair.server, bytes(size))
        equal("queued memory falls to 0", wait_until(lambda: _queued(pair.client) == 0), True)


def _queued(sock: _socket.socket) -> int:
    """SK_MEMINFO_WMEM_QUEUED."""
    data = sock.getsockopt(_socket.SOL_SOCKET, SO_MEMINFO, 36)
    return int(struct.unpack_from("=I", data, 20)[0])
