# SPDX-License-Identifier: GPL-2.0-only
"""Connections that fell back to TCP: an MPTCP client to a TCP server, a TCP client to MPTCP.

The side of a check is the end that has the MPTCP socket. What accept(2) gives of a TCP client is
a plain TCP socket.
"""

from __future__ import annotations

import _socket
import errno

from guest import abi, mib, sockopt
from guest.calls import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDHUP,
    SIOCINQ,
    SIOCOUTQ,
    SIOCOUTQNSD,
    Blocking,
    Worker,
    equal_events,
    fails,
    has_events,
    ioctl,
)
from guest.checks import equal, refused, require, scenario_check
from guest.checks.closing import linger
from guest.checks.control import inq
from guest.checks.inherit import ROWS, UNCONNECTED
from guest.flow import (
    MSG_PEEK,
    arrive,
    at_end,
    begins,
    content,
    drain,
    exchange,
    fill,
    read,
    read_to_end,
    same,
    small_buffers,
)
from guest.lab import MPTCP, TCP, wait_until
from guest.setting import IPPROTO_TCP, SOL_SOCKET, get_int, named, putting
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    from guest.lab import Lab

    Setup = Callable[[_socket.socket], object]

SCENARIO = "fallback"
SIDES = ("client", "server")
MSG_WAITALL, MSG_TRUNC = 0x100, 0x20
IPV6_UNICAST_HOPS, TCP_NODELAY, TCP_USER_TIMEOUT, TCP_REPAIR, TCP_ULP = 16, 1, 18, 19, 31
SHUT_WR = 1
#: SOL_MPTCP is refused after fallback, by the errno of the family's TCP.
NOT_MPTCP = {_socket.AF_INET: errno.EOPNOTSUPP, _socket.AF_INET6: errno.ENOPROTOOPT}


def ends(
    lab: Lab, before: Optional[Setup] = None, peer_before: Optional[Setup] = None
) -> tuple[_socket.socket, _socket.socket]:
    """The end of the MPTCP socket, and the plain TCP one. The lab's side says which connects."""
    if lab.side == "server":
        pair = lab.pair(TCP, MPTCP, before_connect=peer_before, before_bind=before)
        return pair.server, pair.client
    pair = lab.pair(MPTCP, TCP, before_connect=before, before_bind=peer_before)
    return pair.client, pair.server


@scenario_check("fallback.carries_data_both_ways", scenario=SCENARIO)
@each(*SIDES)
def carries_data(lab: Lab) -> None:
    """Large transfers work in both directions at once, then in each direction alone."""
    end, peer = ends(lab)
    exchange(end, peer, content(150_000), content(150_000, 1))
    exchange(end, peer, content(5000))
    exchange(peer, end, content(5000))


@scenario_check("fallback.carries_data_through_small_buffers", scenario=SCENARIO)
@each(*SIDES)
def small(lab: Lab) -> None:
    """Data that fill small buffers arrive when the peer reads, and no byte is lost or repeated."""
    end, peer = ends(lab, small_buffers, small_buffers)
    for source, sink in ((end, peer), (peer, end)):
        sent = fill(source)
        same("what filled the buffers", drain(sink, len(sent)), sent)
        exchange(source, sink, content(10_000))


@scenario_check("fallback.goes_on_after_the_peers_half_close", scenario=SCENARIO)
@each(*SIDES)
def peers_half_close(lab: Lab) -> None:
    """After the peer's FIN the MPTCP socket can still send, and all data arrive."""
    end, peer = ends(lab)
    peer.sendall(b"request")
    peer.shutdown(SHUT_WR)
    same("before the end", read_to_end(end), b"request")
    equal_events("after the peer's end", end, POLLIN | POLLOUT | POLLRDHUP)
    exchange(end, peer, content(100_000), what="a transfer after the peer's half-close")
    end.sendall(b"last")
    end.close()
    same("after the transfer", read_to_end(peer), b"last")


