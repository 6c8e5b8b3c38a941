# SPDX-License-Identifier: GPL-2.0-only
"""Structures and constants of linux/mptcp.h and linux/tcp.h, with their sizes by kernel.

Each structure is defined once, as a list of fields in the kernel's order with the kernel's names.
Offsets follow from C's alignment rules; the tests compare them with the BTF of real kernels. All
numbers have native byte order.
"""

from __future__ import annotations

import posix  # quick runs start without os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Optional, Sequence

#: powerpc has some numbers of its own (asm/socket.h, asm/ioctls.h).
POWERPC = posix.uname().machine.startswith("ppc")

IPPROTO_MPTCP = 262
SOL_MPTCP = 284

MPTCP_INFO = 1
MPTCP_TCPINFO = 2
MPTCP_SUBFLOW_ADDRS = 3
MPTCP_FULL_INFO = 4

SOCKADDR_STORAGE_SIZE = 128
#: struct sockaddr_storage is aligned as an unsigned long: to 4 bytes in a 32-bit program. Linux
#: has no compat code for the structures that contain it, up to 7.3 at least.
SOCKADDR_STORAGE_ALIGN = struct.calcsize("P")
SA_FAMILY_SIZE = 2

U64 = 1 << 64


#: By code, in native byte order.
_STRUCTS: dict[str, struct.Struct] = {}


class Layout:
    """A C structure: fields of fixed width in native byte order.

    ``fields`` are ``(name, code)`` with a code of :mod:`struct` (``B H I Q``), ``Ns`` for N bytes,
    or ``Ns:A`` for N bytes aligned to A. A field named ``_…`` is padding or the storage unit of a
    bit-field.
    """

    def __init__(self, name: str, fields: Sequence[tuple[str, str]], align: int = 1) -> None:
        self.name = name
        self.offsets: dict[str, int] = {}
        self._codes: dict[str, str] = {}
        #: Start, end and native code of each field, for what reads and writes them by the thousand.
        self.places: dict[str, tuple[int, int, struct.Struct]] = {}
        end = 0
        for field, spec in fields:
            code, _, wanted = spec.partition(":")
            size = struct.calcsize("=" + code)
            alignment = int(wanted) if wanted else (1 if code.endswith("s") else size)
            align = max(align, alignment)
            end += -end % alignment
            self.offsets[field] = end
            self._codes[field] = code
            if code not in _STRUCTS:
                _STRUCTS[code] = struct.Struct("=" + code)
            self.places[field] = end, end + size, _STRUCTS[code]
            end += size
        self.size = end + -end % align

    def end_of(self, field: str) -> int:
        """The offset of the first byte after ``field``."""
        return self.places[field][1]

    def pack(self, **values: object) -> bytearray:
        """A structure of zeros with ``values`` in their fields."""
        data = bytearray(self.size)
        for field, value in values.items():
            start, _, code = self.places[field]
            code.pack_into(data, start, value)
        return data

    def view(self, data: bytes | bytearray) -> View:
        """A view of ``data``, which may be shorter or longer than the structure."""
        return View(self, bytes(data))

    def read(self, data: bytes, field: str, order: str = "=") -> object:
        """The value of ``field``, or None if ``data`` ends before the end of the field.

        ``order`` is the byte order, as in :mod:`struct`.
        """
        if self.end_of(field) > len(data):
            return None
        return struct.unpack_from(order + self._codes[field], data, self.offsets[field])[0]


class View:
    """Bytes seen through a :class:`Layout`: ``view.mptcpi_token`` is a number.

    A field that the kernel did not fill raises :class:`Truncated`, so that a check can never
    mistake an absent counter for zero.
    """

    __slots__ = ("layout", "raw")

    def __init__(self, layout: Layout, raw: bytes) -> None:
        self.layout = layout
        self.raw = raw

    def __getattr__(self, field: str) -> int:
        place = self.layout.places.get(field)
        if place is None:
            raise AttributeError(field)
        start, end, code = place
        if end > len(self.raw):
            raise Truncated(
                "%s.%s ends at byte %d, the kernel filled %d"
                % (self.layout.name, field, end, len(self.raw))
            )
        return code.unpack_from(self.raw, start)[0]  # type: ignore[no-any-return]

    def bytes_of(self, field: str) -> bytes:
        """The bytes of an ``Ns`` field."""
        start = self.layout.offsets[field]
        return self.raw[start : self.layout.end_of(field)]

    def has(self, field: str) -> bool:
        return self.layout.end_of(field) <= len(self.raw)

    def __iter__(self) -> Iterator[tuple[str, Optional[object]]]:
        for field in self.layout.offsets:
            yield field, self.layout.read(self.raw, field)


