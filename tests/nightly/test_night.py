# SPDX-License-Identifier: GPL-2.0-only
"""What a night amounts to: its exit status and its one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.nightly.results import Compared, Night, Selftest
from harness.selftest.faults import FaultRow
from harness.verdict import comparison
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests import factories

GOOD = factories.kernel()
BAD = factories.failing(GOOD, factories.check(verdict=CheckVerdict.FAIL), factories.check("a.b"))
OTHER = factories.failing(
    GOOD, factories.check("a.b", CheckVerdict.FAIL), factories.check(verdict=CheckVerdict.FAIL)
)
ANOTHER_CHECK = replace(GOOD, families=factories.families(factories.check("other.check")))
ANOTHER_CHECK_FAILS = factories.failing(GOOD, factories.check("other.check", CheckVerdict.FAIL))
UNTESTED = KernelResult.infrastructure(GOOD.name, "the disk is full")
SEEN = FaultRow("panic", "crash", "crash", KernelVerdict.CRASH, 3.0)
MISSED = replace(SEEN, got="pass", verdict=KernelVerdict.PASS, objection="a panic passed")
NO_BOOT = replace(MISSED, verdict=KernelVerdict.INFRASTRUCTURE)

NOT_POSSIBLE = replace(SEEN, fault="oops", impossible="it has no modules")
NO_GOOD_KERNEL = replace(MISSED, fault="none", verdict=KernelVerdict.FAIL)


def night(
    now: KernelResult, before: KernelResult | None = GOOD, selftest: Selftest | None = None
) -> Night:
    compared = (Compared(comparison.kernels(before, now), "earlier", "then"),) if before else ()
    return Night(
        "kernels.yaml",
        selftest or Selftest(skipped=True),
        factories.run(now),
        compared,
        () if before else (now,),
    )


@pytest.mark.parametrize(
    ("now", "before", "status"),
    [
        pytest.param(GOOD, GOOD, 0, id="good as before"),
        pytest.param(GOOD, BAD, 0, id="mended"),
        pytest.param(GOOD, None, 0, id="good at first"),
        pytest.param(BAD, GOOD, 1, id="newly bad"),
        pytest.param(BAD, None, 1, id="bad at first"),
        pytest.param(BAD, BAD, 0, id="as bad as before"),
        pytest.param(OTHER, BAD, 1, id="bad in another way"),
        pytest.param(UNTESTED, GOOD, 3, id="not tested"),
        pytest.param(UNTESTED, None, 3, id="never tested"),
    ],
)
def test_the_status_is_0_only_when_nothing_new_is_wrong(
    now: KernelResult, before: KernelResult | None, status: int
) -> None:
    assert night(now, before).status == status


@pytest.mark.parametrize(("now", "status"), [(ANOTHER_CHECK, 3), (ANOTHER_CHECK_FAILS, 1)])
def test_a_kernel_that_cannot_be_compared_with_its_last_result_spoils_a_good_night(
    now: KernelResult, status: int
) -> None:
    """Fails if the status ignores the kernels that are not comparable."""
    found = night(now)
    assert [c.kernel for c in found.incomparable] == [now]
    assert found.status == status


@pytest.mark.parametrize(
    ("selftest", "status"),
    [
        pytest.param(Selftest((SEEN, SEEN), 2), 0, id="all seen"),
        pytest.param(Selftest((SEEN, MISSED), 2), 1, id="a fault not seen"),
        pytest.param(Selftest((SEEN, NO_BOOT), 2), 3, id="a boot that failed"),
        pytest.param(Selftest((SEEN, NOT_POSSIBLE), 2), 0, id="a fault not possible here"),
        pytest.param(Selftest((NO_GOOD_KERNEL,), 2), 3, id="no kernel passes"),
        pytest.param(Selftest((SEEN,), 2), 3, id="cut short"),
        pytest.param(Selftest(wanted=2, trouble="no QEMU"), 3, id="not possible"),
        pytest.param(Selftest((), 0, trouble="no QEMU"), 3, id="not possible, nothing wanted"),
    ],
)
def test_a_selftest_that_is_not_whole_spoils_a_good_night(selftest: Selftest, status: int) -> None:
    assert night(GOOD, selftest=selftest).status == status


def test_a_regression_outweighs_a_kernel_that_was_not_tested() -> None:
    found = night(BAD)
    both = replace(found, run=factories.run(BAD, replace(UNTESTED, name="other")))
    assert both.status == 1


def test_an_interrupted_night_says_so_whatever_it_found() -> None:
    found = night(BAD)
    assert replace(found, run=replace(found.run, interrupted=True)).status == 130


def test_a_night_without_kernels_is_no_good_one() -> None:
    assert Night("kernels.yaml", Selftest(skipped=True), factories.run()).status == 3


def test_the_summary_counts_what_is_new_and_what_is_as_before() -> None:
    assert night(BAD).summary == "1 newly wrong"
    assert night(BAD, BAD).summary == "nothing is newly wrong, 1 still wrong"
    assert night(GOOD, BAD).summary == "nothing is newly wrong, 1 mended"
    assert night(UNTESTED).summary == "nothing is newly wrong, 1 not tested"
