# SPDX-License-Identifier: GPL-2.0-only
"""The user-space path manager: subflows made, changed and destroyed by command, and refusals."""

from __future__ import annotations

import _socket

from guest import diag, multipath, pm, topology
from guest.checks import Failed, equal, scenario_check
from guest.checks.pm_announces import ONE_JOIN, refused
from guest.checks.pm_changes import DATA
from guest.lab import wait_until
from guest.steps import CLIENT, SERVER, Script, Step, register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

    from guest.lab import Lab
    from guest.steps import Events

NEEDS = ("userspace_pm", "inet_diag")
EINVAL, ESRCH, EADDRNOTAVAIL, ECONNREFUSED, ENOTCONN = 22, 3, 99, 111, 107
C2_ID, C3_ID = 3, 4
LATER = range(5, 8)


def _connect(script: Script) -> multipath.Ends:
    return script.bench.connect(client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_USER_SPACE)


def create(path: int, id: int, flags: int = 0, remote: int = 1) -> Callable[[Script], None]:
    def act(script: Script) -> None:
        target = (script.bench.server_address(remote), script.ends.port)
        local = script.bench.client_address(path)
        script.bench.pm.create(script.ends.token, local, id, target, flags)

    return act


def _closed_port(script: Script) -> int:
    probe = _socket.socket(script.family, _socket.SOCK_STREAM)
    probe.bind((script.bench.server_address(1), 0))
    port = int(probe.getsockname()[1])
    probe.close()
    return port


def _create_to_closed_port(script: Script) -> None:
    target = (script.bench.server_address(1), _closed_port(script))
    script.bench.pm.create(script.ends.token, script.bench.client_address(4), 6, target)


def _create_from_elsewhere(script: Script) -> None:
    address = topology.client_address(script.family, 77)
    target = (script.bench.server_address(1), script.ends.port)
    script.bench.pm.create(script.ends.token, address, 7, target)


def pair_of(script: Script, path: int) -> tuple[multipath.Address, multipath.Address]:
    """(local, remote) of the client's subflow on ``path``."""
    address = script.bench.client_address(path)
    for local, remote in multipath.addresses(script.ends.client):
        if local[0] == address:
            return local, remote
    raise Failed("subflow from " + address, "there", "not there")


def destroy(path: int) -> Callable[[Script], None]:
    return lambda script: script.bench.pm.destroy(script.ends.token, *pair_of(script, path))


def _set_priority(flags: int) -> Callable[[Script], None]:
    def act(script: Script) -> None:
        pair = pair_of(script, 3)
        multipath.fully_established(script.bench, script.ends.client)
        script.bench.pm.set_priority(script.ends.token, *pair, flags)
        for side, flag in ((CLIENT, diag.BKUP_LOC), (SERVER, diag.BKUP_REM)):
            if not wait_until(lambda: _backup(script, side, flag) == bool(flags)):  # noqa: B023
                raise Failed("backup flag at the " + side, str(bool(flags)), str(not flags))

    return act


def _backup(script: Script, side: str, flag: int) -> bool:
    for one in script.records(side):
        if one.ulp and (one.ulp.id_loc if side == CLIENT else one.ulp.id_rem) == C3_ID:
            return bool(one.ulp.flags & flag)
    raise Failed("the backup subflow at the " + side, "there", "not there")


def _known_addresses(script: Script) -> None:
    found = [(one.id, one.address) for one in script.bench.pm.addresses(script.ends.token)]
    expected = [
        (C2_ID, script.bench.client_address(2)), (C3_ID, script.bench.client_address(3)),
    ]  # fmt: skip
    if found != expected:
        raise Failed("addresses of the connection", str(expected), str(found))
    one = script.bench.pm.address(script.ends.token, C3_ID)
    if one.address != script.bench.client_address(3):
        raise Failed("address %d" % C3_ID, script.bench.client_address(3), one.address)


def _listed_flags(script: Script, expected: int) -> None:
    found = script.bench.pm.address(script.ends.token, C3_ID).flags
    equal("flags of address %d" % C3_ID, found, expected)


def _joined(id: int, backup: int) -> Events:
    return [
        {"kind": pm.SUB_ESTABLISHED, "side": CLIENT, "loc_id": id, "rem_id": 0, "backup": 0},
        {"kind": pm.SUB_ESTABLISHED, "side": SERVER, "loc_id": 0, "rem_id": id, "backup": backup},
    ]


