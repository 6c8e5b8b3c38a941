# SPDX-License-Identifier: GPL-2.0-only
"""The options that MPTCP refuses: those that net/mptcp/sockopt.c of Linux 7.3 names, and more."""

from __future__ import annotations

from guest import abi
from guest.option import (
    AF_INET6,
    ENOPROTOOPT,
    EOPNOTSUPP,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    REFUSED,
    SOL_SOCKET,
    Option,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

#: SOL_SOCKET: not taken by MPTCP, readable as on any socket.
_NO_SOCKET = """
    TYPE 3 ERROR 4 OOBINLINE 10 PEERCRED %d SNDLOWAT %d ATTACH_FILTER 26 DETACH_FILTER 27
    PEERNAME 28 ACCEPTCONN 30 PEERSEC 31 PROTOCOL 38 DOMAIN 39 PEEK_OFF 42 LOCK_FILTER 44
    MAX_PACING_RATE 47 BPF_EXTENSIONS 48 ATTACH_BPF 50 ATTACH_REUSEPORT_CBPF 51
    ATTACH_REUSEPORT_EBPF 52 CNX_ADVICE 53 MEMINFO 55 INCOMING_NAPI_ID 56 COOKIE 57 PEERGROUPS 59
    ZEROCOPY 60 TXTIME 61 DETACH_REUSEPORT_BPF 68 NETNS_COOKIE 71 BUF_LOCK 72 RESERVE_MEM 73
    TXREHASH 74 RCVMARK 75 UNKNOWN 200
""" % ((21, 17) if abi.POWERPC else (17, 19))
#: SOL_IP: known to MPTCP, passed on after a fallback only.
_PASSED_IP = """
    TTL 2 RECVOPTS 6 RETOPTS 7 PKTINFO 8 MTU_DISCOVER 10 RECVERR 11 RECVTTL 12 RECVTOS 13
    PASSSEC 18 RECVORIGDSTADDR 20 MINTTL 21 CHECKSUM 23 RECVFRAGSIZE 25 RECVERR_RFC4884 26
"""
_NO_IP = """
    HDRINCL 3 OPTIONS 4 ROUTER_ALERT 5 PKTOPTIONS 9 MTU 14 IPSEC_POLICY 16 XFRM_POLICY 17
    NODEFRAG 22
    MULTICAST_IF 32 MULTICAST_TTL 33 MULTICAST_LOOP 34 ADD_MEMBERSHIP 35 DROP_MEMBERSHIP 36
    UNBLOCK_SOURCE 37 BLOCK_SOURCE 38 ADD_SOURCE_MEMBERSHIP 39 DROP_SOURCE_MEMBERSHIP 40 MSFILTER 41
    MCAST_JOIN_GROUP 42 MCAST_BLOCK_SOURCE 43 MCAST_UNBLOCK_SOURCE 44 MCAST_LEAVE_GROUP 45
    MCAST_JOIN_SOURCE_GROUP 46 MCAST_LEAVE_SOURCE_GROUP 47 MCAST_MSFILTER 48 MULTICAST_ALL 49
    UNICAST_IF 50 UNKNOWN 200
"""
#: SOL_IPV6: the same.
_PASSED_IPV6 = """
    2292PKTINFO 2 2292HOPOPTS 3 2292DSTOPTS 4 2292RTHDR 5 2292PKTOPTIONS 6 2292HOPLIMIT 8
    FLOWINFO 11 UNICAST_HOPS 16 MTU_DISCOVER 23 MTU 24 RECVERR 25 RECVERR_RFC4884 31
    FLOWLABEL_MGR 32 FLOWINFO_SEND 33 RECVPKTINFO 49 PKTINFO 50 RECVHOPLIMIT 51 RECVHOPOPTS 53
    RECVRTHDR 56 RECVDSTOPTS 58 RECVPATHMTU 60 DONTFRAG 62 RECVTCLASS 66 TCLASS 67 AUTOFLOWLABEL 70
    MINHOPCOUNT 73 RECVORIGDSTADDR 74 RECVFRAGSIZE 77
"""
_NO_IPV6 = """
    ADDRFORM 1 CHECKSUM 7 NEXTHOP 9 MULTICAST_IF 17 MULTICAST_HOPS 18 MULTICAST_LOOP 19
    ADD_MEMBERSHIP 20 DROP_MEMBERSHIP 21 ROUTER_ALERT 22 JOIN_ANYCAST 27 LEAVE_ANYCAST 28
    MULTICAST_ALL 29 ROUTER_ALERT_ISOLATE 30 IPSEC_POLICY 34 XFRM_POLICY 35 HDRINCL 36
    MCAST_JOIN_GROUP 42 MCAST_BLOCK_SOURCE 43 MCAST_UNBLOCK_SOURCE 44 MCAST_LEAVE_GROUP 45
    MCAST_JOIN_SOURCE_GROUP 46 MCAST_LEAVE_SOURCE_GROUP 47 MCAST_MSFILTER 48 HOPLIMIT 52 HOPOPTS 54
    RTHDRDSTOPTS 55 RTHDR 57 DSTOPTS 59 PATHMTU 61 ADDR_PREFERENCES 72 UNICAST_IF 76 UNKNOWN 200
"""
#: SOL_TCP: the same; a value that is too short is noticed first.
_PASSED_TCP = """
    SYNCNT 7 LINGER2 8 WINDOW_CLAMP 10 QUICKACK 12 THIN_LINEAR_TIMEOUTS 16 THIN_DUPACK 17
    USER_TIMEOUT 18 SAVE_SYN 27 TX_DELAY 37
"""
_CLOCK_TCP = "TIMESTAMP 24"
_NO_TCP = """
    MD5SIG 14 REPAIR 19 REPAIR_QUEUE 20 QUEUE_SEQ 21 REPAIR_OPTIONS 22 SAVED_SYN 28
    REPAIR_WINDOW 29 MD5SIG_EXT 32 ZEROCOPY_RECEIVE 35 AO_ADD_KEY 38 AO_DEL_KEY 39 AO_INFO 40
    AO_GET_KEYS 41 AO_REPAIR 42 RTO_MAX_MS 44 RTO_MIN_US 45 DELACK_MAX_US 46 UNKNOWN 200
"""


def _listed(
    prefix: str,
    level: int,
    text: str,
    refusal: int,
    unreadable: int = 0,
    passed: bool = False,
    family: Optional[int] = None,
    volatile: bool = False,
) -> list[Option]:
    """The options that MPTCP refuses: ``text`` is names, without their prefix, and numbers."""
    words = text.split()
    return [
        Option(
            prefix + name,
            level,
            int(number),
            family=family,
            treatment=REFUSED,
            refusal=refusal,
            unreadable=unreadable,
            passed=passed,
            volatile=volatile,
        )
        for name, number in zip(words[::2], words[1::2])
    ]


def at_socket() -> list[Option]:
    """SOL_SOCKET: readable as on any socket."""
    found = _listed("SO_", SOL_SOCKET, _NO_SOCKET, refusal=EOPNOTSUPP)
    for option in found:
        if option.name in _NOT_TCP:
            option.unlike = {"initial": _NOT_TCP[option.name], "get lengths": ""}
        option.volatile = option.name in _VOLATILE
    return found


#: Another value at each socket.
_VOLATILE = ("SO_MEMINFO", "SO_INCOMING_NAPI_ID", "SO_PEERNAME", "SO_COOKIE")
_NOT_TCP = {
    "SO_PROTOCOL": "the protocol is MPTCP",
    "SO_PEEK_OFF": "TCP has it since 6.9",
    "SO_TXREHASH": "for TCP sockets only",
}


def at_ip() -> list[Option]:
    """SOL_IP."""
    return [
        *_listed("IP_", IPPROTO_IP, _PASSED_IP, EOPNOTSUPP, EOPNOTSUPP, True),
        *_listed("IP_", IPPROTO_IP, _NO_IP, ENOPROTOOPT, EOPNOTSUPP),
    ]


def at_ipv6() -> list[Option]:
    """SOL_IPV6."""
    return [
        *_listed("IPV6_", IPPROTO_IPV6, _PASSED_IPV6, EOPNOTSUPP, EOPNOTSUPP, True, AF_INET6),
        *_listed("IPV6_", IPPROTO_IPV6, _NO_IPV6, ENOPROTOOPT, EOPNOTSUPP, False, AF_INET6),
    ]


def at_tcp() -> list[Option]:
    """SOL_TCP."""
    return [
        *_listed("TCP_", IPPROTO_TCP, _PASSED_TCP, ENOPROTOOPT, EOPNOTSUPP, True),
        *_listed("TCP_", IPPROTO_TCP, _CLOCK_TCP, ENOPROTOOPT, EOPNOTSUPP, True, volatile=True),
        *_listed("TCP_", IPPROTO_TCP, _NO_TCP, ENOPROTOOPT, EOPNOTSUPP),
        *_read_from_first(),
    ]


def _read_from_first() -> list[Option]:
    """Cannot be set; read from the first subflow."""
    found = _listed("TCP_", IPPROTO_TCP, "INFO 11 CC_INFO 26 ULP 31", ENOPROTOOPT)
    for option in found:
        option.volatile = True
        if option.name == "TCP_ULP":
            why = "MPTCP is the ULP of its subflows, after a fallback too"
            parts = ("initial", "get lengths", "initial fallback", "get lengths fallback")
            option.unlike = dict.fromkeys(parts, why)
    return found
