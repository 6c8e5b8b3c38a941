# SPDX-License-Identifier: GPL-2.0-only
"""Joins that a peer on the wire makes, or answers, rightly and wrongly (RFC 8684, 3.2).

The peer (:mod:`guest.peer`) connects to the kernel's listener; what the kernel has to say of joins
is in its segments, in its counters and in MPTCP_INFO.
"""

from __future__ import annotations

import _socket

from guest import diag, mib, multipath, peer, pm, wire
from guest.checks import equal, scenario_check
from guest.checks.peer_data import FIVE, NEXT, Straying, counted, established, receive, served
from guest.flow import same
from guest.lab import MPTCP, write_sysctl
from guest.peer import Flow, Peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab
    from guest.wire import Segment

SCENARIO = "peer_joins"
NEEDS = ("packet_socket",)
WITH_PM = (*NEEDS, "userspace_pm", "inet_diag")
#: Reasons of MP_TCPRST (RFC 8684, 3.6).
MPTCP_SPECIFIC, PROHIBITED = 1, 3


def reset_of(flow: Flow, what: str) -> Segment:
    return flow.expect("a reset of " + what, lambda s: s.has(wire.RST))


def with_reason(segment: Segment, reason: int) -> None:
    found = segment.mptcp(wire.MP_TCPRST)
    equal("reason of the reset", found[3] if found else "no MP_TCPRST", reason)


@scenario_check("join.unknown_token_is_reset", scenario=SCENARIO, needs=NEEDS)
def unknown_token(lab: Lab) -> None:
    """A join with an unknown token is reset and counted."""
    since = mib.Since()
    one, _, _ = established(lab, joins=0)
    flow, _ = one.start_join(3, token=one.token ^ 1)
    with_reason(reset_of(flow, "an unknown token"), MPTCP_SPECIFIC)
    counted(since, "MPJoinNoTokenFound", 1)
    equal("MPJoinSynRx", since.of("MPJoinSynRx"), 1)


@scenario_check("join.answer_is_authentic", scenario=SCENARIO, needs=NEEDS)
def answer_is_authentic(lab: Lab) -> None:
    """The SYN/ACK of a join has the HMAC of both nonces, id 0 of the initial address, no backup."""
    one, _, _ = established(lab, joins=0)
    flow, nonce = one.start_join(3)
    answer = flow.expect_option("MP_JOIN in the SYN/ACK", wire.MP_JOIN)
    equal("size of MP_JOIN", len(answer), 16, answer)
    equal("backup", answer[2] & peer.BACKUP, 0, answer)
    equal("address id", answer[3], 0, answer)
    equal("HMAC", answer[4:12], one.hmac_of_answer(nonce, answer), answer)
    flow.send(options=one.third(nonce, answer))
    again = flow.seen()
    flow.send(options=one.third(nonce, answer), seq=flow.seq)
    flow.expect("an ACK of a third segment that came again", lambda s: s.has(wire.ACK), again)


@scenario_check(
    "join.third_segment_is_checked", scenario=SCENARIO, needs=NEEDS, sides=("hmac", "option")
)
def third_segment(lab: Lab) -> None:
    """A join whose third segment has a wrong HMAC, or no MP_JOIN, is reset and counted."""
    since = mib.Since()
    one, (first,), sock = established(lab, joins=0)
    flow, _ = one.start_join(3)
    answer = flow.expect_option("MP_JOIN in the SYN/ACK", wire.MP_JOIN)
    if lab.side == "hmac":
        flow.send(options=one.third(b"\0\0\0\0", answer))
    else:
        flow.send(options=peer.dss(one.data_ack))
    with_reason(reset_of(flow, "the third segment"), MPTCP_SPECIFIC)
    counted(since, "MPJoinAckHMacFailure", int(lab.side == "hmac"))
    if "MPJoinAckNoMPJoin" in mib.counters():
        counted(since, "MPJoinAckNoMPJoin", int(lab.side == "option"))
    equal("mptcpi_subflows", multipath.info(sock).mptcpi_subflows, 0)
    equal("MPJoinAckRx", since.of("MPJoinAckRx"), 0)
    first.send_data(NEXT, at=5)
    same("data on the first subflow", receive(sock, 5), NEXT)


