# SPDX-License-Identifier: GPL-2.0-only
"""The in-kernel path manager's table of endpoints and its limits, as netlink has them."""

from __future__ import annotations

import os

from guest import multipath, netlink, pm, topology
from guest.checks import Failed, equal, errno_name, scenario_check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

    from guest.lab import Lab

NEEDS = ("pm_netlink",)
SCENARIO = "pm_endpoints"
EPERM, EBUSY, EEXIST, EINVAL, EOPNOTSUPP = 1, 16, 17, 22, 95
NOBODY = 65534


def clean(lab: Lab) -> multipath.Bench:
    bench = multipath.bench(lab)
    bench.pm.flush()
    return bench


def refused(what: str, call: Callable[[], object], *errnos: int) -> None:
    """Fail unless the path manager refuses ``call`` with one of ``errnos``."""
    names = " or ".join(errno_name(one) for one in errnos)
    try:
        call()
    except netlink.Refused as error:
        if error.errno not in errnos:
            raise Failed(what, names, errno_name(error.errno or 0)) from error
    else:
        raise Failed(what, names, "success")


def ids(bench: multipath.Bench) -> Sequence[int]:
    return [one.id for one in bench.pm.endpoints()]


@scenario_check("pm.ids_are_assigned", scenario=SCENARIO, needs=NEEDS)
def ids_are_assigned(lab: Lab) -> None:
    """Endpoints without an id get the next free one, from 1; a given id is kept."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=3)
    bench.pm.add(bench.client_address(3), pm.SIGNAL)
    bench.pm.add(bench.client_address(4), pm.SUBFLOW, id=200)
    found = {one.address: one.id for one in bench.pm.endpoints()}
    equal("id without a wish", found.get(bench.client_address(1)), 1)
    equal("id 3", found.get(bench.client_address(2)), 3)
    equal("id 200", found.get(bench.client_address(4)), 200)
    equal("ids", len(set(found.values())), 4)


@scenario_check("pm.dump_is_complete", scenario=SCENARIO, needs=NEEDS)
def dump_is_complete(lab: Lab) -> None:
    """A dump of the endpoints has each once, in the order of their ids."""
    bench = clean(lab)
    for number in (7, 2, 255, 4):
        bench.pm.add(topology.client_address(lab.family, number), pm.SUBFLOW, id=number)
    equal("ids of the dump", ids(bench), [2, 4, 7, 255])


@scenario_check("pm.endpoint_reads_back", scenario=SCENARIO, needs=NEEDS)
def endpoint_reads_back(lab: Lab) -> None:
    """Address, flags, port and device of an endpoint are read back, by id and in the dump."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SIGNAL, id=5, port=12345)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW | pm.BACKUP, id=6, interface=1)
    bench.pm.add(bench.client_address(3), pm.SUBFLOW | pm.FULLMESH, id=7)
    expected = {
        5: (bench.client_address(1), pm.SIGNAL, 12345, 0),
        6: (bench.client_address(2), pm.SUBFLOW | pm.BACKUP, 0, 1),
        7: (bench.client_address(3), pm.SUBFLOW | pm.FULLMESH, 0, 0),
    }
    dumped = {
        one.id: (one.address, one.flags, one.port, one.interface) for one in bench.pm.endpoints()
    }
    equal("dump", dumped, expected)
    for number, wanted in expected.items():
        one = bench.pm.get(number)
        equal("endpoint %d" % number, (one.address, one.flags, one.port, one.interface), wanted)
        equal("its id", one.id, number)


@scenario_check("pm.duplicates_refused", scenario=SCENARIO, needs=NEEDS)
def duplicates_refused(lab: Lab) -> None:
    """An address or an id that an endpoint has is refused for another, and nothing changes."""
    bench = clean(lab)
    first, second = bench.client_address(1), bench.client_address(2)
    bench.pm.add(first, pm.SUBFLOW, id=1)
    refused("the same address", lambda: bench.pm.add(first, pm.SUBFLOW, id=2), EEXIST, EINVAL)
    refused("the same id", lambda: bench.pm.add(second, pm.SUBFLOW, id=1), EBUSY, EINVAL)
    equal("ids afterwards", ids(bench), [1])
    bench.pm.add(second, pm.SUBFLOW, id=2)
    equal("ids of two addresses", ids(bench), [1, 2])


@scenario_check("pm.ports_tell_signals_apart", scenario=SCENARIO, needs=NEEDS)
def ports_tell_signals_apart(lab: Lab) -> None:
    """One address can be signalled with several ports."""
    bench = clean(lab)
    address = bench.server_address(1)
    for number, port in ((1, 0), (2, 4001), (3, 4002)):
        bench.pm.add(address, pm.SIGNAL, id=number, port=port)
    found = {one.id: one.port for one in bench.pm.endpoints()}
    equal("ports", found, {1: 0, 2: 4001, 3: 4002})
    bench.pm.flush()


