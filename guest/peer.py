# SPDX-License-Identifier: GPL-2.0-only
"""An MPTCP peer that a check writes itself, segment by segment, over the loopback interface.

The kernel is one end of a connection. This program is the other end: it sends through a raw socket
and reads the kernel's segments from a packet socket. So a check decides what arrives, in which
order and on which subflow: joins with a wrong HMAC, data that are repeated or out of order, a
DATA_FIN before the data, and so on.

    peer = Peer(lab)
    one = peer.connect(listener)             # the first subflow; peer is the client
    two = peer.join(3)                       # a second one, address id 3
    two.send_data(b"world", at=5)            # of the stream, out of order
    one.send_data(b"hello", at=0)

The kernel would answer segments to an unused port with resets. So a TCP listener whose socket
filter drops everything holds the port.
"""

from __future__ import annotations

import _socket
import ctypes
import os
import struct
import time

from guest import keys, wire
from guest.checks import Failed
from guest.lab import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Sequence

    from guest.lab import Lab
    from guest.wire import Segment

    Address = tuple[str, int]

SO_ATTACH_FILTER, SOL_SOCKET = 26, 1
IPV6, IPPROTO_RAW = 41, 255
MSS = 1400
_MAXIMUM = struct.pack("!BBH", wire.OPTION_MSS, 4, MSS)
#: Seconds to wait for a segment of the kernel.
EXPECT_S = 10.0
WINDOW = 65535
CAPABLE_FLAGS, CHECKSUM_REQUIRED, DENY_JOIN_ID0 = 0x01, 0x80, 0x20
ECHO, BACKUP = 0x1, 0x1
VERSION = 1


def option(subtype: int, low: int, *rest: bytes) -> bytes:
    """An MPTCP option: the subtype, the four bits beside it, and what follows them."""
    body = bytes([subtype << 4 | low]) + b"".join(rest)
    return bytes([wire.OPTION_MPTCP, len(body) + 2]) + body


def dss(
    ack: Optional[int] = None,
    seq: Optional[int] = None,
    subflow_seq: int = 0,
    length: int = 0,
    fin: bool = False,
    checksum: Optional[int] = None,
) -> bytes:
    """A DSS option with numbers of 64 bits."""
    flags, body = (wire.DSS_FIN if fin else 0), b""
    if ack is not None:
        flags |= wire.DSS_ACK | wire.DSS_ACK8
        body += struct.pack("!Q", ack % 2**64)
    if seq is not None:
        flags |= wire.DSS_MAP | wire.DSS_MAP8
        body += struct.pack("!QIH", seq % 2**64, subflow_seq, length)
        if checksum is not None:
            body += struct.pack("!H", checksum)
    return option(wire.DSS, 0, bytes([flags]), body)


def remove_addr(*ids: int) -> bytes:
    return option(wire.REMOVE_ADDR, 0, bytes(ids))


def priority(backup: bool) -> bytes:
    return option(wire.MP_PRIO, int(backup))


def fail(seq: int) -> bytes:
    return option(wire.MP_FAIL, 0, b"\0", struct.pack("!Q", seq % 2**64))


def fastclose(key: bytes) -> bytes:
    return option(wire.MP_FASTCLOSE, 0, b"\0", key)


def reset(reason: int, transient: bool = False) -> bytes:
    return option(wire.MP_TCPRST, int(transient), bytes([reason]))


def _has_both_keys(segment: Segment) -> bool:
    return len(segment.mptcp(wire.MP_CAPABLE) or b"") >= 20


