# SPDX-License-Identifier: GPL-2.0-only
"""TCP Fast Open of MPTCP sockets, from end to end: data in the SYN, refusals, counters."""

from __future__ import annotations

import _socket
import errno
import time

from guest import diag, multipath, wire
from guest.calls import (
    POLLHUP,
    POLLIN,
    POLLOUT,
    SIOCINQ,
    Blocking,
    errno_of,
    fails,
    has_events,
    ioctl,
    poll,
)
from guest.checks import equal, require, scenario_check
from guest.checks.binding import FOREIGN
from guest.checks.control import STAMPS, message, says_when, stamped
from guest.checks.reconnect import info, is_mptcp
from guest.flow import MSG_PEEK, at_end, begins, content, exchange, read, same, wait_queued
from guest.lab import MPTCP, TCP, wait_until, write_sysctl
from guest.scenarios import Scenario, declare
from guest.setting import IPPROTO_TCP, putting
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab
    from guest.wire import Capture, Segment

TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_KEY, TCP_FASTOPEN_NO_COOKIE = 23, 30, 33, 34
MSG_FASTOPEN = 0x20000000
#: Client and server, without cookies, for every listener: documented in ip-sysctl.rst.
WITHOUT_COOKIES = "1543"  # 0x607
#: The same, but for listeners that set TCP_FASTOPEN only.
FOR_SOME_LISTENERS = "519"  # 0x207
SYN_DATA = 700  # fits a SYN of any MTU


def _set_up(lab: Lab) -> None:
    write_sysctl("net.ipv4.tcp_fastopen", WITHOUT_COOKIES)


SCENARIO = declare(Scenario("fastopen", setup=_set_up)).name
NEEDS = ("tcp_fastopen",)


def opened(
    lab: Lab, data: bytes, client: int = MPTCP, server: int = MPTCP
) -> tuple[_socket.socket, _socket.socket]:
    """A connection that began with ``data``: its client and its server."""
    _set_up(lab)
    listener = lab.listener(server)
    sock = lab.socket(client)
    equal(
        "sendto(MSG_FASTOPEN)", sock.sendto(data, MSG_FASTOPEN, listener.getsockname()), len(data)
    )
    return sock, lab.accept(listener, server)


def closed_port(lab: Lab) -> tuple[object, ...]:
    """The address of a socket that does not listen: connections are refused."""
    sock = lab.socket()
    sock.bind((lab.address, 0))
    return sock.getsockname()  # type: ignore[no-any-return]


def syn_of(capture: Capture, sock: _socket.socket) -> Segment:
    """The SYN that ``sock`` has sent."""
    syn = capture.wait_for(sock, lambda segment: segment.has(wire.SYN))
    assert syn is not None, "no SYN was captured"
    return syn


@scenario_check(
    "msg_fastopen.sends_data_in_the_syn", scenario=SCENARIO, needs=(*NEEDS, "packet_socket")
)
def data_in_the_syn(lab: Lab) -> None:
    """sendto(MSG_FASTOPEN) puts the data into the SYN, and the peer acknowledges them with it."""
    capture = wire.Capture()
    data = content(SYN_DATA)
    client, server = opened(lab, data)
    syn = syn_of(capture, client)
    same("the SYN's payload", syn.payload, data)
    equal("MP_CAPABLE in the SYN", syn.mptcp(wire.MP_CAPABLE) is not None, True)
    answer = syn_of(capture, server)
    equal("what the SYN/ACK acknowledges", (answer.ack - syn.seq) % 2**32, 1 + len(data))
    same("what the server reads", read(server, len(data)), data)


@scenario_check("msg_fastopen.is_mptcp", scenario=SCENARIO, needs=NEEDS)
def stays_mptcp(lab: Lab) -> None:
    """A connection with data in its SYN is MPTCP at both ends, and carries data both ways."""
    data = content(SYN_DATA)
    client, server = opened(lab, data)
    same("what the server reads", read(server, len(data)), data)
    exchange(client, server, content(100_000, 1), content(100_000, 2))
    for name, sock in (("client", client), ("server", server)):
        equal("MPTCP at the " + name, is_mptcp(sock), True)
    client.shutdown(_socket.SHUT_WR)
    at_end("the end of the stream", server)
    server.close()
    at_end("the end of the stream", client)


