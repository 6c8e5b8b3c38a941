# SPDX-License-Identifier: GPL-2.0-only
"""What options do to the packets: TOS, segment size, window, corking; and MPTCP's own options."""

from __future__ import annotations

import _socket
import time

from guest import abi, wire
from guest.checks import equal, require, scenario_check
from guest.flow import content, exchange, read, same
from guest.lab import MPTCP, TCP
from guest.scenarios import Scenario, declare
from guest.setting import get_int, put, putting
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

    from guest.lab import Lab
    from guest.wire import Segment

SCENARIO = declare(Scenario("wire", waits=True)).name
NEEDS = ("packet_socket",)
TOS = 0x48
MSS = 600
#: TCP lets a partial segment go after 200 ms, corked or not: what took longer is tried again.
CORKED_S = 0.15
TRIES = 20
MSG_EOR = 0x80


@scenario_check(
    "ip_tos.is_on_the_wire",
    scenario=SCENARIO,
    needs=(*NEEDS, "ip_tos"),
    families=("ipv4",),
)
@each("before_connect", "on_the_listener", "connected")
def tos_on_the_wire(lab: Lab) -> None:
    """Every packet sent after IP_TOS was set has it, including the SYN and SYN/ACK."""
    capture = wire.Capture()
    set_tos = putting("IP_TOS", TOS)
    pair = lab.pair(
        before_connect=set_tos if lab.side == "before_connect" else None,
        before_bind=set_tos if lab.side == "on_the_listener" else None,
    )
    if lab.side == "connected":
        capture.forget()
        set_tos(pair.client)
        set_tos(pair.server)
    exchange(pair.client, pair.server, content(3000), content(3000))
    marked = {"before_connect": (pair.client,), "on_the_listener": (pair.server,)}
    for sock in marked.get(lab.side, (pair.client, pair.server)):
        segments = capture.sent_by(sock)
        require("packets captured", len(segments) > 0, "more than 0", 0)
        equal("TOS of the packets", sorted({s.tos for s in segments}), [TOS])


@scenario_check("ip_tos.of_a_new_socket_is_0", scenario=SCENARIO, needs=NEEDS)
def no_tos(lab: Lab) -> None:
    """Packets of sockets on which nothing was set have TOS 0 and a TTL of 64."""
    capture = wire.Capture()
    pair = lab.pair()
    exchange(pair.client, pair.server, content(3000), content(3000))
    for sock in (pair.client, pair.server):
        segments = capture.sent_by(sock)
        equal("TOS of the packets", sorted({s.tos for s in segments}), [0])
        equal("TTL of the packets", sorted({s.ttl for s in segments}), [64])


@scenario_check(
    "tcp_maxseg.is_announced",
    scenario=SCENARIO,
    needs=(*NEEDS, "tcp_maxseg"),
)
@each("client", "server")
def maxseg_is_announced(lab: Lab) -> None:
    """TCP_MAXSEG set beforehand is the SYN's MSS, and the peer sends no larger segments."""
    capture = wire.Capture()
    limit = putting("TCP_MAXSEG", MSS)
    at_server = lab.side == "server"
    pair = lab.pair(
        before_connect=None if at_server else limit, before_bind=limit if at_server else None
    )
    end, peer = (pair.server, pair.client) if at_server else (pair.client, pair.server)
    equal("the MSS in the SYN", capture.sent_by(end)[0].mss, MSS)
    require("TCP_MAXSEG of the peer", 0 < get_int(peer, "TCP_MAXSEG") <= MSS, "up to 600", "more")
    before = _data_segments(peer)
    exchange(peer, end, content(30 * MSS))
    sent = _data_segments(peer) - before
    require("segments of the peer for 30 times the MSS", sent >= 30, "30 or more", sent)


def _data_segments(sock: _socket.socket) -> int:
    """tcpi_data_segs_out of the first subflow."""
    data = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, abi.TCP_INFO_LAYOUT.size)
    return abi.TCP_INFO_LAYOUT.view(data).tcpi_data_segs_out


