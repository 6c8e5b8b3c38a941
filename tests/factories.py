# SPDX-License-Identifier: GPL-2.0-only
"""Results as real runs give them, for tests to bend."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace

from harness.verdict.results import (
    Attempt,
    BootEnd,
    CheckKey,
    CheckResult,
    FamilyResult,
    Incident,
    IncidentKind,
    KernelResult,
    RunResult,
    Timing,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict, worst

PHASES = ("established", "transferred", "closed")
SIDES = ("client", "server")
PAYLOADS = ("byte", "segment", "stream")

ALL_CAPABILITIES = {
    "mptcp": True,
    "ipv6": True,
    "mptcp_info": True,
    "tcpinfo": True,
    "subflow_addrs": True,
    "packet_stats": True,
    "full_info": True,
    "ip_tos": True,
    "tcp_cork_nodelay": True,
    "tcp_inq": True,
    "tcp_fastopen_connect": True,
    "tcp_fastopen": True,
    "local_port_range": True,
    "subflows_total": True,
    "tcp_notsent_lowat": True,
    "tcp_keepalive": True,
    "tcp_is_mptcp": True,
    "last_data": True,
    "transparent_get": True,
    "tcp_maxseg": True,
}
#: What bookworm's 6.1 lacks, as seen.
DEBIAN_6_1_LACKS = (
    "packet_stats",
    "full_info",
    "tcp_fastopen",
    "local_port_range",
    "subflows_total",
    "tcp_notsent_lowat",
    "tcp_is_mptcp",
    "last_data",
    "tcp_maxseg",
)

PANIC_EXCERPT = """\
[    4.102231] sysrq: Trigger a crash
[    4.102544] Kernel panic - not syncing: sysrq triggered crash
[    4.102871] CPU: 0 UID: 0 PID: 1 Comm: python3 Not tainted 6.12.107+deb13-amd64 #1
[    4.103402] Hardware name: QEMU Standard PC (i440FX + PIIX, 1996), BIOS 1.16.2-debian-1.16.2-1
[    4.103899] Call Trace:
[    4.104051]  <TASK>
[    4.104178]  panic+0x118/0x2f0
[    4.104391]  sysrq_handle_crash+0x1a/0x20
[    4.104633]  __handle_sysrq+0x9e/0x180
[    4.104869]  write_sysrq_trigger+0x5c/0x90
"""


def check(
    id: str = "mptcp_info.readable",
    verdict: CheckVerdict = CheckVerdict.PASS,
    *,
    family: Family = Family.IPV4,
    payload: str = "segment",
    phase: str = "established",
    side: str = "client",
    detail: str = "",
    expected: str = "",
    got: str = "",
    raw: str = "",
) -> CheckResult:
    key = CheckKey(family, id, payload, phase, side)
    return CheckResult(key, verdict, detail, expected, got, raw)


def everywhere(like: CheckResult, payloads: Iterable[str] = PAYLOADS) -> list[CheckResult]:
    """``like`` in its family, for every payload, phase and side."""
    return [
        replace(like, key=replace(like.key, payload=payload, phase=phase, side=side))
        for payload in payloads
        for phase in PHASES
        for side in SIDES
    ]


def capability(
    name: str, family: Family, verdict: CheckVerdict = CheckVerdict.PASS, **text: str
) -> CheckResult:
    """The result of a capability's own check, which has no payload, phase or side."""
    return check(
        f"capability.{name}", verdict, family=family, payload="", phase="", side="", **text
    )


def families(*results: CheckResult) -> dict[Family, FamilyResult]:
    """``results`` by family, each with the worst of its verdicts."""
    by_family: dict[Family, list[CheckResult]] = {}
    for result in results:
        by_family.setdefault(result.key.family, []).append(result)
    return {
        family: FamilyResult(worst(r.verdict for r in group), tuple(group))
        for family, group in by_family.items()
    }


def passing(capabilities: Mapping[str, bool] = ALL_CAPABILITIES) -> dict[Family, FamilyResult]:
    """Both families; what needs an absent capability is unsupported."""
    return dict(_passing(tuple(capabilities.items())))


@functools.cache
def _passing(named: tuple[tuple[str, bool], ...]) -> dict[Family, FamilyResult]:
    capabilities = dict(named)
    results = []
    for family in Family:
        results += [capability("mptcp", family)]
        for name, id in (
            ("mptcp_info", "mptcp_info.readable"),
            ("packet_stats", "mptcp_info.bytes_sent_exact"),
            ("full_info", "full_info.agrees_with_mptcp_info"),
        ):
            there = capabilities.get(name, False)
            verdict = CheckVerdict.PASS if there else CheckVerdict.UNSUPPORTED
            results += everywhere(check(id, verdict, family=family))
    return families(*results)