@scenario_check(
    "msg_fastopen.counts_received_bytes", scenario=SCENARIO, needs=(*NEEDS, "packet_stats")
)
def counts_received(lab: Lab) -> None:
    """mptcpi_bytes_received of the server counts the data of the SYN and later data."""
    data = content(SYN_DATA)
    client, server = opened(lab, data)
    wait_queued(server, len(data))
    equal("mptcpi_bytes_received", info(server).mptcpi_bytes_received, len(data))
    client.sendall(content(1000, 1))
    same("the stream", read(server, len(data) + 1000), data + content(1000, 1))
    equal("mptcpi_bytes_received", info(server).mptcpi_bytes_received, len(data) + 1000)
    server.sendall(content(300))
    read(client, 300)
    equal("mptcpi_bytes_received of the client", info(client).mptcpi_bytes_received, 300)
    acked = wait_until(lambda: info(server).mptcpi_bytes_acked == 300)
    equal("mptcpi_bytes_acked of the server is 300", acked, True)


@scenario_check("msg_fastopen.data_can_be_peeked", scenario=SCENARIO, needs=NEEDS)
def can_be_peeked(lab: Lab) -> None:
    """Data of the SYN and data after it are one stream, for MSG_PEEK and for parts of it."""
    data = content(3 * SYN_DATA)
    client, server = opened(lab, data[:SYN_DATA])
    wait_queued(server, SYN_DATA)
    client.sendall(data[SYN_DATA:])
    wait_queued(server, len(data))
    begins("a peek", server.recv(len(data), MSG_PEEK), data)
    same("a read", read(server, SYN_DATA - 1), data[: SYN_DATA - 1])
    begins("a peek", server.recv(len(data), MSG_PEEK), data[SYN_DATA - 1 :])
    same("the rest", read(server, 2 * SYN_DATA + 1), data[SYN_DATA - 1 :])


@scenario_check("msg_fastopen.later_data_are_counted", scenario=SCENARIO, needs=(*NEEDS, "tcp_inq"))
def later_data_are_counted(lab: Lab) -> None:
    """SIOCINQ is exact once the data of the SYN are read."""
    client, server = opened(lab, content(SYN_DATA))
    same("the data of the SYN", read(server, SYN_DATA), content(SYN_DATA))
    equal("SIOCINQ after the data of the SYN", ioctl(server, SIOCINQ), 0)
    client.sendall(content(500, 1))
    wait_queued(server, 500)
    equal("SIOCINQ of later data", ioctl(server, SIOCINQ), 500)


@scenario_check("msg_fastopen.sends_more_than_fits", scenario=SCENARIO, needs=NEEDS)
def more_than_fits(lab: Lab) -> None:
    """sendto(MSG_FASTOPEN) of more than a SYN holds delivers all accepted bytes, and later ones."""
    data = content(100_000)
    _set_up(lab)
    listener = lab.listener()
    sock = lab.socket()
    with Blocking(sock, what="sendto(MSG_FASTOPEN)"):
        sent = sock.sendto(data, MSG_FASTOPEN, listener.getsockname())
    require("sendto(MSG_FASTOPEN)", 0 < sent <= len(data), "from 1 to %d" % len(data), sent)
    server = lab.accept(listener)
    if sent < len(data):
        sock.sendall(data[sent:])
    same("the stream", read(server, len(data)), data)


@scenario_check("msg_fastopen.without_data_connects", scenario=SCENARIO, needs=NEEDS)
def without_data(lab: Lab) -> None:
    """sendto(MSG_FASTOPEN) of no bytes connects, and data can follow."""
    _set_up(lab)
    listener = lab.listener()
    sock = lab.socket()
    with Blocking(sock, what="sendto(MSG_FASTOPEN)"):
        equal("sendto(MSG_FASTOPEN)", sock.sendto(b"", MSG_FASTOPEN, listener.getsockname()), 0)
    exchange(sock, lab.accept(listener), content(2000), content(2000))
    equal("MPTCP at the client", is_mptcp(sock), True)


@scenario_check("msg_fastopen.with_a_peer_of_tcp", scenario=SCENARIO, needs=NEEDS)
@each("client", "server")
def with_tcp(lab: Lab) -> None:
    """Data in the SYN reach a plain TCP peer, and the connection carries further data."""
    data = content(SYN_DATA)
    protocols = (TCP, MPTCP) if lab.side == "server" else (MPTCP, TCP)
    client, server = opened(lab, data, *protocols)
    same("what the server reads", read(server, len(data)), data)
    exchange(client, server, content(50_000, 1), content(50_000, 2))
    client.shutdown(_socket.SHUT_WR)
    at_end("the end of the stream", server)
    exchange(server, client, content(5000))


@scenario_check("msg_fastopen.refused_leaves_the_socket_usable", scenario=SCENARIO, needs=NEEDS)
def refused(lab: Lab) -> None:
    """sendto(MSG_FASTOPEN) to a closed port is refused, and the socket connects elsewhere."""
    _set_up(lab)
    closed = closed_port(lab)
    sock = lab.socket()
    data = content(SYN_DATA)
    with Blocking(sock, what="sendto(MSG_FASTOPEN) to a closed port"):
        fails(
            "sendto(MSG_FASTOPEN) to a closed port",
            errno.ECONNREFUSED,
            sock.sendto,
            data,
            MSG_FASTOPEN,
            closed,
        )
    listener = lab.listener()
    sock.connect(listener.getsockname())
    server = lab.accept(listener)
    exchange(sock, server, content(50_000, 1), content(50_000, 2))
    equal("MPTCP at the client", is_mptcp(sock), True)


