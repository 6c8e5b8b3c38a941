# SPDX-License-Identifier: GPL-2.0-only
"""What every call says in every state of a socket, beside plain TCP.

One socket of each protocol goes through all calls once for each state and family (guest.traces).
The checks then look at one call each: it must say what it says on the TCP socket, or what
:data:`DIFFERENCES` has.
"""

from __future__ import annotations

import _socket

from guest import states
from guest.checks import Failed, errno_name, scenario_check
from guest.lab import MPTCP, TCP, Lab
from guest.option import ENOPROTOOPT, EOPNOTSUPP
from guest.traces import trace_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Mapping, Sequence

SCENARIO = "states"

#: The calls in the order in which they are made, and the check that looks at each.
CALLS: Mapping[str, Sequence[str]] = {
    "poll": ("poll",),
    "identity": ("SO_TYPE", "SO_DOMAIN", "SO_ACCEPTCONN"),
    "error": ("SO_ERROR", "SO_ERROR again"),
    "names": ("getsockname", "getpeername", "the peer's names"),
    "queues": ("SIOCINQ", "SIOCOUTQ", "SIOCOUTQNSD", "an unknown ioctl"),
    "accept": ("accept",),
    "bind": ("bind",),
    "receive": ("recv", "recv of 0 bytes", "poll after recv"),
    "send": ("send", "the peer's recv", "poll after send"),
    "connect": ("connect", "connect again"),
    "listen": ("listen",),
    "shutdown": (
        "shutdown with a wrong how",
        "shutdown(SHUT_WR)",
        "the peer's poll after SHUT_WR",
        "send after SHUT_WR",
        "shutdown(SHUT_RD)",
        "poll after both",
        "recv after both",
        "shutdown(SHUT_RDWR)",
        "SO_ERROR after shutdown",
    ),
    "disconnect": ("connect(AF_UNSPEC)", "poll after that", "getpeername after that"),
    "reconnect": ("second connect", "its names", "its poll", "its data"),
}


#: Where MPTCP may say something else than TCP: the call, the states, what it says, and why.
#: What only some kernels say stands here, too, as long as it is no bug.
DIFFERENCES: Sequence[tuple[str, Sequence[str], str, str]] = (
    (
        "SIOCINQ",
        (
            "fresh",
            "bound",
            "refused",
            "peer-shut",
            "closed-first",
            "closed-last",
            "reset",
            "disconnected",
            "fallback-peer-shut",
            "fallback-closed",
            "fallback-reset",
            "fallback-disconnected",
        ),
        "1",
        "the end of the stream counts as one byte (mptcp_inq_hint)",
    ),
    ("SIOCOUTQ", ("listening", "pending"), "-22", "-EINVAL is returned as the value"),
    ("SIOCOUTQNSD", ("listening", "pending"), "-22", "-EINVAL is returned as the value"),
    ("SIOCOUTQ", ("refused", "shut"), "0", "SYN and FIN are not counted"),
    ("SIOCOUTQ", ("fallback", "fallback-disconnected"), "1", "the SYN is counted until data came"),
    (
        "SIOCOUTQ",
        ("disconnected", "fallback-disconnected"),
        "0",
        "TCP's sequence numbers are stale",
    ),
    ("SIOCOUTQNSD", ("disconnected", "fallback-disconnected"), "0", "the same"),
    (
        "getsockname",
        ("disconnected", "fallback-disconnected"),
        "LOOPBACK with a port",
        "the address stays (mptcp_disconnect)",
    ),
    ("SO_ERROR", ("disconnected", "fallback-disconnected"), "no error", "TCP sets ECONNRESET"),
    ("poll", ("disconnected", "fallback-disconnected"), "POLLOUT POLLHUP", "the same"),
    ("poll after that", tuple(states.STATES), "POLLOUT POLLHUP", "the same"),
    (
        "poll",
        ("refused", "fallback-reset"),
        "POLLOUT POLLERR POLLHUP",
        "sk_shutdown stays clear when the first subflow fails",
    ),
    ("poll after recv", ("refused", "fallback-reset"), "POLLOUT POLLHUP", "the same"),
    ("poll after send", ("refused", "fallback-reset"), "POLLOUT POLLHUP", "the same"),
    ("recv", ("refused", "fallback-reset"), "ENOTCONN", "the same"),
    ("send after SHUT_WR", ("connecting",), "EPIPE", "TCP sets ECONNRESET on closing"),
)
_DIFFERENT: Mapping[tuple[str, str], Sequence[str]] = {
    (call, state): [d[2] for d in DIFFERENCES if d[0] == call and state in d[1]]
    for call, where, _, _ in DIFFERENCES
    for state in where
}

