# SPDX-License-Identifier: GPL-2.0-only
"""Which fixes a kernel lacks, and what that makes of a failure."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest

from guest.checks import all_checks
from harness.manifest import fixes
from harness.manifest.expectations import CAPABILITIES
from harness.manifest.fixes import Fix
from harness.manifest.fixes_table import FIXES
from harness.verdict import judge
from harness.verdict.results import CheckKey, CheckResult, MissingFix
from harness.verdict.verdicts import CheckVerdict, Family

FIX = Fix(
    "8c3963375988",
    "mptcp: sockopt: fix getting IPV6_V6ONLY",
    fixed="6.15",
    backports=("6.12.24", "6.1.135"),
    since="5.9",
    checks=("ipv6_v6only.*",),
)
BOOKWORM = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.{}-1 (2026-11-01)"


@pytest.mark.parametrize(
    ("release", "version", "missing"),
    [
        ("6.12.23", "", True),
        ("6.12.24", "", False),
        ("6.12.117+deb13-amd64", "", False),
        ("6.13.5", "", True),  # a series that got no backport
        ("6.15.0", "", False),
        ("6.15.0-rc1", "", False),
        ("7.3.4", "", False),
        ("5.8.0", "", False),  # before the bug
        ("5.9.0", "", True),
        ("6.1.0-50-amd64", BOOKWORM.format(134), True),
        ("6.1.0-50-amd64", BOOKWORM.format(135), False),
        ("6.1.0-50-amd64", "#1 SMP", False),  # which stable release it is, is hidden
        ("5.15.0-91-generic", "#101-Ubuntu SMP", True),  # no stable release of 5.15 has it
        ("my-kernel", "", False),
    ],
)
def test_a_kernel_lacks_a_fix_by_its_stable_release(
    release: str, version: str, missing: bool
) -> None:
    assert fixes.lacking([FIX], release, version, {}) == ((FIX,) if missing else ())


@pytest.mark.parametrize("release", ["6.12.23", "7.3.4", "my-kernel"])
def test_the_manifest_has_the_last_word(release: str) -> None:
    assert fixes.lacking([FIX], release, "", {FIX.commit: False}) == (FIX,)
    assert fixes.lacking([FIX], release, "", {FIX.commit: True}) == ()


def check(id: str, verdict: CheckVerdict, known: str = "") -> CheckResult:
    return CheckResult(CheckKey(Family.IPV6, id, "states", "fresh", "client"), verdict, known=known)


def judged(*checks: CheckResult) -> CheckVerdict:
    families = {Family.IPV6: judge.family_result(checks)}
    return fixes.excuse(families, [FIX])[Family.IPV6].verdict


def test_a_failure_that_a_missing_fix_explains_is_known() -> None:
    good = check("payload.content", CheckVerdict.PASS)
    bad = check("ipv6_v6only.get", CheckVerdict.FAIL)
    assert judged(good, bad) is CheckVerdict.PASS
    excused = fixes.excuse({Family.IPV6: judge.family_result([good, bad])}, [FIX])
    assert [c.known for c in excused[Family.IPV6].checks] == [
        "",
        "known bug of this kernel, fixed in 6.15 by 8c3963375988 "
        "(mptcp: sockopt: fix getting IPV6_V6ONLY)",
    ]


@pytest.mark.parametrize("verdict", [CheckVerdict.ERROR, CheckVerdict.LOST])
def test_a_check_that_broke_or_was_lost_is_not_known(verdict: CheckVerdict) -> None:
    assert judged(check("ipv6_v6only.get", verdict)) is verdict


def test_a_failure_of_another_check_counts() -> None:
    assert judged(check("ip_tos.get", CheckVerdict.FAIL)) is CheckVerdict.FAIL


def test_a_known_issue_of_the_users_stays_what_it_is() -> None:
    bad = check("ipv6_v6only.get", CheckVerdict.FAIL, known="until 2027")
    excused = fixes.excuse({Family.IPV6: judge.family_result([bad])}, [FIX])
    assert excused[Family.IPV6].checks == (bad,)


def test_only_a_fix_that_a_check_shows_is_missing() -> None:
    bad = check("ipv6_v6only.get", CheckVerdict.FAIL)
    passed = replace(bad, verdict=CheckVerdict.PASS)
    shown = MissingFix(FIX.commit, FIX.title, "6.15", ("ipv6_v6only.get",))
    assert fixes.shown_missing({Family.IPV6: judge.family_result([bad])}, [FIX]) == (shown,)
    assert fixes.shown_missing({Family.IPV6: judge.family_result([passed])}, [FIX]) == ()


def test_an_absent_capability_shows_a_missing_fix() -> None:
    absent = check("capability.transparent_get", CheckVerdict.UNSUPPORTED)
    fix = replace(FIX, checks=("capability.transparent_get",))
    families = {Family.IPV6: judge.family_result([absent])}
    assert [found.checks for found in fixes.shown_missing(families, [fix])] == [
        ("capability.transparent_get",)
    ]
    other = replace(absent, key=replace(absent.key, id="ipv6_v6only.get"))
    assert fixes.shown_missing({Family.IPV6: judge.family_result([other])}, [FIX]) == ()


def test_a_kernel_without_mptcp_shows_no_missing_fix() -> None:
    absent = check("capability.transparent_get", CheckVerdict.UNSUPPORTED)
    mptcp = check("capability.mptcp", CheckVerdict.UNSUPPORTED)
    fix = replace(FIX, checks=("capability.transparent_get",))
    families = {Family.IPV6: judge.family_result([mptcp, absent])}
    assert fixes.shown_missing(families, [fix]) == ()


@pytest.mark.parametrize("fix", FIXES, ids=lambda fix: fix.commit)
def test_the_table_is_well_formed(fix: Fix) -> None:
    assert re.fullmatch("[0-9a-f]{12}", fix.commit)
    assert re.fullmatch(r"[0-9]+\.[0-9]+", fix.fixed)
    assert all(re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", text) for text in fix.backports)
    assert fix.since == "" or re.fullmatch(r"[0-9]+\.[0-9]+", fix.since)
    assert fix.checks


def test_no_fix_stands_twice_in_the_table() -> None:
    commits = [fix.commit for fix in FIXES]
    assert len(set(commits)) == len(commits)


def test_every_pattern_of_the_table_names_a_check() -> None:
    known = [check.id for check in all_checks()]
    known += [f"{judge.CAPABILITY}{name}" for name in CAPABILITIES]
    idle = [
        pattern
        for fix in FIXES
        for pattern in fix.checks
        if not any(fnmatchcase(id, pattern) for id in known)
    ]
    assert idle == []
