# SPDX-License-Identifier: GPL-2.0-only
"""ADD_ADDR and RM_ADDR: addresses that the server announces, and a client that accepts them.

In ``add_addr`` the client has the in-kernel path manager and the server announces on command; in
``signals`` the server has the in-kernel one and the client connects on command.
"""

from __future__ import annotations

import _socket

from guest import multipath, pm, steps
from guest.checks import Failed, errno_name
from guest.lab import MPTCP, TCP, write_sysctl
from guest.steps import CLIENT, SERVER, Script, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.steps import Events

NEEDS = ("userspace_pm", "inet_diag")
S2_ID, S3_ID, S4_ID = 7, 8, 6
PORT_ID = 9
ONE_JOIN = {"MPJoinSynTx": 1, "MPJoinSynRx": 1, "MPJoinSynAckRx": 1, "MPJoinAckRx": 1}
ONE_ADD = {"AddAddrTx": 1, "AddAddr": 1, "EchoAddTx": 1, "EchoAdd": 1}
ONE_REMOVE = {"RmAddrTx": 1, "RmAddr": 1}
EINVAL = 22


def announce(path: int, id: int) -> Callable[[Script], None]:
    def act(script: Script) -> None:
        script.bench.pm.announce(script.ends.server_token, script.bench.server_address(path), id)

    return act


def remove(id: int) -> Callable[[Script], None]:
    return lambda script: script.bench.pm.remove(script.ends.server_token, id)


def refused(call: Callable[[Script], object], *errnos: int) -> Callable[[Script], None]:
    """A step that the kernel must refuse with one of ``errnos``."""

    def act(script: Script) -> None:
        names = " or ".join(errno_name(one) for one in errnos)
        try:
            call(script)
        except OSError as error:
            if error.errno not in errnos:
                raise Failed("errno", names, errno_name(error.errno or 0)) from error
        else:
            raise Failed("errno", names, "success")

    return act


def info(subflows: int, accepted: int) -> dict[str, object]:
    return {
        "mptcpi_subflows": subflows,
        "mptcpi_add_addr_accepted": accepted,
        "mptcpi_local_addr_used": 0,
        "mptcpi_subflows_total": subflows + 1,
    }


def announcing(subflows: int, signalled: int, known: int = 0) -> dict[str, object]:
    """``known``: addresses announced so far; 0 once one was removed, which kernels miscount."""
    found: dict[str, object] = {
        "mptcpi_subflows": subflows,
        "mptcpi_add_addr_signal": signalled,
        "mptcpi_add_addr_accepted": 0,
    }
    if known:
        found["mptcpi_local_addr_used"] = known
    return found


def announced(script: Script, path: int, id: int, port: int = 0) -> dict[str, object]:
    return {
        "kind": pm.ANNOUNCED,
        "side": CLIENT,
        "rem_id": id,
        "daddr": script.bench.server_address(path),
        "dport": port or script.ends.port,
    }


def accepted(path: int, id: int) -> Callable[[Script], Events]:
    """The client learns of the address and joins there."""
    return lambda script: [
        announced(script, path, id),
        {"kind": pm.SUB_ESTABLISHED, "side": CLIENT, "rem_id": id,
         "daddr": script.bench.server_address(path)},
        {"kind": pm.SUB_ESTABLISHED, "side": SERVER, "rem_id": None,
         "saddr": script.bench.server_address(path)},
    ]  # fmt: skip


def established(script: Script, path: int, id: int) -> Events:
    return [
        announced(script, path, id),
        {"kind": pm.SUB_ESTABLISHED, "side": CLIENT, "rem_id": id},
    ]


def _implicit(script: Script) -> None:
    found = [(one.address, one.flags) for one in script.bench.pm.endpoints()]
    expected = [(script.bench.server_address(2), pm.IMPLICIT)]
    if found != expected:
        raise Failed("endpoints", str(expected), str(found))


def _make_explicit(script: Script) -> None:
    """A user adds the same address: the endpoint keeps its id and is no longer implicit."""
    before = script.bench.pm.endpoints()[0].id
    script.bench.pm.add(script.bench.server_address(2), pm.SIGNAL)
    found = [(one.id, one.flags) for one in script.bench.pm.endpoints() if one.id == before]
    if found != [(before, pm.SIGNAL)]:
        raise Failed("endpoint", "%d with flags %d" % (before, pm.SIGNAL), str(found))


