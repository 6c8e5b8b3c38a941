# SPDX-License-Identifier: GPL-2.0-only
"""Turns observations into a verdict: the decision table of docs/verdicts.md. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness.verdict.results import (
    Attempt,
    BootEnd,
    Capability,
    CheckKey,
    CheckResult,
    Expectation,
    FamilyResult,
    IncidentKind,
    Rounds,
    known_issues_of,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict, worst

#: Prefix of the checks that the host adds, one for each capability.
CAPABILITY = "capability."

#: Capabilities of the IPv6 family only. If one is absent, the family is not tested further.
OF_IPV6 = ("ipv6", "mptcp_ipv6")

HANGS = (BootEnd.SILENCE_DEADLINE, BootEnd.POWER_OFF_DEADLINE)

#: If the harness was stopped for this many seconds, a bad boot is repeated.
STANDSTILL = 10.0

_BAD_PAGE, _WARN, _SOFT_LOCKUP = 1 << 5, 1 << 9, 1 << 14  # include/linux/panic.h
#: The taint that comes with each kind of report; if the report is known, so is the taint.
_TAINTS = {
    IncidentKind.WARNING: _WARN,
    IncidentKind.REFCOUNT: _WARN,  # refcount_warn_saturate() is a WARN
    IncidentKind.ATOMIC_SLEEP: _WARN,
    IncidentKind.KASAN: _BAD_PAGE,
    IncidentKind.KFENCE: _BAD_PAGE,
    IncidentKind.SOFT_LOCKUP: _SOFT_LOCKUP,
}


def families(
    attempt: Attempt, wanted: Sequence[Family], expected: Mapping[str, Expectation]
) -> dict[Family, FamilyResult]:
    """Each family's checks, those of its capabilities first, and the worst verdict."""
    judged = {}
    for family in wanted:
        found = {c.name: c for c in attempt.stream.capabilities if c.family == family}
        checks = [
            *capability_checks(family, found, expected),
            *(
                _believed(result, found)
                for result in attempt.stream.results
                if result.key.family == family
            ),
        ]
        judged[family] = family_result(checks)
    return judged


def unexcused(
    families: Mapping[Family, FamilyResult], rounds: Rounds | None
) -> dict[Family, FamilyResult]:
    """``families``, in which a known failure does not hide an error of the check in another
    round."""
    broken = {failure.key: failure.errors for failure in rounds.failures} if rounds else {}

    def counted(check: CheckResult) -> CheckResult:
        if not (check.known and broken.get(check.key)):
            return check
        detail = f"{check.detail}; and in error in {broken[check.key]} rounds"
        return replace(check, verdict=CheckVerdict.ERROR, detail=detail, known="")

    return {
        family: family_result([counted(check) for check in result.checks])
        for family, result in families.items()
    }


def family_result(checks: Sequence[CheckResult]) -> FamilyResult:
    """The ``checks`` of one family and their worst verdict; a known failure counts as a pass."""
    verdict = worst(check.weight for check in checks)
    if verdict is CheckVerdict.PASS and not any(_proves(check) for check in checks):
        verdict = CheckVerdict.UNSUPPORTED  # this family has no MPTCP sockets
    return FamilyResult(verdict, tuple(checks))


def _believed(result: CheckResult, found: Mapping[str, Capability]) -> CheckResult:
    """Accept ``unsupported`` only if the check names a capability that is absent."""
    lacking = (f"no {name}: " for name, capability in found.items() if not capability.present)
    if result.verdict is CheckVerdict.UNSUPPORTED and not result.detail.startswith((*lacking,)):
        detail = f"unsupported, but it names no absent capability: {result.detail}"
        return replace(result, verdict=CheckVerdict.ERROR, detail=detail)
    return result


def _proves(check: CheckResult) -> bool:
    return check.weight is CheckVerdict.PASS and not check.key.id.startswith(CAPABILITY)


