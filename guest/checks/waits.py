# SPDX-License-Identifier: GPL-2.0-only
"""Times: SO_RCVTIMEO, SO_SNDTIMEO, SO_LINGER with a time, keepalive probes.

Lower bounds are exact, upper ones are what tells waiting from hanging: an emulated processor may
be busy elsewhere for seconds.
"""

from __future__ import annotations

import _socket
import errno
import struct
import time

from guest.calls import Blocking, Worker, errno_of
from guest.checks import equal, errno_name, require, scenario_check
from guest.checks.closing import linger
from guest.checks.reconnect import connecting
from guest.flow import MSG_PEEK, arrive, arrived_at_rest, content, fill, same, small_buffers
from guest.lab import TCP, wait_until
from guest.scenarios import Scenario, declare
from guest.setting import IPPROTO_TCP, get, put
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.lab import Lab, Pair

SCENARIO = declare(Scenario("waits", waits=True, one_family=True)).name
MSG_WAITALL = 0x100
#: Old options take two longs, new ones two 64-bit numbers, in a 32-bit program, too.
CODES = {"": "@ll", "_NEW": "=qq"}
SUFFIX = {"old": "", "new": "_NEW"}
TIMEOUT_S = 0.06
#: Jiffies that an emulator was late with come all at once, and end a timer early by as many.
TRIES = 4
#: A timer may fire a jiffy early of what was asked for; 10 ms with the longest jiffies there are.
EARLY_S = 0.011
LATE_S = 8.0


def set_timeout(sock: _socket.socket, name: str, suffix: str = "") -> None:
    """Set SO_RCVTIMEO or SO_SNDTIMEO, or the option of that name with ``suffix``."""
    value = struct.pack(CODES[suffix], 0, int(TIMEOUT_S * 1_000_000))
    put(sock, name + suffix, value)
    equal(name + suffix, get(sock, name + suffix, len(value)), value)


def timed_out(
    what: str, sock: _socket.socket, expected: int, call: Callable[..., object], *arguments: object
) -> None:
    """Fail unless ``call`` waits for the timeout, and fails with ``expected``."""
    for attempt in range(TRIES):
        with Blocking(sock, LATE_S, what):
            began = time.monotonic()
            got = errno_of(call, *arguments)
            took = time.monotonic() - began
        if attempt == 0 or got != errno.EALREADY:  # what connect(2) says once more
            equal(what, errno_name(got) if got else "success", errno_name(expected))
        if took >= TIMEOUT_S - EARLY_S:
            break
    require(what + ": seconds", took >= TIMEOUT_S - EARLY_S, "%.2f or more" % TIMEOUT_S, took)


@scenario_check("so_rcvtimeo.ends_recv", scenario=SCENARIO)
@each("old", "new")
def ends_recv(lab: Lab) -> None:
    """recv(2) fails with EAGAIN after SO_RCVTIMEO."""
    pair = lab.pair()
    set_timeout(pair.server, "SO_RCVTIMEO", SUFFIX[lab.side])
    timed_out("recv", pair.server, errno.EAGAIN, pair.server.recv, 16)


@scenario_check("so_rcvtimeo.of_the_listener_ends_recv", scenario=SCENARIO)
def listener_rcvtimeo(lab: Lab) -> None:
    """Accepted sockets inherit the listener's SO_RCVTIMEO."""
    pair = lab.pair(before_bind=lambda sock: set_timeout(sock, "SO_RCVTIMEO"))
    timed_out("recv", pair.server, errno.EAGAIN, pair.server.recv, 16)


@scenario_check("so_sndtimeo.ends_send", scenario=SCENARIO)
@each("old", "new")
def ends_send(lab: Lab) -> None:
    """send(2) to a full socket fails with EAGAIN after SO_SNDTIMEO."""
    pair = lab.pair(before_connect=small_buffers, before_bind=small_buffers)
    fill(pair.client)
    set_timeout(pair.client, "SO_SNDTIMEO", SUFFIX[lab.side])
    with Blocking(pair.client, LATE_S, "send"):
        # Each takes what there is room for; acknowledgements that are on their way make more.
        while not errno_of(pair.client.send, content(1 << 20)):
            arrived_at_rest(pair.server)
    timed_out("send", pair.client, errno.EAGAIN, pair.client.send, content(1000))


