# SPDX-License-Identifier: GPL-2.0-only
"""Endpoints that are fullmesh, laminar, or subflow and signal at once; limits; denied joins."""

from __future__ import annotations

from guest import mib, multipath, pm
from guest.checks import equal, scenario_check
from guest.checks.pm_announces import ONE_ADD, ONE_JOIN, announce
from guest.lab import write_sysctl
from guest.steps import SERVER, Script, Step, register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab

NEEDS = ("userspace_pm", "inet_diag")
SCENARIO = "pm_kinds"
MESH_ID, S2_ID = 4, 7
DENY_JOIN_ID0 = "net.mptcp.allow_join_initial_addr_port"


def pairs(ends: multipath.Ends) -> list[tuple[str, str]]:
    """(local, remote) addresses of the client's subflows."""
    return sorted((local[0], remote[0]) for local, remote in multipath.addresses(ends.client))


def _paths(script: Script, *expected: tuple[int, int]) -> None:
    client, server = script.bench.client_address, script.bench.server_address
    wanted = sorted((client(near), server(far)) for near, far in expected)
    equal("subflows", pairs(script.ends), wanted)


def _connect_mesh(script: Script) -> multipath.Ends:
    script.bench.pm.add(script.bench.client_address(2), pm.SUBFLOW | pm.FULLMESH, id=MESH_ID)
    ends = script.bench.connect()
    multipath.both_have(ends, 1)
    return ends


MESH = (
    Step(
        "initial",
        "A fullmesh endpoint joins to the initial address.",
        lambda script: _paths(script, (1, 1), (2, 1)),
        client={"mptcpi_subflows": 1, "mptcpi_local_addr_used": 1},
    ),
    Step(
        "announced",
        "A fullmesh endpoint joins to each address that is announced.",
        announce(2, S2_ID),
        client={"mptcpi_subflows": 2, "mptcpi_add_addr_accepted": 1},
        server={"mptcpi_subflows": 2},
        counters={**ONE_ADD, **ONE_JOIN},
    ),
    Step(
        "from_its_address",
        "The subflow to an announced address comes from the fullmesh endpoint.",
        lambda script: _paths(script, (1, 1), (2, 1), (2, 2)),
    ),
    Step(
        "second_endpoint",
        "A second fullmesh endpoint joins to all addresses of the peer.",
        lambda script: script.bench.pm.add(
            script.bench.client_address(3), pm.SUBFLOW | pm.FULLMESH, id=5
        ),
        client={"mptcpi_subflows": 4, "mptcpi_local_addr_used": 2},
        server={"mptcpi_subflows": 4},
    ),
    Step(
        "all_pairs",
        "There is a subflow between each fullmesh endpoint and each address of the peer.",
        lambda script: _paths(script, (1, 1), (2, 1), (2, 2), (3, 1), (3, 2)),
    ),
    Step(
        "counted",
        "mptcpi_endp_fullmesh_max is the number of fullmesh endpoints.",
        lambda script: None,
        client={"mptcpi_endp_fullmesh_max": 2, "mptcpi_local_addr_max": 2},
        needs=("endp_fullmesh_max",),
    ),
    Step(
        "off",
        "Without the fullmesh flag the endpoint keeps one subflow, to the initial address.",
        lambda script: script.bench.pm.set_flags(0, id=MESH_ID),
        client={"mptcpi_subflows": 3, "mptcpi_local_addr_used": 2},
        server={"mptcpi_subflows": 3},
    ),
    Step(
        "off_pairs",
        "If an endpoint loses the fullmesh flag, the other fullmesh endpoint keeps its subflows.",
        lambda script: _paths(script, (1, 1), (2, 1), (3, 1), (3, 2)),
    ),
    Step(
        "deleted",
        "Deleting a fullmesh endpoint closes all its subflows.",
        lambda script: script.bench.pm.delete(5),
        client={"mptcpi_subflows": 1, "mptcpi_local_addr_used": 1},
        server={"mptcpi_subflows": 1},
    ),
)
register("fullmesh", SCENARIO, _connect_mesh, MESH, NEEDS)


