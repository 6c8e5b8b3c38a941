# SPDX-License-Identifier: GPL-2.0-only
"""MPTCP's own options on the wire, against RFC 8684 and against what MPTCP_INFO says."""

from __future__ import annotations

import _socket
import struct

from guest import wire
from guest.checks import Failed, equal, require, scenario_check
from guest.checks.closing import linger
from guest.flow import arrive, at_end, content, exchange, read_to_end, same
from guest.keys import dss_checksum, first_seq, token_of
from guest.lab import TCP, wait_until, write_sysctl
from guest.multipath import info
from guest.setting import put
from guest.states import is_closed
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

    from guest.lab import Lab, Pair
    from guest.wire import Capture, Segment

SCENARIO = "wire"
NEEDS = ("packet_socket",)
CHECKSUM = "net.mptcp.checksum_enabled"
#: Flags in the fourth byte of MP_CAPABLE: A, checksums; H, HMAC-SHA256.
CHECKSUM_REQUIRED, SHA256 = 0x80, 0x01
VERSION = 1


class Keys:
    """The keys of both ends, as MP_CAPABLE had them in the handshake."""

    def __init__(self, capture: Capture, pair: Pair) -> None:
        self.syn = _mp_capable(capture.sent_by(pair.client), 0)
        self.answer = _mp_capable(capture.sent_by(pair.server), 0)
        self.third = _mp_capable(capture.sent_by(pair.client), 1)
        self.server = self.answer[4:12]
        self.client = self.third[4:12]


def _mp_capable(segments: Sequence[Segment], index: int) -> bytes:
    option = segments[index].mptcp(wire.MP_CAPABLE) if index < len(segments) else None
    if option is None:
        raise Failed("MP_CAPABLE in segment %d" % index, "the option", "none")
    return option


@scenario_check("mp_capable.announces_keys", scenario=SCENARIO, needs=NEEDS)
def announces_keys(lab: Lab) -> None:
    """The handshake is that of RFC 8684: no key, one key, both keys; version 1, SHA-256."""
    capture = wire.Capture()
    keys = Keys(capture, lab.pair())
    sizes = [len(option) for option in (keys.syn, keys.answer, keys.third)]
    equal("sizes of MP_CAPABLE", sizes, [4, 12, 20])
    for option in (keys.syn, keys.answer, keys.third):
        equal("version", option[2] & 0x0F, VERSION, option)
        equal("SHA-256 in the flags", option[3] & SHA256, SHA256, option)
        equal("checksums in the flags", option[3] & CHECKSUM_REQUIRED, 0, option)
    equal("the server's key in the third segment", keys.third[12:20], keys.server)


@scenario_check("mptcp_info.token_is_of_the_key", scenario=SCENARIO, needs=(*NEEDS, "mptcp_info"))
def token_is_of_the_key(lab: Lab) -> None:
    """mptcpi_token and the first sequence numbers of MPTCP_INFO follow from the keys."""
    capture = wire.Capture()
    pair = lab.pair()
    keys = Keys(capture, pair)
    for sock, own, others in (
        (pair.client, keys.client, keys.server),
        (pair.server, keys.server, keys.client),
    ):
        said = info(sock)
        equal("mptcpi_token", said.mptcpi_token, token_of(own), said.raw)
        equal("mptcpi_write_seq", said.mptcpi_write_seq, first_seq(own), said.raw)
        equal("mptcpi_snd_una", said.mptcpi_snd_una, first_seq(own), said.raw)
        equal("mptcpi_rcv_nxt", said.mptcpi_rcv_nxt, first_seq(others), said.raw)


class Map:
    """A mapping: where a segment's payload stands in the stream, and its checksum."""

    def __init__(self, at: int, length: int, subflow_seq: int, checksum: Optional[int]) -> None:
        self.at = at
        self.length = length
        self.subflow_seq = subflow_seq
        self.checksum = checksum


def _map(segment: Segment, first: int) -> Optional[Map]:
    """The mapping in ``segment``, counted from the stream's ``first`` byte."""
    start = segment.mptcp(wire.MP_CAPABLE)
    if start is not None and len(start) >= 22:
        checksum = struct.unpack_from("!H", start, 22)[0] if len(start) >= 24 else None
        return Map(0, struct.unpack_from("!H", start, 20)[0], 1, checksum)
    dss = segment.dss
    if dss is None or dss.seq is None or dss.length is None or dss.subflow_seq is None:
        return None
    return Map((dss.seq - first) % 2**64, dss.length, dss.subflow_seq, dss.checksum)


