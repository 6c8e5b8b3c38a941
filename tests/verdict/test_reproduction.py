# SPDX-License-Identifier: GPL-2.0-only
"""Whether a failure is the same as another."""

from __future__ import annotations

from dataclasses import replace

from harness.verdict.failures import Again, compare, symptoms
from harness.verdict.results import Incident, IncidentKind, KernelResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from tests import factories

GOOD = factories.kernel()


def failing(*names: str, verdict: CheckVerdict = CheckVerdict.FAIL) -> KernelResult:
    return factories.failing(GOOD, *(factories.check(name, verdict) for name in names))


def keys(result: KernelResult) -> list[str]:
    return sorted(symptom.key for symptom in symptoms(result))


def ended(verdict: KernelVerdict, *incidents: Incident) -> KernelResult:
    return replace(failing("a.b", verdict=CheckVerdict.LOST), verdict=verdict, incidents=incidents)


WARNING = Incident(IncidentKind.WARNING, "WARNING at net/x.c:1", "f00d", "...")


def test_a_check_that_fails_again_is_the_same() -> None:
    assert compare(failing("a.b"), failing("a.b")).again is Again.SAME


def test_where_a_check_fails_within_a_family_does_not_matter() -> None:
    elsewhere = factories.failing(GOOD, factories.check("a.b", CheckVerdict.FAIL, side="server"))
    assert compare(failing("a.b"), elsewhere).again is Again.SAME


def test_the_other_family_is_another_failure() -> None:
    other = factories.failing(GOOD, factories.check("a.b", CheckVerdict.FAIL, family=Family.IPV6))
    assert compare(failing("a.b"), other).again is Again.OTHER


def test_what_came_what_went_and_what_stayed_is_told_apart() -> None:
    found = compare(failing("a.b", "a.c"), failing("a.b", "a.d"))
    assert found.again is Again.PARTLY
    assert [symptom.text for symptom in found.same] == ["ipv4 a.b"]
    assert [symptom.text for symptom in found.gone] == ["ipv4 a.c"]
    assert [symptom.text for symptom in found.new] == ["ipv4 a.d"]


def test_a_pass_is_no_failure() -> None:
    assert compare(failing("a.b"), GOOD).again is Again.GONE


def test_infrastructure_tells_nothing() -> None:
    nothing = KernelResult.infrastructure("k", "QEMU died")
    assert compare(failing("a.b"), nothing).again is Again.UNTESTED


def test_a_crash_is_known_by_its_fingerprint_alone() -> None:
    """Which checks are lost depends on the moment."""
    crashed = factories.crashed(GOOD)
    assert keys(crashed) == ["incident 5e2b1a60c9d4f783"]


def test_another_crash_is_another_failure() -> None:
    crashed = factories.crashed(GOOD)
    other = replace(crashed, incidents=(replace(crashed.incidents[0], fingerprint="0" * 16),))
    assert compare(crashed, other).again is Again.OTHER


def test_a_hang_is_known_by_the_check_that_hung() -> None:
    assert keys(ended(KernelVerdict.HANG)) == ["hang in ipv4 a.b"]


def test_an_end_without_closing_event_is_known_as_that() -> None:
    assert keys(ended(KernelVerdict.LOST)) == ["lost"]


def test_a_report_that_is_known_is_no_part_of_the_failure() -> None:
    known = replace(WARNING, known="known until 2030-01-01: ...")
    assert keys(replace(failing("a.b"), incidents=(known,))) == ["check ipv4 a.b"]


def test_a_report_is_known_by_its_fingerprint() -> None:
    assert keys(replace(GOOD, verdict=KernelVerdict.WARNING, incidents=(WARNING,))) == [
        "incident f00d"
    ]


def test_a_bad_verdict_without_more_is_a_symptom_itself() -> None:
    assert keys(replace(GOOD, verdict=KernelVerdict.WARNING)) == ["warning"]


def test_a_check_that_was_lost_counts_where_the_boot_came_to_its_end() -> None:
    assert keys(failing("a.b", verdict=CheckVerdict.LOST)) == ["check ipv4 a.b"]
