# SPDX-License-Identifier: GPL-2.0-only
"""connect(AF_UNSPEC): what is left of a connection, and a second one on the same socket."""

from __future__ import annotations

import _socket
import ctypes
import errno
import struct

from guest import abi, sockopt
from guest.calls import (
    POLLERR,
    POLLHUP,
    POLLOUT,
    SIOCINQ,
    SIOCOUTQ,
    Blocking,
    equal_events,
    fails,
    has_events,
    ioctl,
)
from guest.checks import Failed, equal, errno_name, scenario_check
from guest.flow import arrive, at_end, content, exchange, fill, queued, small_buffers
from guest.lab import MPTCP, TCP, wait_until, write_sysctl
from guest.setting import SOL_SOCKET, get_int, put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from guest.lab import Lab

SCENARIO = "reconnect"
_libc = ctypes.CDLL(None, use_errno=True)
_UNSPEC = struct.pack("=H14x", 0)
NAMES = {TCP: "tcp", MPTCP: "mptcp"}


def disconnect(sock: _socket.socket) -> None:
    """connect(2) to AF_UNSPEC. Fails the check where it fails."""
    if _libc.connect(sock.fileno(), _UNSPEC, len(_UNSPEC)):
        number = ctypes.get_errno()
        raise Failed("connect(AF_UNSPEC)", "success", errno_name(number))


def is_mptcp(sock: _socket.socket) -> bool:
    """Whether SOL_MPTCP answers, which it does not after fallback."""
    return sockopt.getsockopt(sock.fileno(), abi.SOL_MPTCP, abi.MPTCP_INFO, bytes(256)).ok


def info(sock: _socket.socket) -> abi.View:
    answer = sockopt.getsockopt(sock.fileno(), abi.SOL_MPTCP, abi.MPTCP_INFO, bytes(256))
    if not answer.ok:
        raise Failed("MPTCP_INFO", "success", errno_name(answer.errno))
    return abi.MPTCP_INFO_LAYOUT.view(answer.filled)


def again(lab: Lab, sock: _socket.socket, protocol: int, size: int = 70_000) -> _socket.socket:
    """Connect ``sock`` to a new listener of ``protocol``, and have data go both ways.

    Returns the peer. Fails the check where the connection is not what it should be.
    """
    listener = lab.listener(protocol)
    fails("connect() once more", 0, sock.connect, listener.getsockname())
    peer = lab.accept(listener, protocol)
    equal("MPTCP on the new connection", is_mptcp(sock), protocol == MPTCP)
    equal("getpeername()", sock.getpeername(), listener.getsockname())
    exchange(sock, peer, content(size, 2), content(size, 3), what="a transfer once more")
    return peer


def _register() -> None:
    for first in (MPTCP, TCP):
        for second in (MPTCP, TCP):
            scenario_check(
                "reconnect.%s_then_%s" % (NAMES[first], NAMES[second]), scenario=SCENARIO
            )(_one_after_another(first, second))


def _one_after_another(first: int, second: int):  # type: ignore[no-untyped-def]
    def run(lab: Lab) -> None:
        sock = lab.socket()
        again(lab, sock, first)
        disconnect(sock)
        again(lab, sock, second)
        disconnect(sock)
        again(lab, sock, first, 1000)

    run.__doc__ = "A socket connects again after connect(AF_UNSPEC), to %s after %s." % (
        NAMES[second].upper(),
        NAMES[first].upper(),
    )
    return run


_register()


@scenario_check("disconnect.resets_the_connection", scenario=SCENARIO)
def resets(lab: Lab) -> None:
    """connect(AF_UNSPEC) resets the connection: the peer gets ECONNRESET, the socket is fresh."""
    pair = lab.pair()
    exchange(pair.client, pair.server, b"forth", b"back")
    disconnect(pair.client)
    has_events("of the peer", pair.server, POLLERR | POLLHUP)
    fails("recv of the peer", errno.ECONNRESET, pair.server.recv, 16)
    equal_events("after connect(AF_UNSPEC)", pair.client, POLLOUT | POLLHUP)
    fails("recv after connect(AF_UNSPEC)", errno.ENOTCONN, pair.client.recv, 16)
    fails("send after connect(AF_UNSPEC)", errno.EPIPE, pair.client.send, b"x")
    fails("getpeername()", errno.ENOTCONN, pair.client.getpeername)