def _follow(segments: Sequence[Segment], first: int, data: bytes, checksums: bool) -> None:
    """Fail unless the mappings cover ``data`` in order, and the segments hold what they map."""
    isn = segments[0].seq
    covered = 0
    for segment in segments:
        found = _map(segment, first)
        if found is None or found.subflow_seq == 0:
            continue
        require("a mapping at %d" % found.at, found.at <= covered, "%d at most" % covered, found.at)
        size = min(found.length, len(data) - found.at)
        covered = max(covered, found.at + size)
        if segment.payload:
            at = (segment.seq - isn - found.subflow_seq) % 2**32
            part = data[found.at + at : found.at + at + len(segment.payload)]
            equal("payload of the mapping at %d" % found.at, segment.payload == part, True)
        if checksums:
            expected = _checksum(first, found, data)
            equal("checksum of the mapping at %d" % found.at, found.checksum, expected)
    equal("bytes that the mappings cover", covered, len(data))


def _checksum(first: int, found: Map, data: bytes) -> int:
    seq = (first + found.at) % 2**64
    covered = data[found.at : found.at + found.length]
    return dss_checksum(seq, found.subflow_seq, found.length, covered)


@scenario_check("dss.maps_all_data", scenario=SCENARIO, needs=NEEDS)
@each("off", "on")
def maps_all_data(lab: Lab) -> None:
    """The mappings cover all data in order, with checksums where they are enabled."""
    checksums = lab.side == "on"
    write_sysctl(CHECKSUM, "1" if checksums else "0")
    lab.afterwards(lambda: write_sysctl(CHECKSUM, "0"))
    capture = wire.Capture()
    pair = lab.pair()
    keys = Keys(capture, pair)
    for option in (keys.syn, keys.answer, keys.third):
        equal("checksums in MP_CAPABLE", bool(option[3] & CHECKSUM_REQUIRED), checksums, option)
    forth, back = content(20_000), content(15_000, 1)
    exchange(pair.client, pair.server, forth[:700])
    exchange(pair.client, pair.server, forth[700:], back)
    _follow(capture.sent_by(pair.client), first_seq(keys.client), forth, checksums)
    _follow(capture.sent_by(pair.server), first_seq(keys.server), back, checksums)
    for sock in (pair.client, pair.server):
        equal("mptcpi_csum_enabled", info(sock).mptcpi_csum_enabled, int(checksums))


def _last_ack(segments: Sequence[Segment]) -> Optional[int]:
    acks = [s.dss.ack for s in segments if s.dss is not None and s.dss.ack is not None]
    return acks[-1] if acks else None


def _short(number: int, like: int) -> int:
    """``number`` as wide as ``like`` came: an acknowledgement may have 32 bits."""
    return number % 2**32 if like < 2**32 else number


@scenario_check("dss.acknowledges_all_data", scenario=SCENARIO, needs=NEEDS)
def acknowledges_all_data(lab: Lab) -> None:
    """The last DATA_ACK of each end acknowledges all that the peer has sent."""
    capture = wire.Capture()
    pair = lab.pair()
    keys = Keys(capture, pair)
    exchange(pair.client, pair.server, content(10_000), content(7000))
    for sock, key, size in (
        (pair.server, keys.client, 10_000),
        (pair.client, keys.server, 7000),
    ):
        wanted = (first_seq(key) + size) % 2**64

        def acked(sock: _socket.socket = sock, wanted: int = wanted) -> bool:
            ack = _last_ack(capture.sent_by(sock))
            return ack is not None and ack == _short(wanted, ack)

        equal("the last DATA_ACK acknowledges %d bytes" % size, wait_until(acked), True)


@scenario_check("dss.ends_with_data_fin", scenario=SCENARIO, needs=NEEDS)
def ends_with_data_fin(lab: Lab) -> None:
    """SHUT_WR sends a DATA_FIN after the last byte; FINs follow once the peer has acked it."""
    capture = wire.Capture()
    pair = lab.pair()
    keys = Keys(capture, pair)
    exchange(pair.client, pair.server, content(1000), content(1000))
    pair.client.shutdown(_socket.SHUT_WR)
    at_end("the end of the stream", pair.server)
    fin = capture.wait_for(pair.client, lambda s: s.dss is not None and s.dss.fin)
    if fin is None or fin.dss is None or fin.dss.seq is None:
        raise Failed("a DATA_FIN after SHUT_WR", "a DSS option with one", "none in 5 s")
    last = (first_seq(keys.client) + 1000) % 2**64
    equal("the DATA_FIN's sequence number", fin.dss.seq, _short(last, fin.dss.seq))
    equal("the DATA_FIN's length", fin.dss.length, 1)
    equal(
        "TCP's FIN while the peer may send",
        any(s.has(wire.FIN) for s in capture.sent_by(pair.client)),
        False,
    )
    end = (last + 1) % 2**64
    answered = capture.wait_for(
        pair.server, lambda s: s.dss is not None and s.dss.ack == _short(end, s.dss.ack or 0)
    )
    equal("an acknowledgement of the DATA_FIN", answered is not None, True)
    pair.server.shutdown(_socket.SHUT_WR)
    at_end("the other end of the stream", pair.client)
    for sock in (pair.client, pair.server):
        found = capture.wait_for(sock, lambda s: s.has(wire.FIN))
        equal("TCP's FIN after both DATA_FINs", found is not None, True)


