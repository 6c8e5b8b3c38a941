# SPDX-License-Identifier: GPL-2.0-only
"""sock_diag(7) of MPTCP sockets: by token, in dumps, before accept(); and of listeners."""

from __future__ import annotations

import _socket
import os

from guest import abi, diag, multipath, netlink, pm, topology
from guest.calls import POLLHUP, has_events
from guest.checks import Failed, equal, require, scenario_check
from guest.lab import TCP, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

    from guest.lab import Lab, Pair

SCENARIO = "diag"
NEEDS = ("mptcp_diag", "userspace_pm")
SUBFLOW_NEEDS = ("inet_diag", "userspace_pm")
ENOENT, EINVAL, EOPNOTSUPP = 2, 22, 95
SO_SNDBUF, SO_RCVBUF, SO_MARK, SO_PRIORITY = 7, 8, 36, 12
IPPROTO_IPV6, IPV6_V6ONLY = 41, 26
FALLBACK = 1
#: The fewest buckets of the kernel's table of listeners: one for 2 MiB of memory, of 128 MiB.
BUCKETS = 64
#: Fields that stand still while nothing is sent.
STILL = (
    "mptcpi_token", "mptcpi_subflows", "mptcpi_flags", "mptcpi_write_seq", "mptcpi_snd_una",
    "mptcpi_rcv_nxt", "mptcpi_subflows_max", "mptcpi_local_addr_max", "mptcpi_csum_enabled",
    "mptcpi_bytes_sent", "mptcpi_bytes_received", "mptcpi_bytes_acked", "mptcpi_subflows_total",
)  # fmt: skip


def shared(lab: Lab) -> multipath.Ends:
    """A connection that the checks only look at, with a subflow of an endpoint."""
    bench = multipath.bench(lab)

    def tell() -> multipath.Ends:
        bench.clean()
        bench.pm.add(bench.client_address(2), pm.SUBFLOW)
        ends = bench.connect()
        multipath.both_have(ends, 1)
        acked = multipath.field(ends.server, "mptcpi_snd_una")
        written = multipath.info(ends.server).mptcpi_write_seq
        multipath.wait_for("mptcpi_snd_una", acked, written)
        return ends

    return bench.story("shared", tell)


def sides(ends: multipath.Ends) -> Sequence[tuple[_socket.socket, int]]:
    return ((ends.client, ends.token), (ends.server, ends.server_token))


def refused(what: str, call: Callable[[], object], errno: int) -> None:
    try:
        call()
    except netlink.Refused as error:
        equal(what + ": errno", error.errno, errno)
    else:
        raise Failed(what, "errno %d" % errno, "success")


@scenario_check("diag.by_token", scenario=SCENARIO, needs=NEEDS)
def by_token(lab: Lab) -> None:
    """An MPTCP socket is found by its token, with its addresses, state and owner."""
    bench = multipath.bench(lab)
    for sock, token in sides(shared(lab)):
        found = bench.diag.mptcp(token)
        equal("local address", found.local, sock.getsockname()[:2])
        equal("remote address", found.remote, sock.getpeername()[:2])
        equal("state", found.state, diag.ESTABLISHED)
        equal("family", found.family, int(sock.family))
        equal("inode", found.inode, os.fstat(sock.fileno()).st_ino)
        equal("uid", found.uid, os.geteuid())


@scenario_check("diag.info_is_mptcp_info", scenario=SCENARIO, needs=NEEDS)
def info_is_mptcp_info(lab: Lab) -> None:
    """INET_DIAG_INFO of an MPTCP socket is its MPTCP_INFO."""
    bench = multipath.bench(lab)
    for sock, token in sides(shared(lab)):
        info, found = multipath.info(sock), bench.diag.mptcp(token).info
        for name in STILL:
            if info.has(name):
                equal(name, getattr(found, name), getattr(info, name), found.raw)


@scenario_check("diag.unknown_token", scenario=SCENARIO, needs=NEEDS)
def unknown_token(lab: Lab) -> None:
    """A query for a token that no socket has fails with ENOENT."""
    bench, ends = multipath.bench(lab), shared(lab)
    token = next(n for n in range(1, 4) if n not in (ends.token, ends.server_token))
    refused("token %d" % token, lambda: bench.diag.mptcp(token), ENOENT)


