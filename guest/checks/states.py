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
    from typing import Callable, Iterable, Mapping, Sequence

    Look = Callable[[Lab, str], None]
    Expected = Callable[[Lab, str], str]

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
    "receive": ("recv", "recv of 0 bytes", "splice", "poll after recv"),
    "send": ("send", "the peer's recv", "poll after send"),
    "receive_error": (
        "recv first",
        "recv second",
        "SO_ERROR after recv",
        "poll after the error",
        "send after recv",
    ),
    "send_error": ("send first", "send second", "recv after send", "SO_ERROR after send"),
    "splice_error": ("splice first", "SO_ERROR after splice"),
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
    "reconnect": ("second connect", "its names", "its poll", "its data", "its poll afterwards"),
}


LISTENING = ("listening", "listening-unbound", "pending")

#: Differences from TCP that are allowed: the call, the states, the result on MPTCP, and the reason.
#: Results of only some kernels are listed too, unless they are bugs.
DIFFERENCES: Sequence[tuple[str, Sequence[str], str, str]] = (
    (
        "SIOCINQ",
        (
            "fresh",
            "bound",
            "refused",
            "unreachable",
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
    ("SIOCOUTQ", LISTENING, "-22", "-EINVAL is returned as the value"),
    ("SIOCOUTQNSD", LISTENING, "-22", "-EINVAL is returned as the value"),
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
    (
        "bind",
        ("closed-first", "closed-last", "reset"),
        "EINVAL",
        "up to 6.3 the first subflow keeps its port",
    ),
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
    ("splice", ("refused", "fallback-reset"), "ENOTCONN", "the same"),
    ("recv second", ("refused", "fallback-reset"), "ENOTCONN", "the same"),
    ("recv after send", ("refused", "fallback-reset"), "ENOTCONN", "the same"),
    ("poll after the error", ("refused", "fallback-reset"), "POLLOUT POLLHUP", "the same"),
    ("recv first", ("disconnected",), "ENOTCONN", "TCP sets ECONNRESET"),
    ("splice first", ("disconnected",), "ENOTCONN", "TCP sets ECONNRESET"),
    ("send first", ("disconnected",), "EPIPE", "TCP sets ECONNRESET"),
    ("send after SHUT_WR", ("connecting",), "EPIPE", "TCP sets ECONNRESET on closing"),
)
_DIFFERENT: Mapping[tuple[str, str], Sequence[str]] = {
    (call, state): [d[2] for d in DIFFERENCES if d[0] == call and state in d[1]]
    for call, where, _, _ in DIFFERENCES
    for state in where
}

#: MPTCP_INFO, and the number of subflows in the other options, in states without a fallback.
OWN: Mapping[str, tuple[str, str]] = {
    "fresh": ("flags 0, subflows 0", "0"),
    "bound": ("flags 0, subflows 0", "1"),
    "listening": ("flags 0, subflows 0", "1"),
    "listening-unbound": ("flags 0, subflows 0", "1"),
    "pending": ("flags 0, subflows 0", "1"),
    "unreachable": ("flags 0, subflows 0", "1"),
    "connecting": ("flags 0, subflows 1", "1"),
    "refused": ("flags 0, subflows 0", "1"),
    "client": ("flags 2, subflows 1", "1"),
    "server": ("flags 2, subflows 1", "1"),
    "unread": ("flags 2, subflows 1", "1"),
    "shut": ("flags 2, subflows 1", "1"),
    "peer-shut": ("flags 2, subflows 1", "1"),
    # The subflow is closed at once, or (6.12.43) some time after the connection.
    "closed-first": ("flags 2", "1"),
    "closed-last": ("flags 2", "1"),
    "reset": ("flags 2", "1"),
    "disconnected": ("flags 0, subflows 0", "1"),
    "reconnected": ("flags 2, subflows 1", "1"),
    "fallback-disconnected": ("flags 0, subflows 0", "1"),
}
EARLY = ("MPTCP_TCPINFO", "MPTCP_SUBFLOW_ADDRS", "MPTCP_FULL_INFO")
FELL_BACK = tuple(state for state in states.STATES if state not in OWN)


def _expect(state: str, call: str, got: str, wanted: str) -> None:
    if got != wanted:
        raise Failed("%s, state %s" % (call, state), wanted, got)


def _in_all(look: Look, where: Iterable[str] = states.STATES) -> Callable[[Lab], None]:
    """One failure for all states that fail: that of the first, and the names of the others."""

    def of_lab(lab: Lab) -> None:
        failures: list[tuple[str, Failed]] = []
        for state in where:
            try:
                look(lab, state)
            except Failed as failed:
                failures.append((state, failed))
        if failures:
            first = failures[0][1]
            others = ", ".join(state for state, _ in failures[1:])
            what = first.what + ("; also " + others if others else "")
            raise Failed(what, first.expected, first.got)

    of_lab.__doc__ = look.__doc__
    return of_lab


def _like_tcp(name: str, calls: Sequence[str]) -> Look:
    def look(lab: Lab, state: str) -> None:
        trace = trace_of(lab.family, state)
        beside = trace_of(lab.family, state, TCP)
        for call in calls:
            got, wanted = trace.get(call, "not reached"), beside.get(call, "not reached")
            allowed = _DIFFERENT.get((call, state), ())
            if got != wanted and got.replace(lab.address, "LOOPBACK") not in allowed:
                _expect(state, call, got, "as TCP: " + wanted)

    look.__doc__ = "In every state the results of %s are those of a TCP socket." % SUBJECTS[name]
    return look


def _own(call: str, expected: Expected, summary: str) -> Look:
    def look(lab: Lab, state: str) -> None:
        got = trace_of(lab.family, state).get(call, "not reached")
        wanted = expected(lab, state)
        if state == "fresh" and call in EARLY and got == "1":
            return  # up to 6.3 a socket has its first subflow from the start
        if wanted.startswith("flags") and got.startswith("flags"):
            # An older kernel does not count subflows, and at times the number does not matter.
            got = got if "," in wanted else got.split(",")[0]
            wanted = wanted if "," in got else wanted.split(",")[0]
        if got != wanted:
            _expect(state, call, got, wanted)

    look.__doc__ = summary
    return look


def _unless_fallback(said: Callable[[tuple[str, str]], str]) -> Expected:
    def expected(lab: Lab, state: str) -> str:
        own = OWN.get(state)
        if own is not None:
            return said(own)
        return errno_name(EOPNOTSUPP if lab.family == _socket.AF_INET else ENOPROTOOPT)

    return expected


#: The subject of each check's summary.
SUBJECTS: Mapping[str, str] = {
    "poll": "poll(2)",
    "identity": "SO_TYPE, SO_DOMAIN and SO_ACCEPTCONN",
    "error": "SO_ERROR",
    "names": "getsockname(2) and getpeername(2)",
    "queues": "SIOCINQ, SIOCOUTQ and SIOCOUTQNSD",
    "accept": "accept(2)",
    "bind": "bind(2)",
    "receive": "recv(2) and splice(2)",
    "send": "send(2)",
    "receive_error": "recv(2), and of calls after it,",
    "send_error": "send(2), and of calls after it,",
    "splice_error": "splice(2), and of SO_ERROR after it,",
    "connect": "connect(2)",
    "listen": "listen(2)",
    "shutdown": "shutdown(2), and of calls after it,",
    "disconnect": "connect(AF_UNSPEC), and of calls after it,",
    "reconnect": "a second connect(2), and of calls after it,",
}
RIGHT_COUNT = "In every state %s has the right number of subflows; after a fallback it is refused."


def _protocol(lab: Lab, state: str) -> str:
    return str(TCP if state == "fallback-server" else MPTCP)


def _is_mptcp(lab: Lab, state: str) -> str:
    return "0" if state in FELL_BACK else "1"


def _read_only(lab: Lab, state: str) -> str:
    return errno_name(ENOPROTOOPT)


def _reconnected(lab: Lab, state: str) -> None:
    """After connect(AF_UNSPEC) a second connection is MPTCP, and counts from zero."""
    trace = trace_of(lab.family, state)
    for call, wanted in (
        ("its MPTCP_INFO", "flags 2, 5 sent, 8 received"),
        ("its peer's MPTCP_INFO", "flags 2, 8 sent, 5 received"),
    ):
        got = trace.get(call, "not reached")
        if got != wanted.split(",")[0]:  # of an older kernel, which does not count
            _expect(state, call, got, wanted)


def _register() -> None:
    def add(name: str, need: str, function: Callable[[Lab], None]) -> None:
        needs = (need,) if need else ()
        scenario_check("state." + name, scenario=SCENARIO, needs=needs)(function)

    for name, calls in CALLS.items():
        add(name, "", _in_all(_like_tcp(name, calls)))
    subflows = _unless_fallback(lambda own: own[1])
    unknown = _unless_fallback(lambda own: errno_name(EOPNOTSUPP))
    info = _unless_fallback(lambda own: own[0])
    for name, call, expected, need, summary in (
        ("protocol", "SO_PROTOCOL", _protocol, "",
         "SO_PROTOCOL is IPPROTO_MPTCP in every state, IPPROTO_TCP if accept(2) fell back."),
        ("tcp_is_mptcp", "TCP_IS_MPTCP", _is_mptcp, "tcp_is_mptcp",
         "TCP_IS_MPTCP is 1 in every state, and 0 after a fallback."),
        ("mptcp_info", "MPTCP_INFO", info, "mptcp_info",
         "In every state MPTCP_INFO has the right flags; after a fallback it is refused."),
        ("tcpinfo", "MPTCP_TCPINFO", subflows, "tcpinfo",
         RIGHT_COUNT % "MPTCP_TCPINFO"),
        ("subflow_addrs", "MPTCP_SUBFLOW_ADDRS", subflows, "subflow_addrs",
         RIGHT_COUNT % "MPTCP_SUBFLOW_ADDRS"),
        ("full_info", "MPTCP_FULL_INFO", subflows, "full_info",
         RIGHT_COUNT % "MPTCP_FULL_INFO"),
        ("unknown_option", "an unknown option", unknown, "",
         "In every state reading an unknown option fails, after a fallback as on TCP."),
        ("unknown_level", "an unknown level", unknown, "",
         "In every state reading at an unknown level fails, after a fallback as on TCP."),
        ("sets_at_no_unknown_level", "setting at an unknown level", _read_only, "",
         "In every state setting an option at an unknown level fails with ENOPROTOOPT."),
        ("sol_mptcp_is_read_only", "setting MPTCP_INFO", _read_only, "",
         "In every state setting MPTCP_INFO fails with ENOPROTOOPT."),
    ):  # fmt: skip
        add(name, need, _in_all(_own(call, expected, summary)))
    mptcp = [state for state in states.STATES if state != "fallback-server"]
    add("reconnected_is_mptcp", "mptcp_info", _in_all(_reconnected, mptcp))


_register()
