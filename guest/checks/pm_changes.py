# SPDX-License-Identifier: GPL-2.0-only
"""What changes of endpoints do to a connection whose client has the in-kernel path manager."""

from __future__ import annotations

from guest import diag, multipath, pm, steps
from guest.checks import Failed
from guest.steps import CLIENT, SERVER, Script, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.steps import Events

DATA = b"0123456789abcdef" * 512
FIRST, BACKUP_ID = 1, 9
NEEDS = ("userspace_pm", "inet_diag")


def connect(script: Script) -> multipath.Ends:
    script.bench.pm.add(script.bench.client_address(2), pm.SUBFLOW)
    script.bench.pm.add(script.bench.client_address(3), pm.SUBFLOW | pm.BACKUP, id=BACKUP_ID)
    ends = script.bench.connect()
    multipath.both_have(ends, 2)
    return ends


def _backup_flags(script: Script, side: str, id: int, flag: int) -> bool:
    """Whether the subflow of the client's endpoint ``id`` has ``flag`` in diag."""
    for one in script.records(side):
        if one.ulp and id == (one.ulp.id_loc if side == CLIENT else one.ulp.id_rem):
            return bool(one.ulp.flags & flag)
    raise Failed("subflow of endpoint %d at the %s" % (id, side), "there", "not there")


def _prioritise(script: Script, id: int, flags: int) -> None:
    """Set or clear backup, and wait for the flag at both ends."""
    multipath.fully_established(script.bench, script.ends.client)
    script.bench.pm.set_flags(flags, id=id)
    for side, flag in ((CLIENT, diag.BKUP_LOC), (SERVER, diag.BKUP_REM)):
        multipath.wait_for(
            "backup flag of endpoint %d at the %s" % (id, side),
            lambda side=side, flag=flag: _backup_flags(script, side, id, flag),  # type: ignore[misc]
            bool(flags & pm.BACKUP),
        )


def _prioritised(backup: int, id: int) -> list[dict[str, object]]:
    return [{"kind": pm.SUB_PRIORITY, "side": SERVER, "rem_id": id, "backup": backup}]


def _clear_backup(script: Script) -> None:
    _prioritise(script, BACKUP_ID, 0)


def _set_backup(script: Script) -> None:
    _prioritise(script, FIRST, pm.BACKUP)


def _delete_id_zero(script: Script) -> None:
    script.bench.pm.delete(0, script.bench.client_address(1))


def _add_again(script: Script) -> None:
    script.bench.pm.add(script.bench.client_address(2), pm.SUBFLOW, id=20)


def _exchange(script: Script) -> None:
    multipath.exchange(script.ends, DATA)


def _first_is_closed(script: Script) -> None:
    for sock in (script.ends.client, script.ends.server):
        states = [one.tcpi_state for one in multipath.tcp_infos(sock)]
        open_ones = states.count(diag.ESTABLISHED)
        if open_ones != 2 or states[0] == diag.ESTABLISHED:
            raise Failed("states of the subflows", "two established, not the first", str(states))


def _ids(script: Script) -> None:
    """The third joined subflow is number 4: numbers are not reused."""
    got = list(multipath.Full(script.ends.client).ids)
    if got != [1, 3, 4]:
        raise Failed("ids of the subflows", "[1, 3, 4]", str(got))


def _removed(id: int) -> Events:
    """RM_ADDR arrives at the server, and both ends close the subflow."""
    closed = [
        {"kind": pm.SUB_CLOSED, "side": CLIENT, "loc_id": id, "rem_id": 0},
        {"kind": pm.SUB_CLOSED, "side": SERVER, "loc_id": 0, "rem_id": id},
    ]
    return [*closed, {"kind": pm.REMOVED, "side": SERVER, "rem_id": id}]


def _joined(id: int) -> Events:
    return [
        {"kind": pm.SUB_ESTABLISHED, "side": CLIENT, "loc_id": id, "rem_id": 0, "backup": 0},
        {"kind": pm.SUB_ESTABLISHED, "side": SERVER, "loc_id": 0, "rem_id": id, "backup": 0},
    ]


def _counts(subflows: int, total: int) -> dict[str, object]:
    return {"mptcpi_subflows": subflows, "mptcpi_subflows_total": total}


STEPS = (
    Step(
        "clear_backup",
        "Clearing the backup flag of an endpoint sends MP_PRIO; both ends apply it.",
        _clear_backup,
        counters={"MPPrioTx": 1, "MPPrioRx": 1},
        events=lambda script: _prioritised(0, BACKUP_ID),
    ),
    Step(
        "set_backup",
        "Setting the backup flag of an endpoint sends MP_PRIO; both ends apply it.",
        _set_backup,
        counters={"MPPrioTx": 1, "MPPrioRx": 1},
        events=lambda script: _prioritised(1, FIRST),
    ),
    Step(
        "delete",
        "Deleting an endpoint sends RM_ADDR and closes its subflow at both ends.",
        lambda script: script.bench.pm.delete(FIRST),
        client={**_counts(1, 2), "mptcpi_local_addr_used": 1, "mptcpi_local_addr_max": 1},
        server=_counts(1, 2),
        counters={"RmAddrTx": 1, "RmAddr": 1, "RmSubflow": 1},
        events=lambda script: _removed(FIRST),
    ),
    Step(
        "add_again",
        "An endpoint added during a connection joins at once, even if its address was used before.",
        _add_again,
        client={**_counts(2, 3), "mptcpi_local_addr_used": 2, "mptcpi_local_addr_max": 2},
        server=_counts(2, 3),
        counters={"MPJoinSynTx": 1, "MPJoinSynRx": 1, "MPJoinSynAckRx": 1, "MPJoinAckRx": 1},
        events=lambda script: _joined(20),
    ),
    Step(
        "numbers_are_not_reused",
        "MPTCP_FULL_INFO never reuses the id of a subflow.",
        _ids,
        needs=("full_info",),
    ),
    Step(
        "delete_id_zero",
        "Deleting id 0 closes the initial subflow; mptcpi_subflows counts the others as before.",
        _delete_id_zero,
        client={**_counts(2, 2), "mptcpi_local_addr_used": 2},
        server=_counts(2, 2),
        counters={"RmAddrTx": 1, "RmAddr": 1, "RmSubflow": 1},
        events=lambda script: _removed(0),
    ),
    Step(
        "initial_is_closed",
        "MPTCP_TCPINFO shows the initial subflow as closed, and the others as established.",
        _first_is_closed,
        needs=("tcpinfo",),
    ),
    Step(
        "data_without_initial",
        "Data pass both ways after the initial subflow was closed.",
        _exchange,
    ),
    Step(
        "flush",
        "A flush closes the subflows of all endpoints, and the counters go back to 0.",
        lambda script: script.bench.pm.flush(),
        client={**_counts(0, 0), "mptcpi_local_addr_used": 0, "mptcpi_local_addr_max": 0},
        counters=None,
    ),
    Step(
        "join_after_flush",
        "A connection that lost all subflows joins again from a new endpoint.",
        lambda script: script.bench.pm.add(script.bench.client_address(4), pm.SUBFLOW),
        client={**_counts(1, 1), "mptcpi_local_addr_used": 1},
    ),
    Step(
        "data_after_flush",
        "Data pass both ways after the subflow has joined.",
        _exchange,
    ),
)

steps.register("pm_changes", "pm_changes", connect, STEPS, NEEDS)