@scenario_check("mp_fastclose.goes_with_the_reset", scenario=SCENARIO, needs=NEEDS)
@each("client", "server")
def goes_with_the_reset(lab: Lab) -> None:
    """SO_LINGER {1, 0} sends a reset with MP_FASTCLOSE and the peer's key."""
    capture = wire.Capture()
    pair = lab.pair()
    keys = Keys(capture, pair)
    exchange(pair.client, pair.server, b"forth", b"back")
    at_server = lab.side == "server"
    closer = pair.server if at_server else pair.client
    port = closer.getsockname()[1]
    linger(0)(closer)
    closer.close()
    resets = wait_until(lambda: [s for s in capture.sent_from(port) if s.has(wire.RST)])
    require("resets", len(resets) > 0, "one or more", len(resets))
    option = resets[0].mptcp(wire.MP_FASTCLOSE)
    expected = keys.client if at_server else keys.server
    equal("the key in MP_FASTCLOSE", (option or b"")[4:12], expected)


@scenario_check("mp_fastclose.resets_once", scenario=SCENARIO, needs=NEEDS)
def resets_once(lab: Lab) -> None:
    """close(2) with unread data resets a subflow once, and sends nothing after that."""
    capture = wire.Capture()
    pair = lab.pair()
    exchange(pair.client, pair.server, b"forth", b"back")
    arrive(pair.server, pair.client, b"unread")
    port = pair.client.getsockname()[1]
    pair.client.close()
    wait_until(lambda: is_closed(pair.server))
    sent = capture.sent_from(port)
    last = next((sent[at:] for at, s in enumerate(sent) if s.has(wire.RST)), [])
    equal("segments from the reset on", [s.flags for s in last if not s.has(wire.RST)], [])
    equal("resets", len(last), 1)


@scenario_check("fallback.sends_no_mptcp_option", scenario=SCENARIO, needs=NEEDS)
@each("client", "server")
def no_mptcp_option(lab: Lab) -> None:
    """After the handshake with a plain TCP peer no packet has an MPTCP option."""
    capture = wire.Capture()
    pair = lab.pair(client=TCP) if lab.side == "server" else lab.pair(server=TCP)
    exchange(pair.client, pair.server, content(5000), content(5000))
    segments = capture.sent_by(pair.client) + capture.sent_by(pair.server)
    late = [s for s in segments if not s.has(wire.SYN) and s.option(wire.OPTION_MPTCP)]
    equal("segments with an option of MPTCP", len(late), 0)


@scenario_check(
    "dss.data_fin_with_data_is_mapped", scenario=SCENARIO, needs=(*NEEDS, "tcp_cork_nodelay")
)
@each("off", "on")
def fin_with_data(lab: Lab) -> None:
    """A DATA_FIN sent with data is part of their mapping and of its checksum."""
    checksums = lab.side == "on"
    write_sysctl(CHECKSUM, "1" if checksums else "0")
    lab.afterwards(lambda: write_sysctl(CHECKSUM, "0"))
    capture = wire.Capture()
    pair = lab.pair()
    keys = Keys(capture, pair)
    data = content(1500)
    exchange(pair.client, pair.server, data[:1000])
    put(pair.client, "TCP_CORK", 1)
    pair.client.sendall(data[1000:])
    pair.client.shutdown(_socket.SHUT_WR)
    put(pair.client, "TCP_CORK", 0)
    same("the stream", read_to_end(pair.server), data[1000:])
    _follow(capture.sent_by(pair.client), first_seq(keys.client), data, checksums)
    exchange(pair.server, pair.client, content(2000))
    # A receiver that takes a checksum for wrong delivers the data, and says so in an option.
    wrong = [s for s in capture.update() if s.mptcp(wire.MP_FAIL) is not None]
    equal("segments with MP_FAIL", len(wrong), 0)
