# SPDX-License-Identifier: GPL-2.0-only
"""Subflows that are destroyed, reset or cut while a connection goes on; and its end."""

from __future__ import annotations

import _socket
import struct

from guest import diag, mib, multipath, pm
from guest.checks import Failed, equal, require, scenario_check
from guest.connection import IO_DEADLINE
from guest.lab import wait_until, write_sysctl
from guest.scenarios import Scenario, declare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

    from guest.lab import Lab

    Pairs = Sequence[tuple[multipath.Address, multipath.Address]]

NEEDS = ("userspace_pm", "inet_diag")
DESTROY = (*NEEDS, "sock_destroy")
SCENARIO = declare(Scenario("subflow_failures", waits=True)).name
DATA = bytes(range(256)) * 64
#: Bytes; more than both ends' small buffers take.
MOST = 1 << 21
ECONNRESET, ECONNABORTED = 104, 103
SO_SNDBUF, SO_LINGER = 7, 13
LINGER_NOT = struct.pack("=ii", 1, 0)


def connect(lab: Lab, *flags: int, before: Optional[multipath.Setup] = None) -> multipath.Ends:
    """A connection with one subflow from an endpoint of each of ``flags``."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.quiet()
    for path, each in enumerate(flags, 2):
        bench.pm.add(bench.client_address(path), each, id=path)
    ends = bench.connect(lab, before_connect=before, before_bind=before)
    multipath.both_have(ends, len(flags))
    return ends


def record(lab: Lab, ends: multipath.Ends, path: int, side: str = "client") -> diag.Record:
    """The subflow from the client's address on ``path``, as ``side`` has it."""
    bench = multipath.bench(lab)
    address = bench.client_address(path)
    for local, remote in multipath.addresses(ends.client):
        if local[0] == address:
            pair = (local, remote) if side == "client" else (remote, local)
            return bench.diag.tcp(*pair)
    raise Failed("subflow from " + address, "there", "not there")


@scenario_check(
    "failures.destroyed_subflow", scenario=SCENARIO, needs=DESTROY, sides=("client", "server")
)
def destroyed_subflow(lab: Lab) -> None:
    """SOCK_DESTROY of a joined subflow closes it at both ends; the connection still works."""
    bench, ends = multipath.bench(lab), connect(lab, pm.SUBFLOW)
    bench.events.forget()
    bench.diag.destroy(record(lab, ends, 2, lab.side))
    multipath.both_have(ends, 0)
    multipath.exchange(ends, DATA)
    for token in (ends.token, ends.server_token):
        closed = bench.events.of(pm.SUB_CLOSED, token)
        equal("SUB_CLOSED events", len(closed), 1)


@scenario_check("so_sndbuf.falls_with_a_subflow", scenario=SCENARIO, needs=DESTROY)
def sndbuf_falls(lab: Lab) -> None:
    """When a subflow closes, SO_SNDBUF of the client falls by the subflow's send buffer."""
    bench, ends = multipath.bench(lab), connect(lab, pm.SUBFLOW)
    gone = record(lab, ends, 2)
    before = ends.client.getsockopt(1, SO_SNDBUF)
    bench.diag.destroy(gone)
    multipath.both_have(ends, 0)
    most = before - gone.skmem.sndbuf
    now = wait_until(lambda: ends.client.getsockopt(1, SO_SNDBUF) <= most)
    got = ends.client.getsockopt(1, SO_SNDBUF)
    require("SO_SNDBUF, which was %d" % before, bool(now), "at most %d" % most, got)


@scenario_check("failures.reset_is_told", scenario=SCENARIO, needs=DESTROY)
def reset_is_told(lab: Lab) -> None:
    """The peer of a destroyed subflow reports ECONNRESET, the other end ECONNABORTED."""
    bench, ends = multipath.bench(lab), connect(lab, pm.SUBFLOW)
    bench.events.forget()
    bench.diag.destroy(record(lab, ends, 2))
    multipath.both_have(ends, 0)
    found = {}
    for token, side in ((ends.token, "client"), (ends.server_token, "server")):
        found[side] = [one.number("error") for one in bench.events.of(pm.SUB_CLOSED, token)]
    equal("errors", found, {"client": [ECONNABORTED], "server": [ECONNRESET]})


