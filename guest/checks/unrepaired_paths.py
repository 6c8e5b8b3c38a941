# SPDX-License-Identifier: GPL-2.0-only
"""Bugs of MPTCP that mainline has not repaired, of connections with several subflows.

As :mod:`guest.checks.unrepaired`: each fails on kernels that have it, which does not count.
"""

from __future__ import annotations

import _socket
import errno

from guest import mib, multipath, pm, wire
from guest.calls import POLLIN, errno_of, has_events
from guest.checks import equal, fastopen, scenario_check
from guest.checks.peer_data import FIVE, NEXT, counted, receive
from guest.flow import same
from guest.lab import Lab, wait_until, write_sysctl
from guest.peer import Peer
from guest.states import disconnect

SCENARIO = "unrepaired_paths"
NEEDS = ("pm_netlink", "inet_diag")
SO_PRIORITY, SO_REUSEPORT, SO_BINDTODEVICE, IP_TOS = 12, 15, 25, 1
LO = 1


def _user_space(lab: Lab) -> tuple[multipath.Bench, multipath.Ends]:
    bench = multipath.bench(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_USER_SPACE)
    return bench, ends


def _two_subflows(lab: Lab, before: multipath.Setup) -> tuple[multipath.Bench, multipath.Ends]:
    bench = multipath.bench(lab)
    bench.clean()
    bench.pm.add(bench.client_address(2), pm.SUBFLOW)
    ends = bench.connect(lab, before_connect=before)
    lab.afterwards(bench.clean)
    multipath.both_have(ends, 1)
    return bench, ends


@scenario_check(
    "mptcp_info.local_addr_used_falls_with_remove",
    scenario=SCENARIO,
    needs=("pm_netlink", "pm_get_token"),
    bug="it grows with each ANNOUNCE and never falls: mptcp_pm_nl_remove_doit() removes the "
    "address without local_addr_used--; SUBFLOW_DESTROY has it",
)
def local_addr_used_falls(lab: Lab) -> None:
    """With the user-space path manager mptcpi_local_addr_used is 0 again after REMOVE."""
    bench, ends = _user_space(lab)
    for _ in range(2):
        bench.pm.announce(ends.server_token, bench.server_address(2), 7)
        bench.pm.remove(ends.server_token, 7)
    equal("mptcpi_local_addr_used", multipath.info(ends.server).mptcpi_local_addr_used, 0)


@scenario_check(
    "mptcp_info.add_addr_signal_counts_an_address_once",
    scenario=SCENARIO,
    needs=("pm_netlink", "pm_get_token"),
    bug="each ANNOUNCE counts: mptcp_pm_announced_alloc() returns true for a known address too",
)
def counts_an_address_once(lab: Lab) -> None:
    """An address that is announced again counts once in mptcpi_add_addr_signal."""
    bench, ends = _user_space(lab)
    for number in (1, 2):
        bench.pm.announce(ends.server_token, bench.server_address(2), 7)
        multipath.wait_for(
            "ANNOUNCED events", lambda: len(bench.events.of(pm.ANNOUNCED, ends.token)), number
        )
    signalled = multipath.info(ends.server).mptcpi_add_addr_signal
    bench.pm.remove(ends.server_token, 7)
    equal("mptcpi_add_addr_signal", signalled, 1)


@scenario_check(
    "so_bindtodevice.holds_on_a_joined_subflow",
    scenario=SCENARIO,
    needs=NEEDS,
    bug="it is bound to no device: __mptcp_subflow_connect() overwrites the option's device with "
    "the endpoint's, or with 0",
)
def holds_on_a_joined_subflow(lab: Lab) -> None:
    """A subflow that the path manager makes is bound to the device of SO_BINDTODEVICE."""
    bench, ends = _two_subflows(lab, lambda sock: sock.setsockopt(1, SO_BINDTODEVICE, b"lo\0"))
    found = [
        bench.diag.tcp(*pair, interface=LO).interface for pair in multipath.addresses(ends.client)
    ]
    equal("the devices of the subflows", found, [LO, LO])


@scenario_check(
    "so_priority.holds_beside_ip_tos_on_a_subflow",
    scenario=SCENARIO,
    needs=(*NEEDS, "ip_tos"),
    families=("ipv4",),
    bug="the priority is that of the TOS: sync_socket_options() calls __ip_sock_set_tos(), which "
    "sets the priority, last",
)
def holds_beside_ip_tos(lab: Lab) -> None:
    """If IP_TOS and then SO_PRIORITY are set before connect(2), each subflow has that priority."""

    def before(sock: _socket.socket) -> None:
        sock.setsockopt(0, IP_TOS, 0x10)
        sock.setsockopt(1, SO_PRIORITY, 3)

    bench, ends = _two_subflows(lab, before)
    found = [bench.diag.tcp(*pair).priority for pair in multipath.addresses(ends.client)]
    equal("the priorities of the subflows", found, [3, 3])


