# SPDX-License-Identifier: GPL-2.0-only
"""mptcpi_last_data_sent, _last_data_recv and _last_ack_recv: milliseconds since each last was."""

from __future__ import annotations

import time

from guest import multipath
from guest.checks import equal, require, scenario_check
from guest.flow import arrive, exchange
from guest.lab import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest import abi
    from guest.lab import Lab

SCENARIO, NEEDS = "waits", ("last_data",)
PAUSE_S = 0.08
#: What lies between two events at least: the pause, less two jiffies of the longest there are.
BETWEEN_MS = 60


def _later(info: abi.View, later: str, earlier: str) -> None:
    """Fail unless ``later`` was at least the pause after ``earlier``."""
    after = getattr(info, "mptcpi_last_" + later)
    before = getattr(info, "mptcpi_last_" + earlier)
    what = "last_%s less last_%s" % (earlier, later)
    require(what, before - after >= BETWEEN_MS, "%d ms or more" % BETWEEN_MS, before - after)


@scenario_check("mptcp_info.last_times_follow_data", scenario=SCENARIO, needs=NEEDS)
def follow_data(lab: Lab) -> None:
    """Received data update last_data_recv only, sent data last_data_sent, in milliseconds."""
    pair = lab.pair()
    exchange(pair.client, pair.server, b"forth", b"back")
    time.sleep(PAUSE_S)
    arrive(pair.server, pair.client, b"x")
    _later(multipath.info(pair.client), "data_recv", "data_sent")
    _later(multipath.info(pair.server), "data_sent", "data_recv")
    time.sleep(PAUSE_S)
    arrive(pair.client, pair.server, b"y")
    _later(multipath.info(pair.client), "data_sent", "data_recv")
    _later(multipath.info(pair.server), "data_recv", "data_sent")


@scenario_check("mptcp_info.last_ack_recv_follows_acks", scenario=SCENARIO, needs=NEEDS)
def follows_acks(lab: Lab) -> None:
    """An acknowledgement without data updates last_ack_recv, not last_data_recv."""
    pair = lab.pair()
    exchange(pair.client, pair.server, b"forth", b"back")
    time.sleep(PAUSE_S)

    def apart() -> bool:
        info = multipath.info(pair.client)
        times = info.mptcpi_last_data_recv, info.mptcpi_last_ack_recv
        return bool(times[0] - times[1] >= BETWEEN_MS)

    equal("last_ack_recv is later than last_data_recv", apart(), False)
    arrive(pair.client, pair.server, b"y")
    equal("it is once data was acknowledged", wait_until(apart), True)
