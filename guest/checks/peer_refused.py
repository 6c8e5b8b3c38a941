# SPDX-License-Identifier: GPL-2.0-only
"""Segments of a peer on the wire that the kernel drops or refuses, each with its counter."""

from __future__ import annotations

from guest import mib, multipath, peer, pm, wire
from guest.checks import equal, require
from guest.checks.binding import FOREIGN
from guest.checks.peer_data import FIVE, counted, established, in_one_family, receive
from guest.checks.peer_joins import PROHIBITED, with_reason
from guest.checks.peer_owned import readable
from guest.checks.peer_sends import small_buffer
from guest.checks.peer_serves import connected
from guest.checks.peer_signals import clean
from guest.flow import content, same
from guest.lab import write_sysctl
from guest.stall import StalledCall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab

SCENARIO = "peer_refused"
NEEDS = ("packet_socket", "userspace_pm", "inet_diag")


@in_one_family("drops.addresses_while_one_is_handled", SCENARIO, (*NEEDS, "userfaultfd"))
def addresses_while_one_is_handled(lab: Lab) -> None:
    """During a call one ADD_ADDR and one RM_ADDR are queued; others are dropped and counted."""
    bench = clean(lab)
    one, (flow, *_), sock = established(lab, joins=2)
    since = mib.Since()
    readable(flow, sock)
    with StalledCall(sock, 1):
        for id in (6, 7):
            flow.send(options=one.add_addr(id, bench.client_address(id)))
        for id in (3, 4):
            flow.acknowledge(peer.remove_addr(id))
        counted(since, "AddAddrDrop", 1)
        counted(since, "RmAddrDrop", 1)
    multipath.subflows(sock, 1)
    equal("AddAddr", since.of("AddAddr"), 2)
    flow.send_data(FIVE, at=6)
    same("data afterwards", receive(sock, 5), FIVE)


@in_one_family("drops.echoes_while_one_is_due", SCENARIO, (*NEEDS, "userfaultfd"))
def echoes_while_one_is_due(lab: Lab) -> None:
    """While an echo waits for the end of a call, another address's echo is dropped and counted."""
    bench = clean(lab)
    bench.pm.set_limits(0, 4)
    one, (flow,), sock = established(lab, joins=0)
    since = mib.Since()
    readable(flow, sock)
    with StalledCall(sock, 1):
        for id in (6, 7):
            flow.send(options=one.add_addr(id, bench.client_address(id)))
        counted(since, "AddAddr", 2)
    counted(since, "EchoAddTxDrop", 1)
    counted(since, "EchoAddTx", 1)
    echo = flow.expect_option("an echo", wire.ADD_ADDR)
    equal("id of the echo", echo[3], 6, echo)


@in_one_family("add_addr.unreachable_is_counted", SCENARIO, NEEDS)
def unreachable(lab: Lab) -> None:
    """An announced address without a route gets no subflow; the error is counted."""
    clean(lab)
    since = mib.Since()
    one, flow, sock = connected(lab)
    flow.send(options=one.add_addr(6, FOREIGN[lab.family]))
    counted(since, "MPJoinSynTxConnectErr", 1)
    flow.expect_option("an echo", wire.ADD_ADDR)
    multipath.subflows(sock, 0)
    flow.send_data(FIVE, at=5)
    same("data afterwards", receive(sock, 5), FIVE)


@in_one_family("join.port_withdrawn_during_the_handshake", SCENARIO, NEEDS)
def port_withdrawn(lab: Lab) -> None:
    """A join to an announced port is reset if the address is withdrawn before the third segment."""
    bench = clean(lab)
    write_sysctl("net.mptcp.pm_type", str(pm.IN_USER_SPACE))
    lab.afterwards(lambda: write_sysctl("net.mptcp.pm_type", str(pm.IN_KERNEL)))
    one, (first,), sock = established(lab, joins=0)
    port = lab.listener().getsockname()[1]
    bench.pm.announce(one.token, lab.address, 9, port=port)
    flow, nonce = one.start_join(3, remote=(lab.address, port))
    answer = flow.expect_option("MP_JOIN in the SYN/ACK", wire.MP_JOIN)
    bench.pm.remove(one.token, 9)
    since = mib.Since()
    flow.send(options=one.third(nonce, answer))
    refusal = flow.expect("a reset", lambda s: s.has(wire.RST))
    if refusal.mptcp(wire.MP_TCPRST) or "DssFallback" in since.start:  # 6.1 gives no reason
        with_reason(refusal, PROHIBITED)
    counted(since, "MismatchPortAckRx", 1)
    first.send_data(FIVE, at=5)
    same("data on the first subflow", receive(sock, 5), FIVE)


@in_one_family("join.of_another_size_is_none", SCENARIO, NEEDS, ("16", "24"))
def of_another_size(lab: Lab) -> None:
    """A SYN whose MP_JOIN has the size of a later segment's is treated as a plain TCP SYN."""
    one, _, sock = established(lab, joins=0)
    size = int(lab.side) - 4
    flow = one.start(lab.listener(), peer.option(wire.MP_JOIN, 0, b"\3", bytes(size)))
    answer = flow.expect("a SYN/ACK", lambda s: s.has(wire.SYN))
    equal("options of MPTCP in it", answer.option(wire.OPTION_MPTCP), None)
    equal("mptcpi_subflows", multipath.info(sock).mptcpi_subflows, 0)


@in_one_family("join.forbids_a_later_fallback", SCENARIO, NEEDS)
def forbids_a_later_fallback(lab: Lab) -> None:
    """After a join, data without a mapping reset the first subflow; the other still works."""
    _, (first, two), sock = established(lab, joins=1)
    first.send(wire.ACK | wire.PSH, payload=b"unmapped")
    first.expect("a reset", lambda s: s.has(wire.RST))
    two.send_data(FIVE, at=5)
    same("data on the other subflow", receive(sock, 5), FIVE)


@in_one_family("reorder.more_than_the_buffer_holds", SCENARIO, NEEDS)
def more_than_the_buffer_holds(lab: Lab) -> None:
    """Data out of order that exceed SO_RCVBUF are pruned and counted, and can be sent again."""
    since = mib.Since()
    flow, sock = small_buffer(lab)
    flow.send_data(FIVE, at=0)
    same("the first data", receive(sock, 5), FIVE)
    two = flow.peer.join(3)
    sent = content(400)
    for at in range(7, 400, 4):
        two.send_data(sent[at : at + 2], at)
    for at in range(5, 400, 50):
        flow.send_data(sent[at : at + 50], at)
    same("the stream", receive(sock, 395), sent[5:])
    pruned = since.of("OFOPruned")
    require("OFOPruned", "OFOPruned" not in since.start or pruned > 0, "1 or more", pruned)
