# SPDX-License-Identifier: GPL-2.0-only
"""Joins in special cases: the initial address, a device, before accept(), after disconnect()."""

from __future__ import annotations

import _socket
import os

from guest import diag, mib, multipath, pm, topology
from guest.calls import SIOCOUTQ, errno_of, ioctl
from guest.checks import equal, require, scenario_check
from guest.checks.peer_data import counted
from guest.checks.userspace_pm import must_refuse
from guest.lab import MPTCP, TCP, wait_until, write_sysctl
from guest.states import disconnect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab

SCENARIO = "pm_special"
NEEDS = ("userspace_pm", "inet_diag")
EINVAL, ERANGE, EADDRINUSE, ECONNREFUSED = 22, 34, 98, 111
#: Endpoints; an RM_ADDR has room for eight ids.
MANY = 10
SO_REUSEADDR = 2
SYNCOOKIES = "net.ipv4.tcp_syncookies"
DROP_TIMESTAMPS = "/proc/sys/net/mptcp/add_addr_v6_port_drop_ts"
DATA = bytes(range(256)) * 32
LO = 1


def clean(lab: Lab) -> multipath.Bench:
    bench = multipath.bench(lab)
    bench.clean()
    bench.quiet()
    lab.afterwards(bench.clean)
    return bench


def flag_of_first(bench: multipath.Bench, ends: multipath.Ends, side: str) -> int:
    """Backup flags of the initial subflow."""
    ulp = bench.diag.tcp(*multipath.addresses(getattr(ends, side))[0]).ulp
    return ulp.flags & (diag.BKUP_LOC | diag.BKUP_REM) if ulp else -1


@scenario_check("initial.backup_endpoint", scenario=SCENARIO, needs=NEEDS)
def initial_backup_endpoint(lab: Lab) -> None:
    """A backup endpoint with the initial address makes the initial subflow backup: MP_PRIO."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW | pm.BACKUP, id=4)
    since = mib.Since()
    ends = bench.connect(lab)
    for side, flag in (("client", diag.BKUP_LOC), ("server", diag.BKUP_REM)):
        multipath.wait_for(
            "backup flags at the " + side,
            lambda side=side: flag_of_first(bench, ends, side),  # type: ignore[misc]
            flag,
        )
    if "MPPrioTx" in since.start:
        equal("MPPrioTx", since.of("MPPrioTx"), 1)


@scenario_check("initial.endpoint_is_not_used_again", scenario=SCENARIO, needs=NEEDS)
def initial_endpoint_is_not_used_again(lab: Lab) -> None:
    """An endpoint with the initial address makes no join, has id 0 and counts as unused."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW, id=4)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=5)
    ends = bench.connect(lab)
    multipath.both_have(ends, 1)
    multipath.exchange(ends, DATA)
    local = [pair[0][0] for pair in multipath.addresses(ends.client)]
    equal("local addresses", local, [bench.client_address(1), bench.client_address(2)])
    info = multipath.info(ends.client)
    equal("mptcpi_local_addr_used", info.mptcpi_local_addr_used, 1)
    equal("mptcpi_local_addr_max", info.mptcpi_local_addr_max, 2)
    ulp = bench.diag.tcp(*multipath.addresses(ends.client)[0]).ulp
    equal("id of the initial subflow", ulp and ulp.id_loc, 0)


@scenario_check("initial.endpoint_deleted", scenario=SCENARIO, needs=NEEDS)
def initial_endpoint_deleted(lab: Lab) -> None:
    """Deleting the endpoint with the initial address closes the initial subflow only."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW, id=4)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=5)
    ends = bench.connect(lab)
    multipath.both_have(ends, 1)
    bench.events.forget()
    bench.pm.delete(4)
    told = wait_until(lambda: bench.events.of(pm.REMOVED, ends.server_token))
    equal("ids of RM_ADDR", [one.number("rem_id") for one in told], [0])
    multipath.exchange(ends, DATA)
    for sock in (ends.client, ends.server):
        equal("mptcpi_subflows", multipath.info(sock).mptcpi_subflows, 1)
    equal("mptcpi_local_addr_used", multipath.info(ends.client).mptcpi_local_addr_used, 1)


@scenario_check("endpoint.device_binds_subflow", scenario=SCENARIO, needs=NEEDS)
def device_binds_subflow(lab: Lab) -> None:
    """The subflow of an endpoint with a device is bound to that device, and no other is."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, interface=LO)
    bench.pm.add(bench.client_address(3), pm.SUBFLOW)
    ends = bench.connect(lab)
    multipath.both_have(ends, 2)
    found = {
        pair[0][0]: bench.diag.tcp(*pair, interface=LO).interface
        for pair in multipath.addresses(ends.client)
    }
    expected = {bench.client_address(1): 0, bench.client_address(2): LO,
                bench.client_address(3): 0}  # fmt: skip
    equal("device of each subflow", found, expected)