@scenario_check("failures.destroyed_initial_subflow", scenario=SCENARIO, needs=DESTROY)
def destroyed_initial_subflow(lab: Lab) -> None:
    """A connection survives the reset of its initial subflow if it has another one."""
    bench, ends = multipath.bench(lab), connect(lab, pm.SUBFLOW)
    bench.diag.destroy(record(lab, ends, 1))
    if multipath.info(ends.client).has("mptcpi_subflows_total"):
        for sock in (ends.client, ends.server):
            total = multipath.field(sock, "mptcpi_subflows_total")
            multipath.wait_for("mptcpi_subflows_total", total, 1)
    multipath.exchange(ends, DATA)
    for sock in (ends.client, ends.server):
        equal("mptcpi_subflows", multipath.info(sock).mptcpi_subflows, 1)
        equal("SO_ERROR", sock.getsockopt(1, 4), 0)


@scenario_check("failures.last_subflow_goes", scenario=SCENARIO, needs=DESTROY)
def last_subflow_goes(lab: Lab) -> None:
    """A reset of the only subflow does not end the connection at once: it can join again."""
    bench, ends = multipath.bench(lab), connect(lab)
    bench.diag.destroy(record(lab, ends, 1))
    if multipath.info(ends.client).has("mptcpi_subflows_total"):
        total = multipath.field(ends.client, "mptcpi_subflows_total")
        multipath.wait_for("mptcpi_subflows_total", total, 0)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW)
    multipath.both_have(ends, 1)
    multipath.exchange(ends, DATA)


@scenario_check("failures.close_timeout", scenario=SCENARIO, needs=(*DESTROY, "close_timeout"))
def close_timeout(lab: Lab) -> None:
    """A connection without subflows is closed after net.mptcp.close_timeout seconds."""
    write_sysctl("net.mptcp.close_timeout", "0")
    lab.afterwards(lambda: write_sysctl("net.mptcp.close_timeout", "60"))
    bench, ends = multipath.bench(lab), connect(lab)
    bench.diag.destroy(record(lab, ends, 1))
    for sock in (ends.client, ends.server):
        require("end", wait_until(lambda: ended(sock)), "an error or the end", "still open")  # noqa: B023


@scenario_check("failures.closed_without_subflows", scenario=SCENARIO, needs=DESTROY)
def closed_without_subflows(lab: Lab) -> None:
    """close(2) of a connection that has lost its last subflow frees the socket at once."""
    bench, ends = multipath.bench(lab), connect(lab)
    bench.diag.destroy(record(lab, ends, 1))
    initial = lambda: multipath.tcp_infos(ends.client)[0].tcpi_state  # noqa: E731
    multipath.wait_for("state of the initial subflow", initial, diag.CLOSE)
    protocol = "MPTCPv6" if lab.family == _socket.AF_INET6 else "MPTCP"
    before = mib.sockets(protocol)
    ends.client.close()
    # Sockets of earlier checks may still be counted before, and not afterwards.
    fewer = wait_until(lambda: mib.sockets(protocol) < before)
    require("MPTCP sockets", fewer, "fewer than %d" % before, mib.sockets(protocol))
    multipath.wait_for("a socket with its token", lambda: _is_there(bench, ends.token), False)


def _is_there(bench: multipath.Bench, token: int) -> bool:
    """Whether a socket has ``token``; False where the kernel does not tell."""
    try:
        bench.diag.mptcp(token)
    except OSError:
        return False
    return True


