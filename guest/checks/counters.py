# SPDX-License-Identifier: GPL-2.0-only
"""What /proc/net says: MPTcpExt of netstat, protocols, sockstat, tcp; each event counted once."""

from __future__ import annotations

import _socket
import os

from guest import diag, mib, multipath, topology
from guest.calls import errno_of
from guest.checks import Failed, equal, require, scenario_check
from guest.checks.closing import linger
from guest.flow import arrive, content, exchange
from guest.lab import MPTCP, TCP, write_sysctl
from guest.states import MULTICAST, disconnect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.lab import Lab, Pair

SCENARIO = "counters"
HANDSHAKE = {"MPCapableSYNTX": 1, "MPCapableSYNRX": 1, "MPCapableSYNACKRX": 1, "MPCapableACKRX": 1}
ENOPROTOOPT = 92
#: Counters of what must not happen on a network that loses nothing.
NEVER = (
    "MPCapableFallbackACK", "MPCapableFallbackSYNACK", "MPFallbackTokenInit",
    "MPJoinSynAckHMacFailure", "MPJoinAckHMacFailure", "DSSNotMatching", "DSSCorruptionFallback",
    "DSSCorruptionReset", "DSSNoMatchTCP", "DataCsumErr", "DssFallback", "DssReset",
    "InfiniteMapTx", "InfiniteMapRx", "MPFailTx", "MPFailRx", "MPRstTx", "MPFastcloseTx",
)  # fmt: skip


def quiet(lab: Lab) -> mib.Since:
    """The counters, once what earlier checks closed is gone."""
    multipath.bench(lab).quiet()
    return mib.Since()


@scenario_check("counters.start_at_zero", scenario=SCENARIO)
def start_at_zero(lab: Lab) -> None:
    """A new network namespace has every MPTcpExt counter, and all are 0."""
    with topology.Namespace():
        fresh = mib.counters()
    require("MPTcpExt counters", len(fresh) > 20, "more than 20", len(fresh))
    equal("those that are not 0", {n: v for n, v in fresh.items() if v}, {})


@scenario_check("counters.handshake", scenario=SCENARIO)
def handshake(lab: Lab) -> None:
    """A connection counts one MP_CAPABLE handshake, and two established sockets."""
    since = quiet(lab)
    lab.pair()
    multipath.moved(since, {**HANDSHAKE, "MPCurrEstab": 2}, multipath.IN_FLIGHT)


@scenario_check("counters.nothing_odd", scenario=SCENARIO)
def nothing_odd(lab: Lab) -> None:
    """A transfer and an orderly end count no fallback, mismatch, checksum error or reset."""
    since = quiet(lab)
    pair = lab.pair()
    data = content(200_000, lab.seed)
    multipath.transfer(pair.client, pair.server, data)
    multipath.transfer(pair.server, pair.client, data)
    pair.client.shutdown(_socket.SHUT_WR)
    equal("end of the stream", pair.server.recv(1), b"")
    moved = since.moved()
    equal("counters that moved", {n: moved[n] for n in NEVER if n in moved}, {})


@scenario_check("counters.fallback", scenario=SCENARIO, sides=("client", "server"))
def fallback(lab: Lab) -> None:
    """A fallback is counted only at the end that asked for MPTCP."""
    since = quiet(lab)
    if lab.side == "client":
        lab.pair(server=TCP)
        expected = {"MPCapableSYNTX": 1, "MPCapableFallbackSYNACK": 1, "MPCurrEstab": 1}
    else:
        lab.pair(client=TCP)
        expected = {}
    multipath.moved(since, expected, multipath.IN_FLIGHT)