@scenario_check("endpoint.applies_to_all_connections", scenario=SCENARIO, needs=NEEDS)
def applies_to_all_connections(lab: Lab) -> None:
    """A new endpoint joins every connection; deleting it removes its subflow from each."""
    bench = clean(lab)
    both = [bench.connect(lab), bench.connect(lab)]
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)
    for ends in both:
        multipath.both_have(ends, 1)
    bench.pm.delete(2)
    for ends in both:
        multipath.both_have(ends, 0)
        multipath.exchange(ends, DATA)


@scenario_check("endpoint.foreign_address", scenario=SCENARIO, needs=NEEDS)
def foreign_address(lab: Lab) -> None:
    """An endpoint that cannot be bound makes no subflow; the next one still joins."""
    bench = clean(lab)
    bench.pm.add(topology.client_address(lab.family, 77), pm.SUBFLOW, id=2)
    bench.pm.add(bench.client_address(3), pm.SUBFLOW, id=3)
    ends = bench.connect(lab)
    multipath.both_have(ends, 1)
    local = multipath.addresses(ends.client)[1][0][0]
    equal("address of the subflow", local, bench.client_address(3))


@scenario_check("join.before_accept", scenario=SCENARIO, needs=NEEDS)
def join_before_accept(lab: Lab) -> None:
    """A subflow that joins before accept() belongs to the accepted socket, and carries data."""
    bench = clean(lab)
    listener = lab.adopt(_socket.socket(lab.family, _socket.SOCK_STREAM, MPTCP))
    listener.bind(("::" if lab.family == _socket.AF_INET6 else "", 0))
    listener.listen(2)
    write_sysctl(multipath.PM_TYPE, str(pm.IN_KERNEL))
    client = lab.socket()
    client.bind((bench.client_address(1), 0))
    write_sysctl(multipath.PM_TYPE, str(pm.IN_USER_SPACE))
    client.connect((bench.server_address(1), listener.getsockname()[1]))
    # Data is what makes both ends fully established while nobody accepts.
    client.sendall(b"?")
    multipath.wait_for("SIOCOUTQ", lambda: ioctl(client, SIOCOUTQ), 0)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)
    multipath.subflows(client, 1)
    server = lab.accept(listener)
    multipath.subflows(server, 1)
    inode = os.fstat(server.fileno()).st_ino
    pairs = multipath.addresses(server)
    equal("subflows", len(pairs), 2)
    equal("inodes", {bench.diag.tcp(*pair).inode for pair in pairs}, {inode})
    equal("first byte", server.recv(1), b"?")
    ends = multipath.Ends(client, server, listener)
    multipath.exchange(ends, DATA)


