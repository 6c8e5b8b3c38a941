# SPDX-License-Identifier: GPL-2.0-only
"""What is known is shown and does not count, until its day, and only where it was tested."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest

from harness.manifest import known_issues
from harness.manifest.entries import Abi
from harness.manifest.kernels_yaml import ImageSource, KernelEntry, ManifestError
from harness.manifest.known_issues import Applied, KnownIssue, KnownIssues, apply, idle, load
from harness.records import to_json
from harness.records.from_json import kernel_from_json
from harness.report import table
from harness.verdict import judge
from harness.verdict.results import (
    MAX_INCIDENTS,
    Attempt,
    BootEnd,
    Capability,
    CheckResult,
    Incident,
    IncidentKind,
    KernelResult,
    RunResult,
    Stream,
    exit_status,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from tests import factories

TODAY = datetime.date(2026, 8, 4)
DAY = datetime.timedelta(days=1)
NAME, RELEASE = "debian-6.12", "6.12.107+deb13-amd64"
READABLE = "mptcp_info.readable"
KNOWN = KnownIssue("it is slow", "net", TODAY + DAY, "issues.yaml:2", check=READABLE)
WARN = Incident(IncidentKind.WARNING, "WARNING in f", "warning:f:g:h", "excerpt")
KNOWN_WARN = KnownIssue("harmless", "net", TODAY, "issues.yaml:9", fingerprint=WARN.fingerprint)
FAILED = factories.check(READABLE, CheckVerdict.FAIL, detail="wrong")
PASSED = factories.check("payload.arrives")
MPTCP = Capability("mptcp", Family.IPV4, True)


def expired(issue: KnownIssue) -> KnownIssue:
    return replace(issue, expires=TODAY - DAY)


def applied(
    checks: list[CheckResult], incidents: list[Incident], *issues: KnownIssue, name: str = NAME
) -> Applied:
    families = factories.families(*checks)
    return apply(families, incidents, issues, name, RELEASE, TODAY, Abi.NATIVE)


def test_an_issue_of_32_bit_programs_is_none_of_others() -> None:
    issue = replace(KNOWN, abi=Abi.I386)
    families = factories.families(FAILED)
    for abi, known in ((Abi.I386, True), (Abi.NATIVE, False)):
        (result,) = apply(families, (), [issue], NAME, RELEASE, TODAY, abi).families.values()
        assert any(check.known for check in result.checks) is known
        assert issue.covers(NAME, RELEASE, abi) is known


def kernel(
    checks: list[CheckResult],
    *issues: KnownIssue,
    incidents: tuple[Incident, ...] = (),
    end: BootEnd = BootEnd.POWERED_OFF,
    taint: int = 0,
    name: str = NAME,
) -> KernelResult:
    """The result of a boot that gave ``checks`` and ``incidents``."""
    seen = applied(checks, list(incidents), *issues, name=name)
    stream = Stream(said_hello=True, closed=True, capabilities=(MPTCP,), new_taint=taint)
    attempt = Attempt(1, end, kernel_spoke=True, stream=stream, incidents=seen.incidents)
    verdict, reason = judge.kernel(attempt, seen.families)
    return replace(
        factories.kernel(name, RELEASE),
        verdict=verdict,
        reason=reason,
        families=seen.families,
        incidents=seen.incidents,
        attempts=(attempt,),
        notes=seen.notes,
    )


def run(*kernels: KernelResult) -> RunResult:
    return replace(factories.run(), kernels=kernels)


# What does not count.


def test_a_known_failure_does_not_count() -> None:
    result = kernel([PASSED, FAILED], KNOWN)
    assert (result.verdict, result.reason) == (KernelVerdict.PASS, "1 known issue")
    assert exit_status(run(result)) == 0


def test_a_known_failure_stays_a_failure_and_says_why_it_does_not_count() -> None:
    issue = replace(KNOWN, link="https://example.org/1")
    (check,) = kernel([FAILED], issue).families[Family.IPV4].checks
    assert check.verdict is CheckVerdict.FAIL
    assert check.known == "known until 2026-08-05: it is slow (https://example.org/1, net)"


def test_a_family_whose_only_failure_is_known_passes() -> None:
    assert kernel([FAILED], KNOWN).families[Family.IPV4].verdict is CheckVerdict.PASS


def test_another_failure_still_counts() -> None:
    other = factories.check("sockopt.other", CheckVerdict.FAIL, detail="broken")
    result = kernel([FAILED, other], KNOWN)
    assert result.verdict is KernelVerdict.FAIL
    assert result.reason == "sockopt.other: broken; 1 known issue"


@pytest.mark.parametrize("verdict", [CheckVerdict.ERROR, CheckVerdict.LOST])
def test_what_is_known_to_fail_may_not_break_or_be_lost(verdict: CheckVerdict) -> None:
    assert kernel([PASSED, replace(FAILED, verdict=verdict)], KNOWN).verdict is KernelVerdict.FAIL


def test_a_known_warning_does_not_count() -> None:
    result = kernel([PASSED], KNOWN_WARN, incidents=(WARN,))
    assert (result.verdict, result.reason) == (KernelVerdict.PASS, "1 known issue")


def test_the_taint_of_a_known_warning_does_not_count() -> None:
    assert kernel([PASSED], KNOWN_WARN, incidents=(WARN,), taint=512).verdict is KernelVerdict.PASS


def test_a_taint_that_no_known_warning_leaves_counts() -> None:
    result = kernel([PASSED], KNOWN_WARN, incidents=(WARN,), taint=512 | 4096)
    assert result.verdict is KernelVerdict.WARNING
    assert "0x1000" in result.reason


def test_a_new_warning_counts_beside_a_known_one() -> None:
    new = replace(WARN, title="WARNING in x", fingerprint="warning:x")
    result = kernel([PASSED], KNOWN_WARN, incidents=(WARN, new))
    assert (result.verdict, result.reason) == (
        KernelVerdict.WARNING,
        "WARNING in x; 1 known issue",
    )


def test_on_a_console_with_more_reports_than_are_kept_none_is_known() -> None:
    many = [replace(WARN, fingerprint=f"warning:f{n}") for n in range(MAX_INCIDENTS)]
    result = kernel([PASSED], replace(KNOWN_WARN, fingerprint="*"), incidents=tuple(many))
    assert (result.verdict, result.known) == (KernelVerdict.WARNING, ())
    assert result.notes == ("50 reports, and perhaps more: none counts as known",)


def test_a_known_crash_stays_a_crash() -> None:
    oops = replace(WARN, kind=IncidentKind.OOPS, title="oops in f")
    result = kernel([PASSED], KNOWN_WARN, incidents=(oops,))
    assert (result.verdict, result.reason) == (KernelVerdict.CRASH, "oops in f; 1 known issue")
    assert result.incidents[0].known


def test_a_hang_with_a_known_lockup_stays_a_hang() -> None:
    lockup = replace(WARN, kind=IncidentKind.SOFT_LOCKUP)
    result = kernel([PASSED], KNOWN_WARN, incidents=(lockup,), end=BootEnd.SILENCE_DEADLINE)
    assert result.verdict is KernelVerdict.HANG


def test_a_kernel_known_to_have_lost_mptcp_is_unsupported_and_not_as_expected() -> None:
    lost_it = factories.capability("mptcp", Family.IPV4, CheckVerdict.FAIL)
    result = kernel([lost_it], replace(KNOWN, check="capability.*"))
    assert (result.verdict, "none was expected" in result.reason) == (
        KernelVerdict.UNSUPPORTED,
        False,
    )


# What an entry is about.


@pytest.mark.parametrize(
    ("patterns", "covers"),
    [
        (("*",), True),
        (("debian-6.12",), True),
        (("6.12.*",), True),
        (("6.1.*", "debian-*"), True),
        (("6.1",), False),
        (("Debian-*",), False),
    ],
)
def test_kernels_are_covered_by_name_or_release(patterns: tuple[str, ...], covers: bool) -> None:
    result = kernel([PASSED, FAILED], replace(KNOWN, kernels=patterns))
    assert result.verdict.as_expected is covers


@pytest.mark.parametrize(
    ("check", "family", "known"),
    [
        (READABLE, None, True),
        ("mptcp_info.*", Family.IPV4, True),
        ("mptcp_info.*", Family.IPV6, False),
        ("tcpinfo.*", None, False),
        ("mptcp_info", None, False),
    ],
)
def test_checks_are_known_by_pattern_and_family(
    check: str, family: Family | None, known: bool
) -> None:
    result = kernel([PASSED, FAILED], replace(KNOWN, check=check, family=family))
    assert result.verdict.as_expected is known


@pytest.mark.parametrize(
    ("fingerprint", "known"),
    [("warning:f:g:h", True), ("warning:f:*", True), ("warning:g*", False), ("warning:f", False)],
)
def test_reports_are_known_by_fingerprint(fingerprint: str, known: bool) -> None:
    issue = replace(KNOWN_WARN, fingerprint=fingerprint)
    assert kernel([PASSED], issue, incidents=(WARN,)).verdict.as_expected is known


def test_a_fingerprint_is_known_to_the_letter_even_where_it_looks_like_a_pattern() -> None:
    odd = replace(WARN, fingerprint="warning:[f]")
    issue = replace(KNOWN_WARN, fingerprint="warning:[f]")
    assert kernel([PASSED], issue, incidents=(odd,)).verdict is KernelVerdict.PASS


# The day.


def test_an_issue_is_known_on_its_last_day() -> None:
    assert kernel([PASSED, FAILED], replace(KNOWN, expires=TODAY)).verdict is KernelVerdict.PASS


def test_past_its_day_an_issue_counts_and_says_that_it_was_known() -> None:
    result = kernel([PASSED, FAILED], expired(KNOWN))
    assert (result.verdict, result.known) == (KernelVerdict.FAIL, ())
    assert result.notes == ("mptcp_info.readable was known until 2026-08-03: it is slow (net)",)


def test_past_its_day_a_warning_counts_again() -> None:
    result = kernel([PASSED], expired(KNOWN_WARN), incidents=(WARN,))
    assert result.verdict is KernelVerdict.WARNING
    assert result.notes == ("warning:f:g:h was known until 2026-08-03: harmless (net)",)


def test_an_entry_that_still_holds_outweighs_one_that_has_expired() -> None:
    result = kernel([PASSED, FAILED], expired(KNOWN), KNOWN)
    assert (result.verdict, result.notes) == (KernelVerdict.PASS, ())


# Bugs that all kernels have, by the checks.

BUG = known_issues.of_all_kernels()[0]
ENTRY = KernelEntry(NAME, ImageSource(Path("bzImage")), "kernels.yaml:1")


def of_bug(verdict: CheckVerdict) -> list[CheckResult]:
    return [
        replace(FAILED, key=replace(FAILED.key, family=family, id=BUG.check), verdict=verdict)
        for family in Family
    ]


def test_a_bug_of_all_kernels_is_known_without_any_file() -> None:
    result = kernel(of_bug(CheckVerdict.FAIL), *KnownIssues(TODAY).of(ENTRY))
    assert result.verdict is KernelVerdict.PASS
    (check,) = result.families[Family.IPV4].checks
    assert BUG.reason in check.known
    assert "docs/findings.md" in check.known


def test_it_counts_once_nobody_has_looked_at_it_for_long() -> None:
    late = known_issues.LOOK_AGAIN + datetime.timedelta(days=1)
    failing = factories.families(*of_bug(CheckVerdict.FAIL))
    seen = apply(failing, (), (BUG,), NAME, RELEASE, late, Abi.NATIVE)
    assert seen.families[Family.IPV4].verdict is CheckVerdict.FAIL


@pytest.mark.parametrize(
    ("checks", "incidents", "may"),
    [
        ([PASSED], (), False),
        ([PASSED, FAILED], (), True),
        ([replace(FAILED, verdict=CheckVerdict.ERROR)], (), False),
        ([PASSED], (WARN,), True),
    ],
    ids=["all pass", "one fails", "one is broken", "the kernel warns"],
)
def test_issues_are_asked_for_where_one_may_apply(
    checks: list[CheckResult], incidents: tuple[Incident, ...], may: bool
) -> None:
    assert known_issues.may_apply(factories.families(*checks), incidents) is may


def test_its_repair_is_reported() -> None:
    passing = replace(kernel(of_bug(CheckVerdict.PASS)), release="7.4.0-rc1", version="")
    (note,) = KnownIssues(TODAY).idle([ENTRY], [passing], narrowed=True)
    assert note.startswith(f"known issue for {BUG.check} on * no longer occurs")
    assert f"remove the entry `bug` of {BUG.check}" in note


@pytest.mark.parametrize("release", ["6.1.0-50-amd64", "7.3.0-4-amd64", "7.3.4", "unversioned"])
def test_an_older_kernel_without_it_has_no_repair(release: str) -> None:
    passing = replace(kernel(of_bug(CheckVerdict.PASS)), release=release, version="")
    assert KnownIssues(TODAY).idle([ENTRY], [passing], narrowed=True) == ()


# What no longer occurs.

BOTH = [replace(FAILED, key=replace(FAILED.key, family=family)) for family in Family]
BOTH_PASS = [replace(check, verdict=CheckVerdict.PASS) for check in BOTH]
GONE = (
    "known issue for mptcp_info.readable on * no longer occurs, tried on debian-6.12: "
    "remove the entry issues.yaml:2"
)


def test_an_issue_that_no_longer_occurs_is_reported() -> None:
    assert idle([KNOWN], [kernel(BOTH_PASS, KNOWN)], TODAY) == (GONE,)


def test_so_is_one_that_has_expired() -> None:
    (note,) = idle([expired(KNOWN)], [kernel(BOTH_PASS)], TODAY)
    assert note == f"{GONE} (it expired on 2026-08-03)"


def test_an_intermittent_issue_is_idle_only_once_it_has_expired() -> None:
    now_and_then = replace(KNOWN, intermittent=True)
    assert idle([now_and_then], [kernel(BOTH_PASS)], TODAY) == ()
    assert idle([expired(now_and_then)], [kernel(BOTH_PASS)], TODAY)


def test_an_issue_that_occurs_on_one_of_its_kernels_is_not_idle() -> None:
    kernels = [kernel(BOTH_PASS, name="a"), kernel(BOTH, name="b")]
    assert idle([KNOWN], kernels, TODAY) == ()


def test_an_issue_of_a_check_that_was_not_run_is_not_idle() -> None:
    assert idle([KNOWN], [kernel([PASSED])], TODAY) == ()


def test_an_issue_that_was_tried_in_one_family_alone_is_not_idle() -> None:
    assert idle([KNOWN], [kernel(BOTH_PASS[:1])], TODAY) == ()


def test_an_issue_of_one_family_is_idle_where_that_passes() -> None:
    assert idle([replace(KNOWN, family=Family.IPV4)], [kernel(BOTH_PASS[:1])], TODAY)


def test_an_issue_of_a_kernel_that_was_not_tested_is_not_idle() -> None:
    assert idle([replace(KNOWN, kernels=("other",))], [kernel(BOTH_PASS)], TODAY) == ()


@pytest.mark.parametrize(
    "verdict", [v for v in KernelVerdict if v not in known_issues._WHOLE], ids=str
)
def test_a_boot_that_was_cut_short_makes_nothing_idle(verdict: KernelVerdict) -> None:
    cut = replace(kernel(BOTH_PASS), verdict=verdict)
    assert idle([KNOWN, KNOWN_WARN], [cut], TODAY) == ()


def test_a_report_that_stays_away_is_idle() -> None:
    (note,) = idle([KNOWN_WARN], [kernel([PASSED])], TODAY)
    assert note.startswith("known issue for warning:f:g:h on * no longer occurs")


FILE = Path("/issues.yaml")
NAMED = KernelEntry(NAME, ImageSource(Path("/x")), "here", known_issues=FILE)
LISTS = KnownIssues(TODAY, {FILE: (KNOWN, KNOWN_WARN)})


def test_in_a_run_of_some_checks_a_report_that_stays_away_is_not_idle() -> None:
    assert LISTS.idle([NAMED], [kernel(BOTH_PASS)], narrowed=True) == (GONE,)


def test_a_kernel_that_names_no_file_makes_nothing_idle() -> None:
    bare = replace(NAMED, name="bare", known_issues=None)
    assert LISTS.idle([NAMED, bare], [kernel(BOTH_PASS, name="bare")], narrowed=False) == ()


# What is shown, and kept.


def test_the_table_shows_what_is_known() -> None:
    result = kernel([PASSED, FAILED], KNOWN, KNOWN_WARN, incidents=(WARN,))
    text = table.render(run(result), width=120, colour=False, unicode=True)
    assert "pass, 2 known" in text
    assert "mptcp_info.readable: fail at 1 of 1 place, known" in text
    assert "until 2026-08-05: it is slow (net)" in text
    assert "warning: WARNING in f, known" in text
    assert "until 2026-08-04: harmless (net)" in text
    assert "all as expected" not in text.splitlines()[0]


def test_the_table_shows_what_is_idle() -> None:
    text = table.render(replace(run(), notes=(GONE,)), width=200, colour=False, unicode=True)
    assert f"note: {GONE}" in text


def test_what_is_known_survives_json() -> None:
    result = kernel([PASSED, FAILED], KNOWN, KNOWN_WARN, incidents=(WARN,))
    again = kernel_from_json(to_json.kernel_to_json(result))
    assert (again.known, again.families, again.incidents) == (
        result.known,
        result.families,
        result.incidents,
    )


def test_a_result_depends_on_what_is_known_and_whether_it_has_expired() -> None:
    digests = {
        known_issues.digest([KNOWN], NAME, TODAY),
        known_issues.digest([KNOWN], NAME, KNOWN.expires + DAY),
        known_issues.digest([KNOWN], "other", TODAY),
        known_issues.digest([replace(KNOWN, reason="it is fast")], NAME, TODAY),
        known_issues.digest([KNOWN, KNOWN_WARN], NAME, TODAY),
    }
    assert len(digests) == 5


def test_a_result_does_not_depend_on_the_day_before_anything_expires() -> None:
    moved = replace(KNOWN, where="elsewhere:7")
    assert known_issues.digest([KNOWN], NAME, TODAY) == known_issues.digest(
        [moved], NAME, TODAY - 9 * DAY
    )


# The file.

GOOD = """\
known_issues:
  - check: mptcp_info.*
    family: ipv6
    kernels: [debian-6.1*, 6.12.*]
    reason: >-
      the backport
      is incomplete
    link: https://example.org/issues/1
    owner: Net Team <net@example.org>
    expires: 2027-01-31
  - {fingerprint: "warning:f:*", reason: harmless, owner: net, expires: 2026-12-31, kernels: a,
     intermittent: true}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "issues.yaml"