def _closed(id: int) -> Events:
    return [
        {"kind": pm.SUB_CLOSED, "side": CLIENT, "loc_id": id, "rem_id": 0},
        {"kind": pm.SUB_CLOSED, "side": SERVER, "loc_id": 0, "rem_id": id},
    ]


def _counts(subflows: int, used: int) -> dict[str, object]:
    return {"mptcpi_subflows": subflows, "mptcpi_local_addr_used": used}


STEPS = (
    Step(
        "create",
        "SUBFLOW_CREATE joins from the given address under the given id.",
        create(2, C2_ID),
        client=_counts(1, 1),
        server=_counts(1, 0),
        counters=ONE_JOIN,
        events=lambda script: _joined(C2_ID, 0),
    ),
    Step(
        "create_backup",
        "SUBFLOW_CREATE with the backup flag asks for a backup subflow.",
        create(3, C3_ID, pm.BACKUP),
        client=_counts(2, 2),
        server=_counts(2, 0),
        counters={**ONE_JOIN, "MPJoinSynBackupRx": 1},
        events=lambda script: _joined(C3_ID, 1),
    ),
    Step(
        "clear_backup",
        "SET_FLAGS with a token sends MP_PRIO on the one subflow it names.",
        _set_priority(0),
        counters={"MPPrioTx": 1, "MPPrioRx": 1},
        events=lambda script: [
            {"kind": pm.SUB_PRIORITY, "side": SERVER, "rem_id": C3_ID, "backup": 0}
        ],
    ),
    Step(
        "cleared_backup_is_listed",
        "GET_ADDR with a token shows the flags that SET_FLAGS has set.",
        lambda script: _listed_flags(script, pm.SUBFLOW),
        needs=("pm_get_token",),
    ),
    Step(
        "set_backup",
        "SET_FLAGS with a token makes a subflow backup at both ends.",
        _set_priority(pm.BACKUP),
        counters={"MPPrioTx": 1, "MPPrioRx": 1},
        events=lambda script: [
            {"kind": pm.SUB_PRIORITY, "side": SERVER, "rem_id": C3_ID, "backup": 1}
        ],
    ),
    Step(
        "addresses",
        "GET_ADDR with a token shows the addresses of that connection.",
        _known_addresses,
        needs=("pm_get_token",),
    ),
    Step(
        "other_id_refused",
        "SUBFLOW_CREATE from a known address under another id is refused with EINVAL.",
        refused(create(2, 5), EINVAL),
        client=_counts(2, 2),
        counters={},
    ),
    Step(
        "refused_by_peer",
        "A subflow that the peer refuses is no longer counted, and an event reports its error.",
        _create_to_closed_port,
        client={"mptcpi_subflows": 2},
        server=_counts(2, 0),
        events=lambda script: [
            {"kind": pm.SUB_CLOSED, "side": CLIENT, "loc_id": 6, "error": ECONNREFUSED}
        ],
    ),
    Step(
        "destroy",
        "SUBFLOW_DESTROY closes one subflow at both ends.",
        destroy(2),
        client={"mptcpi_subflows": 1},
        server=_counts(1, 0),
        counters={"RmSubflow": 1},
        events=lambda script: _closed(C2_ID),
    ),
    Step(
        "destroy_unknown",
        "SUBFLOW_DESTROY of a subflow that is not there is refused.",
        refused(
            lambda script: script.bench.pm.destroy(
                script.ends.token,
                (script.bench.client_address(2), 1),
                (script.bench.server_address(1), script.ends.port),
            ),
            ESRCH,
            EINVAL,
        ),
        client={"mptcpi_subflows": 1},
        counters={},
    ),
    Step(
        "destroy_initial",
        "SUBFLOW_DESTROY closes the initial subflow too; the others carry the data.",
        destroy(1),
        client={"mptcpi_subflows": 1, "mptcpi_subflows_total": 1},
        server={"mptcpi_subflows": 1, "mptcpi_subflows_total": 1},
    ),
    Step(
        "data_on_backup",
        "Data pass when only a backup subflow is left.",
        lambda script: multipath.exchange(script.ends, DATA),
    ),
    Step(
        "create_again",
        "An address whose subflow was destroyed can be used again.",
        create(2, C2_ID),
        client={"mptcpi_subflows": 2, "mptcpi_subflows_total": 2},
        server={"mptcpi_subflows": 2, "mptcpi_subflows_total": 2},
        counters=ONE_JOIN,
    ),
    Step(
        "foreign_address_refused",
        "SUBFLOW_CREATE from an address that is not the host's fails with EADDRNOTAVAIL.",
        refused(_create_from_elsewhere, EADDRNOTAVAIL),
        client={"mptcpi_subflows": 2, "mptcpi_subflows_total": 2},
        counters={"MPJoinSynTxBindErr": 1},
    ),
)
register("userspace_pm", "userspace_pm", _connect, STEPS, NEEDS)


