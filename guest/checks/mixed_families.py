# SPDX-License-Identifier: GPL-2.0-only
"""IPv4 subflows of connections made over IPv6, and the other way round.

The family that a check runs in is that of the initial subflow; the sockets are AF_INET6, and the
joined subflow is of the other family. An AF_INET or IPV6_V6ONLY socket takes none of the other.
"""

from __future__ import annotations

import _socket

from guest import diag, mib, multipath, pm, topology
from guest.checks import Failed, equal, scenario_check
from guest.checks.userspace_pm import must_refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from guest.lab import Lab

SCENARIO = "mixed_families"
NEEDS = ("userspace_pm", "inet_diag", "mptcp_ipv6")
EINVAL = 22
IPPROTO_IPV6, IPV6_V6ONLY = 41, 26
S_ID, C_ID = 7, 3
DATA = bytes(range(256)) * 64
V4, V6 = _socket.AF_INET, _socket.AF_INET6


def other_family(lab: Lab) -> int:
    return V4 if lab.family == V6 else V6


def connect(lab: Lab, client_pm: int) -> multipath.Ends:
    """A connection between AF_INET6 sockets whose first subflow is of the lab's family."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.story("other addresses", lambda: bench.loopback.add_paths(other_family(lab)))
    return bench.connect(
        lab,
        client_pm=client_pm,
        family=V6,
        client_address=topology.mapped(bench.client_address(1)),
        server_address=topology.mapped(bench.server_address(1)),
        before_bind=lambda sock: sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0),
    )


def paths(sock: _socket.socket) -> list[tuple[str, str]]:
    return [(local[0], remote[0]) for local, remote in multipath.addresses(sock)]


@scenario_check("mixed.created", scenario=SCENARIO, needs=NEEDS)
def created(lab: Lab) -> None:
    """SUBFLOW_CREATE joins over the other family; both ends show its addresses in that family."""
    bench, other = multipath.bench(lab), other_family(lab)
    ends = connect(lab, pm.IN_USER_SPACE)
    near, far = topology.client_address(other, 2), topology.server_address(other, 1)
    bench.pm.create(ends.token, near, C_ID, (far, ends.port))
    multipath.both_have(ends, 1)
    equal("client's second subflow", paths(ends.client)[1], (near, far))
    remote, local = paths(ends.server)[1]
    expected = {(far, near), (topology.mapped(far), topology.mapped(near))}
    if (remote, local) not in expected:
        raise Failed("server's second subflow", str((far, near)), str((remote, local)))
    multipath.exchange(ends, DATA)


@scenario_check("mixed.announced", scenario=SCENARIO, needs=NEEDS)
def announced(lab: Lab) -> None:
    """The in-kernel path manager joins to an announced address of the other family."""
    bench, other = multipath.bench(lab), other_family(lab)
    ends = connect(lab, pm.IN_KERNEL)
    far = topology.server_address(other, 2)
    bench.pm.announce(ends.server_token, far, S_ID)
    multipath.both_have(ends, 1)
    equal("peer of the second subflow", paths(ends.client)[1][1], far)
    equal("mptcpi_add_addr_accepted", multipath.info(ends.client).mptcpi_add_addr_accepted, 1)
    event = bench.events.first(pm.ANNOUNCED, lambda one: one.token == ends.token)
    equal("address in the event", event and event.address("daddr"), far)
    multipath.exchange(ends, DATA)
    bench.pm.remove(ends.server_token, S_ID)
    multipath.both_have(ends, 0)


@scenario_check("mixed.endpoint_waits_for_its_family", scenario=SCENARIO, needs=NEEDS)
def endpoint_waits_for_its_family(lab: Lab) -> None:
    """A subflow endpoint of the other family does not join to the initial address."""
    bench, other = multipath.bench(lab), other_family(lab)
    ends = connect(lab, pm.IN_KERNEL)
    bench.pm.add(topology.client_address(other, 2), pm.SUBFLOW)
    bench.pm.add(bench.client_address(3), pm.SUBFLOW)
    multipath.both_have(ends, 1)
    equal(
        "second subflow", paths(ends.client)[1][0].replace("::ffff:", ""), bench.client_address(3)
    )
    bench.clean()


@scenario_check("mixed.diag", scenario=SCENARIO, needs=NEEDS)
def in_diag(lab: Lab) -> None:
    """inet_diag shows the subflow of the other family in that family, with the token."""
    bench, other = multipath.bench(lab), other_family(lab)
    ends = connect(lab, pm.IN_USER_SPACE)
    near, far = topology.client_address(other, 2), topology.server_address(other, 1)
    bench.pm.create(ends.token, near, C_ID, (far, ends.port))
    multipath.both_have(ends, 1)
    found = bench.diag.tcp(*multipath.addresses(ends.client)[1])
    equal("state", found.state, diag.ESTABLISHED)
    equal("token", found.ulp and found.ulp.token_loc, ends.token)
    peer = bench.diag.tcp(*multipath.addresses(ends.server)[1])
    ids = found.ulp and (found.ulp.id_loc, found.ulp.id_rem)
    equal("ids", ids, (C_ID, peer.ulp and peer.ulp.id_loc))
    equal("the peer's id of it", peer.ulp and peer.ulp.id_rem, C_ID)


@scenario_check("mixed.destroyed", scenario=SCENARIO, needs=NEEDS)
def destroyed(lab: Lab) -> None:
    """SUBFLOW_DESTROY finds the subflow of the other family by its addresses."""
    bench, other = multipath.bench(lab), other_family(lab)
    ends = connect(lab, pm.IN_USER_SPACE)
    near, far = topology.client_address(other, 2), topology.server_address(other, 1)
    bench.pm.create(ends.token, near, C_ID, (far, ends.port))
    multipath.both_have(ends, 1)
    bench.pm.destroy(ends.token, *multipath.addresses(ends.client)[1])
    multipath.both_have(ends, 0)
    multipath.exchange(ends, DATA)


@scenario_check("mixed.ipv4_socket_takes_no_ipv6", scenario=SCENARIO, needs=NEEDS,
                families=("ipv4",))  # fmt: skip
def ipv4_socket_takes_no_ipv6(lab: Lab) -> None:
    """An AF_INET socket can have no IPv6 subflow: EINVAL, and such an ADD_ADDR is not joined."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.story("other addresses", lambda: bench.loopback.add_paths(V6))
    near, far = topology.client_address(V6, 2), topology.server_address(V6, 1)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    target = (far, ends.port)
    must_refuse("create", lambda: bench.pm.create(ends.token, near, C_ID, target), EINVAL)
    equal("mptcpi_subflows", multipath.info(ends.client).mptcpi_subflows, 0)
    equal("mptcpi_local_addr_used", multipath.info(ends.client).mptcpi_local_addr_used, 0)


