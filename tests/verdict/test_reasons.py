# SPDX-License-Identifier: GPL-2.0-only
"""What the verdict on a kernel says beside its name: which check, which report, how often."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.verdict import judge
from harness.verdict.results import (
    Attempt,
    BootEnd,
    Capability,
    CheckResult,
    Expectation,
    IncidentKind,
    Rounds,
    Stream,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from tests.verdict.test_judge import (
    GOOD,
    KEY,
    LOST,
    MPTCP,
    PASSED,
    incident,
    reason,
    verdict,
    with_stream,
)

FAILED = replace(PASSED, verdict=CheckVerdict.FAIL)
FAILED_DETAIL = replace(FAILED, detail="2 bytes")


def failing(*names: str) -> Attempt:
    results = (replace(FAILED, key=replace(KEY, id=name)) for name in names)
    return with_stream(results=(PASSED, *results))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("a.a", "a.a: fail"),
        ("a.a b.b", "2 checks fail: a.a, b.b"),
        ("a.a b.b c.c d.d", "4 checks fail: a.a, b.b, c.c, d.d"),
        ("a.a b.b c.c d.d e.e", "5 checks fail: a.a, b.b, c.c, d.d, …"),
        ("a.a b.b c.c d.d e.e f.f", "6 checks fail: a.a, b.b, c.c, d.d, …"),
    ],
)
def test_at_most_four_checks_are_named(names: str, said: str) -> None:
    assert reason(failing(*names.split())) == said


def test_of_a_check_that_fails_in_several_places_the_first_is_told() -> None:
    first, last = replace(FAILED, detail="2 bytes"), replace(FAILED, detail="3 bytes")
    assert reason(with_stream(results=(PASSED, first, last))) == "payload.arrives: 2 bytes"
    broken = replace(PASSED, verdict=CheckVerdict.ERROR)
    assert reason(with_stream(results=(PASSED, FAILED, broken))) == "payload.arrives: fail"


@pytest.mark.parametrize(("failed", "said"), [(2, "; 2 of 9 rounds failed"), (0, "")])
def test_the_rounds_that_failed_are_counted(failed: int, said: str) -> None:
    attempt = with_stream(failing("a.a"), rounds=Rounds(10, 9, failed))
    assert reason(attempt) == f"a.a: fail{said}"


@pytest.mark.parametrize(("count", "said"), [(1, "1 known issue"), (2, "2 known issues")])
def test_known_issues_are_counted(count: int, said: str) -> None:
    results = (replace(FAILED, key=replace(KEY, id=f"a.{n}"), known=f"{n}") for n in range(count))
    family = judge.family_result([PASSED, *results])
    assert judge.kernel(GOOD, {Family.IPV4: family}) == (KernelVerdict.PASS, said)


def test_the_first_report_is_named() -> None:
    first, second = incident(IncidentKind.LOCKDEP), incident(IncidentKind.WARNING)
    attempt = replace(GOOD, incidents=(first, second))
    assert reason(attempt) == f"{first.title}, and 1 more"


@pytest.mark.parametrize("said_hello", [True, False])
def test_the_first_error_of_a_stream_is_named(said_hello: bool) -> None:
    attempt = with_stream(said_hello=said_hello, errors=("event 3: no JSON", "another"))
    assert reason(attempt) == "the guest's event stream is broken: event 3: no JSON"


# Hangs, and boots that do not come to the checks.


@pytest.mark.parametrize(
    ("running", "results", "where"),
    [
        ("ipv6 a.b", (PASSED, LOST), " in ipv6 a.b"),
        ("", (PASSED, LOST, replace(LOST, key=replace(KEY, id="z.z"))), f" in {KEY}"),
        ("", (FAILED_DETAIL, replace(LOST, detail="round 3"), LOST), f" in {KEY} (round 3)"),
        ("", (PASSED,), ""),
    ],
)
def test_a_hang_names_what_ran(running: str, results: tuple[CheckResult, ...], where: str) -> None:
    silent = replace(GOOD, end=BootEnd.SILENCE_DEADLINE)
    attempt = with_stream(silent, closed=False, running=running, results=results)
    assert reason(attempt) == f"the guest fell silent{where}"


def test_a_boot_that_fails_for_its_surroundings_names_them() -> None:
    reports = (incident(IncidentKind.WARNING), incident(IncidentKind.PANIC, environment=True))
    attempt = Attempt(1, BootEnd.POWERED_OFF, kernel_spoke=True, incidents=reports)
    assert reason(attempt) == reports[1].title


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (BootEnd.POWERED_OFF, "the VM ended before the checker reported anything: status 1"),
        (BootEnd.BOOT_DEADLINE, "the guest did not start in time (12 s)"),
    ],
)
def test_a_boot_that_does_not_come_to_the_checker_says_how_it_ended(
    end: BootEnd, said: str
) -> None:
    attempt = Attempt(1, end, "status 1", kernel_spoke=True, total_s=12.3)
    assert (verdict(attempt), reason(attempt)) == (KernelVerdict.BOOT_FAILURE, said)


# Nothing to check.


def unsupported(*capabilities: Capability) -> tuple[KernelVerdict, str]:
    attempt = with_stream(capabilities=capabilities, results=())
    families = judge.families(attempt, (Family.IPV4,), {})
    return judge.kernel(attempt, families)


def test_a_kernel_that_lacks_what_is_checked_is_told_from_one_without_mptcp() -> None:
    name = str(b"mptcp", "ascii")  # equal to a name in the code, as what a guest says is, no more
    others = [Capability(other, Family.IPV4, False) for other in ("ip_tos", "tcp_inq")]
    has, lacks = (Capability(name, Family.IPV4, present) for present in (True, False))
    there = [replace(other, present=True) for other in others]
    verdict = KernelVerdict.UNSUPPORTED
    needs = "it lacks what the checks need, and none was expected"
    assert unsupported(has, *others) == (verdict, needs)
    assert unsupported(lacks, *there) == (verdict, "no MPTCP, and none was expected")


# Interruptions and pauses.


@pytest.mark.parametrize(("done", "errors"), [(0, ()), (5, ("event 3: no JSON",))])
def test_without_a_sound_round_an_interruption_is_all_that_is_known(
    done: int, errors: tuple[str, ...]
) -> None:
    stopped = with_stream(
        replace(failing("a.a"), end=BootEnd.INTERRUPTED), rounds=Rounds(9, done), errors=errors
    )
    assert (verdict(stopped), reason(stopped)) == (KernelVerdict.INFRASTRUCTURE, "interrupted")


def test_what_failed_before_an_interruption_says_after_how_many_rounds() -> None:
    stopped = replace(failing("a.a"), end=BootEnd.INTERRUPTED)
    attempt = with_stream(stopped, closed=False, rounds=Rounds(200, 57, 1))
    said = "a.a: fail; 1 of 57 rounds failed; interrupted after 57 of 200 rounds"
    assert reason(attempt) == said


@pytest.mark.parametrize(("seconds", "doubted"), [(9.9, False), (10.0, True)])
def test_a_pause_of_ten_seconds_makes_a_bad_boot_doubtful(seconds: float, doubted: bool) -> None:
    attempt = replace(failing("a.a"), stopped_s=seconds)
    assert (verdict(attempt) is KernelVerdict.INFRASTRUCTURE) is doubted


def test_a_report_in_one_of_many_rounds_outlives_a_pause() -> None:
    warned = replace(GOOD, incidents=(incident(IncidentKind.WARNING),), stopped_s=60.0)
    assert verdict(with_stream(warned, rounds=Rounds(9, 9))) is KernelVerdict.WARNING


@pytest.mark.parametrize("taint", [1 << 0, 1 << 9])
def test_a_known_report_that_sets_no_taint_excuses_none(taint: int) -> None:
    known = replace(incident(IncidentKind.LOCKDEP), known="until 2027: queued")
    attempt = replace(with_stream(new_taint=taint), incidents=(known,))
    assert verdict(attempt) is KernelVerdict.WARNING


# Families and their capabilities.


def test_each_family_is_judged_by_what_was_said_of_it() -> None:
    both = with_stream(
        capabilities=(MPTCP, Capability("mptcp", Family.IPV6, False)),
        results=(PASSED, replace(PASSED, key=replace(KEY, family=Family.IPV6))),
    )
    judged = judge.families(both, tuple(Family), {})
    for family in Family:
        keys = [check.key for check in judged[family].checks]
        assert [key.family for key in keys] == [family, family]
    found = {family: judged[family].checks[0].verdict for family in Family}
    assert found == {Family.IPV4: CheckVerdict.PASS, Family.IPV6: CheckVerdict.UNSUPPORTED}


@pytest.mark.parametrize("bad", [check for check in CheckVerdict if check.is_bad])
def test_a_family_with_nothing_but_a_bad_check_is_bad(bad: CheckVerdict) -> None:
    assert judge.family_result([replace(PASSED, verdict=bad)]).verdict is bad


def capability_checks(
    *said: Capability, expected: dict[str, Expectation]
) -> list[tuple[str, str, str]]:
    found = {capability.name: capability for capability in said}
    checks = judge.capability_checks(Family.IPV4, found, expected)
    return [(check.key.id, check.verdict, check.detail) for check in checks]


def test_every_capability_that_was_asked_about_is_a_check() -> None:
    inq = Capability("tcp_inq", Family.IPV4, False, "ENOPROTOOPT")
    assert capability_checks(replace(MPTCP, detail="protocol 262"), inq, expected={}) == [
        ("capability.mptcp", "pass", "protocol 262"),
        ("capability.tcp_inq", "unsupported", "ENOPROTOOPT"),
    ]


def test_what_mptcp_brings_is_unsupported_where_it_is_absent() -> None:
    absent = replace(MPTCP, present=False, detail="EPROTONOSUPPORT")
    inq = Capability("tcp_inq", Family.IPV4, False, "no mptcp")
    wanted = {"tcp_inq": Expectation(True, "since 5.17"), "mptcp": Expectation(False, "")}
    assert capability_checks(absent, inq, expected=wanted) == [
        ("capability.mptcp", "unsupported", "EPROTONOSUPPORT"),
        ("capability.tcp_inq", "unsupported", "no mptcp"),
    ]


@pytest.mark.parametrize(("detail", "got"), [("4 bytes", "present: 4 bytes"), ("", "present")])
def test_what_is_there_though_declared_absent_says_what_was_found(detail: str, got: str) -> None:
    declared = {"mptcp": Expectation(False, "the manifest", strict=True)}
    found = {"mptcp": replace(MPTCP, detail=detail)}
    (check,) = judge.capability_checks(Family.IPV4, found, declared)
    assert (check.verdict, check.expected, check.got) == (CheckVerdict.FAIL, "absent", got)


def test_a_guest_that_asked_nothing_is_lost_whatever_it_had_to_check() -> None:
    attempt = replace(GOOD, stream=Stream(said_hello=True, closed=True))
    assert reason(attempt) == "the guest reported no check"