@scenario_check("disconnect.forgets_data", scenario=SCENARIO)
def forgets_data(lab: Lab) -> None:
    """Unread and unsent data of a connection are not seen on the next one."""
    pair = lab.pair(before_connect=small_buffers, before_bind=small_buffers)
    arrive(pair.server, pair.client, b"never read")
    fill(pair.client)
    disconnect(pair.client)
    peer = again(lab, pair.client, MPTCP)
    equal("SIOCINQ on the new connection", ioctl(pair.client, SIOCINQ), 0)
    acked = wait_until(lambda: ioctl(pair.client, SIOCOUTQ) == 0)
    equal("SIOCOUTQ of the new connection falls to 0", acked, True)
    equal("unread data of the peer", queued(peer), b"")


@scenario_check("disconnect.counts_from_zero", scenario=SCENARIO, needs=("packet_stats",))
def counts_from_zero(lab: Lab) -> None:
    """The counters of MPTCP_INFO begin at 0 on the next connection, which has a new token."""
    pair = lab.pair()
    exchange(pair.client, pair.server, content(3000), content(2000))
    token = info(pair.client).mptcpi_token
    disconnect(pair.client)
    sock = pair.client
    listener = lab.listener()
    sock.connect(listener.getsockname())
    peer = lab.accept(listener)
    fresh = info(sock)
    for field in ("bytes_sent", "bytes_received", "bytes_acked", "bytes_retrans", "retransmits"):
        equal("mptcpi_" + field, getattr(fresh, "mptcpi_" + field), 0, fresh.raw)
    equal("the same token", fresh.mptcpi_token == token, False)
    exchange(sock, peer, content(500), content(400))
    settled = wait_until(lambda: info(sock).mptcpi_bytes_acked == 500)
    equal("mptcpi_bytes_acked of 500", settled, True)
    equal("mptcpi_bytes_sent", info(sock).mptcpi_bytes_sent, 500)
    equal("mptcpi_bytes_received", info(sock).mptcpi_bytes_received, 400)


@scenario_check("disconnect.after_half_closes", scenario=SCENARIO)
def after_half_closes(lab: Lab) -> None:
    """A socket that was shut down, by either end or both, connects again and carries data."""
    for ours, theirs in ((True, False), (False, True), (True, True)):
        pair = lab.pair()
        if ours:
            pair.client.shutdown(_socket.SHUT_WR)
            at_end("the end at the peer", pair.server)
        if theirs:
            pair.server.shutdown(_socket.SHUT_WR)
            at_end("the peer's end", pair.client)
        disconnect(pair.client)
        again(lab, pair.client, MPTCP, 5000)
        equal_events("of the new connection", pair.client, POLLOUT)


@scenario_check("disconnect.after_a_shutdown_with_unsent_data", scenario=SCENARIO)
def after_unsent_data(lab: Lab) -> None:
    """A socket whose DATA_FIN was pending reconnects; the new stream does not end."""
    pair = lab.pair(before_connect=small_buffers, before_bind=small_buffers)
    fill(pair.client)
    pair.client.shutdown(_socket.SHUT_WR)
    disconnect(pair.client)
    peer = again(lab, pair.client, MPTCP, 5000)
    equal_events("of the new connection", pair.client, POLLOUT)
    equal_events("of its peer", peer, POLLOUT)


@scenario_check("disconnect.takes_checksum_enabled_anew", scenario=SCENARIO, needs=("mptcp_info",))
def takes_checksum_anew(lab: Lab) -> None:
    """connect(AF_UNSPEC) reads net.mptcp.checksum_enabled again for the next connection."""
    pair = lab.pair()
    exchange(pair.client, pair.server, b"forth", b"back")
    for value in (1, 0):
        write_sysctl("net.mptcp.checksum_enabled", str(value))
        disconnect(pair.client)
        lab.afterwards(lambda: write_sysctl("net.mptcp.checksum_enabled", "0"))
        again(lab, pair.client, MPTCP, 5000)
        equal("mptcpi_csum_enabled", info(pair.client).mptcpi_csum_enabled, value)