@scenario_check(
    "counters.fastclose", scenario=SCENARIO, phases=("linger", "unread"), needs=("packet_stats",)
)
def fastclose(lab: Lab) -> None:
    """A reset by SO_LINGER {1, 0}, or with unread data, counts MP_FASTCLOSE and MP_TCPRST once."""
    since = quiet(lab)
    pair = lab.pair()
    exchange(pair.client, pair.server, b"forth", b"back")
    if lab.phase == "unread":
        arrive(pair.server, pair.client, b"never read")
    else:
        linger(0)(pair.client)
    pair.client.close()
    reset = {"MPFastcloseTx": 1, "MPFastcloseRx": 1, "MPRstTx": 1, "MPRstRx": 1}
    multipath.moved(since, {**HANDSHAKE, **reset}, multipath.IN_FLIGHT)


@scenario_check("counters.refused", scenario=SCENARIO)
def refused(lab: Lab) -> None:
    """A refused connect() counts the SYN that was sent and nothing that is established."""
    probe = lab.listener(TCP)
    address = probe.getsockname()
    probe.close()
    since = quiet(lab)
    try:
        lab.socket().connect(address)
    except ConnectionRefusedError:
        pass
    else:
        raise Failed("connect() to a closed port", "ECONNREFUSED", "success")
    multipath.moved(since, {"MPCapableSYNTX": 1})


def _close(pair: Pair) -> None:
    pair.client.close()
    pair.server.close()


def _half_close(pair: Pair) -> None:
    pair.client.shutdown(_socket.SHUT_WR)
    pair.server.recv(1)
    _close(pair)


def _disconnect(pair: Pair) -> None:
    disconnect(pair.client)
    pair.server.close()


def _unread(pair: Pair) -> None:
    pair.client.sendall(b"nobody reads this")
    pair.server.close()
    pair.client.close()


ENDS = {"close": _close, "half_close": _half_close, "disconnect": _disconnect, "unread": _unread}


@scenario_check(
    "counters.established_goes_down",
    scenario=SCENARIO,
    needs=("curr_estab",),
    phases=tuple(ENDS),
)
def established_goes_down(lab: Lab) -> None:
    """MPCurrEstab returns to its earlier value, however connections end."""
    since = quiet(lab)
    pair = lab.pair()
    equal("MPCurrEstab", since.of("MPCurrEstab"), 2)
    ENDS[lab.phase](pair)
    multipath.wait_for("MPCurrEstab", lambda: since.of("MPCurrEstab"), 0)


@scenario_check("counters.established_without_accept", scenario=SCENARIO, needs=("curr_estab",))
def established_without_accept(lab: Lab) -> None:
    """Connections in the accept queue count in MPCurrEstab until their listener is closed."""
    since = quiet(lab)
    listener = lab.listener()
    clients = [lab.socket(), lab.socket()]
    for client in clients:
        client.connect(listener.getsockname())
    multipath.wait_for("MPCurrEstab", lambda: since.of("MPCurrEstab"), 4)
    listener.close()
    for client in clients:
        client.close()
    multipath.wait_for("MPCurrEstab", lambda: since.of("MPCurrEstab"), 0)


@scenario_check("counters.namespaces_are_apart", scenario=SCENARIO)
def namespaces_are_apart(lab: Lab) -> None:
    """A connection counts in its own network namespace only."""
    with topology.Namespace():
        before = mib.counters()
        with_socket = _socket.socket(lab.family, _socket.SOCK_STREAM, MPTCP)
    lab.adopt(with_socket)
    since = quiet(lab)
    lab.pair()
    require("own counters", since.of("MPCapableSYNTX") == 1, "1", since.of("MPCapableSYNTX"))
    require("counters there", not any(before.values()), "all 0", before)


@scenario_check("counters.sockets_in_use", scenario=SCENARIO)
def sockets_in_use(lab: Lab) -> None:
    """/proc/net/protocols counts MPTCP listeners and connections until they are closed."""
    quiet(lab)
    name = _protocol_name(lab)
    multipath.wait_for("sockets of %s without any" % name, lambda: mib.sockets(name), 0)
    pair = lab.pair()
    equal("sockets of %s with three" % name, mib.sockets(name), 3)
    for sock in (pair.client, pair.server, pair.listener):
        sock.close()
    multipath.wait_for("sockets of %s once closed" % name, lambda: mib.sockets(name), 0)


