# SPDX-License-Identifier: GPL-2.0-only
"""The options that net/mptcp/sockopt.c of Linux 7.3 names, as data: every check follows from it.

MPTCP answers for each of them in code of its own, so that each came with a version of its own, and
can be lost alone. Numbers are those of asm-generic/socket.h, linux/in.h, linux/in6.h and
linux/tcp.h.
"""

from __future__ import annotations

import struct

from guest import abi
from guest.option import (
    AF_INET,
    AF_INET6,
    CLOSED,
    EDOM,
    EINVAL,
    ENODEV,
    ENOENT,
    ENOPROTOOPT,
    IGNORED,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    REFUSED,
    SOL_SOCKET,
    UNBOUND,
    UNCONNECTED,
    Option,
    number_in,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional, Sequence

    from guest.option import Value

__all__ = ["BY_NAME", "OPTIONS", "TAKEN", "Option", "number_in", "of_family", "table"]

INT_SIZE = 4


def _linger(on: int, seconds: int) -> bytes:
    return struct.pack("=ii", on, seconds)


def _timeval(seconds: int, microseconds: int) -> bytes:
    return struct.pack("=qq", seconds, microseconds)


def _old_timeval(seconds: int, microseconds: int) -> bytes:
    return struct.pack("@ll", seconds, microseconds)


def _name(text: str) -> bytes:
    return text.encode().ljust(16, b"\0")


SECONDS = (1, 127, 32767)  # the least, some and the most that TCP takes
_BOOL: tuple[int, ...] = (1, 0, 7)
_TRUE: Mapping[Value, Value] = {7: 1}


def _socket_options() -> list[Option]:
    def kept(name: str, number: int, *args: object, **more: object) -> Option:
        return Option("SO_" + name, SOL_SOCKET, number, *args, **more)  # type: ignore[arg-type]

    def timeout(name: str, number: int, of: object, size: int) -> Option:
        make = _old_timeval if of is _old_timeval else _timeval
        return kept(
            name,
            number,
            values=(make(5, 500000), make(0, 0)),
            bad=((make(1, 1000000), EDOM), (make(1, -1), EDOM)),
            size=size,
            least=size,
        )

    def stamping(name: str, number: int) -> Option:
        return kept(
            name,
            number,
            values=(_linger(0x12, 0), _linger(0, 0)),
            bad=((_linger(1 << 30, 0), EINVAL),),
            size=8,
            exact=(4, 8),
            unlike={"set lengths": "TCP takes any length from 4 on"},
        )

    old = struct.calcsize("@ll")
    # powerpc has these six in another order (asm/socket.h).
    passcred, rcvlowat, rcvtimeo, sndtimeo = (20, 16, 18, 19) if abi.POWERPC else (16, 18, 20, 21)
    arrival = {"initial": "no packet ends at the MPTCP socket"}
    summed = {"initial": "the sum over the subflows, and grown when they connect"}
    ignored = [
        kept("DONTROUTE", 5),
        kept("BROADCAST", 6),
        kept("NO_CHECK", 11),
        kept("BSDCOMPAT", 14),
        kept("PASSCRED", passcred),
        kept("PASSSEC", 34),
        kept("RXQ_OVFL", 40),
        kept("WIFI_STATUS", 41),
        kept("NOFCS", 43),
        kept("SELECT_ERR_QUEUE", 45),
    ]
    for option in ignored:
        option.treatment = IGNORED
    return [
        kept("DEBUG", 1, 0, _BOOL, reads=_TRUE),
        kept("REUSEADDR", 2, 0, _BOOL, reads=_TRUE, when=UNCONNECTED),
        kept(
            "SNDBUF",
            7,
            None,
            (20000, 1, 80000),
            reads={20000: 40000, 1: 4608, 80000: 160000},
            unlike=summed,
        ),
        kept("RCVBUF", 8, None, (20000, 1, 80000), reads={20000: 40000, 1: 2304, 80000: 160000}),
        kept("KEEPALIVE", 9, 0, _BOOL, reads=_TRUE),
        kept("PRIORITY", 12, 0, (6, 1, 0)),
        kept(
            "LINGER",
            13,
            values=(_linger(1, 30), _linger(1, 0), _linger(0, 0)),
            size=8,
            least=8,
            undo=(_linger(1, 0),),
        ),
        kept("REUSEPORT", 15, 0, _BOOL, reads=_TRUE, when=UNCONNECTED),
        kept("RCVLOWAT", rcvlowat, 1, (1000, 0, 1), reads={0: 1}),
        timeout("RCVTIMEO", rcvtimeo, _old_timeval, old),
        timeout("SNDTIMEO", sndtimeo, _old_timeval, old),
        kept(
            "BINDTODEVICE",
            25,
            values=(_name("lo"), _name("")),
            bad=((_name("nosuch"), ENODEV),),
            reads={_name("lo"): b"lo\0", _name(""): b""},
            when=UNCONNECTED,
            size=16,
            least=0,
        ),
        kept("TIMESTAMP", 29, 0, _BOOL, reads=_TRUE),
        kept("SNDBUFFORCE", 32, None, (500000,), reads={500000: 1000000}, via=7, unlike=summed),
        kept("RCVBUFFORCE", 33, None, (500000,), reads={500000: 1000000}, via=8),
        kept("TIMESTAMPNS", 35, 0, _BOOL, reads=_TRUE),
        kept("MARK", 36, 0, (1, -1, 0)),
        stamping("TIMESTAMPING", 37),
        kept("BUSY_POLL", 46, None, (50, 0), bad=((-1, EINVAL),)),
        kept("INCOMING_CPU", 49, -1, (0, 1), unlike=arrival),
        kept("BINDTOIFINDEX", 62, 0, (1, 0), bad=((-1, EINVAL),), when=UNCONNECTED),
        kept("TIMESTAMP_NEW", 63, 0, _BOOL, reads=_TRUE),
        kept("TIMESTAMPNS_NEW", 64, 0, _BOOL, reads=_TRUE),
        stamping("TIMESTAMPING_NEW", 65),
        timeout("RCVTIMEO_NEW", 66, None, 16),
        timeout("SNDTIMEO_NEW", 67, None, 16),
        kept("PREFER_BUSY_POLL", 69, 0, _BOOL, reads=_TRUE),
        kept(
            "BUSY_POLL_BUDGET",
            70,
            None,
            (16, 8, 65535),
            bad=((-1, EINVAL), (65536, EINVAL)),
            write_only=True,
        ),
        *ignored,
    ]


def _ip_options() -> list[Option]:
    def kept(name: str, number: int, *args: object, **more: object) -> Option:
        return Option("IP_" + name, IPPROTO_IP, number, *args, **more)  # type: ignore[arg-type]

    def freely(name: str, number: int) -> Option:
        return kept(
            name,
            number,
            0,
            _BOOL,
            AF_INET,
            reads=_TRUE,
            when=UNCONNECTED,
            least=1,
            capability="transparent_get",
        )

    ports = 20000 | 20100 << 16
    return [
        kept("TOS", 1, 0, (0x10, 0xFC, 0), least=0, capability="ip_tos"),
        freely("FREEBIND", 15),
        freely("TRANSPARENT", 19),
        kept(
            "BIND_ADDRESS_NO_PORT",
            24,
            0,
            _BOOL,
            reads=_TRUE,
            when=UNCONNECTED,
            least=0,
            capability="local_port_range",
        ),
        kept(
            "LOCAL_PORT_RANGE",
            51,
            0,
            (ports, 0),
            bad=((20100 | 20000 << 16, EINVAL),),
            exact=(4,),
            when=UNCONNECTED,
            capability="local_port_range",
        ),
    ]


def _ipv6_options() -> list[Option]:
    def kept(name: str, number: int, unset: Optional[int] = 0, when: str = UNCONNECTED) -> Option:
        return Option(
            "IPV6_" + name,
            IPPROTO_IPV6,
            number,
            unset,
            (1, 0),
            AF_INET6,
            when=when,
            unlike={"get lengths": "IPv6 cuts the int, and takes optlen -1"},
            capability="transparent_get",
        )

    return [
        kept("V6ONLY", 26, None, UNBOUND),
        kept("FREEBIND", 78),
        kept("TRANSPARENT", 75),
    ]


def _tcp_options() -> list[Option]:
    def kept(name: str, number: int, *args: object, **more: object) -> Option:
        return Option("TCP_" + name, IPPROTO_TCP, number, *args, **more)  # type: ignore[arg-type]

    narrow = {
        "bytewise": True,
        "unlike": {"get lengths": "TCP cuts the int, as SOL_SOCKET does"},
    }

    def keep(name: str, number: int, values: Sequence[Value]) -> Option:
        most = values[-1]
        assert isinstance(most, int)
        bad = ((0, EINVAL), (most + 1, EINVAL), (-1, EINVAL))
        return kept(
            name, number, None, values, bad=bad, probed=True, capability="tcp_keepalive", **narrow
        )

    lowat = {
        "get lengths": "TCP cuts the int, as SOL_SOCKET does",
        "initial fallback": "subflows have no limit of their own",
    }
    cork = {"reads": _TRUE, "probed": True, "capability": "tcp_cork_nodelay", **narrow}
    fastopen = {"when": UNCONNECTED, "capability": "tcp_fastopen"}
    flag = ((2, EINVAL), (-1, EINVAL))
    return [
        kept("CORK", 3, 0, _BOOL, **cork),
        kept("NODELAY", 1, 0, _BOOL, **cork),
        kept("INQ", 36, 0, (1, 0), bad=flag, probed=True, capability="tcp_inq", **narrow),
        kept(
            "FASTOPEN_CONNECT",
            30,
            0,
            (1, 0),
            bad=flag,
            when=CLOSED,
            capability="tcp_fastopen_connect",
        ),
        kept("FASTOPEN", 23, None, (5, 0), bad=((-1, EINVAL),), **fastopen),
        kept("FASTOPEN_NO_COOKIE", 34, 0, (1, 0), bad=flag, **fastopen),
        kept(
            "NOTSENT_LOWAT",
            25,
            0,
            (1, 65536, 0),
            probed=True,
            bytewise=True,
            unlike=lowat,
            capability="tcp_notsent_lowat",
        ),
        keep("KEEPIDLE", 4, SECONDS),
        keep("KEEPINTVL", 5, SECONDS),
        keep("KEEPCNT", 6, (1, 127)),
        kept(
            "IS_MPTCP",
            43,
            1,
            treatment=REFUSED,
            refusal=ENOPROTOOPT,
            passed=False,
            unlike={"initial": "1 on MPTCP", "get lengths": ""},
            capability="tcp_is_mptcp",
        ),
        kept(
            "MAXSEG",
            2,
            None,
            (1000,),
            bad=((1, EINVAL), (65536, EINVAL)),
            echo=False,
            capability="tcp_maxseg",
        ),
        kept(
            "DEFER_ACCEPT",
            9,
            0,
            (1, 5, 0),
            reads={5: 7},
            when=UNCONNECTED,
            elsewhere=0,
            short=0,
            unlike={"set lengths": "MPTCP never lets it fail"},
        ),
        kept(
            "FASTOPEN_KEY",
            33,
            None,
            (bytes(range(16)), bytes(range(16, 32))),
            when=UNCONNECTED,
            size=16,
            exact=(16, 32),
            unlike={"initial": "a key stays until another is set"},
            capability="tcp_fastopen",
        ),
        kept(
            "CONGESTION",
            13,
            None,
            (_name("reno"), _name("cubic")),
            bad=((_name("nosuch"), ENOENT),),
            size=16,
            least=1,
        ),
    ]


#: The options that MPTCP takes, by level.
TAKEN: Sequence[Option] = (
    *_socket_options(),
    *_ip_options(),
    *_ipv6_options(),
    *_tcp_options(),
)
BY_NAME: Mapping[str, Option] = {option.name: option for option in TAKEN}


def table() -> Sequence[Option]:
    """Every option, by level, with those that MPTCP refuses. Quick runs have no use for those."""
    from guest import unsupported

    refused = (
        *((SOL_SOCKET, unsupported.at_socket()), (IPPROTO_IP, unsupported.at_ip())),
        *((IPPROTO_IPV6, unsupported.at_ipv6()), (IPPROTO_TCP, unsupported.at_tcp())),
    )
    found: list[Option] = []
    for level, more in refused:
        found += [option for option in TAKEN if option.level == level] + more
    return found


#: The capabilities of which each is an int or several, in the order in which the probe asks.
_CAPABILITIES = (
    "tcp_cork_nodelay",
    "tcp_inq",
    "tcp_fastopen_connect",
    "tcp_fastopen",
    "local_port_range",
    "tcp_notsent_lowat",
    "tcp_keepalive",
    "tcp_is_mptcp",
    "transparent_get",
    "tcp_maxseg",
)
#: The options that are an int, by the capability that they came with.
OPTIONS: Mapping[str, Sequence[Option]] = {
    name: [o for o in TAKEN if o.capability == name and o.size == INT_SIZE]
    for name in _CAPABILITIES
}


def of_family(name: str, family: int) -> Sequence[Option]:
    """The options of the capability ``name`` that a socket of ``family`` has."""
    return [option for option in OPTIONS[name] if option.of(family)]