@scenario_check("failures.remove_without_subflow", scenario=SCENARIO, needs=DESTROY)
def remove_without_subflow(lab: Lab) -> None:
    """REMOVE of an address that was never announced and has lost its subflow sends no RM_ADDR."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.quiet()
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    bench.pm.create(ends.token, bench.client_address(2), 2, (bench.server_address(1), ends.port))
    multipath.both_have(ends, 1)
    bench.diag.destroy(record(lab, ends, 2, "server"))
    multipath.both_have(ends, 0)
    since = mib.Since()
    bench.pm.remove(ends.token, 2)
    multipath.exchange(ends, DATA)
    equal("RmAddrTx", since.of("RmAddrTx"), 0)
    equal("RmAddr", since.of("RmAddr"), 0)


def ended(sock: _socket.socket) -> bool:
    """Whether ``sock`` has come to its end, in whatever way; reads nothing else."""
    sock.setblocking(False)
    try:
        return not sock.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


@scenario_check("failures.backup_takes_over", scenario=SCENARIO, needs=(*DESTROY, "tcpinfo"))
def backup_takes_over(lab: Lab) -> None:
    """A backup subflow carries data only once no other is left."""
    bench, ends = multipath.bench(lab), connect(lab, pm.SUBFLOW | pm.BACKUP)
    multipath.exchange(ends, DATA)
    equal("bytes before", carried(ends), (0, 0))
    bench.diag.destroy(record(lab, ends, 1))
    multipath.exchange(ends, DATA)
    for got in carried(ends):
        require("bytes afterwards", got >= len(DATA), "at least %d" % len(DATA), got)


def carried(ends: multipath.Ends) -> tuple[int, int]:
    """Bytes that the second subflow has sent, at the client and at the server."""
    sent = [multipath.tcp_infos(sock)[1].tcpi_bytes_sent for sock in (ends.client, ends.server)]
    return sent[0], sent[1]


@scenario_check(
    "failures.subflow_goes_during_transfer",
    scenario=SCENARIO,
    needs=DESTROY,
    phases=("destroyed", "deleted", "address_gone"),
)
def subflow_goes_during_transfer(lab: Lab) -> None:
    """Data sent on a subflow that is reset, removed or cut arrive on another one, once."""
    bench = multipath.bench(lab)
    ends = connect(lab, pm.SUBFLOW, before=small_buffers)
    if lab.phase == "address_gone":
        cut(lab, 2)
    written = fill(ends.client)
    if lab.phase == "destroyed":
        bench.diag.destroy(record(lab, ends, 1))
    elif lab.phase == "deleted":
        bench.pm.delete(2)
    drain(ends.server, written)
    multipath.transfer(ends.server, ends.client, DATA[:1000])


def small_buffers(sock: _socket.socket) -> None:
    """So that data waits on the subflows while the peer reads nothing."""
    sock.setsockopt(1, 7, 100_000)
    sock.setsockopt(1, 8, 30_000)


def cut(lab: Lab, path: int) -> None:
    """Take the client's address on ``path`` away until the check is over."""
    bench = multipath.bench(lab)
    address = bench.client_address(path)
    bench.loopback.remove(address)
    lab.afterwards(lambda: bench.loopback.add(address))


def fill(sock: _socket.socket) -> bytes:
    """Write until nothing more fits; what was written."""
    sock.setblocking(False)
    written = bytearray()
    block = bytes(range(251)) * 16
    try:
        while len(written) < MOST:
            at = len(written) % 251
            written += block[at : at + sock.send(block[at:])]
    except BlockingIOError:
        pass
    sock.settimeout(IO_DEADLINE)
    return bytes(written)


def drain(sock: _socket.socket, data: bytes) -> None:
    came = []
    size = 0
    while size < len(data):
        chunk = sock.recv(1 << 16)
        if not chunk:
            raise Failed("bytes received", str(len(data)), "the end after %d" % size)
        came.append(chunk)
        size += len(chunk)
    if b"".join(came) != data:
        raise Failed("bytes received", "those that were sent", "others")


@scenario_check("failures.cut_path_is_left", scenario=SCENARIO, needs=(*NEEDS, "packet_stats"))
def cut_path_is_left(lab: Lab) -> None:
    """Data that a cut subflow does not deliver is sent again on another and counted so."""
    ends = connect(lab, pm.SUBFLOW)
    cut(lab, 1)
    multipath.transfer(ends.client, ends.server, DATA[:5000])
    sent = multipath.info(ends.client)
    if sent.mptcpi_bytes_retrans == 0:
        # The scheduler may have chosen the other subflow for all of it.
        first = multipath.tcp_infos(ends.client)[0].tcpi_notsent_bytes
        equal("bytes waiting on the cut subflow", first, 0)
    equal("mptcpi_bytes_received", multipath.info(ends.server).mptcpi_bytes_received, 5002)


