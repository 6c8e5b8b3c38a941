# SPDX-License-Identifier: GPL-2.0-only
"""The header that MPTCP_TCPINFO and MPTCP_SUBFLOW_ADDRS share, struct mptcp_subflow_data.

User space says in it how large it thinks the header (``size_subflow_data``) and one element
(``size_user``) are, so that old programs run on new kernels and the other way round.
"""

from __future__ import annotations

from guest import abi, sockopt
from guest.checks import (
    PHASES,
    SEGMENT,
    SIDES,
    Check,
    add,
    equal,
    refused,
    require,
    succeeded,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.connection import End

EINVAL = 22
HEADER = abi.SUBFLOW_DATA_LAYOUT
COVERS = "do_getsockopt_bogus_sf_data"
#: Room for so many elements, so that a kernel with more than one subflow is noticed.
ELEMENTS = 2


class Option:
    """A socket option that answers with the header and an array, one element per subflow."""

    def __init__(self, name: str, number: int, element: abi.Layout, covers: str) -> None:
        self.name = name  # of the capability and the checks' prefix
        self.number = number
        self.element = element
        self.covers = covers

    def ask(self, end: End, request: bytes | bytearray) -> sockopt.Answer:
        return sockopt.getsockopt(end.fd, abi.SOL_MPTCP, self.number, request)

    def read(self, end: End) -> Elements:
        """Header and elements, asked for as an ordinary program does."""
        size = self.element.size
        request = HEADER.pack(size_subflow_data=HEADER.size, size_user=size)
        answer = succeeded(
            "getsockopt(SOL_MPTCP, MPTCP_%s)" % self.name.upper(),
            self.ask(end, request + bytes(ELEMENTS * size)),
        )
        return Elements(self, answer)


class Elements:
    """An answer: the header as numbers and the first element as bytes."""

    def __init__(self, option: Option, answer: sockopt.Answer) -> None:
        self.length = answer.length
        self.raw = answer.data
        self.header = HEADER.view(answer.data)
        size = min(self.header.size_user, option.element.size)
        self.first = option.element.view(answer.data[HEADER.size : HEADER.size + size])


def size_kernel_positive(option: Option, end: End) -> None:
    """size_kernel is the size of the kernel's element."""
    answer = option.read(end)
    size = answer.header.size_kernel
    require("size_kernel", size > 0, "more than 0", size, answer.raw)


def size_user_is_the_smaller(option: Option, end: End) -> None:
    """size_user is set to min(size_kernel, requested)."""
    answer = option.read(end)
    expected = min(answer.header.size_kernel, option.element.size)
    equal("size_user", answer.header.size_user, expected, answer.raw)


def one_subflow(option: Option, end: End) -> None:
    """A connection over loopback has one subflow."""
    answer = option.read(end)
    equal("num_subflows", answer.header.num_subflows, 1, answer.raw)


def length_is_header_and_one_element(option: Option, end: End) -> None:
    """optlen is set to the size of the header and one element."""
    answer = option.read(end)
    expected = HEADER.size + answer.header.size_user
    equal("optlen afterwards", answer.length, expected, answer.raw)
    require("element", answer.header.size_user > 0, "more than 0 bytes", 0, answer.raw)
    beyond = answer.raw[answer.length :]
    require("bytes beyond optlen", not any(beyond), "left alone", beyond.hex(), answer.raw)


def header_size_zero_refused(option: Option, end: End) -> None:
    """size_subflow_data 0 is refused with EINVAL."""
    answer = option.ask(end, HEADER.pack())
    refused("a header of zeros", answer, EINVAL, HEADER.size)


def bare_header_accepted(option: Option, end: End) -> None:
    """With room for the header only, the kernel writes the header and no element."""
    answer = option.ask(end, HEADER.pack(size_subflow_data=HEADER.size))
    succeeded("a bare header", answer)
    header = HEADER.view(answer.data)
    equal("optlen afterwards", answer.length, HEADER.size, answer.data)
    equal("num_subflows", header.num_subflows, 1, answer.data)
    require("size_kernel", header.size_kernel > 0, "more than 0", header.size_kernel, answer.data)
    equal("size_user", header.size_user, 0, answer.data)


def short_lengths_refused(option: Option, end: End) -> None:
    """Every length shorter than the header is refused with EINVAL, and optlen is unchanged."""
    header = bytes(HEADER.pack(size_subflow_data=HEADER.size))
    for length in range(HEADER.size):
        # The whole header is there to be read, but only `length` bytes of it are promised.
        buffer = sockopt.Buffer(header[:length] + sockopt.unused(HEADER.size - length))
        answer = sockopt.getsockopt(end.fd, abi.SOL_MPTCP, option.number, buffer, length)
        refused("optlen %d" % length, answer, EINVAL, length)
        buffer.content(used=length)


def nonzero_size_kernel_refused(option: Option, end: End) -> None:
    """size_kernel is set by the kernel: a request other than 0 is refused with EINVAL."""
    request = HEADER.pack(size_subflow_data=HEADER.size, size_kernel=1)
    refused("size_kernel 1", option.ask(end, request), EINVAL)


def nonzero_num_subflows_refused(option: Option, end: End) -> None:
    """num_subflows is set by the kernel: a request other than 0 is refused with EINVAL."""
    request = HEADER.pack(size_subflow_data=HEADER.size, num_subflows=1)
    refused("num_subflows 1", option.ask(end, request), EINVAL)


def larger_header_accepted(option: Option, end: End) -> None:
    """The larger header of a newer user space is accepted; optlen is set to the bytes filled."""
    size = HEADER.size + 2
    request = HEADER.pack(size_subflow_data=size) + sockopt.unused(2)
    answer = succeeded("a header of %d bytes" % size, option.ask(end, request))
    equal("optlen afterwards", answer.length, HEADER.size, answer.data)
    equal("size_subflow_data", HEADER.view(answer.data).size_subflow_data, size, answer.data)
    equal("bytes beyond optlen", answer.data[HEADER.size :], sockopt.unused(2), answer.data)


def byte_after_odd_header(option: Option, end: End) -> None:
    """After a header of odd size, the element is cut to the remaining room."""
    size = HEADER.size + 1
    request = HEADER.pack(size_subflow_data=size, size_user=1) + bytes(2)
    answer = succeeded("a header of %d bytes and one byte" % size, option.ask(end, request))
    equal("optlen afterwards", answer.length, size + 1, answer.data)
    equal("size_subflow_data", HEADER.view(answer.data).size_subflow_data, size, answer.data)
    equal("the header's odd byte", answer.data[HEADER.size], 0, answer.data)
    first = option.read(end).first.raw[0]
    equal("the first byte of the element", answer.data[size], first, answer.data)


#: Properties of what an ordinary request gets, and of how odd ones are met.
ANSWER_RULES = (
    size_kernel_positive,
    size_user_is_the_smaller,
    one_subflow,
    length_is_header_and_one_element,
)
HEADER_RULES = (
    header_size_zero_refused,
    bare_header_accepted,
    short_lengths_refused,
    nonzero_size_kernel_refused,
    nonzero_num_subflows_refused,
    larger_header_accepted,
    byte_after_odd_header,
)

TCPINFO = Option("tcpinfo", abi.MPTCP_TCPINFO, abi.TCP_INFO_LAYOUT, "do_getsockopt_tcp_info")
SUBFLOW_ADDRS = Option(
    "subflow_addrs",
    abi.MPTCP_SUBFLOW_ADDRS,
    abi.SUBFLOW_ADDRS_LAYOUT,
    "do_getsockopt_subflow_addrs",
)


def _apply(rule: Callable[[Option, End], None], option: Option) -> Callable[[End], None]:
    def of_end(end: End) -> None:
        rule(option, end)

    of_end.__doc__ = rule.__doc__
    return of_end


def _register() -> None:
    for option in (TCPINFO, SUBFLOW_ADDRS):
        for rules, covers in ((ANSWER_RULES, option.covers), (HEADER_RULES, COVERS)):
            for rule in rules:
                add(
                    Check(
                        "%s.%s" % (option.name, rule.__name__),
                        _apply(rule, option),
                        needs=(option.name,),
                        phases=PHASES,
                        sides=SIDES,
                        payloads=(SEGMENT,),
                        covers=covers,
                    )
                )


_register()