@scenario_check("pm.wrong_flags_refused", scenario=SCENARIO, needs=NEEDS)
def wrong_flags_refused(lab: Lab) -> None:
    """A port without signal, signal with fullmesh, and implicit are refused with EINVAL."""
    bench = clean(lab)
    address, add = bench.client_address(1), bench.pm.add
    refused("port, subflow", lambda: add(address, pm.SUBFLOW, port=4001), EINVAL)
    both = pm.SUBFLOW | pm.SIGNAL
    refused("port, signal and subflow", lambda: add(address, both, port=4001), EINVAL)
    refused("signal and fullmesh", lambda: add(address, pm.SIGNAL | pm.FULLMESH), EINVAL)
    refused("implicit", lambda: add(address, pm.IMPLICIT), EINVAL)
    equal("ids afterwards", ids(bench), [])


@scenario_check("pm.unknown_flags_ignored", scenario=SCENARIO, needs=NEEDS)
def unknown_flags_ignored(lab: Lab) -> None:
    """The kernel ignores unknown flags of an endpoint."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW | 1 << 30, id=1)
    equal("flags", bench.pm.get(1).flags, pm.SUBFLOW)


@scenario_check("pm.incomplete_addresses_refused", scenario=SCENARIO, needs=NEEDS)
def incomplete_addresses_refused(lab: Lab) -> None:
    """An endpoint without a family, of another family, or without an address is refused."""
    bench = clean(lab)

    def add(*parts: bytes) -> None:
        bench.pm.family.call(pm.ADD_ADDR, netlink.nested(pm.ATTR_ADDR, *parts))

    flags = netlink.attribute(pm.ADDR_FLAGS, netlink.u32(pm.SUBFLOW))
    family = netlink.attribute(pm.ADDR_FAMILY, netlink.u16(int(lab.family)))
    unix = netlink.attribute(pm.ADDR_FAMILY, netlink.u16(1))
    refused("no family", lambda: add(flags), EINVAL)
    refused("AF_UNIX", lambda: add(unix, flags), EINVAL)
    refused("no address", lambda: add(family, flags), EINVAL)
    refused("nothing", lambda: bench.pm.family.call(pm.ADD_ADDR), EINVAL)
    equal("ids afterwards", ids(bench), [])


@scenario_check("pm.unknown_ids_refused", scenario=SCENARIO, needs=NEEDS)
def unknown_ids_refused(lab: Lab) -> None:
    """Getting, deleting and changing a missing endpoint fails with EINVAL."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW, id=1)
    refused("get", lambda: bench.pm.get(2), EINVAL)
    refused("delete", lambda: bench.pm.delete(2), EINVAL)
    refused("set flags by id", lambda: bench.pm.set_flags(pm.BACKUP, id=2), EINVAL)
    address = bench.client_address(2)
    refused("by address", lambda: bench.pm.set_flags(pm.BACKUP, address=address), EINVAL)
    refused("id 0", lambda: bench.pm.set_flags(pm.BACKUP, id=0), EOPNOTSUPP, EINVAL)
    equal("flags of the other", bench.pm.get(1).flags, pm.SUBFLOW)


@scenario_check("pm.delete_frees_address_and_id", scenario=SCENARIO, needs=NEEDS)
def delete_frees_address_and_id(lab: Lab) -> None:
    """Get and dump no longer show a deleted endpoint; its address and id can be used again."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW, id=1)
    bench.pm.add(bench.client_address(2), pm.SIGNAL, id=2)
    bench.pm.delete(1)
    equal("ids", ids(bench), [2])
    refused("get", lambda: bench.pm.get(1), EINVAL)
    bench.pm.add(bench.client_address(1), pm.SIGNAL, id=1)
    equal("ids", ids(bench), [1, 2])


@scenario_check("pm.flush_removes_all", scenario=SCENARIO, needs=NEEDS)
def flush_removes_all(lab: Lab) -> None:
    """A flush removes endpoints of every kind, keeps the limits, and ids begin at 1 again."""
    bench = clean(lab)
    bench.pm.set_limits(1, 3)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW)
    bench.pm.add(bench.client_address(2), pm.SIGNAL)
    bench.pm.add(bench.client_address(3), pm.SUBFLOW | pm.FULLMESH)
    bench.pm.add(bench.client_address(4), pm.SIGNAL, port=4001)
    bench.pm.flush()
    equal("ids", ids(bench), [])
    equal("limits", bench.pm.limits(), (1, 3))
    bench.pm.add(bench.client_address(1), pm.SUBFLOW)
    equal("ids", ids(bench), [1])


@scenario_check("pm.set_flags", scenario=SCENARIO, needs=NEEDS, phases=("by_id", "by_address"))
def set_flags(lab: Lab) -> None:
    """SET_FLAGS changes backup and fullmesh, but neither other flags nor other endpoints."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW, id=1)
    bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)

    def change(flags: int) -> int:
        if lab.phase == "by_id":
            bench.pm.set_flags(flags, id=2)
        else:
            bench.pm.set_flags(flags, address=bench.client_address(2))
        return bench.pm.get(2).flags

    equal("backup set", change(pm.BACKUP), pm.SUBFLOW | pm.BACKUP)
    equal("fullmesh set", change(pm.FULLMESH), pm.SUBFLOW | pm.FULLMESH)
    equal("both cleared", change(0), pm.SUBFLOW)
    equal("signal is not set", change(pm.SIGNAL), pm.SUBFLOW)
    equal("the other endpoint", bench.pm.get(1).flags, pm.SUBFLOW)


