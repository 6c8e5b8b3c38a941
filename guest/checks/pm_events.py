# SPDX-License-Identifier: GPL-2.0-only
"""The path managers' events with all that they carry, and what commands say that lack something."""

from __future__ import annotations

import _socket

from guest import diag, mib, multipath, netlink, pm, topology
from guest.checks import equal, scenario_check
from guest.checks.pm_special import clean
from guest.checks.userspace_pm import must_refuse
from guest.lab import TCP, wait_until, write_sysctl
from guest.states import disconnect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

    from guest.lab import Lab
    from guest.pm import Event

    Address = tuple[str, int]
    Call = Callable[[], object]

SCENARIO = "pm_events"
NEEDS = ("userspace_pm", "inet_diag")
EINVAL, ESRCH, ENOENT = 22, 3, 2
LO = 1


def the_event(bench: multipath.Bench, kind: int, token: int) -> Event:
    """The one event of ``kind`` that a connection has."""
    multipath.wait_for("events of kind %d" % kind, lambda: len(bench.events.of(kind, token)), 1)
    return bench.events.of(kind, token)[0]


def subflow_in(event: Event) -> tuple[object, ...]:
    """The family and the addresses of an event's subflow."""
    local = (event.address("saddr"), event.port("sport"))
    remote = (event.address("daddr"), event.port("dport"))
    return event.number("family"), local, remote


def numbers(event: Event, *names: str) -> dict[str, object]:
    return {name: event.number(name) for name in names}


@scenario_check("events.connection", scenario=SCENARIO, needs=NEEDS)
def connection(lab: Lab) -> None:
    """CREATED and ESTABLISHED of each end name its token, its subflow and the server's side."""
    bench = clean(lab)
    bench.events.forget()
    ends = bench.connect(lab)
    for sock, token, side in (
        (ends.client, ends.token, None),
        (ends.server, ends.server_token, 1),
    ):
        names = (sock.getsockname()[:2], sock.getpeername()[:2])
        for kind in (pm.CREATED, pm.ESTABLISHED):
            event = the_event(bench, kind, token)
            equal("subflow", subflow_in(event), (int(lab.family), *names))
            equal("server_side", event.number("server_side") or None, side)
            flags = event.number("flags")
            if flags is not None:  # since 6.18 only the flag is sent for sure
                equal("flag of the server's side", bool(flags & pm.SERVER_SIDE), bool(side))
            found = numbers(event, "loc_id", "rem_id", "error")
            equal("ids", found, {"loc_id": 0, "rem_id": 0, "error": None})


@scenario_check("events.subflow", scenario=SCENARIO, needs=NEEDS)
def subflow(lab: Lab) -> None:
    """SUB_ESTABLISHED and SUB_CLOSED name addresses, ids, backup and device of the subflow."""
    bench = clean(lab)
    bench.events.forget()
    bench.pm.add(bench.client_address(2), pm.SUBFLOW | pm.BACKUP, id=5, interface=LO)
    ends = bench.connect(lab)
    multipath.both_have(ends, 1)
    client, server = bench.client_address(2), bench.server_address(1)
    bench.pm.delete(5)
    port = None
    for kind in (pm.SUB_ESTABLISHED, pm.SUB_CLOSED):
        near, far = (the_event(bench, kind, token) for token in (ends.token, ends.server_token))
        port = port or near.port("sport")
        here, there = (client, port), (server, ends.port)
        equal("subflow of the client", subflow_in(near), (int(lab.family), here, there))
        equal("subflow of the server", subflow_in(far), (int(lab.family), there, here))
        found = numbers(near, "loc_id", "rem_id", "backup", "if_idx")
        equal("client's", found, {"loc_id": 5, "rem_id": 0, "backup": 0, "if_idx": LO})
        found = numbers(far, "loc_id", "rem_id", "backup", "if_idx")
        equal("server's", found, {"loc_id": 0, "rem_id": 5, "backup": 1, "if_idx": None})


@scenario_check("events.closed", scenario=SCENARIO, needs=NEEDS)
def closed(lab: Lab) -> None:
    """CLOSED is sent once for each end when the connection is over, with the token alone."""
    bench = clean(lab)
    ends = bench.connect(lab)
    equal("CLOSED while it is open", len(bench.events.of(pm.CLOSED, ends.token)), 0)
    ends.client.close()
    ends.server.close()
    for token in (ends.token, ends.server_token):
        event = the_event(bench, pm.CLOSED, token)
        equal("attributes", sorted(event.attributes), [event.NUMBERS["token"]])


