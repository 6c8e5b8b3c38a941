# SPDX-License-Identifier: GPL-2.0-only
"""Whether a program that ran in the same boot agrees with the checks. It changes no verdict."""

from __future__ import annotations

from harness.verdict.results import (
    CheckVerdict,
    CrossCheck,
    Family,
    FamilyResult,
    ProgramEnd,
    ProgramRun,
)

#: The exit status of a kernel selftest that could not test (KSFT_SKIP of kselftest.h).
SKIP = 4
_MAX_LINE = 160


def compare(
    program: str, family: Family, run: ProgramRun | None, checks: FamilyResult | None
) -> CrossCheck:
    """What ``program`` says of ``family``, of which the checker says ``checks``.

    Exit status 0 says that all is well, any other end but a skip that it is not. A failure that is
    known is as a pass, as it is for the verdict.
    """
    run = run or ProgramRun(ProgramEnd.LOST)
    how = _how(run)
    verdict = CheckVerdict.UNSUPPORTED if checks is None else checks.verdict
    skipped = run.end is ProgramEnd.EXIT and run.status == SKIP
    if run.end in (ProgramEnd.LOST, ProgramEnd.NOT_RUN) or skipped:
        return CrossCheck(program, family, run, None, how)
    succeeded = run.end is ProgramEnd.EXIT and run.status == 0
    if succeeded == (verdict is CheckVerdict.PASS):
        return CrossCheck(program, family, run, True, f"{how}, agrees")
    if verdict is CheckVerdict.UNSUPPORTED:
        said = "no check could be run"
    elif succeeded:
        assert checks is not None
        bad = dict.fromkeys(check.key.id for check in checks.checks if check.weight.is_bad)
        said = f"the checks fail: {', '.join(list(bad)[:4])}"
    else:
        said = "the checks pass"
    return CrossCheck(program, family, run, False, f"disagrees: {how}; {said}")


def _how(run: ProgramRun) -> str:
    """In words; the last line of the output where that may say why."""
    lines = [line.strip() for line in run.output.splitlines() if line.strip()]
    last = f" ({lines[-1][:_MAX_LINE]})" if lines else ""
    if run.end is ProgramEnd.EXIT:
        what = f"exit {run.status}"
        return (
            f"{what}, skipped{last}" if run.status == SKIP else what + (last if run.status else "")
        )
    if run.end is ProgramEnd.SIGNAL:
        return f"killed by signal {run.status}{last}"
    if run.end is ProgramEnd.DEADLINE:
        return f"ended at its deadline, after {run.seconds:.0f} s{last}"
    if run.end is ProgramEnd.NOT_RUN:
        return f"the guest could not run it{last}"
    return "lost: the guest did not say how it ended"
