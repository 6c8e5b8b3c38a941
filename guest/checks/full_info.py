# SPDX-License-Identifier: GPL-2.0-only
"""MPTCP_FULL_INFO: mptcp_info and, through two pointers, what each subflow has to say."""

from __future__ import annotations

from guest import abi, sockopt
from guest.checks import Failed, check, equal, refused, require, succeeded
from guest.checks.mptcp_info import info_of
from guest.checks.subflow_data import SUBFLOW_ADDRS, TCPINFO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

    from guest.connection import End

    Arrays = tuple[sockopt.Buffer, sockopt.Buffer]

EINVAL = 22
NEEDS = ("full_info",)
COVERS = "do_getsockopt_mptcp_full_info"
LAYOUT = abi.FULL_INFO_LAYOUT
#: Bytes before the embedded mptcp_info: the kernel refuses less.
MIN_SIZE = LAYOUT.offsets["mptcp_info"]
#: Room in each array; loopback has one subflow, and the rest must stay as it is.
ELEMENTS = 2
#: Counters that MPTCP_INFO and the embedded mptcp_info agree on while nothing is sent.
COUNTERS = (
    "mptcpi_token",
    "mptcpi_write_seq",
    "mptcpi_snd_una",
    "mptcpi_rcv_nxt",
    "mptcpi_bytes_sent",
    "mptcpi_bytes_received",
    "mptcpi_bytes_acked",
)


def clean_arrays() -> Arrays:
    """Room for the arrays of subflow_info and of tcp_info."""
    return (
        sockopt.Buffer(sockopt.unused(ELEMENTS * abi.SUBFLOW_INFO_LAYOUT.size)),
        sockopt.Buffer(sockopt.unused(ELEMENTS * abi.TCP_INFO_LAYOUT.size)),
    )


def request_for(arrays: Arrays, fields: Mapping[str, int]) -> bytearray:
    """The request with ``fields``, without the embedded mptcp_info."""
    subflows, tcp = arrays
    request = {
        "size_tcpinfo_user": abi.TCP_INFO_LAYOUT.size,
        "size_sfinfo_user": abi.SUBFLOW_INFO_LAYOUT.size,
        "size_arrays_user": ELEMENTS,
        "subflow_info": subflows.address,
        "tcp_info": tcp.address,
        **fields,
    }
    return LAYOUT.pack(**request)[:MIN_SIZE]


def _ask(end: End, request: bytearray, length: int | None = None) -> sockopt.Answer:
    return sockopt.getsockopt(end.fd, abi.SOL_MPTCP, abi.MPTCP_FULL_INFO, request, length)


class FullInfo:
    """One MPTCP_FULL_INFO: request ``fields`` and room for ``info_size`` bytes of mptcp_info."""

    def __init__(
        self,
        end: End,
        info_size: int = abi.MPTCP_INFO_LAYOUT.size,
        **fields: int,
    ) -> None:
        self._subflows, self._tcp = clean_arrays()
        request = request_for((self._subflows, self._tcp), fields) + bytes(info_size)
        self.answer = _ask(end, request)
        self.header = LAYOUT.view(self.answer.data)
        self.info = abi.MPTCP_INFO_LAYOUT.view(self.answer.filled[MIN_SIZE:])

    @property
    def subflow(self) -> abi.View:
        """The first struct mptcp_subflow_info; what is behind it must be untouched."""
        size = min(self.header.size_sfinfo_user, abi.SUBFLOW_INFO_LAYOUT.size)
        return abi.SUBFLOW_INFO_LAYOUT.view(self._subflows.content(used=size)[:size])

    @property
    def tcp_info(self) -> abi.View:
        """The first struct tcp_info; what is behind it must be untouched."""
        size = min(self.header.size_tcpinfo_user, abi.TCP_INFO_LAYOUT.size)
        return abi.TCP_INFO_LAYOUT.view(self._tcp.content(used=size)[:size])


def read(end: End, info_size: int = abi.MPTCP_INFO_LAYOUT.size) -> FullInfo:
    full = FullInfo(end, info_size)
    succeeded("getsockopt(SOL_MPTCP, MPTCP_FULL_INFO)", full.answer)
    return full


@check("full_info.readable", needs=NEEDS, covers=COVERS)
def readable(end: End) -> None:
    """MPTCP_FULL_INFO is readable, not longer than requested, and includes mptcp_info."""
    answer = read(end).answer
    asked = len(answer.data)
    require("optlen", answer.length <= asked, "at most %d" % asked, answer.length, answer.data)
    least = LAYOUT.offsets["tcp_info"]
    require("optlen", answer.length > least, "more than %d" % least, answer.length, answer.data)


@check("full_info.tcpinfo_sizes", needs=NEEDS, covers=COVERS)
def tcpinfo_sizes(end: End) -> None:
    """size_tcpinfo_user is set to min(size_tcpinfo_kernel, requested)."""
    _sizes(end, "tcpinfo", abi.TCP_INFO_LAYOUT.size)


@check("full_info.sfinfo_sizes", needs=NEEDS, covers=COVERS)
def sfinfo_sizes(end: End) -> None:
    """size_sfinfo_user is set to min(size_sfinfo_kernel, requested)."""
    _sizes(end, "sfinfo", abi.SUBFLOW_INFO_LAYOUT.size)


