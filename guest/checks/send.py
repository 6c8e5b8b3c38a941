# SPDX-License-Identifier: GPL-2.0-only
"""Flags of send(2), and other ways to send and receive: sendfile, splice, many buffers."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import errno
import os

from guest.calls import POLLIN, Blocking, errno_of, fails, poll, splice
from guest.checks import Failed, equal, require, scenario_check
from guest.checks.control import SCENARIO
from guest.flow import (
    at_end,
    content,
    drain,
    fill,
    read,
    same,
    send_now,
    small_buffers,
    wait_queued,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab

MSG_OOB, MSG_DONTWAIT, MSG_EOR, MSG_NOSIGNAL = 0x01, 0x40, 0x80, 0x4000
MSG_MORE, MSG_ZEROCOPY, MSG_ERRQUEUE = 0x8000, 0x4000000, 0x2000
SO_ZEROCOPY = 60
SPLICE_F_NONBLOCK = 2
#: The most calls of send(2) that a full buffer may still accept.
TRIES = 5000


@scenario_check("send.flags_keep_the_content", scenario=SCENARIO)
def flags_keep_the_content(lab: Lab) -> None:
    """Data sent with MSG_MORE, MSG_EOR, MSG_NOSIGNAL or MSG_ZEROCOPY arrive as they were sent."""
    pair = lab.pair()
    flags = (MSG_MORE, MSG_EOR, MSG_NOSIGNAL, MSG_ZEROCOPY, MSG_EOR | MSG_MORE, 0)
    data = content(700 * len(flags))
    for number, flag in enumerate(flags):
        part = data[700 * number : 700 * (number + 1)]
        equal("send with flags %#x" % flag, pair.client.send(part, flag), len(part))
    same("what was sent with flags", read(pair.server, len(data)), data)


@scenario_check("send.oob_is_sent_in_band", scenario=SCENARIO)
def oob_is_sent_in_band(lab: Lab) -> None:
    """MPTCP ignores MSG_OOB: the byte arrives in the stream, and poll(2) reports no POLLPRI."""
    pair = lab.pair()
    pair.client.sendall(b"ab")
    equal("send(MSG_OOB)", pair.client.send(b"c", MSG_OOB), 1)
    wait_queued(pair.server, 3)
    same("the stream", read(pair.server, 3), b"abc")


@scenario_check("send.zerocopy_notifies_nobody", scenario=SCENARIO)
def zerocopy_notifies_nobody(lab: Lab) -> None:
    """SO_ZEROCOPY is refused, so that MSG_ZEROCOPY copies and queues no notification."""
    pair = lab.pair()
    refused = errno_of(pair.client.setsockopt, _socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    if refused == 0:
        raise Failed("setting SO_ZEROCOPY", "an error", "success")
    data = content(20000)
    equal("send(MSG_ZEROCOPY)", pair.client.send(data, MSG_ZEROCOPY), len(data))
    same("the stream", read(pair.server, len(data)), data)
    with Blocking(pair.client, what="recv(MSG_ERRQUEUE)"):
        fails("a notification", errno.EAGAIN, pair.client.recvmsg, 1, 512, MSG_ERRQUEUE)


@scenario_check("send.of_no_bytes_sends_nothing", scenario=SCENARIO)
def of_no_bytes(lab: Lab) -> None:
    """A send(2) of 0 bytes returns 0 and adds nothing to the stream."""
    pair = lab.pair()
    equal("send of 0 bytes", pair.client.send(b""), 0)
    pair.client.sendall(b"data")
    equal("send of 0 bytes", pair.client.send(b""), 0)
    wait_queued(pair.server, 4)
    same("the stream", pair.server.recv(64), b"data")


@scenario_check("send.dontwait_returns_eagain_when_full", scenario=SCENARIO)
def dontwait_when_full(lab: Lab) -> None:
    """With MSG_DONTWAIT send(2) accepts bytes until it is full, then EAGAIN; all of them arrive."""
    pair = lab.pair(before_connect=small_buffers, before_bind=small_buffers)
    sent = fill(pair.client, least=64)

    def send_more() -> None:
        nonlocal sent
        for _ in range(TRIES):  # acknowledgements may still come and make room
            sent += content(64)[: pair.client.send(content(64), MSG_DONTWAIT)]

    with Blocking(pair.client, what="send(MSG_DONTWAIT)"):
        fails("send(MSG_DONTWAIT)", errno.EAGAIN, send_more)
    same("what was taken", drain(pair.server, len(sent)), sent)
    pair.client.shutdown(_socket.SHUT_WR)
    at_end("after what was said to be taken", pair.server)


@scenario_check("send.ignores_an_address", scenario=SCENARIO)
def ignores_an_address(lab: Lab) -> None:
    """sendto(2) on a connection ignores the address, as TCP does."""
    pair = lab.pair()
    equal("sendto", pair.client.sendto(b"data", (lab.address, 9)), 4)
    wait_queued(pair.server, 4)
    same("the stream", pair.server.recv(64), b"data")


@scenario_check("send.signals_sigpipe", scenario=SCENARIO)
def signals_sigpipe(lab: Lab) -> None:
    """send(2) after SHUT_WR fails with EPIPE and raises SIGPIPE, with MSG_NOSIGNAL it does not."""
    pair = lab.pair()
    seen: list[int] = []
    before = _signal.signal(_signal.SIGPIPE, lambda number, frame: seen.append(number))
    try:
        pair.client.shutdown(_socket.SHUT_WR)
        fails("send(MSG_NOSIGNAL) after SHUT_WR", errno.EPIPE, pair.client.send, b"x", MSG_NOSIGNAL)
        equal("SIGPIPE with MSG_NOSIGNAL", len(seen), 0)
        fails("send after SHUT_WR", errno.EPIPE, pair.client.send, b"x")
        equal("SIGPIPE", len(seen), 1)
    finally:
        _signal.signal(_signal.SIGPIPE, before)


@scenario_check("sendfile.sends_a_file", scenario=SCENARIO)
def sends_a_file(lab: Lab) -> None:
    """sendfile(2) sends a file's bytes, from an offset on."""
    pair = lab.pair()
    data = content(50_000)
    file = os.memfd_create("file")
    lab.afterwards(lambda: os.close(file))
    os.write(file, data)
    at = 1234
    with Blocking(pair.client, what="sendfile"):
        while at < len(data):
            moved = os.sendfile(pair.client.fileno(), file, at, len(data) - at)
            require("sendfile", moved > 0, "more than 0 bytes", moved)
            at += moved
    same("the file", read(pair.server, len(data) - 1234), data[1234:])


