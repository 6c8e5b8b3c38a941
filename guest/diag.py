# SPDX-License-Identifier: GPL-2.0-only
"""Reads sock_diag(7) for MPTCP sockets and for the TCP sockets of their subflows.

::

    diag = Diag()
    one = diag.subflow(sock)          # the TCP socket of the first subflow of an MPTCP socket
    one.mark, one.congestion, one.skmem.sndbuf, one.tos, one.timer, one.ulp.flags
    diag.subflows(port=port)          # every subflow with that port on either side
    diag.mptcp(token)                 # the MPTCP socket itself; .info is a struct mptcp_info
    diag.mptcp_sockets()              # a dump of them

A socket that does not exist raises :class:`~guest.netlink.Refused` (ENOENT). So does every request
for MPTCP sockets if the kernel lacks CONFIG_INET_MPTCP_DIAG or the module is not loaded. Structures
and numbers are those of linux/inet_diag.h, linux/sock_diag.h and linux/mptcp.h.
"""

from __future__ import annotations

import _socket
import struct
import sys

from guest import abi, netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
IPPROTO_TCP = 6

#: States of TCP, by number (include/net/tcp_states.h).
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT = 1, 2, 3, 4, 5, 6
CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING, NEW_SYN_RECV = 7, 8, 9, 10, 11, 12
EVERY_STATE = (1 << 13) - 1

#: Attributes of an answer (INET_DIAG_*).
MEMINFO, INFO, CONG, TOS, TCLASS, SKMEMINFO, SHUTDOWN = 1, 2, 4, 5, 6, 7, 8
SKV6ONLY, MARK, CLASS_ID, ULP_INFO, CGROUP_ID, SOCKOPT = 11, 15, 17, 19, 21, 22
#: All bits of idiag_ext.
EVERYTHING = 0xFF
REQ_PROTOCOL = 3
ULP_NAME, ULP_MPTCP = 1, 3

#: idiag_timer: which timer runs, and idiag_expires says in how many milliseconds.
TIMER_NONE, TIMER_RETRANSMIT, TIMER_KEEPALIVE, TIMER_TIME_WAIT, TIMER_PROBE = 0, 1, 2, 3, 4

#: MPTCP_SUBFLOW_FLAG_*
MCAP_REM, MCAP_LOC, JOIN_REM, JOIN_LOC, BKUP_REM, BKUP_LOC = 1, 2, 4, 8, 16, 32
FULLY_ESTABLISHED, CONNECTED, MAPVALID = 64, 128, 256

SOCKID_SIZE = 48
NO_COOKIE = 0xFFFFFFFF
_REQUEST = struct.Struct("=BBBxI")
_ID = struct.Struct("!HH16s16s")
_ID_REST = struct.Struct("=III")
_MESSAGE_HEAD = struct.Struct("=BBBB")
_MESSAGE_TAIL = struct.Struct("=IIIII")
_MESSAGE_SIZE = _MESSAGE_HEAD.size + SOCKID_SIZE + _MESSAGE_TAIL.size

#: struct sk_meminfo as INET_DIAG_SKMEMINFO has it: enum of linux/sock_diag.h.
SKMEM_LAYOUT = abi.Layout(
    "skmeminfo",
    [
        ("rmem_alloc", "I"),
        ("rcvbuf", "I"),
        ("wmem_alloc", "I"),
        ("sndbuf", "I"),
        ("fwd_alloc", "I"),
        ("wmem_queued", "I"),
        ("optmem", "I"),
        ("backlog", "I"),
        ("drops", "I"),
    ],
)
#: struct inet_diag_meminfo
MEM_LAYOUT = abi.Layout("meminfo", [(name, "I") for name in ("rmem", "wmem", "fmem", "tmem")])


class Ulp:
    """INET_DIAG_ULP_INFO of a subflow; ``name`` is "mptcp" for one. Absent numbers are None."""

    __slots__ = (
        "flags",
        "id_loc",
        "id_rem",
        "map_datalen",
        "map_seq",
        "map_sfseq",
        "name",
        "relwrite_seq",
        "ssn_offset",
        "token_loc",
        "token_rem",
    )
    #: MPTCP_SUBFLOW_ATTR_*
    NUMBERS = {
        "token_rem": 1,
        "token_loc": 2,
        "relwrite_seq": 3,
        "map_seq": 4,
        "map_sfseq": 5,
        "ssn_offset": 6,
        "map_datalen": 7,
        "flags": 8,
        "id_rem": 9,
        "id_loc": 10,
    }

    def __init__(self, data: bytes) -> None:
        found = netlink.attributes(data)
        self.name = found.get(ULP_NAME, b"").rstrip(b"\0").decode()
        inner = netlink.attributes(found.get(ULP_MPTCP, b""))
        for name, kind in self.NUMBERS.items():
            value = inner.get(kind)
            setattr(self, name, None if value is None else netlink.number(value))

    if TYPE_CHECKING:
        token_rem: int
        token_loc: int
        relwrite_seq: int
        map_seq: int
        map_sfseq: int
        ssn_offset: int
        map_datalen: int
        flags: int
        id_rem: int
        id_loc: int