@scenario_check("events.closed_by_disconnect", scenario=SCENARIO, needs=NEEDS)
def closed_by_disconnect(lab: Lab) -> None:
    """connect(AF_UNSPEC) sends CLOSED of the connection that it ends, and close() no other one."""
    bench = clean(lab)
    ends = bench.connect(lab)
    disconnect(ends.client)
    the_event(bench, pm.CLOSED, ends.token)
    ends.client.close()
    the_event(bench, pm.CLOSED, ends.token)


@scenario_check("endpoint.signal_does_not_join", scenario=SCENARIO, needs=NEEDS)
def signal_does_not_join(lab: Lab) -> None:
    """Signal endpoints announce their addresses and make no subflow; subflow ones after them do."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(2), pm.SIGNAL, id=2)
    bench.pm.add(bench.client_address(4), pm.SIGNAL, id=4)
    bench.pm.add(bench.client_address(3), pm.SUBFLOW, id=5)
    ends = bench.connect(lab)
    multipath.both_have(ends, 1)
    multipath.wait_for(
        "mptcpi_add_addr_signal", multipath.field(ends.client, "mptcpi_add_addr_signal"), 2
    )
    multipath.exchange(ends, b"data")
    local = [pair[0][0] for pair in multipath.addresses(ends.client)]
    equal("local addresses", local, [bench.client_address(1), bench.client_address(3)])

    def announced() -> list[int]:
        told = bench.events.of(pm.ANNOUNCED, ends.server_token)
        return sorted(one.number("rem_id") or 0 for one in told)

    multipath.wait_for("ids announced", announced, [2, 4])


@scenario_check("endpoint.flush_of_many", scenario=SCENARIO, needs=NEEDS)
def flush_of_many(lab: Lab) -> None:
    """A flush withdraws all announced addresses in one RM_ADDR, and counts each."""
    bench = clean(lab)
    for path in (2, 3, 4):
        bench.pm.add(bench.server_address(path), pm.SIGNAL, id=path)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_KERNEL)
    signalled = multipath.field(ends.server, "mptcpi_add_addr_signal")
    multipath.wait_for("mptcpi_add_addr_signal", signalled, 3)
    multipath.wait_for("ANNOUNCED", lambda: len(bench.events.of(pm.ANNOUNCED, ends.token)), 3)
    since = mib.Since()
    bench.pm.flush()
    multipath.wait_for("mptcpi_add_addr_signal", signalled, 0)
    # The echo of the last address may still be due, or on its way.
    late = ("EchoAddTx", "EchoAdd")
    multipath.moved(since, {"RmAddrTx": 3, "RmAddr": 3}, (*multipath.IN_FLIGHT, *late))
    told = [one.number("rem_id") for one in bench.events.of(pm.REMOVED, ends.token)]
    equal("ids of REMOVED", sorted(one or 0 for one in told), [2, 3, 4])


@scenario_check("limits.lowered_under_a_connection", scenario=SCENARIO, needs=NEEDS)
def lowered(lab: Lab) -> None:
    """Lowering the limits closes no subflow; MPTCP_INFO shows them; none is added."""
    bench = clean(lab)
    for path in (2, 3):
        bench.pm.add(bench.client_address(path), pm.SUBFLOW, id=path)
    ends = bench.connect(lab)
    multipath.both_have(ends, 2)
    bench.pm.set_limits(0, 1)
    bench.pm.add(bench.client_address(4), pm.SUBFLOW, id=4)
    multipath.exchange(ends, b"data")
    info = multipath.info(ends.client)
    equal("mptcpi_subflows", info.mptcpi_subflows, 2)
    equal("mptcpi_subflows_max", info.mptcpi_subflows_max, 1)
    equal("mptcpi_add_addr_accepted_max", info.mptcpi_add_addr_accepted_max, 0)
    bench.pm.delete(2)
    multipath.both_have(ends, 1)


@scenario_check("join.after_a_fallback_and_disconnect", scenario=SCENARIO, needs=NEEDS)
def after_fallback(lab: Lab) -> None:
    """A socket that fell back, and is disconnected, joins in its next connection with MPTCP."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)
    listener = lab.adopt(_socket.socket(lab.family, _socket.SOCK_STREAM, TCP))
    listener.bind((bench.server_address(1), 0))
    listener.listen(1)
    write_sysctl(multipath.PM_TYPE, str(pm.IN_KERNEL))
    client = lab.socket()
    client.bind((bench.client_address(1), 0))
    client.connect(listener.getsockname()[:2])
    disconnect(client)
    write_sysctl(multipath.PM_TYPE, str(pm.IN_USER_SPACE))
    second = _any_listener(lab)
    client.connect((bench.server_address(1), second.getsockname()[1]))
    ends = multipath.Ends(client, lab.accept(second), second)
    multipath.exchange(ends, b"data")
    multipath.both_have(ends, 1)


