# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's client at a peer on the wire: what it asks for, and what it makes of the answers."""

from __future__ import annotations

import _socket

from guest import diag, keys, mib, multipath, peer, pm, wire
from guest.checks import equal, scenario_check
from guest.checks.peer_data import NEXT, Straying, at_once, carrier, counted, receive
from guest.checks.peer_joins import MPTCP_SPECIFIC, with_reason
from guest.checks.peer_signals import clean
from guest.checks.reconnect import again, disconnect
from guest.flow import at_end, same
from guest.lab import MPTCP, write_sysctl
from guest.peer import Flow, Peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab
    from guest.wire import Segment

SCENARIO = "peer_serves"
WIRE = ("packet_socket",)
NEEDS = ("packet_socket", "userspace_pm", "inet_diag")
ENDPOINT = 6


def connected(lab: Lab, checksums: bool = False) -> tuple[Peer, Flow, _socket.socket]:
    """A connection of the kernel's client, fully established. The peer's stream is at 5."""
    one = Peer(lab, checksums=checksums)
    sock = at_once(lab.socket())
    flow = one.serve(sock)
    if checksums:
        subflow_seq = (flow.seq - flow.isn) % 2**32
        right = keys.dss_checksum(one.seq(0), subflow_seq, 5, NEXT)
        flow.send_data(NEXT, at=0, checksum=right)
    else:
        flow.send_data(NEXT, at=0)
    same("the first data", receive(sock, 5), NEXT)
    return one, flow, sock


@scenario_check("mp_capable.checksums_of_the_server", scenario=SCENARIO, needs=WIRE)
def checksums_of_server(lab: Lab) -> None:
    """A client without checksums uses them if the server's SYN/ACK requires them."""
    one, flow, sock = connected(lab, checksums=True)
    equal("mptcpi_csum_enabled", multipath.info(sock).mptcpi_csum_enabled, 1)
    asked = flow.received()[0].mptcp(wire.MP_CAPABLE) or b""
    equal("A flag in the SYN", asked[3] & peer.CHECKSUM_REQUIRED, 0)
    sock.sendall(b"checked")
    found = flow.expect("data", lambda s: s.payload == b"checked").dss
    first = keys.first_seq(one.remote_key)
    right = keys.dss_checksum(first, found.subflow_seq or 0, 7, b"checked") if found else 0
    equal("checksum", found and found.checksum, right)


@scenario_check("mp_capable.checksums_are_asked_for", scenario=SCENARIO, needs=WIRE)
def checksums_asked(lab: Lab) -> None:
    """A client with net.mptcp.checksum_enabled requires checksums in its SYN."""
    write_sysctl("net.mptcp.checksum_enabled", "1")
    lab.afterwards(lambda: write_sysctl("net.mptcp.checksum_enabled", "0"))
    _, flow, sock = connected(lab, checksums=True)
    asked = flow.received()[0].mptcp(wire.MP_CAPABLE) or b""
    equal("A flag in the SYN", asked[3] & peer.CHECKSUM_REQUIRED, peer.CHECKSUM_REQUIRED)
    equal("mptcpi_csum_enabled", multipath.info(sock).mptcpi_csum_enabled, 1)


@scenario_check("mp_capable.deny_flag", scenario=SCENARIO, needs=WIRE, sides=("0", "1"))
def deny_flag(lab: Lab) -> None:
    """net.mptcp.allow_join_initial_addr_port=0 sets the C flag in the SYN."""
    write_sysctl("net.mptcp.allow_join_initial_addr_port", lab.side)
    lab.afterwards(lambda: write_sysctl("net.mptcp.allow_join_initial_addr_port", "1"))
    _, flow, _ = connected(lab)
    asked = flow.received()[0].mptcp(wire.MP_CAPABLE) or b""
    wanted = peer.DENY_JOIN_ID0 if lab.side == "0" else 0
    equal("C flag in the SYN", asked[3] & peer.DENY_JOIN_ID0, wanted)


