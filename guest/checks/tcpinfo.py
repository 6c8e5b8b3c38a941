# SPDX-License-Identifier: GPL-2.0-only
"""MPTCP_TCPINFO: struct tcp_info of the subflow. Its header's rules are in subflow_data.py."""

from __future__ import annotations

from guest import abi
from guest.checks import EARLY, ESTABLISHED, PAYLOADS, SERVER, TRANSFERRED, check, equal
from guest.checks.subflow_data import TCPINFO
from guest.connection import settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.connection import End


def settled_tcp_info(end: End, settled: Callable[[abi.View], bool]) -> abi.View:
    """struct tcp_info of the first subflow, once ``settled``."""
    return settle(end, lambda: TCPINFO.read(end).first, settled)


def sent_again(end: End) -> int:
    """Bytes that MPTCP gave to a subflow a second time, as far as the kernel counts them (6.5)."""
    view = abi.MPTCP_INFO_LAYOUT.view(end.mptcp_info().filled)
    return view.mptcpi_bytes_retrans if view.has("mptcpi_bytes_retrans") else 0


# Both counters include what was sent twice. Loopback loses nothing, but an emulated VM that its
# host does not schedule for a while sees timers expire.


@check("tcpinfo.bytes_sent_exact", needs=("tcpinfo",), payloads=PAYLOADS, covers=TCPINFO.covers)
def bytes_sent_exact(end: End) -> None:
    """tcpi_bytes_sent is exactly the bytes written plus those retransmitted."""

    def surplus(info: abi.View) -> int:
        again = info.tcpi_bytes_retrans + sent_again(end)
        return info.tcpi_bytes_sent - again - end.sent

    info = settled_tcp_info(end, lambda i: surplus(i) == 0)
    equal("tcpi_bytes_sent less those sent again", end.sent + surplus(info), end.sent, info.raw)


@check("tcpinfo.bytes_received_exact", needs=("tcpinfo",), payloads=PAYLOADS, covers=TCPINFO.covers)
def bytes_received_exact(end: End) -> None:
    """tcpi_bytes_received is exactly the bytes received plus duplicates."""

    def surplus(info: abi.View) -> int:
        return info.tcpi_bytes_received - sent_again(end.peer) - end.received

    info = settled_tcp_info(end, lambda i: surplus(i) == 0)
    got = end.received + surplus(info)
    equal("tcpi_bytes_received less those that came again", got, end.received, info.raw)


@check(
    "tcpinfo.early_bytes_counted",
    needs=("tcpinfo",),
    phases=(ESTABLISHED, TRANSFERRED),
    sides=(SERVER,),
    payloads=(EARLY,),
    covers="do_getsockopt_tcp_info, process_one_client",
)
def early_bytes_counted(end: End) -> None:
    """tcpi_bytes_received counts bytes that arrived before the first call on the socket, once."""
    info = settled_tcp_info(end, lambda i: i.tcpi_bytes_received == end.early)
    equal("tcpi_bytes_received", info.tcpi_bytes_received, end.early, info.raw)