def _any_listener(lab: Lab) -> _socket.socket:
    sock = lab.socket()
    sock.bind(("::" if lab.family == _socket.AF_INET6 else "", 0))
    sock.listen(2)
    return sock


# What commands of the user-space path manager say of requests that lack something.


def _lacking(bench: multipath.Bench, ends: multipath.Ends) -> Sequence[tuple[str, int, Call]]:
    call = bench.pm.family.call
    token = netlink.attribute(pm.ATTR_TOKEN, netlink.u32(ends.token))
    local = netlink.nested(pm.ATTR_ADDR, *pm._entry(bench.client_address(2), 2, pm.SIGNAL))
    plain = netlink.nested(pm.ATTR_ADDR, *pm._entry(bench.client_address(2), 2))
    remote = netlink.nested(pm.ATTR_REMOTE, *pm._entry(bench.server_address(1), port=ends.port))
    no_family = netlink.nested(pm.ATTR_ADDR, netlink.attribute(pm.ADDR_ID, netlink.u8(2)))
    here, there = (bench.client_address(1), 1), (bench.server_address(1), ends.port)
    other = _socket.AF_INET if bench.family == _socket.AF_INET6 else _socket.AF_INET6
    return (
        ("announce without a token", EINVAL, lambda: call(pm.ANNOUNCE, local)),
        ("announce without an address", EINVAL, lambda: call(pm.ANNOUNCE, token)),
        ("announce without a family", EINVAL, lambda: call(pm.ANNOUNCE, token, no_family)),
        ("remove without a token", EINVAL, lambda: bench.pm.family.call(
            pm.REMOVE, netlink.attribute(pm.ATTR_LOC_ID, netlink.u8(2)))),
        ("remove without an id", EINVAL, lambda: call(pm.REMOVE, token)),
        ("remove of an unknown id", EINVAL, lambda: bench.pm.remove(ends.token, 99)),
        ("create without a token", EINVAL, lambda: call(pm.SUBFLOW_CREATE, plain, remote)),
        ("create without a remote address", EINVAL, lambda: call(pm.SUBFLOW_CREATE, token, plain)),
        ("create without a local address", EINVAL, lambda: call(pm.SUBFLOW_CREATE, token, remote)),
        ("destroy without a token", EINVAL, lambda: call(pm.SUBFLOW_DESTROY, plain, remote)),
        ("destroy without addresses", EINVAL, lambda: call(pm.SUBFLOW_DESTROY, token)),
        ("destroy without a local port", EINVAL, lambda: bench.pm.destroy(
            ends.token, (here[0], 0), there)),
        ("destroy without a remote port", EINVAL, lambda: bench.pm.destroy(
            ends.token, here, (there[0], 0))),
        ("destroy between two families", EINVAL, lambda: bench.pm.destroy(
            ends.token, (topology.client_address(other, 1), 1), there)),
        ("destroy of an unknown subflow", ESRCH, lambda: bench.pm.destroy(
            ends.token, here, there)),
        ("flags without a remote address", EINVAL, lambda: call(pm.SET_FLAGS, token, plain)),
        ("flags of an unknown subflow", EINVAL, lambda: bench.pm.set_priority(
            ends.token, (bench.client_address(3), 0), there, pm.BACKUP)),
    )  # fmt: skip


