# SPDX-License-Identifier: GPL-2.0-only
"""Options of TCP and IP on an MPTCP socket: numbers of linux/tcp.h, linux/in.h and linux/in6.h.

MPTCP answers for each of them in code of its own (net/mptcp/sockopt.c), so that each came with a
version of its own, and can be lost alone.
"""

from __future__ import annotations

import _socket
import struct

from guest import sockopt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional, Sequence

_INT = struct.Struct("=i")
#: Not in the headers of every Python that is in use.
IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6 = 6, 0, 41


class Option:
    """An option that is one ``int``.

    ``values`` may be set on a connection at any time. ``unset`` is what a socket says that nobody
    set it on, None where a sysctl or the connection decides. ``family`` is that of the sockets
    that have it, None for all.
    """

    __slots__ = ("family", "level", "name", "number", "unset", "values")

    def __init__(
        self,
        name: str,
        level: int,
        number: int,
        unset: Optional[int] = None,
        values: Sequence[int] = (),
        family: Optional[int] = None,
    ) -> None:
        self.name = name
        self.level = level
        self.number = number
        self.unset = unset
        self.values = values
        self.family = family

    def get(self, fd: int) -> sockopt.Answer:
        return sockopt.getsockopt(fd, self.level, self.number, bytes(_INT.size))

    def set(self, fd: int, value: int) -> int:
        """0 or errno."""
        return sockopt.setsockopt(fd, self.level, self.number, _INT.pack(value))


def number_in(answer: sockopt.Answer) -> int:
    """The int that ``answer`` holds."""
    return int(_INT.unpack(answer.data)[0])


SECONDS = (1, 127, 32767)  # the least, some and the most that TCP takes

TCP_MAXSEG = Option("TCP_MAXSEG", IPPROTO_TCP, 2)
TCP_IS_MPTCP = Option("TCP_IS_MPTCP", IPPROTO_TCP, 43)

#: By the capability that they came with.
OPTIONS: Mapping[str, Sequence[Option]] = {
    "tcp_cork_nodelay": (
        Option("TCP_CORK", IPPROTO_TCP, 3, unset=0, values=(1, 0)),
        Option("TCP_NODELAY", IPPROTO_TCP, 1, unset=0, values=(1, 0)),
    ),
    "tcp_inq": (Option("TCP_INQ", IPPROTO_TCP, 36, unset=0, values=(1, 0)),),
    "tcp_fastopen_connect": (Option("TCP_FASTOPEN_CONNECT", IPPROTO_TCP, 30, unset=0),),
    "tcp_fastopen": (
        Option("TCP_FASTOPEN", IPPROTO_TCP, 23),
        Option("TCP_FASTOPEN_NO_COOKIE", IPPROTO_TCP, 34, unset=0),
    ),
    "local_port_range": (
        Option("IP_LOCAL_PORT_RANGE", IPPROTO_IP, 51, unset=0),
        Option("IP_BIND_ADDRESS_NO_PORT", IPPROTO_IP, 24, unset=0),
    ),
    "tcp_notsent_lowat": (
        Option("TCP_NOTSENT_LOWAT", IPPROTO_TCP, 25, unset=0, values=(1, 65536)),
    ),
    "tcp_keepalive": (
        Option("TCP_KEEPIDLE", IPPROTO_TCP, 4, values=SECONDS),
        Option("TCP_KEEPINTVL", IPPROTO_TCP, 5, values=SECONDS),
        Option("TCP_KEEPCNT", IPPROTO_TCP, 6, values=(1, 127)),
    ),
    "tcp_is_mptcp": (TCP_IS_MPTCP,),
    "transparent_get": (
        Option("IP_FREEBIND", IPPROTO_IP, 15, unset=0, family=_socket.AF_INET),
        Option("IP_TRANSPARENT", IPPROTO_IP, 19, unset=0, family=_socket.AF_INET),
        Option("IPV6_V6ONLY", IPPROTO_IPV6, 26, family=_socket.AF_INET6),
        Option("IPV6_FREEBIND", IPPROTO_IPV6, 78, unset=0, family=_socket.AF_INET6),
        Option("IPV6_TRANSPARENT", IPPROTO_IPV6, 75, unset=0, family=_socket.AF_INET6),
    ),
    "tcp_maxseg": (TCP_MAXSEG,),
}


def of_family(name: str, family: int) -> Sequence[Option]:
    """The options of the capability ``name`` that a socket of ``family`` has."""
    return [option for option in OPTIONS[name] if option.family in (None, family)]
