# SPDX-License-Identifier: GPL-2.0-only
"""A run as JUnit's XML: what Jenkins' junit-10.xsd allows, and each verdict in its element."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import junitparser
import pytest

from harness.report import junit
from harness.verdict.results import KernelResult, Phase, RunResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests import factories
from tests.report import hostile

#: The rules of junit-10.xsd of Jenkins' xunit plugin, whose files GitLab reads as well: the
#: attributes that an element may have, the ones that it must, its children. The file itself is not
#: part of this project.
SCHEMA: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, set(), {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"},
        {"name", "tests", "failures", "errors"},
        {"properties", "testcase"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, {"name", "value"}, set()),
    "testcase": ({"name", "time", "classname"}, {"name"}, {"skipped", "error", "failure"}),
    "skipped": ({"type", "message"}, set(), set()),
    "error": ({"type", "message"}, set(), set()),
    "failure": ({"type", "message"}, set(), set()),
}


def parsed(run: RunResult) -> ET.Element:
    return ET.fromstring(junit.to_junit(run).encode())


@pytest.mark.parametrize(
    "run",
    [
        factories.run(*factories.four_kernels(), factories.crashed(factories.kernel("crashed"))),
        factories.run(),
        hostile.run(),
    ],
    ids=["good and crashed", "empty", "hostile"],
)
def test_it_is_of_the_schema(run: RunResult) -> None:
    for element in parsed(run).iter():
        allowed, required, children = SCHEMA[element.tag]
        assert set(element.attrib) <= allowed
        assert required <= set(element.attrib)
        assert {child.tag for child in element} <= children
        if element.tag == "testsuite":
            # SUREFIRE_TIME of the schema, without its commas.
            assert re.fullmatch(r"[0-9]+\.[0-9]{3}", element.attrib["time"])
            tags = [child.tag for child in element]
            assert tags == sorted(tags), "properties come before the tests"


@pytest.mark.parametrize(
    ("verdict", "element"),
    [
        (CheckVerdict.PASS, None),
        (CheckVerdict.FAIL, "failure"),
        (CheckVerdict.LOST, "error"),
        (CheckVerdict.ERROR, "error"),
        (CheckVerdict.UNSUPPORTED, "skipped"),
    ],
)
def test_a_check_has_the_element_of_its_verdict(verdict: CheckVerdict, element: str | None) -> None:
    kernel = factories.failing(factories.kernel(), factories.check(verdict=verdict))
    (case,) = parsed(factories.run(kernel)).iterfind(".//testcase[@classname='debian-6.12.ipv4']")
    assert [child.tag for child in case] == ([element] if element else [])
    assert case.attrib["name"] == "mptcp_info.readable (segment/established/client)"


def test_a_known_failure_is_skipped_with_its_reason() -> None:
    known = replace(factories.check(verdict=CheckVerdict.FAIL), known="known until 2027")
    kernel = factories.failing(factories.kernel(), known)
    (skipped,) = parsed(factories.run(kernel)).iterfind(".//skipped")
    assert skipped.attrib["message"] == "known until 2027"


@pytest.mark.parametrize(
    ("verdict", "element"),
    [
        (KernelVerdict.CRASH, "failure"),
        (KernelVerdict.HANG, "failure"),
        (KernelVerdict.BOOT_FAILURE, "failure"),
        (KernelVerdict.WARNING, "failure"),
        (KernelVerdict.LOST, "error"),
        (KernelVerdict.INFRASTRUCTURE, "error"),
        (KernelVerdict.UNSUPPORTED, "skipped"),
        (KernelVerdict.PASS, None),
        (KernelVerdict.FAIL, None),
    ],
)
def test_the_kernel_is_a_test_of_its_own(verdict: KernelVerdict, element: str | None) -> None:
    kernel = KernelResult("k", verdict, "the reason")
    (case,) = parsed(factories.run(kernel)).iterfind(".//testcase[@name='kernel']")
    assert [child.tag for child in case] == ([element] if element else [])


def test_a_crash_carries_the_kernels_log() -> None:
    run = factories.run(factories.crashed(factories.kernel()))
    (failure,) = parsed(run).iterfind(".//testcase[@name='kernel']/failure")
    assert "sysrq_handle_crash+0x1a/0x20" in (failure.text or "")


def test_suites_count_what_is_in_them() -> None:
    run = factories.run(factories.crashed(factories.kernel()))
    for suite in parsed(run).iter("testsuite"):
        assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))
        for count, element in (("failures", "failure"), ("errors", "error")):
            assert int(suite.attrib[count]) == len(suite.findall(f"testcase/{element}"))


def test_a_kernel_that_is_missing_is_an_error() -> None:
    run = replace(factories.run(), missing=("debian-6.1",))
    (suite,) = parsed(run).iter("testsuite")
    assert (suite.attrib["name"], suite.attrib["errors"]) == ("debian-6.1", "1")


def test_control_characters_are_written_as_text() -> None:
    text = junit.to_junit(hostile.run())
    assert "\\x1b[31m" in text
    assert all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize(
    "run",
    [
        factories.run(*factories.four_kernels(), factories.crashed(factories.kernel("crashed"))),
        hostile.run(),
    ],
    ids=["good and crashed", "hostile"],
)
def test_junitparser_reads_the_same_counts(run: RunResult) -> None:
    suites = list(junitparser.JUnitXml.fromstring(junit.to_junit(run).encode()))
    said = [(s.tests, s.failures, s.errors, s.skipped) for s in suites]
    for suite in suites:
        suite.update_statistics()  # type: ignore[no-untyped-call]
    assert [(s.tests, s.failures, s.errors, s.skipped) for s in suites] == said
    checks = [check for k in run.kernels for f in k.families.values() for check in f.checks]
    cases = [case for suite in suites for case in suite]
    assert len(cases) == len(checks) + len(run.kernels) + len(run.missing)
    assert sum(case.is_failure for case in cases) == sum(s.failures for s in suites)


def test_junitparser_reads_a_failure_with_its_values() -> None:
    failed = factories.check(
        verdict=CheckVerdict.FAIL, detail="it is wrong", expected="1", got="<2>", raw="00ff"
    )
    run = factories.run(factories.failing(factories.kernel(), failed))
    _, suite = junitparser.JUnitXml.fromstring(junit.to_junit(run).encode())
    (case,) = suite
    (result,) = case.result
    assert (result.type, result.message) == ("fail", "it is wrong")
    assert result.text == "expected: 1\ngot: <2>\nraw: 00ff"


def test_a_family_has_the_time_of_its_phase() -> None:
    timing = replace(factories.kernel().timing, phases=(Phase("ipv4", 1.5),))
    suites = parsed(factories.run(replace(factories.kernel(), timing=timing)))
    assert [suite.attrib["time"] for suite in suites] == ["7.138", "1.500", "0.000"]