ADD_ADDR = (
    Step(
        "accept",
        "An announced address is echoed, and joined within the limits.",
        announce(2, S2_ID),
        client=info(1, 1),
        server=announcing(1, 1, 1),
        counters={**ONE_ADD, **ONE_JOIN},
        events=lambda script: [announced(script, 2, S2_ID)],
    ),
    Step(
        "implicit",
        "The address that routing chose for the join is an implicit endpoint.",
        _implicit,
    ),
    Step(
        "accept_second",
        "A second announced address is joined too, up to the limit of accepted ones.",
        announce(3, S3_ID),
        client=info(2, 2),
        server=announcing(2, 2, 2),
        counters={**ONE_ADD, **ONE_JOIN},
        events=lambda script: [announced(script, 3, S3_ID)],
    ),
    Step(
        "over_limit",
        "An announced address beyond the limit is echoed and not joined.",
        announce(4, S4_ID),
        client=info(2, 2),
        server=announcing(2, 3, 3),
        counters=ONE_ADD,
        events=lambda script: [announced(script, 4, S4_ID)],
    ),
    Step(
        "remove",
        "RM_ADDR closes the subflow to that address; the ADD_ADDR counters go down.",
        remove(S3_ID),
        client=info(1, 1),
        server=announcing(1, 2),
        counters=ONE_REMOVE,
        events=lambda script: [{"kind": pm.REMOVED, "side": CLIENT, "rem_id": S3_ID}],
    ),
    Step(
        "remove_unknown",
        "REMOVE of an id that was not announced is refused with EINVAL.",
        refused(remove(S3_ID), EINVAL),
        server=announcing(1, 2),
        counters={},
    ),
    Step(
        "remove_unjoined",
        "RM_ADDR for an address without a subflow does not change the client's counters.",
        remove(S4_ID),
        client=info(1, 1),
        server=announcing(1, 1),
        counters=ONE_REMOVE,
    ),
    Step(
        "accept_again",
        "After RM_ADDR the client accepts another announced address within its limit.",
        announce(3, S3_ID),
        client=info(2, 2),
        server=announcing(2, 2),
        counters={**ONE_ADD, **ONE_JOIN},
    ),
    Step(
        "explicit",
        "Adding the address of an implicit endpoint replaces it under the same id.",
        _make_explicit,
    ),
)


def _connect_add_addr(script: Script) -> multipath.Ends:
    return script.bench.connect()


def _connect_signals(script: Script) -> multipath.Ends:
    # ADD_ADDR with an IPv6 address and a port leaves no room for timestamps.
    write_sysctl("net.ipv4.tcp_timestamps", "0")
    script.bench.pm.add(script.bench.server_address(2), pm.SIGNAL, id=5)
    ends = script.bench.connect(client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_KERNEL)
    multipath.wait_for(
        "server's mptcpi_add_addr_signal",
        multipath.field(ends.server, "mptcpi_add_addr_signal"),
        1,
    )
    write_sysctl("net.ipv4.tcp_timestamps", "1")
    return ends


def _create(path: int, id: int, remote: int, port: str = "") -> Callable[[Script], None]:
    def act(script: Script) -> None:
        number = int(str(script.memory[port])) if port else script.ends.port
        target = (script.bench.server_address(remote), number)
        script.bench.pm.create(script.ends.token, script.bench.client_address(path), id, target)

    return act


def _add_with_port(script: Script) -> None:
    probe = _socket.socket(script.family, _socket.SOCK_STREAM)
    probe.bind((script.bench.server_address(4), 0))
    script.memory["port"] = probe.getsockname()[1]
    probe.close()
    port = int(str(script.memory["port"]))
    script.bench.pm.add(script.bench.server_address(4), pm.SIGNAL, id=PORT_ID, port=port)


def _port(script: Script) -> int:
    return int(str(script.memory["port"]))


def _refuses_connections(script: Script) -> None:
    """Neither TCP nor MPTCP can connect to an endpoint's port."""
    for protocol in (TCP, MPTCP):
        sock = _socket.socket(script.family, _socket.SOCK_STREAM, protocol)
        sock.settimeout(5)
        try:
            sock.connect((script.bench.server_address(4), _port(script)))
        except OSError:
            pass
        else:
            raise Failed("connect() to the endpoint's port", "refused", "success")
        finally:
            sock.close()