@scenario_check("disconnect.after_a_reset", scenario=SCENARIO)
def after_a_reset(lab: Lab) -> None:
    """A socket whose peer reset the connection can reconnect; the new one closes in order."""
    pair = lab.pair()
    exchange(pair.client, pair.server, b"forth", b"back")
    disconnect_peer = pair.server
    disconnect_peer.setsockopt(SOL_SOCKET, _socket.SO_LINGER, struct.pack("@ii", 1, 0))
    disconnect_peer.close()
    has_events("after the peer's reset", pair.client, POLLERR | POLLHUP)
    disconnect(pair.client)
    pair.client.getsockopt(SOL_SOCKET, _socket.SO_ERROR)
    peer = again(lab, pair.client, MPTCP, 5000)
    peer.shutdown(_socket.SHUT_WR)
    at_end("the end of the next connection", pair.client)
    pair.client.shutdown(_socket.SHUT_WR)
    at_end("its end at the peer", peer)


@scenario_check("disconnect.after_a_refusal", scenario=SCENARIO)
def after_a_refusal(lab: Lab) -> None:
    """After ECONNREFUSED a socket connects to another port without connect(AF_UNSPEC)."""
    closed = lab.socket()
    closed.bind((lab.address, 0))
    sock = lab.socket()
    with Blocking(sock, what="connect() to a closed port"):
        fails("connect() to a closed port", errno.ECONNREFUSED, sock.connect, closed.getsockname())
    equal("SO_ERROR after it was told", sock.getsockopt(SOL_SOCKET, _socket.SO_ERROR), 0)
    again(lab, sock, MPTCP, 5000)


@scenario_check("disconnect.keeps_options", scenario=SCENARIO, needs=("tcp_keepalive",))
def keeps_options(lab: Lab) -> None:
    """connect(AF_UNSPEC) keeps the options of the socket."""
    pair = lab.pair()
    wanted = (
        ("TCP_NODELAY", 1, 1),
        ("TCP_KEEPIDLE", 77, 77),
        ("SO_KEEPALIVE", 1, 1),
        ("SO_SNDBUF", 30_000, 60_000),
        ("SO_RCVBUF", 30_000, 60_000),
    )
    for name, value, _ in wanted:
        put(pair.client, name, value)
    disconnect(pair.client)
    again(lab, pair.client, TCP, 5000)
    for name, _, value in wanted:
        equal(name, get_int(pair.client, name), value)


@scenario_check("disconnect.of_a_listener_frees_the_port", scenario=SCENARIO)
def of_a_listener(lab: Lab) -> None:
    """shutdown(SHUT_RD) of a listener stops it: connections are refused, and it listens again."""
    listener = lab.listener()
    address = listener.getsockname()
    listener.shutdown(_socket.SHUT_RD)
    fails("connect() to it", errno.ECONNREFUSED, lab.socket().connect, address)
    fails("listen() once more", 0, listener.listen, 4)
    client = lab.socket()
    fails("connect() once more", 0, client.connect, listener.getsockname())
    server = lab.accept(listener)
    exchange(client, server, content(3000), content(3000))


@scenario_check("disconnect.while_connecting", scenario=SCENARIO)
def while_connecting(lab: Lab) -> None:
    """After connect(AF_UNSPEC) a connecting socket can connect elsewhere."""
    sock = connecting(lab)
    disconnect(sock)
    equal_events("after connect(AF_UNSPEC)", sock, POLLOUT | POLLHUP)
    sock.settimeout(5)
    again(lab, sock, MPTCP, 5000)


def connecting(lab: Lab, sock: Optional[_socket.socket] = None) -> _socket.socket:
    """A nonblocking socket whose SYN nobody answers: the listener's backlog is full."""
    address = lab.full_listener().getsockname()
    first = sock or lab.socket()
    first.settimeout(0)
    fails("connect() to a full backlog", errno.EINPROGRESS, first.connect, address)
    equal("events while it connects", first.getsockopt(SOL_SOCKET, _socket.SO_ERROR), 0)
    return first
