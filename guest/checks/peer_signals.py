# SPDX-License-Identifier: GPL-2.0-only
"""ADD_ADDR, RM_ADDR, MP_PRIO, MP_FAIL and checksums that a peer on the wire sends."""

from __future__ import annotations

import _socket

from guest import diag, keys, mib, multipath, peer, pm, wire
from guest.checks import equal, scenario_check
from guest.checks.peer_data import FIVE, NEXT, Straying, at_once, counted, established, receive
from guest.flow import same
from guest.lab import wait_until, write_sysctl
from guest.peer import Flow, Peer
from guest.scenarios import Scenario, declare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.lab import Lab

SCENARIO = declare(Scenario("peer_signals", waits=True)).name
NEEDS = ("packet_socket", "userspace_pm", "inet_diag")
TIMEOUT = "net.mptcp.add_addr_timeout"
CHECKSUM = "net.mptcp.checksum_enabled"
CHECKSUM_REQUIRED = 0x80


def clean(lab: Lab) -> multipath.Bench:
    bench = multipath.bench(lab)
    bench.clean()
    lab.afterwards(bench.clean)
    return bench


def removed(bench: multipath.Bench, token: int) -> list[object]:
    return [one.number("rem_id") for one in bench.events.of(pm.REMOVED, token)]


@scenario_check("rm_addr.each_id_of_a_list", scenario=SCENARIO, needs=NEEDS)
def each_id(lab: Lab) -> None:
    """RM_ADDR with several ids closes the subflow of each, with a count and an event for each."""
    bench = clean(lab)
    one, (first, *_), sock = established(lab, joins=3)
    token = multipath.info(sock).mptcpi_token
    since = mib.Since()
    first.acknowledge(peer.remove_addr(3, 77, 4, 5))
    multipath.subflows(sock, 0)
    counted(since, "RmAddr", 4)
    wait_until(lambda: len(removed(bench, token)) == 4)
    equal("ids of REMOVED events", removed(bench, token), [3, 77, 4, 5])
    first.send_data(NEXT, at=5)
    same("data on the first subflow", receive(sock, 5), NEXT)
    one.join(3).send_data(FIVE, at=10)
    same("data on a subflow with a removed id", receive(sock, 5), FIVE)


@scenario_check("rm_addr.of_id_zero", scenario=SCENARIO, needs=NEEDS)
def id_zero(lab: Lab) -> None:
    """RM_ADDR of id 0 closes the first subflow; the connection continues on the other one."""
    clean(lab)
    _, (first, two), sock = established(lab, joins=1)
    two.acknowledge(peer.remove_addr(0))
    first.expect("a FIN on the first subflow", lambda s: s.flags & (wire.FIN | wire.RST))
    two.send_data(NEXT, at=5)
    same("data on the other subflow", receive(sock, 5), NEXT)
    sock.sendall(b"answer")
    two.expect("data on the other subflow", lambda s: s.payload == b"answer")


@scenario_check("mp_prio.moves_data", scenario=SCENARIO, needs=NEEDS)
def priority(lab: Lab) -> None:
    """MP_PRIO makes a subflow a backup and normal again; data use the others."""
    bench = clean(lab)
    one, (first, two), sock = established(lab, joins=1)
    token = multipath.info(sock).mptcpi_token
    since = mib.Since()
    stages = ((first, two, True), (first, two, False), (two, first, True))
    for number, (which, other, backup) in enumerate(stages, 1):
        which.acknowledge(peer.priority(backup))
        multipath.wait_for(
            "SUB_PRIORITY events", lambda: len(bench.events.of(pm.SUB_PRIORITY, token)), number
        )
        told = bench.events.of(pm.SUB_PRIORITY, token)
        equal("backup in the event", told[-1].number("backup"), int(backup))
        flags = _backup_flags(bench, lab, which)
        equal("backup flags", flags, diag.BKUP_REM if backup else 0)
        if not backup:
            continue
        seen, straying = other.seen(), Straying(which)
        sock.sendall(NEXT)
        other.expect("data on the other subflow", lambda s: s.payload == NEXT, seen)
        straying.none()
        one.consumed += 5
        other.acknowledge()
    counted(since, "MPPrioRx", 3)


@scenario_check("mp_prio.a_backup_is_used_alone", scenario=SCENARIO, needs=NEEDS)
def used_alone(lab: Lab) -> None:
    """A backup subflow carries data if there is no other, or the other has closed."""
    clean(lab)
    one, (first, two), sock = established(lab, joins=1)
    two.acknowledge(peer.priority(True))
    first.send(wire.ACK | wire.RST)
    sock.sendall(NEXT)
    two.expect("data on the backup", lambda s: s.payload == NEXT)
    one.consumed = 5
    seen = two.seen()
    two.acknowledge()
    sock.sendall(b"more")
    two.expect("more data on the backup", lambda s: s.payload == b"more", seen)