@scenario_check("join.after_disconnect", scenario=SCENARIO, needs=NEEDS)
def join_after_disconnect(lab: Lab) -> None:
    """connect(AF_UNSPEC) removes all subflows; the endpoints join the next connection again."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)
    ends = bench.connect(lab)
    multipath.both_have(ends, 1)
    # The next path manager of a socket is that of the time when it disconnects.
    write_sysctl(multipath.PM_TYPE, str(pm.IN_KERNEL))
    disconnect(ends.client)
    write_sysctl(multipath.PM_TYPE, str(pm.IN_USER_SPACE))
    info = multipath.info(ends.client)
    equal("mptcpi_subflows", info.mptcpi_subflows, 0)
    equal("mptcpi_local_addr_used", info.mptcpi_local_addr_used, 0)
    require("token", info.mptcpi_token != ends.token, "another", info.mptcpi_token)
    ends.client.connect((bench.server_address(1), ends.port))
    second = multipath.Ends(ends.client, lab.accept(ends.listener), ends.listener)
    multipath.exchange(second, DATA)
    multipath.both_have(second, 1)
    equal("subflows", len(multipath.addresses(second.client)), 2)
    closed = [
        (one.address("saddr"), one.port("sport"), one.port("dport"))
        for one in bench.events.of(pm.SUB_CLOSED, ends.token)
    ]
    equal("SUB_CLOSED events that came twice", len(closed) - len(set(closed)), 0)


@scenario_check("join.then_disconnect_then_tcp", scenario=SCENARIO, needs=NEEDS)
def join_then_tcp(lab: Lab) -> None:
    """After connect(AF_UNSPEC) a socket that had two subflows can fall back to TCP."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)
    ends = bench.connect(lab)
    multipath.both_have(ends, 1)
    multipath.exchange(ends, DATA)
    disconnect(ends.client)
    listener = lab.listener(TCP)
    ends.client.connect(listener.getsockname())
    server = lab.accept(listener, TCP)
    multipath.transfer(ends.client, server, DATA)
    multipath.transfer(server, ends.client, DATA)


@scenario_check("join.not_after_fallback", scenario=SCENARIO, needs=NEEDS)
def join_not_after_fallback(lab: Lab) -> None:
    """A connection that fell back to TCP makes no subflow from an endpoint."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)
    since = mib.Since()
    pair = lab.pair(server=TCP)
    multipath.transfer(pair.client, pair.server, DATA)
    bench.pm.add(bench.client_address(3), pm.SUBFLOW, id=3)
    multipath.transfer(pair.server, pair.client, DATA)
    for name in ("MPJoinSynTx", "MPJoinSynRx"):
        equal(name, since.of(name), 0)


@scenario_check("join.not_after_close", scenario=SCENARIO, needs=NEEDS)
def join_not_after_close(lab: Lab) -> None:
    """A token is refused once its connection is closed at both ends."""
    bench = clean(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    target = (bench.server_address(1), ends.port)
    local = bench.client_address(2)
    ends.server.close()
    equal("end of the stream", errno_of(ends.client.recv, 1), 0)
    ends.client.close()
    wait_until(lambda: bench.events.of(pm.CLOSED, ends.token))
    must_refuse("create", lambda: bench.pm.create(ends.token, local, 2, target), EINVAL, 107)


@scenario_check("add_addr.announced_twice", scenario=SCENARIO, needs=NEEDS)
def announced_twice(lab: Lab) -> None:
    """An address announced again is sent again; one RM_ADDR withdraws it."""
    bench = clean(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    address = bench.server_address(2)
    for number in (1, 2):
        bench.pm.announce(ends.server_token, address, 7)
        multipath.wait_for(
            "ANNOUNCED events", lambda: len(bench.events.of(pm.ANNOUNCED, ends.token)), number
        )
    bench.pm.remove(ends.server_token, 7)
    multipath.wait_for("REMOVED events", lambda: len(bench.events.of(pm.REMOVED, ends.token)), 1)


@scenario_check("deny_join.endpoints_join_announced", scenario=SCENARIO, needs=NEEDS)
def deny_join_endpoints_join_announced(lab: Lab) -> None:
    """Endpoints join an announced address if the peer denies joins to its initial one.

    They do so with a limit of 0 for ADD_ADDR, too.
    """
    bench = clean(lab)
    bench.pm.set_limits(add_addrs=0)
    write_sysctl("net.mptcp.allow_join_initial_addr_port", "0")
    lab.afterwards(lambda: write_sysctl("net.mptcp.allow_join_initial_addr_port", "1"))
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)
    ends = bench.connect(lab)
    bench.pm.announce(ends.server_token, bench.server_address(2), 7)
    multipath.both_have(ends, 1)
    local, remote = multipath.addresses(ends.client)[1]
    equal("local address", local[0], bench.client_address(2))
    equal("remote address", remote[0], bench.server_address(2))


@scenario_check("add_addr.of_an_address_in_use", scenario=SCENARIO, needs=NEEDS)
def of_an_address_in_use(lab: Lab) -> None:
    """An announced address that has a subflow gets no second one, and is not counted."""
    bench = clean(lab)
    ends = bench.connect(lab)
    since = mib.Since()
    bench.pm.announce(ends.server_token, bench.server_address(1), 7)
    multipath.moved(since, {"AddAddrTx": 1, "AddAddr": 1, "EchoAddTx": 1, "EchoAdd": 1})
    info = multipath.info(ends.client)
    equal("mptcpi_subflows", info.mptcpi_subflows, 0)
    equal("mptcpi_add_addr_accepted", info.mptcpi_add_addr_accepted, 0)


@scenario_check("add_addr.initial_address_of_a_mesh", scenario=SCENARIO, needs=NEEDS)
def initial_address_of_a_mesh(lab: Lab) -> None:
    """A fullmesh endpoint with the initial address joins an announced address as id 0."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW | pm.FULLMESH, id=4)
    ends = bench.connect(lab)
    bench.pm.announce(ends.server_token, bench.server_address(2), 7)
    multipath.both_have(ends, 1)
    told = [
        (one.number("loc_id"), one.number("rem_id"))
        for one in bench.events.of(pm.SUB_ESTABLISHED, ends.token)
    ]
    equal("local and remote id", told, [(0, 7)])