def capability_checks(
    family: Family, found: Mapping[str, Capability], expected: Mapping[str, Expectation]
) -> Iterable[CheckResult]:
    """One ``capability.NAME`` for each capability that was probed.

    An expected capability that is absent fails, and so does one that is present although the
    manifest declares it absent. A backport that the version does not promise passes. If MPTCP
    itself is absent, that is the only failure; its options are unsupported.
    """
    without_mptcp = "mptcp" in found and not found["mptcp"].present
    if "mptcp" in found:  # else the family itself is absent, and nothing more was probed
        asked = {name for name in expected if name not in OF_IPV6 or family is Family.IPV6}
        for name in sorted(asked - found.keys()):
            if expected[name].present:
                key = CheckKey(family, CAPABILITY + name, "", "", "")
                yield CheckResult(key, CheckVerdict.LOST, "the guest did not say")
    for name, capability in found.items():
        key = CheckKey(family, CAPABILITY + name, "", "", "")
        expectation = expected.get(name)
        if capability.present:
            if expectation is not None and expectation.strict and not expectation.present:
                yield CheckResult(
                    key,
                    CheckVerdict.FAIL,
                    f"{name} is expected to be absent ({expectation.why}), but the kernel has it",
                    expected="absent",
                    got="present" + (f": {capability.detail}" if capability.detail else ""),
                )
            else:
                yield CheckResult(key, CheckVerdict.PASS, capability.detail)
        elif without_mptcp and name not in ("mptcp", *OF_IPV6):
            yield CheckResult(key, CheckVerdict.UNSUPPORTED, capability.detail)
        elif expectation is not None and expectation.present:
            yield CheckResult(
                key,
                CheckVerdict.FAIL,
                f"{name} is expected ({expectation.why}), "
                f"but the kernel lacks it: {capability.detail}",
                expected="present",
                got=f"absent: {capability.detail}",
            )
        else:
            yield CheckResult(key, CheckVerdict.UNSUPPORTED, capability.detail)


def kernel(attempt: Attempt, judged: Mapping[Family, FamilyResult]) -> tuple[KernelVerdict, str]:
    """The verdict on the kernel that ``attempt`` booted, and the reason in a sentence.

    The first row that applies decides. Only the last two are good; they require the closing event,
    a VM that powered itself off, and a quiet console. The rows for checks and for the log ignore
    known issues. The others do not, because after a crash or a hang the rest was not tested.
    """
    known = known_issues_of(judged, attempt.incidents)
    said = f"{len(known)} known issue{'s' if len(known) > 1 else ''}" if known else ""
    for rule in (_crash, _launch, _boot, _hang, _stream, _checks, _log):
        decided = rule(attempt, judged)
        if decided is not None:
            verdict, reason = _unless_stopped(attempt, *decided)
            return verdict, f"{reason}; {said}" if said else reason
    if all(result.verdict is CheckVerdict.UNSUPPORTED for result in judged.values()):
        if not attempt.stream.capabilities:
            return KernelVerdict.LOST, "the guest reported no check"
        mptcp = any(c.present for c in attempt.stream.capabilities if c.name == "mptcp")
        why = "it lacks what the checks need" if mptcp else "no MPTCP"
        return KernelVerdict.UNSUPPORTED, f"{why}, {said or 'and none was expected'}"
    return KernelVerdict.PASS, said


def _unless_stopped(
    attempt: Attempt, verdict: KernelVerdict, reason: str
) -> tuple[KernelVerdict, str]:
    """``verdict``, unless it may be due to a pause in which harness and VM did not run.

    The guest's clock may have jumped, so that its timeouts expired and its watchdogs fired. With
    repeated checks, only the end of the boot is in doubt: the other rounds are valid.
    """
    doubted = attempt.stream.rounds is None or verdict is KernelVerdict.HANG
    if attempt.stopped_s < STANDSTILL or verdict is KernelVerdict.CRASH or not doubted:
        return verdict, reason
    return (
        KernelVerdict.INFRASTRUCTURE,
        f"the harness was stopped for {attempt.stopped_s:.0f} s during this boot, which may be the "
        f"cause of: {reason}",
    )


_Decision = tuple[KernelVerdict, str] | None
_Judged = Mapping[Family, FamilyResult]


def _launch(attempt: Attempt, judged: _Judged) -> _Decision:
    """QEMU itself failed or was stopped, so nothing was learned."""
    infrastructure = KernelVerdict.INFRASTRUCTURE
    if attempt.end is BootEnd.INTERRUPTED:
        return _interrupted(attempt, judged)
    if attempt.end in (BootEnd.LAUNCH_FAILED, BootEnd.VMM_DIED):
        return infrastructure, f"{attempt.end.value}: {attempt.detail}"
    return None


