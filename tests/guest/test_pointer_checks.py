# SPDX-License-Identifier: GPL-2.0-only
"""The checks of bad pointers and of sizes: sound kernels pass, and each can fail."""

from __future__ import annotations

import _socket
import ctypes
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from guest import abi, bench, checks, options, sockopt
from guest.checks import Check, pointers, sizes
from guest.lab import Lab
from guest.option import Option, packed
from guest.pages import PAGE, Pages
from tests.guest.faults import EIO, Call, Fault, FaultyKernel, bump

pytestmark = [
    pytest.mark.mptcp,
    pytest.mark.skipif(os.geteuid() != 0, reason="some options are root's to set"),
]
FAMILIES = {"ipv4": _socket.AF_INET, "ipv6": _socket.AF_INET6}
SIZES = (
    "mptcp_info.sizes",
    "tcpinfo.element_sizes",
    "tcpinfo.odd_headers",
    "subflow_addrs.element_sizes",
    "subflow_addrs.odd_headers",
    "full_info.array_sizes",
    "full_info.info_sizes",
    "full_info.array_counts",
    "full_info.sizes_beyond_int_max",
)
READ = (*(f"{name}.read_to_a_bad_pointer" for name, *_ in pointers.READ),)
WRITTEN = (*(f"{name.lower()}.set_from_a_bad_pointer" for name in pointers.WRITTEN),)


@pytest.fixture(autouse=True)
def fresh_benches() -> Iterator[None]:
    yield
    forget_benches()


def forget_benches() -> None:
    for one in bench._benches.values():
        one.forget()
    bench._benches.clear()


def named(family: str, *ids: str) -> list[Check]:
    found = [c for c in checks.all_checks() if c.id in ids and family in c.families]
    assert found
    return found


def outcome(family: str, item: Check) -> str:
    """What failed, or nothing."""
    try:
        item.function(Lab(FAMILIES[family]))  # type: ignore[arg-type]
    except checks.Failed as failed:
        return failed.what
    except (sockopt.Overrun, abi.Truncated) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_kernel_passes(family: str) -> None:
    others = ("full_info.arrays_at_bad_pointers", "mptcp_info.works_after_bad_pointers")
    for item in named(family, *READ, *WRITTEN, *SIZES, *others):
        assert outcome(family, item) == ""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("answer", [0, EIO])
def test_a_bad_pointer_that_is_taken_or_refused_otherwise_is_seen(
    family: str, answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*arguments: int) -> int:
        ctypes.set_errno(answer)
        return -1 if answer else 0

    reading = named(family, *READ, "full_info.arrays_at_bad_pointers")
    writing = named(family, *WRITTEN)
    for items, name in ((reading, "_getsockopt"), (writing, "_setsockopt")):
        for item in items:
            assert outcome(family, item) == ""  # brings the socket into its state
            with monkeypatch.context() as patch:
                patch.setattr(sockopt, name, call)
                assert outcome(family, item).split(":")[0] in (
                    "optval",
                    "subflow_info",
                ), item.id


@pytest.mark.parametrize("name", READ[:1])
def test_bytes_before_the_pointer_that_are_written_are_seen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sockopt._getsockopt
    memory = pointers._memory()

    def getsockopt(fd: int, level: int, option: int, buffer: int, optlen: int) -> int:
        failed = int(real(fd, level, option, buffer, optlen))
        errno = ctypes.get_errno()
        if memory.writable < buffer < memory.unmapped:
            ctypes.memset(buffer - 1, 0, 1)
        ctypes.set_errno(errno)
        return failed

    monkeypatch.setattr(sockopt, "_getsockopt", getsockopt)
    (item,) = named("ipv4", name)
    assert outcome("ipv4", item) == "optval: the end of a page: the bytes before"


