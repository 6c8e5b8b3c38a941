# SPDX-License-Identifier: GPL-2.0-only
"""Missing fixes as text and as JSON."""

from __future__ import annotations

from dataclasses import replace

from harness.report import fixes, table
from harness.report.terminal import UNICODE
from harness.verdict.results import KernelResult, MissingFix
from harness.verdict.verdicts import KernelVerdict
from tests import factories

TITLE = "mptcp: sockopt: fix getting IPV6_V6ONLY"
FIX = MissingFix("8c3963375988", TITLE, "6.15", ("ipv6_v6only.get",))


def lacking(*missing: MissingFix) -> KernelResult:
    return replace(factories.kernel(), missing_fixes=missing)


def test_each_kernel_has_its_fixes_with_the_checks_that_show_them() -> None:
    assert fixes.render_fixes([lacking(FIX), factories.kernel("good")], UNICODE) == (
        "debian-6.12 (6.12.107+deb13-amd64): 1 fix missing\n"
        f"  8c3963375988 (6.15) {TITLE}: ipv6_v6only.get\n"
        "good (6.12.107+deb13-amd64): 0 fixes missing\n"
    )


def test_a_kernel_that_was_not_tested_says_so() -> None:
    crashed = replace(lacking(), verdict=KernelVerdict.CRASH, families={})
    assert fixes.render_fixes([crashed], UNICODE) == "debian-6.12: not tested (crash)\n"


def test_many_checks_are_counted() -> None:
    many = replace(FIX, checks=tuple(f"check.{number}" for number in range(5)))
    assert fixes.fix_line(many, UNICODE).endswith("check.0, check.1, check.2 and 2 more checks")


def test_nothing_that_a_terminal_obeys_comes_through() -> None:
    hostile = replace(FIX, title="\x1b[2J", checks=("\x1b[2J",), commit="\x1b[2J")
    assert "\x1b" not in fixes.render_fixes([lacking(hostile)], UNICODE)


def test_the_json_has_every_field() -> None:
    (kernel,) = fixes.fixes_to_json([lacking(FIX)])["kernels"]
    assert (kernel["name"], kernel["verdict"]) == ("debian-6.12", "pass")
    assert kernel["missing_fixes"] == [
        {
            "commit": "8c3963375988",
            "title": TITLE,
            "fixed_in": "6.15",
            "checks": ("ipv6_v6only.get",),
        }
    ]


def test_the_table_names_the_first_fixes_and_the_command_for_all() -> None:
    run = replace(factories.run(), kernels=(lacking(*[FIX] * 7),))
    text = table.render(run, width=200, colour=False, unicode=True)
    assert text.count("8c3963375988") == 5
    assert "2 more fixes; `mptcp-harness missing-fixes debian-6.12` lists all" in text
