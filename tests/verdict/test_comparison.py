# SPDX-License-Identifier: GPL-2.0-only
"""What differs between two results, check by check; and that nothing is not taken for alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.verdict import comparison
from harness.verdict.comparison import ChangeKind
from harness.verdict.results import (
    CheckResult,
    Confirmed,
    EarlierRun,
    Incident,
    IncidentKind,
    KernelResult,
    Timing,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from tests import factories

PASS, FAIL, LOST, ERROR, UNSUPPORTED = (
    CheckVerdict.PASS,
    CheckVerdict.FAIL,
    CheckVerdict.LOST,
    CheckVerdict.ERROR,
    CheckVerdict.UNSUPPORTED,
)
KNOWN = "known until 2027-01-31: the backport is incomplete"


def with_checks(*checks: CheckResult, verdict: KernelVerdict | None = None) -> KernelResult:
    """A kernel with just ``checks``, judged as they are."""
    bad = any(check.weight.is_bad for check in checks)
    return replace(
        factories.kernel(),
        verdict=verdict or (KernelVerdict.FAIL if bad else KernelVerdict.PASS),
        reason="a check fails" if bad else "",
        capabilities={},
        families=factories.families(*checks),
    )


def warning(fingerprint: str, known: str = "") -> Incident:
    return Incident(
        IncidentKind.WARNING, f"WARNING at {fingerprint}", fingerprint, "excerpt", known=known
    )


def test_a_kernel_does_not_differ_from_itself() -> None:
    difference = comparison.kernels(factories.kernel(), factories.kernel())
    assert difference.is_same
    assert not difference.is_worse


@pytest.mark.parametrize(
    ("before", "after", "kind", "worse"),
    [
        (PASS, FAIL, ChangeKind.FAILING, True),
        (UNSUPPORTED, FAIL, ChangeKind.FAILING, True),
        (LOST, FAIL, ChangeKind.FAILING, True),
        (ERROR, FAIL, ChangeKind.FAILING, True),
        (PASS, LOST, ChangeKind.LOST, True),
        (UNSUPPORTED, LOST, ChangeKind.LOST, True),
        (FAIL, LOST, ChangeKind.LOST, False),
        (PASS, ERROR, ChangeKind.ERROR, True),
        (FAIL, ERROR, ChangeKind.ERROR, False),
        (PASS, UNSUPPORTED, ChangeKind.UNSUPPORTED, True),
        (FAIL, UNSUPPORTED, ChangeKind.UNSUPPORTED, False),
        (FAIL, PASS, ChangeKind.PASSING, False),
        (LOST, PASS, ChangeKind.PASSING, False),
        (UNSUPPORTED, PASS, ChangeKind.SUPPORTED, False),
    ],
)
def test_a_check_that_changed_is_told_by_its_kind(
    before: CheckVerdict, after: CheckVerdict, kind: ChangeKind, worse: bool
) -> None:
    difference = comparison.kernels(
        with_checks(factories.check(verdict=before)), with_checks(factories.check(verdict=after))
    )
    (change,) = difference.changes
    assert change.kind is kind
    assert change.is_worse is worse
    assert difference.is_worse is worse


@pytest.mark.parametrize("verdict", list(CheckVerdict))
def test_a_check_that_is_as_it_was_is_no_change(verdict: CheckVerdict) -> None:
    kernel = with_checks(factories.check(verdict=verdict))
    assert comparison.kernels(kernel, kernel).changes == ()


def test_a_check_is_told_once_with_all_places_of_which_it_changed_at() -> None:
    good = factories.everywhere(factories.check())
    bad = [replace(c, verdict=FAIL) if c.key.side == "client" else c for c in good]
    (change,) = comparison.kernels(with_checks(*good), with_checks(*bad)).changes
    assert len(change.places) == 9
    assert change.compared == 18
    assert {after.key.side for _, after in change.places} == {"client"}


def test_what_fails_in_both_is_named_and_not_new() -> None:
    kernel = with_checks(factories.check(verdict=FAIL))
    difference = comparison.kernels(kernel, kernel)
    assert difference.still == ("mptcp_info.readable",)
    assert not difference.is_worse


def test_a_failure_that_is_known_is_not_newly_wrong() -> None:
    known = replace(factories.check(verdict=FAIL), known=KNOWN)
    difference = comparison.kernels(with_checks(factories.check()), with_checks(known))
    assert [change.kind for change in difference.changes] == [ChangeKind.KNOWN]
    assert not difference.is_worse


def test_a_failure_that_is_known_no_longer_makes_the_kernel_worse() -> None:
    known = replace(factories.check(verdict=FAIL), known=KNOWN)
    difference = comparison.kernels(with_checks(known), with_checks(factories.check(verdict=FAIL)))
    assert [change.kind for change in difference.changes] == [ChangeKind.COUNTING]
    assert difference.is_worse


def test_a_failure_that_is_known_no_longer_is_worse_beside_another_one() -> None:
    other = factories.check("a.b", FAIL)
    known = replace(factories.check(verdict=FAIL), known=KNOWN)
    before = replace(with_checks(known, other), verdict=KernelVerdict.FAIL)
    after = replace(with_checks(replace(known, known=""), other), verdict=KernelVerdict.FAIL)
    assert comparison.kernels(before, after).is_worse


def capabilities(**details: tuple[CheckVerdict, str]) -> KernelResult:
    return with_checks(
        factories.check(),
        *(
            factories.capability(name, family, verdict, detail=detail)
            for name, (verdict, detail) in details.items()
            for family in Family
        ),
    )


def test_a_lost_capability_is_worse_even_where_it_was_not_expected() -> None:
    difference = comparison.kernels(
        capabilities(full_info=(PASS, "")), capabilities(full_info=(UNSUPPORTED, "EOPNOTSUPP"))
    )
    (lost,) = difference.lost
    assert (lost.name, lost.families, lost.after_detail) == (
        "full_info",
        (Family.IPV4, Family.IPV6),
        "EOPNOTSUPP",
    )
    assert difference.changes == ()  # it is not told twice
    assert difference.is_worse


def test_a_gained_capability_is_not_worse() -> None:
    difference = comparison.kernels(
        capabilities(full_info=(UNSUPPORTED, "EOPNOTSUPP")), capabilities(full_info=(PASS, ""))
    )
    assert [change.name for change in difference.gained] == ["full_info"]
    assert not difference.is_worse


def test_a_capability_lost_in_one_family_is_lost() -> None:
    whole = capabilities(full_info=(PASS, ""))
    half = with_checks(
        factories.check(),
        factories.capability("full_info", Family.IPV4),
        factories.capability("full_info", Family.IPV6, UNSUPPORTED, detail="ENOPROTOOPT"),
    )
    assert [c.families for c in comparison.kernels(whole, half).lost] == [(Family.IPV6,)]


def test_an_expected_capability_that_is_gone_is_lost_and_failing() -> None:
    gone = with_checks(
        factories.check(),
        *(
            factories.capability(
                "full_info", family, FAIL, expected="present", got="absent: EOPNOTSUPP"
            )
            for family in Family
        ),
    )
    (lost,) = comparison.kernels(capabilities(full_info=(PASS, "")), gone).lost
    assert lost.failing
    assert lost.after_detail == "EOPNOTSUPP"


def test_a_capability_whose_answer_changed_is_told_and_not_worse() -> None:
    difference = comparison.kernels(
        capabilities(mptcp_info=(PASS, "96 bytes")), capabilities(mptcp_info=(PASS, "80 bytes"))
    )
    (altered,) = difference.altered
    assert (altered.before_detail, altered.after_detail) == ("96 bytes", "80 bytes")
    assert not difference.is_worse
    assert not difference.is_same


def test_a_capability_that_the_guest_did_not_tell_is_lost_as_a_check_not_as_a_capability() -> None:
    difference = comparison.kernels(
        capabilities(full_info=(PASS, "")), capabilities(full_info=(LOST, "the guest did not say"))
    )
    assert difference.lost == ()
    assert [change.kind for change in difference.changes] == [ChangeKind.LOST]
    assert difference.is_worse


def test_a_capability_of_the_whole_kernel_counts_too() -> None:
    before = replace(factories.kernel(), capabilities={"host_thing": True})
    after = replace(factories.kernel(), capabilities={"host_thing": False})
    assert [change.name for change in comparison.kernels(before, after).lost] == ["host_thing"]


def test_incidents_are_matched_by_their_fingerprints() -> None:
    before = replace(factories.kernel(), incidents=(warning("a"), warning("b")))
    after = replace(factories.kernel(), incidents=(warning("b"), warning("c"), warning("c")))
    difference = comparison.kernels(before, after)
    assert [incident.fingerprint for incident in difference.new_incidents] == ["c"]
    assert [incident.fingerprint for incident in difference.gone_incidents] == ["a"]
    assert difference.is_worse


def test_an_incident_that_is_known_is_not_new() -> None:
    after = replace(factories.kernel(), incidents=(warning("a", KNOWN),))
    assert not comparison.kernels(factories.kernel(), after).is_worse


def test_an_incident_that_is_known_no_longer_is_new() -> None:
    before = replace(factories.kernel(), incidents=(warning("a"), warning("b", KNOWN)))
    after = replace(factories.kernel(), incidents=(warning("a"), warning("b")))
    difference = comparison.kernels(before, after)
    assert [incident.fingerprint for incident in difference.new_incidents] == ["b"]


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (KernelVerdict.PASS, KernelVerdict.CRASH, True),
        (KernelVerdict.PASS, KernelVerdict.WARNING, True),
        (KernelVerdict.UNSUPPORTED, KernelVerdict.HANG, True),
        (KernelVerdict.FAIL, KernelVerdict.BOOT_FAILURE, True),
        (KernelVerdict.UNSUPPORTED, KernelVerdict.PASS, False),
        (KernelVerdict.PASS, KernelVerdict.UNSUPPORTED, False),
        (KernelVerdict.CRASH, KernelVerdict.FAIL, False),
        (KernelVerdict.CRASH, KernelVerdict.CRASH, False),
    ],
)
def test_a_worse_verdict_alone_is_worse(
    before: KernelVerdict, after: KernelVerdict, worse: bool
) -> None:
    difference = comparison.kernels(
        replace(factories.kernel(), verdict=before, families={}),
        replace(factories.kernel(), verdict=after, families={}),
    )
    assert difference.is_worse is worse


@pytest.mark.parametrize("swapped", [False, True])
def test_what_was_not_tested_is_compared_with_nothing(swapped: bool) -> None:
    unknown = KernelResult.infrastructure("debian-6.1", "QEMU died")
    pair = (unknown, factories.kernel())
    difference = comparison.kernels(*(reversed(pair) if swapped else pair))
    assert difference.cannot == "debian-6.1 could not be tested: QEMU died"
    assert not difference.is_same
    assert not difference.is_worse


def test_only_the_common_part_is_compared() -> None:
    one, two = factories.check("a.one"), factories.check("b.two")
    three = factories.check("c.three", FAIL)
    difference = comparison.kernels(with_checks(one, two), with_checks(two, three))
    assert difference.changes == ()
    assert [key.id for key in difference.only_before] == ["a.one"]
    assert [key.id for key in difference.only_after] == ["c.three"]


def test_a_failure_of_what_was_not_tested_before_is_said_and_not_called_worse() -> None:
    one, two = factories.check("a.one"), factories.check("b.two", FAIL)
    difference = comparison.kernels(with_checks(one), with_checks(one, two))
    assert difference.verdict_is_of_the_rest
    assert not difference.is_worse


def test_a_crash_before_the_plan_is_worse_though_no_check_is_common() -> None:
    crashed = replace(factories.kernel(), verdict=KernelVerdict.CRASH, families={})
    assert comparison.kernels(factories.kernel(), crashed).is_worse


def test_kernels_without_a_common_check_cannot_be_compared() -> None:
    difference = comparison.kernels(
        with_checks(factories.check("a.one")), with_checks(factories.check("b.two"))
    )
    assert "no check in common" in difference.cannot


def test_times_are_given_with_their_ratio() -> None:
    slow = replace(factories.kernel(), timing=Timing(boot_s=7.82, checks_s=2.246))
    boot, checks = comparison.kernels(factories.kernel(), slow).paces
    assert boot.ratio == pytest.approx(2.0)
    assert checks.ratio == pytest.approx(1.0)


def test_a_time_that_is_not_known_has_no_ratio() -> None:
    reused = replace(
        factories.kernel(),
        timing=Timing(),
        reused_from=EarlierRun("20260801-000000-abcdef", "2026-08-01T00:00:00Z", 1, ""),
    )
    difference = comparison.kernels(reused, factories.kernel())
    assert difference.paces[0].ratio is None
    assert any("20260801-000000-abcdef" in note for note in difference.notes)


def test_another_accelerator_is_noted() -> None:
    kvm = replace(factories.kernel(), accel="kvm")
    notes = comparison.kernels(kvm, factories.kernel()).notes
    assert "KVM before, TCG after: times are not comparable" in notes


def test_a_flaky_result_is_noted() -> None:
    flaky = replace(factories.kernel(), confirmed=Confirmed(4, 1))
    notes = comparison.kernels(factories.kernel(), flaky).notes
    assert "confirmed after: flaky 1 of 4 boots" in notes


# Runs.


def test_kernels_of_runs_are_matched_by_name() -> None:
    before = factories.run(factories.kernel("a"), factories.kernel("gone"))
    after = factories.run(factories.kernel("new"), factories.crashed(factories.kernel("a")))
    difference = comparison.runs(before, after)
    assert [kernel.after.name for kernel in difference.kernels] == ["a"]
    assert [kernel.name for kernel in difference.new] == ["new"]
    assert difference.gone == ("gone",)
    assert difference.is_worse


def test_equal_runs_are_complete_and_not_worse() -> None:
    run = factories.run(*factories.four_kernels())
    difference = comparison.runs(run, run)
    assert difference.is_complete
    assert not difference.is_worse


def test_a_new_kernel_that_is_bad_is_newly_wrong() -> None:
    crashed = factories.crashed(factories.kernel("new"))
    difference = comparison.runs(
        factories.run(factories.kernel()), factories.run(factories.kernel(), crashed)
    )
    assert difference.is_worse


@pytest.mark.parametrize(
    "after",
    [
        factories.run(factories.kernel("a"), KernelResult.infrastructure("b", "the disk is full")),
        factories.run(factories.kernel("a"), KernelResult.infrastructure("new", "QEMU died")),
        replace(factories.run(factories.kernel("a")), interrupted=True, missing=("b",)),
        factories.run(factories.kernel("elsewhere")),
    ],
    ids=["untested", "new and untested", "interrupted", "no common kernel"],
)
def test_what_could_not_be_compared_makes_runs_incomplete(after: object) -> None:
    before = factories.run(factories.kernel("a"), factories.kernel("b"))
    assert not comparison.runs(before, after).is_complete  # type: ignore[arg-type]


def test_a_kernel_that_an_interrupted_run_did_not_get_to_is_not_gone() -> None:
    before = factories.run(factories.kernel("a"), factories.kernel("b"))
    after = replace(factories.run(factories.kernel("a")), interrupted=True, missing=("b",))
    difference = comparison.runs(before, after)
    assert difference.gone == ()
    assert difference.missing == ("b",)


def test_another_qemu_is_noted() -> None:
    run = factories.run(factories.kernel())
    notes = comparison.runs(run, replace(run, qemu="9.0.1")).notes
    assert notes == ("QEMU 7.2.22 before, 9.0.1 after",)
