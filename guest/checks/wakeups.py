# SPDX-License-Identifier: GPL-2.0-only
"""Calls that wait are woken by what they wait for, and not before.

Each call runs in a thread of its own. What it waits for is done once the thread sleeps in the
kernel. A call that is woken late only by its own timeout counts as not woken.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time

from guest import isolation
from guest.calls import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDHUP,
    Worker,
    errno_of,
    events_text,
    poll,
    splice,
)
from guest.checks import equal, errno_name, require, scenario_check
from guest.checks.closing import linger
from guest.flow import arrive, content, drain, exchange, fill, small_buffers
from guest.lab import TCP, write_sysctl
from guest.scenarios import Scenario, declare
from guest.setting import put
from guest.states import disconnect
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.lab import Lab, Pair

SCENARIO = declare(Scenario("wakeups", waits=True, one_family=True)).name
SIDES = ("mptcp", "fallback")
#: The call's own timeout; what takes longer than half of it was not woken.
PATIENCE_S = 16.0
RTO_MIN = "net/ipv4/tcp_rto_min_us"


def woken(what: str, call: Callable[[], object], cause: Callable[[], object]) -> object:
    """What ``call`` returns when ``cause`` is done while it waits."""
    worker = Worker(call)
    worker.wait_blocked()
    began = time.monotonic()
    cause()
    value = worker.result(2 * PATIENCE_S)
    took = time.monotonic() - began
    require(what + " is woken", took < PATIENCE_S / 2, "within %.0f s" % (PATIENCE_S / 2), took)
    return value


def polls(what: str, sock: _socket.socket, wanted: int, cause: Callable[[], object]) -> None:
    """Fail unless a poll(2) for ``wanted`` is woken by ``cause`` with ``wanted``."""
    got = woken(what, lambda: poll(sock, PATIENCE_S, wanted), cause)
    assert isinstance(got, int)
    equal(what, events_text(got & wanted), events_text(wanted))


def _pair(lab: Lab) -> Pair:
    """A connection whose client is MPTCP, and fell back where the lab's side says so."""
    server = {"server": TCP} if lab.side == "fallback" else {}
    return lab.pair(before_connect=small_buffers, before_bind=small_buffers, **server)


@scenario_check("poll.is_woken_by_data", scenario=SCENARIO)
@each(*SIDES)
def by_data(lab: Lab) -> None:
    """poll(2) for POLLIN is woken by data."""
    pair = _pair(lab)
    polls("poll for data", pair.client, POLLIN, lambda: pair.server.sendall(b"x"))


def _end_of(sock: _socket.socket) -> Callable[[], object]:
    return lambda: sock.shutdown(_socket.SHUT_WR)


@scenario_check("poll.is_woken_by_the_end", scenario=SCENARIO)
@each(*SIDES)
def by_the_end(lab: Lab) -> None:
    """poll(2) is woken by the peer's FIN, for POLLIN and for POLLRDHUP alone."""
    for wanted in (POLLIN, POLLRDHUP):
        pair = _pair(lab)
        polls("poll for the end", pair.client, wanted, _end_of(pair.server))


@scenario_check("poll.is_woken_by_a_reset", scenario=SCENARIO)
@each(*SIDES)
def by_a_reset(lab: Lab) -> None:
    """poll(2) for no event at all is woken by a reset, with POLLERR and POLLHUP."""
    pair = _pair(lab)
    exchange(pair.client, pair.server, b"forth", b"back")
    linger(0)(pair.server)
    got = woken("poll", lambda: poll(pair.client, PATIENCE_S, 0), pair.server.close)
    equal("events", events_text(int(str(got))), events_text(POLLERR | POLLHUP))


@scenario_check("poll.is_woken_by_room", scenario=SCENARIO)
@each(*SIDES)
def by_room(lab: Lab) -> None:
    """poll(2) for POLLOUT of a full socket is woken when the peer reads."""
    pair = _pair(lab)
    sent = fill(pair.client)
    polls("poll for room", pair.client, POLLOUT, lambda: drain(pair.server, len(sent)))


@scenario_check("poll.is_woken_by_a_connection", scenario=SCENARIO)
def by_a_connection(lab: Lab) -> None:
    """poll(2) of a listener is woken by a connection."""
    listener = lab.listener()
    client = lab.socket()
    polls("poll of a listener", listener, POLLIN, lambda: client.connect(listener.getsockname()))


@scenario_check("poll.is_woken_by_its_own_shutdown", scenario=SCENARIO)
def by_its_own_shutdown(lab: Lab) -> None:
    """poll(2) for POLLRDHUP is woken by shutdown(2) of the same socket."""
    pair = lab.pair()
    polls("poll", pair.client, POLLRDHUP, lambda: pair.client.shutdown(_socket.SHUT_RDWR))


