# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel sends to a peer on the wire that acknowledges late, elsewhere or not at all."""

from __future__ import annotations

import _socket

from guest import mib, multipath, wire
from guest.calls import POLLHUP, POLLIN, POLLRDHUP, has_events
from guest.checks import equal, require
from guest.checks.peer_data import (
    FIVE,
    NEXT,
    Straying,
    carrier,
    counted,
    established,
    in_one_family,
    receive,
)
from guest.checks.peer_joins import with_backup_endpoint
from guest.checks.peer_signals import checked, clean
from guest.flow import content, same
from guest.keys import dss_checksum, first_seq
from guest.lab import wait_until, write_sysctl
from guest.peer import Flow, Peer, priority
from guest.scenarios import Scenario, declare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

    from guest.lab import Lab
    from guest.wire import Segment

SCENARIO = declare(Scenario("peer_sends", waits=True)).name
NEEDS = ("packet_socket",)
STATS = (*NEEDS, "packet_stats")
WITH_PM = (*NEEDS, "userspace_pm", "inet_diag")
#: A host that is slow may let a timer expire before what is checked can be seen: seconds by which
#: the timers of each try are longer.
DELAYS_S = (0.0, 0.3, 1.0, 1.0, 1.0)


def payloads(flow: Flow, since: int = 0) -> Sequence[Segment]:
    return [s for s in flow.received()[since:] if s.payload]


def sent(flow: Flow) -> int:
    """How many bytes came on ``flow``, each once."""
    found = payloads(flow)
    return max([(s.seq + len(s.payload) - found[0].seq) % 2**32 for s in found], default=0)


@in_one_family("retransmission.of_unacked_data", SCENARIO, STATS)
def unacked_data(lab: Lab) -> None:
    """Data acknowledged by TCP but not by DATA_ACK are retransmitted, and counted so."""
    one, flows, sock = established(lab, joins=1)
    since = mib.Since()
    sock.sendall(NEXT)
    first = carrier(flows, NEXT)
    counts = [flow.seen() for flow in flows]
    first.acknowledge()

    def again() -> bool:
        return any(payloads(flow, count) for flow, count in zip(flows, counts))

    equal("the data once more", wait_until(again, 20.0), True)
    multipath.wait_for(
        "mptcpi_bytes_retrans is 5 or more",
        lambda: multipath.info(sock).mptcpi_bytes_retrans >= 5,
        True,
    )
    equal("mptcpi_bytes_sent", multipath.info(sock).mptcpi_bytes_sent, 5)
    require("MPTCPRetrans", since.of("MPTCPRetrans") > 0, "1 or more", since.of("MPTCPRetrans"))
    info = multipath.info(sock)
    equal("mptcpi_bytes_acked", info.mptcpi_bytes_acked, 0)
    behind = (info.mptcpi_write_seq - info.mptcpi_snd_una) % 2**64
    equal("mptcpi_snd_una is behind mptcpi_write_seq", behind, 5)
    one.consumed = 5
    for flow in flows:
        flow.acknowledge()
    multipath.wait_for("mptcpi_bytes_acked", multipath.field(sock, "mptcpi_bytes_acked"), 5)


@in_one_family("retransmission.spares_a_backup", SCENARIO, WITH_PM)
def spares_backup(lab: Lab) -> None:
    """Data are retransmitted on a subflow that this side did not flag as backup."""
    chosen = False
    for delay_s in DELAYS_S:
        one, flow, sock, address = with_backup_endpoint(lab, delay_s)
        backup = one.join(3, remote=(address, flow.remote[1]))
        multipath.subflows(sock, 1)
        straying = Straying(backup)
        sock.sendall(NEXT)
        flow.expect("data", lambda s: s.payload == NEXT)
        one.delay_s = 0.0
        other = one.join(4)
        joined = len(one.capture.update())
        carrier([backup, other], NEXT)
        first = straying.first([backup, other])
        if not straying.came(first):
            return
        # Before the join, which a slow host delays, there is no other choice.
        chosen = chosen or one.capture.update().index(first) >= joined
    require("the data again, first", not chosen, "on the other subflow", "on the backup")