class Record:
    """One socket as diag shows it. Absent values are None."""

    __slots__ = (
        "attributes",
        "cookie",
        "expires",
        "family",
        "inode",
        "interface",
        "local",
        "protocol",
        "raw",
        "remote",
        "retrans",
        "rqueue",
        "state",
        "timer",
        "uid",
        "wqueue",
    )

    def __init__(self, body: bytes, protocol: int) -> None:
        self.raw = body
        self.protocol = protocol  # that was asked for
        self.family, self.state, self.timer, self.retrans = _MESSAGE_HEAD.unpack_from(body)
        sport, dport, source, destination = _ID.unpack_from(body, 4)
        #: (address in text, port), as the first two of getsockname()
        self.local = (_text(self.family, source), sport)
        self.remote = (_text(self.family, destination), dport)
        self.interface, low, high = _ID_REST.unpack_from(body, 4 + _ID.size)
        self.cookie = (low, high)
        tail = _MESSAGE_TAIL.unpack_from(body, 4 + SOCKID_SIZE)
        #: expires in milliseconds; queues in bytes, of a listener in connections
        self.expires, self.rqueue, self.wqueue, self.uid, self.inode = tail
        self.attributes = netlink.attributes(body[_MESSAGE_SIZE:])

    def number(self, kind: int) -> Optional[int]:
        data = self.attributes.get(kind)
        return None if data is None else netlink.number(data)

    @property
    def mark(self) -> Optional[int]:
        """SO_MARK; only shown to CAP_NET_ADMIN."""
        return self.number(MARK)

    @property
    def tos(self) -> Optional[int]:
        return self.number(TOS)

    @property
    def tclass(self) -> Optional[int]:
        return self.number(TCLASS)

    @property
    def v6only(self) -> Optional[int]:
        return self.number(SKV6ONLY)

    @property
    def shutdown(self) -> Optional[int]:
        """1: receiving, 2: sending is shut down."""
        return self.number(SHUTDOWN)

    @property
    def priority(self) -> Optional[int]:
        """SO_PRIORITY: INET_DIAG_CLASS_ID has it unless a cgroup sets a class."""
        return self.number(CLASS_ID)

    @property
    def congestion(self) -> Optional[str]:
        data = self.attributes.get(CONG)
        return None if data is None else data.rstrip(b"\0").decode()

    @property
    def skmem(self) -> abi.View:
        """rmem_alloc, rcvbuf, wmem_alloc, sndbuf, fwd_alloc, wmem_queued, optmem, ..."""
        return SKMEM_LAYOUT.view(self.attributes.get(SKMEMINFO, b""))

    @property
    def meminfo(self) -> abi.View:
        return MEM_LAYOUT.view(self.attributes.get(MEMINFO, b""))

    @property
    def info(self) -> abi.View:
        """struct tcp_info, or struct mptcp_info of an MPTCP socket."""
        is_mptcp = self.protocol == abi.IPPROTO_MPTCP
        layout = abi.MPTCP_INFO_LAYOUT if is_mptcp else abi.TCP_INFO_LAYOUT
        return layout.view(self.attributes.get(INFO, b""))

    @property
    def sockopt(self) -> Optional[tuple[int, int]]:
        """The two bytes of struct inet_diag_sockopt: recverr, is_icsk, freebind, hdrincl,
        mc_loop, transparent, mc_all, nodefrag; and bind_address_no_port, recverr_rfc4884,
        defer_connect, each a bit from the lowest on."""
        data = self.attributes.get(SOCKOPT)
        return None if data is None else (bit_field(data[0]), bit_field(data[1]))

    @property
    def ulp(self) -> Optional[Ulp]:
        data = self.attributes.get(ULP_INFO)
        return None if data is None else Ulp(data)

    @property
    def is_subflow(self) -> bool:
        ulp = self.ulp
        return ulp is not None and ulp.name == "mptcp"


def bit_field(byte: int, order: str = sys.byteorder) -> int:
    """``byte`` with the first member of its bit-field in the lowest bit.

    A big-endian compiler puts the first member into the highest bit.
    """
    return byte if order == "little" else int("{:08b}".format(byte)[::-1], 2)