@pytest.mark.parametrize("name", WRITTEN)
def test_a_value_that_changes_in_spite_of_efault_is_seen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sockopt._setsockopt
    option = next(o for o in options.table() if o.name.lower() == name.split(".")[0])
    value = packed(option.values[-1] if option.when == "any" else option.values[0])
    memory = pointers._memory()

    def setsockopt(fd: int, level: int, number: int, buffer: int, size: int) -> int:
        failed = int(real(fd, level, number, buffer, size))
        if failed and buffer == memory.unmapped:
            errno = ctypes.get_errno()
            for other in option.values:
                raw = ctypes.create_string_buffer(packed(other))
                real(fd, level, number, ctypes.addressof(raw), len(value))
                if changed(fd):
                    break
            ctypes.set_errno(errno)
        return failed

    def changed(fd: int) -> bool:
        return one.get(fd, option) != before[fd]

    family = "ipv6" if name.startswith("ipv6") else "ipv4"
    one = bench.bench_of(FAMILIES[family])
    before: dict[int, object] = {}
    get = one.get

    def remembering(fd: int, wanted: Option) -> tuple[int, int, bytes]:
        answer = get(fd, wanted)
        before.setdefault(fd, answer)
        return answer

    monkeypatch.setattr(one, "get", remembering)
    monkeypatch.setattr(sockopt, "_setsockopt", setsockopt)
    (item,) = named(family, name)
    told = outcome(family, item)
    if option.name != "TCP_MAXSEG":  # reads as the segment size in use
        assert told == "the value after optval: unmapped"


def test_pages_are_what_they_are_called() -> None:
    memory = Pages()
    at = memory.at_the_end(b"abc")
    assert at + 3 == memory.unmapped == memory.writable + PAGE
    assert ctypes.string_at(at, 3) == b"abc"
    assert memory.before(3) == b"\xa5" * 64
    assert ctypes.string_at(memory.read_only_with(b"xyz"), 3) == b"xyz"


def shorter(option: int) -> Fault:
    """One byte less than there is, where there are many."""

    def fault(call: Call) -> None:
        if call.of(option) and not call.error and call.length > 40:
            call.length -= 1

    return fault


def flipped(option: int, at: int) -> Fault:
    """A byte of the structure is another in short answers."""

    def fault(call: Call) -> None:
        if call.of(option) and not call.error and at < len(call.data) and call.asked < 40:
            call.data[at] ^= 0xFF

    return fault


def accepts_all(option: int) -> Fault:
    def fault(call: Call) -> None:
        if call.of(option):
            call.error = 0

    return fault


HEADER, FULL = abi.SUBFLOW_DATA_LAYOUT, abi.FULL_INFO_LAYOUT


def _both(make: Callable[[int, str], list[tuple[str, Fault]]]) -> list[tuple[str, Fault]]:
    return [
        *make(abi.MPTCP_TCPINFO, "tcpinfo"),
        *make(abi.MPTCP_SUBFLOW_ADDRS, "subflow_addrs"),
    ]


FAULTS: list[tuple[str, Fault]] = [
    ("mptcp_info.sizes", shorter(abi.MPTCP_INFO)),
    ("mptcp_info.sizes", flipped(abi.MPTCP_INFO, 6)),
    *_both(lambda number, name: [(f"{name}.element_sizes", shorter(number))]),
    *_both(lambda number, name: [(f"{name}.element_sizes", flipped(number, 16))]),
    *_both(
        lambda number, name: [
            (f"{name}.element_sizes", bump(HEADER, field, number))
            for field in ("size_user", "size_subflow_data", "num_subflows")
        ]
    ),
    *_both(lambda number, name: [(f"{name}.odd_headers", accepts_all(number))]),
    ("full_info.array_sizes", bump(FULL, "size_sfinfo_user", abi.MPTCP_FULL_INFO)),
    ("full_info.array_sizes", bump(FULL, "size_tcpinfo_user", abi.MPTCP_FULL_INFO)),
    ("full_info.info_sizes", shorter(abi.MPTCP_FULL_INFO)),
    ("full_info.array_counts", bump(FULL, "num_subflows", abi.MPTCP_FULL_INFO)),
    ("full_info.array_counts", bump(FULL, "size_arrays_user", abi.MPTCP_FULL_INFO)),
    ("full_info.sizes_beyond_int_max", accepts_all(abi.MPTCP_FULL_INFO)),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_size_is_seen(family: str) -> None:
    for number, (check, fault) in enumerate(FAULTS):
        (item,) = named(family, check)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sockopt, "_getsockopt", FaultyKernel(fault).getsockopt)
            assert outcome(family, item), (number, check)
        forget_benches()