def test_a_file_is_read(file: Path) -> None:
    file.write_text(GOOD)
    assert load(file) == (
        KnownIssue(
            check="mptcp_info.*",
            family=Family.IPV6,
            kernels=("debian-6.1*", "6.12.*"),
            reason="the backport is incomplete",
            link="https://example.org/issues/1",
            owner="Net Team <net@example.org>",
            expires=datetime.date(2027, 1, 31),
            where=f"{file}:2",
        ),
        KnownIssue(
            fingerprint="warning:f:*",
            kernels=("a",),
            reason="harmless",
            owner="net",
            expires=datetime.date(2026, 12, 31),
            intermittent=True,
            where=f"{file}:11",
        ),
    )


def test_an_empty_list_knows_nothing(file: Path) -> None:
    file.write_text("known_issues: []\n")
    assert load(file) == ()


BAD = """\
known_issues:
  - check: a.b
    owner: net
    expires: 2027-01-31
  - check: a.b
    reason: "  "
    owner: [net]
    expires: 31.1.2027
    kernels: []
    link: ftp://example.org
    familiy: ipv4
  - {reason: r, owner: o, expires: 2027-02-30}
  - {check: c, fingerprint: f, reason: r, owner: o, expires: 2027-01-31, family: ip}
  - {fingerprint: f, family: ipv4, reason: r, owner: o, expires: 2027-01-31}
  - text
  - {check: c, kernels: [a, ""], reason: r, owner: "a\\eb", expires: 2027-01-31, reason: twice}
  - {check: c, reason: r, owner: o, expires: 2027-01-31, intermittent: yes}
  - {check: c, abi: x32, reason: r, owner: o, expires: 2027-01-31}
other: 1
"""
ERRORS = """\
2:5: known_issues[0]: the key 'reason' is missing; expected why this is accepted for now
6:13: known_issues[1].reason: expected why this is accepted for now, found nothing
7:12: known_issues[1].owner: expected who answers for it, found a list
8:14: known_issues[1].expires: expected the last day on which the issue is known, such as \
2027-01-31, found '31.1.2027'
9:14: known_issues[1].kernels: an empty list; give a kernel, or omit the key for all
10:11: known_issues[1].link: expected a link such as https://example.org/issue/1, found \
'ftp://example.org'
11:5: known_issues[1].familiy: unknown key, did you mean 'family'?
12:5: known_issues[2]: neither 'check' nor 'fingerprint'; give one of them
12:36: known_issues[2].expires: '2027-02-30' is not a date: day is out of range for month; \
expected the last day on which the issue is known, such as 2027-01-31
13:16: known_issues[3].fingerprint: both a fingerprint and a check; write two entries
13:82: known_issues[3].family: expected ipv4 or ipv6, found 'ip'; omit it for both
14:22: known_issues[4].family: a report of the kernel belongs to no family; remove it
15:5: known_issues[5]: expected a mapping with 'check' or 'fingerprint', and 'reason', 'owner' \
and 'expires', found 'text'
16:29: known_issues[6].kernels[1]: expected a kernel's name or release, or a pattern, found nothing
16:52: known_issues[6].owner: expected who answers for it, found 'a\\x1bb' with unprintable \
characters
16:81: known_issues[6].reason: a key given twice, first on line 16; keep one
17:72: known_issues[7].intermittent: expected true or false, spelled exactly so, found 'yes'
18:21: known_issues[8].abi: expected native or i386, found 'x32'; omit it for both
19:1: other: unknown key; known here: known_issues
"""