@scenario_check("userspace_pm.incomplete_commands_refused", scenario=SCENARIO, needs=NEEDS)
def incomplete(lab: Lab) -> None:
    """Commands without token, address, id, port or remote address are refused, without effect."""
    bench = clean(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    bench.events.forget()
    since = mib.Since()
    for what, errno, call in _lacking(bench, ends):
        must_refuse(what, call, errno)
    multipath.exchange(ends, b"data")
    multipath.moved(since, {}, multipath.IN_FLIGHT)
    info = multipath.info(ends.client)
    found = (info.mptcpi_subflows, info.mptcpi_local_addr_used, info.mptcpi_add_addr_signal)
    equal("subflows, addresses used, announced", found, (0, 0, 0))


@scenario_check("userspace_pm.one_id_for_an_address", scenario=SCENARIO, needs=NEEDS)
def one_id(lab: Lab) -> None:
    """An address cannot change its id, nor an id its address, until RM_ADDR frees both."""
    bench = clean(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    first, second = bench.client_address(2), bench.client_address(3)
    bench.pm.announce(ends.token, first, 2)
    must_refuse("another id", lambda: bench.pm.announce(ends.token, first, 3), EINVAL)
    must_refuse("another address", lambda: bench.pm.announce(ends.token, second, 2), EINVAL)
    signalled = multipath.field(ends.client, "mptcpi_add_addr_signal")
    equal("mptcpi_add_addr_signal", signalled(), 1)
    bench.pm.remove(ends.token, 2)
    equal("mptcpi_add_addr_signal", signalled(), 0)
    wait_until(lambda: bench.events.of(pm.REMOVED, ends.server_token))
    bench.pm.announce(ends.token, second, 2)

    def told(kind: int) -> Sequence[Event]:
        return bench.events.of(kind, ends.server_token)

    multipath.wait_for(
        "ANNOUNCED",
        lambda: [
            e.address("daddr") or "" for e in bench.events.of(pm.ANNOUNCED, ends.server_token)
        ],
        [first, second],
    )


@scenario_check("userspace_pm.removes_id_zero", scenario=SCENARIO, needs=NEEDS)
def removes_id_zero(lab: Lab) -> None:
    """REMOVE of id 0 sends RM_ADDR of the initial subflow, which the peer closes."""
    bench = clean(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    target = (bench.server_address(1), ends.port)
    bench.pm.create(ends.token, bench.client_address(2), 2, target)
    multipath.both_have(ends, 1)
    bench.pm.remove(ends.token, 0)
    multipath.wait_for(
        "ids of REMOVED",
        lambda: [e.number("rem_id") or 0 for e in bench.events.of(pm.REMOVED, ends.server_token)],
        [0],
    )
    multipath.exchange(ends, b"on the other subflow")
    multipath.wait_for("SUB_CLOSED", lambda: len(bench.events.of(pm.SUB_CLOSED, ends.token)), 1)


@scenario_check(
    "userspace_pm.addresses_by_token", scenario=SCENARIO, needs=(*NEEDS, "pm_get_token")
)
def addresses_by_token(lab: Lab) -> None:
    """GET_ADDR refuses an unknown id or token; a dump of a token has each address once."""
    bench = clean(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    equal("addresses at first", len(bench.pm.addresses(ends.token)), 0)
    bench.pm.announce(ends.token, bench.client_address(2), 2)
    target = (bench.server_address(1), ends.port)
    bench.pm.create(ends.token, bench.client_address(3), 7, target, pm.BACKUP)
    multipath.both_have(ends, 1)
    found = {one.id: (one.address, one.flags) for one in bench.pm.addresses(ends.token)}
    expected = {
        2: (bench.client_address(2), pm.SIGNAL),
        7: (bench.client_address(3), pm.SUBFLOW | pm.BACKUP),
    }
    equal("addresses", found, expected)
    one = bench.pm.address(ends.token, 7)
    equal("address 7", (one.id, one.address, one.flags), (7, *expected[7]))
    must_refuse("an unknown id", lambda: bench.pm.address(ends.token, 9), EINVAL)
    must_refuse("an unknown token", lambda: bench.pm.addresses(1), EINVAL)


@scenario_check("userspace_pm.priority_of_the_named_subflow", scenario=SCENARIO, needs=NEEDS)
def priority_of_the_named(lab: Lab) -> None:
    """If two subflows share an address, SET_FLAGS makes only the named one a backup."""
    bench = clean(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    local = bench.client_address(2)
    for path in (1, 2):
        remote = (bench.server_address(path), ends.port)
        bench.pm.create(ends.token, local, 2, remote, remote_id=path - 1)
        multipath.both_have(ends, path)
        multipath.fully_established(bench, ends.client)
    bench.pm.set_priority(ends.token, (local, 0), (bench.server_address(2), ends.port), pm.BACKUP)

    def backups() -> list[str]:
        subflows = multipath.addresses(ends.client)
        records = [(far[0], bench.diag.tcp(near, far).ulp) for near, far in subflows]
        return [address for address, ulp in records if ulp and ulp.flags & diag.BKUP_LOC]

    multipath.wait_for("backup subflows", backups, [bench.server_address(2)])