@scenario_check("so_rcvbuf.bounds_the_window", scenario=SCENARIO, needs=NEEDS)
@each("client", "server")
def rcvbuf_bounds_the_window(lab: Lab) -> None:
    """No announced window exceeds the SO_RCVBUF that was set beforehand."""
    capture = wire.Capture()
    little = putting("SO_RCVBUF", 20_000)
    at_server = lab.side == "server"
    pair = lab.pair(
        before_connect=None if at_server else little, before_bind=little if at_server else None
    )
    end, peer = (pair.server, pair.client) if at_server else (pair.client, pair.server)
    exchange(peer, end, content(60_000))
    segments = capture.sent_by(end)
    scale = segments[0].option(3)
    shift = scale[2] if scale is not None else 0
    most = max(s.window << (0 if s.has(wire.SYN) else shift) for s in segments)
    require("the largest window", most <= 40_000, "40000 at most", most)


def _payloads(segments: Sequence[Segment]) -> list[int]:
    """Sizes of the payloads; a segment that was sent again counts once."""
    sizes = {segment.seq: len(segment.payload) for segment in segments if segment.payload}
    return [sizes[seq] for seq in sorted(sizes)]


@scenario_check(
    "tcp_cork.holds_partial_segments",
    scenario=SCENARIO,
    needs=(*NEEDS, "tcp_cork_nodelay"),
)
@each("before_connect", "on_the_listener", "connected", "fallback")
def cork_holds(lab: Lab) -> None:
    """TCP_CORK holds a partial segment back; clearing it sends everything in one segment."""
    for _ in range(TRIES):
        capture = wire.Capture()
        end, peer = _prepared(lab, putting("TCP_CORK", 1))
        capture.forget()
        began = time.monotonic()
        for _ in range(3):
            end.sendall(b"x" * 100)
        put(end, "TCP_CORK", 0)
        took = time.monotonic() - began
        let_go = _payloads(capture.sent_by(end))
        same("what was corked", read(peer, 300), b"x" * 300)
        if took < CORKED_S:
            equal("segments once the cork was drawn", let_go, [300])
            return
    # So busy a machine shows nothing: TCP itself has let the segment go, each time.


@scenario_check("msg_eor.ends_a_segment", scenario=SCENARIO, needs=(*NEEDS, "tcp_cork_nodelay"))
def eor_ends_a_segment(lab: Lab) -> None:
    """Data sent after send(2) with MSG_EOR start a new segment."""
    for _ in range(TRIES):
        capture = wire.Capture()
        pair = lab.pair(before_connect=putting("TCP_CORK", 1))
        exchange(pair.server, pair.client, b"go on")
        capture.forget()
        began = time.monotonic()
        for flags in (0, MSG_EOR, 0):
            pair.client.send(b"x" * 100, flags)
        put(pair.client, "TCP_CORK", 0)
        took = time.monotonic() - began
        sent = _payloads(capture.sent_by(pair.client))
        same("what was corked", read(pair.server, 300), b"x" * 300)
        if took < CORKED_S:
            equal("segments once the cork was drawn", sent, [200, 100])
            return


def _prepared(
    lab: Lab, prepare: Callable[[_socket.socket], None]
) -> tuple[_socket.socket, _socket.socket]:
    """A connection prepared at the lab's phase, the end that has the option, and its peer."""
    phase = lab.side
    pair = lab.pair(
        server=TCP if phase == "fallback" else MPTCP,
        before_connect=prepare if phase in ("before_connect", "fallback") else None,
        before_bind=prepare if phase == "on_the_listener" else None,
    )
    if phase == "on_the_listener":
        return pair.server, pair.client
    if phase == "connected":
        prepare(pair.client)
    return pair.client, pair.server


@scenario_check(
    "tcp_nodelay.sends_at_once",
    scenario=SCENARIO,
    needs=(*NEEDS, "tcp_cork_nodelay"),
)
@each("before_connect", "on_the_listener", "connected", "fallback")
def nodelay_sends(lab: Lab) -> None:
    """With TCP_NODELAY each small send(2) is a segment, even if earlier ones are unacked."""
    capture = wire.Capture()
    end, peer = _prepared(lab, putting("TCP_NODELAY", 1))
    # An interactive peer delays its acknowledgements, which is what Nagle's algorithm waits for.
    for _ in range(4):
        exchange(end, peer, b"question")
        exchange(peer, end, b"answer")
    capture.forget()
    for _ in range(4):
        end.sendall(b"x" * 50)
    equal("segments", _payloads(capture.sent_by(end)), [50] * 4)
    same("the stream", read(peer, 200), b"x" * 200)