@in_one_family("retransmission.of_the_data_fin", SCENARIO, STATS)
def unacked_fin(lab: Lab) -> None:
    """An unacknowledged DATA_FIN is retransmitted, and mptcpi_retransmits counts it."""
    one, (flow,), sock = established(lab, joins=0)
    sock.shutdown(_socket.SHUT_WR)

    def fins() -> int:
        return sum(bool(s.dss and s.dss.fin) for s in flow.received())

    equal("a DATA_FIN three times", wait_until(lambda: fins() >= 3, 20.0), True)
    multipath.wait_for(
        "mptcpi_retransmits is 1 or more",
        lambda: multipath.info(sock).mptcpi_retransmits >= 1,
        True,
    )
    one.consumed = 1
    flow.acknowledge()
    before = fins()
    flow.send_data(NEXT, at=5)
    same("data after that", receive(sock, 5), NEXT)
    require("DATA_FINs once acked", fins() <= before + 1, "at most %d" % (before + 1), fins())


@in_one_family("reinjection.when_a_subflow_ends", SCENARIO, NEEDS)
def when_a_subflow_ends(lab: Lab) -> None:
    """Data in flight on a closed subflow are sent on another at once, without a timer."""
    seen: object = None
    for delay_s in DELAYS_S:
        _, flows, sock = established(lab, joins=1, delay_s=delay_s)
        since = mib.Since()
        sock.sendall(NEXT)
        first = carrier(flows, NEXT)
        other = flows[0] if first is flows[1] else flows[1]
        first.send(wire.ACK | wire.RST)
        other.expect("the data on the other subflow", lambda s: s.payload == NEXT)
        seen = since.of("MPTCPRetrans")
        if seen == 0:
            return
    equal("MPTCPRetrans", seen, 0)


@in_one_family("checksums.of_data_sent_again", SCENARIO, WITH_PM)
def of_data_sent_again(lab: Lab) -> None:
    """A retransmission of partly acknowledged data has the checksum of the retransmitted bytes."""
    one, flows, sock = checked(lab, joins=1)
    data = content(10)
    sock.sendall(data)
    first = carrier(flows, data)
    other = flows[0] if first is flows[1] else flows[1]
    one.consumed = 4
    first.acknowledge()
    first.send(wire.ACK | wire.RST)
    found = other.expect("the data on the other subflow", lambda s: s.payload)
    dss = found.dss
    right = None
    if dss and dss.seq is not None:
        length = dss.length or 0
        right = dss_checksum(dss.seq, dss.subflow_seq or 0, length, found.payload[:length])
        at = (dss.seq - first_seq(one.remote_key)) % 2**64
        same("the data", found.payload, data[at : at + length])
    equal("checksum", dss and dss.checksum, right)


def narrow(lab: Lab, delay_s: float) -> tuple[Flow, _socket.socket]:
    """A connection to a peer with a window of 1000 bytes."""
    one = Peer(lab)
    one.delay_s = delay_s
    one.window = 1000
    listener = lab.listener()
    flow = one.connect(listener)
    sock = lab.accept(listener)
    flow.send_data(FIVE, at=0)
    same("the first data", receive(sock, 5), FIVE)
    return flow, sock