def _listener(kind: int) -> Callable[[Script], Events]:
    return lambda script: [
        {"kind": kind, "side": "none", "sport": _port(script),
         "saddr": script.bench.server_address(4)}
    ]  # fmt: skip


def signalled(subflows: int, announced: int, most: int) -> dict[str, object]:
    return {
        "mptcpi_subflows": subflows,
        "mptcpi_add_addr_signal": announced,
        "mptcpi_add_addr_signal_max": most,
        "mptcpi_local_addr_used": 0,
    }


def _limit_subflows(script: Script) -> None:
    script.bench.pm.set_limits(subflows=1)
    _create(3, 4, 1)(script)


SIGNALS = (
    Step(
        "add",
        "A signal endpoint that is added is announced to connections that exist.",
        lambda script: script.bench.pm.add(script.bench.server_address(3), pm.SIGNAL, id=6),
        client={"mptcpi_subflows": 0, "mptcpi_add_addr_accepted": 0},
        server=signalled(0, 2, 2),
        counters=ONE_ADD,
        events=lambda script: [announced(script, 3, 6)],
    ),
    Step(
        "join",
        "A subflow to a signalled address is counted at both ends.",
        _create(2, 3, 2),
        client={"mptcpi_subflows": 1, "mptcpi_local_addr_used": 1},
        server=signalled(1, 2, 2),
        counters=ONE_JOIN,
        events=lambda script: [
            {"kind": pm.SUB_ESTABLISHED, "side": CLIENT, "loc_id": 3, "rem_id": 5, "backup": 0},
            {"kind": pm.SUB_ESTABLISHED, "side": SERVER, "loc_id": 5, "rem_id": 3, "backup": 0},
        ],
    ),
    Step(
        "delete",
        "Deleting a signal endpoint sends RM_ADDR, closes its subflow and lowers the counters.",
        lambda script: script.bench.pm.delete(5),
        client={"mptcpi_subflows": 0},
        server=signalled(0, 1, 1),
        counters={**ONE_REMOVE, "RmSubflow": 1},
        events=lambda script: [{"kind": pm.REMOVED, "side": CLIENT, "rem_id": 5}],
    ),
    Step(
        "port",
        "A signal endpoint with a port has a listener there, and the port is announced.",
        _add_with_port,
        server=signalled(0, 2, 2),
        counters={**ONE_ADD, "PortAdd": 2},
        events=lambda script: [announced(script, 4, PORT_ID, _port(script))],
    ),
    Step(
        "port_join",
        "A subflow to an announced port is accepted and counted as such.",
        _create(2, 3, 4, "port"),
        client={"mptcpi_subflows": 1},
        server=signalled(1, 2, 2),
        counters={
            **ONE_JOIN, "MPJoinPortSynRx": 1, "MPJoinPortSynAckRx": 1, "MPJoinPortAckRx": 1,
        },
    ),
    Step(
        "port_delete",
        "Deleting an endpoint with a port closes the listener and the subflow.",
        lambda script: script.bench.pm.delete(PORT_ID),
        client={"mptcpi_subflows": 0},
        server=signalled(0, 1, 1),
    ),
    Step(
        "port_closed",
        "After its endpoint was deleted, no socket listens on the port.",
        _refuses_connections,
    ),
    Step(
        "port_listener",
        "An event reports the listener of an endpoint with a port.",
        _add_with_port,
        # Waited for, so that none of them is counted with the next step.
        counters={**ONE_ADD, "PortAdd": 2},
        events=_listener(pm.LISTENER_CREATED),
        needs=("listener_events",),
    ),
    Step(
        "port_listener_closed",
        "An event reports that the listener of an endpoint with a port was closed.",
        lambda script: script.bench.pm.delete(PORT_ID),
        counters=ONE_REMOVE,  # the next step counts its own
        events=_listener(pm.LISTENER_CLOSED),
        needs=("listener_events",),
    ),
    Step(
        "flush",
        "A flush withdraws the announced addresses: mptcpi_add_addr_signal is 0.",
        lambda script: script.bench.pm.flush(),
        server=signalled(0, 0, 0),
        counters=ONE_REMOVE,
        events=lambda script: [{"kind": pm.REMOVED, "side": CLIENT, "rem_id": 6}],
    ),
)  # fmt: skip

steps.register("add_addr", "pm_announces", _connect_add_addr, ADD_ADDR, NEEDS)
steps.register("signals", "pm_announces", _connect_signals, SIGNALS, NEEDS)
