# SPDX-License-Identifier: GPL-2.0-only
"""What counts as good, as bad, and as neither."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.bisect import predicate
from harness.bisect.predicate import Anything, Checks, HasIncident, Outcome
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from tests import factories

PASSED = factories.kernel()
CHECK = "mptcp_info.readable"
FAIL, LOST, ERROR, UNSUPPORTED = (
    CheckVerdict.FAIL,
    CheckVerdict.LOST,
    CheckVerdict.ERROR,
    CheckVerdict.UNSUPPORTED,
)


def with_checks(*verdicts: CheckVerdict, id: str = CHECK) -> KernelResult:
    checks = [
        factories.check(id, verdict, side=side)
        for verdict, side in zip(verdicts, ("client", "server"), strict=False)
    ]
    return factories.failing(PASSED, *checks)


def outcome(result: KernelResult, pattern: str = CHECK) -> Outcome:
    return Checks((pattern,)).judge(result).outcome


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((CheckVerdict.PASS,), Outcome.GOOD),
        ((CheckVerdict.PASS, UNSUPPORTED), Outcome.GOOD),
        ((CheckVerdict.PASS, FAIL), Outcome.BAD),
        ((LOST, FAIL), Outcome.BAD),
        ((CheckVerdict.PASS, LOST), Outcome.UNTESTABLE),
        ((CheckVerdict.PASS, ERROR), Outcome.UNTESTABLE),
        ((UNSUPPORTED,), Outcome.UNTESTABLE),
    ],
)
def test_a_named_check(verdicts: tuple[CheckVerdict, ...], expected: Outcome) -> None:
    assert outcome(with_checks(*verdicts)) is expected


def test_another_check_that_fails_is_not_the_one_looked_for() -> None:
    other = factories.check("full_info.readable", FAIL)
    assert outcome(factories.failing(PASSED, factories.check(CHECK), other)) is Outcome.GOOD


def test_a_check_that_failed_before_a_crash_is_bad() -> None:
    crashed = replace(with_checks(FAIL, LOST), verdict=KernelVerdict.CRASH, reason="panic")
    assert outcome(crashed) is Outcome.BAD


def test_a_crash_before_the_check_told_anything_is_neither() -> None:
    crashed = replace(with_checks(LOST, LOST), verdict=KernelVerdict.CRASH, reason="panic")
    judged = Checks((CHECK,)).judge(crashed)
    assert judged.outcome is Outcome.UNTESTABLE
    assert "panic" in judged.why


@pytest.mark.parametrize(
    "verdict", [KernelVerdict.LOST, KernelVerdict.BOOT_FAILURE, KernelVerdict.INFRASTRUCTURE]
)
@pytest.mark.parametrize("wanted", [Checks((CHECK,)), HasIncident("kasan:a")], ids=str)
def test_nothing_that_a_broken_boot_said_is_believed(
    verdict: KernelVerdict, wanted: predicate.Predicate
) -> None:
    assert wanted.judge(replace(with_checks(FAIL), verdict=verdict)).outcome is Outcome.UNTESTABLE


def test_a_known_issue_is_a_failure_all_the_same() -> None:
    known = replace(factories.check(CHECK, FAIL), known="until 2027: it is slow")
    assert outcome(factories.failing(PASSED, known)) is Outcome.BAD


def test_a_glob_matches_several_checks() -> None:
    assert outcome(with_checks(FAIL, id="mptcp_info.other"), "mptcp_info.*") is Outcome.BAD


@pytest.mark.parametrize(
    ("present", "verdict", "expected"),
    [
        (True, CheckVerdict.PASS, Outcome.GOOD),
        (True, FAIL, Outcome.GOOD),  # the manifest says that it is absent
        (False, FAIL, Outcome.BAD),
        (False, UNSUPPORTED, Outcome.BAD),
    ],
)
def test_a_capability_goes_by_its_presence(
    present: bool, verdict: CheckVerdict, expected: Outcome
) -> None:
    result = factories.failing(
        replace(PASSED, capabilities={"full_info": present}),
        factories.capability("full_info", Family.IPV4, verdict),
    )
    assert outcome(result, "capability.full_info") is expected


def test_a_capability_that_the_guest_did_not_speak_of_is_not_absent() -> None:
    check = factories.capability("full_info", Family.IPV4, LOST)
    result = factories.failing(replace(PASSED, capabilities={}), check)
    assert outcome(result, "capability.full_info") is Outcome.UNTESTABLE


def test_a_kernel_without_mptcp_is_neither_good_nor_bad() -> None:
    assert outcome(factories.debian_5_10(), "capability.full_info") is Outcome.UNTESTABLE


CRASHED = factories.crashed(PASSED)
(PANIC,) = CRASHED.incidents


@pytest.mark.parametrize("fingerprint", [PANIC.fingerprint, PANIC.fingerprint[:5]])
def test_an_incident_is_found_by_its_fingerprint(fingerprint: str) -> None:
    assert HasIncident(fingerprint).judge(CRASHED).outcome is Outcome.BAD


def test_a_kernel_tested_to_its_end_without_the_incident_is_good() -> None:
    assert HasIncident(PANIC.fingerprint).judge(with_checks(FAIL)).outcome is Outcome.GOOD


def test_another_crash_hides_whether_the_incident_would_have_come() -> None:
    assert HasIncident("kasan:a:b").judge(CRASHED).outcome is Outcome.UNTESTABLE


def test_a_beginning_of_two_fingerprints_names_neither() -> None:
    two = (replace(PANIC, fingerprint="kasan:a"), replace(PANIC, fingerprint="kasan:b"))
    judged = HasIncident("kasan:").judge(replace(CRASHED, incidents=two))
    assert judged.outcome is Outcome.UNTESTABLE
    assert "kasan:a, kasan:b" in judged.why


@pytest.mark.parametrize("verdict", list(KernelVerdict), ids=str)
def test_any_means_any_failure_of_a_kernel_that_started(verdict: KernelVerdict) -> None:
    silent = (
        KernelVerdict.BOOT_FAILURE,
        KernelVerdict.INFRASTRUCTURE,
        KernelVerdict.UNSUPPORTED,
    )
    expected = Outcome.GOOD if verdict is KernelVerdict.PASS else Outcome.BAD
    if verdict in silent:
        expected = Outcome.UNTESTABLE
    assert Anything().judge(replace(PASSED, verdict=verdict)).outcome is expected


def test_what_differs_is_what_fails_on_the_one_and_passes_on_the_other() -> None:
    good = factories.failing(
        PASSED, factories.check("a.a"), factories.check("b.b", FAIL), factories.check("c.c")
    )
    bad = factories.failing(
        PASSED, *(factories.check(id, FAIL) for id in ("a.a", "b.b", "d.d")), factories.check("c.c")
    )
    assert predicate.difference([good], [bad]) == Checks(("a.a",))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"check": "a.*, b.c"}, "--check a.*,b.c"),
        ({"incident": "kasan:a"}, "--incident kasan:a"),
        ({"anything": True}, "--any"),
        ({}, "None"),
    ],
)
def test_the_command_lines_words_make_it(given: dict[str, str], said: str) -> None:
    assert str(predicate.of(**given)) == said  # type: ignore[arg-type]
