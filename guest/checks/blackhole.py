# SPDX-License-Identifier: GPL-2.0-only
"""SYNs with MP_CAPABLE that are dropped where those without pass: the fallback, and what follows.

A listener drops the first SYN, because its backlog is full. With
net.mptcp.syn_retrans_before_tcp_fallback=0 the second one, a second later, is one of plain TCP.
"""

from __future__ import annotations

import _socket

from guest import mib
from guest.calls import POLLOUT, poll
from guest.checks import equal, require, scenario_check
from guest.connection import IO_DEADLINE
from guest.flow import exchange
from guest.lab import Pair, wait_until, write_sysctl
from guest.scenarios import Scenario, declare
from guest.setting import get_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.lab import Lab

SCENARIO = declare(Scenario("blackhole", waits=True)).name
NEEDS = ("syn_retrans", "tcp_is_mptcp")
#: A SYN is sent again after a second, and the host may be busy.
PATIENCE_S = 20.0
TRIES = 5


def is_mptcp(sock: _socket.socket) -> bool:
    return get_int(sock, "TCP_IS_MPTCP") != 0


def _after_a_dropped_syn(lab: Lab) -> tuple[Pair, mib.Since]:
    """A connection whose first SYN was dropped, and the counters from before.

    Where the host was too busy for a second, the next SYN was dropped as well. Then the kernel
    does not take it for a blackhole: another connection is made.
    """
    for _ in range(TRIES):
        before, since = mib.dropped_syns(), mib.Since()
        pair = _connect(lab)
        if mib.dropped_syns() == before + 1:
            break
    return pair, since


def _connect(lab: Lab) -> Pair:
    listener = lab.full_listener()
    client = lab.socket()
    client.settimeout(0)
    dropped = mib.dropped_syns()
    client.connect_ex(listener.getsockname())
    require(
        "the first SYN is dropped", wait_until(lambda: mib.dropped_syns() > dropped), "yes", "no"
    )
    lab.accept(listener)  # there is room for the next SYN
    require("a second SYN is answered", bool(poll(client, PATIENCE_S, POLLOUT)), "POLLOUT", "none")
    client.settimeout(IO_DEADLINE)
    return Pair(client, lab.accept(listener), listener)


def _writing(name: str, value: str) -> Callable[[], object]:
    return lambda: write_sysctl(name, value)


def _prepare(lab: Lab, timeout: int) -> None:
    """``timeout`` is for net.mptcp.blackhole_timeout; writing it forgets what was learned."""
    for name, value, old in (
        ("syn_retrans_before_tcp_fallback", "0", "2"),
        ("blackhole_timeout", str(timeout), "3600"),
    ):
        write_sysctl("net.mptcp." + name, value)
        lab.afterwards(_writing("net.mptcp." + name, old))


@scenario_check("blackhole.is_left_by_plain_tcp", scenario=SCENARIO, needs=NEEDS)
def left_by_plain_tcp(lab: Lab) -> None:
    """A retransmitted SYN has no MP_CAPABLE, nor do later SYNs until the timeout is over."""
    _prepare(lab, 3600)
    pair, since = _after_a_dropped_syn(lab)
    equal("the client is MPTCP", is_mptcp(pair.client), False)
    exchange(pair.client, pair.server, b"forth", b"back")
    equal("MPCapableSYNTXDrop", since.of("MPCapableSYNTXDrop"), 1)
    equal("Blackhole", since.of("Blackhole"), 1)
    later = lab.pair()
    equal("a later client is MPTCP", is_mptcp(later.client), False)
    exchange(later.client, later.server, b"forth", b"back")
    equal("MPCapableSYNTXDisabled", since.of("MPCapableSYNTXDisabled"), 1)
    write_sysctl("net.mptcp.blackhole_timeout", "3600")
    equal("a client after net.mptcp.blackhole_timeout was written is MPTCP",
          is_mptcp(lab.pair().client), True)  # fmt: skip


@scenario_check("blackhole.timeout_of_0_disables_nothing", scenario=SCENARIO, needs=NEEDS)
def timeout_of_0(lab: Lab) -> None:
    """With net.mptcp.blackhole_timeout=0 dropped SYNs do not disable MPTCP for later clients."""
    _prepare(lab, 0)
    pair, since = _after_a_dropped_syn(lab)
    equal("the client is MPTCP", is_mptcp(pair.client), False)
    equal("Blackhole", since.of("Blackhole"), 0)
    equal("a later client is MPTCP", is_mptcp(lab.pair().client), True)
    write_sysctl("net.mptcp.blackhole_timeout", "1")
    equal("a client once it is on is MPTCP", is_mptcp(lab.pair().client), True)
