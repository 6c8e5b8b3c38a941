# SPDX-License-Identifier: GPL-2.0-only
"""What a program's end means beside the verdict of the checks."""

from __future__ import annotations

import pytest

from harness.manifest.cross_check import compare
from harness.verdict.results import CheckKey, CheckResult, FamilyResult, ProgramEnd, ProgramRun
from harness.verdict.verdicts import CheckVerdict, Family

KEY = CheckKey(Family.IPV6, "tos.x", "", "", "")
PASS = FamilyResult(CheckVerdict.PASS, (CheckResult(KEY, CheckVerdict.PASS),))
FAIL = FamilyResult(CheckVerdict.FAIL, (CheckResult(KEY, CheckVerdict.FAIL),))
GONE = FamilyResult(CheckVerdict.UNSUPPORTED, ())
GOOD = ProgramRun(ProgramEnd.EXIT)
BAD = ProgramRun(ProgramEnd.EXIT, 1, output="a line\nsockopt.c:7: assert\n\n")


@pytest.mark.parametrize(
    ("run", "checks", "agrees", "detail"),
    [
        (GOOD, PASS, True, "exit 0, agrees"),
        (BAD, FAIL, True, "exit 1 (sockopt.c:7: assert), agrees"),
        (BAD, PASS, False, "disagrees: exit 1 (sockopt.c:7: assert); the checks pass"),
        (GOOD, FAIL, False, "disagrees: exit 0; the checks fail: tos.x"),
        (GOOD, GONE, False, "disagrees: exit 0; no check could run"),
        (BAD, GONE, True, "exit 1 (sockopt.c:7: assert), agrees"),
        (BAD, None, True, "exit 1 (sockopt.c:7: assert), agrees"),
        (
            *(ProgramRun(ProgramEnd.SIGNAL, 6), PASS, False),
            "disagrees: killed by signal 6; the checks pass",
        ),
        (
            *(ProgramRun(ProgramEnd.DEADLINE, seconds=60.2), PASS, False),
            "disagrees: ended at its deadline, after 60 s; the checks pass",
        ),
        (ProgramRun(ProgramEnd.EXIT, 4, output="no x"), FAIL, None, "exit 4, skipped (no x)"),
        (
            *(ProgramRun(ProgramEnd.NOT_RUN, output="Exec format error"), PASS, None),
            "the guest could not run it (Exec format error)",
        ),
        (None, PASS, None, "lost: the guest did not report how it ended"),
    ],
)
def test_a_program_is_compared_with_the_checks_of_its_family(
    run: ProgramRun | None, checks: FamilyResult | None, agrees: bool | None, detail: str
) -> None:
    found = compare("mptcp_sockopt -6", Family.IPV6, run, checks)
    assert (found.agrees, found.detail) == (agrees, detail)
    assert str(found) == f"cross-check: mptcp_sockopt -6: {detail}"
