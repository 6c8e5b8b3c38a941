# SPDX-License-Identifier: GPL-2.0-only
"""Which checks are nearest to a fault: those named for what its sentence says, or its group's."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable

from bench.faults.catalogue import Fault
from guest import checks

#: What a sentence has in it, and the checks that are about that.
_WORDS = {
    "MPTCP_INFO": ("mptcp_info.*",),
    "mptcpi_": ("mptcp_info.*",),
    "MPTCP_FULL_INFO": ("full_info.*",),
    "MPTCP_TCPINFO": ("tcpinfo.*",),
    "MPTCP_SUBFLOW_ADDRS": ("subflow_addrs.*",),
    "TCP_CM_INQ": ("tcp_inq.*",),
    "AF_UNSPEC": ("disconnect.*", "reconnect.*"),
    "poll()": ("poll.*",),
    "polls": ("poll.*",),
    "recv()": ("recv.*",),
    "send()": ("send.*",),
    "splice()": ("splice.*",),
    "listening": ("listen.*", "state.*"),
    "accept()": ("accept.*",),
    "bind()": ("bind.*",),
    "close()": ("close.*",),
    "reset": ("state.*", "recv.*"),
    "endpoint": ("pm_endpoints", "pm_kinds"),
    "announce": ("add_addr.*", "pm_announces"),
    "ADD_ADDR": ("add_addr.*", "pm_announces"),
    "REMOVE_ADDR": ("pm_changes", "pm_returns"),
    "flush": ("pm_changes", "pm_returns", "flush.*"),
    "again": ("pm_returns",),
    "id 0": ("pm_returns", "pm_special"),
    "backup": ("pm_changes", "pm_kinds", "subflow_options"),
    "user-space": ("userspace_pm",),
    "event": ("userspace_pm",),
    "diag": ("diag",),
    "ULP": ("diag", "subflows"),
}
_OPTION = re.compile(r"\b(?:SO|TCP|IP|IPV6|MSG)_[A-Z0-9_]+\b|\bSIOC[A-Z]+\b")
#: The scenarios of a group.
GROUPS = {
    "option table": ("options", "states", "byte", "binding"),
    "states": (
        *("states", "reconnect", "binding", "effects", "options", "subflow_failures"),
        *("counters", "sysctls", "waits", "wakeups", "flags", "pm_events", "pm_special"),
    ),
    "inheritance": ("inherit", "subflow_options", "diag", "fallback", "buffers"),
    "effects": (
        *("effects", "wire", "waits", "inherit", "binding", "buffers", "subflow_failures"),
        "wakeups",
    ),
    "fast open": ("fastopen",),
    "fallback": ("fallback", "reconnect", "blackhole", "diag"),
    "messages": ("flags", "effects", "states", "wakeups", "transfers", "waits"),
    "subflows": (
        *("subflows", "pm_kinds", "pm_announces", "pm_changes", "pm_returns", "pm_endpoints"),
        *("pm_special", "pm_events", "userspace_pm", "mixed_families", "sysctls"),
        *("peer_joins", "peer_serves", "peer_signals", "peer_refused"),
    ),
    "counters": (
        *("subflows", "pm_kinds", "pm_announces", "pm_changes", "pm_returns", "userspace_pm"),
        *("byte", "counters", "waits", "binding", "reconnect", "states", "fallback"),
        *("pm_events", "peer_joins", "peer_owned", "peer_signals", "peer_sends", "peer_refused"),
    ),
    "diag": ("diag", "subflows", "counters"),
    "sizes and pointers": ("options", "byte", "subflows"),
    "concurrency": (
        *("wakeups", "transfers", "reconnect", "concurrency", "effects", "binding"),
        *("peer_data", "peer_owned"),
    ),
    "data path": (
        *("transfers", "subflow_failures", "buffers", "peer_data", "peer_sends", "peer_serves"),
        *("peer_signals", "peer_owned", "peer_refused"),
    ),
    "32-bit programs": ("byte", "waits"),
}


def named(fault: Fault) -> tuple[str, ...]:
    """Globs and scenarios for what ``fault`` says it is about; its group's if it names nothing."""
    found = [place for word, places in _WORDS.items() if word in fault.sees for place in places]
    found += [f"{option.lower()}*.*" for option in _OPTION.findall(fault.sees)]
    return tuple(dict.fromkeys(found)) or GROUPS[fault.group]


def ids(places: Iterable[str]) -> list[str]:
    """The checks of ``places``: scenarios, payloads and globs of names."""
    wanted = set(places)
    return [
        item.id
        for item in checks.all_checks()
        if wanted & {item.scenario, *item.payloads}
        or any(fnmatch.fnmatchcase(item.id, place) for place in wanted)
    ]


def family(fault: Fault) -> str:
    """The address family in which ``fault`` is looked for first."""
    return "ipv6" if re.search("v6|6_|IPV6", f"{fault.name} {fault.sees}") else "ipv4"


def families(fault: Fault, ids: Collection[str]) -> list[str]:
    """That family, and the other where one of the checks ``ids`` is run in that alone."""
    first = family(fault)
    found = {first}
    for item in checks.all_checks():
        if item.id in ids and first not in item.families:
            found.update(item.families)
    return sorted(found)


def of_group(fault: Fault) -> tuple[str, ...]:
    """The scenarios of the group of ``fault``, and what it names."""
    return tuple(dict.fromkeys((*named(fault), *GROUPS[fault.group])))
