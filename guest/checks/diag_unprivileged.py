# SPDX-License-Identifier: GPL-2.0-only
"""What sock_diag(7) shows of MPTCP sockets and subflows without CAP_NET_ADMIN."""

from __future__ import annotations

import _socket
import os

from guest import diag, multipath
from guest.checks import equal, scenario_check
from guest.checks.diag_sockets import NEEDS, SCENARIO, SO_MARK, SUBFLOW_NEEDS, shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, TypeVar

    from guest.lab import Lab

    T = TypeVar("T")

NOBODY = 65534


def as_nobody(ask: Callable[[diag.Diag], T]) -> T:
    """What ``ask`` is told without CAP_NET_ADMIN."""
    os.seteuid(NOBODY)
    try:
        other = diag.Diag()
        try:
            return ask(other)
        finally:
            other.close()
    finally:
        os.seteuid(0)


@scenario_check("diag.hidden_without_net_admin", scenario=SCENARIO, needs=SUBFLOW_NEEDS)
def hidden_without_net_admin(lab: Lab) -> None:
    """Without CAP_NET_ADMIN inet_diag hides the mark and the sequence numbers of a subflow."""
    ends = shared(lab)
    found = as_nobody(lambda asking: asking.subflow(ends.client))
    equal("mark", found.mark, None)
    equal("sequence numbers", found.ulp and found.ulp.map_seq, None)


@scenario_check("diag.mptcp_mark_needs_net_admin", scenario=SCENARIO, needs=NEEDS)
def mptcp_mark_needs_net_admin(lab: Lab) -> None:
    """inet_diag shows the mark of an MPTCP socket only with CAP_NET_ADMIN: by token, in dumps."""
    client = lab.pair().client
    client.setsockopt(_socket.SOL_SOCKET, SO_MARK, 17)
    token, port = multipath.info(client).mptcpi_token, client.getsockname()[1]
    for what, ask in (
        ("by token", lambda asking: asking.mptcp(token).mark),
        ("in a dump", lambda asking: [one.mark for one in asking.mptcp_sockets(sport=port)]),
    ):
        shown, hidden = ([17], [None]) if what == "in a dump" else (17, None)
        equal("mark " + what, ask(multipath.bench(lab).diag), shown)
        equal("mark %s for nobody" % what, as_nobody(ask), hidden)


@scenario_check("diag.shown_without_net_admin", scenario=SCENARIO, needs=SUBFLOW_NEEDS)
def shown_without_net_admin(lab: Lab) -> None:
    """Without CAP_NET_ADMIN inet_diag still shows token, ids and flags of a subflow."""
    ends = shared(lab)
    found = as_nobody(lambda asking: asking.subflow(ends.client))
    equal("token", found.ulp and found.ulp.token_loc, ends.token)
    equal("ids", found.ulp and (found.ulp.id_loc, found.ulp.id_rem), (0, 0))