class Diag:
    """A sock_diag socket of the network namespace in which it is created.

    The kernel sends a dump in pieces of at most ``room`` bytes.
    """

    def __init__(self, room: int = netlink.ROOM) -> None:
        self._netlink = netlink.Netlink(netlink.SOCK_DIAG, room)

    def close(self) -> None:
        self._netlink.close()

    def tcp(self, local: Sequence[object], remote: Sequence[object], interface: int = 0) -> Record:
        """The TCP socket between two addresses, in the form of getsockname()."""
        family, ident = _sockid(local, remote, interface)
        body = self._netlink.query(SOCK_DIAG_BY_FAMILY, _request(family, ident))
        return Record(body, IPPROTO_TCP)

    def subflow(self, sock: _socket.socket) -> Record:
        """The TCP socket under the first subflow of ``sock``, or ``sock`` itself if it is TCP."""
        return self.tcp(sock.getsockname(), sock.getpeername())

    def tcp_listener(self, sock: _socket.socket) -> Record:
        """The TCP socket of a listening ``sock``, MPTCP or TCP."""
        local = sock.getsockname()
        found = self.tcp_sockets(sport=local[1], states=1 << LISTEN, family=int(sock.family))
        if not found:
            raise netlink.Refused(netlink.ENOENT)
        return found[0]

    def tcp_sockets(
        self, sport: int = 0, dport: int = 0, states: int = EVERY_STATE, family: int = 0
    ) -> Sequence[Record]:
        """A dump of TCP sockets; ``family`` 0 for both, ports 0 for all."""
        return self._dump(IPPROTO_TCP, sport, dport, states, family)

    def subflows(self, port: int, states: int = EVERY_STATE, family: int = 0) -> Sequence[Record]:
        """TCP sockets with ``port`` on either side that are subflows of MPTCP sockets."""
        return [
            record
            for record in self.tcp_sockets(states=states, family=family)
            if port in (record.local[1], record.remote[1]) and record.is_subflow
        ]

    def mptcp(self, token: int) -> Record:
        """The MPTCP socket with the local ``token``."""
        ident = bytes(_ID.size) + _ID_REST.pack(0, token, 0)
        payload = _request(_socket.AF_INET, ident, protocol=abi.IPPROTO_MPTCP)
        body = self._netlink.query(SOCK_DIAG_BY_FAMILY, payload)
        return Record(body, abi.IPPROTO_MPTCP)

    def mptcp_sockets(
        self, sport: int = 0, dport: int = 0, states: int = EVERY_STATE, family: int = 0
    ) -> Sequence[Record]:
        """A dump of MPTCP sockets: those with a token, and listeners."""
        return self._dump(abi.IPPROTO_MPTCP, sport, dport, states, family)

    def destroy(self, record: Record) -> None:
        """SOCK_DESTROY of the socket that ``record`` shows."""
        ident = record.raw[4 : 4 + SOCKID_SIZE]
        payload = _request(record.family, ident, 1 << record.state, record.protocol)
        self._netlink.request(SOCK_DESTROY, payload)

    def destroy_between(self, local: Sequence[object], remote: Sequence[object]) -> None:
        """SOCK_DESTROY of the TCP socket between two addresses."""
        family, ident = _sockid(local, remote, 0)
        self._netlink.request(SOCK_DESTROY, _request(family, ident))

    def _dump(
        self, protocol: int, sport: int, dport: int, states: int, family: int
    ) -> Sequence[Record]:
        found = []
        # sock_diag has no AF_UNSPEC.
        for each in (family,) if family else (_socket.AF_INET, _socket.AF_INET6):
            request = _request(each, _ports(sport, dport), states, protocol)
            bodies = self._netlink.dump(SOCK_DIAG_BY_FAMILY, request)
            found += [Record(body, protocol) for _, body in bodies]
        return found


def _request(
    family: int, ident: bytes, states: int = EVERY_STATE, protocol: int = IPPROTO_TCP
) -> bytes:
    """struct inet_diag_req_v2; a protocol that does not fit its byte goes into an attribute."""
    head = _REQUEST.pack(family, protocol & 0xFF, EVERYTHING, states) + ident
    if protocol > 0xFF:
        head += netlink.attribute(REQ_PROTOCOL, netlink.u32(protocol))
    return head


def _ports(sport: int, dport: int) -> bytes:
    """struct inet_diag_sockid that asks for ports only."""
    return _ID.pack(sport, dport, b"", b"") + _ID_REST.pack(0, NO_COOKIE, NO_COOKIE)


def _sockid(local: Sequence[object], remote: Sequence[object], interface: int) -> tuple[int, bytes]:
    source, destination = str(local[0]), str(remote[0])
    family = _socket.AF_INET6 if ":" in source else _socket.AF_INET
    ident = _ID.pack(
        local[1],
        remote[1],
        _socket.inet_pton(family, source),
        _socket.inet_pton(family, destination),
    )
    return family, ident + _ID_REST.pack(interface, NO_COOKIE, NO_COOKIE)


def _text(family: int, address: bytes) -> str:
    size = 16 if family == _socket.AF_INET6 else 4
    return _socket.inet_ntop(family, address[:size])