def errors_of(file: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load(file)
    return [error.removeprefix(f"{file}:") for error in caught.value.errors]


def test_all_errors_of_a_file_come_at_once_with_their_places(file: Path) -> None:
    file.write_text(BAD)
    assert errors_of(file) == ERRORS.splitlines()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "1:1: the file: the file is empty; write 'known_issues:' and a list under it"),
        (
            "[]",
            "1:1: the file: expected a mapping with a list under 'known_issues', found a list",
        ),
        (
            "known_issues: yes",
            "1:15: known_issues: expected a list, each item such as "
            "'- check: mptcp_info.readable' with 'reason' under it, found 'yes'",
        ),
        (
            "known_issues:\n- {kernels: *}\n",
            "2:14: the file: not valid YAML: while scanning an alias, expected alphabetic or "
            "numeric character, but found '}'; quote a value that begins with '*'",
        ),
        ("x: 1", "1:1: the file: the key 'known_issues' is missing; expected a list, each item"),
    ],
)
def test_a_file_of_another_shape_is_refused(file: Path, text: str, error: str) -> None:
    file.write_text(text)
    assert errors_of(file)[0].startswith(error)


def test_a_file_that_is_gone_is_an_error(file: Path) -> None:
    assert errors_of(file)[0].startswith(
        " the known issues cannot be read: No such file or directory"
    )


def test_the_errors_of_all_files_come_at_once(tmp_path: Path) -> None:
    entries = [replace(NAMED, known_issues=tmp_path / name) for name in ("a", "b", "a")]
    with pytest.raises(ManifestError) as caught:
        KnownIssues.read(entries)
    assert len(caught.value.errors) == 2