@scenario_check("mixed.v6only_socket_takes_no_ipv4", scenario=SCENARIO, needs=NEEDS,
                families=("ipv6",))  # fmt: skip
def v6only_socket_takes_no_ipv4(lab: Lab) -> None:
    """An IPV6_V6ONLY socket can have no IPv4 subflow: EINVAL."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.story("other addresses", lambda: bench.loopback.add_paths(V4))
    near, far = topology.client_address(V4, 2), topology.server_address(V4, 1)
    ends = bench.connect(
        lab,
        client_pm=pm.IN_USER_SPACE,
        before_connect=lambda sock: sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1),
    )
    target = (far, ends.port)
    must_refuse("create", lambda: bench.pm.create(ends.token, near, C_ID, target), EINVAL)
    equal("mptcpi_subflows", multipath.info(ends.client).mptcpi_subflows, 0)


@scenario_check("mixed.ipv4_socket_joins_no_ipv6", scenario=SCENARIO, needs=NEEDS,
                families=("ipv4",))  # fmt: skip
def ipv4_socket_joins_no_ipv6(lab: Lab) -> None:
    """An IPv6 address that is announced to an AF_INET socket is echoed, and not joined."""
    _announced_in_vain(lab, V6, None)


@scenario_check("mixed.v6only_socket_joins_no_ipv4", scenario=SCENARIO, needs=NEEDS,
                families=("ipv6",))  # fmt: skip
def v6only_socket_joins_no_ipv4(lab: Lab) -> None:
    """An IPv4 address that is announced to an IPV6_V6ONLY socket is echoed, and not joined."""
    _announced_in_vain(lab, V4, lambda sock: sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1))


def _announced_in_vain(lab: Lab, other: int, before: Optional[multipath.Setup]) -> None:
    bench = multipath.bench(lab)
    bench.clean()
    bench.quiet()
    bench.story("other addresses", lambda: bench.loopback.add_paths(other))
    ends = bench.connect(lab, before_connect=before)
    since = mib.Since()
    bench.pm.announce(ends.server_token, topology.server_address(other, 2), S_ID)
    multipath.moved(since, {"AddAddrTx": 1, "AddAddr": 1, "EchoAddTx": 1, "EchoAdd": 1})
    info = multipath.info(ends.client)
    equal("mptcpi_subflows", info.mptcpi_subflows, 0)
    equal("mptcpi_add_addr_accepted", info.mptcpi_add_addr_accepted, 0)


@scenario_check("mixed.destroyed_by_two_names", scenario=SCENARIO, needs=NEEDS,
                families=("ipv4",), phases=("local_mapped", "remote_mapped"))  # fmt: skip
def destroyed_by_two_names(lab: Lab) -> None:
    """SUBFLOW_DESTROY finds an IPv4 subflow by one IPv4 and one mapped IPv6 address."""
    bench = multipath.bench(lab)
    ends = connect(lab, pm.IN_USER_SPACE)
    target = (bench.server_address(1), ends.port)
    bench.pm.create(ends.token, bench.client_address(2), C_ID, target)
    multipath.both_have(ends, 1)
    # The initial one, which is an AF_INET6 socket; the other is found by its IPv4 addresses.
    local, remote = multipath.addresses(ends.client)[0]
    plain = [(one[0].replace("::ffff:", ""), one[1]) for one in (local, remote)]
    written = [(topology.mapped(one[0]), one[1]) for one in plain]
    if lab.phase == "local_mapped":
        bench.pm.destroy(ends.token, written[0], plain[1])
    else:
        bench.pm.destroy(ends.token, plain[0], written[1])
    multipath.wait_for("subflows", lambda: len(_open(ends.client)), 1)
    multipath.exchange(ends, DATA)


def _open(sock: _socket.socket) -> list[int]:
    states = [one.tcpi_state for one in multipath.tcp_infos(sock)]
    return [state for state in states if state == diag.ESTABLISHED]
