# SPDX-License-Identifier: GPL-2.0-only
"""Data from a peer on the wire, in an order and with mappings and checksums that a check chooses.

The peer (:mod:`guest.peer`) is the client; the kernel's socket is the server.
"""

from __future__ import annotations

import _socket
import errno

from guest import mib, multipath, peer, wire
from guest.calls import POLLIN, SIOCINQ, Worker, errno_of, ioctl, poll
from guest.checks import Failed, equal, require, scenario_check
from guest.flow import at_end, content, same
from guest.lab import wait_until
from guest.peer import Flow, Peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

    from guest.checks import LabFunction
    from guest.lab import Lab
    from guest.wire import Segment

SCENARIO = "peer_data"
NEEDS = ("packet_socket",)
FIVE, NEXT = b"hello", b"world"
TCP_NODELAY = 1


def in_one_family(
    id: str, scenario: str, needs: Sequence[str], sides: Sequence[str] = ("both",)
) -> Callable[[LabFunction], LabFunction]:
    """As scenario_check, for what is the same in both families: the data path."""
    return scenario_check(id, scenario=scenario, needs=needs, sides=sides, families=("ipv4",))


def served(lab: Lab, delay_s: float = 0.0) -> tuple[Peer, Flow, _socket.socket]:
    """A peer, its first subflow, and the kernel's socket."""
    one = Peer(lab)
    one.delay_s = delay_s
    listener = lab.listener()
    flow = one.connect(listener)
    return one, flow, at_once(lab.accept(listener))


def at_once(sock: _socket.socket) -> _socket.socket:
    """``sock``, which sends small data at once: what is not acknowledged holds nothing back."""
    sock.setsockopt(_socket.IPPROTO_TCP, TCP_NODELAY, 1)
    return sock


def carrier(flows: Sequence[Flow], data: bytes) -> Flow:
    """The flow on which ``data`` came."""

    def look() -> Sequence[Flow]:
        return [flow for flow in flows if any(s.payload == data for s in flow.received())]

    found = wait_until(look, 10.0)
    if not found:
        raise Failed("data on some subflow", repr(data), "none")
    return found[0]