@scenario_check("diag.dump_by_port", scenario=SCENARIO, needs=NEEDS)
def dump_by_port(lab: Lab) -> None:
    """A dump filtered by source or destination port has only the sockets with that port."""
    bench, ends = multipath.bench(lab), shared(lab)
    by_source = [one.state for one in bench.diag.mptcp_sockets(sport=ends.port)]
    equal("from the server's port", sorted(by_source), [diag.ESTABLISHED, diag.LISTEN])
    by_destination = bench.diag.mptcp_sockets(dport=ends.port)
    equal(
        "to the server's port",
        [one.local for one in by_destination],
        [ends.client.getsockname()[:2]],
    )


@scenario_check("diag.dump_by_state", scenario=SCENARIO, needs=NEEDS)
def dump_by_state(lab: Lab) -> None:
    """A dump filtered by state has only the sockets in that state."""
    bench = multipath.bench(lab)
    shared(lab)
    for state in (diag.ESTABLISHED, diag.LISTEN):
        found = bench.diag.mptcp_sockets(states=1 << state)
        require("sockets in state %d" % state, bool(found), "some", "none")
        equal("their states", {one.state for one in found}, {state})
    equal("in SYN_SENT", len(bench.diag.mptcp_sockets(states=1 << diag.SYN_SENT)), 0)


@scenario_check("diag.dump_by_family", scenario=SCENARIO, needs=NEEDS)
def dump_by_family(lab: Lab) -> None:
    """A dump filtered by family has only the sockets of that family."""
    bench, ends = multipath.bench(lab), shared(lab)
    own = bench.diag.mptcp_sockets(family=int(lab.family))
    require("own family", len(own) >= 3, "three or more", len(own))
    equal("families", {one.family for one in own}, {int(lab.family)})
    other = _socket.AF_INET if lab.family == _socket.AF_INET6 else _socket.AF_INET6
    ports = [one.local[1] for one in bench.diag.mptcp_sockets(family=int(other))]
    require("the other family", ends.port not in ports, "not this connection", ports)


def apart(lab: Lab, number: int) -> Sequence[Pair]:
    """Connections whose listeners are in different buckets of the kernel's table of listeners.

    Listeners on one address share a bucket if their ports are equal modulo its size, and a dump
    leaves one of them out: diag.listeners_of_one_port.
    """
    others = multipath.bench(lab).diag.mptcp_sockets(states=1 << diag.LISTEN)
    taken = {one.local[1] % BUCKETS for one in others}
    pairs: list[Pair] = []
    while len(pairs) < number:
        pair = lab.pair()
        bucket = pair.listener.getsockname()[1] % BUCKETS
        if bucket in taken:
            pair.listener.close()
        else:
            pairs.append(pair)
            taken.add(bucket)
    return pairs


@scenario_check("diag.dump_in_pieces", scenario=SCENARIO, needs=NEEDS)
def dump_in_pieces(lab: Lab) -> None:
    """A dump that does not fit into one message has each socket once.

    Sockets of other scenarios come and go in the same buckets: see concurrent.diag_during_changes.
    """
    pairs = apart(lab, 6)
    ends = [sock for pair in pairs for sock in (pair.client, pair.server)]
    tokens = sorted(multipath.info(sock).mptcpi_token for sock in ends)
    listeners = sorted(pair.listener.getsockname()[1] for pair in pairs)
    small = diag.Diag(room=4096)
    lab.afterwards(small.close)

    def dump(listening: bool) -> Sequence[diag.Record]:
        found = small.mptcp_sockets(family=int(lab.family))
        return [one for one in found if (one.state == diag.LISTEN) == listening]

    def connections() -> list[int]:
        seen = (one.info.mptcpi_token for one in dump(listening=False))
        return sorted(token for token in seen if token in tokens)

    multipath.wait_for("each connection", connections, tokens)
    ports = sorted(one.local[1] for one in dump(listening=True) if one.local[1] in listeners)
    equal("each listener", ports, listeners)


