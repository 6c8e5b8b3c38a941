# SPDX-License-Identifier: GPL-2.0-only
"""Control messages of recvmsg(2): timestamps, and the bytes that are left (TCP_CM_INQ)."""

from __future__ import annotations

import _socket
import struct
import time

from guest.calls import POLLRDHUP, errno_of, poll
from guest.checks import Failed, equal, require, scenario_check
from guest.flow import MSG_PEEK, arrive, at_end, content, same
from guest.lab import MPTCP, TCP, wait_until
from guest.scenarios import Scenario, declare
from guest.setting import IPPROTO_TCP, SOL_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    from guest.lab import Lab, Pair

SCENARIO = declare(Scenario("flags", waits=True, one_family=True)).name
TCP_INQ = 36  # also the type of the control message, TCP_CM_INQ
SO_TIMESTAMPING = 37
SOF_RX_SOFTWARE, SOF_SOFTWARE, SOF_OPT_ID = 1 << 3, 1 << 4, 1 << 7
EINVAL = 22
#: Seconds that a timestamp may be outside of the time in which the data were sent and read.
CLOCK_SLACK_S = 0.1


class Stamp:
    """An option by which recvmsg(2) tells when data came: asm-generic/socket.h.

    ``code`` is the structure of its control message, which has the option's number as its type;
    ``fraction`` is what the second number of a pair counts in a second.
    """

    __slots__ = ("code", "fraction", "name", "number", "value")

    def __init__(self, name: str, number: int, code: str, fraction: int, value: int = 1) -> None:
        self.name = name
        self.number = number
        self.code = code
        self.fraction = fraction
        self.value = value


_FLAGS = SOF_RX_SOFTWARE | SOF_SOFTWARE
STAMPS = (
    Stamp("so_timestamp", 29, "@ll", 1_000_000),
    Stamp("so_timestampns", 35, "@ll", 1_000_000_000),
    Stamp("so_timestamping", 37, "@6l", 1_000_000_000, _FLAGS),
    Stamp("so_timestamp_new", 63, "=qq", 1_000_000),
    Stamp("so_timestampns_new", 64, "=qq", 1_000_000_000),
    Stamp("so_timestamping_new", 65, "=6q", 1_000_000_000, _FLAGS),
)


def message(sock: _socket.socket, level: int, kind: int, flags: int = 0) -> Optional[bytes]:
    """The control message of that kind of the next recvmsg(2), None where there is none."""
    for got_level, got_kind, data in sock.recvmsg(4096, 512, flags)[1]:
        if (got_level, got_kind) == (level, kind):
            return data
    return None


def stamped(pair: Pair, sink: _socket.socket, stamp: Stamp) -> None:
    """Fail unless ``sink`` gets a control message with a byte, which says when the byte came.

    The kernel turns receive timestamps on from a work queue, so that the first packets may have
    none: bytes are sent until one has.
    """
    source = pair.client if sink is pair.server else pair.server
    sent = 0.0

    def next_message() -> Optional[bytes]:
        nonlocal sent
        sent = time.time()
        source.sendall(b"x")
        peeked = message(sink, SOL_SOCKET, stamp.number, MSG_PEEK)
        found = message(sink, SOL_SOCKET, stamp.number)
        equal("the control message with MSG_PEEK", peeked, found)
        return found

    data = wait_until(next_message)
    if data is None:
        raise Failed("a control message of %s" % stamp.name, "one with each byte", "none in 5 s")
    says_when(stamp, data, sent)


def says_when(stamp: Stamp, data: bytes, sent: float) -> None:
    """Fail unless the control message is of the right size, of data sent at ``sent`` and later."""
    read = time.time()
    equal("size of the control message", len(data), struct.calcsize(stamp.code), data)
    seconds, rest = struct.unpack(stamp.code, data)[:2]
    require("fraction of a second", 0 <= rest < stamp.fraction, "below 1 s", rest, data)
    came = seconds + rest / stamp.fraction
    within = sent - CLOCK_SLACK_S <= came <= read + CLOCK_SLACK_S
    require("the timestamp", within, "from %.3f to %.3f" % (sent, read), "%.3f" % came, data)


def _on_a_connection(stamp: Stamp) -> Callable[[Lab], None]:
    def run(lab: Lab) -> None:
        pair = lab.pair()
        for sink in (pair.server, pair.client):
            sink.setsockopt(SOL_SOCKET, stamp.number, stamp.value)
            stamped(pair, sink, stamp)
            sink.setsockopt(SOL_SOCKET, stamp.number, 0)
            source = pair.client if sink is pair.server else pair.server
            source.sendall(b"x")
            equal("control message once it is off", message(sink, SOL_SOCKET, stamp.number), None)

    run.__doc__ = "Set on a connection, the option adds the arrival time of data to recvmsg(2)."
    return run


def _before_connect(stamp: Stamp) -> Callable[[Lab], None]:
    def run(lab: Lab) -> None:
        def turn_on(sock: _socket.socket) -> None:
            sock.setsockopt(SOL_SOCKET, stamp.number, stamp.value)

        pair = lab.pair(before_connect=turn_on, before_bind=turn_on)
        stamped(pair, pair.client, stamp)
        stamped(pair, pair.server, stamp)

    run.__doc__ = (
        "Set before connect(2) and listen(2), it adds the arrival time of data to recvmsg(2)."
    )
    return run


