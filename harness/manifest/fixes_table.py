# SPDX-License-Identifier: GPL-2.0-only
"""The repairs that checks can show: commit, versions and checks of each.

Mainline versions and first bad versions are from the kernel's history (the commit's Fixes: tag and
the first tag that contains it), stable releases from the ChangeLog-X.Y.Z files of kernel.org. A
kernel of a series without a line here lacks the repair until the mainline version.
"""

from __future__ import annotations

from harness.manifest.fixes import Fix

FIXES: tuple[Fix, ...] = (
    Fix(
        "8c3963375988",
        "mptcp: sockopt: fix getting IPV6_V6ONLY",
        fixed="6.15",
        backports=("6.12.24", "6.1.135"),
        since="5.9",
        checks=("capability.transparent_get",),
    ),
    Fix(
        "e2f4ac7bab22",
        "mptcp: sockopt: fix getting freebind & transparent",
        fixed="6.15",
        backports=("6.12.24", "6.1.135"),
        since="5.17",
        checks=("capability.transparent_get",),
    ),
    Fix(
        "bd11dc4fb969",
        "mptcp: fix full TCP keep-alive support",
        fixed="6.10",
        backports=("6.8.12", "6.1.94"),
        since="5.13",
        checks=("capability.tcp_keepalive",),
    ),
    Fix(
        "29b5e5ef8739",
        "mptcp: implement TCP_NOTSENT_LOWAT support",
        fixed="6.9",
        backports=("6.8.12",),
        since="5.13",
        checks=("capability.tcp_notsent_lowat",),
    ),
    Fix(
        "3b1e21eb60e8",
        "mptcp: getsockopt: add support for IP_TOS",
        fixed="5.17",
        checks=("capability.ip_tos",),
    ),
)