@scenario_check("diag.listener_queues", scenario=SCENARIO, needs=NEEDS)
def listener_queues(lab: Lab) -> None:
    """A listener's queues are the connections that wait for accept(), and the backlog."""
    bench = multipath.bench(lab)
    listener = lab.listener(backlog=5)
    port = listener.getsockname()[1]

    def queues() -> tuple[int, int]:
        found = bench.diag.mptcp_sockets(sport=port, states=1 << diag.LISTEN)
        equal("listeners", len(found), 1)
        return found[0].rqueue, found[0].wqueue

    equal("queues", queues(), (0, 5))
    for waiting in (1, 2):
        lab.socket().connect(listener.getsockname())
        multipath.wait_for("queues", queues, (waiting, 5))
    lab.accept(listener)
    multipath.wait_for("queues", queues, (1, 5))


@scenario_check("diag.before_accept", scenario=SCENARIO, needs=NEEDS)
def before_accept(lab: Lab) -> None:
    """A connection that waits for accept() is dumped with both its addresses."""
    bench = multipath.bench(lab)
    listener = lab.listener()
    client = lab.socket()
    client.connect(listener.getsockname())
    port = listener.getsockname()[1]

    def waiting() -> Sequence[diag.Record]:
        return bench.diag.mptcp_sockets(sport=port, states=1 << diag.ESTABLISHED)

    multipath.wait_for("sockets", lambda: len(waiting()), 1)
    found = waiting()[0]
    equal("local address", found.local, listener.getsockname()[:2])
    equal("remote address", found.remote, client.getsockname()[:2])
    equal("inode", found.inode, 0)
    server = lab.accept(listener)
    found = waiting()[0]
    equal("inode after accept()", found.inode, os.fstat(server.fileno()).st_ino)
    equal("token after accept()", found.info.mptcpi_token, multipath.info(server).mptcpi_token)


@scenario_check("diag.subflow_before_accept", scenario=SCENARIO, needs=SUBFLOW_NEEDS)
def subflow_before_accept(lab: Lab) -> None:
    """The subflow has no inode until accept(2), and then that of the accepted socket."""
    bench = multipath.bench(lab)
    listener = lab.listener()
    client = lab.socket()
    client.connect(listener.getsockname())
    pair = (client.getpeername(), client.getsockname())
    equal("inode", bench.diag.tcp(*pair).inode, 0)
    server = lab.accept(listener)
    found = bench.diag.tcp(*pair)
    equal("inode after accept()", found.inode, os.fstat(server.fileno()).st_ino)
    equal("token", found.ulp and found.ulp.token_loc, multipath.info(server).mptcpi_token)


@scenario_check("diag.options_of_mptcp_socket", scenario=SCENARIO, needs=NEEDS)
def options_of_mptcp_socket(lab: Lab) -> None:
    """Mark, priority and buffer sizes of an MPTCP socket are those that were set."""
    bench = multipath.bench(lab)
    client = lab.pair().client
    client.setsockopt(_socket.SOL_SOCKET, SO_MARK, 17)
    client.setsockopt(_socket.SOL_SOCKET, SO_PRIORITY, 4)
    client.setsockopt(_socket.SOL_SOCKET, SO_SNDBUF, 50_000)
    client.setsockopt(_socket.SOL_SOCKET, SO_RCVBUF, 60_000)
    found = bench.diag.mptcp(multipath.info(client).mptcpi_token)
    equal("mark", found.mark, 17)
    equal("priority", found.priority, 4)
    equal("send buffer", found.skmem.sndbuf, 100_000)
    equal("receive buffer", found.skmem.rcvbuf, 120_000)


@scenario_check("diag.unread_data", scenario=SCENARIO, needs=NEEDS)
def unread_data(lab: Lab) -> None:
    """Unread data are in the receive queue of the MPTCP socket until they are read."""
    bench = multipath.bench(lab)
    pair = lab.pair()
    token = multipath.info(pair.server).mptcpi_token
    equal("receive queue", bench.diag.mptcp(token).rqueue, 0)
    pair.client.sendall(bytes(1000))
    held = wait_until(lambda: bench.diag.mptcp(token).rqueue)
    require("receive queue with data", held >= 1000, "1000 or more", held)
    equal("rmem_alloc", bench.diag.mptcp(token).skmem.rmem_alloc, held)
    pair.server.recv(2000)
    multipath.wait_for("receive queue", lambda: bench.diag.mptcp(token).rqueue, 0)


