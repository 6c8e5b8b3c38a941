# SPDX-License-Identifier: GPL-2.0-only
"""A run as KTAP 1, read back by its grammar."""

from __future__ import annotations

import importlib
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.report import ktap
from harness.verdict.results import CheckResult, KernelResult, Phase, RunResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests import factories
from tests.report import hostile

# As tools/testing/kunit/kunit_parser.py reads a result: no # in the name, and then " # ".
RESULT = re.compile(
    r"(not )?ok ([0-9]+) - ([^#]*[^# ])( # ((SKIP|XFAIL|TIMEOUT|ERROR)( .*)?|time=[0-9]+ms))?"
)
#: A checkout of the kernel, for its own parser; the unpacked source of a distribution does too.
TREE = "MPTCP_HARNESS_KERNEL_TREE"
PARSER = Path("tools/testing/kunit/kunit_parser.py")


def check_grammar(lines: list[str], depth: int = 0) -> None:
    """A version, a plan, and that many results in order, each after its subtests, if any."""
    indent = "  " * depth
    own = [line for line in lines if not line.startswith(indent + " ")]
    assert own[0] == f"{indent}KTAP version 1"
    plan = re.fullmatch(rf"{indent}1\.\.([0-9]+)", own[1])
    assert plan is not None
    numbers, nested = [], []
    for line in lines[2:]:
        if line.startswith(indent + " "):
            nested.append(line)
        elif line.startswith(f"{indent}# "):
            assert not line.startswith(f"{indent}# Subtest"), "kunit_parser takes it for a heading"
        else:
            match = RESULT.fullmatch(line.removeprefix(indent))
            assert match is not None, line
            numbers.append(int(match[2]))
            if nested:
                check_grammar(nested, depth + 1)
            nested = []
    assert numbers == list(range(1, int(plan[1]) + 1))
    assert depth == 0 or numbers, "to kunit_parser, a subtest without tests is an error"


@pytest.mark.parametrize(
    "run",
    [
        factories.run(*factories.four_kernels(), factories.crashed(factories.kernel("crashed"))),
        factories.run(),
        hostile.run(),
    ],
    ids=["good and crashed", "empty", "hostile"],
)
def test_it_is_of_the_grammar(run: RunResult) -> None:
    check_grammar(ktap.to_ktap(run).splitlines())


def line_of(kernel: KernelResult, part: str) -> str:
    (line,) = [line for line in ktap.to_ktap(factories.run(kernel)).splitlines() if part in line]
    return line.strip()


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (factories.check(), "ok 1 - mptcp_info.readable (segment/established/client)"),
        (
            factories.check(verdict=CheckVerdict.FAIL),
            "not ok 1 - mptcp_info.readable (segment/established/client)",
        ),
        (
            factories.check(verdict=CheckVerdict.LOST),
            "not ok 1 - mptcp_info.readable (segment/established/client) # ERROR lost",
        ),
        (
            factories.check(verdict=CheckVerdict.UNSUPPORTED, detail="no MPTCP"),
            "ok 1 - mptcp_info.readable (segment/established/client) # SKIP no MPTCP",
        ),
        (
            replace(factories.check(verdict=CheckVerdict.FAIL), known="known until 2027"),
            "ok 1 - mptcp_info.readable (segment/established/client) # XFAIL known until 2027",
        ),
    ],
    ids=["pass", "fail", "lost", "unsupported", "known"],
)
def test_a_check_has_the_line_of_its_verdict(check: CheckResult, line: str) -> None:
    assert line_of(factories.failing(factories.kernel(), check), "readable (") == line


def test_a_crash_fails_the_kernels_own_subtest() -> None:
    lines = ktap.to_ktap(factories.run(factories.crashed(factories.kernel()))).splitlines()
    assert "  not ok 1 - kernel # time=3910ms" in lines
    assert lines[-1] == "not ok 1 - debian-6.12 # time=7138ms"


def test_a_kernel_without_mptcp_is_skipped() -> None:
    lines = ktap.to_ktap(factories.run(factories.debian_5_10())).splitlines()
    assert lines[-1].startswith("ok 1 - debian-5.10 # SKIP no MPTCP")


@pytest.mark.parametrize("verdict", [v for v in KernelVerdict if not v.as_expected])
def test_whatever_is_not_as_expected_is_not_ok(verdict: KernelVerdict) -> None:
    lines = ktap.to_ktap(factories.run(KernelResult("k", verdict, ""))).splitlines()
    assert lines[-1].startswith("not ok 1 - k")


def test_a_family_has_the_time_of_its_phase() -> None:
    timing = replace(factories.kernel().timing, phases=(Phase("ipv4", 1.5),))
    lines = ktap.to_ktap(factories.run(replace(factories.kernel(), timing=timing))).splitlines()
    assert "  ok 2 - ipv4 # time=1500ms" in lines
    assert "  ok 3 - ipv6" in lines


RUN = factories.run(
    factories.debian_5_10(),
    factories.kernel(),
    factories.crashed(factories.kernel("crashed")),
    factories.failing(
        factories.kernel("fails"),
        factories.check(),
        factories.check("a#b.c", CheckVerdict.FAIL, detail="1 # 2\nok 9 - forged"),
        factories.check("x.y", CheckVerdict.UNSUPPORTED, detail="no # there"),
    ),
)


@pytest.fixture
def kunit_parser(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kernel's own parser, of a tree that the environment names or that is installed."""
    named = os.environ.get(TREE)
    trees = [Path(named)] if named else sorted(Path("/usr/src").glob("linux-*"))
    tree = next((tree for tree in trees if (tree / PARSER).is_file()), None)
    if tree is None:
        assert not named, f"{TREE}: {named} has no {PARSER}"
        pytest.skip(f"no kernel tree with {PARSER}; {TREE} names one")
    monkeypatch.syspath_prepend(str((tree / PARSER).parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module("kunit_parser")


@pytest.mark.parametrize("run", [RUN, hostile.run()], ids=["every verdict", "hostile"])
def test_the_kernels_own_parser_reads_it(
    run: RunResult, kunit_parser: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    printer = importlib.import_module("kunit_printer").Printer(print=False)
    lines = kunit_parser.extract_tap_lines(ktap.to_ktap(run).splitlines())
    read = kunit_parser.parse_test(lines, 0, [], False, printer)
    assert read.counts.errors == 0
    assert len(read.subtests) == len(run.kernels) + len(run.missing)
    statuses = kunit_parser.TestStatus
    for kernel, test in zip(run.kernels, read.subtests, strict=False):
        own, *families = test.subtests
        assert own.name == "kernel"
        assert [family.name for family in families] == [str(family) for family in kernel.families]
        for result, family in zip(kernel.families.values(), families, strict=True):
            assert [leaf.status for leaf in family.subtests] == [
                _status(statuses, check) for check in result.checks
            ]
    capsys.readouterr()


def _status(statuses: Any, check: CheckResult) -> Any:
    if check.known or check.verdict is CheckVerdict.PASS:
        return statuses.SUCCESS
    skipped = check.verdict is CheckVerdict.UNSUPPORTED
    return statuses.SKIPPED if skipped else statuses.FAILURE