@scenario_check(
    "mp_capable.odd_answers_fall_back",
    scenario=SCENARIO,
    needs=WIRE,
    sides=("none", "version", "hash", "extension", "size"),
)
def odd_answers(lab: Lab) -> None:
    """A SYN/ACK without MP_CAPABLE, or with one of another version, hash or size, falls back."""
    key = bytes(8)
    options = {
        "none": b"",
        "version": peer.option(wire.MP_CAPABLE, 0, b"\x01", key),
        "hash": peer.option(wire.MP_CAPABLE, 1, b"\x02", key),
        "extension": peer.option(wire.MP_CAPABLE, 1, b"\x41", key),
        "size": peer.option(wire.MP_CAPABLE, 1, b"\x01", key, key),
    }
    since = mib.Since()
    one, sock = Peer(lab), lab.socket()
    flow = one.listen()
    sock.setblocking(False)
    sock.connect_ex((one.address, flow.port))
    one.take_syn(flow)
    one.answer(flow, options[lab.side])
    third = flow.expect("a third segment", lambda s: not s.has(wire.SYN))
    equal("options of MPTCP in it", third.option(wire.OPTION_MPTCP), None)
    counted(since, "MPCapableFallbackSYNACK", 1)
    counted(since, "MPCapableSYNACKRX", 0)
    sock.settimeout(5)
    flow.send(wire.ACK | wire.PSH, payload=NEXT)
    same("data as TCP", receive(sock, 5), NEXT)


@scenario_check("mp_capable.answered_without_mptcp", scenario=SCENARIO, needs=WIRE)
def answered_without(lab: Lab) -> None:
    """A client falls back if the first answers to it have no MPTCP option."""
    since = mib.Since()
    one, sock = Peer(lab), lab.socket()
    flow = one.serve(sock)
    flow.send(wire.ACK | wire.PSH, payload=NEXT)
    same("data as TCP", receive(sock, 5), NEXT)
    counted(since, "MPCapableDataFallback", 1)
    seen = flow.seen()
    sock.sendall(b"answer")
    answer = flow.expect("an answer", lambda s: s.payload == b"answer", seen)
    equal("options of MPTCP in it", answer.option(wire.OPTION_MPTCP), None)


def joining(
    lab: Lab, flags: int = pm.SUBFLOW
) -> tuple[multipath.Bench, Peer, Flow, Flow, Segment, _socket.socket]:
    """A connection of the kernel's client that joins from an endpoint: the SYN of the join."""
    bench = clean(lab)
    bench.events.forget()
    bench.pm.add(bench.client_address(2), flags, id=ENDPOINT)
    one, flow, sock = connected(lab)
    two = one.second(flow)
    two.remote = (bench.client_address(2), 0)
    return bench, one, flow, two, one.take_syn(two), sock


@scenario_check("disconnect.forgets_a_data_fin_beyond_a_gap", scenario=SCENARIO, needs=WIRE)
def forgets_data_fin(lab: Lab) -> None:
    """After connect(AF_UNSPEC) an old DATA_FIN beyond a gap does not affect the next connection."""
    _, flow, sock = connected(lab)
    flow.send_fin(at=10)
    disconnect(sock)
    server = again(lab, sock, MPTCP)
    server.shutdown(_socket.SHUT_WR)
    at_end("the end of the next connection", sock)


@scenario_check("join.asked_for_by_an_endpoint", scenario=SCENARIO, needs=NEEDS, sides=("0", "1"))
def asked_by_endpoint(lab: Lab) -> None:
    """A join has the peer's token, the endpoint's id and backup flag, and a valid HMAC."""
    flags = pm.SUBFLOW | (pm.BACKUP if lab.side == "1" else 0)
    bench, one, _, two, syn, sock = joining(lab, flags)
    asked = syn.mptcp(wire.MP_JOIN) or b""
    equal("MP_JOIN", (len(asked), asked[2] & 0xF, asked[3]), (12, int(lab.side), ENDPOINT), asked)
    equal("token", int.from_bytes(asked[4:8], "big"), keys.token_of(one.key), asked)
    one.answer(two, one.answer_of_join(syn))
    third = two.expect_option("MP_JOIN in the third segment", wire.MP_JOIN, 1)
    equal("HMAC", third[4:24], one.hmac_of_third(syn), third)
    two.acknowledge()
    multipath.subflows(sock, 1)
    token = multipath.info(sock).mptcpi_token
    multipath.wait_for("events", lambda: len(bench.events.of(pm.SUB_ESTABLISHED, token)), 1)
    told = bench.events.of(pm.SUB_ESTABLISHED, token)[0]
    ids = (told.number("loc_id"), told.number("rem_id"))
    equal("ids in the event", ids, (ENDPOINT, 0))


