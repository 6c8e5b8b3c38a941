# SPDX-License-Identifier: GPL-2.0-only
"""Addresses that go and come back: the initial one, announced ones, and those of closed subflows.

What an address was used for is kept by its id, per connection: an id that is not given back makes
no subflow and no announcement when its address returns, and one that is given back twice is counted
wrong.
"""

from __future__ import annotations

from guest import multipath, pm
from guest.checks.pm_announces import ONE_ADD, ONE_JOIN, ONE_REMOVE, announce, announced, signalled
from guest.checks.pm_changes import DATA
from guest.steps import CLIENT, SERVER, Script, Step, register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.steps import Events

SCENARIO = "pm_returns"
NEEDS = ("userspace_pm", "inet_diag")
INITIAL_ID, OTHER_ID, SECOND_ID, THIRD_ID = 4, 6, 5, 7
S_ID = 5
#: An end of a subflow must be told once: another may come late, while the next step is taken.
SUBFLOW_EVENTS = (pm.SUB_ESTABLISHED, pm.SUB_CLOSED)


def add(path: int, id: int, flags: int = pm.SUBFLOW) -> Callable[[Script], None]:
    return lambda script: script.bench.pm.add(script.bench.client_address(path), flags, id=id)


def delete(id: int) -> Callable[[Script], None]:
    return lambda script: script.bench.pm.delete(id)


def _delete_id_zero(script: Script) -> None:
    script.bench.pm.delete(0, script.bench.client_address(1))


def counts(subflows: int, used: int, most: int) -> dict[str, object]:
    """Of the client; the initial subflow is closed."""
    return {
        "mptcpi_subflows": subflows,
        "mptcpi_subflows_total": subflows,
        "mptcpi_local_addr_used": used,
        "mptcpi_local_addr_max": most,
    }


def joined(id: int) -> Callable[[Script], Events]:
    return lambda script: [
        {"kind": pm.SUB_ESTABLISHED, "side": CLIENT, "loc_id": id, "rem_id": 0},
        {"kind": pm.SUB_ESTABLISHED, "side": SERVER, "loc_id": 0, "rem_id": id},
    ]


def removed(id: int) -> Callable[[Script], Events]:
    """Closed, not reset: without an error."""
    return lambda script: [
        {"kind": pm.SUB_CLOSED, "side": CLIENT, "loc_id": id, "rem_id": 0, "error": None},
        {"kind": pm.SUB_CLOSED, "side": SERVER, "loc_id": 0, "rem_id": id, "error": None},
        {"kind": pm.REMOVED, "side": SERVER, "rem_id": id},
    ]


def _connect_initial(script: Script) -> multipath.Ends:
    add(1, INITIAL_ID)(script)
    add(2, SECOND_ID)(script)
    ends = script.bench.connect()
    multipath.both_have(ends, 1)
    return ends


GONE = {**ONE_REMOVE, "RmSubflow": 1}
INITIAL = (
    Step(
        "goes",
        "Deleting the endpoint of the initial subflow removes id 0, with one event at each end.",
        delete(INITIAL_ID),
        client=counts(1, 1, 1),
        counters=GONE,
        events=removed(0),
        silent=SUBFLOW_EVENTS,
    ),
    Step(
        "returns_with_another_id",
        "The initial address, added with another id, joins as id 0 and is not counted as used.",
        add(1, OTHER_ID),
        client=counts(2, 1, 2),
        counters=ONE_JOIN,
        events=joined(0),
        silent=SUBFLOW_EVENTS,
    ),
    Step(
        "goes_again",
        "The initial address can be removed again, and other addresses stay counted.",
        delete(OTHER_ID),
        client=counts(1, 1, 1),
        counters=GONE,
        events=removed(0),
        silent=SUBFLOW_EVENTS,
    ),
    Step(
        "returns_twice",
        "The initial address can be added again more than once.",
        add(1, INITIAL_ID),
        client=counts(2, 1, 2),
        counters=ONE_JOIN,
        events=joined(0),
        silent=SUBFLOW_EVENTS,
    ),
    Step(
        "id_zero_goes",
        "Deleting id 0 closes the subflow of the initial address and keeps its endpoint.",
        _delete_id_zero,
        client=counts(1, 1, 2),
        counters=GONE,
        events=removed(0),
        silent=SUBFLOW_EVENTS,
    ),
    Step(
        "id_zero_is_gone",
        "Deleting id 0 again closes nothing, and no subflow is counted as removed.",
        _delete_id_zero,
        client=counts(1, 1, 2),
        counters=ONE_REMOVE,
    ),
    Step(
        "joins_with_the_next",
        "The remaining endpoint of the initial address joins again when another one joins.",
        add(3, THIRD_ID),
        client=counts(3, 2, 3),
        server={"mptcpi_subflows": 3},
    ),
    Step(
        "others_are_announced",
        "Addresses are announced and joined although the first subflow of both ends is closed.",
        announce(2, S_ID),
        client={"mptcpi_subflows": 4, "mptcpi_add_addr_accepted": 1},
        counters={**ONE_ADD, **ONE_JOIN},
    ),
    Step(
        "data",
        "Data pass both ways after the initial address was removed and added again.",
        lambda s: multipath.exchange(s.ends, DATA),
    ),
)
register("initial_address", SCENARIO, _connect_initial, INITIAL, NEEDS)


def _announce_again(script: Script) -> None:
    script.bench.pm.add(script.bench.server_address(2), pm.SIGNAL, id=S_ID)


def _connect_signals(script: Script) -> multipath.Ends:
    return script.bench.connect(client_pm=pm.IN_USER_SPACE, server_pm=pm.IN_KERNEL)


def _is_announced(script: Script) -> Events:
    return [announced(script, 2, S_ID)]


