# SPDX-License-Identifier: GPL-2.0-only
"""Bad pointers: EFAULT, nothing written outside, and a socket that works as before."""

from __future__ import annotations

import struct

from guest import abi, options, pages, sockopt
from guest.bench import Bench, bench_of, settable
from guest.checks import Failed, errno_name, scenario_check
from guest.checks.options import FAMILIES, SCENARIO
from guest.option import IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, Option, packed
from guest.pages import Length, Pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

    from guest.lab import Lab

EFAULT = 14
SOL_MPTCP = abi.SOL_MPTCP
#: Options that are written with a bad pointer: one for each way in which the kernel copies them.
WRITTEN = (
    "SO_RCVBUF",
    "SO_LINGER",
    "SO_TIMESTAMPING",
    "SO_TIMESTAMP",
    "SO_RCVTIMEO",
    "SO_RCVLOWAT",
    "SO_REUSEADDR",
    "SO_BINDTODEVICE",
    "IP_TOS",
    "IP_FREEBIND",
    "IP_LOCAL_PORT_RANGE",
    "IPV6_V6ONLY",
    "TCP_NODELAY",
    "TCP_INQ",
    "TCP_KEEPIDLE",
    "TCP_MAXSEG",
    "TCP_CONGESTION",
    "TCP_FASTOPEN",
    "TCP_FASTOPEN_KEY",
)
#: Options that are read into a bad pointer: level, number, what is asked for, and what they need.
READ: Sequence[tuple[str, int, int, bytes, str]] = (
    ("ip_tos", IPPROTO_IP, 1, bytes(4), "ip_tos"),
    ("ipv6_v6only", IPPROTO_IPV6, 26, bytes(4), "transparent_get"),
    ("tcp_nodelay", IPPROTO_TCP, 1, bytes(4), "tcp_cork_nodelay"),
    ("tcp_maxseg", IPPROTO_TCP, 2, bytes(4), "tcp_maxseg"),
    ("tcp_congestion", IPPROTO_TCP, 13, bytes(16), ""),
    ("tcp_info", IPPROTO_TCP, 11, bytes(104), ""),
    ("mptcp_info", SOL_MPTCP, abi.MPTCP_INFO, bytes(abi.MPTCP_INFO_MIN_SIZE), "mptcp_info"),
    (
        "tcpinfo",
        SOL_MPTCP,
        abi.MPTCP_TCPINFO,
        bytes(abi.SUBFLOW_DATA_LAYOUT.pack(size_subflow_data=16, size_user=104)) + bytes(104),
        "tcpinfo",
    ),
    (
        "subflow_addrs",
        SOL_MPTCP,
        abi.MPTCP_SUBFLOW_ADDRS,
        bytes(abi.SUBFLOW_DATA_LAYOUT.pack(size_subflow_data=16, size_user=256)) + bytes(256),
        "subflow_addrs",
    ),
    ("full_info", SOL_MPTCP, abi.MPTCP_FULL_INFO, bytes(abi.FULL_INFO_LAYOUT.size), "full_info"),
)
_pages: list[Pages] = []


def _memory() -> Pages:
    if not _pages:
        _pages.append(Pages())
    return _pages[0]


def _refused(what: str, errno: int) -> None:
    if errno != EFAULT:
        raise Failed(what, "EFAULT", errno_name(errno) if errno else "success")


def _nothing_before(what: str, memory: Pages, size: int) -> None:
    before = memory.before(size)
    if before != pages.UNTOUCHED:
        raise Failed(what + ": the bytes before", "left alone", before.hex(), before)


