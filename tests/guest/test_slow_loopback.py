# SPDX-License-Identifier: GPL-2.0-only
"""Checks on a loopback interface on which packets take some time, as they do on a busy machine.

There ksoftirqd handles them, and what a check looks at may not have happened yet.
"""

from __future__ import annotations

import shutil
import subprocess

import pytest

from guest import checks
from tests.guest import namespaces

TC = shutil.which("tc", path="/usr/sbin:/sbin:/usr/bin:/bin")
#: 2 ms for a small packet and 25 ms for a large one, once the first few have gone.
SLOW = "ip link set lo mtu 1280; tc qdisc add dev lo root tbf rate 400kbit burst 1300 limit 1mb"


def _shaped() -> bool:
    run = ["unshare", "--net", "sh", "-c", SLOW]
    return TC is not None and subprocess.run(run, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.skipif(not namespaces.available(), reason="needs root for a network namespace"),
    pytest.mark.skipif(not _shaped(), reason="needs tc(8) and CONFIG_NET_SCH_TBF"),
]


@pytest.mark.parametrize("family", namespaces.FAMILIES)
@pytest.mark.parametrize(
    "pattern",
    [
        "drops.",
        "endpoint.flush_of_many",
        "fallback.siocoutq_after_connect",
        "join.before_accept",
        "mp_fastclose.",
        "pm_changes.",
        "rm_addr.leaves_on_another_subflow",
        "send.dontwait_returns_eagain_when_full",
        "sendfile.",
        "splice.from_a_pipe",
        "state.",
        "tcp_fastopen.",
        "userspace_pm.",
    ],
)
def test_nothing_is_looked_at_too_early(family: str, pattern: str) -> None:
    items = [item for item in checks.all_checks() if item.scenario and item.id.startswith(pattern)]
    items = [item for item in items if not item.bug]

    def slow_down() -> None:
        subprocess.run(["sh", "-c", SLOW], check=True)

    assert namespaces.failures(family, items, slow_down) == []