@scenario_check("fallback.receives_after_its_half_close", scenario=SCENARIO)
@each(*SIDES)
def own_half_close(lab: Lab) -> None:
    """After its own SHUT_WR the MPTCP socket still receives."""
    end, peer = ends(lab)
    end.sendall(b"request")
    end.shutdown(SHUT_WR)
    same("before the end", read_to_end(peer), b"request")
    fails("send after SHUT_WR", errno.EPIPE, end.send, b"x")
    exchange(peer, end, content(100_000), what="a transfer after a half-close")
    peer.close()
    at_end("the peer's end", end)
    equal_events("after both ends", end, POLLIN | POLLOUT | POLLHUP | POLLRDHUP)


@scenario_check("fallback.close_delivers_what_was_sent", scenario=SCENARIO)
@each(*SIDES)
def close_delivers(lab: Lab) -> None:
    """close(2) of either end delivers all data in flight, then the end of the stream."""
    for who in (0, 1):
        both = ends(lab, small_buffers, small_buffers)
        sent = fill(both[who])
        both[who].close()
        same("what was sent before close", read_to_end(both[1 - who]), sent)


@scenario_check("fallback.reset_by_the_peer_is_reported", scenario=SCENARIO)
@each(*SIDES)
def reset_by_peer(lab: Lab) -> None:
    """After a reset by the peer poll(2) reports POLLERR, recv(2) ECONNRESET and send(2) EPIPE."""
    end, peer = ends(lab)
    exchange(end, peer, b"data", b"data")
    linger(0)(peer)
    peer.close()
    has_events("after the peer's reset", end, POLLOUT | POLLERR | POLLHUP)
    fails("recv after the peer's reset", errno.ECONNRESET, end.recv, 16)
    fails("send after the peer's reset", errno.EPIPE, end.send, b"x")


@scenario_check("fallback.is_freed_by_a_reset_after_close", scenario=SCENARIO)
def freed_by_a_reset(lab: Lab) -> None:
    """A closed socket is freed when the peer resets its connection."""
    protocol = "MPTCPv6" if lab.family == _socket.AF_INET6 else "MPTCP"
    before = mib.sockets(protocol)
    end, peer = ends(lab)
    exchange(end, peer, b"data", b"data")
    arrive(end, peer, b"unread")
    end.close()
    peer.close()
    wait_until(lambda: mib.sockets(protocol) == before)
    equal("MPTCP sockets", mib.sockets(protocol), before)


@scenario_check("fallback.linger_zero_resets", scenario=SCENARIO)
@each(*SIDES)
def linger_zero(lab: Lab) -> None:
    """SO_LINGER {1, 0} resets a connection that fell back: the peer gets ECONNRESET."""
    end, peer = ends(lab)
    exchange(end, peer, b"data", b"data")
    linger(0)(end)
    end.close()
    has_events("after close", peer, POLLERR | POLLHUP)
    fails("recv of the peer", errno.ECONNRESET, peer.recv, 16)


@scenario_check("fallback.siocoutq_after_connect", scenario=SCENARIO, needs=("tcp_inq",))
def siocoutq_after_connect(lab: Lab) -> None:
    """SIOCOUTQ is 0 right after connect(), counts unacknowledged bytes, and falls to 0."""
    end, peer = ends(lab, small_buffers, small_buffers)
    for name, request in (("SIOCOUTQ", SIOCOUTQ), ("SIOCOUTQNSD", SIOCOUTQNSD)):
        got = ioctl(end, request)
        require(name + " after connect()", 0 <= got <= 1, "0 or 1", got)
    sent = fill(end)
    got = ioctl(end, SIOCOUTQ)
    # Bytes that TCP was given since the last packet came in count twice (seen up to 7.3), and the
    # SYN counts until data came.
    most = 2 * len(sent) + 1
    require("SIOCOUTQ when full", 0 < got <= most, "from 1 to %d" % most, got)
    drain(peer, len(sent))
    equal("SIOCOUTQ at last", wait_until(lambda: ioctl(end, SIOCOUTQ) == 0), True)