@scenario_check("poll.is_woken_by_disconnect", scenario=SCENARIO)
@each("listening", "connecting", "connected")
def by_disconnect(lab: Lab) -> None:
    """poll(2) is woken by connect(AF_UNSPEC) of the same socket, with POLLHUP."""
    if lab.side == "listening":
        sock = lab.listener()
    elif lab.side == "connecting":
        sock = lab.socket()
        sock.settimeout(0)
        sock.connect_ex(lab.full_listener().getsockname())
    else:
        sock = lab.pair().client
    got = woken("poll", lambda: poll(sock, PATIENCE_S, POLLIN), lambda: disconnect(sock))
    require("events", bool(int(str(got)) & POLLHUP), "POLLHUP", events_text(int(str(got))))


@scenario_check("poll.is_woken_by_so_rcvlowat", scenario=SCENARIO)
def by_rcvlowat(lab: Lab) -> None:
    """Lowering SO_RCVLOWAT to the number of queued bytes wakes poll(2) for POLLIN."""
    pair = lab.pair()
    put(pair.client, "SO_RCVLOWAT", 100)
    arrive(pair.server, pair.client, b"x" * 50)
    polls("poll", pair.client, POLLIN, lambda: put(pair.client, "SO_RCVLOWAT", 50))


@scenario_check("recv.is_woken", scenario=SCENARIO)
@each(*SIDES)
def recv_is_woken(lab: Lab) -> None:
    """A blocked recv(2) is woken by data, by the end of the stream, and by a reset."""
    pair = _pair(lab)
    end, peer = pair.client, pair.server
    end.settimeout(None)
    got = woken("recv", lambda: end.recv(64), lambda: peer.sendall(b"data"))
    equal("recv", got, b"data")
    got = woken("recv", lambda: end.recv(64), lambda: peer.shutdown(_socket.SHUT_WR))
    equal("recv at the end", got, b"")
    second = _pair(lab)
    exchange(second.client, second.server, b"forth", b"back")
    second.client.settimeout(None)
    linger(0)(second.server)
    number = woken("recv", lambda: errno_of(second.client.recv, 64), second.server.close)
    equal("recv after a reset", errno_name(int(str(number))), "ECONNRESET")


@scenario_check("recv.is_woken_by_its_own_shutdown", scenario=SCENARIO)
@each(*SIDES)
def recv_own_shutdown(lab: Lab) -> None:
    """A blocked recv(2) returns 0 if another thread shuts the socket down."""
    pair = _pair(lab)
    pair.client.settimeout(None)
    got = woken("recv", lambda: pair.client.recv(64), lambda: pair.client.shutdown(2))
    equal("recv", got, b"")


@scenario_check("recv.waits_for_so_rcvlowat", scenario=SCENARIO)
@each(*SIDES)
def recv_waits_for_lowat(lab: Lab) -> None:
    """A blocked recv(2) waits until SO_RCVLOWAT bytes have arrived."""
    pair = _pair(lab)
    put(pair.client, "SO_RCVLOWAT", 1000)
    pair.client.settimeout(None)
    worker = Worker(lambda: pair.client.recv(5000))
    worker.wait_blocked()
    pair.server.sendall(content(999))
    worker.wait_blocked()
    # As many as the mark again: a reader that took the first bytes is woken by that many only, in
    # TCP as well.
    pair.server.sendall(content(1000))
    got = worker.result()
    assert isinstance(got, bytes)
    require("bytes of recv", len(got) >= 1000, "1000 or more", len(got))


@scenario_check("splice.is_woken", scenario=SCENARIO)
@each(*SIDES)
def splice_is_woken(lab: Lab) -> None:
    """A blocked splice(2) is woken by data, by the end of the stream, and by a reset."""
    source, sink = lab.pipe()
    pair = _pair(lab)
    end, peer = pair.client, pair.server
    end.settimeout(None)
    moved = woken("splice", lambda: splice(end.fileno(), sink, 64), lambda: peer.sendall(b"data"))
    equal("splice", moved, 4)
    equal("what was spliced", os.read(source, 64), b"data")
    moved = woken(
        "splice", lambda: splice(end.fileno(), sink, 64), lambda: peer.shutdown(_socket.SHUT_WR)
    )
    equal("splice at the end", moved, 0)
    second = _pair(lab)
    exchange(second.client, second.server, b"forth", b"back")
    second.client.settimeout(None)
    linger(0)(second.server)
    fd = second.client.fileno()
    number = woken("splice", lambda: errno_of(splice, fd, sink, 64), second.server.close)
    equal("splice after a reset", errno_name(int(str(number))), "ECONNRESET")


