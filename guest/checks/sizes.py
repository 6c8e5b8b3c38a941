# SPDX-License-Identifier: GPL-2.0-only
"""Structures of SOL_MPTCP asked for in every size: shorter and longer than the kernel's."""

from __future__ import annotations

from guest import abi, sockopt
from guest.bench import bench_of
from guest.checks import Failed, errno_name, scenario_check
from guest.checks.options import SCENARIO
from guest.option import EINVAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator

    from guest.lab import Lab

SOL_MPTCP = abi.SOL_MPTCP
HEADER = abi.SUBFLOW_DATA_LAYOUT
FULL = abi.FULL_INFO_LAYOUT
#: Bytes of MPTCP_FULL_INFO before the embedded mptcp_info.
HEAD = FULL.offsets["mptcp_info"]
#: More than any structure here has, in any kernel yet.
MUCH = 512
U32_TOO_LARGE = 1 << 31


def sizes_around(size: int) -> Iterator[int]:
    """0 to ``size`` and more: each near both ends, one in seven between."""
    yield from range(18)
    yield from range(18, size - 4, 7)
    yield from range(size - 4, size + 9)


def _same(what: str, got: object, wanted: object, raw: bytes = b"") -> None:
    if got != wanted:
        shown = [x.hex() if isinstance(x, bytes) else str(x) for x in (wanted, got)]
        raise Failed(what, shown[0], shown[1], raw)


def _steady(first: bytes, second: bytes) -> Callable[[bytes], bytes]:
    """Leaves out of a structure's first bytes those that differed between two looks: times."""
    moving = [i for i, pair in enumerate(zip(first, second)) if pair[0] != pair[1]]
    # The rest of a number that moved may move at the next look.
    mask = ~0
    for at in moving:
        mask &= ~(0xFFFFFFFFFFFFFFFF << 8 * (at & ~7))

    def hide(data: bytes) -> bytes:
        return (int.from_bytes(data, "little") & mask).to_bytes(len(data), "little")

    return hide


@scenario_check("mptcp_info.sizes", scenario=SCENARIO, needs=("mptcp_info",))
def info_sizes(lab: Lab) -> None:
    """getsockopt(2) writes min(optlen, available) bytes of MPTCP_INFO, and no more."""
    bench = bench_of(lab.family)
    fd, get = bench.fd("client"), bench.caller.get
    _, whole_size, whole = get(fd, SOL_MPTCP, abi.MPTCP_INFO, MUCH - 64)
    answers = [
        (size, get(fd, SOL_MPTCP, abi.MPTCP_INFO, size)) for size in sizes_around(whole_size)
    ]
    hide = _steady(whole, get(fd, SOL_MPTCP, abi.MPTCP_INFO, MUCH - 64)[2])
    for size, (errno, length, data) in answers:
        what = "MPTCP_INFO into %d bytes" % size
        _same(what, errno_name(errno) if errno else "success", "success")
        _same(what + ": optlen", length, min(size, whole_size), data)
        _same(what, hide(data), hide(whole[:length]), data)


def _ask(fd: int, option: int, request: bytes, room: int = 0) -> sockopt.Answer:
    """``request`` and ``room`` bytes behind it, which must be left alone where unfilled."""
    buffer = sockopt.Buffer(request + sockopt.unused(room))
    answer = sockopt.getsockopt(fd, SOL_MPTCP, option, buffer)
    if answer.ok and room:
        filled = max(answer.length, len(request))
        _same("bytes beyond optlen", answer.data[filled:], sockopt.unused(buffer.size - filled))
    return answer


def _header(size_user: int, size_subflow_data: int = HEADER.size) -> bytes:
    return bytes(HEADER.pack(size_subflow_data=size_subflow_data, size_user=size_user))


def elements(option: int, lab: Lab) -> None:
    """An element has min(size_user, the kernel's size) bytes; one that does not fit is omitted."""
    fd = bench_of(lab.family).fd("client")
    whole = _element(fd, option, MUCH, MUCH)
    kernel = HEADER.view(whole.data).size_kernel
    first = whole.data[HEADER.size : HEADER.size + kernel]
    sizes = [size for size in sizes_around(kernel) if size]
    tight = [(size, _element(fd, option, size, size)) for size in sizes]
    again = _element(fd, option, MUCH, MUCH).data[HEADER.size : HEADER.size + kernel]
    hide = _steady(first, again)
    for size, answer in tight:
        what = "an element of %d bytes" % size
        used = min(size, kernel)
        _same(what + ": optlen", answer.length, HEADER.size + used, answer.data)
        header = HEADER.view(answer.data)
        got = header.size_user, header.size_kernel, header.num_subflows, header.size_subflow_data
        _same(what + ": header", got, (used, kernel, 1, HEADER.size), answer.data)
        data = answer.data[HEADER.size : HEADER.size + used]
        _same(what, hide(data), hide(first[:used]), answer.data)
    _elements_that_do_not_fit(fd, option, kernel)