@scenario_check("pm.fullmesh_needs_no_signal", scenario=SCENARIO, needs=NEEDS)
def fullmesh_needs_no_signal(lab: Lab) -> None:
    """SET_FLAGS refuses fullmesh on a signal endpoint with EINVAL."""
    bench = clean(lab)
    bench.pm.add(bench.client_address(1), pm.SIGNAL, id=1)
    refused("fullmesh", lambda: bench.pm.set_flags(pm.FULLMESH, id=1), EINVAL)
    equal("flags", bench.pm.get(1).flags, pm.SIGNAL)


@scenario_check("pm.limits", scenario=SCENARIO, needs=NEEDS)
def limits(lab: Lab) -> None:
    """Limits are 0 ADD_ADDRs and 2 subflows in a new namespace, and read back as they are set."""
    bench = clean(lab)
    with topology.Namespace():
        fresh = pm.PathManager()
        equal("limits of a new namespace", fresh.limits(), (0, 2))
        fresh.close()
    for wanted in ((8, 0), (0, 8), (3, 5)):
        bench.pm.set_limits(*wanted)
        equal("limits", bench.pm.limits(), wanted)
    bench.pm.set_limits(subflows=4)
    equal("limits after setting one", bench.pm.limits(), (3, 4))
    bench.pm.set_limits(add_addrs=1)
    equal("limits after setting the other", bench.pm.limits(), (1, 4))


@scenario_check("pm.limits_too_high", scenario=SCENARIO, needs=NEEDS)
def limits_too_high(lab: Lab) -> None:
    """A limit that is too high is refused with EINVAL, and neither of the two changes."""
    bench = clean(lab)
    bench.pm.set_limits(1, 2)
    for wanted in ((1000, 1), (2, 1000), (2, 256), (0xFFFFFFFF, 1), (65, 2), (1, 65)):
        refused("limits %d, %d" % wanted, lambda: bench.pm.set_limits(*wanted), EINVAL)  # noqa: B023
        equal("limits", bench.pm.limits(), (1, 2))


@scenario_check("pm.namespaces_are_apart", scenario=SCENARIO, needs=NEEDS)
def namespaces_are_apart(lab: Lab) -> None:
    """Another network namespace can neither see nor flush endpoints and limits."""
    bench = clean(lab)
    bench.pm.set_limits(1, 3)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW, id=1)
    with topology.Namespace():
        other = pm.PathManager()
        equal("endpoints of a new namespace", [one.id for one in other.endpoints()], [])
        other.set_limits(2, 4)
        other.flush()
        other.close()
    equal("endpoints", ids(bench), [1])
    equal("limits", bench.pm.limits(), (1, 3))


@scenario_check("pm.changes_need_net_admin", scenario=SCENARIO, needs=NEEDS)
def changes_need_net_admin(lab: Lab) -> None:
    """Without CAP_NET_ADMIN endpoints and limits cannot be changed: EPERM."""
    bench = clean(lab)
    bench.pm.set_limits(1, 3)
    bench.pm.add(bench.client_address(1), pm.SUBFLOW, id=1)
    os.seteuid(NOBODY)
    try:
        other = pm.PathManager()
        address = bench.client_address(2)
        refused("add", lambda: other.add(address, pm.SUBFLOW), EPERM)
        refused("delete", lambda: other.delete(1), EPERM)
        refused("flush", other.flush, EPERM)
        refused("limits", lambda: other.set_limits(2, 2), EPERM)
        refused("flags", lambda: other.set_flags(pm.BACKUP, id=1), EPERM)
    finally:
        os.seteuid(0)
    other.close()
    equal("ids afterwards", ids(bench), [1])
    equal("limits afterwards", bench.pm.limits(), (1, 3))