@scenario_check("diag.shutdown", scenario=SCENARIO, needs=NEEDS)
def shutdown(lab: Lab) -> None:
    """After shutdown() diag shows which direction is closed, and the state at both ends."""
    bench = multipath.bench(lab)
    pair = lab.pair()
    tokens = [multipath.info(sock).mptcpi_token for sock in (pair.client, pair.server)]
    multipath.transfer(pair.client, pair.server, b"?")
    multipath.transfer(pair.server, pair.client, b"!")
    pair.client.shutdown(_socket.SHUT_WR)
    multipath.wait_for("client's state", lambda: bench.diag.mptcp(tokens[0]).state, diag.FIN_WAIT2)
    multipath.wait_for("server's state", lambda: bench.diag.mptcp(tokens[1]).state, diag.CLOSE_WAIT)
    equal("client's shutdown", bench.diag.mptcp(tokens[0]).shutdown, 2)
    equal("server's shutdown", bench.diag.mptcp(tokens[1]).shutdown, 1)


@scenario_check("diag.v6only", scenario=SCENARIO, needs=NEEDS, families=("ipv6",))
def v6only(lab: Lab) -> None:
    """IPV6_V6ONLY of a listener is shown for the MPTCP socket and for its subflow."""
    bench = multipath.bench(lab)
    for value in (0, 1):
        listener = lab.socket()
        listener.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, value)
        listener.bind(("::", 0))
        listener.listen(1)
        found = bench.diag.mptcp_sockets(sport=listener.getsockname()[1])
        equal("IPV6_V6ONLY", [one.v6only for one in found], [value])
        equal("of the subflow", bench.diag.tcp_listener(listener).v6only, value)


@scenario_check("diag.gone_after_close", scenario=SCENARIO, needs=NEEDS)
def gone_after_close(lab: Lab) -> None:
    """Closed connections and listeners are no longer in a dump."""
    bench = multipath.bench(lab)
    pair = lab.pair()
    port = pair.listener.getsockname()[1]
    for sock in (pair.client, pair.server, pair.listener):
        sock.close()
    multipath.wait_for(
        "sockets of the port",
        lambda: len(with_port(bench, port)),
        0,
    )


@scenario_check("diag.other_namespace", scenario=SCENARIO, needs=NEEDS)
def other_namespace(lab: Lab) -> None:
    """Another network namespace shows neither the MPTCP sockets nor their subflows."""
    ends = shared(lab)
    with topology.Namespace():
        other = diag.Diag()
    equal("MPTCP sockets", len(other.mptcp_sockets()), 0)
    equal("subflows", len(other.tcp_sockets()), 0)
    refused("the token", lambda: other.mptcp(ends.token), ENOENT)
    refused("the subflow", lambda: other.subflow(ends.client), ENOENT)
    other.close()


@scenario_check("diag.mptcp_socket_not_destroyed", scenario=SCENARIO,
                needs=(*NEEDS, "sock_destroy"))  # fmt: skip
def mptcp_socket_not_destroyed(lab: Lab) -> None:
    """SOCK_DESTROY of an MPTCP socket is not supported and does not affect the connection."""
    bench = multipath.bench(lab)
    pair = lab.pair()
    found = bench.diag.mptcp(multipath.info(pair.client).mptcpi_token)
    refused("SOCK_DESTROY", lambda: bench.diag.destroy(found), EOPNOTSUPP)
    multipath.transfer(pair.client, pair.server, b"still there")


@scenario_check("diag.listener_not_destroyed", scenario=SCENARIO,
                needs=(*SUBFLOW_NEEDS, "sock_destroy"))  # fmt: skip