def _element(fd: int, option: int, size: int, room: int) -> sockopt.Answer:
    answer = _ask(fd, option, _header(size), room)
    name = errno_name(answer.errno) if answer.errno else "success"
    _same("size_user %d, room for %d" % (size, room), name, "success")
    return answer


def _elements_that_do_not_fit(fd: int, option: int, kernel: int) -> None:
    for size, room in ((kernel, kernel - 1), (kernel, 1), (MUCH, kernel - 1), (0, kernel), (2, 1)):
        answer = _element(fd, option, size, room)
        what = "size_user %d, room for %d" % (size, room)
        _same(what + ": optlen", answer.length, HEADER.size, answer.data)
        header = HEADER.view(answer.data)
        got = header.size_user, header.size_kernel, header.num_subflows
        _same(what + ": header", got, (min(size, kernel), kernel, 1), answer.data)
        left = answer.data[HEADER.size :]
        _same(what + ": the room", left, sockopt.unused(room), answer.data)


def odd_headers(option: int, lab: Lab) -> None:
    """A header that is too small, too large or beyond 2^31 is refused with EINVAL."""
    fd = bench_of(lab.family).fd("client")
    for size, header in (
        (0, HEADER.size - 1),
        (0, HEADER.size + 9),
        (0, U32_TOO_LARGE),
        (0, 0xFFFFFFFF),
        (U32_TOO_LARGE, HEADER.size),
        (0xFFFFFFFF, HEADER.size),
    ):
        answer = sockopt.getsockopt(fd, SOL_MPTCP, option, _header(size, header) + bytes(8))
        what = "size_user %d, size_subflow_data %d" % (size, header)
        _same(what, errno_name(answer.errno) if answer.errno else "success", errno_name(EINVAL))


class _Full:
    """One MPTCP_FULL_INFO with room for two elements in each array."""

    def __init__(self, fd: int, sfinfo: int, tcpinfo: int, arrays: int = 2, info: int = 0) -> None:
        self.subflows = sockopt.Buffer(sockopt.unused(2 * MUCH))
        self.tcp = sockopt.Buffer(sockopt.unused(2 * MUCH))
        head = FULL.pack(
            size_tcpinfo_user=tcpinfo,
            size_sfinfo_user=sfinfo,
            size_arrays_user=arrays,
            subflow_info=self.subflows.address,
            tcp_info=self.tcp.address,
        )
        self.answer = _ask(fd, abi.MPTCP_FULL_INFO, bytes(head[:HEAD]), info)
        self.header = FULL.view(self.answer.data)


def _full(fd: int, sfinfo: int, tcpinfo: int, arrays: int = 2, info: int = 0) -> _Full:
    full = _Full(fd, sfinfo, tcpinfo, arrays, info)
    name = errno_name(full.answer.errno) if full.answer.errno else "success"
    _same("sizes %d and %d" % (sfinfo, tcpinfo), name, "success")
    return full


