# SPDX-License-Identifier: GPL-2.0-only
"""Socket options of an MPTCP socket on its subflows: those that exist, and those that join later.

Three phases. ``set_before``: the option was set before connect() and on the listener, then a
subflow joined. ``set_after``: it was set again on the connection. ``joined_after``: one more
subflow joined after that. Each is looked at through inet_diag, at both ends, on every subflow.
"""

from __future__ import annotations

import _socket
import struct

from guest import diag, multipath, pm
from guest.checks import Failed, equal, require, scenario_check
from guest.lab import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Sequence

    from guest.lab import Lab

    Observe = Callable[[diag.Record], object]

SET_BEFORE, SET_AFTER, JOINED_AFTER = "set_before", "set_after", "joined_after"
PHASES = (SET_BEFORE, SET_AFTER, JOINED_AFTER)
SIDES = ("client", "server")
INT = struct.Struct("=i")
SOCKET, TCP, IP, IPV6 = 1, 6, 0, 41
FREEBIND_BIT, TRANSPARENT_BIT = 1 << 2, 1 << 5
#: Keepalive timers run for so long that none goes off; more than this much later is another.
SLACK_MS = 200_000


class Option:
    """One option: what is set before and after, and how a subflow shows it."""

    def __init__(
        self,
        name: str,
        level: int,
        number: int,
        before: bytes,
        after: Optional[bytes],
        observe: Observe,
        expected: tuple[object, object],
        needs: Sequence[str] = (),
        families: Sequence[str] = ("ipv4", "ipv6"),
    ) -> None:
        self.name = name
        self.level = level
        self.number = number
        self.values = (before, after)
        self.observe = observe
        self.expected = expected
        self.needs = needs
        self.families = families

    def set(self, sock: _socket.socket, value: bytes) -> Optional[str]:
        """What the kernel said if it refused, else None."""
        try:
            sock.setsockopt(self.level, self.number, value)
        except OSError as error:
            return str(error)
        return None


def _integer(
    name: str, level: int, number: int, before: int, after: int, observe: Observe, **more: Any
) -> Option:
    expected = more.pop("expected", (before, after))
    return Option(
        name,
        level,
        number,
        INT.pack(before),
        INT.pack(after),
        observe,
        expected,
        **more,
    )


def _keepalive_seconds(record: diag.Record) -> object:
    """The idle time that the running keepalive timer was started with, roughly."""
    if record.timer != diag.TIMER_KEEPALIVE:
        return "timer %d" % record.timer
    for seconds in (1000, 2000):
        if 1000 * seconds - SLACK_MS < record.expires <= 1000 * seconds:
            return seconds
    return "%d ms" % record.expires


def _bit(mask: int) -> Observe:
    return lambda record: bool(record.sockopt and record.sockopt[0] & mask)


#: What must be on first for another option to show: not a check of its own.
OPTIONS = (
    _integer("so_mark", SOCKET, 36, 7, 9, lambda one: one.mark),
    # On IPv4, IP_TOS sets the priority as well.
    _integer("so_priority", SOCKET, 12, 3, 5, lambda one: one.priority, families=("ipv6",)),
    _integer(
        "so_sndbuf", SOCKET, 7, 60_000, 80_000, lambda one: one.skmem.sndbuf,
        expected=(120_000, 160_000),
    ),
    _integer(
        "so_rcvbuf", SOCKET, 8, 60_000, 80_000, lambda one: one.skmem.rcvbuf,
        expected=(120_000, 160_000),
    ),
    Option(
        "tcp_congestion", TCP, 13, b"reno", b"cubic", lambda one: one.congestion,
        ("reno", "cubic"),
    ),
    _integer(
        "so_keepalive", SOCKET, 9, 1, 1, lambda one: one.timer,
        expected=(diag.TIMER_KEEPALIVE, diag.TIMER_KEEPALIVE),
    ),
    _integer("tcp_keepidle", TCP, 4, 1000, 2000, _keepalive_seconds, needs=("tcp_keepalive",)),
    _integer("ip_tos", IP, 1, 0x10, 0x08, lambda one: one.tos, needs=("ip_tos",),
             families=("ipv4",)),
    Option(
        "so_bindtodevice", SOCKET, 25, b"lo\0", None, lambda one: one.interface, (1, 1)
    ),
    Option(
        "ip_freebind", IP, 15, INT.pack(1), None, _bit(FREEBIND_BIT), (True, True),
        needs=("transparent_get",), families=("ipv4",),
    ),
    Option(
        "ipv6_freebind", IPV6, 78, INT.pack(1), None, _bit(FREEBIND_BIT), (True, True),
        needs=("transparent_get",), families=("ipv6",),
    ),
    Option(
        "ip_transparent", IP, 19, INT.pack(1), None, _bit(TRANSPARENT_BIT), (True, True),
        needs=("transparent_get",), families=("ipv4",),
    ),
    Option(
        "ipv6_transparent", IPV6, 75, INT.pack(1), None, _bit(TRANSPARENT_BIT), (True, True),
        needs=("transparent_get",), families=("ipv6",),
    ),
    _integer(
        "tcp_maxseg", TCP, 2, 1000, 900, lambda one: one.info.tcpi_advmss <= 1000,
        expected=(True, True), needs=("tcp_maxseg",),
    ),
)  # fmt: skip


