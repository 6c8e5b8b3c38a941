# SPDX-License-Identifier: GPL-2.0-only
"""Probes the capabilities of the kernel."""

from __future__ import annotations

import _socket

from guest import abi, options, sockopt
from guest.checks import errno_name
from guest.connection import LOOPBACK, Connection, End

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Sequence, Union

COMMAND_LINE = "/proc/cmdline"
SYSCTL = "/proc/sys/net/mptcp/enabled"
EINVAL, ENOPROTOOPT, EPROTONOSUPPORT, EOPNOTSUPP = 22, 92, 93, 95
#: The capabilities that the probe of one family reports, each after those it depends on.
NAMES = (
    "mptcp",
    "mptcp_info",
    "tcpinfo",
    "subflow_addrs",
    "packet_stats",
    "full_info",
    "ip_tos",
    "subflows_total",
    "last_data",
    *options.OPTIONS,
)

#: Why socket(2) fails, by errno (see net/mptcp/protocol.c and socket(2)).
SOCKET_ERRORS = {
    EINVAL: "EINVAL: the kernel does not know IPPROTO_MPTCP (older than 5.6)",
    EPROTONOSUPPORT: "EPROTONOSUPPORT: MPTCP is not compiled in",
    ENOPROTOOPT: "ENOPROTOOPT: net.mptcp.enabled is 0",
}
#: Errnos that mean that the kernel lacks an option, not that the option is broken. Without
#: SOL_MPTCP, or after fallback to TCP: EOPNOTSUPP on IPv4, ENOPROTOOPT on IPv6.
ABSENT = (EOPNOTSUPP, ENOPROTOOPT)


class Finding:
    """Whether a capability is present, and a description of the kernel's answer."""

    __slots__ = ("detail", "present")

    def __init__(self, present: bool, detail: str = "") -> None:
        self.present = present
        self.detail = detail


def set_up() -> Iterator[str]:
    """Enable MPTCP if it is off; yields messages about what was done or failed."""
    try:
        with open(SYSCTL, "r+b", buffering=0) as file:
            if file.read(16).strip() == b"0":
                file.seek(0)
                file.write(b"1")
                yield "net.mptcp.enabled was 0; turned on"
    except FileNotFoundError:
        pass  # a kernel without MPTCP; socket(2) will say so
    except OSError as error:
        try:
            with open(SYSCTL, "rb") as file:
                if file.read(16).strip() == b"0":
                    yield "net.mptcp.enabled is 0 and cannot be turned on: %s" % error
        except OSError:
            pass


def capabilities(family: int) -> dict[str, Finding]:
    """All of :data:`NAMES`; for IPv6 also ``ipv6`` and ``mptcp_ipv6``.

    If one of those two is absent, nothing more is probed, because everything else would fail for
    the same reason. A kernel without MPTCP in either family lacks ``mptcp``, and ``mptcp_ipv6`` is
    not reported.
    """
    found: dict[str, Finding] = {}
    if family == _socket.AF_INET6:
        found["ipv6"] = _address_family(family)
        if not found["ipv6"].present:
            return found
    found["mptcp"] = _mptcp_socket(family)
    if family == _socket.AF_INET6:
        if found["mptcp"].present:
            found["mptcp_ipv6"] = Finding(True)
        elif _mptcp_socket(_socket.AF_INET).present:
            found["mptcp_ipv6"] = found.pop("mptcp")
            return found
    if not found["mptcp"].present:
        for name in NAMES[1:]:
            found[name] = Finding(False, "no MPTCP socket")
        return found
    try:
        connection = Connection(family, b"?")
    except OSError as error:
        found["mptcp"] = Finding(False, "no connection over loopback: %s" % error)
        for name in NAMES[1:]:
            found[name] = Finding(False, "no connection")
        return found
    try:
        found.update(answers(connection.client))
    finally:
        connection.close()
    return found


def _address_family(family: int) -> Finding:
    try:
        sock = _socket.socket(family, _socket.SOCK_STREAM)
    except OSError as error:
        return Finding(False, "no socket of this family: %s%s" % (error, _disabled(family)))
    try:
        sock.bind((LOOPBACK[family], 0))
    except OSError as error:
        what = (LOOPBACK[family], error, _disabled(family))
        return Finding(False, "cannot bind to %s: %s%s" % what)
    finally:
        sock.close()
    return Finding(True)


