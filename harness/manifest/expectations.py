# SPDX-License-Identifier: GPL-2.0-only
"""The capabilities that each kernel is expected to have.

The guest asks the kernel what it has. What a kernel is *expected* to have depends on its version,
on who built it, and on the manifest, which takes precedence. A capability that is not in
:data:`CAPABILITIES` is never expected, because its absence cannot be judged by a version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.verdict.results import Expectation

Version = tuple[int, int]  # major, minor

# linux 5.13.12-1~exp1, "net: Enable MPTCP" (Debian bug 987815); bullseye's 5.10 says "CONFIG_MPTCP
# is not set". From 5.14 on, because 5.13.9 was built without it and shares its major.minor.
DEBIAN_BUILDS_MPTCP_SINCE: Version = (5, 14)


@dataclass(frozen=True)
class CapabilitySpec:
    """A capability: its ``meaning`` in one line, and the mainline version that added it.

    ``since`` is None for what every kernel should have. ``requires`` names capabilities that this
    one depends on; they come earlier in :data:`CAPABILITIES`. Tables only count those that are
    ``minor``.
    """

    name: str
    meaning: str
    since: Version | None
    requires: tuple[str, ...] = ()
    minor: bool = False


def _minor(
    name: str, meaning: str, since: Version, requires: tuple[str, ...] = ("mptcp",)
) -> CapabilitySpec:
    return CapabilitySpec(name, meaning, since, requires, minor=True)


# Versions are from the kernel's history. Debian's 6.1, 6.12, 6.16 to 6.19, 7.0 and 7.3 agree with
# them. Stable trees backport some (tcp_keepalive to 6.1.94, transparent_get to 6.1.135 and
# 6.12.24), which is no problem: a capability beyond the expectation of a version is not a failure.
_SPECS = (
    CapabilitySpec("mptcp", "socket(…, IPPROTO_MPTCP) makes an MPTCP socket", (5, 6)),
    CapabilitySpec("ipv6", "IPv6 sockets can be made and the loopback address used", None),
    CapabilitySpec(
        "mptcp_ipv6", "MPTCP sockets of IPv6 (CONFIG_MPTCP_IPV6)", (5, 6), ("mptcp", "ipv6")
    ),
    CapabilitySpec("mptcp_info", "getsockopt(SOL_MPTCP, MPTCP_INFO)", (5, 16), ("mptcp",)),
    CapabilitySpec("tcpinfo", "getsockopt(SOL_MPTCP, MPTCP_TCPINFO)", (5, 16), ("mptcp",)),
    CapabilitySpec(
        "subflow_addrs", "getsockopt(SOL_MPTCP, MPTCP_SUBFLOW_ADDRS)", (5, 16), ("mptcp",)
    ),
    CapabilitySpec(
        "packet_stats",
        "MPTCP_INFO counts retransmits and bytes sent, received and acknowledged",
        (6, 5),
        ("mptcp_info",),
    ),
    CapabilitySpec("full_info", "getsockopt(SOL_MPTCP, MPTCP_FULL_INFO)", (6, 5), ("mptcp",)),
    CapabilitySpec("ip_tos", "IP_TOS can be set and read on an MPTCP socket", (5, 17), ("mptcp",)),
    _minor("tcp_cork_nodelay", "TCP_CORK and TCP_NODELAY can be set and read", (5, 17)),
    _minor("tcp_inq", "TCP_INQ can be set and read", (5, 17)),
    _minor("tcp_fastopen_connect", "TCP_FASTOPEN_CONNECT can be read", (6, 1)),
    _minor("tcp_fastopen", "TCP_FASTOPEN and TCP_FASTOPEN_NO_COOKIE can be read", (6, 2)),
    _minor(
        "local_port_range", "IP_LOCAL_PORT_RANGE and IP_BIND_ADDRESS_NO_PORT can be read", (6, 8)
    ),
    _minor("subflows_total", "MPTCP_INFO has mptcpi_subflows_total", (6, 8), ("mptcp_info",)),
    _minor("tcp_notsent_lowat", "TCP_NOTSENT_LOWAT can be set and read", (6, 9)),
    _minor("tcp_keepalive", "TCP_KEEPIDLE, _KEEPINTVL and _KEEPCNT can be set and read", (6, 10)),
    _minor("tcp_is_mptcp", "TCP_IS_MPTCP can be read", (6, 10)),
    _minor(
        "last_data",
        "MPTCP_INFO has mptcpi_last_data_sent, _last_data_recv and _last_ack_recv",
        (6, 10),
        ("mptcp_info",),
    ),
    _minor("transparent_get", "IP(V6)_TRANSPARENT, _FREEBIND and IPV6_V6ONLY can be read", (6, 15)),
    _minor("tcp_maxseg", "TCP_MAXSEG can be read", (6, 17)),
)

#: Capabilities that only scenarios need (guest/path_probe.py). They depend on the kernel's
#: configuration, so they are never expected, or they matter to a few scenarios only. Tables have no
#: column for them.
OF_SCENARIOS = frozenset(
    {
        "add_addr_v6_port",
        "blackhole",
        "close_timeout",
        "curr_estab",
        "endp_fullmesh_max",
        "inet_diag",
        "laminar",
        "listener_events",
        "mptcp_diag",
        "packet_socket",
        "path_manager",
        "pm_get_token",
        "pm_netlink",
        "scheduler",
        "sock_destroy",
        "syn_retrans",
        "syncookies",
        "userfaultfd",
        "userspace_pm",
    }
)

#: All capabilities by name, in the order of the tables.
CAPABILITIES: Mapping[str, CapabilitySpec] = MappingProxyType({s.name: s for s in _SPECS})


def expectations(
    release: str, origin_is_debian: bool, declared: Mapping[str, bool]
) -> dict[str, Expectation]:
    """The expectation for each capability of a kernel, in the order of :data:`CAPABILITIES`.

    ``release`` is its ``uname -r``; a release without a version counts as the newest. ``declared``
    is the manifest's ``expect``, which is strict: if it declares absence, presence is a failure
    too.
    """
    version = parse_release(release)
    expected: dict[str, Expectation] = {}
    for spec in CAPABILITIES.values():
        missing = next((name for name in spec.requires if not expected[name].present), None)
        if spec.name in declared:
            present = declared[spec.name]
            why = f"the manifest says {spec.name}: {'true' if present else 'false'}"
            expected[spec.name] = Expectation(present, why, strict=True)
        elif missing is not None:
            why = f"it needs {missing}, which is not expected: {expected[missing].why}"
            expected[spec.name] = Expectation(False, why)
        elif version is None:
            expected[spec.name] = Expectation(True, _why_of_unknown(spec, release))
        else:
            expected[spec.name] = _by_version(spec, version, origin_is_debian)
    return expected


def contradictions(declared: Mapping[str, bool]) -> list[tuple[str, str]]:
    """Pairs of a capability declared present and one that it needs but that is declared absent."""
    return [
        (spec.name, needed)
        for spec in CAPABILITIES.values()
        if declared.get(spec.name) is True
        for needed in _all_requirements(spec)
        if declared.get(needed) is False
    ]


def parse_release(release: str) -> Version | None:
    """(major, minor) of a ``uname -r``; None if it contains no version.

    The third number is ignored: Debian's ``6.1.0-50-amd64`` is 6.1.176. A release candidate counts
    as its version, because features are merged before ``-rc1``.
    """
    match = re.match(r"([0-9]{1,3})\.([0-9]{1,3})(?![0-9])", release)
    return (int(match[1]), int(match[2])) if match else None


def _by_version(spec: CapabilitySpec, version: Version, origin_is_debian: bool) -> Expectation:
    if spec.since is None:
        return Expectation(True, "the checks want it of every kernel")
    this = f"this is {_dotted(version)}"
    if version < spec.since:
        return Expectation(False, f"mainline has it since {_dotted(spec.since)}, {this}")
    if spec.name == "mptcp" and origin_is_debian and version < DEBIAN_BUILDS_MPTCP_SINCE:
        since = _dotted(DEBIAN_BUILDS_MPTCP_SINCE)
        return Expectation(False, f"Debian builds MPTCP in since {since}, {this}")
    return Expectation(True, f"mainline has it since {_dotted(spec.since)}")


def _why_of_unknown(spec: CapabilitySpec, release: str) -> str:
    shown = ascii(release[:64])  # from the guest, so escaped for a terminal
    if spec.since is None:
        return "the checks want it of every kernel"
    return (
        f"mainline has it since {_dotted(spec.since)}; "
        f"the release {shown} has no version number and is treated as the newest"
    )


def _all_requirements(spec: CapabilitySpec) -> list[str]:
    found = list(spec.requires)
    for name in spec.requires:
        found += _all_requirements(CAPABILITIES[name])
    return found


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
