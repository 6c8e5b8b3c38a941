# SPDX-License-Identifier: GPL-2.0-only
"""Options of TCP and IP that MPTCP keeps for all subflows: set, and read back as they were set."""

from __future__ import annotations

from guest import options
from guest.checks import (
    ESTABLISHED,
    SEGMENT,
    SIDES,
    TRANSFERRED,
    Check,
    add,
    check,
    equal,
    require,
    succeeded,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.connection import End
    from guest.option import Option, Value

#: The kernel's selftests for these are not mptcp_sockopt, or there are none.
COVERS = "none"
SIZE = 4
#: A window's largest segment, without options: TCP_MAXSEG can say no more.
MAX_SEGMENT = 65535


def read(end: End, option: Option) -> int:
    """The option's value; fails the running check when the kernel refuses, or says more or less."""
    answer = succeeded("getting %s" % option.name, option.get(end.fd))
    equal("optlen of %s afterwards" % option.name, answer.length, SIZE, answer.data)
    return options.number_in(answer)


def write(end: End, option: Option, value: Value) -> None:
    assert isinstance(value, int)
    equal("errno of setting %s to %d" % (option.name, value), option.set(end.fd, value), 0)


def set_is_read_back(name: str, end: End) -> None:
    """Every value that was set is read back."""
    for option in options.of_family(name, end.family):
        before = read(end, option)
        for value in (*option.values, before):  # nothing that comes later is to find it changed
            write(end, option, value)
            equal(option.name, read(end, option), option.reads.get(value, value))


def readable(name: str, end: End) -> None:
    """Each option is readable as an int, and is 0 by default."""
    for option in options.of_family(name, end.family):
        value = read(end, option)
        if option.unset is not None:
            equal(option.name, value, option.unset)


def _apply(rule: Callable[[str, End], None], name: str) -> Callable[[End], None]:
    def of_end(end: End) -> None:
        rule(name, end)

    of_end.__doc__ = rule.__doc__
    return of_end


def _register() -> None:
    for name, rule in (
        ("tcp_cork_nodelay", set_is_read_back),
        ("tcp_inq", set_is_read_back),
        ("tcp_fastopen_connect", readable),
        ("tcp_fastopen", readable),
        ("local_port_range", readable),
        ("tcp_notsent_lowat", set_is_read_back),
        ("tcp_keepalive", set_is_read_back),
        ("transparent_get", readable),
    ):
        add(
            Check(
                "%s.%s" % (name, rule.__name__),
                _apply(rule, name),
                needs=(name,),
                phases=(ESTABLISHED,),
                sides=SIDES,
                payloads=(SEGMENT,),
                covers=COVERS,
            )
        )


_register()


@check(
    "tcp_is_mptcp.true_of_a_connection",
    needs=("tcp_is_mptcp",),
    phases=(ESTABLISHED, TRANSFERRED),
    covers=COVERS,
)
def true_of_a_connection(end: End) -> None:
    """TCP_IS_MPTCP is 1 on a connection that did not fall back to TCP."""
    equal("TCP_IS_MPTCP", read(end, options.BY_NAME["TCP_IS_MPTCP"]), 1)


@check("tcp_maxseg.can_be_set", needs=("tcp_maxseg",), phases=(ESTABLISHED,), covers=COVERS)
def can_be_set(end: End) -> None:
    """TCP_MAXSEG can be set; on a connection it reads as the segment size in use (tcp(7))."""
    maxseg = options.BY_NAME["TCP_MAXSEG"]
    for value in (1000, 0):  # 0 takes the limit away again
        write(end, maxseg, value)
        size = read(end, maxseg)
        require("TCP_MAXSEG", 0 < size <= MAX_SEGMENT, "from 1 to %d" % MAX_SEGMENT, size)