def _backup_flags(bench: multipath.Bench, lab: Lab, flow: Flow) -> int:
    ulp = bench.diag.tcp((lab.address, flow.remote[1]), (lab.address, flow.port)).ulp
    return ulp.flags & (diag.BKUP_REM | diag.BKUP_LOC) if ulp else -1


@scenario_check("add_addr.hmac_is_checked", scenario=SCENARIO, needs=NEEDS)
def add_addr_hmac(lab: Lab) -> None:
    """ADD_ADDR with a wrong HMAC is ignored; with the right one it is counted and echoed."""
    bench = clean(lab)
    one, (first,), sock = established(lab, joins=0)
    token = multipath.info(sock).mptcpi_token
    since = mib.Since()
    right = one.add_addr(6, bench.client_address(3), port=4321)
    first.send(options=right[:-1] + bytes([right[-1] ^ 1]))
    first.send_data(NEXT, at=5)
    same("data after it", receive(sock, 5), NEXT)
    equal("AddAddr", since.of("AddAddr"), 0)
    equal("ANNOUNCED events", len(bench.events.of(pm.ANNOUNCED, token)), 0)
    first.send(options=right)
    echo = first.expect_option("an echo", wire.ADD_ADDR)
    equal("echo", echo, one.add_addr(6, bench.client_address(3), port=4321, echo=True), echo)
    counted(since, "AddAddr", 1)
    counted(since, "EchoAddTx", 1)
    counted(since, "PortAdd", 1)
    told = bench.events.of(pm.ANNOUNCED, token)
    equal("ANNOUNCED events", [(e.number("rem_id"), e.port("dport")) for e in told], [(6, 4321)])


@scenario_check("add_addr.of_id_zero_is_no_new_address", scenario=SCENARIO, needs=NEEDS)
def add_addr_zero(lab: Lab) -> None:
    """ADD_ADDR of id 0 creates the first subflow again: no limit applies, and no counter rises."""
    bench = clean(lab)
    bench.pm.set_limits(0, 4)
    one, (first, two), sock = established(lab, joins=1)
    since = mib.Since()
    first.send(wire.ACK | wire.RST)
    two.send_data(NEXT, at=5)
    same("data on the other subflow", receive(sock, 5), NEXT)
    two.send(options=one.add_addr(0, lab.address, port=first.port))
    counted(since, "EchoAddTx", 1)
    syn = one.take_syn(one.second(first))
    equal("MP_JOIN to the first address", bool(syn.mptcp(wire.MP_JOIN)), True)
    accepted = multipath.field(sock, "mptcpi_add_addr_accepted")
    wait_until(accepted, 0.1)
    equal("mptcpi_add_addr_accepted", accepted(), 0)


def announcing(lab: Lab, timeout: str) -> tuple[Peer, Flow, Callable[[], int]]:
    """A connection whose kernel announces address 9 to a peer that does not echo it.

    The function counts the ADD_ADDR options so far, and fails the check if one is wrong.
    """
    bench = clean(lab)
    write_sysctl(TIMEOUT, timeout)
    lab.afterwards(lambda: write_sysctl(TIMEOUT, "120"))
    one, (first,), _ = established(lab, joins=0)
    seen = first.seen()
    bench.pm.add(bench.server_address(2), pm.SIGNAL, id=9)

    def sent() -> int:
        found = [s.mptcp(wire.ADD_ADDR) for s in first.received()[seen:]]
        options = [option for option in found if option]
        for option in options:
            equal("ADD_ADDR", option, _announced(one, 9, bench.server_address(2)), option)
        return len(options)

    return one, first, sent


@scenario_check("add_addr.is_sent_until_echoed", scenario=SCENARIO, needs=NEEDS)
def until_echoed(lab: Lab) -> None:
    """ADD_ADDR has the endpoint's address, id and HMAC, and is repeated until it is echoed."""
    since = mib.Since()
    # The time that older kernels wait for an echo; newer ones wait no longer than TCP does.
    one, first, sent = announcing(lab, "1")
    wait_until(lambda: sent() >= 2, 20.0)
    equal("ADD_ADDR options of an address without an echo", sent() >= 2, True)
    address = multipath.bench(lab).server_address(2)
    first.send(options=one.add_addr(9, address, echo=True))
    counted(since, "EchoAdd", 1)
    counted(since, "AddAddrTx", sent())


@scenario_check("add_addr.is_sent_once_with_a_timeout_of_0", scenario=SCENARIO, needs=NEEDS)
def sent_once(lab: Lab) -> None:
    """With net.mptcp.add_addr_timeout=0 ADD_ADDR is sent once, though it is not echoed."""
    _, _, sent = announcing(lab, "0")
    wait_until(sent)
    wait_until(lambda: sent() > 1, 0.3)
    equal("ADD_ADDR options", sent(), 1)