@scenario_check("limits.lowered", scenario=SCENARIO, needs=NEEDS)
def limits_lowered(lab: Lab) -> None:
    """After RM_ADDR addresses are accepted up to the current limit."""
    bench = clean(lab)
    ends = bench.connect(lab)
    for id, path in ((7, 2), (8, 3)):
        bench.pm.announce(ends.server_token, bench.server_address(path), id)
        multipath.both_have(ends, id - 6)
    bench.pm.set_limits(add_addrs=1)
    bench.pm.remove(ends.server_token, 8)
    multipath.both_have(ends, 1)
    since = mib.Since()
    bench.pm.announce(ends.server_token, bench.server_address(4), 9)
    multipath.moved(since, {"AddAddrTx": 1, "AddAddr": 1, "EchoAddTx": 1, "EchoAdd": 1})
    equal("mptcpi_add_addr_accepted", multipath.info(ends.client).mptcpi_add_addr_accepted, 1)


@scenario_check("limits.room_after_a_subflow", scenario=SCENARIO, needs=NEEDS)
def room_after_a_subflow(lab: Lab) -> None:
    """A server at its limit accepts another subflow once one is closed."""
    bench = clean(lab)
    bench.pm.set_limits(subflows=1)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_KERNEL)
    target = (bench.server_address(1), ends.port)
    for path in (2, 3):
        bench.pm.create(ends.token, bench.client_address(path), path, target)
        multipath.both_have(ends, 1)
        bench.pm.destroy(ends.token, *multipath.addresses(ends.client)[-1])
        multipath.both_have(ends, 0)


@scenario_check("endpoint.port_is_for_joins", scenario=SCENARIO, needs=NEEDS)
def port_is_for_joins(lab: Lab) -> None:
    """The port of a signal endpoint accepts only joins; a new connection there is refused."""
    bench = clean(lab)
    probe = lab.socket(TCP)
    probe.bind((bench.server_address(4), 0))
    target = probe.getsockname()[:2]
    probe.close()
    bench.pm.add(target[0], pm.SIGNAL, id=9, port=target[1])
    for protocol in (TCP, MPTCP):
        since = mib.Since()
        equal("connect()", errno_of(lab.socket(protocol).connect, target), ECONNREFUSED)
        counted(since, "MPCapableEndpAttempt", 1)


@scenario_check("listener_event.not_if_listen_fails", scenario=SCENARIO,
                needs=(*NEEDS, "listener_events"))  # fmt: skip
def not_if_listen_fails(lab: Lab) -> None:
    """listen(2) that fails sends no event LISTENER_CREATED."""
    bench = clean(lab)
    first, second = lab.socket(), lab.socket()
    for sock in (first, second):
        sock.setsockopt(1, SO_REUSEADDR, 1)
    first.bind((bench.server_address(1), 0))
    second.bind(first.getsockname()[:2])
    first.listen(1)
    equal("second listen()", errno_of(second.listen, 1), EADDRINUSE)
    port = first.getsockname()[1]
    told = [one.port("sport") for one in bench.events.of(pm.LISTENER_CREATED)]
    equal("ports of the events", told, [port])


