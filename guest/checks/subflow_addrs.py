# SPDX-License-Identifier: GPL-2.0-only
"""MPTCP_SUBFLOW_ADDRS: addresses of the subflow. Its header's rules are in subflow_data.py."""

from __future__ import annotations

from guest import abi, sockopt
from guest.checks import check, equal, require, succeeded
from guest.checks.subflow_data import HEADER, SUBFLOW_ADDRS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.connection import End

NEEDS = ("subflow_addrs",)
COVERS = SUBFLOW_ADDRS.covers


@check("subflow_addrs.local_is_getsockname", needs=NEEDS, covers=COVERS)
def local_is_getsockname(end: End) -> None:
    """The local address equals getsockname's over the whole sockaddr_storage."""
    answer = SUBFLOW_ADDRS.read(end)
    name, _ = sockopt.sockname(end.fd)
    equal("local address", answer.first.bytes_of("ss_local"), name, answer.raw)


@check("subflow_addrs.remote_is_getpeername", needs=NEEDS, covers=COVERS)
def remote_is_getpeername(end: End) -> None:
    """The remote address equals getpeername's over the whole sockaddr_storage."""
    answer = SUBFLOW_ADDRS.read(end)
    name, _ = sockopt.peername(end.fd)
    equal("remote address", answer.first.bytes_of("ss_remote"), name, answer.raw)


@check("subflow_addrs.family_is_the_sockets", needs=NEEDS, covers=COVERS)
def family_is_the_sockets(end: End) -> None:
    """Both addresses have the family of the socket."""
    answer = SUBFLOW_ADDRS.read(end)
    for field in ("ss_local", "ss_remote"):
        family = abi.family_of(answer.first.bytes_of(field))
        equal("family of " + field, family, end.family, answer.raw)


@check("subflow_addrs.socket_names_agree", needs=NEEDS, covers=COVERS)
def socket_names_agree(end: End) -> None:
    """getsockname() and getpeername() return addresses of the same family and length."""
    local, local_length = sockopt.sockname(end.fd)
    remote, remote_length = sockopt.peername(end.fd)
    require("length of getpeername's", remote_length > 0, "more than 0", remote_length, remote)
    equal("length of getpeername's against getsockname's", remote_length, local_length, remote)
    equal("family of getpeername's", abi.family_of(remote), abi.family_of(local), remote)


@check("subflow_addrs.family_alone_fits", needs=NEEDS, covers=COVERS)
def family_alone_fits(end: End) -> None:
    """An element of sizeof(sa_family_t) bytes holds only the family."""
    size = abi.SA_FAMILY_SIZE
    request = HEADER.pack(size_subflow_data=HEADER.size, size_user=size)
    # Room for the rest of an element stands behind, but is not promised.
    buffer = sockopt.Buffer(request + bytes(size) + sockopt.unused(SUBFLOW_ADDRS.element.size))
    used = HEADER.size + size
    answer = sockopt.getsockopt(end.fd, abi.SOL_MPTCP, abi.MPTCP_SUBFLOW_ADDRS, buffer, used)
    succeeded("an element of %d bytes" % size, answer)
    equal("optlen afterwards", answer.length, used, answer.data)
    equal("size_user", HEADER.view(answer.data).size_user, size, answer.data)
    equal("family", abi.family_of(answer.data[HEADER.size :]), end.family, answer.data)
    buffer.content(used=used)