@scenario_check("fallback.siocinq_counts_unread_bytes", scenario=SCENARIO, needs=("tcp_inq",))
@each(*SIDES)
def siocinq(lab: Lab) -> None:
    """SIOCINQ is the number of unread bytes, exact after each read."""
    end, peer = ends(lab)
    equal("SIOCINQ before data", ioctl(end, SIOCINQ), 0)
    data = content(9000)
    for at in range(0, len(data), 3000):
        arrive(peer, end, data[at : at + 3000])
        equal("SIOCINQ", ioctl(end, SIOCINQ), at + 3000)
    left = len(data)
    for size in (1, 2999, 3001, 2998):
        left -= len(read(end, size))
        equal("SIOCINQ after a read of %d" % size, ioctl(end, SIOCINQ), left)


@scenario_check("fallback.tcp_inq_set_before_connect", scenario=SCENARIO, needs=("tcp_inq",))
@each("client")
def tcp_inq_before(lab: Lab) -> None:
    """TCP_INQ set before the fallback adds exact control messages."""
    end, peer = ends(lab, putting("TCP_INQ", 1))
    arrive(peer, end, content(5000))
    for size, left in ((1000, 4000), (1, 3999), (3999, 0)):
        got, count = inq(end, size)
        equal("a read", len(got), size)
        equal("TCP_CM_INQ after a read of %d" % size, count, left)


@scenario_check("fallback.peek_and_trunc", scenario=SCENARIO)
@each(*SIDES)
def peek_and_trunc(lab: Lab) -> None:
    """MSG_PEEK leaves data queued, MSG_TRUNC discards them, MSG_WAITALL waits for all of them."""
    end, peer = ends(lab)
    data = content(6000)
    arrive(peer, end, data[:3000])
    arrive(peer, end, data[3000:])
    begins("a peek", end.recv(6000, MSG_PEEK), data)
    equal("MSG_TRUNC", end.recv_into(bytearray(100), 100, MSG_TRUNC), 100)
    begins("a peek", end.recv(6000, MSG_PEEK), data[100:])
    same("a read", read(end, 5900), data[100:])
    end.settimeout(None)
    worker = Worker(lambda: end.recv(6000, MSG_WAITALL))
    for part in (data[:2000], data[2000:]):
        worker.wait_blocked()
        peer.sendall(part)
    got = worker.result()
    assert isinstance(got, bytes)
    same("MSG_WAITALL", got, data)


@scenario_check("fallback.peek_waitall_collects_all", scenario=SCENARIO, families=("ipv6",))
@each(*SIDES)
def peek_waitall(lab: Lab) -> None:
    """MSG_PEEK with MSG_WAITALL waits for all bytes, and repeats none."""
    end, peer = ends(lab)
    data = content(6000)
    arrive(peer, end, data[:3000])
    end.settimeout(None)
    worker = Worker(lambda: end.recv(6000, MSG_PEEK | MSG_WAITALL))
    worker.wait_blocked()
    peer.sendall(data[3000:])
    got = worker.result(busy_s=1.0)
    assert isinstance(got, bytes)
    same("a peek that had to wait", got, data)


@scenario_check("fallback.is_not_mptcp", scenario=SCENARIO, needs=("tcp_is_mptcp",))
@each(*SIDES)
def is_not_mptcp(lab: Lab) -> None:
    """TCP_IS_MPTCP is 0, and SOL_MPTCP fails with the same errno as on TCP."""
    end, _ = ends(lab)
    equal("TCP_IS_MPTCP", get_int(end, "TCP_IS_MPTCP"), 0)
    for option in (abi.MPTCP_INFO, abi.MPTCP_TCPINFO, abi.MPTCP_SUBFLOW_ADDRS):
        answer = sockopt.getsockopt(end.fileno(), abi.SOL_MPTCP, option, bytes(256))
        refused("SOL_MPTCP option %d" % option, answer, NOT_MPTCP[lab.family])


@scenario_check("fallback.names_are_the_peers", scenario=SCENARIO)
@each(*SIDES)
def names(lab: Lab) -> None:
    """getsockname() of each end is getpeername() of the other."""
    end, peer = ends(lab)
    equal("getsockname", end.getsockname(), peer.getpeername())
    equal("getpeername", end.getpeername(), peer.getsockname())