@in_one_family("window.update_lets_data_go", SCENARIO, NEEDS)
def window_update(lab: Lab) -> None:
    """Data held back by the peer's window are sent at once when it opens, without a probe."""
    seen: object = None
    for delay_s in DELAYS_S:
        flow, sock = narrow(lab, delay_s)
        sock.sendall(content(3000))
        wait_until(lambda: sent(flow) >= 1000)  # noqa: B023
        equal("bytes within the window", sent(flow), 1000)
        since = mib.Since()
        flow.window = 5000
        flow.acknowledge()
        wait_until(lambda: sent(flow) >= 3000, 10.0)  # noqa: B023
        equal("bytes within the larger window", sent(flow), 3000)
        seen = {name: since.of(name) for name in ("WinProbe", "MPTCPRetrans")}
        if not any(since.of(name) for name in ("WinProbe", "MPTCPRetrans")):
            return
    equal("counters that moved", seen, {"WinProbe": 0, "MPTCPRetrans": 0})


@in_one_family("add_addr.echo_leaves_the_mapping_of_data", SCENARIO, WITH_PM)
def echo_beside_data(lab: Lab) -> None:
    """Data sent while an echo of ADD_ADDR is due have their mapping."""
    bench = clean(lab)
    bench.pm.set_limits(0, 4)  # no address is accepted, so that the echo is due at once
    flow, sock = narrow(lab, 0.0)
    sock.sendall(content(1500))
    wait_until(lambda: sent(flow) >= 1000)
    seen = flow.seen()
    flow.window = 5000
    flow.acknowledge(flow.peer.add_addr(6, bench.client_address(3)))
    wait_until(lambda: sent(flow) >= 1500)
    unmapped = [s.seq for s in payloads(flow, seen) if not (s.dss and s.dss.length)]
    equal("segments of data without a mapping", len(unmapped), 0)


def small_buffer(lab: Lab) -> tuple[Flow, _socket.socket]:
    """A connection whose kernel receives with an SO_RCVBUF of 8192."""

    def small(sock: _socket.socket) -> None:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, 8192)

    listener = lab.listener(before=small)
    flow = Peer(lab).connect(listener)
    return flow, lab.accept(listener)


@in_one_family("window.opens_when_the_data_are_read", SCENARIO, NEEDS)
def opens_when_read(lab: Lab) -> None:
    """A receiver whose buffer was full announces a window again once the data are read."""
    flow, sock = small_buffer(lab)
    at, window = 0, 1000
    while window >= 1000 and at < 60000:
        seen = flow.seen()
        flow.send_data(bytes(1000), at)
        at += 1000
        window = flow.expect_ack("a DATA_ACK", at, seen).window
    seen = flow.seen()
    same("the data", receive(sock, at), bytes(at))
    flow.expect("a window of 1000 bytes or more", lambda s: s.window >= 1000, seen)


@in_one_family("window.is_probed_once_all_is_acked", SCENARIO, STATS)
def window_probe(lab: Lab) -> None:
    """With a window of 0 and all data acknowledged, new data make MPTCP probe the window."""
    flow, sock = narrow(lab, 0.0)
    sock.sendall(content(1000))
    wait_until(lambda: sent(flow) >= 1000)
    flow.peer.consumed = 1000
    flow.window = 0
    flow.acknowledge()
    multipath.wait_for("mptcpi_bytes_acked", multipath.field(sock, "mptcpi_bytes_acked"), 1000)
    since = mib.Since()
    sock.sendall(NEXT)
    counted(since, "WinProbe", 1)
    flow.window = 1000
    flow.acknowledge()
    flow.expect("the byte of the probe", lambda s: s.payload == NEXT[:1])
    flow.peer.consumed = 1001
    flow.acknowledge()
    # The probe's byte does not count as sent.
    flow.expect("the data once the window is open", lambda s: s.payload == NEXT)


def await_stale(since: mib.Since, count: int, other: Flow) -> None:
    """Wait until SubflowStale is ``count``, and acknowledge in TCP all that arrives on ``other``.

    Otherwise the kernel counts losses of ``other`` too, and a subflow becomes stale only if a
    better one exists.
    """
    seen = [0]

    def stale() -> int:
        if other.seen() > seen[0]:
            seen[0] = other.seen()
            other.acknowledge()
        return since.of("SubflowStale")

    multipath.wait_for("SubflowStale", stale, count, 30.0)