def _connect_laminar(script: Script) -> multipath.Ends:
    script.bench.pm.add(script.bench.client_address(2), pm.LAMINAR, id=MESH_ID)
    return script.bench.connect()


LAMINAR = (
    Step(
        "waits",
        "A laminar endpoint does not join to the initial address.",
        lambda script: _paths(script, (1, 1)),
        client={"mptcpi_subflows": 0, "mptcpi_local_addr_max": 0, "mptcpi_endp_laminar_max": 1},
    ),
    Step(
        "announced",
        "A laminar endpoint joins to an address that is announced.",
        announce(2, S2_ID),
        client={"mptcpi_subflows": 1, "mptcpi_local_addr_used": 0, "mptcpi_add_addr_accepted": 1},
        server={"mptcpi_subflows": 1},
    ),
    Step(
        "from_its_address",
        "The subflow to an announced address comes from the laminar endpoint.",
        lambda script: _paths(script, (1, 1), (2, 2)),
    ),
    Step(
        "used_once",
        "A laminar endpoint joins to one address only.",
        announce(3, 8),
        client={"mptcpi_subflows": 1, "mptcpi_add_addr_accepted": 1},
        counters=ONE_ADD,
    ),
    Step(
        "deleted",
        "Deleting a laminar endpoint closes its subflow.",
        lambda script: script.bench.pm.delete(MESH_ID),
        client={"mptcpi_subflows": 0, "mptcpi_endp_laminar_max": 0},
        server={"mptcpi_subflows": 0},
    ),
)
register("laminar", SCENARIO, _connect_laminar, LAMINAR, (*NEEDS, "laminar"))


def _connect_both(script: Script) -> multipath.Ends:
    script.bench.pm.add(script.bench.client_address(2), pm.SUBFLOW | pm.SIGNAL, id=MESH_ID)
    return script.bench.connect()


BOTH = (
    Step(
        "joins_and_announces",
        "An endpoint with the flags subflow and signal joins and is announced.",
        lambda script: None,
        client={
            "mptcpi_subflows": 1, "mptcpi_local_addr_used": 1, "mptcpi_add_addr_signal": 1,
            "mptcpi_local_addr_max": 1, "mptcpi_add_addr_signal_max": 1,
        },
        server={"mptcpi_subflows": 1},
    ),
    Step(
        "deleted",
        "Deleting an endpoint with both flags closes its subflow and withdraws its announcement.",
        lambda script: script.bench.pm.delete(MESH_ID),
        client={
            "mptcpi_subflows": 0, "mptcpi_local_addr_used": 0, "mptcpi_add_addr_signal": 0,
            "mptcpi_local_addr_max": 0, "mptcpi_add_addr_signal_max": 0,
        },
        server={"mptcpi_subflows": 0},
        events=lambda script: [{"kind": pm.REMOVED, "side": SERVER, "rem_id": MESH_ID}],
    ),
)  # fmt: skip
register("subflow_and_signal", SCENARIO, _connect_both, BOTH, NEEDS)