@scenario_check("fallback.end_of_stream_ends_waiting", scenario=SCENARIO)
@each(*SIDES)
def end_ends_waiting(lab: Lab) -> None:
    """The peer's FIN ends a blocked recv(2), and MSG_WAITALL with the bytes so far."""
    end, peer = ends(lab)
    arrive(peer, end, b"some")
    end.settimeout(None)
    worker = Worker(lambda: end.recv(100, MSG_WAITALL))
    worker.wait_blocked()
    peer.shutdown(SHUT_WR)
    equal("MSG_WAITALL at the end", worker.result(), b"some")
    with Blocking(end, what="recv at the end of the stream"):
        equal("recv at the end", end.recv(100), b"")


@scenario_check("fallback.passes_options_to_tcp", scenario=SCENARIO)
@each(*SIDES)
def passes_options(lab: Lab) -> None:
    """After fallback, options that only TCP supports behave as on TCP."""
    end, _ = ends(lab)
    if lab.family == _socket.AF_INET6:
        equal("IPV6_UNICAST_HOPS", end.getsockopt(_socket.IPPROTO_IPV6, IPV6_UNICAST_HOPS), 64)
    else:
        equal("IP_TTL", end.getsockopt(_socket.IPPROTO_IP, _socket.IP_TTL), 64)
    end.setsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT, 4321)
    equal("TCP_USER_TIMEOUT", end.getsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT), 4321)
    for value in (1, 0):
        end.setsockopt(IPPROTO_TCP, TCP_NODELAY, value)
        equal("TCP_NODELAY", end.getsockopt(IPPROTO_TCP, TCP_NODELAY), value)
    if lab.side == "client":
        args = (IPPROTO_TCP, TCP_ULP, b"tls")
        fails("TCP_ULP", errno.ENOPROTOOPT, end.setsockopt, *args)
        fails("TCP_REPAIR", errno.ENOPROTOOPT, end.setsockopt, IPPROTO_TCP, TCP_REPAIR, 1)
    else:
        # An accepted socket that fell back is a TCP socket, and a program's: no subflow of MPTCP.
        args = (IPPROTO_TCP, TCP_ULP, b"mptcp")
        fails("TCP_ULP", errno.EOPNOTSUPP, end.setsockopt, *args)


@scenario_check("fallback.siocoutq_counts_unacked_bytes", scenario=SCENARIO, needs=("tcp_inq",))
def siocoutq_counts(lab: Lab) -> None:
    """SIOCOUTQ counts the bytes that TCP sent and the peer, which does not read, did not ack."""
    end, peer = ends(lab, small_buffers, small_buffers)
    sent = fill(end)
    got = ioctl(end, SIOCOUTQ)
    arrived = ioctl(peer, SIOCINQ)  # read last: it only grows
    least = len(sent) - arrived
    require("SIOCOUTQ when full", got >= least, "%d at least" % least, got)


def _holds(name: str) -> Callable[[Lab], None]:
    row = next(row for row in ROWS if row.name == name)

    def run(lab: Lab) -> None:
        end, _ = ends(lab, row.set)
        row.reads_back(end)

    run.__doc__ = "A value set before the fallback holds on the TCP socket."
    return run


#: MPTCP's own business: the TCP socket is told that there is no limit, and says so.
_NOT_KEPT = ("TCP_NOTSENT_LOWAT",)

for _row in ROWS:
    if _row.name in _NOT_KEPT:
        continue
    # Options above SOL_SOCKET are read from the TCP socket after fallback.
    if named(_row.name).level != SOL_SOCKET and _row.back and set(_row.stages) & set(UNCONNECTED):
        scenario_check(
            "fallback.keeps_%s" % _row.name.lower(),
            scenario=SCENARIO,
            needs=tuple(need for need in _row.needs if need != "inet_diag"),
            families=_row.families,
        )(each(*SIDES)(_holds(_row.name)))