def _announced(one: Peer, id: int, address: str) -> bytes:
    """ADD_ADDR as the kernel must send it: the HMAC has the sender's key first."""
    other = Peer.__new__(Peer)
    other.key, other.remote_key = one.remote_key, one.key
    return other.add_addr(id, address)


def _with_checksums(lab: Lab) -> None:
    write_sysctl(CHECKSUM, "1")
    lab.afterwards(lambda: write_sysctl(CHECKSUM, "0"))


def _send(flow: Flow, data: bytes, at: int, wrong: int = 0, fin: bool = False) -> None:
    """``data`` with a checksum that is off by ``wrong``."""
    subflow_seq = (flow.seq - flow.isn) % 2**32
    right = keys.dss_checksum(flow.peer.seq(at), subflow_seq, len(data) + fin, data)
    flow.send_data(data, at, fin, checksum=right ^ wrong)


def checked(lab: Lab, joins: int = 0) -> tuple[Peer, list[Flow], _socket.socket]:
    """A connection with checksums. The stream is at 5."""
    _with_checksums(lab)
    one = Peer(lab)
    listener = lab.listener()
    first = one.connect(listener)
    sock = at_once(lab.accept(listener))
    _send(first, FIVE, at=0)
    same("the first data", receive(sock, 5), FIVE)
    return one, [first, *(one.join(id) for id in range(3, 3 + joins))], sock


@scenario_check("checksums.are_asked_for", scenario=SCENARIO, needs=NEEDS)
def checksums_asked(lab: Lab) -> None:
    """A server with checksums requests them in the SYN/ACK, and its data have correct ones."""
    one, (first,), sock = checked(lab)
    answer = first.received()[0].mptcp(wire.MP_CAPABLE) or b""
    equal("A flag of MP_CAPABLE", answer[3] & CHECKSUM_REQUIRED, CHECKSUM_REQUIRED, answer)
    equal("mptcpi_csum_enabled", multipath.info(sock).mptcpi_csum_enabled, 1)
    for at, data in ((0, b"odd"), (3, b"even")):
        sock.sendall(data)
        dss = first.expect("data", lambda s: s.payload == data).dss  # noqa: B023
        seq = (keys.first_seq(one.remote_key) + at) % 2**64
        right = keys.dss_checksum(seq, dss.subflow_seq or 0, dss.length or 0, data) if dss else None
        equal("checksum", dss and dss.checksum, right)
        one.consumed = at + len(data)
        first.acknowledge()


@scenario_check("checksums.wrong_on_one_of_two", scenario=SCENARIO, needs=NEEDS)
def wrong_of_two(lab: Lab) -> None:
    """A wrong checksum resets one of two subflows with MP_FAIL; the other can resend the data."""
    one, (first, two), sock = checked(lab, joins=1)
    since = mib.Since()
    _send(two, NEXT, at=5, wrong=0x0100)
    answer = two.expect("a reset", lambda s: s.has(wire.RST))
    failed = answer.mptcp(wire.MP_FAIL) or b""
    equal("sequence number of MP_FAIL", failed[4:], one.seq(5).to_bytes(8, "big"), failed)
    equal("MP_TCPRST", (answer.mptcp(wire.MP_TCPRST) or b"")[3:], b"\x06")
    counted(since, "DataCsumErr", 1)
    counted(since, "MPFailTx", 1)
    _send(first, NEXT, at=5)
    same("data on the other subflow", receive(sock, 5), NEXT)


@scenario_check("checksums.with_data_fin", scenario=SCENARIO, needs=NEEDS)
def with_data_fin(lab: Lab) -> None:
    """The checksum of a mapping with a DATA_FIN has the length with the DATA_FIN in it."""
    _, (first,), sock = checked(lab)
    since = mib.Since()
    _send(first, NEXT, at=5, fin=True)
    same("the data", receive(sock, 5), NEXT)
    equal("the end", receive(sock, 1), b"")
    equal("DataCsumErr", since.of("DataCsumErr"), 0)


@scenario_check("checksums.wrong_at_first_falls_back", scenario=SCENARIO, needs=NEEDS)
def wrong_at_first(lab: Lab) -> None:
    """A wrong first checksum makes the connection fall back, without MP_FAIL or reset."""
    _with_checksums(lab)
    since = mib.Since()
    one = Peer(lab)
    listener = lab.listener()
    flow = one.connect(listener)
    sock = at_once(lab.accept(listener))
    _send(flow, FIVE, at=0, wrong=0x0100)
    same("the data", receive(sock, 5), FIVE)
    counted(since, "DataCsumErr", 1)
    sock.sendall(NEXT)
    answer = flow.expect("an answer", lambda s: s.payload == NEXT)
    equal("options of MPTCP in it", answer.option(wire.OPTION_MPTCP), None)
    equal("MPFailTx", since.of("MPFailTx"), 0)