def listener_not_destroyed(lab: Lab) -> None:
    """SOCK_DESTROY of the subflow of an MPTCP listener fails with EINVAL; it still accepts."""
    bench = multipath.bench(lab)
    listener = lab.listener()
    found = bench.diag.tcp_listener(listener)
    refused("SOCK_DESTROY", lambda: bench.diag.destroy(found), EINVAL)
    client = lab.socket()
    client.connect(listener.getsockname())
    multipath.transfer(client, lab.accept(listener), b"accepted")


@scenario_check("diag.destroyed_only_subflow", scenario=SCENARIO,
                needs=(*SUBFLOW_NEEDS, "sock_destroy"))  # fmt: skip
def destroyed_only_subflow(lab: Lab) -> None:
    """SOCK_DESTROY of the subflow of a plain connection removes that subflow."""
    bench = multipath.bench(lab)
    pair = lab.pair()
    ends = (pair.client.getsockname(), pair.client.getpeername())
    bench.diag.destroy(bench.diag.tcp(*ends))
    refused("the subflow", lambda: bench.diag.tcp(*ends), ENOENT)


@scenario_check("accept.after_its_subflow_was_reset", scenario=SCENARIO,
                needs=(*SUBFLOW_NEEDS, "sock_destroy"))  # fmt: skip
def accept_after_reset(lab: Lab) -> None:
    """A connection whose only subflow was reset before accept(2) is closed: POLLHUP."""
    bench = multipath.bench(lab)
    listener = lab.listener()
    client = lab.socket()
    client.connect(listener.getsockname())
    ends = (client.getpeername(), client.getsockname())
    bench.diag.destroy(bench.diag.subflow(client))
    # Once the subflow is gone the kernel finds the listener by these addresses.
    wait_until(lambda: bench.diag.tcp(*ends).state == diag.LISTEN)
    has_events("of the accepted socket", lab.accept(listener), POLLHUP)


@scenario_check("diag.sequence_numbers", scenario=SCENARIO, needs=SUBFLOW_NEEDS)
def sequence_numbers(lab: Lab) -> None:
    """ULP info has the bytes that the subflow carried, and the last mapping received."""
    bench = multipath.bench(lab)
    pair = lab.pair()
    size = 1234
    multipath.transfer(pair.client, pair.server, bytes(size))
    sender = bench.diag.subflow(pair.client).ulp
    receiver = bench.diag.subflow(pair.server).ulp
    info = multipath.info(pair.server)
    equal("sender's relative sequence", sender and sender.relwrite_seq, size + 1)
    if receiver is None:
        raise Failed("ULP info", "there", "none")
    mapped = (receiver.map_seq + receiver.map_datalen) % abi.U64
    equal("end of the last mapping", mapped, info.mptcpi_rcv_nxt)
    equal("its place in the subflow", receiver.map_sfseq + receiver.map_datalen, size + 1)


@scenario_check("diag.fallback_flag", scenario=SCENARIO, needs=NEEDS)
def fallback_flag(lab: Lab) -> None:
    """A client that fell back to TCP has MPTCP_INFO_FLAG_FALLBACK in diag."""
    bench = multipath.bench(lab)
    plain, fallen = lab.pair(), lab.pair(server=TCP)
    for pair, expected in ((plain, 0), (fallen, FALLBACK)):
        found = bench.diag.mptcp_sockets(dport=pair.listener.getsockname()[1])
        equal("clients", len(found), 1)
        equal("fallback flag", found[0].info.mptcpi_flags & FALLBACK, expected)


@scenario_check("diag.accepted_tcp_is_no_mptcp", scenario=SCENARIO, needs=NEEDS)
def accepted_tcp_is_no_mptcp(lab: Lab) -> None:
    """A socket accepted from a plain TCP client is not listed as an MPTCP socket."""
    bench = multipath.bench(lab)
    pair = lab.pair(client=TCP)
    found = with_port(bench, pair.listener.getsockname()[1])
    equal("states", [one.state for one in found], [diag.LISTEN])
    equal("a subflow", bench.diag.subflow(pair.server).is_subflow, False)


def with_port(bench: multipath.Bench, port: int) -> Sequence[diag.Record]:
    """The MPTCP sockets with ``port`` on either side."""
    return [*bench.diag.mptcp_sockets(sport=port), *bench.diag.mptcp_sockets(dport=port)]