def _sizes(end: End, array: str, asked: int) -> None:
    full = read(end)
    kernel = getattr(full.header, "size_%s_kernel" % array)
    user = getattr(full.header, "size_%s_user" % array)
    require("size_%s_kernel" % array, kernel > 0, "more than 0", kernel, full.answer.data)
    equal("size_%s_user" % array, user, min(kernel, asked), full.answer.data)


@check("full_info.one_subflow", needs=NEEDS, covers=COVERS)
def one_subflow(end: End) -> None:
    """A connection over loopback has one subflow, and no additional ones."""
    full = read(end)
    equal("num_subflows", full.header.num_subflows, 1, full.answer.data)
    equal("mptcpi_subflows, which counts additional ones", full.info.mptcpi_subflows, 0)


@check("full_info.subflow_id_is_one", needs=NEEDS, covers=COVERS)
def subflow_id_is_one(end: End) -> None:
    """The first subflow's id is 1."""
    subflow = read(end).subflow
    equal("id", subflow.id, 1, subflow.raw)


@check("full_info.agrees_with_mptcp_info", needs=(*NEEDS, "mptcp_info"), covers=COVERS)
def agrees_with_mptcp_info(end: End) -> None:
    """The embedded mptcp_info equals MPTCP_INFO."""
    before = info_of(end)
    full = read(end)
    for field in COUNTERS:
        if before.has(field):
            equal(field, getattr(full.info, field), getattr(before, field), full.info.raw)


@check("full_info.agrees_with_tcpinfo", needs=(*NEEDS, "tcpinfo"), covers=COVERS)
def agrees_with_tcpinfo(end: End) -> None:
    """The tcp_info equals the one of MPTCP_TCPINFO."""
    before = TCPINFO.read(end).first
    info = read(end).tcp_info
    for field in ("tcpi_state", "tcpi_bytes_sent", "tcpi_bytes_received"):
        equal(field, getattr(info, field), getattr(before, field), info.raw)


@check("full_info.agrees_with_subflow_addrs", needs=(*NEEDS, "subflow_addrs"), covers=COVERS)
def agrees_with_subflow_addrs(end: End) -> None:
    """The subflow's addresses are those of MPTCP_SUBFLOW_ADDRS."""
    subflow = read(end).subflow
    equal("addrs", subflow.bytes_of("addrs"), SUBFLOW_ADDRS.read(end).first.raw, subflow.raw)


@check("full_info.shorter_mptcp_info_accepted", needs=NEEDS, covers=COVERS)
def shorter_mptcp_info_accepted(end: End) -> None:
    """The shorter mptcp_info of an older program is filled to its end."""
    whole = read(end).info.raw
    for size in (0, 1, abi.MPTCP_INFO_MIN_SIZE, abi.PACKET_STATS_SIZE):
        full = read(end, size)
        equal("optlen for %d bytes of mptcp_info" % size, full.answer.length, MIN_SIZE + size)
        identity = min(size, abi.MPTCP_INFO_LAYOUT.end_of("mptcpi_token"))
        equal("mptcp_info's first bytes", full.info.raw[:identity], whole[:identity])


@check("full_info.longer_mptcp_info_accepted", needs=(*NEEDS, "mptcp_info"), covers=COVERS)
def longer_mptcp_info_accepted(end: End) -> None:
    """The longer mptcp_info of a newer user space is accepted; optlen is the bytes filled."""
    kernel_size = end.mptcp_info().length
    full = read(end, kernel_size + 64)
    equal("optlen", full.answer.length, MIN_SIZE + kernel_size, full.answer.data)
    beyond = full.answer.data[full.answer.length :]
    equal("bytes beyond optlen", beyond, bytes(len(beyond)), full.answer.data)


@check("full_info.short_lengths_refused", needs=NEEDS, covers=COVERS)
def short_lengths_refused(end: End) -> None:
    """Every length that ends before mptcp_info is refused with EINVAL, and optlen is unchanged."""
    arrays = clean_arrays()
    request = request_for(arrays, {})
    for length in range(MIN_SIZE):
        refused("optlen %d" % length, _ask(end, request, length), EINVAL, length)
    for array in arrays:
        array.content(used=0)


@check("full_info.nonzero_kernel_fields_refused", needs=NEEDS, covers=COVERS)
def nonzero_kernel_fields_refused(end: End) -> None:
    """The fields that the kernel sets must be 0 in the request; others are refused with EINVAL."""
    for field in ("size_tcpinfo_kernel", "size_sfinfo_kernel", "num_subflows"):
        refused("%s 1" % field, FullInfo(end, **{field: 1}).answer, EINVAL)


@check("full_info.arrays_of_none_are_left_alone", needs=NEEDS, covers=COVERS)
def arrays_of_none_are_left_alone(end: End) -> None:
    """Without room for an element, num_subflows is set and no array element is written."""
    full = FullInfo(end, size_arrays_user=0)
    succeeded("size_arrays_user 0", full.answer)
    equal("num_subflows", full.header.num_subflows, 1, full.answer.data)
    try:
        full._subflows.content(used=0)
        full._tcp.content(used=0)
    except sockopt.Overrun as overrun:
        raise Failed("arrays", "left alone", str(overrun)) from None