def shared(lab: Lab) -> multipath.Ends:
    """A connection for commands that must be refused."""
    bench = multipath.bench(lab)
    return bench.story(
        "refused", lambda: bench.connect(client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_KERNEL)
    )


def must_refuse(what: str, call: Callable[[], object], *errnos: int) -> None:
    try:
        call()
    except OSError as error:
        if error.errno not in errnos:
            raise Failed(what, "errno %s" % (errnos,), "errno %s" % error.errno) from error
    else:
        raise Failed(what, "errno %s" % (errnos,), "success")


@scenario_check("userspace_pm.announce_refused", scenario="userspace_pm", needs=NEEDS)
def announce_refused(lab: Lab) -> None:
    """ANNOUNCE needs an id that is not 0 and the signal flag; nothing is sent without."""
    bench, ends = multipath.bench(lab), shared(lab)
    address = bench.client_address(2)
    must_refuse("id 0", lambda: bench.pm.announce(ends.token, address, 0), EINVAL)
    subflow = pm.SUBFLOW
    must_refuse("no signal", lambda: bench.pm.announce(ends.token, address, 2, subflow), EINVAL)
    info = multipath.info(ends.client)
    equal("mptcpi_add_addr_signal", info.mptcpi_add_addr_signal, 0)
    equal("mptcpi_local_addr_used", info.mptcpi_local_addr_used, 0)


@scenario_check("userspace_pm.other_family_refused", scenario="userspace_pm", needs=NEEDS)
def other_family_refused(lab: Lab) -> None:
    """SUBFLOW_CREATE from an address of another family than the peer's is refused: EINVAL."""
    bench, ends = multipath.bench(lab), shared(lab)
    other = _socket.AF_INET if lab.family == _socket.AF_INET6 else _socket.AF_INET6
    target = (bench.server_address(1), ends.port)
    local = topology.client_address(other, 2)
    must_refuse("create", lambda: bench.pm.create(ends.token, local, 2, target), EINVAL)
    equal("mptcpi_subflows", multipath.info(ends.client).mptcpi_subflows, 0)


def _commands(bench: multipath.Bench, token: int, port: int) -> Sequence[Callable[[], object]]:
    here, there = bench.client_address(2), (bench.server_address(1), port)
    return (
        lambda: bench.pm.announce(token, here, 2),
        lambda: bench.pm.remove(token, 2),
        lambda: bench.pm.create(token, here, 2, there),
        lambda: bench.pm.destroy(token, (here, 1), there),
        lambda: bench.pm.set_priority(token, (here, 1), there, pm.BACKUP),
    )


@scenario_check("userspace_pm.in_kernel_refused", scenario="userspace_pm", needs=NEEDS)
def in_kernel_refused(lab: Lab) -> None:
    """Commands with the token of a connection of the in-kernel path manager are refused."""
    bench, ends = multipath.bench(lab), shared(lab)
    for command in _commands(bench, ends.server_token, ends.port):
        must_refuse("command", command, EINVAL)
    equal("mptcpi_subflows", multipath.info(ends.server).mptcpi_subflows, 0)


@scenario_check("userspace_pm.unknown_token_refused", scenario="userspace_pm", needs=NEEDS)
def unknown_token_refused(lab: Lab) -> None:
    """Commands with a token that no connection has are refused with EINVAL."""
    bench, ends = multipath.bench(lab), shared(lab)
    token = next(n for n in LATER if n not in (ends.token, ends.server_token))
    for command in _commands(bench, token, ends.port):
        must_refuse("command", command, EINVAL)


@scenario_check("userspace_pm.other_namespace_refused", scenario="userspace_pm", needs=NEEDS)
def other_namespace_refused(lab: Lab) -> None:
    """A connection cannot be commanded from another network namespace."""
    bench, ends = multipath.bench(lab), shared(lab)
    with topology.Namespace():
        manager = pm.PathManager()
    target = (bench.server_address(1), ends.port)
    local = bench.client_address(2)
    must_refuse("create", lambda: manager.create(ends.token, local, 2, target), EINVAL)
    must_refuse("announce", lambda: manager.announce(ends.token, local, 2), EINVAL)
    manager.close()
    equal("mptcpi_subflows", multipath.info(ends.client).mptcpi_subflows, 0)