@scenario_check("so_sndtimeo.ends_connect", scenario=SCENARIO)
def ends_connect(lab: Lab) -> None:
    """An unanswered connect(2) fails with EINPROGRESS after SO_SNDTIMEO."""
    address = lab.full_listener().getsockname()
    sock = lab.socket()
    set_timeout(sock, "SO_SNDTIMEO")
    timed_out("connect", sock, errno.EINPROGRESS, sock.connect, address)


@scenario_check("connect.second_call_says_ealready", scenario=SCENARIO)
def second_connect(lab: Lab) -> None:
    """While a socket connects, connect(2) fails with EALREADY, and send(2) with EAGAIN."""
    sock = connecting(lab)
    got = errno_of(sock.connect, lab.full_listener().getsockname())
    equal("a second connect()", errno_name(got) if got else "success", "EALREADY")
    got = errno_of(sock.send, b"x")
    equal("send while it connects", errno_name(got) if got else "success", "EAGAIN")
    got = errno_of(sock.recv, 1)
    equal("recv while it connects", errno_name(got) if got else "success", "EAGAIN")


@scenario_check("msg_waitall.returns_what_came_in_time", scenario=SCENARIO)
@each("mptcp", "fallback")
def waitall_in_time(lab: Lab) -> None:
    """MSG_WAITALL returns the bytes so far after SO_RCVTIMEO."""
    pair = _pair(lab)
    data = content(3000)
    arrive(pair.server, pair.client, data)
    set_timeout(pair.client, "SO_RCVTIMEO")
    _returns("MSG_WAITALL", pair.client, lambda: pair.client.recv(6000, MSG_WAITALL), data)


@scenario_check("msg_peek.waitall_returns_what_came_in_time", scenario=SCENARIO)
def peek_waitall_in_time(lab: Lab) -> None:
    """MSG_PEEK with MSG_WAITALL returns the bytes so far after SO_RCVTIMEO; they stay queued."""
    pair = lab.pair()
    data = content(3000)
    arrive(pair.server, pair.client, data)
    set_timeout(pair.client, "SO_RCVTIMEO")
    flags = MSG_WAITALL | MSG_PEEK
    _returns("MSG_PEEK|MSG_WAITALL", pair.client, lambda: pair.client.recv(6000, flags), data)
    same("a read afterwards", pair.client.recv(6000), data)


@scenario_check("so_rcvlowat.recv_waits_for_as_much", scenario=SCENARIO)
@each("mptcp", "fallback")
def lowat_waits(lab: Lab) -> None:
    """recv(2) waits for SO_RCVLOWAT bytes, and returns fewer after SO_RCVTIMEO."""
    pair = _pair(lab)
    data = content(3000)
    put(pair.client, "SO_RCVLOWAT", len(data) + 1)
    arrive(pair.server, pair.client, data)
    set_timeout(pair.client, "SO_RCVTIMEO")
    _returns("recv below SO_RCVLOWAT", pair.client, lambda: pair.client.recv(6000), data)


def _pair(lab: Lab) -> Pair:
    return lab.pair(server=TCP) if lab.side == "fallback" else lab.pair()


def _returns(what: str, sock: _socket.socket, call: Callable[[], bytes], data: bytes) -> None:
    """Fail unless ``call`` waits for the timeout, and returns ``data``."""
    with Blocking(sock, LATE_S, what):
        began = time.monotonic()
        got = call()
        took = time.monotonic() - began
    same(what, got, data)
    least = TIMEOUT_S / 3  # it cannot be tried again; see TRIES
    require(what + ": seconds", took >= least, "%.2f or more" % least, took)