@scenario_check("limits.subflows_stop_at_limit", scenario=SCENARIO, needs=NEEDS)
def subflows_stop_at_limit(lab: Lab) -> None:
    """The number of subflows stays within the limit, and grows once it is raised."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.quiet()
    bench.pm.set_limits(subflows=1)
    for path in (2, 3):
        bench.pm.add(bench.client_address(path), pm.SUBFLOW)
    ends = bench.connect(lab)
    multipath.both_have(ends, 1)
    multipath.exchange(ends, b"?")
    equal("mptcpi_subflows", multipath.info(ends.client).mptcpi_subflows, 1)
    equal("mptcpi_subflows_max", multipath.info(ends.client).mptcpi_subflows_max, 1)
    bench.pm.set_limits(subflows=3)
    equal("mptcpi_subflows_max", multipath.info(ends.client).mptcpi_subflows_max, 3)
    bench.pm.add(bench.client_address(4), pm.SUBFLOW)
    multipath.both_have(ends, 3)
    bench.clean()


@scenario_check("limits.server_rejects_joins", scenario=SCENARIO, needs=NEEDS)
def server_rejects_joins(lab: Lab) -> None:
    """A server rejects joins beyond its limit; the client then does not count the subflow."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.quiet()
    bench.pm.set_limits(subflows=1)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_KERNEL)
    target = (bench.server_address(1), ends.port)
    bench.pm.create(ends.token, bench.client_address(2), 2, target)
    multipath.both_have(ends, 1)
    since = mib.Since()
    bench.pm.create(ends.token, bench.client_address(3), 3, target)
    multipath.subflows(ends.client, 1)
    equal("server's mptcpi_subflows", multipath.info(ends.server).mptcpi_subflows, 1)
    if "MPJoinRejected" in since.start:
        multipath.wait_for("MPJoinRejected", lambda: since.of("MPJoinRejected"), 1)
    multipath.exchange(ends, b"still there")
    bench.clean()


@scenario_check("limits.no_add_addr_accepted", scenario=SCENARIO, needs=NEEDS)
def no_add_addr_accepted(lab: Lab) -> None:
    """With a limit of 0 an ADD_ADDR is echoed, and neither joined nor counted as accepted."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.quiet()
    bench.pm.set_limits(add_addrs=0)
    ends = bench.connect(lab)
    since = mib.Since()
    bench.pm.announce(ends.server_token, bench.server_address(2), S2_ID)
    multipath.moved(since, ONE_ADD)
    info = multipath.info(ends.client)
    equal("mptcpi_add_addr_accepted", info.mptcpi_add_addr_accepted, 0)
    equal("mptcpi_subflows", info.mptcpi_subflows, 0)
    bench.clean()


@scenario_check("deny_join.told_in_events", scenario=SCENARIO, needs=NEEDS)
def deny_join_told_in_events(lab: Lab) -> None:
    """With allow_join_initial_addr_port=0 the peer gets the C flag, and events report it."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.quiet()
    write_sysctl(DENY_JOIN_ID0, "0")
    lab.afterwards(lambda: write_sysctl(DENY_JOIN_ID0, "1"))
    ends = bench.connect(lab)
    for token in (ends.token, ends.server_token):
        found = bench.events.of(pm.ESTABLISHED, token)
        equal("ESTABLISHED events", len(found), 1)
        flags = found[0].number("flags") or 0
        equal("flag of events", flags & pm.DENY_JOIN_ID0, pm.DENY_JOIN_ID0)


@scenario_check("deny_join.no_join_to_initial", scenario=SCENARIO, needs=NEEDS)
def deny_join_no_join_to_initial(lab: Lab) -> None:
    """The client does not join to the initial address of a peer that denies joins to it."""
    bench = multipath.bench(lab)
    bench.clean()
    bench.quiet()
    write_sysctl(DENY_JOIN_ID0, "0")
    lab.afterwards(lambda: write_sysctl(DENY_JOIN_ID0, "1"))
    since = mib.Since()
    bench.pm.add(bench.client_address(2), pm.SUBFLOW)
    ends = bench.connect(lab)
    multipath.exchange(ends, b"data")
    equal("mptcpi_subflows", multipath.info(ends.client).mptcpi_subflows, 0)
    equal("MPJoinSynTx", since.of("MPJoinSynTx"), 0)
    bench.pm.add(bench.client_address(3), pm.SUBFLOW | pm.FULLMESH)
    multipath.exchange(ends, b"data")
    equal("MPJoinSynTx with a fullmesh endpoint", since.of("MPJoinSynTx"), 0)
    bench.pm.announce(ends.server_token, bench.server_address(2), S2_ID)
    multipath.both_have(ends, 1)
    bench.clean()