@scenario_check("userspace_pm.removes_nothing_silently", scenario=SCENARIO, needs=NEEDS)
def removes_nothing(lab: Lab) -> None:
    """REMOVE of an address that was not announced, and has lost its subflow, sends no RM_ADDR."""
    bench = clean(lab)
    write_sysctl("net.mptcp.pm_type", str(pm.IN_USER_SPACE))
    lab.afterwards(lambda: write_sysctl("net.mptcp.pm_type", str(pm.IN_KERNEL)))
    one, flow, sock = connected(lab)
    token = multipath.info(sock).mptcpi_token
    two = one.second(flow)
    local = bench.client_address(2)
    two.remote = (local, 0)
    bench.pm.create(token, local, ENDPOINT, (one.address, flow.port))
    one.answer(two, one.answer_of_join(one.take_syn(two)))
    two.expect_option("MP_JOIN in the third segment", wire.MP_JOIN, 1)
    two.acknowledge()
    multipath.subflows(sock, 1)
    two.send(wire.ACK | wire.RST)
    multipath.subflows(sock, 0)
    since = mib.Since()
    try:
        bench.pm.remove(token, ENDPOINT)
    except OSError:
        pass  # some kernels refuse it
    equal("RmAddrTx", since.of("RmAddrTx"), 0)


@scenario_check("join.answered_with_backup", scenario=SCENARIO, needs=NEEDS)
def answered_with_backup(lab: Lab) -> None:
    """A join answered with the B flag is a backup: counted, flagged, and without data."""
    since = mib.Since()
    bench, one, flow, two, syn, sock = joining(lab)
    one.answer(two, one.answer_of_join(syn, id=9, backup=True))
    two.expect_option("MP_JOIN in the third segment", wire.MP_JOIN, 1)
    two.acknowledge()
    multipath.subflows(sock, 1)
    counted(since, "MPJoinSynAckBackupRx", 1)
    ulp = bench.diag.tcp(two.remote, (one.address, two.port)).ulp
    flags = ulp.flags & (diag.BKUP_LOC | diag.BKUP_REM) if ulp else -1
    equal("backup flags", (flags, ulp and ulp.id_rem), (diag.BKUP_REM, 9))
    straying = Straying(two)
    sock.sendall(NEXT)
    flow.expect("data on the first subflow", lambda s: s.payload == NEXT)
    straying.none()


@scenario_check("join.answer_is_checked", scenario=SCENARIO, needs=NEEDS, sides=("hmac", "option"))
def answer_is_checked(lab: Lab) -> None:
    """A join that is answered with a wrong HMAC, or without MP_JOIN, is reset and counted."""
    since = mib.Since()
    _, one, flow, two, syn, sock = joining(lab)
    right = one.answer_of_join(syn)
    wrong = right[:4] + bytes([right[4] ^ 1]) + right[5:]
    one.answer(two, wrong if lab.side == "hmac" else b"")
    with_reason(two.expect("a reset", lambda s: s.has(wire.RST)), MPTCP_SPECIFIC)
    counted(since, "MPJoinSynAckHMacFailure", int(lab.side == "hmac"))
    counted(since, "MPJoinSynAckNoMPJoin", int(lab.side == "option"))
    counted(since, "MPJoinSynAckRx", 0)
    multipath.subflows(sock, 0)
    flow.send_data(NEXT, at=5)
    same("data on the first subflow", receive(sock, 5), NEXT)