#: MPTCP_INFO, and the number of subflows that the other options say, where there is no fallback.
OWN: Mapping[str, tuple[str, str]] = {
    "fresh": ("flags 0, subflows 0", "0"),
    "bound": ("flags 0, subflows 0", "1"),
    "listening": ("flags 0, subflows 0", "1"),
    "pending": ("flags 0, subflows 0", "1"),
    "connecting": ("flags 0, subflows 1", "1"),
    "refused": ("flags 0, subflows 0", "1"),
    "client": ("flags 2, subflows 1", "1"),
    "server": ("flags 2, subflows 1", "1"),
    "unread": ("flags 2, subflows 1", "1"),
    "shut": ("flags 2, subflows 1", "1"),
    "peer-shut": ("flags 2, subflows 1", "1"),
    "closed-first": ("flags 2, subflows 0", "1"),
    "closed-last": ("flags 2, subflows 0", "1"),
    "reset": ("flags 2, subflows 0", "1"),
    "disconnected": ("flags 0, subflows 0", "1"),
    "reconnected": ("flags 2, subflows 1", "1"),
    "fallback-disconnected": ("flags 0, subflows 0", "1"),
}
FELL_BACK = tuple(state for state in states.STATES if state not in OWN)


def _expect(state: str, call: str, got: str, wanted: str) -> None:
    if got != wanted:
        raise Failed("%s, state %s" % (call, state), wanted, got)


def _like_tcp(name: str, calls: Sequence[str]) -> Callable[[Lab], None]:
    def of_lab(lab: Lab) -> None:
        trace = trace_of(lab.family, lab.phase)
        beside = trace_of(lab.family, lab.phase, TCP)
        for call in calls:
            got, wanted = trace.get(call, "not reached"), beside.get(call, "not reached")
            allowed = _DIFFERENT.get((call, lab.phase), ())
            if got != wanted and got.replace(lab.address, "LOOPBACK") not in allowed:
                _expect(lab.phase, call, got, "as TCP: " + wanted)

    of_lab.__doc__ = "%s says what it says on a TCP socket in the same state." % name
    return of_lab


def _own(call: str, expected: Callable[[Lab], str]) -> Callable[[Lab], None]:
    def of_lab(lab: Lab) -> None:
        got = trace_of(lab.family, lab.phase).get(call, "not reached")
        wanted = expected(lab)
        if not (got.endswith(tuple("0123456789")) and wanted.startswith(got + ",")):
            _expect(lab.phase, call, got, wanted)

    of_lab.__doc__ = "%s is right in every state: refused after a fallback." % call
    return of_lab


def _unless_fallback(said: Callable[[tuple[str, str]], str]) -> Callable[[Lab], str]:
    def expected(lab: Lab) -> str:
        own = OWN.get(lab.phase)
        if own is not None:
            return said(own)
        return errno_name(EOPNOTSUPP if lab.family == _socket.AF_INET else ENOPROTOOPT)

    return expected


def _protocol(lab: Lab) -> str:
    return str(TCP if lab.phase == "fallback-server" else MPTCP)


def _is_mptcp(lab: Lab) -> str:
    return "0" if lab.phase in FELL_BACK else "1"


def _register() -> None:
    phases = tuple(states.STATES)
    for name, calls in CALLS.items():
        scenario_check("state." + name, scenario=SCENARIO, phases=phases)(_like_tcp(name, calls))
    subflows = _unless_fallback(lambda own: own[1])
    own: Sequence[tuple[str, str, Callable[[Lab], str], str]] = (
        ("protocol", "SO_PROTOCOL", _protocol, "mptcp"),
        ("tcp_is_mptcp", "TCP_IS_MPTCP", _is_mptcp, "tcp_is_mptcp"),
        ("mptcp_info", "MPTCP_INFO", _unless_fallback(lambda own: own[0]), "mptcp_info"),
        ("tcpinfo", "MPTCP_TCPINFO", subflows, "tcpinfo"),
        ("subflow_addrs", "MPTCP_SUBFLOW_ADDRS", subflows, "subflow_addrs"),
        ("full_info", "MPTCP_FULL_INFO", subflows, "full_info"),
        (
            "unknown_option",
            "an unknown option",
            _unless_fallback(lambda own: errno_name(EOPNOTSUPP)),
            "mptcp",
        ),
    )
    for name, call, expected, need in own:
        scenario_check("state." + name, scenario=SCENARIO, phases=phases, needs=(need,))(
            _own(call, expected)
        )


_register()


@scenario_check("state.sol_mptcp_is_read_only", scenario=SCENARIO, phases=tuple(states.STATES))
def sol_mptcp_is_read_only(lab: Lab) -> None:
    """Setting an option of SOL_MPTCP fails with ENOPROTOOPT."""
    got = trace_of(lab.family, lab.phase)["setting MPTCP_INFO"]
    _expect(lab.phase, "setting MPTCP_INFO", got, errno_name(ENOPROTOOPT))


@scenario_check(
    "state.reconnected_is_mptcp",
    scenario=SCENARIO,
    phases=tuple(state for state in states.STATES if state != "fallback-server"),
    needs=("mptcp_info",),
)
def reconnected_is_mptcp(lab: Lab) -> None:
    """After connect(AF_UNSPEC) a second connection is MPTCP, and counts from zero."""
    trace = trace_of(lab.family, lab.phase)
    for call, wanted in (
        ("its MPTCP_INFO", "flags 2, 5 sent, 8 received"),
        ("its peer's MPTCP_INFO", "flags 2, 8 sent, 5 received"),
    ):
        got = trace.get(call, "not reached")
        if got != wanted and got != wanted.split(",")[0]:
            _expect(lab.phase, call, got, wanted)