class Straying:
    """Data that must not go to ``flow`` first; a slow host's timers may send it again there."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._seen = len(flow.peer.capture.update())

    def first(self, flows: Sequence[Flow]) -> Segment:
        """The first data on one of ``flows``."""
        ports = {(one.remote[1], one.port) for one in flows}
        came = self._flow.peer.capture.update()[self._seen :]
        return next(s for s in came if s.payload and (s.sport, s.dport) in ports)

    def came(self, segment: Segment) -> bool:
        return (segment.sport, segment.dport) == (self._flow.remote[1], self._flow.port)

    def none(self) -> None:
        first = self.first(self._flow.peer.flows)
        equal("data first on the backup", self.came(first), False, first.payload)


def established(
    lab: Lab, joins: int = 1, delay_s: float = 0.0
) -> tuple[Peer, list[Flow], _socket.socket]:
    """The same with data on the first subflow, and ``joins`` more subflows. The stream is at 5."""
    one, flow, sock = served(lab, delay_s)
    flow.send_data(FIVE, at=0)
    same("the first data", receive(sock, 5), FIVE)
    flows = [flow, *(one.join(id) for id in range(3, 3 + joins))]
    multipath.subflows(sock, joins)
    return one, flows, sock


def receive(sock: _socket.socket, size: int) -> bytes:
    """``size`` bytes, or what came of them before the time was over."""
    came = b""
    try:
        while len(came) < size:
            part = sock.recv(size - len(came))
            if not part:
                break
            came += part
    except TimeoutError:
        pass
    return came


def received(sock: _socket.socket) -> int:
    """mptcpi_bytes_received; -1 where the kernel lacks it."""
    info = multipath.info(sock)
    return info.mptcpi_bytes_received if info.has("mptcpi_bytes_received") else -1


def counted(since: mib.Since, name: str, expected: int) -> None:
    """Wait until the counter ``name`` moved by ``expected``, where the kernel has it."""
    if name in since.start or not since.start:
        multipath.wait_for(name, lambda: since.of(name), expected)


def got_bytes(sock: _socket.socket, expected: int) -> None:
    if received(sock) != -1:
        multipath.wait_for("mptcpi_bytes_received", lambda: received(sock), expected)


@in_one_family("reorder.two_subflows", SCENARIO, NEEDS)
def reorder(lab: Lab) -> None:
    """Data out of order on two subflows are readable, counted and acked once the gap is filled."""
    since = mib.Since()
    _, (one, two), sock = established(lab)
    two.send_data(b"ccccc", at=15)
    two.send_data(b"bbbbb", at=10)
    two.expect_ack("a DATA_ACK before the gap is filled", 5)
    counted(since, "OFOQueue", 2)
    equal("POLLIN before the gap is filled", poll(sock) & POLLIN, 0)
    got_bytes(sock, 5)
    seen = one.seen()
    one.send_data(b"aaaaa", at=5)
    one.expect_ack("a DATA_ACK of all data", 20, seen)
    equal("SIOCINQ", ioctl(sock, SIOCINQ), 15)
    equal("POLLIN", poll(sock) & POLLIN, POLLIN)
    same("the stream", receive(sock, 15), b"aaaaabbbbbccccc")
    got_bytes(sock, 20)


@in_one_family("reorder.overlapping_segments", SCENARIO, NEEDS)
def overlapping(lab: Lab) -> None:
    """Overlapping segments out of order deliver each byte once; the rest are duplicates."""
    since = mib.Since()
    _, (one, two), sock = established(lab)
    data = content(60)
    for first, last in ((30, 40), (20, 25), (30, 36), (35, 45), (20, 28), (50, 60), (18, 47)):
        two.send_data(data[first:last], at=first)
    one.send_data(data[5:19], at=5)
    one.send_data(data[40:52], at=40)
    same("the stream", receive(sock, 55), data[5:])
    got_bytes(sock, 60)
    one.expect_ack("a DATA_ACK of all data", 60)
    require("DuplicateData", since.of("DuplicateData") > 0, "1 or more", since.of("DuplicateData"))


@in_one_family("duplicates.partial_repeat", SCENARIO, NEEDS)
def partial_repeat(lab: Lab) -> None:
    """Only the new bytes of a segment that repeats earlier ones are delivered."""
    _, (one, two), sock = established(lab)
    two.send_data(b"lo world", at=3)
    same("the new bytes", receive(sock, 6), b" world")
    one.send_data(b"world, again", at=6)
    same("the new bytes", receive(sock, 7), b", again")
    got_bytes(sock, 18)
    one.expect_ack("a DATA_ACK of all data", 18)


@in_one_family("duplicates.full_repeat", SCENARIO, NEEDS)
def full_repeat(lab: Lab) -> None:
    """A repeated segment is acknowledged and counted as a duplicate, not delivered."""
    since = mib.Since()
    _, (_, two), sock = established(lab)
    two.send_data(FIVE, at=0)
    counted(since, "DuplicateData", 1)
    equal("RcvPruned", since.of("RcvPruned"), 0)
    equal("POLLIN", poll(sock) & POLLIN, 0)
    two.send_data(NEXT, at=5)
    same("the new bytes", receive(sock, 5), NEXT)
    got_bytes(sock, 10)
    two.expect_ack("a DATA_ACK of all data", 10)


@in_one_family("window.data_beyond_is_dropped", SCENARIO, NEEDS)
def beyond_window(lab: Lab) -> None:
    """Data beyond the window are dropped and counted, and can be sent again."""
    since = mib.Since()
    _, (one, two), sock = established(lab)
    two.send_data(NEXT, at=1 << 28)
    counted(since, "NoDSSInWindow", 1)
    equal("OFOQueue", since.of("OFOQueue"), 0)
    one.send_data(NEXT, at=5)
    same("data within the window", receive(sock, 5), NEXT)


@in_one_family("data_fin.before_the_data", SCENARIO, NEEDS)
def fin_before_data(lab: Lab) -> None:
    """A DATA_FIN that arrives before missing data ends the stream once they arrive."""
    _, (one, two), sock = established(lab)
    two.send_fin(at=10)
    equal("POLLIN before the data", poll(sock) & POLLIN, 0)
    seen = one.seen()
    one.send_data(NEXT, at=5)
    same("the data", receive(sock, 5), NEXT)
    at_end("the end of the stream", sock)
    one.expect_ack("an acknowledgement of the DATA_FIN", 11, seen)


@in_one_family("data_fin.with_data", SCENARIO, NEEDS)
def fin_with_data(lab: Lab) -> None:
    """A DATA_FIN in the mapping of the last data ends the stream after them; 11 is acked."""
    _, (one, two), sock = established(lab)
    two.send_data(NEXT, at=5, fin=True)
    same("the data", receive(sock, 5), NEXT)
    at_end("the end of the stream", sock)
    two.expect_ack("an acknowledgement of the DATA_FIN", 11)
    sock.sendall(b"the other way")
    carrier((one, two), b"the other way")


@in_one_family("data_fin.out_of_order_with_data", SCENARIO, NEEDS)
def fin_out_of_order(lab: Lab) -> None:
    """Data with a DATA_FIN that arrive out of order end the stream after all data."""
    _, (one, two), sock = established(lab)
    two.send_data(b"tail", at=10, fin=True)
    one.send_data(NEXT, at=5)
    same("the data", receive(sock, 9), NEXT + b"tail")
    at_end("the end of the stream", sock)
    one.expect_ack("an acknowledgement of the DATA_FIN", 15)


@in_one_family("dss.one_mapping_of_many_segments", SCENARIO, NEEDS)
def long_mapping(lab: Lab) -> None:
    """One mapping covers several segments, which need no option of their own."""
    _, (one,), sock = established(lab, joins=0)
    data = content(40)
    one.send_data(data[:10], at=5, length=40)
    for at in (10, 20, 30):
        one.send(wire.ACK | wire.PSH, payload=data[at : at + 10])
    same("the stream", receive(sock, 40), data)
    one.expect_ack("a DATA_ACK of all data", 45)


@in_one_family("dss.numbers_of_32_bits", SCENARIO, NEEDS)
def short_numbers(lab: Lab) -> None:
    """Mappings, DATA_FIN and DATA_ACK of 32 bits are understood, and answered with 32 bits."""
    one, (flow,), sock = established(lab, joins=0)
    for at, data, fin in ((5, NEXT, 0), (10, b"short", 1)):
        body = (one.data_ack % 2**32).to_bytes(4, "big") + (one.seq(at) % 2**32).to_bytes(4, "big")
        body += ((flow.seq - flow.isn) % 2**32).to_bytes(4, "big") + (len(data) + fin).to_bytes(
            2, "big"
        )
        flags = wire.DSS_ACK | wire.DSS_MAP | (wire.DSS_FIN if fin else 0)
        flow.send(wire.ACK | wire.PSH, peer.option(wire.DSS, 0, bytes([flags]), body), data)
        same("data of a short mapping", receive(sock, 5), data)
    at_end("the end of the stream", sock)
    short = one.seq(16) % 2**32
    flow.expect("a DATA_ACK of 32 bits", lambda s: s.dss and s.dss.ack == short)


@in_one_family("dss.without_mapping_resets", SCENARIO, NEEDS)
def without_mapping(lab: Lab) -> None:
    """Data without a mapping reset a joined subflow: MP_TCPRST, reason 6; the others still work."""
    _, (one, two), sock = established(lab)
    two.send(wire.ACK | wire.PSH, payload=b"unmapped")
    answer = two.expect("a reset", lambda s: s.has(wire.RST))
    reason = (answer.mptcp(wire.MP_TCPRST) or b"")[3:]
    # Older kernels say 1, a specific error of MPTCP.
    require("MP_TCPRST", reason in (b"\x06", b"\x01"), "reason 6, a middlebox", reason.hex())
    one.send_data(NEXT, at=5)
    same("data on the other subflow", receive(sock, 5), NEXT)


@in_one_family("dss.wrong_subflow_sequence_resets", SCENARIO, NEEDS)
def wrong_subflow_sequence(lab: Lab) -> None:
    """A mapping whose subflow sequence number is not that of its segment resets the subflow."""
    since = mib.Since()
    one, (first, two), sock = established(lab)
    wrong = peer.dss(one.data_ack, one.seq(5), 1000, 5)
    two.send(wire.ACK | wire.PSH, wrong, NEXT)
    answer = two.expect("a reset", lambda s: s.has(wire.RST))
    equal("MP_TCPRST", (answer.mptcp(wire.MP_TCPRST) or b"")[3:], b"\x01")
    counted(since, "DSSNoMatchTCP", 1)
    counted(since, "MPRstTx", 1)
    first.send_data(NEXT, at=5)
    same("data on the other subflow", receive(sock, 5), NEXT)


@in_one_family("dss.other_mapping_within_one_resets", SCENARIO, NEEDS)
def other_mapping(lab: Lab) -> None:
    """A second, different mapping of the same bytes resets a joined subflow."""
    since = mib.Since()
    one, (first, two), sock = established(lab)
    two.send_data(NEXT, at=5, length=20)
    same("the first data", receive(sock, 5), NEXT)
    two.send(wire.ACK | wire.PSH, peer.dss(one.data_ack, one.seq(30), 6, 5), NEXT)
    two.expect("a reset", lambda s: s.has(wire.RST))
    counted(since, "DSSNotMatching", 1)
    first.send_data(NEXT, at=10)
    same("data on the other subflow", receive(sock, 5), NEXT)


@in_one_family("infinite_mapping.falls_back", SCENARIO, NEEDS)
def infinite_mapping(lab: Lab) -> None:
    """An infinite mapping on the only subflow makes both directions fall back to TCP."""
    since = mib.Since()
    one, (flow,), sock = established(lab, joins=0)
    flow.send(wire.ACK | wire.PSH, peer.dss(one.data_ack, one.seq(5), 6, 0), NEXT)
    same("data of the infinite mapping", receive(sock, 5), NEXT)
    counted(since, "InfiniteMapRx", 1)
    flow.send(wire.ACK | wire.PSH, payload=b"as TCP")
    same("data without a mapping", receive(sock, 6), b"as TCP")
    seen = flow.seen()
    sock.sendall(b"answer")
    answer = flow.expect("an answer", lambda s: s.payload == b"answer", seen)
    equal("options of MPTCP in it", answer.option(wire.OPTION_MPTCP), None)
    flow.acknowledge()
    late, nonce = one.start_join(4)
    late.send(options=one.third(nonce, late.expect_option("MP_JOIN", wire.MP_JOIN)))
    late.expect("a reset of a join after the fallback", lambda s: s.has(wire.RST))
    flow.send(wire.ACK | wire.FIN)
    at_end("the end of the stream", sock)


@in_one_family("dss.first_data_without_mapping_falls_back", SCENARIO, NEEDS)
def first_without_mapping(lab: Lab) -> None:
    """If the first data have no MPTCP option, the connection falls back in both directions."""
    since = mib.Since()
    _, flow, sock = served(lab)
    flow.send(wire.ACK | wire.PSH, payload=FIVE)
    same("data without a mapping", receive(sock, 5), FIVE)
    counted(since, "DssFallback", 1)
    sock.sendall(b"answer")
    answer = flow.expect("an answer", lambda s: s.payload == b"answer")
    equal("options of MPTCP in it", answer.option(wire.OPTION_MPTCP), None)


@in_one_family("dss.ack_of_unsent_is_ignored", SCENARIO, (*NEEDS, "mptcp_info"))
def unsent_ack(lab: Lab) -> None:
    """A DATA_ACK beyond the sent data is ignored; a correct one is not."""
    one, (flow,), sock = established(lab, joins=0)
    start = multipath.info(sock).mptcpi_snd_una
    sock.sendall(NEXT)
    flow.expect("data", lambda s: s.payload == NEXT)
    one.consumed = 1000
    flow.acknowledge()
    equal("mptcpi_snd_una", multipath.info(sock).mptcpi_snd_una, start)
    one.consumed = 5
    flow.acknowledge()
    multipath.wait_for("mptcpi_snd_una", multipath.field(sock, "mptcpi_snd_una"), start + 5)


@in_one_family("mp_fastclose.ends_calls", SCENARIO, NEEDS, ("ack", "reset", "wrong_key"))
def fastclose(lab: Lab) -> None:
    """MP_FASTCLOSE with the right key ends recv(2) with ECONNRESET, on an ACK or a reset."""
    since = mib.Since()
    one, (flow, two), sock = established(lab)
    waiting = None
    if lab.side != "wrong_key":
        sock.settimeout(None)
        waiting = Worker(lambda: errno_of(sock.recv, 1))
        waiting.wait_blocked()
    key = one.remote_key if lab.side != "wrong_key" else b"wrongkey"
    flow.send(wire.ACK | (wire.RST if lab.side == "reset" else 0), peer.fastclose(key))
    if lab.side == "wrong_key":
        flow.send_data(NEXT, at=5)
        same("data after a wrong key", receive(sock, 5), NEXT)
        equal("MPFastcloseRx", since.of("MPFastcloseRx"), 0)
        return
    counted(since, "MPFastcloseRx", 1)
    two.expect("a reset of the other subflow", lambda s: s.has(wire.RST))
    equal("recv()", waiting and waiting.result(), errno.ECONNRESET)
    equal("recv() again", errno_of(sock.recv, 1), 0)