@scenario_check("flush.of_many_endpoints", scenario=SCENARIO, needs=NEEDS)
def flush_of_many_endpoints(lab: Lab) -> None:
    """A flush withdraws every announced address, even more than fit into one RM_ADDR."""
    bench = clean(lab)
    count = 0
    while count < MANY:
        address = topology.server_address(lab.family, count + 2)
        refusal = errno_of(lambda: bench.pm.add(address, pm.SIGNAL, id=count + 1))  # noqa: B023
        if refusal:
            equal("refusal of a ninth endpoint", (count, refusal in (ERANGE, EINVAL)), (8, True))
            break  # before 7.0 there may be eight
        count += 1
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_KERNEL)
    signalled = multipath.field(ends.server, "mptcpi_add_addr_signal")
    multipath.wait_for("mptcpi_add_addr_signal", signalled, count)
    bench.pm.flush()
    equal("mptcpi_add_addr_signal", signalled(), 0)


@scenario_check("add_addr.port_beside_timestamps", scenario=SCENARIO, needs=NEEDS)
def port_beside_timestamps(lab: Lab) -> None:
    """An address with a port is announced despite TCP timestamps, or counted as dropped.

    It is dropped where an IPv6 one needs their room and the kernel cannot leave them out.
    """
    bench = clean(lab)
    since = mib.Since()
    ends = bench.connect(lab)
    bench.pm.announce(ends.server_token, bench.server_address(2), 7, port=4321)
    if lab.family == _socket.AF_INET6 and not os.path.exists(DROP_TIMESTAMPS):
        if "AddAddrTxDrop" in since.start:
            multipath.wait_for("AddAddrTxDrop", lambda: since.of("AddAddrTxDrop"), 1)
        return
    told = wait_until(lambda: bench.events.of(pm.ANNOUNCED, ends.token))
    equal("announced ports", [one.port("dport") for one in told], [4321])


@scenario_check("deny_join.told_when_created", scenario=SCENARIO, needs=NEEDS)
def deny_join_told_when_created(lab: Lab) -> None:
    """The server's CREATED event reports that the client denies joins to its address."""
    bench = clean(lab)
    write_sysctl("net.mptcp.allow_join_initial_addr_port", "0")
    lab.afterwards(lambda: write_sysctl("net.mptcp.allow_join_initial_addr_port", "1"))
    ends = bench.connect(lab)
    found = bench.events.of(pm.CREATED, ends.server_token)
    flags = [(one.number("flags") or 0) & pm.DENY_JOIN_ID0 for one in found]
    equal("flag of the event", flags, [pm.DENY_JOIN_ID0])


@scenario_check("join.with_syn_cookies", scenario=SCENARIO, needs=NEEDS)
def join_with_syn_cookies(lab: Lab) -> None:
    """Joins answered with SYN cookies have their addresses' ids and the requested backup flag."""
    bench = clean(lab)
    bench.pm.add(bench.server_address(2), pm.SIGNAL | pm.BACKUP, id=7)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_KERNEL)
    write_sysctl(SYNCOOKIES, "2")
    lab.afterwards(lambda: write_sysctl(SYNCOOKIES, "1"))
    for path, id, remote, flags in ((2, 3, 2, 0), (3, 4, 1, pm.BACKUP)):
        target = (bench.server_address(remote), ends.port)
        bench.pm.create(ends.token, bench.client_address(path), id, target, flags)
    multipath.both_have(ends, 2)
    multipath.exchange(ends, DATA)
    expected = [(3, 7, diag.BKUP_REM), (4, 0, diag.BKUP_LOC)]
    multipath.wait_for(
        "client's ids and backup flags", lambda: backups(bench, ends.client), expected
    )
    expected = [(7, 3, diag.BKUP_LOC), (0, 4, diag.BKUP_REM)]
    multipath.wait_for(
        "server's ids and backup flags", lambda: backups(bench, ends.server), expected
    )


def backups(bench: multipath.Bench, sock: _socket.socket) -> list[tuple[int, int, int]]:
    """Local id, remote id and backup flags of each joined subflow."""
    found = [bench.diag.tcp(*pair).ulp for pair in multipath.addresses(sock)[1:]]
    both = diag.BKUP_LOC | diag.BKUP_REM
    return [(one.id_loc, one.id_rem, one.flags & both) for one in found if one]