@scenario_check("userspace_pm.endpoints_ignored", scenario="userspace_pm", needs=NEEDS)
def endpoints_ignored(lab: Lab) -> None:
    """Endpoints and flushes of the in-kernel path manager do not affect its connections."""
    bench = multipath.bench(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_USER_SPACE)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW | pm.SIGNAL)
    bench.pm.flush()
    info = multipath.info(ends.client)
    equal("mptcpi_subflows", info.mptcpi_subflows, 0)
    equal("mptcpi_add_addr_signal", info.mptcpi_add_addr_signal, 0)
    equal("mptcpi_local_addr_max", info.mptcpi_local_addr_max, 0)


@scenario_check("userspace_pm.has_no_limits", scenario="userspace_pm", needs=NEEDS)
def has_no_limits(lab: Lab) -> None:
    """MPTCP_INFO of a user-space path manager's connection shows no in-kernel limits."""
    bench, ends = multipath.bench(lab), shared(lab)
    info = multipath.info(ends.client)
    equal("mptcpi_subflows_max", info.mptcpi_subflows_max, 0)
    equal("mptcpi_add_addr_accepted_max", info.mptcpi_add_addr_accepted_max, 0)
    other = multipath.info(ends.server)
    equal("of the in-kernel one", other.mptcpi_subflows_max, bench.limits[1])


@scenario_check("userspace_pm.signal_subflow_refused", scenario="userspace_pm", needs=NEEDS)
def signal_subflow_refused(lab: Lab) -> None:
    """SUBFLOW_CREATE with the signal flag is refused with EINVAL."""
    bench, ends = multipath.bench(lab), shared(lab)
    target = (bench.server_address(1), ends.port)
    local = bench.client_address(2)
    must_refuse("signal", lambda: bench.pm.create(ends.token, local, 2, target, pm.SIGNAL), EINVAL)
    equal("mptcpi_subflows", multipath.info(ends.client).mptcpi_subflows, 0)


@scenario_check("userspace_pm.destroy_needs_ports", scenario="userspace_pm", needs=NEEDS)
def destroy_needs_ports(lab: Lab) -> None:
    """SUBFLOW_DESTROY without one of the ports is refused with EINVAL."""
    bench, ends = multipath.bench(lab), shared(lab)
    local, remote = multipath.addresses(ends.client)[0]
    for pair in (((local[0], 0), remote), (local, (remote[0], 0))):
        must_refuse("destroy", lambda: bench.pm.destroy(ends.token, *pair), EINVAL)  # noqa: B023
    multipath.exchange(ends, b"still there")


@scenario_check("userspace_pm.refused_address_is_forgotten", scenario="userspace_pm", needs=NEEDS)
def refused_address_is_forgotten(lab: Lab) -> None:
    """If SUBFLOW_CREATE fails, its address is not kept: another one can have its id."""
    bench = multipath.bench(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    target = (bench.server_address(1), ends.port)
    foreign = topology.client_address(lab.family, 77)
    must_refuse("create", lambda: bench.pm.create(ends.token, foreign, 7, target), EADDRNOTAVAIL)
    bench.pm.create(ends.token, bench.client_address(2), 7, target)
    multipath.both_have(ends, 1)


@scenario_check("userspace_pm.announced_as_backup", scenario="userspace_pm", needs=NEEDS)
def announced_as_backup(lab: Lab) -> None:
    """A subflow to an address announced with the backup flag is a backup, as the peer asked."""
    bench = multipath.bench(lab)
    ends = bench.connect(lab, client_pm=pm.IN_USER_SPACE)
    address = bench.server_address(2)
    bench.pm.announce(ends.server_token, address, 7, pm.SIGNAL | pm.BACKUP)
    bench.pm.create(ends.token, bench.client_address(2), 2, (address, ends.port))
    multipath.both_have(ends, 1)
    both = diag.BKUP_LOC | diag.BKUP_REM
    for name, sock, wanted in (
        ("client", ends.client, diag.BKUP_REM),
        ("server", ends.server, diag.BKUP_LOC),
    ):
        ulp = bench.diag.tcp(*multipath.addresses(sock)[1]).ulp
        equal("backup flags at the " + name, ulp and ulp.flags & both, wanted)