@in_one_family("stale.subflow_is_left_and_recovers", SCENARIO, NEEDS)
def stale(lab: Lab) -> None:
    """After net.mptcp.stale_loss_cnt losses a subflow carries no data until it acks again."""
    # The better subflow has less than 2 losses then (mptcp_pm_nl_subflow_chk_stale()): it may have
    # one, if this process was slow to acknowledge.
    write_sysctl("net.mptcp.stale_loss_cnt", "3")
    lab.afterwards(lambda: write_sysctl("net.mptcp.stale_loss_cnt", "4"))
    one, flows, sock = established(lab, joins=1)
    since = mib.Since()
    sock.sendall(NEXT)
    lost = carrier(flows, NEXT)
    other = flows[0] if lost is flows[1] else flows[1]
    await_stale(since, 1, other)
    other.expect("the data on the other subflow", lambda s: s.payload == NEXT)
    one.consumed = 5
    other.acknowledge()
    seen, before = other.seen(), lost.seen()
    sock.sendall(b"later")
    other.expect("later data on the other subflow", lambda s: s.payload == b"later", seen)
    equal(
        "later data on the stale one",
        [s for s in payloads(lost, before) if s.payload == b"later"],
        [],
    )
    one.consumed = 10
    other.acknowledge()
    lost.acknowledge()
    sock.sendall(b"last")
    carrier(flows, b"last")
    counted(since, "SubflowRecover", 1)
    one.consumed = 14
    lost.acknowledge()
    other.acknowledge(priority(backup=True))
    sock.sendall(b"lost again")
    lost.expect("data on the subflow that recovered", lambda s: s.payload == b"lost again")
    await_stale(since, 2, other)


@in_one_family("stale.never_with_a_count_of_zero", SCENARIO, NEEDS)
def never_stale(lab: Lab) -> None:
    """With net.mptcp.stale_loss_cnt=0 no subflow becomes stale; the other carries the data too."""
    write_sysctl("net.mptcp.stale_loss_cnt", "0")
    lab.afterwards(lambda: write_sysctl("net.mptcp.stale_loss_cnt", "4"))
    _, flows, sock = established(lab, joins=1)
    since = mib.Since()
    sock.sendall(NEXT)
    lost = carrier(flows, NEXT)
    other = flows[0] if lost is flows[1] else flows[1]
    for _ in range(2):
        seen = other.seen()
        other.expect("the data on the other subflow", lambda s: s.payload == NEXT, seen)
        other.acknowledge()  # on this subflow alone: it is the one that works
    equal("SubflowStale", since.of("SubflowStale"), 0)


@in_one_family("data_fin.simultaneous", SCENARIO, NEEDS, ("ack_last", "fin_last"))
def simultaneous(lab: Lab) -> None:
    """If both ends close, TCP's FINs are sent only once both DATA_FINs are acknowledged."""
    one, (flow,), sock = established(lab, joins=0)
    sock.shutdown(_socket.SHUT_WR)
    flow.expect("a DATA_FIN", lambda s: s.dss and s.dss.fin)
    if lab.side == "ack_last":
        flow.send_fin(at=5)
    one.consumed = 1
    if lab.side == "ack_last":
        flow.expect_ack("an acknowledgement of the DATA_FIN", 6)
    equal("FINs before", [s for s in flow.received() if s.has(wire.FIN)], [])
    flow.acknowledge()
    if lab.side == "fin_last":
        flow.send_data(NEXT, at=5)
        same("data after the DATA_FIN", receive(sock, 5), NEXT)
        equal("FINs before", [s for s in flow.received() if s.has(wire.FIN)], [])
        flow.send_fin(at=10)
    flow.expect("a FIN", lambda s: s.has(wire.FIN))
    equal("the end", receive(sock, 1), b"")
    has_events("after both ends", sock, POLLHUP | POLLRDHUP | POLLIN)
