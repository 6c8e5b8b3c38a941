# SPDX-License-Identifier: GPL-2.0-only
"""Fixed bugs of MPTCP: the commit, and the kernels that have it.

A check that fails on a kernel older than the fix is a known bug of that kernel: it is shown with
the commit and does not count. The same failure on a kernel that should have the fix counts. The
manifest takes precedence: ``expect: {COMMIT: true}`` says that a kernel has a fix, ``false`` that
it lacks it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from harness.verdict import judge
from harness.verdict.results import KNOWN_BUG, CheckResult, FamilyResult, MissingFix
from harness.verdict.verdicts import CheckVerdict, Family

#: major, minor, stable release. A mainline version has 0.
Version = tuple[int, int, int]


@dataclass(frozen=True)
class Fix:
    """One fix. ``since`` is the mainline version that introduced the bug, "" if all versions had
    it.

    ``fixed`` is the mainline version with the fix, ``backports`` are the stable releases with it.
    ``checks`` are patterns of :mod:`fnmatch` for the checks that fail without it.
    """

    commit: str  # 12 digits, in mainline
    title: str
    fixed: str
    checks: tuple[str, ...]
    backports: tuple[str, ...] = ()
    since: str = ""

    def is_about(self, check: str) -> bool:
        return any(fnmatchcase(check, pattern) for pattern in self.checks)

    def __str__(self) -> str:
        return f"{KNOWN_BUG}, fixed in {self.fixed} by {self.commit} ({self.title})"


def lacking(
    fixes: Iterable[Fix], release: str, version: str, declared: Mapping[str, bool]
) -> tuple[Fix, ...]:
    """The ``fixes`` that the kernel lacks, by its ``uname -r``, its ``uname -v`` and the manifest.

    If the stable release is unknown, the kernel counts as having a fix that its series has, so that
    a failure counts.
    """
    this = kernel_version(release, version)
    found = []
    for fix in fixes:
        if fix.commit in declared:
            if not declared[fix.commit]:
                found.append(fix)
        elif this is not None and _lacks(fix, this):
            found.append(fix)
    return tuple(found)


def kernel_version(release: str, version: str) -> tuple[int, int, int | None] | None:
    """``(6, 1, 176)`` for Debian's ``6.1.0-50-amd64``, whose ``uname -v`` names 6.1.176.

    The stable release is None if a distribution's name hides it. Returns None if the release
    contains no version.
    """
    built = re.search(r"\bDebian ([0-9]{1,3})\.([0-9]{1,3})(?:\.([0-9]{1,3}))?[-~+]", version)
    if built:
        return int(built[1]), int(built[2]), int(built[3] or 0)
    named = re.match(r"([0-9]{1,3})\.([0-9]{1,3})(?:\.([0-9]{1,3}))?(?![0-9])(-[0-9])?", release)
    if named is None:
        return None
    major, minor, patch = int(named[1]), int(named[2]), int(named[3] or 0)
    # 6.1.0-50-amd64, 5.15.0-91-generic: the ABI of a distribution that keeps the third number at 0
    return (major, minor, None) if named[4] and patch == 0 else (major, minor, patch)


def _lacks(fix: Fix, this: tuple[int, int, int | None]) -> bool:
    series, patch = this[:2], this[2]
    if series >= _parsed(fix.fixed)[:2]:
        return False
    if fix.since and series < _parsed(fix.since)[:2]:
        return False  # the bug came later
    for backport in map(_parsed, fix.backports):
        if backport[:2] == series:
            return patch is not None and patch < backport[2]
    return True


def _parsed(text: str) -> Version:
    parts = [int(part) for part in text.split(".")]
    return parts[0], parts[1], parts[2] if len(parts) > 2 else 0


def excuse(
    families: Mapping[Family, FamilyResult], missing: Sequence[Fix]
) -> dict[Family, FamilyResult]:
    """``families``, with each failure that one of ``missing`` explains marked as known."""

    def marked(check: CheckResult) -> CheckResult:
        if check.known or check.verdict is not CheckVerdict.FAIL:
            return check
        fixes = [str(fix) for fix in missing if fix.is_about(check.key.id)]
        return replace(check, known="; ".join(fixes)) if fixes else check

    return {
        family: judge.family_result([marked(check) for check in result.checks])
        for family, result in families.items()
    }


def shown_missing(
    families: Mapping[Family, FamilyResult], missing: Sequence[Fix]
) -> tuple[MissingFix, ...]:
    """The fixes of ``missing`` that the checks show: one failed, or a capability is absent.

    A kernel without MPTCP shows none.
    """
    if any(_lacks_mptcp(check) for result in families.values() for check in result.checks):
        return ()
    shown = {
        check.key.id
        for result in families.values()
        for check in result.checks
        if check.verdict is CheckVerdict.FAIL
        or (check.verdict is CheckVerdict.UNSUPPORTED and check.key.id.startswith(judge.CAPABILITY))
    }
    return tuple(
        MissingFix(fix.commit, fix.title, fix.fixed, checks)
        for fix in missing
        if (checks := tuple(sorted(filter(fix.is_about, shown))))
    )


def _lacks_mptcp(check: CheckResult) -> bool:
    return check.key.id == f"{judge.CAPABILITY}mptcp" and check.verdict is not CheckVerdict.PASS


#: Mainline versions and first bad versions are from the kernel's history (the commit's Fixes: tag
#: and the first tag that contains it), stable releases from the ChangeLog-X.Y.Z files of
#: kernel.org. A series without an entry lacks the fix until the mainline version.
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
    Fix(
        "5684ab1a0eff",
        "mptcp: give rcvlowat some love",
        fixed="6.7",
        checks=(
            "poll.is_woken_by_so_rcvlowat",
            "so_rcvlowat.delays_pollin",
            "so_rcvlowat.is_capped",
            "so_rcvlowat.makes_room",
        ),
    ),
    Fix(
        "8e04ce45a8db",
        "mptcp: fix MSG_PEEK stream corruption",
        fixed="6.18",
        # 6.12.59 has it, and then recv() never returns: docs/findings.md
        since="5.14",
        checks=("fallback.peek_waitall_collects_all", "msg_peek.waitall_*"),
    ),
    Fix(
        "648de37416b3",
        "mptcp: sockopt: make sync_socket_options propagate SOCK_KEEPOPEN",
        fixed="6.17",
        backports=("6.12.48", "6.1.153"),
        since="5.13",
        checks=(
            "so_keepalive.reaches_the_subflow",
            "so_keepalive.sends_probes",
            "tcp_keepidle.sets_the_timer",
        ),
    ),
    Fix(
        "f14d6e9c3678",
        "mptcp: fastclose msk when linger time is 0",
        fixed="7.1",
        backports=("6.12.88", "6.1.176"),
        since="5.13",
        checks=(
            "accept.after_the_client_reset",
            "disconnect.after_a_reset",
            "fallback.linger_zero_resets",
            "mp_fastclose.goes_with_the_reset",
            "poll.is_woken_by_a_reset",
            "recv.is_woken",
            "send.is_woken",
            "so_linger.zero_*",
        ),
    ),
    Fix(
        "bf0e96108fb6",
        "mptcp: properly account fastopen data",
        fixed="6.7",
        backports=("6.5.12",),
        since="6.5",
        checks=("msg_fastopen.counts_received_bytes",),
    ),
    Fix(
        "619af16b3b57",
        "mptcp: handle fastopen disconnect correctly",
        fixed="6.14",
        backports=("6.12.13", "6.1.129"),
        since="6.2",
        checks=(
            "msg_fastopen.refused_leaves_the_socket_usable",
            "tcp_fastopen_connect.refused_at_the_first_send",
        ),
    ),
    Fix(
        "8031b58c3a9b",
        "mptcp: ensure snd_una is properly initialized on connect",
        fixed="6.10",
        backports=("6.1.95",),
        since="5.9",
        checks=("fallback.siocoutq_*",),
    ),
    Fix(
        "86730ac255b0",
        "mptcp: ensure context reset on disconnect()",
        fixed="6.19",
        backports=("6.12.65", "6.1.164"),
        since="5.17",
        # All of them fail on 6.17.13, which a backport broke, and pass on 6.17.8 and 6.18.5.
        checks=("reconnect.*", "state.reconnect", "state.reconnected_is_mptcp"),
    ),
    # Before, an accepted socket that was disconnected can never be connected again: EINVAL.
    Fix(
        "ddb1a072f858",
        "mptcp: move first subflow allocation at mpc access time",
        fixed="6.4",
        checks=(
            "state.reconnect",
            "state.reconnected_is_mptcp",
            # After a reset there is no subflow to set these on: EINVAL.
            "ip_freebind.set_get",
            "ip_transparent.set_get",
            "ipv6_freebind.set_get",
            "ipv6_transparent.set_get",
            "so_bindtodevice.set_get",
            "so_bindtoifindex.set_get",
            "so_reuseaddr.set_get",
            "so_reuseport.set_get",
            "tcp_defer_accept.set_get",
        ),
    ),
    Fix(
        "17393fa7b708",
        "mptcp: fix premature close in case of fallback",
        fixed="6.18",
        backports=("6.12.60",),
        since="5.12",
        checks=("fallback.goes_on_after_the_peers_half_close",),
    ),
    Fix(
        "1bba3f219c5e",
        "mptcp: do not fallback when OoO is present",
        fixed="6.18",
        # 6.17.8 fails and 6.17.13 passes. 6.12.60 and 6.1.159 have it in a place where it does not
        # help; "mptcp: move the OoO check back into __mptcp_try_fallback()" mends that in 6.12.115.
        backports=("6.17.10", "6.12.115"),
        since="5.18",
        checks=("mp_fail.beyond_a_gap_resets",),
    ),
    Fix(
        "fb8d0bccb221",
        "mptcp: pm: avoid sending RM_ADDR over same subflow",
        fixed="7.0",
        backports=("6.19.7", "6.12.78", "6.1.167"),
        since="5.13",
        checks=("rm_addr.leaves_on_another_subflow",),
    ),
    Fix(
        "8005184fd1ca",
        "mptcp: refactor sndbuf auto-tuning",
        fixed="6.7",
        backports=("6.6.10",),
        since="5.11",
        checks=("so_sndbuf.begins_with_that_of_the_subflow", "subflows.sndbuf_is_the_sum"),
    ),
    Fix(
        "fcf04b143346",
        "mptcp: sync the msk->sndbuf at accept() time",
        fixed="7.1",
        backports=("6.12.92",),
        since="6.7",
        checks=("so_sndbuf.begins_with_that_of_the_subflow",),
    ),
    Fix(
        "045e9d812868",
        "mptcp: fix duplicate subflow creation",
        fixed="6.8",
        backports=("6.7.7", "6.6.19"),
        checks=(
            "fullmesh.all_pairs",
            "fullmesh.off",
            "fullmesh.off_pairs",
            "fullmesh.second_endpoint",
        ),
    ),
    Fix(
        "c558246ee73e",
        "mptcp: add statistics for mptcp socket in use",
        fixed="6.3",
        checks=(
            "counters.sockets_in_use",
            "counters.stopped_listener_is_not_in_use",
            "failures.closed_without_subflows",
        ),
    ),
    Fix(
        "0d7336f8f06d",
        "tcp: ulp: diag: more info without CAP_NET_ADMIN",
        fixed="6.15",
        checks=("diag.shown_without_net_admin",),
    ),
    Fix(
        "f755be0b1ff4",
        "mptcp: propagate shutdown to subflows when possible",
        fixed="6.17",
        backports=("6.12.49", "6.1.154"),
        since="5.9",
        checks=("shutdown.closes_the_subflows",),
    ),
    Fix(
        "57132affbc89",
        "mptcp: sockopt: check timestamping ret value",
        fixed="7.1",
        backports=("6.12.94",),
        since="5.14",
        checks=("so_timestamping.refusals_are_returned",),
    ),
    Fix(
        "96939cec9940",
        "mptcp: set remote_deny_join_id0 on SYN recv",
        fixed="6.17",
        backports=("6.12.49", "6.1.154"),
        since="5.14",
        checks=("deny_join.told_when_created",),
    ),
    Fix(
        "2293c57484ae",
        "mptcp: pm: nl: announce deny-join-id0 flag",
        fixed="6.17",
        backports=("6.12.49", "6.1.154"),
        since="5.19",
        checks=("deny_join.told_in_events",),
    ),
    Fix(
        "4b1ff850e0c1",
        "mptcp: pm: in-kernel: usable client side with C-flag",
        fixed="6.18",
        backports=("6.12.54", "6.1.157"),
        since="5.14",
        checks=("deny_join.endpoints_join_announced",),
    ),
)