for _stamp in STAMPS:
    scenario_check("%s.on_a_connection" % _stamp.name, scenario=SCENARIO)(_on_a_connection(_stamp))
    scenario_check("%s.set_before_the_connection" % _stamp.name, scenario="inherit")(
        _before_connect(_stamp)
    )


@scenario_check(
    "so_timestamping.refusals_are_returned", scenario=SCENARIO, phases=("bound", "listening")
)
def refusals_are_returned(lab: Lab) -> None:
    """SO_TIMESTAMPING flags that TCP refuses without a connection fail with EINVAL too."""
    for protocol in (TCP, MPTCP):
        sock = lab.socket(protocol)
        sock.bind((lab.address, 0))
        if lab.phase == "listening":
            sock.listen(1)
        got = errno_of(sock.setsockopt, SOL_SOCKET, SO_TIMESTAMPING, _FLAGS | SOF_OPT_ID)
        equal("SO_TIMESTAMPING of protocol %d" % protocol, got, EINVAL)


def inq(sock: _socket.socket, size: int, flags: int = 0) -> tuple[bytes, Optional[int]]:
    """A read of ``size`` bytes, and what TCP_CM_INQ says is left."""
    data, control, _, _ = sock.recvmsg(size, 64, flags)
    for level, kind, value in control:
        if (level, kind) == (IPPROTO_TCP, TCP_INQ):
            equal("size of TCP_CM_INQ", len(value), 4, value)
            return data, int(struct.unpack("=i", value)[0])
    return data, None


def _turn_on(sock: _socket.socket) -> None:
    sock.setsockopt(IPPROTO_TCP, TCP_INQ, 1)


def _counts(source: _socket.socket, sink: _socket.socket) -> None:
    data = content(9000)
    for at in range(0, len(data), 3000):
        arrive(source, sink, data[at : at + 3000])
    equal("TCP_CM_INQ with a peek", inq(sink, 10, MSG_PEEK)[1], len(data))
    at = 0
    for size in (1, 2999, 3001, 100, 2898):
        got, left = inq(sink, size)
        same("a read of %d bytes" % size, got, data[at : at + size])
        at += size
        equal("TCP_CM_INQ after a read of %d bytes" % size, left, len(data) - at)
    same("the rest", inq(sink, 4096)[0], data[at:])


@scenario_check("tcp_inq.cmsg_counts_unread_bytes", scenario=SCENARIO, needs=("tcp_inq",))
def cmsg_counts(lab: Lab) -> None:
    """TCP_CM_INQ is the number of bytes left to read, exact after each read."""
    pair = lab.pair()
    _turn_on(pair.client)
    _turn_on(pair.server)
    _counts(pair.client, pair.server)
    _counts(pair.server, pair.client)


@scenario_check("tcp_inq.cmsg_where_set_before_connect", scenario="inherit", needs=("tcp_inq",))
def cmsg_where_set_before(lab: Lab) -> None:
    """TCP_INQ set before connect(2) or on a listener adds control messages on the connection."""
    pair = lab.pair(before_connect=_turn_on, before_bind=_turn_on)
    _counts(pair.client, pair.server)
    _counts(pair.server, pair.client)


@scenario_check("tcp_inq.cmsg_only_while_on", scenario=SCENARIO, needs=("tcp_inq",))
def cmsg_only_while_on(lab: Lab) -> None:
    """recvmsg(2) returns TCP_CM_INQ only while TCP_INQ is set."""
    pair = lab.pair()
    arrive(pair.client, pair.server, b"abc")
    equal("TCP_CM_INQ before TCP_INQ", inq(pair.server, 1)[1], None)
    _turn_on(pair.server)
    equal("TCP_CM_INQ", inq(pair.server, 1)[1], 1)
    pair.server.setsockopt(IPPROTO_TCP, TCP_INQ, 0)
    equal("TCP_CM_INQ after TCP_INQ is cleared", inq(pair.server, 1)[1], None)


@scenario_check("tcp_inq.cmsg_is_1_at_the_end", scenario=SCENARIO, needs=("tcp_inq",))
def cmsg_is_1_at_the_end(lab: Lab) -> None:
    """TCP_CM_INQ is 1 at the end of the stream, so that a caller reads once more."""
    pair = lab.pair()
    _turn_on(pair.server)
    arrive(pair.client, pair.server, b"abc")
    pair.client.shutdown(_socket.SHUT_WR)
    wait_until(lambda: poll(pair.server, 0.1, POLLRDHUP) & POLLRDHUP)
    # As in TCP, the end itself counts as long as bytes are there.
    equal("TCP_CM_INQ with a byte before the end", inq(pair.server, 2)[1], 2)
    equal("TCP_CM_INQ after the last byte", inq(pair.server, 1)[1], 1)
    equal("TCP_CM_INQ at the end", inq(pair.server, 1), (b"", 1))
    at_end("a read afterwards", pair.server)
