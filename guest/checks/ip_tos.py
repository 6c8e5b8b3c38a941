# SPDX-License-Identifier: GPL-2.0-only
"""IP_TOS on an MPTCP socket: set on all subflows, and read back from the first."""

from __future__ import annotations

import _socket

from guest import sockopt
from guest.checks import ESTABLISHED, check, equal, refused, succeeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.connection import End

EINVAL = 22
NEEDS = ("ip_tos",)
PHASES = (ESTABLISHED,)
COVERS = "test_ip_tos_sockopt"
#: Every value with the two ECN bits clear: TCP keeps those for itself.
VALUES = range(0, 256, 4)


def read_tos(end: End, size: int = 1, length: int | None = None) -> sockopt.Answer:
    return sockopt.getsockopt(end.fd, _socket.IPPROTO_IP, _socket.IP_TOS, bytes(size), length)


@check("ip_tos.set_is_read_back", needs=NEEDS, phases=PHASES, covers=COVERS)
def set_is_read_back(end: End) -> None:
    """Every value that was set is read back."""
    for value in VALUES:
        errno = sockopt.setsockopt(end.fd, _socket.IPPROTO_IP, _socket.IP_TOS, bytes([value]))
        equal("errno of setting 0x%02x" % value, errno, 0)
        answer = succeeded("reading 0x%02x back" % value, read_tos(end))
        equal("IP_TOS", answer.data.hex(), "%02x" % value, answer.data)


@check("ip_tos.is_one_byte", needs=NEEDS, phases=PHASES, covers=COVERS)
def is_one_byte(end: End) -> None:
    """A buffer of one byte gets one byte."""
    answer = succeeded("IP_TOS into 1 byte", read_tos(end))
    equal("optlen afterwards", answer.length, 1, answer.data)


@check("ip_tos.length_zero_stays_zero", needs=NEEDS, phases=PHASES, covers=COVERS)
def length_zero_stays_zero(end: End) -> None:
    """A length of 0 succeeds and stays 0."""
    answer = succeeded("IP_TOS into 0 bytes", read_tos(end, size=0))
    equal("optlen afterwards", answer.length, 0)


@check("ip_tos.negative_length_refused", needs=NEEDS, phases=PHASES, covers=COVERS)
def negative_length_refused(end: End) -> None:
    """Length -1 is refused with EINVAL and stays -1."""
    refused("optlen -1", read_tos(end, length=-1), EINVAL, -1)