@scenario_check("counters.stopped_listener_is_not_in_use", scenario=SCENARIO)
def stopped_listener(lab: Lab) -> None:
    """A listener that shutdown(2) or connect(AF_UNSPEC) stopped is not in /proc/net/protocols."""
    quiet(lab)
    name = _protocol_name(lab)
    multipath.wait_for("sockets of %s without any" % name, lambda: mib.sockets(name), 0)
    for what, stop in (
        ("shutdown()", lambda sock: sock.shutdown(_socket.SHUT_RD)),
        ("connect(AF_UNSPEC)", disconnect),
    ):
        listener = lab.listener()
        equal("sockets with a listener", mib.sockets(name), 1)
        stop(listener)
        equal("sockets after " + what, mib.sockets(name), 0)


def _protocol_name(lab: Lab) -> str:
    return "MPTCPv6" if lab.family == _socket.AF_INET6 else "MPTCP"


@scenario_check("counters.failed_connect_is_not_in_use", scenario=SCENARIO)
def failed_connect(lab: Lab) -> None:
    """A socket whose connect() failed at once is not in /proc/net/protocols."""
    quiet(lab)
    name = _protocol_name(lab)
    multipath.wait_for("sockets of %s without any" % name, lambda: mib.sockets(name), 0)
    error = errno_of(lab.socket().connect, (MULTICAST[lab.family], 9))
    require("connect() to a multicast address", error != 0, "an error", "success")
    multipath.wait_for("sockets of %s afterwards" % name, lambda: mib.sockets(name), 0)


@scenario_check("counters.subflows_in_use", scenario=SCENARIO)
def subflows_in_use(lab: Lab) -> None:
    """/proc/net/sockstat counts the subflows as TCP sockets."""
    quiet(lab)
    name = "TCP6" if lab.family == _socket.AF_INET6 else "TCP"
    multipath.wait_for(name + " inuse, none", lambda: mib.sockstat(name, "inuse"), 0)
    lab.pair()
    multipath.wait_for(name + " inuse, one pair", lambda: mib.sockstat(name, "inuse"), 3)


@scenario_check("counters.proc_net_tcp", scenario=SCENARIO)
def proc_net_tcp(lab: Lab) -> None:
    """/proc/net/tcp shows the subflow with the user and the inode of the MPTCP socket."""
    pair = lab.pair()
    for sock in (pair.client, pair.server):
        line = _line_of(lab, sock.getsockname()[1], sock.getpeername()[1])
        equal("state", int(line[3], 16), diag.ESTABLISHED)
        equal("uid", int(line[7]), os.geteuid())
        equal("inode", int(line[9]), os.fstat(sock.fileno()).st_ino)


def _line_of(lab: Lab, port: int, peer: int) -> list[str]:
    name = "tcp6" if lab.family == _socket.AF_INET6 else "tcp"
    with open(mib.PLACE + name, "rb") as file:
        for line in file.read().decode().split("\n")[1:]:
            fields = line.split()
            if fields and [int(fields[n].split(":")[1], 16) for n in (1, 2)] == [port, peer]:
                return fields
    raise Failed("/proc/net/" + name, "a line from %d to %d" % (port, peer), "none")


@scenario_check("counters.disabled", scenario=SCENARIO)
def disabled(lab: Lab) -> None:
    """With net.mptcp.enabled=0 socket(2) fails; existing connections still carry data."""
    pair = lab.pair()
    write_sysctl("net.mptcp.enabled", "0")
    lab.afterwards(lambda: write_sysctl("net.mptcp.enabled", "1"))
    _fails("socket()", ENOPROTOOPT, lab.socket)
    multipath.transfer(pair.client, pair.server, b"still there")


def _fails(what: str, errno: int, call: Callable[[], object]) -> None:
    try:
        call()
    except OSError as error:
        equal(what + ": errno", error.errno, errno)
    else:
        raise Failed(what, "errno %d" % errno, "success")
