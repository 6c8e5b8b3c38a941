# SPDX-License-Identifier: GPL-2.0-only
"""The matrix of the HTML report, and its compatibility map."""

from __future__ import annotations

from dataclasses import replace

from guest import checks as guest_checks
from harness.report.features import feature_map
from harness.report.overview import (
    CAPABILITIES_LEFT,
    OTHER,
    Mark,
    answer,
    group_of,
    overview,
)
from harness.verdict import comparison
from harness.verdict.results import KernelResult, MissingFix
from harness.verdict.verdicts import CheckVerdict, Family
from tests import factories


def test_nearly_every_check_has_a_group() -> None:
    ids = [check.id for check in guest_checks.all_checks()]
    left = [check for check in ids if group_of(check) == OTHER]
    assert len(left) <= len(ids) // 50, left


def test_there_are_few_enough_columns_for_1280_pixels() -> None:
    results = [factories.check(check.id) for check in guest_checks.all_checks()]
    kernel = factories.failing(factories.kernel(), *results)
    shown = overview(factories.run(kernel))
    assert len(shown.capabilities) + len(shown.groups) <= 27


def test_a_group_shows_its_worst_check_and_how_many_there_are() -> None:
    results = [
        factories.check("mptcp_info.a", CheckVerdict.FAIL),
        factories.check("mptcp_info.a", CheckVerdict.PASS, family=Family.IPV6),
        factories.check("mptcp_info.b", CheckVerdict.FAIL),
        factories.check("mptcp_info.c"),
        replace(factories.check("poll.a", CheckVerdict.FAIL), known="known until then"),
    ]
    shown = overview(factories.run(factories.failing(factories.kernel(), *results)))
    cells = dict(zip(shown.groups, shown.rows[0].cells[len(shown.capabilities) :], strict=True))
    assert (cells["MPTCP_INFO"].mark, cells["MPTCP_INFO"].symbol) == (Mark.FAIL, "✗2")
    assert (cells["poll and signals"].mark, cells["poll and signals"].symbol) == (Mark.KNOWN, "~")


def test_a_capability_without_a_column_is_not_hidden() -> None:
    absent = factories.capability("tcp_inq", Family.IPV4, CheckVerdict.FAIL)
    shown = overview(factories.run(factories.failing(factories.kernel(), absent)))
    assert "tcp_inq" not in shown.capabilities
    assert shown.groups[CAPABILITIES_LEFT] == ("capability.tcp_inq",)
    assert shown.rows[0].cells[-1].mark is Mark.FAIL


def test_a_kernel_that_was_not_tested_is_not_called_good() -> None:
    run = factories.run(factories.kernel(), KernelResult.infrastructure("x", "no memory"))
    said = answer(run, overview(run), None)
    assert said.sentence == "Every kernel that was tested is as expected."
    assert not said.good
    assert "1 of 2 kernels is not tested: x" in said.more


def test_the_map_says_from_which_kernel_on() -> None:
    features = feature_map(factories.run(*reversed(factories.four_kernels())))
    assert [kernel.name for kernel in features.kernels] == [
        *("debian-5.10", "debian-6.1", "debian-6.12", "debian-newest"),
    ]
    found = {feature.name: feature for feature in features.capabilities}
    assert found["mptcp"].from_on == "from debian-6.1 on"
    assert found["full_info"].from_on == "from debian-6.12 on"
    assert found["full_info"].since == "6.5"
    assert found["full_info"].there == (None, False, True, True)


def test_a_repair_counts_only_where_its_checks_ran() -> None:
    fix = MissingFix("0123456789ab", "mptcp: fix it", "6.7", ("poll.woken",))
    lacks = replace(factories.debian_6_1(), missing_fixes=(fix,))
    repaired = replace(
        factories.kernel(), families=factories.families(factories.check("poll.woken"))
    )
    features = feature_map(factories.run(lacks, repaired, factories.kernel("other", "7.3.4")))
    (repair,) = features.repairs
    assert repair.there == (False, True, None)
    assert repair.from_on == "from debian-6.12 on"


def test_what_is_newly_wrong_is_above_what_was_wrong_before() -> None:
    crashed = factories.crashed(factories.kernel("crashed"))
    good = replace(factories.kernel(), families=factories.families(factories.check()))
    bad = factories.failing(good, factories.check(verdict=CheckVerdict.FAIL))
    run = factories.run(crashed, bad)
    shown = overview(run, comparison.runs(factories.run(crashed, good), run))
    assert [row.kernel.name for row in shown.rows] == [bad.name, "crashed"]
    assert [bool(row.new) for row in shown.rows] == [True, False]
