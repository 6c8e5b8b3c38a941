# SPDX-License-Identifier: GPL-2.0-only
"""What differs, as text: only that, in few lines, and a last one that sums it up."""

from __future__ import annotations

import json
from dataclasses import replace

from harness.records import to_json
from harness.report import compare as report
from harness.report.terminal import ASCII, UNICODE
from harness.verdict import comparison
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import CheckVerdict, Family
from tests import factories
from tests.report import hostile

FAIL, UNSUPPORTED = CheckVerdict.FAIL, CheckVerdict.UNSUPPORTED


def broken_option() -> tuple[KernelResult, KernelResult]:
    """One kernel, and another in which one check fails wherever it runs."""
    good = [r for f in Family for r in factories.everywhere(factories.check(family=f))]
    other = [factories.check("tcpinfo.one_subflow", family=family) for family in Family]
    bad = [
        replace(r, verdict=FAIL, detail="the size is wrong", expected="96", got="95") for r in good
    ]
    before = replace(factories.kernel(), families=factories.families(*good, *other))
    return before, factories.failing(factories.kernel("patched"), *bad, *other)


def test_a_broken_option_is_one_failure_in_both_families_and_nothing_else() -> None:
    text = report.render(comparison.kernels(*broken_option()), ASCII)
    assert text == (
        "debian-6.12 (6.12.107+deb13-amd64) -> patched (6.12.107+deb13-amd64)\n"
        "  verdict: pass -> fail\n"
        "    now: 1 checks did not pass\n"
        "  newly failing:\n"
        "    mptcp_info.readable at 36 of 36 places: ipv4,ipv6 byte,segment,stream "
        "established,transferred,closed client,server\n"
        "      what     the size is wrong\n"
        "      expected 96\n"
        "      got      95\n"
        "  boot 3.9 s -> 3.9 s (x1.00); checks 2.2 s -> 2.2 s (x1.00)\n"
        "  note: both are the same image\n"
        "worse: pass before, fail now, 1 check newly failing\n"
    )


def test_lost_capabilities_come_with_the_kernels_answer() -> None:
    before, after = (
        replace(
            factories.kernel(),
            families=factories.families(
                *(
                    factories.capability("full_info", family, verdict, detail=detail)
                    for family in Family
                )
            ),
        )
        for verdict, detail in ((CheckVerdict.PASS, ""), (UNSUPPORTED, "EOPNOTSUPP"))
    )
    lines = report.render(comparison.kernels(before, after), ASCII).splitlines()
    assert lines[1:3] == ["  capabilities lost:", "    full_info: EOPNOTSUPP"]
    assert lines[-1] == "worse: 1 capability lost"


def test_nothing_that_differs_is_said_to_be_so() -> None:
    difference = comparison.kernels(factories.kernel(), factories.kernel())
    assert report.sentence(difference, ASCII) == "no difference"


def test_where_less_was_compared_no_difference_is_said_of_that_only() -> None:
    less = replace(factories.kernel(), families=factories.families(factories.check()))
    difference = comparison.kernels(factories.kernel(), less)
    assert report.sentence(difference, ASCII) == "no difference in the checks that both ran"


def test_what_cannot_be_compared_is_not_called_alike() -> None:
    unknown = KernelResult.infrastructure("debian-6.1", "QEMU died")
    text = report.render(comparison.kernels(factories.kernel(), unknown), ASCII)
    assert "no difference" not in text
    assert text.endswith("cannot be compared: debian-6.1 could not be tested: QEMU died\n")


def test_a_new_crash_is_shown_with_its_excerpt() -> None:
    difference = comparison.kernels(factories.kernel(), factories.crashed(factories.kernel()))
    text = report.render(difference, UNICODE)
    assert "  new incidents:\n    panic: Kernel panic - not syncing" in text
    assert "      [    4.102231] sysrq: Trigger a crash\n" in text


def test_nothing_foreign_reaches_the_terminal_unescaped() -> None:
    evil = replace(
        hostile.run().kernels[0],
        incidents=(replace(hostile.run().kernels[0].incidents[0], known=""),),
    )
    for pair in ((factories.kernel(), evil), (evil, factories.kernel())):
        text = report.render(comparison.kernels(*pair), UNICODE)
        assert all(char.isprintable() or char == "\n" for char in text)
    runs = comparison.runs(factories.run(evil), replace(hostile.run(), kernels=(evil,)))
    text = report.render_runs(runs, UNICODE)
    assert all(char.isprintable() or char == "\n" for char in text)


def test_runs_that_are_alike_take_three_lines() -> None:
    run = factories.run(*factories.four_kernels())
    lines = report.render_runs(comparison.runs(run, run), ASCII).splitlines()
    assert [line for line in lines if line][2:] == ["4 kernels compared; 4 the same"]


def test_runs_name_each_kernel_under_what_became_of_it() -> None:
    before = factories.run(
        *factories.four_kernels(), factories.kernel("gone"), factories.kernel("later")
    )
    after = replace(
        factories.run(
            factories.debian_5_10(),
            KernelResult.infrastructure("debian-6.1", "QEMU died"),
            factories.crashed(factories.kernel()),
            factories.kernel("new"),
        ),
        interrupted=True,
        missing=("later",),
    )
    lines = report.render_runs(comparison.runs(before, after), ASCII).splitlines()
    assert "new (6.12.107+deb13-amd64): new, pass" in lines
    assert "gone: debian-newest, gone" in lines
    assert "not tested: later" in lines
    assert lines[-1] == (
        "3 kernels compared; worse: debian-6.12; not comparable: debian-6.1; 1 the same"
    )


def test_as_json_it_holds_each_change_with_its_places() -> None:
    told = report.to_json(comparison.kernels(*broken_option()))
    value = json.loads(json.dumps(to_json.clean(told)))
    (change,) = value["checks"]
    assert (change["id"], change["change"], len(change["places"])) == (
        "mptcp_info.readable",
        "newly failing",
        36,
    )
    assert value["worse"] is True