@scenario_check(
    "full_info.numbers_from_one_after_disconnect",
    scenario=SCENARIO,
    needs=("pm_netlink", "full_info"),
    bug="the initial subflow has id 0, the others continue the old ids: mptcp_disconnect() does "
    "not reset subflow_id",
)
def numbers_from_one(lab: Lab) -> None:
    """After connect(AF_UNSPEC) the subflows of the next connection are numbered from 1 again."""
    bench, ends = _two_subflows(lab, lambda sock: None)
    write_sysctl(multipath.PM_TYPE, str(pm.IN_KERNEL))
    disconnect(ends.client)
    write_sysctl(multipath.PM_TYPE, str(pm.IN_USER_SPACE))
    ends.client.connect((bench.server_address(1), ends.port))
    again = multipath.Ends(ends.client, lab.accept(ends.listener), ends.listener)
    multipath.exchange(again, b"?")
    multipath.both_have(again, 1)
    equal("ids in MPTCP_FULL_INFO", list(multipath.Full(again.client).ids), [1, 2])


@scenario_check(
    "diag.listeners_of_one_port",
    scenario=SCENARIO,
    needs=("pm_netlink", "mptcp_diag"),
    bug="one of three is missing: mptcp_diag_dump_listeners() resets its count after each socket "
    "that it dumps, and then skips as many sockets as it has dumped",
)
def listeners_of_one_port(lab: Lab) -> None:
    """inet_diag dumps all listeners that share a port with SO_REUSEPORT."""
    bench = multipath.bench(lab)
    port = 0
    for _ in range(3):
        listener = lab.socket()
        listener.setsockopt(_socket.SOL_SOCKET, SO_REUSEPORT, 1)
        listener.bind((lab.address, port))
        listener.listen(1)
        port = listener.getsockname()[1]
    equal("listeners", len(bench.diag.mptcp_sockets(sport=port)), 3)


# The last: it leaves a wrong count behind.
@scenario_check(
    "proc_net_protocols.counts_past_a_port_endpoint",
    scenario=SCENARIO,
    needs=("pm_netlink",),
    bug="the count falls by one each time: mptcp_check_listen_stop() subtracts the endpoint's "
    "listener, but mptcp_pm_nl_create_listen_socket() does not add it",
)
def counts_past_a_port_endpoint(lab: Lab) -> None:
    """Adding and deleting an endpoint with a port does not change the /proc/net/protocols count."""
    bench = multipath.bench(lab)
    name = "MPTCPv6" if lab.family == _socket.AF_INET6 else "MPTCP"
    lab.pair()
    before = mib.sockets(name)
    bench.pm.add(bench.server_address(2), pm.SIGNAL, id=1, port=5001)
    bench.pm.delete(1)
    equal("MPTCP sockets", mib.sockets(name), before)


@scenario_check(
    "fallback.reset_before_accept",
    scenario=SCENARIO,
    needs=("packet_socket",),
    bug="recv() returns the end of the stream, not ECONNRESET: mptcp_stream_accept() closes the "
    "subflow, and __mptcp_close_ssk() reports no error of the first one",
)
def reset_before_accept(lab: Lab) -> None:
    """After a fallback and a reset before accept(2), recv(2) returns the data, then ECONNRESET."""
    since = mib.Since()
    one, listener = Peer(lab), lab.listener()
    flow = one.connect(listener)
    flow.send(wire.ACK | wire.PSH, payload=FIVE)
    counted(since, "DssFallback", 1)
    flow.send(wire.ACK | wire.RST)
    has_events("of the listener", listener, POLLIN)
    sock = lab.accept(listener)
    same("the data before the reset", receive(sock, 5), FIVE)
    equal("recv()", errno_of(sock.recv, 1), errno.ECONNRESET)


@scenario_check(
    "tcp_fastopen.answers_during_the_handshake",
    scenario=SCENARIO,
    needs=("packet_socket", "tcp_fastopen"),
    bug="the data stay in the send buffer: __mptcp_push_pending() finds no subflow that is ready, "
    "and when the handshake ends, nothing pushes them",
)
def answers_during_the_handshake(lab: Lab) -> None:
    """Data sent between a SYN with data (TCP Fast Open) and the end of the handshake arrive."""
    write_sysctl("net.ipv4.tcp_fastopen", fastopen.WITHOUT_COOKIES)
    one, listener = Peer(lab), lab.listener()
    flow = one.start(listener, payload=FIVE)
    one.take_key(flow)
    sock = lab.accept(listener)
    same("the data of the SYN", receive(sock, 5), FIVE)
    sock.sendall(NEXT)
    flow.send(options=one.both_keys())
    sent = wait_until(lambda: next((s.payload for s in flow.received() if s.payload), b""), 2.0)
    same("the answer within 2 s of the handshake", sent, NEXT)