@scenario_check("msg_fastopen.unreachable_leaves_the_socket_usable", scenario=SCENARIO, needs=NEEDS)
def unreachable(lab: Lab) -> None:
    """sendto(MSG_FASTOPEN) without a route fails with ENETUNREACH; the socket stays usable."""
    _set_up(lab)
    sock = lab.socket()
    target = (FOREIGN[lab.family], 9)
    what = "sendto(MSG_FASTOPEN) without a route"
    fails(what, errno.ENETUNREACH, sock.sendto, content(SYN_DATA), MSG_FASTOPEN, target)
    listener = lab.listener()
    sock.connect(listener.getsockname())
    server = lab.accept(listener)
    exchange(sock, server, content(50_000, 1), content(50_000, 2))
    equal("MPTCP at the client", is_mptcp(sock), True)


@scenario_check("msg_fastopen.refused_without_waiting", scenario=SCENARIO, needs=NEEDS)
def refused_without_waiting(lab: Lab) -> None:
    """A nonblocking sendto(MSG_FASTOPEN) to a closed port ends in POLLERR and ECONNREFUSED."""
    _set_up(lab)
    closed = closed_port(lab)
    sock = lab.socket()
    sock.settimeout(0)
    try:
        sock.sendto(b"data", MSG_FASTOPEN, closed)
    except OSError as error:
        require(
            "sendto(MSG_FASTOPEN)",
            error.errno in (errno.EINPROGRESS, errno.ECONNREFUSED),
            "EINPROGRESS or ECONNREFUSED",
            error,
        )
        if error.errno == errno.ECONNREFUSED:
            return
    has_events("after the refusal", sock, POLLHUP)
    got = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
    equal("SO_ERROR", got, errno.ECONNREFUSED)


@scenario_check("msg_fastopen.again_after_a_refusal", scenario=SCENARIO, needs=NEEDS)
def again_after_refusal(lab: Lab) -> None:
    """sendto(MSG_FASTOPEN) after one that was refused fails; then the socket connects elsewhere."""
    _set_up(lab)
    closed = closed_port(lab)
    sock = lab.socket()
    arguments = (b"data", MSG_FASTOPEN, closed)
    sock.settimeout(0)
    errno_of(sock.sendto, *arguments)
    has_events("after the refusal", sock, POLLHUP)
    what = "sendto(MSG_FASTOPEN) after a refusal"
    with Blocking(sock, what=what):
        require(what, errno_of(sock.sendto, *arguments) != 0, "an error", "success")
    listener = lab.listener()
    sock.settimeout(5)
    sock.connect(listener.getsockname())
    exchange(sock, lab.accept(listener), content(3000, 1), content(3000, 2))


@scenario_check("msg_fastopen.on_a_connection_is_refused", scenario=SCENARIO, needs=NEEDS)
def on_a_connection(lab: Lab) -> None:
    """sendto(MSG_FASTOPEN) on a connection fails and does not affect it."""
    pair = lab.pair()
    try:
        sent = pair.client.sendto(b"x", MSG_FASTOPEN, pair.listener.getsockname())
    except OSError as error:
        require(
            "sendto(MSG_FASTOPEN) on a connection",
            error.errno in (errno.EISCONN, errno.EINVAL),
            "EISCONN or EINVAL",
            error,
        )
        sent = 0
    equal("bytes taken", sent, 0)
    exchange(pair.client, pair.server, content(3000), content(3000))


