# SPDX-License-Identifier: GPL-2.0-only
"""Packets on the wire: a packet socket on the loopback interface, and a parser of TCP headers.

Each packet on the loopback interface passes a packet socket twice, on its way out and on its way
in; the outgoing copy is kept. Headers: RFC 791, 8200, 9293; MPTCP's option: RFC 8684.
"""

from __future__ import annotations

import _socket
import struct

from guest import isolation
from guest.lab import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Sequence

AF_PACKET, ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 17, 0x0003, 0x0800, 0x86DD
PACKET_OUTGOING = 4
ENETDOWN = 100
SO_RCVBUFFORCE = 33
TCP = 6

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
#: Kinds of TCP options.
OPTION_END, OPTION_NOP, OPTION_MSS, OPTION_FASTOPEN, OPTION_MPTCP = 0, 1, 2, 34, 30
#: Subtypes of MPTCP's option.
MP_CAPABLE, MP_JOIN, DSS, ADD_ADDR, REMOVE_ADDR, MP_PRIO, MP_FAIL, MP_FASTCLOSE, MP_TCPRST = range(
    9
)
#: Flags in the fourth byte of a DSS option.
DSS_ACK, DSS_ACK8, DSS_MAP, DSS_MAP8, DSS_FIN = 0x01, 0x02, 0x04, 0x08, 0x10


class Dss:
    """A DSS option (RFC 8684, 3.3). What the option does not have is None."""

    __slots__ = ("ack", "checksum", "fin", "length", "seq", "subflow_seq")

    def __init__(self, option: bytes) -> None:
        flags, at = option[3], 4
        self.fin = bool(flags & DSS_FIN)
        self.ack: Optional[int] = None
        self.seq: Optional[int] = None
        self.subflow_seq: Optional[int] = None
        self.length: Optional[int] = None
        self.checksum: Optional[int] = None
        if flags & DSS_ACK:
            width = 8 if flags & DSS_ACK8 else 4
            self.ack = int.from_bytes(option[at : at + width], "big")
            at += width
        if flags & DSS_MAP:
            width = 8 if flags & DSS_MAP8 else 4
            self.seq = int.from_bytes(option[at : at + width], "big")
            self.subflow_seq, self.length = struct.unpack_from("!IH", option, at + width)
            at += width + 6
            if len(option) >= at + 2:
                self.checksum = int(struct.unpack_from("!H", option, at)[0])


class Segment:
    """One TCP segment. ``tos`` and ``ttl`` are traffic class and hop limit of IPv6, too."""

    __slots__ = (
        "ack",
        "dport",
        "flags",
        "flow_label",
        "options",
        "payload",
        "seq",
        "sport",
        "tos",
        "ttl",
        "window",
    )

    def __init__(self, tos: int, ttl: int, flow_label: int, packet: bytes) -> None:
        self.tos = tos
        self.ttl = ttl
        self.flow_label = flow_label
        self.sport, self.dport, self.seq, self.ack, offset, self.flags, self.window = (
            struct.unpack_from("!HHIIBBH", packet)
        )
        size = (offset >> 4) * 4
        self.options = _options(packet[20:size])
        self.payload = packet[size:]

    def has(self, flags: int) -> bool:
        return bool(self.flags & flags == flags)

    def option(self, kind: int) -> Optional[bytes]:
        """The first option of ``kind``, whole, or None."""
        for option in self.options:
            if option[0] == kind:
                return option
        return None

    def mptcp(self, subtype: int) -> Optional[bytes]:
        """The MPTCP option of ``subtype``, whole, or None."""
        for option in self.options:
            if option[0] == OPTION_MPTCP and option[2] >> 4 == subtype:
                return option
        return None

    @property
    def dss(self) -> Optional[Dss]:
        option = self.mptcp(DSS)
        return Dss(option) if option is not None else None

    @property
    def mss(self) -> Optional[int]:
        """The maximum segment size that a SYN announces."""
        option = self.option(OPTION_MSS)
        return int(struct.unpack_from("!H", option, 2)[0]) if option else None


def _options(data: bytes) -> list[bytes]:
    options = []
    while data and data[0] != OPTION_END:
        if data[0] == OPTION_NOP:
            data = data[1:]
            continue
        size = data[1] if len(data) > 1 else 0
        if size < 2:
            break
        options.append(data[:size])
        data = data[size:]
    return options


def parse(protocol: int, packet: bytes) -> Optional[Segment]:
    """The TCP segment in a packet of the Ethernet type ``protocol``; None if it is not TCP."""
    if protocol == ETH_P_IP and len(packet) >= 40:
        length = struct.unpack_from("!H", packet, 2)[0]
        if packet[9] != TCP:
            return None
        return Segment(packet[1], packet[8], 0, packet[(packet[0] & 15) * 4 : length])
    if protocol == ETH_P_IPV6 and len(packet) >= 60:
        first, length = struct.unpack_from("!IH", packet)
        if packet[6] != TCP:
            return None
        return Segment(first >> 20 & 0xFF, packet[7], first & 0xFFFFF, packet[40 : 40 + length])
    return None


#: By the number of the namespace that isolation.isolate() made.
_sockets: dict[int, _socket.socket] = {}


def _packet_socket() -> _socket.socket:
    """The packet socket of this process and namespace, which is one for all captures.

    Closing one takes an RCU grace period, about 25 ms.
    """
    if isolation.made not in _sockets:
        sock = _socket.socket(AF_PACKET, _socket.SOCK_DGRAM, _socket.htons(ETH_P_ALL))
        sock.setblocking(False)
        sock.setsockopt(_socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        sock.bind(("lo", ETH_P_ALL))
        _sockets[isolation.made] = sock
    return _sockets[isolation.made]


class Capture:
    """The segments on the loopback interface since its creation. One capture exists at a time."""

    def __init__(self) -> None:
        self._sock = _packet_socket()
        self.segments: list[Segment] = []
        self.forget()

    def forget(self) -> None:
        """Drop all segments so far."""
        self.update()
        self.segments.clear()

    def update(self) -> Sequence[Segment]:
        """Read new packets, and return all segments so far."""
        while True:
            try:
                packet, address = self._sock.recvfrom(1 << 17)
            except BlockingIOError:
                return self.segments
            except OSError as error:
                if error.errno != ENETDOWN:  # told once after an outage of the interface
                    raise
                continue
            if address[2] == PACKET_OUTGOING:
                segment = parse(address[1], packet)
                if segment is not None:
                    self.segments.append(segment)

    def sent_by(self, sock: _socket.socket) -> list[Segment]:
        """The segments that ``sock`` has sent, by its local port."""
        return self.sent_from(sock.getsockname()[1])

    def sent_from(self, port: int) -> list[Segment]:
        return [segment for segment in self.update() if segment.sport == port]

    def wait_for(
        self, sock: _socket.socket, condition: Callable[[Segment], bool], seconds: float = 5.0
    ) -> Optional[Segment]:
        """The first segment of ``sock`` that meets ``condition``, None after ``seconds``."""
        port = sock.getsockname()[1]

        def found() -> Optional[Segment]:
            return next((s for s in self.sent_from(port) if condition(s)), None)

        return wait_until(found, seconds)
