# SPDX-License-Identifier: GPL-2.0-only
"""The peer on the wire: what it computes and sends, and checks that fail where a kernel misbehaves.

A fault stands between the kernel and the check: an option that does not come, a count that is off.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable

import pytest

from guest import checks, keys, mib, multipath, peer, wire
from guest.abi import MPTCP_INFO_LAYOUT, View
from tests.guest import namespaces

BY_ID = {item.id: item for item in checks.all_checks()}
MODULES = (
    *(
        "peer_data",
        "peer_joins",
        "peer_owned",
        "peer_refused",
        "peer_sends",
        "peer_serves",
        "peer_signals",
    ),
    "pm_events",
)
OURS = [item for item in BY_ID.values() if item.function.__module__.split(".")[-1] in MODULES]


def test_hmacs_are_those_of_the_standard_library() -> None:
    for key in (b"", b"Jefe", b"0123456789abcdef"):
        assert keys.hmac(key, b"nonces") == hmac.digest(key, b"nonces", "sha256")


def test_tokens_and_sequence_numbers_are_ends_of_the_digest() -> None:
    digest = hashlib.sha256(b"some key").digest()
    assert keys.token_of(b"some key") == int.from_bytes(digest[:4], "big")
    assert keys.first_seq(b"some key") == (int.from_bytes(digest[-8:], "big") + 1) % 2**64


def test_a_checksum_makes_the_sum_of_all_words_zero() -> None:
    data = b"an odd number of bytes."
    checksum = keys.dss_checksum(2**40 + 5, 77, len(data), data)
    whole = struct.pack("!QIHH", 2**40 + 5, 77, len(data), checksum) + data
    assert keys.folded(whole) == 0xFFFF


def test_a_dss_option_is_read_back() -> None:
    option = peer.dss(ack=2**40 + 1, seq=2**41, subflow_seq=9, length=12, fin=True, checksum=3)
    found = wire.Dss(option)
    assert (found.ack, found.seq, found.subflow_seq, found.length) == (2**40 + 1, 2**41, 9, 12)
    assert (found.fin, found.checksum, option[1]) == (True, 3, len(option))


def test_options_have_their_subtype_and_size() -> None:
    for option, subtype, size in (
        (peer.remove_addr(1, 2, 3), wire.REMOVE_ADDR, 6),
        (peer.priority(True), wire.MP_PRIO, 3),
        (peer.fail(5), wire.MP_FAIL, 12),
        (peer.fastclose(b"12345678"), wire.MP_FASTCLOSE, 12),
        (peer.reset(3), wire.MP_TCPRST, 4),
    ):
        assert (option[0], option[1], option[2] >> 4) == (wire.OPTION_MPTCP, size, subtype)
        assert len(option) == size


def _without(flags: int) -> Callable[[], None]:
    """Segments are seen without ``flags``."""

    def fault() -> None:
        real = wire.Segment.has
        wire.Segment.has = lambda self, wanted: not wanted & flags and real(self, wanted)  # type: ignore[assignment,method-assign]

    return fault


def _without_option(subtype: int) -> Callable[[], None]:
    def fault() -> None:
        real = wire.Segment.mptcp
        wire.Segment.mptcp = lambda self, kind: None if kind == subtype else real(self, kind)  # type: ignore[assignment,method-assign]

    return fault


def _off_by_one(field: str) -> Callable[[], None]:
    def fault() -> None:
        real = multipath.info

        def info(sock: object) -> View:
            data = bytearray(real(sock).raw)  # type: ignore[arg-type]
            data[MPTCP_INFO_LAYOUT.offsets[field]] += 1
            return MPTCP_INFO_LAYOUT.view(data)

        multipath.info = info

    return fault


def _uncounted(counter: str) -> Callable[[], None]:
    def fault() -> None:
        real = mib.Since.of
        mib.Since.of = lambda self, name: 0 if name == counter else real(self, name)  # type: ignore[method-assign]

    return fault


FAULTS = (
    ("reorder.two_subflows", _off_by_one("mptcpi_bytes_received")),
    ("duplicates.full_repeat", _uncounted("DuplicateData")),
    ("join.unknown_token_is_reset", _without(wire.RST)),
    ("join.third_segment_is_checked", _without_option(wire.MP_TCPRST)),
    ("add_addr.hmac_is_checked", _without_option(wire.ADD_ADDR)),
    ("mp_fail.of_the_only_subflow", _without_option(wire.MP_FAIL)),
    ("rm_addr.each_id_of_a_list", _uncounted("RmAddr")),
    ("join.asked_for_by_an_endpoint", _without_option(wire.MP_JOIN)),
    ("retransmission.of_the_data_fin", _without_option(wire.DSS)),
)


@pytest.mark.mptcp
@pytest.mark.skipif(not namespaces.available(), reason="needs root for a network namespace")
class TestOnThisKernel:
    @pytest.mark.parametrize("family", ["ipv4", "ipv6"])
    def test_the_checks_pass(self, family: str) -> None:
        failed = []
        stalls = "reorder.more_than_the_buffer_holds"  # 10 s, on kernels that do not prune
        ours = [item for item in OURS if "OFOPruned" in mib.counters() or item.id != stalls]
        for scenario in {item.scenario for item in ours}:
            items = [item for item in ours if item.scenario == scenario]
            failed += namespaces.failures(family, items)
        assert failed == []

    @pytest.mark.parametrize(("check", "fault"), FAULTS, ids=[check for check, _ in FAULTS])
    def test_a_fault_fails_its_check(self, check: str, fault: Callable[[], None]) -> None:
        def first() -> None:
            namespaces.shorten_waits()
            fault()

        assert namespaces.failures("ipv4", [BY_ID[check]], first)
