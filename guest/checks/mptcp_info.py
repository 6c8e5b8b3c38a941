# SPDX-License-Identifier: GPL-2.0-only
"""MPTCP_INFO: state of the connection as a whole."""

from __future__ import annotations

import time

from guest import abi
from guest.checks import (
    CLOSED,
    EARLY,
    ESTABLISHED,
    PAYLOADS,
    SERVER,
    TRANSFERRED,
    check,
    equal,
    require,
    succeeded,
)
from guest.connection import settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.connection import End

NEEDS = ("mptcp_info",)
COVERS = "do_getsockopt_mptcp_info"
#: Milliseconds by which a time of the kernel's may exceed ours: ticks that an emulated VM lost.
LATE = 1000


def info_of(end: End) -> abi.View:
    """MPTCP_INFO as it is now; fails the running check when the kernel refuses."""
    answer = succeeded("getsockopt(SOL_MPTCP, MPTCP_INFO)", end.mptcp_info())
    return abi.MPTCP_INFO_LAYOUT.view(answer.filled)


def settled_info(end: End, settled: Callable[[abi.View], bool]) -> abi.View:
    return settle(end, lambda: info_of(end), settled)


def baseline(end: End) -> abi.View:
    require(
        "MPTCP_INFO when the connection was established",
        end.first_info is not None,
        "success",
        "refused",
    )
    assert end.first_info is not None
    return end.first_info


@check("mptcp_info.readable", needs=NEEDS, payloads=PAYLOADS, covers=COVERS)
def readable(end: End) -> None:
    """MPTCP_INFO is readable and holds at least what 5.16 had."""
    answer = succeeded("getsockopt(SOL_MPTCP, MPTCP_INFO)", end.mptcp_info())
    require(
        "length of mptcp_info",
        answer.length >= abi.MPTCP_INFO_MIN_SIZE,
        "at least %d bytes" % abi.MPTCP_INFO_MIN_SIZE,
        answer.length,
        answer.filled,
    )


@check("mptcp_info.length_is_the_smaller", needs=NEEDS, covers=COVERS)
def length_is_the_smaller(end: End) -> None:
    """optlen is set to min(requested, available)."""
    whole = end.mptcp_info().length
    for asked in (0, 1, 8, 47, 48, whole, whole + 1):
        answer = succeeded("MPTCP_INFO into %d bytes" % asked, end.mptcp_info(asked))
        equal("length for %d bytes asked" % asked, answer.length, min(asked, whole), answer.data)


@check("mptcp_info.write_seq_counts_sent_bytes", needs=NEEDS, payloads=PAYLOADS, covers=COVERS)
def write_seq_counts_sent_bytes(end: End) -> None:
    """write_seq advances by exactly the bytes written."""
    info = info_of(end)
    advanced = abi.advance(info.mptcpi_write_seq, baseline(end).mptcpi_write_seq)
    equal("advance of mptcpi_write_seq", advanced, end.sent, info.raw)


@check(
    "mptcp_info.rcv_nxt_counts_received_bytes",
    needs=NEEDS,
    phases=(ESTABLISHED, TRANSFERRED),
    payloads=PAYLOADS,
    covers="connect_one_server, process_one_client",
)
def rcv_nxt_counts_received_bytes(end: End) -> None:
    """rcv_nxt advances by exactly the bytes received."""
    _rcv_nxt_advanced(end, end.received)


@check(
    "mptcp_info.rcv_nxt_counts_data_fin",
    needs=NEEDS,
    phases=(CLOSED,),
    payloads=PAYLOADS,
    covers="connect_one_server, process_one_client",
)
def rcv_nxt_counts_data_fin(end: End) -> None:
    """The peer's DATA_FIN advances rcv_nxt by one (RFC 8684, 3.3.3)."""
    _rcv_nxt_advanced(end, end.received + 1)


def _rcv_nxt_advanced(end: End, expected: int) -> None:
    before = baseline(end).mptcpi_rcv_nxt
    info = settled_info(end, lambda i: abi.advance(i.mptcpi_rcv_nxt, before) == expected)
    advanced = abi.advance(info.mptcpi_rcv_nxt, before)
    equal("advance of mptcpi_rcv_nxt", advanced, expected, info.raw)


