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