def _interrupted(attempt: Attempt, judged: _Judged) -> tuple[KernelVerdict, str]:
    """After an interruption of repeated checks, failures decide; good rounds do not."""
    rounds = attempt.stream.rounds
    if rounds is None or not rounds.done or attempt.stream.errors:
        return KernelVerdict.INFRASTRUCTURE, "interrupted"
    after = f"interrupted after {rounds.done} of {rounds.asked} rounds"
    decided = _checks(attempt, judged) or _log(attempt, judged)
    if decided is None:
        return KernelVerdict.INFRASTRUCTURE, f"{after}, none of which failed"
    return decided[0], f"{decided[1]}; {after}"


def _crash(attempt: Attempt, _: _Judged) -> _Decision:
    for incident in attempt.incidents:
        if incident.kind.is_crash and not incident.environment:
            during = f", while {incident.check} ran" if incident.check else ""
            return KernelVerdict.CRASH, f"{incident.title}{during}"
    return None


def _boot(attempt: Attempt, _: _Judged) -> _Decision:
    """The guest never reported anything."""
    if attempt.stream.said_hello:
        return None
    for incident in attempt.incidents:
        if incident.environment:
            return KernelVerdict.BOOT_FAILURE, incident.title
    if not attempt.kernel_spoke:
        return KernelVerdict.BOOT_FAILURE, f"{attempt.end.value}: {attempt.detail}"
    if attempt.stream.errors:
        return KernelVerdict.LOST, f"the guest's event stream is broken: {attempt.stream.errors[0]}"
    if attempt.end is BootEnd.POWERED_OFF:
        why = f"the VM ended before the checker reported anything: {attempt.detail}"
        return KernelVerdict.BOOT_FAILURE, why
    return KernelVerdict.BOOT_FAILURE, f"{attempt.end.value} ({attempt.total_s:.0f} s)"


def _hang(attempt: Attempt, _: _Judged) -> _Decision:
    stream = attempt.stream
    if attempt.end is BootEnd.TOTAL_DEADLINE and not stream.errors:
        return KernelVerdict.HANG, f"{attempt.end.value} ({attempt.total_s:.0f} s)"
    if attempt.end in HANGS and not stream.errors:
        lost = [result for result in stream.results if result.verdict is CheckVerdict.LOST]
        where = stream.running or (f"{lost[0].key}{_dated(lost[0])}" if lost else "")
        return KernelVerdict.HANG, attempt.end.value + (f" in {where}" if where else "")
    return None


def _stream(attempt: Attempt, _: _Judged) -> _Decision:
    """The guest ended without a sound closing event."""
    stream = attempt.stream
    if stream.errors:
        return KernelVerdict.LOST, f"the guest's event stream is broken: {stream.errors[0]}"
    if not stream.closed:
        rounds = stream.rounds
        after = f", in round {rounds.done} of {rounds.asked}" if rounds and rounds.done else ""
        return KernelVerdict.LOST, f"the guest ended without its closing event{after}"
    if attempt.end is not BootEnd.POWERED_OFF:
        return KernelVerdict.LOST, attempt.end.value
    return None


def _checks(attempt: Attempt, judged: _Judged) -> _Decision:
    bad = [c for result in judged.values() for c in result.checks if c.weight.is_bad]
    if not bad:
        return None
    names = list(dict.fromkeys(check.key.id for check in bad))
    if len(names) > 1:
        more = ", …" if len(names) > 4 else ""
        what = f"{len(names)} checks fail: {', '.join(names[:4])}{more}"
    else:
        what = f"{names[0]}: {bad[0].detail or bad[0].verdict}"
    return KernelVerdict.FAIL, what + _in_rounds(attempt)


def _in_rounds(attempt: Attempt) -> str:
    rounds = attempt.stream.rounds
    if rounds is None or not rounds.failed:
        return ""
    return f"; {rounds.failed} of {rounds.done} rounds failed"


def _dated(result: CheckResult) -> str:
    """The round in which a repeated check was lost."""
    return f" ({result.detail})" if result.detail else ""


def _log(attempt: Attempt, _: _Judged) -> _Decision:
    """The checks passed, but the kernel log has a report."""
    new = [incident for incident in attempt.incidents if not incident.known]
    if new:
        more = f", and {len(new) - 1} more" if len(new) > 1 else ""
        return KernelVerdict.WARNING, new[0].title + more
    taint = attempt.stream.new_taint
    for incident in attempt.incidents:
        taint &= ~_TAINTS.get(incident.kind, 0)
    if taint:
        return (
            KernelVerdict.WARNING,
            f"the kernel became tainted while the checks ran (bits {taint:#x})",
        )
    return None