class Flow:
    """One TCP connection of the peer. ``seq`` is what it sends next, ``ack`` what it expects."""

    def __init__(self, peer: Peer, address: str, remote: Address, port: int = 0) -> None:
        self.peer = peer
        self.address = address
        self.port = port or peer.hole()
        self.remote = remote
        self.isn = 1000 * self.port
        self.seq = self.isn
        self.ack = 0
        self.window = peer.window
        self._seen = 0

    def send(
        self,
        flags: int = wire.ACK,
        options: bytes = b"",
        payload: bytes = b"",
        seq: Optional[int] = None,
    ) -> None:
        """Send a segment; ``seq`` advances unless it is given."""
        options += bytes([wire.OPTION_NOP]) * (-len(options) % 4)
        at = self.seq if seq is None else seq
        head = struct.pack(
            *("!HHIIBBHHH", self.port, self.remote[1], at % 2**32, self.ack % 2**32),
            *((5 + len(options) // 4) << 4, flags, self.window, 0, 0),
        )
        self.peer.transmit(self.address, self.remote[0], head + options + payload)
        if seq is None:
            self.seq += len(payload) + bool(flags & (wire.SYN | wire.FIN))

    def send_data(
        self,
        payload: bytes,
        at: int,
        fin: bool = False,
        checksum: Optional[int] = None,
        length: Optional[int] = None,
    ) -> None:
        """Send ``payload`` as the next segment, mapped to byte ``at`` of the stream."""
        length = len(payload) + fin if length is None else length
        mapping = dss(
            *(self.peer.data_ack, self.peer.seq(at), (self.seq - self.isn) % 2**32, length),
            fin=fin,
            checksum=checksum,
        )
        self.send(wire.ACK | wire.PSH, mapping, payload)

    def send_fin(self, at: int) -> None:
        """Send a DATA_FIN without data, as the byte ``at`` of the stream."""
        self.send(options=dss(self.peer.data_ack, self.peer.seq(at), 0, 1, fin=True))

    def received(self) -> Sequence[Segment]:
        """The segments that the kernel has sent on this flow; the next segment acknowledges them in
        TCP."""
        found = [
            segment
            for segment in self.peer.capture.sent_from(self.remote[1])
            if segment.dport == self.port
        ]
        for segment in found[self._seen :]:
            size = len(segment.payload) + bool(segment.flags & (wire.SYN | wire.FIN))
            end = segment.seq + size
            if segment.has(wire.SYN) or (size and (end - self.ack) % 2**32 < 2**31):
                self.ack = end % 2**32
        self._seen = len(found)
        return found

    def expect(
        self,
        what: str,
        matches: Callable[[Segment], object],
        since: int = 0,
        patience: int = 1,
    ) -> Segment:
        """The first segment of the kernel that ``matches``. Raises Failed when none comes."""

        def look() -> Optional[Segment]:
            return next((one for one in self.received()[since:] if matches(one)), None)

        found = wait_until(look, patience * EXPECT_S)
        if found is None:
            raise Failed(what, "a segment", "none of %d" % len(self.received()[since:]))
        return found

    def seen(self) -> int:
        """The number of segments so far, for ``since`` of ``expect``."""
        return len(self.received())

    def expect_option(self, what: str, subtype: int, since: int = 0) -> bytes:
        """The whole option of ``subtype`` in the kernel's segments."""
        found = self.expect(what, lambda one: one.mptcp(subtype), since).mptcp(subtype)
        assert found is not None
        return found

    def acknowledge(self, options: bytes = b"") -> None:
        """Acknowledge everything in TCP, and ``peer.consumed`` bytes in MPTCP."""
        self.received()
        self.send(options=dss(self.peer.data_ack) + options)

    def expect_ack(self, what: str, at: int, since: int = 0) -> Segment:
        """Wait for a DATA_ACK of the peer's byte ``at``."""
        wanted = self.peer.seq(at)
        return self.expect(
            what,
            lambda one: one.dss and one.dss.ack in (wanted, wanted % 2**32),
            since,
        )


class Peer:
    """One end of an MPTCP connection, and its subflows. ``address`` is where it sends from."""

    def __init__(self, lab: Lab, key: bytes = b"\x11peerkey", checksums: bool = False) -> None:
        self.lab = lab
        self.address = lab.address
        self.key = key
        self.remote_key = b""
        self.checksums = checksums
        #: The window that subflows are made with.
        self.window = WINDOW
        #: Seconds until it answers a SYN/ACK; they lengthen the kernel's timers.
        self.delay_s = 0.0
        #: The bytes of the kernel's stream that it acknowledges.
        self.consumed = 0
        self.capture = wire.Capture()
        self.flows: list[Flow] = []
        self._raw = lab.adopt(_socket.socket(lab.family, _socket.SOCK_RAW, IPPROTO_RAW))
        lab.afterwards(self.abort)

    def hole(self) -> int:
        """A port whose segments the kernel drops."""
        sock = self.lab.adopt(_socket.socket(self.lab.family, _socket.SOCK_STREAM))
        code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # ret #0
        program = struct.pack("@HP", 1, ctypes.addressof(code))
        sock.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, program)
        sock.bind(("::" if self.lab.family == _socket.AF_INET6 else "", 0))
        sock.listen(1)
        return int(sock.getsockname()[1])

    def transmit(self, source: str, target: str, segment: bytes) -> None:
        """Send a TCP segment between two addresses; its checksum is filled in."""
        ends = [_socket.inet_pton(self.lab.family, one) for one in (source, target)]
        pseudo = b"".join(ends) + struct.pack("!HH", wire.TCP, len(segment))
        sum_ = ~keys.folded(pseudo + segment) & 0xFFFF
        segment = segment[:16] + struct.pack("!H", sum_) + segment[18:]
        if self.lab.family == _socket.AF_INET6:
            head = struct.pack("!IHBB", 6 << 28, len(segment), wire.TCP, 64)
        else:
            size = 20 + len(segment)
            head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0, 64, wire.TCP, 0)
        self._raw.sendto(head + b"".join(ends) + segment, (target, 0))

    def abort(self) -> None:
        """Make the kernel drop the connection, so that it retransmits nothing later."""
        for flow in self.flows:
            flow.received()
            flow.send(wire.RST | wire.ACK, fastclose(self.remote_key) if self.remote_key else b"")

    @property
    def token(self) -> int:
        """The kernel's token."""
        return keys.token_of(self.remote_key)

    @property
    def data_ack(self) -> int:
        return (keys.first_seq(self.remote_key) + self.consumed) % 2**64

    def seq(self, at: int) -> int:
        """The sequence number of byte ``at`` of the peer's stream."""
        return (keys.first_seq(self.key) + at) % 2**64

    def _flow(self, remote: Address, address: str = "") -> Flow:
        flow = Flow(self, address or self.address, remote)
        self.flows.append(flow)
        return flow

    def _capable(self, *rest: bytes) -> bytes:
        flags = CAPABLE_FLAGS | (CHECKSUM_REQUIRED if self.checksums else 0)
        return option(wire.MP_CAPABLE, VERSION, bytes([flags]), *rest)

    def start(
        self, listener: _socket.socket, options: Optional[bytes] = None, payload: bytes = b""
    ) -> Flow:
        """Send the SYN of a first subflow, with MP_CAPABLE unless ``options`` are given.

        ``payload`` are data in the SYN (RFC 7413), without a cookie.
        """
        flow = self._flow((self.address, int(listener.getsockname()[1])))
        flow.send(wire.SYN, _MAXIMUM + (self._capable() if options is None else options), payload)
        return flow

    def take_key(self, flow: Flow) -> None:
        """Wait for the SYN/ACK of a first subflow, and keep the kernel's key."""
        answer = flow.expect_option("MP_CAPABLE in the SYN/ACK", wire.MP_CAPABLE)
        self.remote_key = answer[4:12]

    def both_keys(self, size: int = 0) -> bytes:
        """MP_CAPABLE of the third segment, which maps ``size`` bytes of data in it."""
        rest = (struct.pack("!H", size),) if size else ()
        return self._capable(self.key, self.remote_key, *rest)

    def connect(self, listener: _socket.socket) -> Flow:
        """Connect the first subflow to ``listener``; it is fully established after data or a
        DSS."""
        flow = self.start(listener)
        self.take_key(flow)
        time.sleep(self.delay_s)
        flow.send(options=self.both_keys())
        return flow

    def listen(self) -> Flow:
        """A flow that the kernel can connect to, at ``address`` and the flow's port."""
        return self._flow((self.address, 0))

    def take_syn(self, flow: Flow) -> Segment:
        """The next SYN that the kernel sends to ``flow``, which then is its flow."""
        known = {one.remote[1] for one in self.flows}

        def look() -> Optional[Segment]:
            return next(
                (
                    one
                    for one in self.capture.update()
                    if one.dport == flow.port and one.has(wire.SYN) and one.sport not in known
                ),
                None,
            )

        syn = wait_until(look, EXPECT_S)
        if syn is None:
            raise Failed("a SYN", "one to port %d" % flow.port, "none")
        flow.remote = (flow.remote[0], syn.sport)
        flow.received()
        return syn

    def answer(self, flow: Flow, options: Optional[bytes] = None) -> None:
        """Send a SYN/ACK, with MP_CAPABLE unless ``options`` are given."""
        mss = struct.pack("!BBH", wire.OPTION_MSS, 4, MSS)
        flow.send(
            wire.SYN | wire.ACK, mss + (self._capable(self.key) if options is None else options)
        )

    def serve(self, sock: _socket.socket) -> Flow:
        """Let ``sock`` connect to the peer: the first subflow, not yet fully established."""
        flow = self.listen()
        timeout = sock.gettimeout()
        sock.setblocking(False)
        sock.connect_ex((self.address, flow.port))
        self.take_syn(flow)
        self.answer(flow)
        third = flow.expect("MP_CAPABLE with both keys", _has_both_keys)
        option_ = third.mptcp(wire.MP_CAPABLE) or b""
        self.remote_key = option_[4:12]
        if option_[12:20] != self.key:
            raise Failed("the key that the third segment gives back", self.key.hex(), option_.hex())
        sock.settimeout(timeout)
        return flow

    def second(self, flow: Flow) -> Flow:
        """A flow with the same port, for a join of the kernel."""
        other = Flow(self, self.address, (flow.remote[0], 0), port=flow.port)
        self.flows.append(other)
        return other

    def answer_of_join(self, syn: Segment, id: int = 0, backup: bool = False) -> bytes:
        """MP_JOIN of a SYN/ACK that answers ``syn``."""
        nonce = (syn.mptcp(wire.MP_JOIN) or bytes(12))[8:12]
        own = b"\x01\x02\x03\x04"
        digest = keys.hmac(self.key + self.remote_key, own + nonce)
        return option(wire.MP_JOIN, int(backup), bytes([id]), digest[:8], own)

    def hmac_of_third(self, syn: Segment) -> bytes:
        """The HMAC that the kernel's third segment of a join must have."""
        nonce = (syn.mptcp(wire.MP_JOIN) or bytes(12))[8:12]
        return keys.hmac(self.remote_key + self.key, nonce + b"\x01\x02\x03\x04")[:20]

    def start_join(
        self,
        id: int,
        backup: bool = False,
        token: Optional[int] = None,
        source: str = "",
        remote: Optional[Address] = None,
    ) -> tuple[Flow, bytes]:
        """Send the SYN of a join; the flow, and the nonce in it."""
        nonce = os.urandom(4)
        flow = self._flow(remote or self.flows[0].remote, source)
        flow.send(wire.SYN, self.join_request(id, nonce, backup, token))
        return flow, nonce

    def join_request(
        self, id: int, nonce: bytes, backup: bool = False, token: Optional[int] = None
    ) -> bytes:
        """The options of a join's SYN; ``token`` defaults to the kernel's."""
        number = struct.pack("!I", self.token if token is None else token)
        return _MAXIMUM + option(wire.MP_JOIN, int(backup), bytes([id]), number, nonce)

    def join(
        self, id: int, backup: bool = False, source: str = "", remote: Optional[Address] = None
    ) -> Flow:
        """A further subflow of the connection, to ``remote`` or where the first one goes."""
        flow, nonce = self.start_join(id, backup, source=source, remote=remote)
        answer = flow.expect_option("MP_JOIN in the SYN/ACK", wire.MP_JOIN)
        time.sleep(self.delay_s)
        flow.send(options=self.third(nonce, answer))
        flow.expect("an ACK of the join", lambda one: not one.has(wire.SYN))
        return flow

    def third(self, nonce: bytes, answer: bytes) -> bytes:
        """MP_JOIN of the third segment, after the SYN/ACK's ``answer``."""
        digest = keys.hmac(self.key + self.remote_key, nonce + answer[12:16])
        return option(wire.MP_JOIN, 0, b"\0", digest[:20])

    def hmac_of_answer(self, nonce: bytes, answer: bytes) -> bytes:
        """The truncated HMAC that the kernel's SYN/ACK of a join must have."""
        return keys.hmac(self.remote_key + self.key, answer[12:16] + nonce)[:8]

    def add_addr(self, id: int, address: str, port: int = 0, echo: bool = False) -> bytes:
        """ADD_ADDR with its HMAC (RFC 8684, 3.4.1)."""
        packed = _socket.inet_pton(_socket.AF_INET6 if ":" in address else _socket.AF_INET, address)
        number = struct.pack("!H", port)
        digest = keys.hmac(self.key + self.remote_key, bytes([id]) + packed + number)[-8:]
        tail = (number if port else b"") + (b"" if echo else digest)
        return option(wire.ADD_ADDR, ECHO if echo else 0, bytes([id]), packed, tail)
