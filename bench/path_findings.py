# SPDX-License-Identifier: GPL-2.0-only
"""Findings of docs/findings.md that need several subflows; python3 -m bench.findings shows them.

Each says what MPTCP does where one would expect another number. TCP has nothing like it.
"""

from __future__ import annotations

import _socket
from collections.abc import Callable

from guest import mib, multipath, pm
from guest.lab import TCP, Lab, write_sysctl
from guest.states import disconnect

SO_PRIORITY, SO_BINDTODEVICE, IP_TOS = 12, 25, 1
LO = 1


def protocols_count(lab: Lab) -> str:
    bench = multipath.bench(lab)
    name = "MPTCPv6" if lab.family == _socket.AF_INET6 else "MPTCP"
    lab.pair()
    counts = [mib.sockets(name)]
    for port in (5001, 5002):
        bench.pm.add(bench.server_address(2), pm.SIGNAL, id=1, port=port)
        bench.pm.delete(1)
        counts.append(mib.sockets(name))
    said = ", ".join(map(str, counts))
    return f"3 sockets, two endpoints with a port come and go: {said} in /proc/net/protocols"


def _user_space(lab: Lab) -> tuple[multipath.Bench, multipath.Ends]:
    bench = multipath.bench(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_USER_SPACE)
    return bench, ends


def remove_keeps_local_addr_used(lab: Lab) -> str:
    bench, ends = _user_space(lab)
    used = []
    for _ in range(3):
        bench.pm.announce(ends.server_token, bench.server_address(2), 7)
        bench.pm.remove(ends.server_token, 7)
        used.append(multipath.info(ends.server).mptcpi_local_addr_used)
    return f"mptcpi_local_addr_used after each ANNOUNCE and REMOVE: {used}"


def announce_again_counts_again(lab: Lab) -> str:
    bench, ends = _user_space(lab)
    signalled = []
    for number in (1, 2, 3):
        bench.pm.announce(ends.server_token, bench.server_address(2), 7)
        told = multipath.wait_for(
            "events", lambda: len(bench.events.of(pm.ANNOUNCED, ends.token)), number
        )
        assert told == number
        signalled.append(multipath.info(ends.server).mptcpi_add_addr_signal)
    bench.pm.remove(ends.server_token, 7)
    left = multipath.info(ends.server).mptcpi_add_addr_signal
    return f"mptcpi_add_addr_signal: {signalled} for one address, {left} after REMOVE"


def joined_subflow_leaves_device(lab: Lab) -> str:
    bench = multipath.bench(lab)
    bench.clean()
    bench.pm.add(bench.client_address(2), pm.SUBFLOW)
    ends = bench.connect(
        lab, before_connect=lambda sock: sock.setsockopt(1, SO_BINDTODEVICE, b"lo\0")
    )
    multipath.both_have(ends, 1)
    pairs = multipath.addresses(ends.client)
    found = [bench.diag.tcp(*pair, interface=LO).interface for pair in pairs]
    bench.clean()
    return f"SO_BINDTODEVICE of device {LO}: the subflows are bound to {found}"


def tos_replaces_priority(lab: Lab) -> str:
    bench = multipath.bench(lab)
    bench.clean()
    bench.pm.add(bench.client_address(2), pm.SUBFLOW)

    def before(sock: _socket.socket) -> None:
        sock.setsockopt(0, IP_TOS, 0x10)
        sock.setsockopt(1, SO_PRIORITY, 3)

    ends = bench.connect(lab, before_connect=before)
    multipath.both_have(ends, 1)
    pairs = multipath.addresses(ends.client)
    found = [bench.diag.tcp(*pair).priority for pair in pairs]
    bench.clean()
    plain = lab.pair(TCP, TCP, before_connect=before)
    alone = bench.diag.subflow(plain.client).priority
    return f"IP_TOS 0x10, then SO_PRIORITY 3: the subflows have priority {found}, TCP has {alone}"


def numbers_after_disconnect(lab: Lab) -> str:
    bench = multipath.bench(lab)
    bench.clean()
    bench.pm.add(bench.client_address(2), pm.SUBFLOW)
    ends = bench.connect(lab)
    multipath.both_have(ends, 1)
    first = list(multipath.Full(ends.client).ids)
    write_sysctl(multipath.PM_TYPE, str(pm.IN_KERNEL))
    disconnect(ends.client)
    write_sysctl(multipath.PM_TYPE, str(pm.IN_USER_SPACE))
    ends.client.connect((bench.server_address(1), ends.port))
    second = multipath.Ends(ends.client, lab.accept(ends.listener), ends.listener)
    multipath.exchange(second, b"?")
    multipath.both_have(second, 1)
    later = list(multipath.Full(second.client).ids)
    bench.clean()
    return f"ids in MPTCP_FULL_INFO: {first}, of the next connection {later}"


FINDINGS: dict[str, Callable[[Lab], str]] = {
    function.__name__: function
    for function in (
        announce_again_counts_again,
        joined_subflow_leaves_device,
        numbers_after_disconnect,
        protocols_count,
        remove_keeps_local_addr_used,
        tos_replaces_priority,
    )
}
