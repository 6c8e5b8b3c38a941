# SPDX-License-Identifier: GPL-2.0-only
"""What arrives while a call owns the socket: data, acknowledgements, joins, ends.

A call is stopped where it copies data (:mod:`guest.stall`), the peer on the wire sends, the call
goes on: then all of it must be as if it had come a moment later. The peer sends nothing twice.
"""

from __future__ import annotations

import _socket
import errno

from guest import mib, multipath, peer, wire
from guest.calls import POLLOUT, SIOCOUTQ, Worker, errno_of, has_events, ioctl
from guest.checks import equal
from guest.checks.peer_data import NEXT, counted, established, got_bytes, in_one_family, receive
from guest.flow import at_end, content, same
from guest.lab import wait_until
from guest.stall import StalledCall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab
    from guest.peer import Flow

SCENARIO = "peer_owned"
NEEDS = ("packet_socket", "userfaultfd")


def readable(flow: Flow, sock: _socket.socket) -> None:
    """One byte to be read: the 6th. The next data is at 6."""
    sock.settimeout(None)
    flow.send_data(b"!", at=5)


@in_one_family("owned.join_works_afterwards", SCENARIO, NEEDS)
def join(lab: Lab) -> None:
    """A subflow that joins during a call is counted after it, and carries data both ways."""
    one, (flow,), sock = established(lab, joins=0)
    readable(flow, sock)
    with StalledCall(sock, 1):
        two = one.join(3)
        two.send_data(NEXT, at=6)
    multipath.subflows(sock, 1)
    same("data on the subflow", receive(sock, 5), NEXT)
    two.send_data(b"again", at=11)
    same("more data on the subflow", receive(sock, 5), b"again")
    flow.send(wire.ACK | wire.RST)
    sock.sendall(b"answer")
    two.expect("data on the subflow", lambda s: s.payload == b"answer")


@in_one_family("owned.data_is_kept", SCENARIO, NEEDS)
def data(lab: Lab) -> None:
    """Data that arrive on two subflows during a call, out of order and twice, are read once."""
    since = mib.Since()
    _, (one, two), sock = established(lab, joins=1)
    readable(one, sock)
    sent = content(60)
    with StalledCall(sock, 1):
        for flow, first, last in (
            (one, 6, 14), (two, 6, 14), (two, 10, 20), (two, 25, 30), (one, 14, 27), (two, 40, 50),
            (one, 30, 44), (two, 45, 60),
        ):  # fmt: skip
            flow.send_data(sent[first:last], at=first)
    same("the stream", receive(sock, 54), sent[6:])
    got_bytes(sock, 60)
    equal("BacklogDrop", since.of("BacklogDrop"), 0)
    equal("RcvPruned", since.of("RcvPruned"), 0)


@in_one_family("owned.partial_repeat", SCENARIO, NEEDS)
def partial_repeat(lab: Lab) -> None:
    """Only the new bytes of a queued segment are delivered if another subflow brought the rest."""
    _, (one, two), sock = established(lab, joins=1)
    readable(one, sock)
    with StalledCall(sock, 1):
        one.send_data(b"abcdef", at=6)
        two.send_data(b"defghi", at=9)
    same("the stream", receive(sock, 9), b"abcdefghi")
    got_bytes(sock, 15)


@in_one_family("owned.other_thread_is_woken", SCENARIO, NEEDS)
def other_woken(lab: Lab) -> None:
    """A thread blocked in recv(2) gets data that arrive while another thread sends."""
    _, (flow,), sock = established(lab, joins=0)
    sock.settimeout(None)
    waiting = Worker(lambda: sock.recv(100))
    waiting.wait_blocked()
    with StalledCall(sock, 5, sends=True):
        flow.send_data(NEXT, at=5)
    equal("recv() of the other thread", waiting.result(), NEXT)
    flow.expect("what was sent", lambda s: s.payload == bytes(5))


@in_one_family("owned.acknowledgement_frees_memory", SCENARIO, NEEDS)
def acknowledged(lab: Lab) -> None:
    """An acknowledgement that arrives during a call frees the sent data: SIOCOUTQ falls."""
    one, (flow,), sock = established(lab, joins=0)
    sock.sendall(content(1000))
    flow.expect("data", lambda s: s.payload)
    equal("SIOCOUTQ", ioctl(sock, SIOCOUTQ), 1000)
    readable(flow, sock)
    one.consumed = 1000
    with StalledCall(sock, 1):
        flow.acknowledge()
    equal("SIOCOUTQ falls to 0", wait_until(lambda: ioctl(sock, SIOCOUTQ) == 0), True)
    has_events("after that", sock, POLLOUT)


@in_one_family("owned.window_opens", SCENARIO, NEEDS)
def window_opens(lab: Lab) -> None:
    """Data held back by the peer's window are sent when it opens during a call."""
    one, (flow,), sock = established(lab, joins=0)
    flow.window = 0
    flow.acknowledge()
    sock.settimeout(None)
    flow.send_data(b"!", at=5)
    with StalledCall(sock, 5, sends=True):
        flow.window = 5000
        flow.acknowledge()
    flow.expect("what was sent", lambda s: s.payload == bytes(5))
    same("what came before", receive(sock, 1), b"!")
    equal("consumed", one.consumed, 0)


@in_one_family("owned.end_of_the_stream", SCENARIO, NEEDS)
def end(lab: Lab) -> None:
    """A DATA_FIN that comes with the last data during a call ends the stream after them."""
    _, (one, two), sock = established(lab, joins=1)
    readable(one, sock)
    with StalledCall(sock, 1):
        two.send_fin(at=11)
        one.send_data(NEXT, at=6)
    same("the last data", receive(sock, 5), NEXT)
    at_end("the end of the stream", sock)
    one.expect_ack("an acknowledgement of the DATA_FIN", 12)


@in_one_family("owned.fastclose", SCENARIO, NEEDS)
def fastclose(lab: Lab) -> None:
    """After MP_FASTCLOSE arrived during a call, the next call fails with ECONNRESET."""
    since = mib.Since()
    one, (flow,), sock = established(lab, joins=0)
    readable(flow, sock)
    with StalledCall(sock, 1):
        flow.send(options=peer.fastclose(one.remote_key))
    sock.settimeout(5)
    equal("recv()", errno_of(sock.recv, 1), errno.ECONNRESET)
    counted(since, "MPFastcloseRx", 1)


@in_one_family("owned.subflow_ends", SCENARIO, NEEDS)
def subflow_ends(lab: Lab) -> None:
    """A subflow reset during a call is closed after it; its data are sent on another one."""
    one, (first, two), sock = established(lab, joins=1)
    sock.sendall(NEXT)
    wait_until(lambda: any(s.payload for flow in (first, two) for s in flow.received()))
    used, other = (first, two) if any(s.payload for s in first.received()) else (two, first)
    readable(other, sock)
    with StalledCall(sock, 1):
        used.send(wire.ACK | wire.RST)
    other.expect("the data on the other subflow", lambda s: s.payload == NEXT)
    one.consumed = 5
    other.acknowledge()
    other.send_data(b"more", at=6)
    same("data on the other subflow", receive(sock, 4), b"more")