@check(
    "mptcp_info.rcv_nxt_follows_peer_write_seq",
    needs=NEEDS,
    phases=(TRANSFERRED,),
    payloads=PAYLOADS,
    covers=COVERS,
)
def rcv_nxt_follows_peer_write_seq(end: End) -> None:
    """rcv_nxt is the peer's write_seq once everything has arrived."""
    expected = info_of(end.peer).mptcpi_write_seq
    info = settled_info(end, lambda i: i.mptcpi_rcv_nxt == expected)
    equal("mptcpi_rcv_nxt against the peer's write_seq", info.mptcpi_rcv_nxt, expected, info.raw)


@check(
    "mptcp_info.snd_una_follows_write_seq",
    needs=NEEDS,
    phases=(TRANSFERRED,),
    payloads=PAYLOADS,
    covers=COVERS,
)
def snd_una_follows_write_seq(end: End) -> None:
    """snd_una reaches write_seq once the peer has read everything."""
    info = settled_info(end, lambda i: i.mptcpi_snd_una == i.mptcpi_write_seq)
    equal("mptcpi_snd_una", info.mptcpi_snd_una, info.mptcpi_write_seq, info.raw)


def _packet_stat(field: str, of: Callable[[End], int]) -> Callable[[End], None]:
    def compare(end: End) -> None:
        info = settled_info(end, lambda i: getattr(i, field) == of(end))
        equal(field, getattr(info, field), of(end), info.raw)

    return compare


@check(
    "mptcp_info.bytes_sent_exact",
    needs=(*NEEDS, "packet_stats"),
    payloads=PAYLOADS,
    covers="process_one_client",
)
def bytes_sent_exact(end: End) -> None:
    """mptcpi_bytes_sent is exactly the bytes written."""
    _packet_stat("mptcpi_bytes_sent", lambda e: e.sent)(end)


@check(
    "mptcp_info.bytes_received_exact",
    needs=(*NEEDS, "packet_stats"),
    payloads=PAYLOADS,
    covers="process_one_client",
)
def bytes_received_exact(end: End) -> None:
    """mptcpi_bytes_received is exactly the bytes received."""
    _packet_stat("mptcpi_bytes_received", lambda e: e.received)(end)


@check(
    "mptcp_info.bytes_acked_exact",
    needs=(*NEEDS, "packet_stats"),
    payloads=PAYLOADS,
    covers="process_one_client",
)
def bytes_acked_exact(end: End) -> None:
    """mptcpi_bytes_acked reaches exactly the bytes written."""
    _packet_stat("mptcpi_bytes_acked", lambda e: e.sent)(end)


@check("mptcp_info.token_is_kept", needs=NEEDS, covers=COVERS)
def token_is_kept(end: End) -> None:
    """mptcpi_token is not 0 and does not change."""
    info = info_of(end)
    require("mptcpi_token", info.mptcpi_token != 0, "not 0", info.mptcpi_token, info.raw)
    equal("mptcpi_token", info.mptcpi_token, baseline(end).mptcpi_token, info.raw)


@check(
    "mptcp_info.subflows_total_is_one",
    needs=(*NEEDS, "subflows_total"),
    phases=(ESTABLISHED, TRANSFERRED),
    covers="none",
)
def subflows_total_is_one(end: End) -> None:
    """mptcpi_subflows_total counts the first subflow, which mptcpi_subflows does not."""
    info = info_of(end)
    equal("mptcpi_subflows_total", info.mptcpi_subflows_total, 1, info.raw)


@check(
    "mptcp_info.last_times_are_the_connections",
    needs=(*NEEDS, "last_data"),
    phases=(TRANSFERRED,),
    covers="none",
)
def last_times_are_the_connections(end: End) -> None:
    """mptcpi_last_data_sent, _recv and last_ack_recv lie within the connection's lifetime."""
    info = info_of(end)
    most = int((time.monotonic() - end.began) * 1000) + LATE
    for field in ("mptcpi_last_data_sent", "mptcpi_last_data_recv", "mptcpi_last_ack_recv"):
        ago = getattr(info, field)
        require(field, ago <= most, "at most the age of the connection in ms", ago, info.raw)


@check(
    "mptcp_info.early_bytes_counted",
    needs=NEEDS,
    phases=(ESTABLISHED,),
    sides=(SERVER,),
    payloads=(EARLY,),
    covers="process_one_client",
)
def early_bytes_counted(end: End) -> None:
    """rcv_nxt counts unread bytes that arrived before the first call on the socket."""
    expected = info_of(end.peer).mptcpi_write_seq
    info = settled_info(end, lambda i: i.mptcpi_rcv_nxt == expected)
    equal("mptcpi_rcv_nxt against the peer's write_seq", info.mptcpi_rcv_nxt, expected, info.raw)