@scenario_check("join.refused_after_shutdown", scenario=SCENARIO, needs=NEEDS)
def after_shutdown(lab: Lab) -> None:
    """A join that is completed after shutdown(SHUT_WR) is reset, and no subflow is counted."""
    one, _, sock = established(lab, joins=0)
    flow, nonce = one.start_join(3)
    answer = flow.expect_option("MP_JOIN in the SYN/ACK", wire.MP_JOIN)
    sock.shutdown(_socket.SHUT_WR)
    flow.send(options=one.third(nonce, answer))
    reset_of(flow, "a join after shutdown()")
    equal("mptcpi_subflows", multipath.info(sock).mptcpi_subflows, 0)


@scenario_check("join.beyond_the_limit_is_prohibited", scenario=SCENARIO, needs=NEEDS)
def beyond_limit(lab: Lab) -> None:
    """A third join is reset as prohibited; it is accepted once another subflow has closed."""
    since = mib.Since()
    one, flows, sock = established(lab, joins=2)
    flow, nonce = one.start_join(9)
    flow.send(options=one.third(nonce, flow.expect_option("MP_JOIN", wire.MP_JOIN)))
    with_reason(reset_of(flow, "a join beyond the limit"), PROHIBITED)
    counted(since, "MPJoinRejected", 1)
    equal("mptcpi_subflows", multipath.info(sock).mptcpi_subflows, 2)
    flows[1].send(wire.ACK | wire.RST)
    multipath.subflows(sock, 1)
    one.join(10).send_data(NEXT, at=5)
    same("data on a later subflow", receive(sock, 5), NEXT)
    multipath.subflows(sock, 2)


@scenario_check("join.asks_for_backup", scenario=SCENARIO, needs=WITH_PM)
def asks_for_backup(lab: Lab) -> None:
    """A join with the B flag makes a backup subflow: no data goes there while another works."""
    since = mib.Since()
    bench = multipath.bench(lab)
    one, (first,), sock = established(lab, joins=0)
    backup = one.join(3, backup=True)
    counted(since, "MPJoinSynBackupRx", 1)
    record = bench.diag.tcp((lab.address, backup.remote[1]), (lab.address, backup.port))
    flags = record.ulp.flags if record.ulp else 0
    equal("backup flags", flags & (diag.BKUP_REM | diag.BKUP_LOC), diag.BKUP_REM)
    equal("id of the peer", record.ulp and record.ulp.id_rem, 3)
    straying = Straying(backup)
    sock.sendall(NEXT)
    first.expect("data on the first subflow", lambda s: s.payload == NEXT)
    straying.none()


def with_backup_endpoint(lab: Lab, delay_s: float = 0.0) -> tuple[Peer, Flow, _socket.socket, str]:
    """A connection of a server that has a backup endpoint, id 7, and the endpoint's address.

    The peer's stream is at 5.
    """
    bench = multipath.bench(lab)
    bench.clean()
    lab.afterwards(bench.clean)
    address = bench.server_address(2)
    bench.pm.add(address, pm.SIGNAL | pm.BACKUP, id=7)
    one = Peer(lab)
    one.delay_s = delay_s
    listener = lab.adopt(_socket.socket(lab.family, _socket.SOCK_STREAM, MPTCP))
    listener.bind(("", 0) if lab.family == _socket.AF_INET else ("::", 0))
    listener.listen(4)
    first = one.connect(listener)
    sock = lab.accept(listener)
    first.send_data(FIVE, at=0)
    same("the first data", receive(sock, 5), FIVE)
    return one, first, sock, address