@scenario_check("epoll.edge_triggered_tells_each_arrival", scenario=SCENARIO)
@each(*SIDES)
def edge_triggered(lab: Lab) -> None:
    """With EPOLLET each arrival is an event, even if nothing was read; then the end."""
    pair = _pair(lab)
    waiting = select.epoll()
    lab.afterwards(waiting.close)
    waiting.register(pair.client.fileno(), select.EPOLLIN | select.EPOLLET | POLLRDHUP)
    equal("events before data", waiting.poll(0), [])
    for number in range(3):
        pair.server.sendall(b"x")
        found = waiting.poll(PATIENCE_S)
        equal("events after byte %d" % number, [events for _, events in found], [POLLIN])
    pair.server.shutdown(_socket.SHUT_WR)
    found = waiting.poll(PATIENCE_S)
    if found and not found[0][1] & POLLRDHUP:
        found = waiting.poll(PATIENCE_S)  # after fallback the FIN is told before its meaning
    equal("events at the end", [events for _, events in found], [POLLIN | POLLRDHUP])


@scenario_check("send.is_woken", scenario=SCENARIO)
@each(*SIDES)
def send_is_woken(lab: Lab) -> None:
    """A blocked send(2) is woken when the peer reads, and by a reset."""
    pair = _pair(lab)
    sent = fill(pair.client)
    pair.client.settimeout(None)
    data = content(150_000)  # more than there can be room for

    def read_all() -> None:
        drain(pair.server, len(sent) + len(data))

    taken = woken("send", lambda: pair.client.send(data), read_all)
    equal("send", taken, len(data))
    second = _pair(lab)
    exchange(second.client, second.server, b"forth", b"back")
    fill(second.client)
    second.client.settimeout(None)
    linger(0)(second.server)
    # More than there can be room for; what was taken before the reset is no error.
    more = content(300_000)
    number = woken("send", lambda: errno_of(second.client.send, more), second.server.close)
    require(
        "send after a reset",
        number in (0, errno.ECONNRESET, errno.EPIPE),
        "ECONNRESET or EPIPE",
        errno_name(int(str(number))),
    )
    got = errno_of(second.client.send, b"x")
    require("another send", got in (errno.ECONNRESET, errno.EPIPE), "ECONNRESET or EPIPE", got)


@scenario_check("accept.is_woken", scenario=SCENARIO)
@each("mptcp", "tcp")
def accept_is_woken(lab: Lab) -> None:
    """A blocked accept(2) is woken by an MPTCP client and by a plain TCP one."""
    listener = lab.listener()
    listener.settimeout(None)
    client = lab.socket(TCP) if lab.side == "tcp" else lab.socket()
    accepted = woken(
        "accept",
        listener._accept,  # type: ignore[attr-defined]
        lambda: client.connect(listener.getsockname()),
    )
    assert isinstance(accepted, tuple)
    server = lab.adopt(_socket.socket(lab.family, _socket.SOCK_STREAM, 0, accepted[0]))
    exchange(client, server, content(1000), content(1000))


@scenario_check("accept.is_woken_by_shutdown", scenario=SCENARIO)
def accept_shutdown(lab: Lab) -> None:
    """A blocked accept(2) fails with EINVAL if another thread shuts the listener down."""
    listener = lab.listener()
    listener.settimeout(None)
    number = woken(
        "accept",
        lambda: errno_of(listener._accept),  # type: ignore[attr-defined]
        lambda: listener.shutdown(_socket.SHUT_RD),
    )
    equal("accept", errno_name(int(str(number))), "EINVAL")


@scenario_check("connect.is_woken", scenario=SCENARIO)
def connect_is_woken(lab: Lab) -> None:
    """A connect(2) blocked by a full backlog is woken by shutdown(2) of the same socket."""
    listener = lab.full_listener()
    client = lab.socket()
    client.settimeout(None)
    number = woken(
        "connect",
        lambda: errno_of(client.connect, listener.getsockname()),
        lambda: errno_of(client.shutdown, _socket.SHUT_RDWR),
    )
    require("connect", number != 0, "an error", "success")


@scenario_check(
    "poll.is_woken_by_tcp_notsent_lowat", scenario=SCENARIO, needs=("tcp_notsent_lowat",)
)
def by_notsent_lowat(lab: Lab) -> None:
    """poll(2) for POLLOUT is woken when TCP_NOTSENT_LOWAT is raised."""
    # A retransmission would wake the caller as well. Since 6.11 its time can be put off.
    if os.path.exists("/proc/sys/" + RTO_MIN):
        write_sysctl(RTO_MIN, "30000000")
        lab.afterwards(lambda: write_sysctl(RTO_MIN, "200000"))
    pair = lab.pair(before_bind=small_buffers)
    put(pair.client, "SO_SNDBUF", 500_000)
    put(pair.client, "TCP_NOTSENT_LOWAT", 4096)
    # So would an acknowledgement: none comes while the interface is down.
    lab.afterwards(lambda: isolation.set_loopback(True))
    isolation.set_loopback(False)
    fill(pair.client)
    polls("poll", pair.client, POLLOUT, lambda: put(pair.client, "TCP_NOTSENT_LOWAT", 1 << 30))