@scenario_check("checksums.missing_resets", scenario=SCENARIO, needs=NEEDS)
def missing(lab: Lab) -> None:
    """A mapping without the negotiated checksum resets a joined subflow."""
    _, (first, two), sock = checked(lab, joins=1)
    two.send_data(NEXT, at=5)
    answer = two.expect("a reset", lambda s: s.has(wire.RST))
    equal("MP_TCPRST", (answer.mptcp(wire.MP_TCPRST) or b"")[3:], b"\x01")
    _send(first, NEXT, at=5)
    same("data on the other subflow", receive(sock, 5), NEXT)


@scenario_check("mp_fail.of_the_only_subflow", scenario=SCENARIO, needs=NEEDS)
def only_subflow(lab: Lab) -> None:
    """After a wrong checksum on the only subflow MP_FAIL is sent, and the data are delivered."""
    one, (first,), sock = checked(lab)
    since = mib.Since()
    _send(first, NEXT, at=5, wrong=0x0100)
    failed = first.expect_option("MP_FAIL", wire.MP_FAIL)
    equal("sequence number of MP_FAIL", failed[4:], one.seq(5).to_bytes(8, "big"), failed)
    counted(since, "MPFailTx", 1)
    counted(since, "DataCsumErr", 1)
    same("the data", receive(sock, 5), NEXT)
    equal("resets", [s for s in first.received() if s.has(wire.RST)], [])


@scenario_check("mp_fail.beyond_a_gap_resets", scenario=SCENARIO, needs=NEEDS)
def beyond_a_gap(lab: Lab) -> None:
    """After MP_FAIL the connection is reset, not fallen back, if received data have a gap."""
    one, (first,), sock = established(lab, joins=0)
    since = mib.Since()
    first.acknowledge(peer.fail(keys.first_seq(one.remote_key)))
    counted(since, "MPFailRx", 1)
    first.send_data(NEXT, at=10)
    counted(since, "OFOQueue", 1)
    sock.sendall(b"infinite")
    first.expect("a reset", lambda s: s.has(wire.RST))
    counted(since, "FallbackFailed", 1)
    counted(since, "InfiniteMapTx", 0)


@scenario_check("join.refused_after_fallback", scenario=SCENARIO, needs=NEEDS)
def join_after_fallback(lab: Lab) -> None:
    """A join that is completed after a fallback is reset; mptcpi_subflows does not count it."""
    bench = clean(lab)
    one, (first,), sock = established(lab, joins=0)
    flow, nonce = one.start_join(3)
    answer = flow.expect_option("MP_JOIN", wire.MP_JOIN)
    since = mib.Since()
    first.send(wire.ACK | wire.PSH, peer.dss(one.data_ack, one.seq(5), 6, 0), NEXT)
    same("data of the infinite mapping", receive(sock, 5), NEXT)
    counted(since, "InfiniteMapRx", 1)
    flow.send(options=one.third(nonce, answer))
    flow.expect("a reset", lambda s: s.has(wire.RST))
    # SOL_MPTCP does not answer after a fallback, diag does.
    equal("mptcpi_subflows", bench.diag.mptcp(one.token).info.mptcpi_subflows, 0)


@scenario_check("mp_fail.makes_the_mapping_infinite", scenario=SCENARIO, needs=NEEDS)
def makes_infinite(lab: Lab) -> None:
    """MP_FAIL is answered with MP_FAIL and an infinite mapping; joins are then refused."""
    one, (first,), sock = established(lab, joins=0)
    since = mib.Since()
    sock.sendall(NEXT)
    first.expect("data", lambda s: s.payload == NEXT)
    one.consumed = 5
    seen = first.seen()
    first.acknowledge(peer.fail(keys.first_seq(one.remote_key) + 5))
    first.expect_option("MP_FAIL", wire.MP_FAIL, seen)
    counted(since, "MPFailRx", 1)
    counted(since, "MPFailTx", 1)
    sock.sendall(b"infinite")
    data = first.expect("data", lambda s: s.payload == b"infinite", seen)
    equal("length of the mapping", data.dss and data.dss.length, 0)
    counted(since, "InfiniteMapTx", 1)
    flow, nonce = one.start_join(3)
    flow.send(options=one.third(nonce, flow.expect_option("MP_JOIN", wire.MP_JOIN)))
    flow.expect("a reset of a join", lambda s: s.has(wire.RST))
    first.acknowledge()
    sock.sendall(b"as TCP")
    last = first.expect("data as TCP", lambda s: s.payload == b"as TCP", seen)
    equal("options of MPTCP in it", last.option(wire.OPTION_MPTCP), None)