@scenario_check(
    "tcp_fastopen_connect.defers_the_syn",
    scenario=SCENARIO,
    needs=(*NEEDS, "packet_socket"),
)
def defers_the_syn(lab: Lab) -> None:
    """With TCP_FASTOPEN_CONNECT connect(2) sends nothing; the first send(2) sends the SYN."""
    _set_up(lab)
    capture = wire.Capture()
    listener = lab.listener()
    sock = lab.socket()
    sock.setsockopt(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    fails("connect()", 0, sock.connect, listener.getsockname())
    equal("segments after connect()", len(capture.sent_by(sock)), 0)
    equal("POLLOUT after connect()", bool(poll(sock) & POLLOUT), True)
    data = content(SYN_DATA)
    equal("send", sock.send(data), len(data))
    same("the SYN's payload", syn_of(capture, sock).payload, data)
    server = lab.accept(listener)
    same("what the server reads", read(server, len(data)), data)
    exchange(sock, server, content(50_000, 1), content(50_000, 2))
    equal("MPTCP at the client", is_mptcp(sock), True)


@scenario_check(
    "tcp_fastopen_connect.refused_at_the_first_send",
    scenario=SCENARIO,
    needs=NEEDS,
)
def deferred_refusal(lab: Lab) -> None:
    """With TCP_FASTOPEN_CONNECT the first send(2) fails if refused; the socket stays usable."""
    _set_up(lab)
    closed = closed_port(lab)
    sock = lab.socket()
    sock.setsockopt(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    fails("connect() to a closed port", 0, sock.connect, closed)
    with Blocking(sock, what="send to a closed port"):
        fails("send to a closed port", errno.ECONNREFUSED, sock.send, b"data")
    sock.setsockopt(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 0)
    listener = lab.listener()
    fails("connect() once more", 0, sock.connect, listener.getsockname())
    exchange(sock, lab.accept(listener), content(3000), content(3000))


@scenario_check(
    "tcp_fastopen.of_a_listener",
    scenario=SCENARIO,
    needs=(*NEEDS, "packet_socket"),
)
@each("on", "off")
def of_a_listener(lab: Lab) -> None:
    """A listener with TCP_FASTOPEN accepts data in a SYN; without it they arrive later."""
    capture = wire.Capture()

    def allow(sock: _socket.socket) -> None:
        if lab.side == "on":
            sock.setsockopt(IPPROTO_TCP, TCP_FASTOPEN, 5)

    write_sysctl("net.ipv4.tcp_fastopen", FOR_SOME_LISTENERS)
    lab.afterwards(lambda: _set_up(lab))
    listener = lab.listener(before=allow)
    if lab.side == "on":
        equal("TCP_FASTOPEN", listener.getsockopt(IPPROTO_TCP, TCP_FASTOPEN), 5)
    sock = lab.socket()
    data = content(SYN_DATA)
    sock.sendto(data, MSG_FASTOPEN, listener.getsockname())
    server = lab.accept(listener)
    # accept() returns with the SYN; see tcp_fastopen.answers_during_the_handshake.
    wait_until(lambda: multipath.tcp_infos(server)[0].tcpi_state == diag.ESTABLISHED)
    syn, answer = syn_of(capture, sock), syn_of(capture, server)
    taken = len(data) if lab.side == "on" else 0
    equal("what the SYN/ACK acknowledges", (answer.ack - syn.seq) % 2**32, 1 + taken)
    same("what the server reads", read(server, len(data)), data)
    exchange(sock, server, content(3000, 1), content(3000, 2))


@scenario_check("tcp_fastopen.listener_is_readable_with_the_syn", scenario=SCENARIO, needs=NEEDS)
def readable_with_the_syn(lab: Lab) -> None:
    """accept(2) returns a connection that holds the SYN's data; poll(2) reports POLLIN at once."""
    client, server = opened(lab, content(SYN_DATA))
    has_events("of the accepted socket", server, POLLIN | POLLOUT)
    has_events("of the client", client, POLLOUT)  # which may still wait for the SYN/ACK
    equal("getpeername", server.getpeername(), client.getsockname())
    equal("getsockname", server.getsockname(), client.getpeername())


@scenario_check("tcp_fastopen.key_is_read_back", scenario=SCENARIO, needs=NEEDS)
def key_is_read_back(lab: Lab) -> None:
    """TCP_FASTOPEN_KEY and TCP_FASTOPEN_NO_COOKIE of a listener are read back as they were set."""
    listener = lab.listener()
    key = content(32)
    listener.setsockopt(IPPROTO_TCP, TCP_FASTOPEN_KEY, key)
    equal("TCP_FASTOPEN_KEY", listener.getsockopt(IPPROTO_TCP, TCP_FASTOPEN_KEY, 64), key)
    listener.setsockopt(IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
    equal("TCP_FASTOPEN_NO_COOKIE", listener.getsockopt(IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE), 1)


@scenario_check("msg_fastopen.data_have_a_timestamp", scenario=SCENARIO, needs=NEEDS)
def data_have_a_timestamp(lab: Lab) -> None:
    """With SO_TIMESTAMP on a listener, data of a SYN have their arrival time."""
    _set_up(lab)
    stamp = next(each for each in STAMPS if each.name == "so_timestamp")
    turn_on = putting("SO_TIMESTAMP", stamp.value)
    pair = lab.pair(before_bind=turn_on)
    stamped(pair, pair.server, stamp)  # from then on every packet has a time
    sent = time.time()
    lab.socket().sendto(b"data", MSG_FASTOPEN, pair.listener.getsockname())
    server = lab.accept(pair.listener)
    wait_queued(server, 4)
    data = message(server, _socket.SOL_SOCKET, stamp.number)
    equal("a control message with the data", data is not None, True)
    says_when(stamp, data or b"", sent)