@scenario_check(
    "end.fastclose",
    scenario=SCENARIO,
    needs=NEEDS,
    sides=("client", "server"),
)
def fastclose(lab: Lab) -> None:
    """close() with SO_LINGER {1, 0} resets all subflows: ECONNRESET at the peer."""
    ends = connect(lab, pm.SUBFLOW)
    near, far = (ends.client, ends.server) if lab.side == "client" else (ends.server, ends.client)
    since = mib.Since()
    near.setsockopt(1, SO_LINGER, LINGER_NOT)
    near.close()
    error = read_error(far)
    equal("errno of recv()", error, ECONNRESET)
    equal("next recv()", read_error(far), None)
    both_gone(since)
    for name in ("MPFastcloseTx", "MPFastcloseRx"):
        if name in since.start:
            got = since.of(name)
            require(name, got >= 1, "1 or more", got)


def both_gone(since: mib.Since) -> None:
    """Wait until neither end counts as established, where the kernel counts them."""
    if "MPCurrEstab" in since.start:
        multipath.wait_for("MPCurrEstab", lambda: since.of("MPCurrEstab"), -2)


def read_error(sock: _socket.socket) -> Optional[int]:
    """The errno of a recv(), None for the end of the stream."""
    try:
        rest = sock.recv(16)
    except OSError as error:
        return error.errno
    if rest:
        raise Failed("bytes at the end", "none", rest.hex())
    return None


@scenario_check("end.orderly", scenario=SCENARIO, needs=NEEDS, sides=("client", "server"))
def orderly(lab: Lab) -> None:
    """close() of both ends ends every subflow: no connection, token or subflow is left."""
    bench, ends = multipath.bench(lab), connect(lab, pm.SUBFLOW, pm.SUBFLOW)
    since = mib.Since()
    bench.events.forget()
    pairs = multipath.addresses(ends.client)
    near, far = (ends.client, ends.server) if lab.side == "client" else (ends.server, ends.client)
    near.shutdown(_socket.SHUT_WR)
    equal("errno of recv()", read_error(far), None)
    far.close()
    equal("errno of recv()", read_error(near), None)
    near.close()
    both_gone(since)
    for token in (ends.token, ends.server_token):
        multipath.wait_for("CLOSED events", lambda: len(bench.events.of(pm.CLOSED, token)), 1)  # noqa: B023
    left = wait_until(lambda: not open_subflows(bench, pairs))
    require("open subflows", left, "none", open_subflows(bench, pairs))


OPEN = ~(1 << diag.TIME_WAIT | 1 << diag.LISTEN) & diag.EVERY_STATE


def open_subflows(bench: multipath.Bench, pairs: Pairs) -> int:
    """How many of the client's and server's subflows are still there, TIME_WAIT aside."""
    found = bench.diag.tcp_sockets(states=OPEN, family=int(bench.family))
    known = [*pairs, *((remote, local) for local, remote in pairs)]
    return sum((one.local, one.remote) in known for one in found)


@scenario_check(
    "checksums.transfer", scenario=SCENARIO, needs=NEEDS, phases=("both", "client", "server")
)
def checksums_transfer(lab: Lab) -> None:
    """With checksums at either end both use them on every subflow, and data arrive intact."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.quiet()
    bench.pm.add(bench.client_address(2), pm.SUBFLOW)
    since = mib.Since()
    lab.afterwards(lambda: write_sysctl("net.mptcp.checksum_enabled", "0"))
    write_sysctl("net.mptcp.checksum_enabled", str(int(lab.phase != "server")))
    # The client decides when its socket is made, the server when the SYN comes.
    later = str(int(lab.phase != "client"))
    ends = bench.connect(
        lab, before_connect=lambda sock: write_sysctl("net.mptcp.checksum_enabled", later)
    )
    multipath.both_have(ends, 1)
    multipath.exchange(ends, DATA)
    for sock in (ends.client, ends.server):
        equal("mptcpi_csum_enabled", multipath.info(sock).mptcpi_csum_enabled, 1)
    equal("DataCsumErr", since.of("DataCsumErr"), 0)