class Truncated(Exception):
    """A field is beyond the bytes that the kernel returned."""


#: struct mptcp_info. The kernel returns 48 bytes in 5.16 to 6.4, 80 in 6.5 to 6.7 (packet
#: stats), 88 in 6.8 and 6.9 (mptcpi_subflows_total), 96 from 6.10 on (mptcpi_last_*).
MPTCP_INFO_LAYOUT = Layout(
    "mptcp_info",
    [
        ("mptcpi_subflows", "B"),
        ("mptcpi_add_addr_signal", "B"),
        ("mptcpi_add_addr_accepted", "B"),
        ("mptcpi_subflows_max", "B"),
        ("mptcpi_add_addr_signal_max", "B"),
        ("mptcpi_add_addr_accepted_max", "B"),
        ("mptcpi_flags", "I"),
        ("mptcpi_token", "I"),
        ("mptcpi_write_seq", "Q"),
        ("mptcpi_snd_una", "Q"),
        ("mptcpi_rcv_nxt", "Q"),
        ("mptcpi_local_addr_used", "B"),
        ("mptcpi_local_addr_max", "B"),
        ("mptcpi_csum_enabled", "B"),
        # 6.5; this field replaces padding of the 48 bytes, so its presence proves nothing
        ("mptcpi_retransmits", "I"),
        ("mptcpi_bytes_retrans", "Q"),
        ("mptcpi_bytes_sent", "Q"),
        ("mptcpi_bytes_received", "Q"),
        ("mptcpi_bytes_acked", "Q"),
        # 6.8
        ("mptcpi_subflows_total", "B"),
        ("mptcpi_endp_laminar_max", "B"),  # 6.18
        ("mptcpi_endp_fullmesh_max", "B"),  # 6.19
        ("_reserved", "B"),
        # 6.10
        ("mptcpi_last_data_sent", "I"),
        ("mptcpi_last_data_recv", "I"),
        ("mptcpi_last_ack_recv", "I"),
    ],
)
#: The least that a kernel with packet stats returns: the structure of 6.5.
PACKET_STATS_SIZE = MPTCP_INFO_LAYOUT.end_of("mptcpi_bytes_acked")
#: The structure of 5.16 with its padding: no kernel returns less.
MPTCP_INFO_MIN_SIZE = 48

#: struct tcp_info: 232 bytes in 5.10 to 6.1, 240 with tcpi_rehash in 6.2, 248 with
#: tcpi_total_rto* in 6.7, 280 with the AccECN counters in 6.18.
TCP_INFO_LAYOUT = Layout(
    "tcp_info",
    [
        ("tcpi_state", "B"),
        ("tcpi_ca_state", "B"),
        ("tcpi_retransmits", "B"),
        ("tcpi_probes", "B"),
        ("tcpi_backoff", "B"),
        ("tcpi_options", "B"),
        ("_wscale", "B"),  # tcpi_snd_wscale:4, tcpi_rcv_wscale:4
        ("_flags", "B"),  # tcpi_delivery_rate_app_limited:1, tcpi_fastopen_client_fail:2
        ("tcpi_rto", "I"),
        ("tcpi_ato", "I"),
        ("tcpi_snd_mss", "I"),
        ("tcpi_rcv_mss", "I"),
        ("tcpi_unacked", "I"),
        ("tcpi_sacked", "I"),
        ("tcpi_lost", "I"),
        ("tcpi_retrans", "I"),
        ("tcpi_fackets", "I"),
        ("tcpi_last_data_sent", "I"),
        ("tcpi_last_ack_sent", "I"),
        ("tcpi_last_data_recv", "I"),
        ("tcpi_last_ack_recv", "I"),
        ("tcpi_pmtu", "I"),
        ("tcpi_rcv_ssthresh", "I"),
        ("tcpi_rtt", "I"),
        ("tcpi_rttvar", "I"),
        ("tcpi_snd_ssthresh", "I"),
        ("tcpi_snd_cwnd", "I"),
        ("tcpi_advmss", "I"),
        ("tcpi_reordering", "I"),
        ("tcpi_rcv_rtt", "I"),
        ("tcpi_rcv_space", "I"),
        ("tcpi_total_retrans", "I"),
        ("tcpi_pacing_rate", "Q"),
        ("tcpi_max_pacing_rate", "Q"),
        ("tcpi_bytes_acked", "Q"),
        ("tcpi_bytes_received", "Q"),
        ("tcpi_segs_out", "I"),
        ("tcpi_segs_in", "I"),
        ("tcpi_notsent_bytes", "I"),
        ("tcpi_min_rtt", "I"),
        ("tcpi_data_segs_in", "I"),
        ("tcpi_data_segs_out", "I"),
        ("tcpi_delivery_rate", "Q"),
        ("tcpi_busy_time", "Q"),
        ("tcpi_rwnd_limited", "Q"),
        ("tcpi_sndbuf_limited", "Q"),
        ("tcpi_delivered", "I"),
        ("tcpi_delivered_ce", "I"),
        ("tcpi_bytes_sent", "Q"),
        ("tcpi_bytes_retrans", "Q"),
        ("tcpi_dsack_dups", "I"),
        ("tcpi_reord_seen", "I"),
        ("tcpi_rcv_ooopack", "I"),
        ("tcpi_snd_wnd", "I"),
        # 6.2
        ("tcpi_rcv_wnd", "I"),
        ("tcpi_rehash", "I"),
        # 6.7
        ("tcpi_total_rto", "H"),
        ("tcpi_total_rto_recoveries", "H"),
        ("tcpi_total_rto_time", "I"),
        # 6.18, AccECN
        ("tcpi_received_ce", "I"),
        ("tcpi_delivered_e1_bytes", "I"),
        ("tcpi_delivered_e0_bytes", "I"),
        ("tcpi_delivered_ce_bytes", "I"),
        ("tcpi_received_e1_bytes", "I"),
        ("tcpi_received_e0_bytes", "I"),
        ("tcpi_received_ce_bytes", "I"),
        ("_accecn", "I"),  # ecn_mode:2, accecn_opt_seen:2, accecn_fail_mode:4, options2:24
    ],
)

