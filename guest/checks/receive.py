# SPDX-License-Identifier: GPL-2.0-only
"""Flags of recv(2) and its relatives: MSG_PEEK, MSG_WAITALL, MSG_TRUNC and more."""

from __future__ import annotations

import _socket
import errno

from guest.calls import SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, Blocking, Worker, fails, ioctl
from guest.checks import equal, scenario_check
from guest.checks.control import SCENARIO
from guest.flow import (
    MSG_DONTWAIT,
    MSG_PEEK,
    arrive,
    begins,
    content,
    read,
    recv_now,
    same,
    small_buffers,
    wait_queued,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab

MSG_OOB, MSG_TRUNC, MSG_WAITALL, MSG_ERRQUEUE = 0x01, 0x20, 0x100, 0x2000
_N = 3000


@scenario_check("msg_peek.leaves_the_data", scenario=SCENARIO)
def leaves_the_data(lab: Lab) -> None:
    """MSG_PEEK returns the next bytes, each time the same, and leaves them in the queue."""
    pair = lab.pair()
    data = content(_N)
    arrive(pair.client, pair.server, data)
    for size in (1, 100, _N, 2 * _N):
        got = pair.server.recv(size, MSG_PEEK)
        same("a peek of %d bytes" % size, got, data[:size])
    same("a read after peeks", pair.server.recv(2 * _N), data)
    fails("a peek at nothing", errno.EAGAIN, recv_now, pair.server, 1, MSG_PEEK)


@scenario_check("msg_peek.starts_at_the_first_unread_byte", scenario=SCENARIO)
def starts_at_the_first_unread_byte(lab: Lab) -> None:
    """MSG_PEEK starts at the first unread byte, within a segment and across segments."""
    pair = lab.pair()
    data = content(5 * _N)
    for at in range(0, len(data), _N):
        arrive(pair.client, pair.server, data[at : at + _N])
    at = 0
    for size in (1, _N - 1, 10, 2 * _N, 17):
        # A peek may show less than there is, as a read may return less.
        begins("a peek at byte %d" % at, pair.server.recv(len(data), MSG_PEEK), data[at:])
        begins("a peek of %d bytes" % size, pair.server.recv(size, MSG_PEEK), data[at : at + size])
        same("a read at byte %d" % at, read(pair.server, size), data[at : at + size])
        at += size
    same("the rest", read(pair.server, len(data) - at), data[at:])


@scenario_check("msg_peek.waitall_collects_all", scenario=SCENARIO)
def peek_waitall_collects(lab: Lab) -> None:
    """MSG_PEEK with MSG_WAITALL waits for all bytes, and returns each of them once."""
    pair = lab.pair()
    data = content(2 * _N)
    arrive(pair.client, pair.server, data[:_N])
    pair.server.settimeout(None)
    worker = Worker(lambda: pair.server.recv(2 * _N, MSG_PEEK | MSG_WAITALL))
    worker.wait_blocked()
    pair.client.sendall(data[_N:])
    got = worker.result(busy_s=1.0)
    assert isinstance(got, bytes)
    same("a peek that had to wait", got, data)
    pair.server.settimeout(5)
    same("a read after the peek", read(pair.server, 2 * _N), data)


@scenario_check("msg_waitall.collects_all", scenario=SCENARIO)
def waitall_collects(lab: Lab) -> None:
    """MSG_WAITALL returns once all requested bytes have arrived, in several parts."""
    pair = lab.pair()
    data = content(3 * _N)
    arrive(pair.client, pair.server, data[:_N])
    pair.server.settimeout(None)
    worker = Worker(lambda: pair.server.recv(3 * _N, MSG_WAITALL))
    for at in (_N, 2 * _N):
        worker.wait_blocked()
        pair.client.sendall(data[at : at + _N])
    got = worker.result()
    assert isinstance(got, bytes)
    same("MSG_WAITALL", got, data)


@scenario_check("msg_waitall.collects_more_than_a_buffer", scenario=SCENARIO)
def waitall_of_much(lab: Lab) -> None:
    """MSG_WAITALL collects more than the receive buffer holds at once."""
    pair = lab.pair(before_bind=small_buffers)
    data = content(300_000)
    pair.server.settimeout(None)
    worker = Worker(lambda: pair.server.recv(len(data), MSG_WAITALL))
    pair.client.sendall(data)
    got = worker.result(10)
    assert isinstance(got, bytes)
    same("MSG_WAITALL", got, data)


@scenario_check("msg_waitall.ends_with_the_stream", scenario=SCENARIO)
def waitall_ends_with_the_stream(lab: Lab) -> None:
    """MSG_WAITALL returns the bytes so far if the stream ends early."""
    pair = lab.pair()
    data = content(_N)
    arrive(pair.client, pair.server, data)
    pair.client.shutdown(_socket.SHUT_WR)
    with Blocking(pair.server, what="recv(MSG_WAITALL) at the end of the stream"):
        same("MSG_WAITALL", pair.server.recv(2 * _N, MSG_WAITALL), data)
        equal("MSG_WAITALL at the end", len(pair.server.recv(2 * _N, MSG_WAITALL)), 0)


@scenario_check("msg_waitall.does_not_wait_with_dontwait", scenario=SCENARIO)
def waitall_dontwait(lab: Lab) -> None:
    """MSG_WAITALL with MSG_DONTWAIT returns the queued bytes, or fails with EAGAIN."""
    pair = lab.pair()
    data = content(_N)
    arrive(pair.client, pair.server, data)
    with Blocking(pair.server, what="recv(MSG_WAITALL|MSG_DONTWAIT)"):
        got = pair.server.recv(2 * _N, MSG_WAITALL | MSG_DONTWAIT)
        same("MSG_WAITALL|MSG_DONTWAIT", got, data)
        fails(
            "MSG_WAITALL|MSG_DONTWAIT of nothing",
            errno.EAGAIN,
            pair.server.recv,
            1,
            MSG_WAITALL | MSG_DONTWAIT,
        )


@scenario_check("msg_dontwait.returns_eagain", scenario=SCENARIO)
def dontwait_returns_eagain(lab: Lab) -> None:
    """MSG_DONTWAIT fails with EAGAIN on a blocking socket that has nothing to read."""
    pair = lab.pair()
    for sock in (pair.client, pair.server):
        with Blocking(sock, what="recv(MSG_DONTWAIT)"):
            fails("recv(MSG_DONTWAIT)", errno.EAGAIN, sock.recv, 10, MSG_DONTWAIT)


@scenario_check("msg_trunc.discards_bytes", scenario=SCENARIO)
def trunc_discards(lab: Lab) -> None:
    """MSG_TRUNC removes bytes from the stream and does not write them to the buffer (tcp(7))."""
    pair = lab.pair()
    data = content(3 * _N)
    for at in range(0, len(data), _N):
        arrive(pair.client, pair.server, data[at : at + _N])
    buffer = bytearray(b"\xa5" * _N)
    equal("MSG_TRUNC", pair.server.recv_into(buffer, 100, MSG_TRUNC), 100)
    equal("the buffer after MSG_TRUNC", bytes(buffer), b"\xa5" * _N)
    same("a read after MSG_TRUNC", pair.server.recv(50), data[100:150])
    equal("MSG_TRUNC|MSG_PEEK", pair.server.recv_into(buffer, 70, MSG_TRUNC | MSG_PEEK), 70)
    left = _N  # a segment and more
    while left:
        left -= pair.server.recv_into(buffer, left, MSG_TRUNC)
    equal("the buffer after MSG_TRUNC", bytes(buffer), b"\xa5" * _N)
    same("the rest", read(pair.server, 2 * _N - 150), data[_N + 150 :])


@scenario_check("msg_errqueue.is_empty", scenario=SCENARIO)
def errqueue_is_empty(lab: Lab) -> None:
    """MSG_ERRQUEUE fails with EAGAIN, and removes no data from the stream."""
    pair = lab.pair()
    arrive(pair.client, pair.server, b"data")
    with Blocking(pair.server, what="recv(MSG_ERRQUEUE)"):
        fails("MSG_ERRQUEUE", errno.EAGAIN, pair.server.recvmsg, 64, 64, MSG_ERRQUEUE)
    same("a read afterwards", pair.server.recv(64), b"data")


@scenario_check("recv.of_no_bytes_returns_at_once", scenario=SCENARIO)
def of_no_bytes(lab: Lab) -> None:
    """A recv(2) of 0 bytes returns 0 at once, with and without data."""
    pair = lab.pair()
    with Blocking(pair.server, what="recv of 0 bytes"):
        equal("recv of 0 bytes", len(pair.server.recv(0)), 0)
    arrive(pair.client, pair.server, b"data")
    equal("recv of 0 bytes", len(pair.server.recv(0)), 0)
    same("a read afterwards", pair.server.recv(64), b"data")


@scenario_check("recv.gives_no_address", scenario=SCENARIO)
def gives_no_address(lab: Lab) -> None:
    """recvmsg(2) on a connection gives no address, no control message and no flags."""
    pair = lab.pair()
    arrive(pair.client, pair.server, b"data")
    data, control, flags, address = pair.server.recvmsg(64, 256)
    same("recvmsg", data, b"data")
    equal("control messages", control, [])
    equal("msg_flags", flags, 0)
    equal("the address", address, None)


@scenario_check("recv.fills_many_buffers", scenario=SCENARIO)
def fills_many_buffers(lab: Lab) -> None:
    """readv(2) fills and writev(2) sends buffers of all sizes in their order."""
    pair = lab.pair()
    sizes = [1, 7, 64, 513, 0, 1000, 3, 4096, 2, 900] * 2
    data = content(sum(sizes))
    parts = []
    at = 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    equal("sendmsg of 20 buffers", pair.client.sendmsg(parts), len(data))
    wait_queued(pair.server, len(data))
    buffers = [bytearray(size) for size in reversed(sizes)]
    equal("recvmsg into 20 buffers", pair.server.recvmsg_into(buffers)[0], len(data))
    same("20 buffers", b"".join(buffers), data)


@scenario_check("siocinq.counts_unread_bytes", scenario=SCENARIO, needs=("tcp_inq",))
def siocinq_counts(lab: Lab) -> None:
    """SIOCINQ is the number of bytes that can be read: 0 at first, exact after each read."""
    pair = lab.pair()
    for source, sink in ((pair.client, pair.server), (pair.server, pair.client)):
        equal("SIOCINQ before data", ioctl(sink, SIOCINQ), 0)
        data = content(3 * _N)
        for at in range(0, len(data), _N):
            arrive(source, sink, data[at : at + _N])
            equal("SIOCINQ", ioctl(sink, SIOCINQ), at + _N)
        left = len(data)
        for size in (1, _N, 10, 2 * _N - 12):
            sink.recv(5, MSG_PEEK)
            left -= len(read(sink, size))
            equal("SIOCINQ after a read of %d" % size, ioctl(sink, SIOCINQ), left)
        read(sink, left)
        equal("SIOCINQ after all was read", ioctl(sink, SIOCINQ), 0)


@scenario_check("siocinq.of_a_listener_is_refused", scenario=SCENARIO, needs=("tcp_inq",))
def of_a_listener(lab: Lab) -> None:
    """SIOCINQ, SIOCOUTQ and SIOCOUTQNSD fail with EINVAL on a listener, others with ENOTTY."""
    listener = lab.listener()
    fails("SIOCINQ of a listener", errno.EINVAL, ioctl, listener, SIOCINQ)
    for name, request in (("SIOCOUTQ", SIOCOUTQ), ("SIOCOUTQNSD", SIOCOUTQNSD)):
        try:
            got = ioctl(listener, request)
        except OSError as error:
            got = -(error.errno or 0)
        # Up to 7.3 the call returns 0, and the error stands where the number of bytes would.
        equal(name + " of a listener", got, -errno.EINVAL)
    fails("an ioctl that there is not", errno.ENOTTY, ioctl, lab.socket(), 0x54FF)