def read_into(bench: Bench, level: int, option: int, request: bytes) -> None:
    """getsockopt() into a buffer that is not writable fails with EFAULT."""
    memory = _memory()
    fd = bench.fd("client")
    for where, address in memory.bad_for(request):
        errno = pages.getsockopt(fd, level, option, address, Length(len(request)).address)
        _refused("optval: %s" % where, errno)
    _nothing_before("optval: the end of a page", memory, len(request) // 2)
    whole = memory.at_the_end(request)
    size = struct.pack("=i", len(request))
    for where, address in memory.bad_for(size):
        if where == "the end of a page":
            whole, address = memory.writable, memory.at_the_end(size[:2])
        _refused("optlen: %s" % where, pages.getsockopt(fd, level, option, whole, address))
    whole = memory.at_the_end(request)
    errno = pages.getsockopt(fd, level, option, whole, Length(len(request)).address)
    if errno:
        raise Failed("optval: the last bytes of a page", "success", errno_name(errno))
    _nothing_before("optval: the last bytes of a page", memory, len(request))


def write_from(bench: Bench, option: Option) -> None:
    """setsockopt() from a buffer that is not readable fails with EFAULT and keeps the old value."""
    memory = _memory()
    state = "client" if settable(option, "client") else "bound"
    fd = bench.fd(state if settable(option, state) else "fresh")
    before = bench.get(fd, option)
    value = packed(option.values[0])
    bad = [("unmapped", memory.unmapped)]
    if option.level != IPPROTO_IPV6:  # IPv6 takes NULL for 0
        bad.append(("NULL", 0))
    if option.least > 1 or option.exact:
        bad.append(("the end of a page", memory.at_the_end(value[:2])))
    for where, address in bad:
        errno = pages.setsockopt(fd, option.level, option.number, address, len(value))
        _refused("optval: %s" % where, errno)
        if bench.get(fd, option) != before:
            after = bench.get(fd, option)[2]
            raise Failed("the value after optval: %s" % where, before[2].hex(), after.hex(), after)
    errno = pages.setsockopt(fd, option.level, option.number, memory.at_the_end(value), len(value))
    if errno:
        raise Failed("optval: the last bytes of a page", "success", errno_name(errno))
    bench.restore(fd, option, before[2])


def _register() -> None:
    for name, level, number, request, need in READ:
        families = ("ipv6",) if level == IPPROTO_IPV6 else ("ipv4", "ipv6")
        scenario_check(
            "%s.read_to_a_bad_pointer" % name,
            scenario=SCENARIO,
            needs=(need,) if need else (),
            families=families,
        )(_reading(level, number, request))
    for name in WRITTEN:
        option = options.BY_NAME[name]
        scenario_check(
            "%s.set_from_a_bad_pointer" % name.lower(),
            scenario=SCENARIO,
            needs=(option.capability,) if option.capability else (),
            families=FAMILIES[option.family],
        )(_writing(option))


def _reading(level: int, number: int, request: bytes) -> Callable[[Lab], None]:
    def of_lab(lab: Lab) -> None:
        read_into(bench_of(lab.family), level, number, request)

    of_lab.__doc__ = read_into.__doc__
    return of_lab


def _writing(option: Option) -> Callable[[Lab], None]:
    def of_lab(lab: Lab) -> None:
        write_from(bench_of(lab.family), option)

    of_lab.__doc__ = write_from.__doc__
    return of_lab


_register()


@scenario_check("full_info.arrays_at_bad_pointers", scenario=SCENARIO, needs=("full_info",))
def arrays_at_bad_pointers(lab: Lab) -> None:
    """Arrays that are not writable give EFAULT, unless nothing would be written to them."""
    memory = _memory()
    fd = bench_of(lab.family).fd("client")
    layout, room = abi.FULL_INFO_LAYOUT, memory.writable
    sizes = {"size_sfinfo_user": 264, "size_tcpinfo_user": 104}
    for field, other, size in (
        ("subflow_info", "tcp_info", "size_sfinfo_user"),
        ("tcp_info", "subflow_info", "size_tcpinfo_user"),
    ):
        for where, address in memory.bad_for(bytes(104)):
            fields = {**sizes, "size_arrays_user": 1, field: address, other: room}
            for none in ("", "size_arrays_user", size):
                request = layout.pack(**{**fields, **({none: 0} if none else {})})
                errno = _ask(fd, request)
                what = "%s: %s%s" % (field, where, ", %s 0" % none if none else "")
                if not none:
                    _refused(what, errno)
                elif errno:
                    raise Failed(what, "success", errno_name(errno))
        _nothing_before("%s: the end of a page" % field, memory, 52)


def _ask(fd: int, request: bytearray) -> int:
    buffer = sockopt.Buffer(request)
    length = Length(len(request))
    return pages.getsockopt(fd, SOL_MPTCP, abi.MPTCP_FULL_INFO, buffer.address, length.address)


@scenario_check("mptcp_info.works_after_bad_pointers", scenario=SCENARIO, needs=("mptcp_info",))
def works_after_bad_pointers(lab: Lab) -> None:
    """After all bad pointers data pass in both directions and are counted."""
    bench = bench_of(lab.family)
    sock, peer = bench.ends("client")
    for source, sink in ((sock, peer), (peer, sock)):
        source.sendall(b"still here")
        got = sink.recv(100)
        if got != b"still here":
            raise Failed("what arrives", b"still here".hex(), got.hex(), got)
    errno = bench.caller.get(bench.fd("client"), SOL_MPTCP, abi.MPTCP_INFO, 256)[0]
    if errno:
        raise Failed("MPTCP_INFO", "success", errno_name(errno))