class Told:
    """The connection whose options are set, and each phase's subflows in diag."""

    def __init__(self, lab: Lab) -> None:
        self.bench = multipath.bench(lab)
        self.refused: dict[tuple[str, str], str] = {}
        self.family = "ipv6" if lab.family == _socket.AF_INET6 else "ipv4"
        self.bench.clean()
        self.bench.pm.add(self.bench.client_address(2), pm.SUBFLOW)
        self.ends = self.bench.connect(
            before_connect=lambda sock: self.set_all(sock, SET_BEFORE, "client"),
            before_bind=lambda sock: self.set_all(sock, SET_BEFORE, "server"),
        )
        multipath.both_have(self.ends, 1)
        self.records = {SET_BEFORE: self.look()}
        self.set_all(self.ends.client, SET_AFTER, "client")
        self.set_all(self.ends.server, SET_AFTER, "server")
        self.records[SET_AFTER] = self.look()
        self.bench.pm.add(self.bench.client_address(3), pm.SUBFLOW)
        multipath.both_have(self.ends, 2)
        self.records[JOINED_AFTER] = self.look()

    def set_all(self, sock: _socket.socket, phase: str, side: str) -> None:
        for option in OPTIONS:
            value = option.values[phase != SET_BEFORE]
            if value is not None and self.family in option.families:
                said = option.set(sock, value)
                if said:
                    self.refused[option.name, side] = said

    def look(self) -> dict[str, Sequence[diag.Record]]:
        # A retransmission timer that still runs hides the keepalive timer.
        wait_until(lambda: all(one.timer in (0, 2) for one in self._records("client")))
        wait_until(lambda: all(one.timer in (0, 2) for one in self._records("server")))
        return {side: self._records(side) for side in SIDES}

    def _records(self, side: str) -> Sequence[diag.Record]:
        pairs = multipath.addresses(getattr(self.ends, side))
        return [self.bench.diag.tcp(*pair, interface=1) for pair in pairs]


def on_subflows(lab: Lab, option: Option, side: str) -> None:
    told = multipath.bench(lab).story("options", lambda: Told(lab))
    said = told.refused.get((option.name, side))
    if said:
        raise Failed("setsockopt(%s) at the %s" % (option.name.upper(), side), "success", said)
    found = told.records[lab.phase][side]
    require("subflows", len(found) >= 2, "two or more", len(found))
    expected = option.expected[lab.phase != SET_BEFORE and option.values[1] is not None]
    if option.name == "so_priority" and (side, lab.phase) == ("server", SET_BEFORE):
        expected = 0  # accepted sockets do not inherit it: sk_clone()
    if option.name == "so_bindtodevice" and side == "client":
        # The path manager binds the subflows it makes to its endpoint's device instead.
        found = found[:1]
    values = [option.observe(one) for one in found]
    what = "%s of each of the %s's subflows" % (option.name.upper(), side)
    equal(what, values, [expected] * len(found))


def _register() -> None:
    for option in OPTIONS:

        def function(lab: Lab, option: Option = option) -> None:
            for side in SIDES:
                on_subflows(lab, option, side)

        function.__doc__ = "%s holds on every subflow, whether it joins before or after." % (
            option.name.upper()
        )
        scenario_check(
            "subflows." + option.name,
            scenario="subflow_options",
            needs=("userspace_pm", "inet_diag", *option.needs),
            families=option.families,
            phases=PHASES,
        )(function)


_register()