@scenario_check("join.answered_as_backup", scenario=SCENARIO, needs=WITH_PM)
def answered_as_backup(lab: Lab) -> None:
    """A join to a backup endpoint is answered with the B flag and the endpoint's id."""
    one, first, sock, address = with_backup_endpoint(lab)
    flow, nonce = one.start_join(3, remote=(address, first.remote[1]))
    answer = flow.expect_option("MP_JOIN in the SYN/ACK", wire.MP_JOIN)
    equal("backup", answer[2] & peer.BACKUP, 1, answer)
    equal("address id", answer[3], 7, answer)
    flow.send(options=one.third(nonce, answer))
    multipath.subflows(sock, 1)
    straying = Straying(flow)
    sock.sendall(NEXT)
    first.expect("data on the first subflow", lambda s: s.payload == NEXT)
    straying.none()


@scenario_check("join.of_a_connection_not_yet_established", scenario=SCENARIO, needs=NEEDS)
def not_established(lab: Lab) -> None:
    """A join is accepted as soon as the third segment of the first subflow has both keys."""
    one, first, sock = served(lab)
    flow = one.join(3)
    flow.send_data(NEXT, at=5)
    first.send_data(FIVE, at=0)
    same("the stream", receive(sock, 10), FIVE + NEXT)


@scenario_check("join.to_another_port_is_refused", scenario=SCENARIO, needs=NEEDS)
def another_port(lab: Lab) -> None:
    """A join to a port of another listener that was not announced is reset, and counted."""
    since = mib.Since()
    one, _, sock = established(lab, joins=0)
    other = lab.listener()
    flow, _ = one.start_join(3, remote=(lab.address, other.getsockname()[1]))
    answer = reset_of(flow, "a join to another port")
    if answer.mptcp(wire.MP_TCPRST) or "DssFallback" in since.start:  # 6.1 gives no reason
        with_reason(answer, PROHIBITED)
    counted(since, "MismatchPortSynRx", 1)
    equal("mptcpi_subflows", multipath.info(sock).mptcpi_subflows, 0)


@scenario_check("join.with_syncookies", scenario=SCENARIO, needs=(*NEEDS, "syncookies"))
def with_syncookies(lab: Lab) -> None:
    """With net.ipv4.tcp_syncookies=2 connections and joins are made from the cookie."""
    write_sysctl("net.ipv4.tcp_syncookies", "2")
    lab.afterwards(lambda: write_sysctl("net.ipv4.tcp_syncookies", "1"))
    since = mib.Since()
    one, (first,), sock = established(lab, joins=0)
    flow, _ = one.start_join(3, token=one.token ^ 1)
    two = one.join(5)
    multipath.subflows(sock, 1)
    counted(since, "MPJoinAckRx", 1)
    two.send_data(NEXT, at=5)
    same("data on the second subflow", receive(sock, 5), NEXT)
    first.send_data(FIVE, at=10)
    same("data on the first subflow", receive(sock, 5), FIVE)
    counted(since, "MPJoinNoTokenFound", 1)
    flow.received()


@scenario_check("join.closed_by_the_peer", scenario=SCENARIO, needs=WITH_PM, sides=("fin", "reset"))
def closed_by_peer(lab: Lab) -> None:
    """An event reports that the peer closed a subflow, with MP_TCPRST's reason; it can rejoin."""
    bench = multipath.bench(lab)
    one, (first, two), sock = established(lab, joins=1)
    token = multipath.info(sock).mptcpi_token
    since = mib.Since()
    if lab.side == "fin":
        two.send(wire.ACK | wire.FIN)
        two.expect("a FIN", lambda s: s.has(wire.FIN))
        two.send()
    else:
        two.send(wire.ACK | wire.RST, peer.reset(5, transient=True))
        counted(since, "MPRstRx", 1)
    multipath.subflows(sock, 0)
    multipath.wait_for("SUB_CLOSED", lambda: len(bench.events.of(pm.SUB_CLOSED, token)), 1)
    told = bench.events.of(pm.SUB_CLOSED, token)[0]
    reason = 5 if lab.side == "reset" else None
    equal("reset_reason", told.number("reset_reason"), reason)
    equal("rem_id", told.number("rem_id"), 3)
    again = one.join(3)
    again.send_data(NEXT, at=5)
    same("data on the subflow that came again", receive(sock, 5), NEXT)
    first.expect_ack("an ACK on the first subflow", 5)