@scenario_check("splice.from_a_pipe", scenario=SCENARIO)
def splice_from_a_pipe(lab: Lab) -> None:
    """splice(2) from a pipe sends what is in the pipe."""
    pair = lab.pair()
    source, sink = lab.pipe()
    data = content(40_000)
    os.write(sink, data)
    at = 0
    with Blocking(pair.client, what="splice"):
        while at < len(data):
            at += splice(source, pair.client.fileno(), len(data) - at)
    same("the stream", read(pair.server, len(data)), data)


@scenario_check("splice.into_a_pipe", scenario=SCENARIO)
def splice_into_a_pipe(lab: Lab) -> None:
    """splice(2) into a pipe reads the stream in the requested parts."""
    pair = lab.pair()
    source, sink = lab.pipe()
    data = content(30_000)
    for at in range(0, len(data), 5000):
        pair.client.sendall(data[at : at + 5000])
    wait_queued(pair.server, len(data))
    parts = []
    left = len(data)
    for size in (1, 4999, 7777):
        moved = splice(pair.server.fileno(), sink, size)
        require("splice of %d bytes" % size, 0 < moved <= size, "from 1 to %d" % size, moved)
        parts.append(os.read(source, moved))
        left -= moved
    part = pair.server.recv(3000)
    parts.append(part)
    left -= len(part)
    while left > 0:
        moved = splice(pair.server.fileno(), sink, left)
        require("splice", moved > 0, "more than 0 bytes", moved)
        parts.append(os.read(source, moved))
        left -= moved
    same("what was spliced", b"".join(parts), data)
    equal("POLLIN after all was spliced", poll(pair.server) & POLLIN, 0)
    pair.client.sendall(b"more")
    wait_queued(pair.server, 4)
    same("a read after splices", pair.server.recv(16), b"more")


@scenario_check("splice.says_what_is_wrong", scenario=SCENARIO)
def splice_says_what_is_wrong(lab: Lab) -> None:
    """splice(2) from a socket fails with EAGAIN without data, and returns 0 at the end."""
    pair = lab.pair()
    _, sink = lab.pipe()
    server = pair.server.fileno()
    pair.server.settimeout(0)
    fails("splice of nothing", errno.EAGAIN, splice, server, sink, 10, SPLICE_F_NONBLOCK)
    fails("splice of nothing", errno.EAGAIN, splice, server, sink, 10)
    pair.client.shutdown(_socket.SHUT_WR)
    with Blocking(pair.server, what="splice at the end of the stream"):
        equal("splice at the end of the stream", splice(server, sink, 10), 0)


@scenario_check("writev.of_a_thousand_buffers", scenario=SCENARIO)
def writev_of_many(lab: Lab) -> None:
    """sendmsg(2) of 1024 buffers, the maximum, sends them in order."""
    pair = lab.pair()
    data = content(1024 * 9)
    parts = [data[at : at + 9] for at in range(0, len(data), 9)]
    equal("sendmsg of 1024 buffers", pair.client.sendmsg(parts), len(data))
    same("the stream", read(pair.server, len(data)), data)
    equal("send afterwards", send_now(pair.client, b"x"), 1)
    same("a byte afterwards", read(pair.server, 1), b"x")