def attempt(name: str, number: int = 1, end: BootEnd = BootEnd.POWERED_OFF) -> Attempt:
    return Attempt(
        number=number,
        end=end,
        kernel_spoke=True,
        accel="tcg",
        console=f"{name}/attempt-{number}/console.log",
        events=f"{name}/attempt-{number}/events.jsonl",
        command=("vng", "-r", f"{name}/boot/vmlinux"),
        boot_s=3.91,
        checks_s=2.246,
        total_s=6.82,
    )


def kernel(name: str = "debian-6.12", release: str = "6.12.107+deb13-amd64") -> KernelResult:
    """A kernel that has everything and passes."""
    return KernelResult(
        name=name,
        verdict=KernelVerdict.PASS,
        reason="all checks passed",
        release=release,
        version="6.12.107-1",
        origin=f"trixie linux-image-{release} 6.12.107-1",
        image_sha256="0f" * 32,
        accel="tcg",
        capabilities=ALL_CAPABILITIES,
        families=passing(),
        attempts=(attempt(name),),
        timing=Timing(prepare_s=0.318, boot_s=3.91, checks_s=2.246, total_s=7.138),
    )


def debian_5_10() -> KernelResult:
    """A kernel without MPTCP, of which none was expected."""
    return replace(
        kernel("debian-5.10", "5.10.0-40-amd64"),
        verdict=KernelVerdict.UNSUPPORTED,
        reason="no MPTCP (socket() says EPROTONOSUPPORT), and none was expected",
        capabilities={"mptcp": False},
        families=families(
            *(capability("mptcp", family, CheckVerdict.UNSUPPORTED) for family in Family)
        ),
        timing=Timing(prepare_s=0.2, boot_s=3.4, checks_s=0.3, total_s=4.21),
    )


def debian_6_1() -> KernelResult:
    """A kernel from before packet statistics and FULL_INFO."""
    capabilities = ALL_CAPABILITIES | dict.fromkeys(DEBIAN_6_1_LACKS, False)
    return replace(
        kernel("debian-6.1", "6.1.0-50-amd64"),
        capabilities=capabilities,
        families=passing(capabilities),
        timing=Timing(prepare_s=0.21, boot_s=4.2, checks_s=2.0, total_s=7.02),
    )


def four_kernels() -> tuple[KernelResult, ...]:
    return (
        debian_5_10(),
        debian_6_1(),
        kernel(),
        kernel("debian-newest", "7.3.4+deb14-amd64"),
    )


def failing(like: KernelResult, *results: CheckResult) -> KernelResult:
    """``like`` with ``results``, some of which failed."""
    return replace(
        like,
        verdict=KernelVerdict.FAIL,
        reason=f"{len({r.key.id for r in results if r.verdict.is_bad})} checks did not pass",
        families=families(*results),
    )


def crashed(like: KernelResult) -> KernelResult:
    """``like`` with a panic in the middle of its IPv6 checks."""
    running = check(family=Family.IPV6, phase="transferred", side="server")
    heard = everywhere(check())
    lost = everywhere(check(verdict=CheckVerdict.LOST, family=Family.IPV6))
    panic = Incident(
        kind=IncidentKind.PANIC,
        title="Kernel panic - not syncing: sysrq triggered crash",
        fingerprint="5e2b1a60c9d4f783",
        excerpt=PANIC_EXCERPT,
        check=str(running.key),
    )
    return replace(
        like,
        verdict=KernelVerdict.CRASH,
        reason="Kernel panic - not syncing: sysrq triggered crash",
        families=families(*heard, *lost),
        incidents=(panic,),
        attempts=(replace(like.attempts[0], end=BootEnd.VMM_DIED, incidents=(panic,)),),
    )


def run(*kernels: KernelResult) -> RunResult:
    return RunResult(
        id="20260804T101502-3f9a",
        started="2026-08-04T10:15:02Z",
        finished="2026-08-04T10:15:41Z",
        harness_version="0.1.0",
        host="Linux 6.1.0-50-amd64 x86_64",
        qemu="7.2.22",
        virtme_ng="1.42",
        accel="tcg",
        seed=20240612,
        kernels=kernels,
        directory="results/20260804T101502-3f9a",
    )
