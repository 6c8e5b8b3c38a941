# SPDX-License-Identifier: GPL-2.0-only
"""The decision table, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.manifest.expectations import expectations
from harness.verdict import judge
from harness.verdict.results import (
    Attempt,
    BootEnd,
    Capability,
    CheckKey,
    CheckResult,
    Expectation,
    Incident,
    IncidentKind,
    RoundFailures,
    Rounds,
    RunResult,
    Stream,
    exit_status,
    merge_capabilities,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict, worst
from tests import factories

KEY = CheckKey(Family.IPV4, "payload.arrives", "segment", "transferred", "server")
PASSED = CheckResult(KEY, CheckVerdict.PASS)
MPTCP = Capability("mptcp", Family.IPV4, True)
GOOD_STREAM = Stream(
    said_hello=True, closed=True, capabilities=(MPTCP,), results=(PASSED,), release="6.12"
)
GOOD = Attempt(number=1, end=BootEnd.POWERED_OFF, kernel_spoke=True, stream=GOOD_STREAM)
EXPECTED = {"mptcp": Expectation(True, "mainline has it since 5.6")}


def verdict(attempt: Attempt, expected: dict[str, Expectation] = EXPECTED) -> KernelVerdict:
    return judge.kernel(attempt, judge.families(attempt, (Family.IPV4,), expected))[0]


def reason(attempt: Attempt, expected: dict[str, Expectation] = EXPECTED) -> str:
    return judge.kernel(attempt, judge.families(attempt, (Family.IPV4,), expected))[1]


def incident(kind: IncidentKind, environment: bool = False) -> Incident:
    return Incident(kind, f"{kind} in f", f"{kind}:f", "excerpt", environment=environment)


def with_stream(attempt: Attempt = GOOD, /, **changes: object) -> Attempt:
    return replace(attempt, stream=replace(attempt.stream, **changes))  # type: ignore[arg-type]


SILENT = Stream()
LOST = replace(PASSED, verdict=CheckVerdict.LOST)

TABLE: dict[str, tuple[Attempt, KernelVerdict]] = {
    "everything well": (GOOD, KernelVerdict.PASS),
    "QEMU does not start": (
        Attempt(1, BootEnd.LAUNCH_FAILED, "no such machine"),
        KernelVerdict.INFRASTRUCTURE,
    ),
    "QEMU dies in a check": (
        with_stream(replace(GOOD, end=BootEnd.VMM_DIED), closed=False),
        KernelVerdict.INFRASTRUCTURE,
    ),
    "interrupted": (replace(GOOD, end=BootEnd.INTERRUPTED), KernelVerdict.INFRASTRUCTURE),
    "panics before the guest starts": (
        replace(GOOD, stream=SILENT, incidents=(incident(IncidentKind.PANIC),)),
        KernelVerdict.CRASH,
    ),
    "panics for want of a root": (
        replace(GOOD, stream=SILENT, incidents=(incident(IncidentKind.PANIC, True),)),
        KernelVerdict.BOOT_FAILURE,
    ),
    "panics in a check": (
        with_stream(
            replace(GOOD, incidents=(incident(IncidentKind.PANIC),)), closed=False, results=(LOST,)
        ),
        KernelVerdict.CRASH,
    ),
    "oopses and goes on": (
        replace(GOOD, incidents=(incident(IncidentKind.OOPS),)),
        KernelVerdict.CRASH,
    ),
    "warns and all checks pass": (
        replace(GOOD, incidents=(incident(IncidentKind.WARNING),)),
        KernelVerdict.WARNING,
    ),
    "becomes tainted": (with_stream(new_taint=512), KernelVerdict.WARNING),
    "says nothing at boot": (
        Attempt(1, BootEnd.BOOT_DEADLINE),
        KernelVerdict.BOOT_FAILURE,
    ),
    "stops at boot": (
        Attempt(1, BootEnd.BOOT_DEADLINE, kernel_spoke=True),
        KernelVerdict.BOOT_FAILURE,
    ),
    "powers off before the guest": (
        Attempt(1, BootEnd.POWERED_OFF, kernel_spoke=True),
        KernelVerdict.BOOT_FAILURE,
    ),
    "stops in a check": (
        with_stream(replace(GOOD, end=BootEnd.SILENCE_DEADLINE), closed=False, results=(LOST,)),
        KernelVerdict.HANG,
    ),
    "stops at power-off": (replace(GOOD, end=BootEnd.POWER_OFF_DEADLINE), KernelVerdict.HANG),
    "takes for ever": (
        with_stream(replace(GOOD, end=BootEnd.TOTAL_DEADLINE), closed=False),
        KernelVerdict.HANG,
    ),
    "reboots by itself": (with_stream(closed=False, results=(LOST,)), KernelVerdict.LOST),
    "ends without closing, all passed": (with_stream(closed=False), KernelVerdict.LOST),
    "garbles its stream": (with_stream(errors=("event 3: not JSON",)), KernelVerdict.LOST),
    "garbles its stream at once": (
        replace(GOOD, stream=Stream(errors=("event 0: not JSON",))),
        KernelVerdict.LOST,
    ),
    "floods": (
        with_stream(
            replace(GOOD, end=BootEnd.STREAM_LIMIT), closed=False, errors=("more than 16 MiB",)
        ),
        KernelVerdict.LOST,
    ),
    "floods its console": (
        with_stream(replace(GOOD, end=BootEnd.STREAM_LIMIT), closed=False),
        KernelVerdict.LOST,
    ),
    "fails a check": (
        with_stream(results=(replace(PASSED, verdict=CheckVerdict.FAIL),)),
        KernelVerdict.FAIL,
    ),
    "breaks a check": (
        with_stream(results=(PASSED, replace(PASSED, verdict=CheckVerdict.ERROR))),
        KernelVerdict.FAIL,
    ),
    "loses a check though it closes": (with_stream(results=(PASSED, LOST)), KernelVerdict.FAIL),
    "lacks MPTCP": (
        with_stream(capabilities=(replace(MPTCP, present=False),), results=()),
        KernelVerdict.FAIL,
    ),
    "asks the kernel nothing": (with_stream(capabilities=(), results=()), KernelVerdict.LOST),
}


@pytest.mark.parametrize("row", TABLE)
def test_a_row_of_the_table(row: str) -> None:
    attempt, expected = TABLE[row]
    assert verdict(attempt) is expected


def test_no_mptcp_where_none_is_expected_is_unsupported() -> None:
    absent = with_stream(capabilities=(replace(MPTCP, present=False),), results=())
    expected = {"mptcp": Expectation(False, "Debian builds it in since 5.14")}
    assert verdict(absent, expected) is KernelVerdict.UNSUPPORTED


def test_a_socket_of_a_family_alone_is_no_pass() -> None:
    found = (replace(MPTCP, present=False), Capability("ipv6", Family.IPV4, True))
    absent = with_stream(capabilities=found, results=())
    expected = {"mptcp": Expectation(False, ""), "ipv6": Expectation(True, "")}
    assert verdict(absent, expected) is KernelVerdict.UNSUPPORTED


def test_an_expected_capability_that_is_absent_says_why_it_was_expected() -> None:
    full_info = Capability("full_info", Family.IPV4, False, "EOPNOTSUPP")
    lost_it = with_stream(capabilities=(MPTCP, full_info))
    expected = {**EXPECTED, "full_info": Expectation(True, "mainline has it since 6.5")}
    assert verdict(lost_it, expected) is KernelVerdict.FAIL
    assert reason(lost_it, expected) == (
        "capability.full_info: full_info is expected (mainline has it since 6.5), "
        "but the kernel lacks it: EOPNOTSUPP"
    )


@pytest.mark.parametrize(
    ("strict", "outcome"), [(True, KernelVerdict.FAIL), (False, KernelVerdict.PASS)]
)
def test_presence_fails_only_where_absence_was_declared(
    strict: bool, outcome: KernelVerdict
) -> None:
    expected = {"mptcp": Expectation(False, "why", strict=strict)}
    assert verdict(GOOD, expected) is outcome


def test_a_capability_that_is_expected_and_not_spoken_of_fails() -> None:
    expected = {**EXPECTED, "full_info": Expectation(True, "mainline has it since 6.5")}
    assert verdict(GOOD, expected) is KernelVerdict.FAIL


def test_nothing_is_unsupported_where_nothing_is_absent() -> None:
    shy = replace(PASSED, verdict=CheckVerdict.UNSUPPORTED, detail="no mptcp: shy")
    assert verdict(with_stream(results=(PASSED, shy))) is KernelVerdict.FAIL


@pytest.mark.parametrize(
    ("detail", "outcome"),
    [
        ("no tcp_maxseg: EOPNOTSUPP", KernelVerdict.PASS),
        ("no mptcp: EOPNOTSUPP", KernelVerdict.FAIL),
        ("", KernelVerdict.FAIL),
    ],
)
def test_what_is_unsupported_names_a_capability_that_is_absent(
    detail: str, outcome: KernelVerdict
) -> None:
    found = (MPTCP, Capability("tcp_maxseg", Family.IPV4, False))
    skipped = replace(PASSED, verdict=CheckVerdict.UNSUPPORTED, detail=detail)
    assert verdict(with_stream(capabilities=found, results=(PASSED, skipped))) is outcome


def test_the_running_check_is_named_with_a_crash() -> None:
    oops = replace(incident(IncidentKind.OOPS), check=str(KEY))
    assert str(KEY) in reason(replace(GOOD, incidents=(oops,)))


def test_the_worst_of_nothing_is_unsupported() -> None:
    assert worst([]) is CheckVerdict.UNSUPPORTED


@pytest.mark.parametrize("bad", [v for v in CheckVerdict if v.is_bad])
def test_nothing_outweighs_a_bad_verdict(bad: CheckVerdict) -> None:
    assert worst([*CheckVerdict, bad]).is_bad


def run(*verdicts: KernelVerdict) -> RunResult:
    kernels = [replace(factories.debian_6_1(), verdict=verdict) for verdict in verdicts]
    return replace(factories.run(), kernels=tuple(kernels))


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([KernelVerdict.PASS, KernelVerdict.UNSUPPORTED], 0),
        ([KernelVerdict.PASS, KernelVerdict.INFRASTRUCTURE], 3),
        ([KernelVerdict.FAIL, KernelVerdict.INFRASTRUCTURE], 1),
        ([KernelVerdict.WARNING], 1),
        ([KernelVerdict.CRASH], 1),
        ([KernelVerdict.HANG], 1),
        ([KernelVerdict.LOST], 1),
        ([KernelVerdict.BOOT_FAILURE], 1),
        ([], 3),
    ],
)
def test_exit_status(verdicts: list[KernelVerdict], status: int) -> None:
    assert exit_status(run(*verdicts)) == status


def test_an_interrupted_run_exits_with_130() -> None:
    assert exit_status(replace(run(KernelVerdict.PASS), interrupted=True)) == 130


@pytest.mark.parametrize(("errors", "expected"), [(0, CheckVerdict.PASS), (2, CheckVerdict.ERROR)])
def test_a_known_failure_hides_no_error_of_another_round(
    errors: int, expected: CheckVerdict
) -> None:
    known = CheckResult(KEY, CheckVerdict.FAIL, "wrong", known="until 2027: queued")
    family = judge.family_result([known, replace(PASSED, key=replace(KEY, id="payload.other"))])
    rounds = Rounds(10, 10, 5, {}, (RoundFailures(KEY, 5, 0, 1, errors),))
    found = judge.unexcused({Family.IPV4: family}, rounds)
    assert found[Family.IPV4].verdict is expected


@pytest.mark.parametrize(("family", "is_asked"), [(Family.IPV4, False), (Family.IPV6, True)])
def test_what_is_ipv6s_is_asked_of_ipv6_alone(family: Family, is_asked: bool) -> None:
    name = judge.OF_IPV6[0]
    expected = {"mptcp": EXPECTED["mptcp"], name: Expectation(True, "it was there")}
    said = {"mptcp": replace(MPTCP, family=family)}
    asked = {check.key.id for check in judge.capability_checks(family, said, expected)}
    assert (f"capability.{name}" in asked) is is_asked


def test_a_family_of_which_nothing_could_be_checked_is_unsupported() -> None:
    """That a capability is present proves nothing of the sockets that have it."""
    present = CheckResult(replace(KEY, id="capability.mptcp"), CheckVerdict.PASS)
    unsupported = replace(PASSED, verdict=CheckVerdict.UNSUPPORTED)
    assert judge.family_result([present, unsupported]).verdict is CheckVerdict.UNSUPPORTED
    assert judge.family_result([present, PASSED]).verdict is CheckVerdict.PASS


@pytest.mark.parametrize(("count", "more"), [(1, ""), (2, ", and 1 more"), (3, ", and 2 more")])
def test_the_first_report_is_named_and_the_others_are_counted(count: int, more: str) -> None:
    reports = tuple(incident(IncidentKind.WARNING) for _ in range(count))
    assert reason(replace(GOOD, incidents=reports)) == f"{reports[0].title}{more}"


@pytest.mark.parametrize(
    ("result", "reports", "expected"),
    [
        (PASSED, (), KernelVerdict.INFRASTRUCTURE),
        (replace(PASSED, verdict=CheckVerdict.FAIL), (), KernelVerdict.FAIL),
        (PASSED, (incident(IncidentKind.WARNING),), KernelVerdict.WARNING),
    ],
)
def test_of_interrupted_rounds_only_what_went_wrong_counts(
    result: CheckResult, reports: tuple[Incident, ...], expected: KernelVerdict
) -> None:
    rounds = Rounds(asked=200, done=57, failed=int(result is not PASSED))
    stopped = replace(GOOD, end=BootEnd.INTERRUPTED, incidents=reports)
    assert verdict(with_stream(stopped, closed=False, results=(result,), rounds=rounds)) is expected


#: include/linux/panic.h; which report sets which is in kernel/panic.c, mm/kasan/report.c,
#: mm/kfence/report.c, kernel/sched/core.c and kernel/watchdog.c.
TAINT_BAD_PAGE, TAINT_WARN, TAINT_SOFTLOCKUP = 1 << 5, 1 << 9, 1 << 14


@pytest.mark.parametrize(
    ("kind", "taint", "expected"),
    [
        (IncidentKind.WARNING, TAINT_WARN, KernelVerdict.PASS),
        (IncidentKind.REFCOUNT, TAINT_WARN, KernelVerdict.PASS),
        (IncidentKind.ATOMIC_SLEEP, TAINT_WARN, KernelVerdict.PASS),
        (IncidentKind.KASAN, TAINT_BAD_PAGE, KernelVerdict.PASS),
        (IncidentKind.KFENCE, TAINT_BAD_PAGE, KernelVerdict.PASS),
        (IncidentKind.SOFT_LOCKUP, TAINT_SOFTLOCKUP, KernelVerdict.PASS),
        # Another bit has another cause, of which nothing is known.
        (IncidentKind.KFENCE, TAINT_BAD_PAGE | TAINT_WARN, KernelVerdict.WARNING),
        (IncidentKind.WARNING, TAINT_BAD_PAGE, KernelVerdict.WARNING),
        (IncidentKind.SOFT_LOCKUP, TAINT_WARN, KernelVerdict.WARNING),
    ],
)
def test_the_taint_of_a_known_report_is_known(
    kind: IncidentKind, taint: int, expected: KernelVerdict
) -> None:
    known = replace(incident(kind), known="until 2027: queued")
    assert verdict(replace(with_stream(new_taint=taint), incidents=(known,))) is expected


BAD_AFTER_A_STOP = {
    "silent": with_stream(replace(GOOD, end=BootEnd.SILENCE_DEADLINE), closed=False),
    "a check": with_stream(results=(replace(PASSED, verdict=CheckVerdict.FAIL),)),
    "a watchdog": replace(GOOD, incidents=(incident(IncidentKind.SOFT_LOCKUP),)),
    "did not start": Attempt(1, BootEnd.BOOT_DEADLINE, kernel_spoke=True),
}


@pytest.mark.parametrize("name", BAD_AFTER_A_STOP)
def test_a_bad_boot_in_which_the_harness_stood_still_says_nothing_of_the_kernel(name: str) -> None:
    attempt = BAD_AFTER_A_STOP[name]
    assert not verdict(attempt).as_expected
    assert verdict(replace(attempt, stopped_s=60.0)) is KernelVerdict.INFRASTRUCTURE
    assert "was stopped for 60 s" in reason(replace(attempt, stopped_s=60.0))
    assert verdict(replace(attempt, stopped_s=3.5)) is verdict(attempt)


def test_a_pause_excuses_no_crash_and_spoils_no_pass() -> None:
    crashed = replace(GOOD, incidents=(incident(IncidentKind.PANIC),), stopped_s=60.0)
    assert verdict(crashed) is KernelVerdict.CRASH
    assert verdict(replace(GOOD, stopped_s=60.0)) is KernelVerdict.PASS


def test_a_failure_in_one_of_many_rounds_outlives_a_pause() -> None:
    failed = replace(PASSED, verdict=CheckVerdict.FAIL)
    rounds = Rounds(100, 100, 1, failures=(RoundFailures(KEY, 1, 3, 10),))
    attempt = replace(with_stream(results=(failed,), rounds=rounds), stopped_s=60.0)
    assert verdict(attempt) is KernelVerdict.FAIL
    silent = with_stream(replace(attempt, end=BootEnd.SILENCE_DEADLINE), closed=False)
    assert verdict(silent) is KernelVerdict.INFRASTRUCTURE


def test_a_panic_that_does_not_reboot_is_a_crash_and_one_for_want_of_room_is_not() -> None:
    panicked = Attempt(1, BootEnd.PANICKED, kernel_spoke=True)
    own = replace(panicked, incidents=(incident(IncidentKind.PANIC),))
    room = replace(panicked, incidents=(incident(IncidentKind.PANIC, environment=True),))
    assert verdict(own) is KernelVerdict.CRASH
    assert verdict(room) is KernelVerdict.BOOT_FAILURE


def absent(name: str, family: Family) -> Capability:
    return Capability(name, family, False, "EPROTONOSUPPORT")


def test_a_kernel_without_mptcp_over_ipv6_fails_one_check_and_keeps_ipv4() -> None:
    found = (Capability("ipv6", Family.IPV6, True), absent("mptcp_ipv6", Family.IPV6))
    attempt = with_stream(capabilities=(MPTCP, *found))
    wanted = expectations("6.12", False, {})
    families = judge.families(with_stream(attempt, capabilities=found), (Family.IPV6,), wanted)
    bad = [check for check in families[Family.IPV6].checks if check.weight.is_bad]
    assert [check.key.id for check in bad] == ["capability.mptcp_ipv6"]
    declared = expectations("6.12", False, {"mptcp_ipv6": False})
    families = judge.families(attempt, (Family.IPV6,), declared)
    assert families[Family.IPV6].verdict is CheckVerdict.UNSUPPORTED
    assert merge_capabilities(attempt.stream.capabilities)["mptcp"]


def test_a_kernel_without_mptcp_fails_one_check() -> None:
    names = ("mptcp", "full_info", "ip_tos")
    found = tuple(absent(name, Family.IPV4) for name in names)
    wanted = {name: Expectation(True, "mainline has it") for name in names}
    judged = judge.families(with_stream(capabilities=found, results=()), (Family.IPV4,), wanted)
    bad = [check for check in judged[Family.IPV4].checks if check.weight.is_bad]
    assert [check.key.id for check in bad] == ["capability.mptcp"]