@scenario_check("mp_capable.third_segment_without_it", scenario=SCENARIO, needs=NEEDS)
def third_without(lab: Lab) -> None:
    """A third segment without MP_CAPABLE makes the server fall back and count it."""
    since = mib.Since()
    one, listener = Peer(lab), lab.listener()
    flow = one.start(listener)
    flow.expect_option("MP_CAPABLE in the SYN/ACK", wire.MP_CAPABLE)
    flow.send()
    flow.send(wire.ACK | wire.PSH, payload=FIVE)
    sock = lab.accept(listener)
    counted(since, "MPCapableFallbackACK", 1)
    same("data as TCP", receive(sock, 5), FIVE)
    sock.sendall(NEXT)
    answer = flow.expect("an answer", lambda s: s.payload == NEXT)
    equal("options of MPTCP in it", answer.option(wire.OPTION_MPTCP), None)


@scenario_check("mp_capable.data_in_the_third_segment", scenario=SCENARIO, needs=NEEDS)
def data_in_third(lab: Lab) -> None:
    """Data in the third segment, which also has MP_CAPABLE, are the first of the stream."""
    one, listener = Peer(lab), lab.listener()
    flow = one.start(listener)
    one.take_key(flow)
    flow.send(wire.ACK | wire.PSH, one.both_keys(len(FIVE)), FIVE)
    sock = lab.accept(listener)
    same("data of the third segment", receive(sock, 5), FIVE)
    flow.expect_ack("a DATA_ACK of them", 5)
    one.join(3).send_data(NEXT, at=5)
    same("data on a join", receive(sock, 5), NEXT)


@scenario_check(
    "mp_capable.version_and_hash_of_the_syn",
    scenario=SCENARIO,
    needs=NEEDS,
    sides=("version_0", "version_2", "no_hash", "extension"),
)
def odd_syn(lab: Lab) -> None:
    """A SYN of version 0, without SHA-256 or with an extension gets TCP; a newer one MPTCP."""
    asked = {
        "version_0": (0, b"\x01"),
        "version_2": (2, b"\x01"),
        "no_hash": (1, b"\x00"),
        "extension": (1, b"\x41"),
    }[lab.side]
    one, listener = Peer(lab), lab.listener()
    flow = one.start(listener, peer.option(wire.MP_CAPABLE, *asked))
    answer = flow.expect("a SYN/ACK", lambda s: s.has(wire.SYN))
    got = answer.mptcp(wire.MP_CAPABLE)
    equal("MP_CAPABLE in the SYN/ACK", got is not None, lab.side == "version_2")
    if got is not None:
        equal("version in it", got[2] & 0xF, peer.VERSION, got)


@scenario_check("join.answer_comes_again_unchanged", scenario=SCENARIO, needs=NEEDS)
def answer_again(lab: Lab) -> None:
    """A retransmitted SYN of a join gets the same answer; one subflow is made."""
    one, _, sock = established(lab, joins=0)
    flow, nonce = one.start_join(3)
    answer = flow.expect_option("MP_JOIN in the SYN/ACK", wire.MP_JOIN)
    seen = flow.seen()
    flow.send(wire.SYN, one.join_request(3, nonce), seq=flow.isn)
    equal("the answer again", flow.expect_option("MP_JOIN", wire.MP_JOIN, seen), answer)
    flow.send(options=one.third(nonce, answer))
    multipath.subflows(sock, 1)
    flow.send_data(NEXT, at=5)
    same("data on the subflow", receive(sock, 5), NEXT)