def test_every_size_check_has_its_fault() -> None:
    assert {check for check, _ in FAULTS} == set(SIZES)
    assert max(layout.size for layout in abi.LAYOUTS) < sizes.MUCH


LAYOUTS = (abi.MPTCP_INFO_LAYOUT, abi.TCP_INFO_LAYOUT, abi.SUBFLOW_ADDRS_LAYOUT)


@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize("whole", [layout.size for layout in LAYOUTS])
def test_a_whole_structure_in_a_short_buffer_is_an_overrun(size: int, whole: int) -> None:
    """The kernel wrote a structure to a buffer that is shorter: the checker lives to tell of it."""
    buffer = sockopt.Buffer(sockopt.unused(size))
    behind = ctypes.addressof(buffer._anchor) + len(buffer._memory) - buffer.address
    assert behind >= whole  # else memory that is not the buffer's would be overwritten
    ctypes.memset(buffer.address, 0, whole)
    with pytest.raises(sockopt.Overrun, match="bytes after the buffer were overwritten"):
        buffer.content()


WRITES = {
    "before the buffer": (0, -1, "bytes around the buffer were overwritten: 00 at -1"),
    "behind the buffer": (0, 4, "bytes around the buffer were overwritten: 00 at 4"),
    "behind optlen": (0, 3, "optlen says 2, bytes behind: a500"),
    "though it fails": (-1, 1, "a call that failed wrote 00 at 1"),
}


@pytest.mark.parametrize("case", WRITES)
def test_a_buffer_that_is_used_again_sees_what_the_kernel_may_not_write(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned, place, said = WRITES[case]
    caller = sockopt.Caller()

    def bad(fd: int, level: int, option: int, address: int, length: int) -> int:
        ctypes.c_int.from_address(length).value = 2
        ctypes.memmove(address + place, b"\0", 1)
        ctypes.set_errno(22)
        return returned

    with monkeypatch.context() as patch:
        patch.setattr(sockopt, "_getsockopt", bad)
        with pytest.raises(sockopt.Overrun, match=said):
            caller.get(0, 1, 2, 4)
    with socket.socket() as sock:
        assert caller.get(sock.fileno(), 1, 3, 4) == (0, 4, b"\1\0\0\0")  # SO_TYPE: it is clean


@pytest.mark.parametrize("place", [-1, 0, 4])
def test_a_buffer_that_is_used_again_sees_a_value_that_is_overwritten(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = sockopt.Caller()

    def bad(fd: int, level: int, option: int, address: int, length: int) -> int:
        ctypes.memmove(address + place, b"\0", 1)
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(sockopt, "_setsockopt", bad)
        with pytest.raises(sockopt.Overrun, match="setting wrote to its value"):
            caller.set(0, 1, 2, b"\1\1\1\1")
    with socket.socket() as sock:
        assert caller.get(sock.fileno(), 1, 3, 4) == (0, 4, b"\1\0\0\0")


def test_optlen_that_is_used_again_sees_bytes_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(fd: int, level: int, option: int, address: int, length: int) -> int:
        ctypes.memmove(length + 4, b"\0", 1)
        return 0

    with socket.socket() as sock:
        sockopt.getsockopt(sock.fileno(), 1, 3, bytes(4))
        with monkeypatch.context() as patch:
            patch.setattr(sockopt, "_getsockopt", bad)
            with pytest.raises(sockopt.Overrun, match="bytes after optlen"):
                sockopt.getsockopt(sock.fileno(), 1, 3, bytes(4))
        assert sockopt.getsockopt(sock.fileno(), 1, 3, bytes(4)).data == b"\1\0\0\0"