@scenario_check("join.third_segment_comes_again", scenario=SCENARIO, needs=NEEDS)
def third_again(lab: Lab) -> None:
    """The third segment of a join is retransmitted until acknowledged; then data can be sent."""
    _, one, flow, two, syn, sock = joining(lab)
    one.answer(two, one.answer_of_join(syn))
    two.expect_option("MP_JOIN in the third segment", wire.MP_JOIN, 1)
    seen = two.seen()
    two.expect_option("MP_JOIN once more", wire.MP_JOIN, seen)
    flow.send(wire.ACK | wire.RST)
    sock.sendall(NEXT)
    two.acknowledge()
    two.expect("data", lambda s: s.payload == NEXT)


@scenario_check("join.established_by_an_echo", scenario=SCENARIO, needs=NEEDS)
def established_by_echo(lab: Lab) -> None:
    """An echo of ADD_ADDR acknowledges the third segment of a join: data can then be sent there."""
    bench, one, flow, two, syn, sock = joining(lab)
    one.answer(two, one.answer_of_join(syn))
    two.expect_option("MP_JOIN in the third segment", wire.MP_JOIN, 1)
    two.send(options=one.add_addr(ENDPOINT, bench.client_address(2), echo=True))
    flow.send(wire.ACK | wire.RST)
    sock.sendall(NEXT)
    two.expect("data", lambda s: s.payload == NEXT)


@scenario_check("mp_capable.established_by_add_addr", scenario=SCENARIO, needs=NEEDS)
def established_by_add_addr(lab: Lab) -> None:
    """ADD_ADDR as the server's first segment establishes the connection; it does not fall back."""
    bench = clean(lab)
    since = mib.Since()
    one, sock = Peer(lab), at_once(lab.socket())
    flow = one.serve(sock)
    flow.send(options=one.add_addr(6, bench.client_address(3), port=4321))
    counted(since, "AddAddr", 1)
    flow.send_data(NEXT, at=0)
    same("the first data", receive(sock, 5), NEXT)
    equal("MPCapableDataFallback", since.of("MPCapableDataFallback"), 0)


@scenario_check("rm_addr.leaves_on_another_subflow", scenario=SCENARIO, needs=NEEDS)
def leaves_on_another(lab: Lab) -> None:
    """RM_ADDR of the initial address is sent on a subflow that stays."""
    bench, one, flow, two, syn, sock = joining(lab)
    one.answer(two, one.answer_of_join(syn))
    two.expect_option("MP_JOIN in the third segment", wire.MP_JOIN, 1)
    two.acknowledge()
    multipath.subflows(sock, 1)
    two.send_data(NEXT, at=5)
    same("data", receive(sock, 5), NEXT)  # so the acknowledgement before them was handled, too
    seen = two.seen()
    bench.pm.delete(0, lab.address)
    told = two.expect_option("RM_ADDR", wire.REMOVE_ADDR, seen)
    equal("ids of RM_ADDR", told[3:], b"\0", told)
    strayed = [s for s in flow.received() if s.mptcp(wire.REMOVE_ADDR)]
    equal("RM_ADDR options on the subflow that it removes", len(strayed), 0)


@scenario_check("mp_prio.of_the_initial_endpoint", scenario=SCENARIO, needs=NEEDS)
def initial_endpoint(lab: Lab) -> None:
    """Making the initial address's endpoint a backup sends MP_PRIO, and data avoid it."""
    bench = clean(lab)
    bench.pm.add(lab.address, pm.SUBFLOW, id=3)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=ENDPOINT)
    one, flow, sock = connected(lab)
    two = one.second(flow)
    two.remote = (bench.client_address(2), 0)
    one.answer(two, one.answer_of_join(one.take_syn(two)))
    two.expect_option("MP_JOIN in the third segment", wire.MP_JOIN, 1)
    two.acknowledge()
    multipath.subflows(sock, 1)
    since = mib.Since()
    for number, backup in enumerate((1, 0, 1), 1):
        seen = flow.seen()
        bench.pm.set_flags(pm.BACKUP if backup else 0, id=3)
        told = flow.expect_option("MP_PRIO", wire.MP_PRIO, seen)
        equal("B flag of MP_PRIO", told[2] & 1, backup, told)
        counted(since, "MPPrioTx", number)
        data = b"%05d" % number
        straying = Straying(flow)
        sock.sendall(data)
        target = carrier([two] if backup else [flow, two], data)
        if backup:
            straying.none()
        one.consumed += 5
        target.acknowledge()