@scenario_check("full_info.array_sizes", scenario=SCENARIO, needs=("full_info",))
def array_sizes(lab: Lab) -> None:
    """Elements of both arrays are min(size asked for, the kernel's) bytes, and no more."""
    fd = bench_of(lab.family).fd("client")
    whole = _full(fd, MUCH, MUCH)
    sfinfo, tcpinfo = whole.header.size_sfinfo_kernel, whole.header.size_tcpinfo_kernel
    first = whole.subflows.content(used=sfinfo)[:sfinfo], whole.tcp.content(used=tcpinfo)[:tcpinfo]
    looks = [(size, _full(fd, size, size)) for size in sizes_around(max(sfinfo, tcpinfo))]
    looks += [(size, _full(fd, size, size)) for size in range(sfinfo - 2, sfinfo + 3)]
    hide = _steady(first[1], _full(fd, MUCH, MUCH).tcp.content()[:tcpinfo])
    for size, full in looks:
        what = "elements of %d bytes" % size
        wanted = min(size, sfinfo), min(size, tcpinfo)
        header = full.header
        got = header.size_sfinfo_user, header.size_tcpinfo_user
        _same(what + ": sizes", got, wanted, full.answer.data)
        got = header.size_sfinfo_kernel, header.size_tcpinfo_kernel
        _same(what + ": the kernel's sizes", got, (sfinfo, tcpinfo), full.answer.data)
        subflow = full.subflows.content(used=wanted[0])[: wanted[0]]
        # Where the addresses are not wanted whole, the kernel does not fetch them at all.
        _same(what + ": subflow_info", subflow, first[0][: wanted[0]], full.answer.data)
        info = full.tcp.content(used=wanted[1])[: wanted[1]]
        _same(what + ": tcp_info", hide(info), hide(first[1][: wanted[1]]), full.answer.data)


@scenario_check("full_info.info_sizes", scenario=SCENARIO, needs=("full_info", "mptcp_info"))
def embedded_sizes(lab: Lab) -> None:
    """The embedded mptcp_info is min(room, the kernel's size) bytes, and no more."""
    bench = bench_of(lab.family)
    fd = bench.fd("client")
    kernel = bench.caller.get(fd, SOL_MPTCP, abi.MPTCP_INFO, MUCH - 64)[1]
    whole = _full(fd, 0, 0, 0, MUCH).answer.data[HEAD : HEAD + kernel]
    looks = [(size, _full(fd, 0, 0, 0, size).answer) for size in sizes_around(kernel)]
    hide = _steady(whole, _full(fd, 0, 0, 0, MUCH).answer.data[HEAD : HEAD + kernel])
    for size, answer in looks:
        what = "%d bytes for mptcp_info" % size
        used = min(size, kernel)
        _same(what + ": optlen", answer.length, HEAD + used, answer.data)
        _same(what, hide(answer.data[HEAD : HEAD + used]), hide(whole[:used]), answer.data)


@scenario_check("full_info.array_counts", scenario=SCENARIO, needs=("full_info",))
def array_counts(lab: Lab) -> None:
    """size_arrays_user bounds the elements written; num_subflows counts them all."""
    fd = bench_of(lab.family).fd("client")
    for arrays in (0, 1, 2, 0xFFFFFFFF):
        full = _full(fd, 8, 8, arrays)
        what = "size_arrays_user %d" % arrays
        _same(what + ": num_subflows", full.header.num_subflows, 1, full.answer.data)
        _same(what + ": size_arrays_user", full.header.size_arrays_user, arrays)
        for buffer in (full.subflows, full.tcp):
            written = buffer.content(used=8 if arrays else 0)[:8]
            require_written = written != sockopt.unused(8)
            _same(what + ": an element is written", require_written, bool(arrays))


@scenario_check("full_info.sizes_beyond_int_max", scenario=SCENARIO, needs=("full_info",))
def sizes_beyond_int_max(lab: Lab) -> None:
    """An element size of 2^31 or more is refused with EINVAL."""
    fd = bench_of(lab.family).fd("client")
    for sfinfo, tcpinfo in (
        (U32_TOO_LARGE, 8),
        (8, U32_TOO_LARGE),
        (0xFFFFFFFF, 8),
        (8, 0xFFFFFFFF),
    ):
        errno = _Full(fd, sfinfo, tcpinfo).answer.errno
        what = "sizes %d and %d" % (sfinfo, tcpinfo)
        _same(what, errno_name(errno) if errno else "success", errno_name(EINVAL))


def _register() -> None:
    for name, option in (
        ("tcpinfo", abi.MPTCP_TCPINFO),
        ("subflow_addrs", abi.MPTCP_SUBFLOW_ADDRS),
    ):
        for rule, suffix in ((elements, "element_sizes"), (odd_headers, "odd_headers")):
            scenario_check("%s.%s" % (name, suffix), scenario=SCENARIO, needs=(name,))(
                _apply(rule, option)
            )


def _apply(rule: Callable[[int, Lab], None], option: int) -> Callable[[Lab], None]:
    def of_lab(lab: Lab) -> None:
        rule(option, lab)

    of_lab.__doc__ = rule.__doc__
    return of_lab


_register()