def _disabled(family: int) -> str:
    """The kernel argument that disabled IPv6, if any (ipv6.rst)."""
    try:
        with open(COMMAND_LINE, "rb") as file:
            arguments = file.read(65536).split()
    except OSError:
        return ""
    for argument in (b"ipv6.disable=1", b"ipv6.disable_ipv6=1"):
        if family == _socket.AF_INET6 and argument in arguments:
            hint = "; its command line has %s: leave it out (append: in a manifest), or expect: %s"
            return hint % (argument.decode("ascii"), "{ipv6: false}")
    return ""


def _mptcp_socket(family: int) -> Finding:
    try:
        _socket.socket(family, _socket.SOCK_STREAM, abi.IPPROTO_MPTCP).close()
    except OSError as error:
        number = error.errno or 0
        return Finding(False, SOCKET_ERRORS.get(number, "socket: " + errno_name(number)))
    return Finding(True)


def answers(end: End) -> dict[str, Finding]:
    """The findings about each socket option on an established connection, which is not changed."""
    info = _ask(end, abi.MPTCP_INFO, bytes(2 * abi.MPTCP_INFO_LAYOUT.size))
    found = {"mptcp_info": _finding(info, "%d bytes" % info.length)}
    header = abi.SUBFLOW_DATA_LAYOUT.pack(size_subflow_data=abi.SUBFLOW_DATA_LAYOUT.size)
    for name, option in (
        ("tcpinfo", abi.MPTCP_TCPINFO),
        ("subflow_addrs", abi.MPTCP_SUBFLOW_ADDRS),
    ):
        answer = _ask(end, option, header)
        size = abi.SUBFLOW_DATA_LAYOUT.view(answer.data).size_kernel
        found[name] = _finding(answer, "%d bytes" % size)
    found["packet_stats"] = _part(info, abi.PACKET_STATS_SIZE, "packet stats")
    full = abi.FULL_INFO_LAYOUT.pack()
    found["full_info"] = _finding(_ask(end, abi.MPTCP_FULL_INFO, full))
    found["ip_tos"] = _ip_tos(end)
    for name, field in (
        ("subflows_total", "mptcpi_subflows_total"),
        ("last_data", "mptcpi_last_ack_recv"),
    ):
        found[name] = _part(info, abi.MPTCP_INFO_LAYOUT.end_of(field), field)
    for name in options.OPTIONS:
        found[name] = _options(end, options.of_family(name, end.family))
    return found


def _part(info: sockopt.Answer, size: int, what: str) -> Finding:
    """Whether MPTCP_INFO is long enough for ``what``, which ends at ``size``."""
    if not info.ok:
        return Finding(False, errno_name(info.errno))
    detail = "mptcp_info of %d bytes, %d hold %s" % (info.length, size, what)
    return Finding(info.length >= size, detail)


def _ask(end: End, option: int, request: Union[bytes, bytearray]) -> sockopt.Answer:
    """An answer that overran its buffer proves presence; the option's checks will fail."""
    try:
        return sockopt.getsockopt(end.fd, abi.SOL_MPTCP, option, request)
    except sockopt.Overrun:
        return sockopt.Answer(0, 0, bytes(request))


def _ip_tos(end: End) -> Finding:
    errno = sockopt.setsockopt(end.fd, _socket.IPPROTO_IP, _socket.IP_TOS, b"\0")
    if errno in ABSENT:
        return Finding(False, "setting it: " + errno_name(errno))
    return Finding(True)


def _options(end: End, wanted: Sequence[options.Option]) -> Finding:
    """Present if each option can be read, and set to the value read if it can be set."""
    said = []
    for option in wanted:
        try:
            answer = option.get(end.fd)
        except sockopt.Overrun as overrun:
            said.append("%s: %s" % (option.name, overrun))
            continue
        if answer.errno in ABSENT:
            return Finding(False, "getting %s: %s" % (option.name, errno_name(answer.errno)))
        if not answer.ok:
            said.append("%s: %s" % (option.name, errno_name(answer.errno)))
            continue
        value = options.number_in(answer)
        errno = option.set(end.fd, value) if option.probed else 0
        if errno in ABSENT:
            return Finding(False, "setting %s: %s" % (option.name, errno_name(errno)))
        failed = ", setting it: " + errno_name(errno) if errno else ""
        said.append("%s %d%s" % (option.name, value, failed))
    return Finding(True, ", ".join(said))


def _finding(answer: sockopt.Answer, detail: str = "") -> Finding:
    if answer.errno in ABSENT:
        return Finding(False, errno_name(answer.errno))
    # Any other error is a fault of the kernel, which the capability's checks will detect.
    return Finding(True, errno_name(answer.errno) if answer.errno else detail)
