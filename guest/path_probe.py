# SPDX-License-Identifier: GPL-2.0-only
"""Which path managers and sock_diag features the kernel has, found by requests. Needs root.

These are capabilities of the scenarios. Runs without scenarios do not ask for them.
"""

from __future__ import annotations

import _socket
import os

from guest import diag, mib, multipath, netlink, pm, stall, topology, wire
from guest.checks import errno_name
from guest.lab import MPTCP, TCP
from guest.probe import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

EINVAL, ENOENT, EOPNOTSUPP = 22, 2, 95
SYSCTLS = "/proc/sys/net/mptcp/"
#: What a sysctl shows to be there.
BY_SYSCTL = {
    "userspace_pm": "pm_type",
    "path_manager": "path_manager",
    "scheduler": "scheduler",
    "close_timeout": "close_timeout",
    "blackhole": "blackhole_timeout",
    "add_addr_v6_port": "add_addr_v6_port_drop_ts",
    "syn_retrans": "syn_retrans_before_tcp_fallback",
}
#: An address that nobody has: endpoints in a namespace without connections do nothing.
ADDRESS = "10.9.9.9"


def capabilities() -> dict[str, Finding]:
    found = {
        "inet_diag": _asked(lambda: _dump(TCP), "inet_diag, tcp_diag"),
        "mptcp_diag": _asked(lambda: _dump(MPTCP), "mptcp_diag"),
        "sock_destroy": _destroy(),
        "packet_socket": _asked(_packet_socket, "a packet socket"),
        "userfaultfd": _asked(stall.probe, "a page that is missing"),
        "pm_netlink": _asked(lambda: pm.PathManager().close(), "the netlink family mptcp_pm"),
    }
    for name, sysctl in BY_SYSCTL.items():
        present = os.path.exists(SYSCTLS + sysctl)
        found[name] = Finding(present, "" if present else "no net.mptcp." + sysctl)
    cookies = os.path.exists("/proc/sys/net/ipv4/tcp_syncookies")
    found["syncookies"] = Finding(cookies, "" if cookies else "no net.ipv4.tcp_syncookies")
    established = "MPCurrEstab" in mib.counters()
    found["curr_estab"] = Finding(established, "" if established else "no counter MPCurrEstab")
    if found["pm_netlink"].present:
        found["pm_get_token"] = _get_token()
        found.update(_endpoint_kinds())
    else:
        for name in ("pm_get_token", "laminar", "endp_fullmesh_max", "listener_events"):
            found[name] = Finding(False, "no path manager")
    return found


def _asked(question: Callable[[], object], what: str) -> Finding:
    try:
        question()
    except OSError as error:
        return Finding(False, "%s: %s" % (what, errno_name(error.errno or 0)))
    return Finding(True)


def _packet_socket() -> None:
    _socket.socket(wire.AF_PACKET, _socket.SOCK_DGRAM, 0).close()


def _dump(protocol: int) -> None:
    """Ask for listeners only: there are few, and the table of connections is not walked."""
    asking = diag.Diag()
    try:
        states = 1 << diag.LISTEN
        if protocol == MPTCP:
            asking.mptcp_sockets(states=states, family=int(_socket.AF_INET))
        else:
            asking.tcp_sockets(states=states, family=int(_socket.AF_INET))
    finally:
        asking.close()


def _destroy() -> Finding:
    """SOCK_DESTROY of a socket that is not there: ENOENT where it is supported."""
    asking = diag.Diag()
    try:
        asking.destroy_between((ADDRESS, 1), (ADDRESS, 2))
    except OSError as error:
        if error.errno == ENOENT:
            return Finding(True)
        return Finding(False, "SOCK_DESTROY: " + errno_name(error.errno or 0))
    finally:
        asking.close()
    return Finding(True)


def _get_token() -> Finding:
    """GET_ADDR with the token of no connection: a kernel that reads tokens refuses it."""
    manager = pm.PathManager()
    try:
        manager.addresses(0)
    except netlink.Refused as error:
        return Finding(error.errno == EINVAL, errno_name(error.errno or 0))
    finally:
        manager.close()
    return Finding(False, "GET_ADDR does not look at the token")


def _endpoint_kinds() -> dict[str, Finding]:
    """Flags of endpoints that stay, and counters of MPTCP_INFO that count them."""
    try:
        with topology.Namespace():
            manager = pm.PathManager()
            events = pm.Events(manager)
            sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, MPTCP)
        try:
            manager.add(ADDRESS, pm.LAMINAR, id=1)
            manager.add("10.9.9.10", pm.SUBFLOW | pm.FULLMESH, id=2)
            kept = manager.get(1).flags & pm.LAMINAR
            counted = multipath.info(sock)
            sock.listen(1)
            told = bool(events.of(pm.LISTENER_CREATED))
        finally:
            manager.close()
            events.close()
            sock.close()
    except OSError as error:
        absent = Finding(False, str(error))
        return dict.fromkeys(("laminar", "endp_fullmesh_max", "listener_events"), absent)

    def counts(field: str) -> bool:
        return counted.has(field) and getattr(counted, field) == 1

    fullmesh = counts("mptcpi_endp_fullmesh_max")
    # Before 0ace3297a730 (6.19) a kernel also keeps flags that it does not know, this one among
    # them. One that knows it counts such endpoints.
    laminar = kept and counts("mptcpi_endp_laminar_max")
    return {
        "listener_events": Finding(told, "" if told else "no event of a listener"),
        "laminar": Finding(bool(laminar), "" if laminar else "the endpoint is not counted as one"),
        "endp_fullmesh_max": Finding(fullmesh, "" if fullmesh else "mptcpi_endp_fullmesh_max is 0"),
    }
