# SPDX-License-Identifier: GPL-2.0-only
"""Packets taken apart: what guest/wire.py makes of bytes."""

from __future__ import annotations

import struct

from guest import wire

#: A SYN to 127.0.0.1 with an MSS of 1400, MP_CAPABLE without a key, and four bytes.
OPTIONS = bytes.fromhex("020405781e04010101010100")
TCP = struct.pack("!HHIIBBHHH", 40000, 80, 1000, 0, (20 + 12) << 2, 2, 65535, 0, 0) + OPTIONS
PAYLOAD = b"data"


def ipv4(tcp: bytes, tos: int = 0x48, protocol: int = 6) -> bytes:
    size = 20 + len(tcp)
    return (
        struct.pack(
            "!BBHHHBBH4s4s", 0x45, tos, size, 1, 0, 63, protocol, 0, b"\x7f\0\0\1", b"\x7f\0\0\1"
        )
        + tcp
    )


def ipv6(tcp: bytes, tclass: int = 0x48) -> bytes:
    return struct.pack("!IHBB", 6 << 28 | tclass << 20 | 0x12345, len(tcp), 6, 62) + bytes(32) + tcp


def test_a_syn_of_ipv4() -> None:
    segment = wire.parse(wire.ETH_P_IP, ipv4(TCP + PAYLOAD) + b"padding")
    assert segment is not None
    assert (segment.sport, segment.dport, segment.seq, segment.window) == (40000, 80, 1000, 65535)
    assert segment.has(wire.SYN)
    assert not segment.has(wire.ACK)
    assert (segment.tos, segment.ttl, segment.mss) == (0x48, 63, 1400)
    assert segment.payload == PAYLOAD
    assert segment.mptcp(wire.MP_CAPABLE) == bytes.fromhex("1e040101")
    assert segment.mptcp(wire.DSS) is None
    assert segment.dss is None


def test_a_syn_of_ipv6() -> None:
    segment = wire.parse(wire.ETH_P_IPV6, ipv6(TCP + PAYLOAD))
    assert segment is not None
    assert (segment.tos, segment.ttl, segment.flow_label) == (0x48, 62, 0x12345)
    assert segment.payload == PAYLOAD


def test_other_packets_are_no_segments() -> None:
    assert wire.parse(wire.ETH_P_IP, ipv4(TCP, protocol=17)) is None
    assert wire.parse(0x0806, bytes(28)) is None
    assert wire.parse(wire.ETH_P_IP, b"short") is None


def test_a_dss_option_with_everything() -> None:
    option = bytes([30, 28, 0x20, 0x1F]) + struct.pack("!QQIHH", 7, 9, 11, 13, 0xABCD)
    dss = wire.Dss(option)
    assert (dss.ack, dss.seq, dss.subflow_seq, dss.length) == (7, 9, 11, 13)
    assert (dss.checksum, dss.fin) == (0xABCD, True)


def test_a_dss_option_with_an_acknowledgement_of_32_bits() -> None:
    dss = wire.Dss(bytes([30, 8, 0x20, 0x01]) + struct.pack("!I", 7))
    assert (dss.ack, dss.seq, dss.fin) == (7, None, False)


def test_a_broken_option_ends_the_list() -> None:
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 24 << 2, 16, 5, 0, 0) + bytes([1, 30, 0, 0])
    segment = wire.parse(wire.ETH_P_IP, ipv4(tcp))
    assert segment is not None
    assert segment.options == []