def _is_taken_back(script: Script) -> Events:
    return [{"kind": pm.REMOVED, "side": CLIENT, "rem_id": S_ID}]


SIGNALS = (
    Step(
        "announced",
        "A signal endpoint is announced.",
        _announce_again,
        server=signalled(0, 1, 1),
        counters=ONE_ADD,
        events=_is_announced,
    ),
    Step(
        "goes",
        "Deleting the endpoint withdraws the announcement.",
        delete(S_ID),
        server=signalled(0, 0, 0),
        counters=ONE_REMOVE,
        events=_is_taken_back,
    ),
    Step(
        "returns",
        "A signal endpoint added again with its id is announced again.",
        _announce_again,
        server=signalled(0, 1, 1),
        counters=ONE_ADD,
        events=_is_announced,
    ),
    Step(
        "is_flushed",
        "A flush of the endpoints also withdraws the announcement.",
        lambda script: script.bench.pm.flush(),
        server=signalled(0, 0, 0),
        counters=ONE_REMOVE,
        events=_is_taken_back,
    ),
    Step(
        "returns_after_a_flush",
        "After a flush the id of a signal endpoint can be announced again.",
        _announce_again,
        server=signalled(0, 1, 1),
        counters=ONE_ADD,
        events=_is_announced,
    ),
)
register("announced_address", SCENARIO, _connect_signals, SIGNALS, NEEDS)


def _connect_one(script: Script) -> multipath.Ends:
    add(2, SECOND_ID)(script)
    ends = script.bench.connect()
    multipath.both_have(ends, 1)
    return ends


def _peer_closes(script: Script) -> None:
    """The server's path manager destroys the subflow from the client's second address."""
    address = script.bench.client_address(2)
    pairs = multipath.addresses(script.ends.server)
    local, remote = next(pair for pair in pairs if pair[1][0] == address)
    script.bench.pm.destroy(script.ends.server_token, local, remote)


def _used(subflows: int, used: int) -> dict[str, object]:
    return {"mptcpi_subflows": subflows, "mptcpi_local_addr_used": used}


CLOSED = (
    Step(
        "peer_closes",
        "An address stays used when the peer closes its subflow.",
        _peer_closes,
        client=_used(0, 1),
        server={"mptcpi_subflows": 0},
    ),
    Step(
        "goes",
        "Deleting an endpoint without a subflow sends nothing; its address is no longer used.",
        delete(SECOND_ID),
        client=_used(0, 0),
        counters={},
    ),
    Step(
        "returns",
        "An endpoint added again with its id joins again.",
        add(2, SECOND_ID),
        client=_used(1, 1),
        server={"mptcpi_subflows": 1},
        counters=ONE_JOIN,
        events=joined(SECOND_ID),
    ),
    Step(
        "peer_closes_again",
        "The peer can also close the subflow of the endpoint that was added again.",
        _peer_closes,
        client=_used(0, 1),
        server={"mptcpi_subflows": 0},
    ),
    Step(
        "is_flushed",
        "After a flush mptcpi_local_addr_used is 0.",
        lambda script: script.bench.pm.flush(),
        client=_used(0, 0),
        counters={},
    ),
    Step(
        "returns_after_a_flush",
        "After a flush the id joins again.",
        add(2, SECOND_ID),
        client=_used(1, 1),
        server={"mptcpi_subflows": 1},
        counters=ONE_JOIN,
        events=joined(SECOND_ID),
    ),
)
register("closed_address", SCENARIO, _connect_one, CLOSED, NEEDS)


def _create(path: int, id: int) -> Callable[[Script], None]:
    def act(script: Script) -> None:
        target = (script.bench.server_address(1), script.ends.port)
        script.bench.pm.create(script.ends.token, script.bench.client_address(path), id, target)

    return act


def _remove(id: int) -> Callable[[Script], None]:
    return lambda script: script.bench.pm.remove(script.ends.token, id)


COMMANDED = (
    Step(
        "joins",
        "SUBFLOW_CREATE makes a subflow.",
        _create(2, SECOND_ID),
        client={"mptcpi_subflows": 1},
        server={"mptcpi_subflows": 1},
        counters=ONE_JOIN,
    ),
    Step(
        "goes",
        "REMOVE of the id sends only RM_ADDR: the peer closes the subflow, and counts nothing.",
        _remove(SECOND_ID),
        client={"mptcpi_subflows": 0},
        server={"mptcpi_subflows": 0, "mptcpi_add_addr_accepted": 0},
        counters=ONE_REMOVE,
        events=removed(SECOND_ID),
        silent=SUBFLOW_EVENTS,
    ),
    Step(
        "another_takes_the_id",
        "After REMOVE another address can have the id.",
        _create(3, SECOND_ID),
        client={"mptcpi_subflows": 1},
        server={"mptcpi_subflows": 1},
        counters=ONE_JOIN,
        events=joined(SECOND_ID),
    ),
    Step(
        "id_zero_goes",
        "REMOVE of id 0 sends RM_ADDR for id 0: the peer closes the initial subflow.",
        _remove(0),
        client={"mptcpi_subflows": 1, "mptcpi_subflows_total": 1},
        counters=ONE_REMOVE,
        events=lambda script: [{"kind": pm.REMOVED, "side": SERVER, "rem_id": 0}],
    ),
    Step(
        "id_zero_returns",
        "The initial address can join again under id 0.",
        _create(1, 0),
        client={"mptcpi_subflows": 2, "mptcpi_subflows_total": 2},
        server={"mptcpi_subflows": 2},
        counters=ONE_JOIN,
        events=joined(0),
    ),
)
register("commanded_address", SCENARIO, _connect_signals, COMMANDED, NEEDS)