#: struct mptcp_subflow_data, the header before the elements of MPTCP_TCPINFO and
#: MPTCP_SUBFLOW_ADDRS; aligned to 8.
SUBFLOW_DATA_LAYOUT = Layout(
    "mptcp_subflow_data",
    [
        ("size_subflow_data", "I"),  # of the structure in user space
        ("num_subflows", "I"),  # must be 0, set by the kernel
        ("size_kernel", "I"),  # must be 0, set by the kernel
        ("size_user", "I"),  # of one element of the array that follows
    ],
    align=8,
)

_SOCKADDR_STORAGE = "%ds:%d" % (SOCKADDR_STORAGE_SIZE, SOCKADDR_STORAGE_ALIGN)

#: struct mptcp_subflow_addrs: two sockaddr_storage.
SUBFLOW_ADDRS_LAYOUT = Layout(
    "mptcp_subflow_addrs", [("ss_local", _SOCKADDR_STORAGE), ("ss_remote", _SOCKADDR_STORAGE)]
)

#: struct mptcp_subflow_info, one element of MPTCP_FULL_INFO's first array: 264 bytes with the
#: addresses at 8, but 260 with the addresses at 4 in a 32-bit program.
SUBFLOW_INFO_LAYOUT = Layout(
    "mptcp_subflow_info",
    [("id", "I"), ("addrs", "%ds:%d" % (SUBFLOW_ADDRS_LAYOUT.size, SOCKADDR_STORAGE_ALIGN))],
)

#: struct mptcp_full_info up to the embedded mptcp_info, which ends it and grows.
FULL_INFO_LAYOUT = Layout(
    "mptcp_full_info",
    [
        ("size_tcpinfo_kernel", "I"),  # must be 0, set by the kernel
        ("size_tcpinfo_user", "I"),
        ("size_sfinfo_kernel", "I"),  # must be 0, set by the kernel
        ("size_sfinfo_user", "I"),
        ("num_subflows", "I"),  # must be 0, set by the kernel
        ("size_arrays_user", "I"),  # elements that user space has room for
        ("subflow_info", "Q"),  # pointer to the first array
        ("tcp_info", "Q"),  # pointer to the second
        ("mptcp_info", "%ds:8" % MPTCP_INFO_LAYOUT.size),
    ],
)

LAYOUTS = (
    MPTCP_INFO_LAYOUT,
    TCP_INFO_LAYOUT,
    SUBFLOW_DATA_LAYOUT,
    SUBFLOW_ADDRS_LAYOUT,
    SUBFLOW_INFO_LAYOUT,
    FULL_INFO_LAYOUT,
)


def family_of(sockaddr: bytes, order: str = "=") -> int:
    """``sa_family`` of a struct sockaddr of any kind, in the byte ``order`` of :mod:`struct`."""
    return int(struct.unpack_from(order + "H", sockaddr)[0])


def advance(later: int, earlier: int) -> int:
    """The increase of a 64-bit counter from ``earlier`` to ``later``, modulo 2^64."""
    return (later - earlier) % U64