class _Idle:
    """Connections that are left alone for longer than a second, all at the same time.

    The first check of them makes them, so that they wait together, and each can be asked alone.
    """

    def __init__(self, lab: Lab) -> None:
        from guest.lab import Lab as NewLab

        self.lab = NewLab(lab.family)
        self.pairs = {
            "before_connect": self.lab.pair(before_connect=_keep_alive),
            "on_the_listener": self.lab.pair(before_bind=_keep_alive),
            "connected": self.lab.pair(),
            "fallback": self.lab.pair(before_connect=_keep_alive, server=TCP),
            "off": self.lab.pair(),
        }
        _keep_alive(self.pairs["connected"].client)
        off = self.pairs["off"].client
        _keep_alive(off)
        put(off, "SO_KEEPALIVE", 0)
        self.first = {name: _segments_out(self.end(name)) for name in self.pairs}
        self.closing = self.linger()

    def linger(self) -> Worker:
        """Closes a connection whose peer does not read, with a linger time of 1 s."""
        pair = self.lab.pair(before_connect=small_buffers, before_bind=small_buffers)
        fill(pair.client)
        linger(1)(pair.client)

        def close() -> float:
            began = time.monotonic()
            pair.client.close()
            return time.monotonic() - began

        return Worker(close)

    def end(self, name: str) -> _socket.socket:
        """The end that has the option."""
        pair = self.pairs[name]
        return pair.server if name == "on_the_listener" else pair.client

    def more(self, name: str) -> int:
        """Segments that were sent since the connection was left alone."""
        return _segments_out(self.end(name)) - self.first[name]


def _keep_alive(sock: _socket.socket) -> None:
    put(sock, "TCP_KEEPIDLE", 1)
    put(sock, "TCP_KEEPINTVL", 1)
    put(sock, "SO_KEEPALIVE", 1)


def _segments_out(sock: _socket.socket) -> int:
    """tcpi_segs_out of the first subflow: at 136 in struct tcp_info."""
    data = sock.getsockopt(IPPROTO_TCP, _socket.TCP_INFO, 256)
    return int(struct.unpack_from("=I", data, 136)[0])


_idle: dict[int, _Idle] = {}


def _idle_of(lab: Lab) -> _Idle:
    if lab.family not in _idle:
        _idle[lab.family] = _Idle(lab)
    return _idle[lab.family]


KEPT_ALIVE = ("before_connect", "on_the_listener", "connected", "fallback")


@scenario_check("so_keepalive.sends_probes", scenario=SCENARIO, needs=("tcp_keepalive",))
@each(*KEPT_ALIVE)
def sends_probes(lab: Lab) -> None:
    """SO_KEEPALIVE sends a probe after TCP_KEEPIDLE, wherever both were set."""
    idle = _idle_of(lab)
    sent = wait_until(lambda: idle.more(lab.side) > 0, LATE_S)
    equal("a segment is sent on an idle connection", sent, True)


@scenario_check("so_keepalive.off_sends_none", scenario=SCENARIO, needs=("tcp_keepalive",))
def off_sends_none(lab: Lab) -> None:
    """Without SO_KEEPALIVE, or with it turned off again, an idle connection sends nothing."""
    idle = _idle_of(lab)
    wait_until(lambda: idle.more("connected") > 0, LATE_S)
    equal("segments on an idle connection", idle.more("off"), 0)


@scenario_check(
    "so_linger.with_time_waits_for_the_peer", scenario=SCENARIO, needs=("tcp_keepalive",)
)
def with_time_waits(lab: Lab) -> None:
    """With SO_LINGER {1, 1} close(2) waits a second for a peer that does not read."""
    idle = _idle_of(lab)
    took = idle.closing.result(LATE_S)
    for _ in range(TRIES - 1):
        assert isinstance(took, float)
        if took > 0.9:
            break
        took = idle.linger().result(LATE_S)
    assert isinstance(took, float)
    require("close() of what the peer does not read", took > 0.9, "1 s", "%.2f s" % took)
