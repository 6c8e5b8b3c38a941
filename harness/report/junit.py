# SPDX-License-Identifier: GPL-2.0-only
"""A run as JUnit XML, as Jenkins' junit-10.xsd and GitLab define it.

Each family of a kernel is a test suite, and so is the kernel itself: its one test fails if the
kernel crashed, hung or warned. XML has no control characters, not even as references: they become
``\\x1b`` and so on.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from harness.text import printable
from harness.verdict.results import CheckResult, KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict

#: Verdicts that the family's checks already show.
OF_THE_CHECKS = (KernelVerdict.PASS, KernelVerdict.FAIL)
#: Verdicts that say nothing about the kernel.
UNKNOWN = (KernelVerdict.INFRASTRUCTURE, KernelVerdict.LOST)
MAX_TEXT = 16_384


@dataclass(frozen=True)
class _Case:
    """A test; ``outcome`` is the element for a test that did not pass, empty otherwise."""

    name: str
    outcome: str = ""
    type: str = ""
    message: str = ""
    text: str = ""


def to_junit(run: RunResult) -> str:
    """``run`` as XML with its declaration; known failures are skipped tests."""
    root = ET.Element("testsuites", name="mptcp-harness")
    for kernel in run.kernels:
        _suite(root, run, kernel, kernel.name, kernel.timing.total_s, [_kernel(kernel)])
        for family, result in kernel.families.items():
            cases = [_check(check) for check in result.checks]
            seconds = kernel.phase_s(family)
            _suite(root, run, kernel, f"{kernel.name}.{family}", seconds, cases)
    for name in run.missing:
        missing = KernelResult.infrastructure(name, "missing: the run was interrupted")
        _suite(root, run, missing, name, 0.0, [_kernel(missing)])
    ET.indent(root, " ")
    return "<?xml version='1.0' encoding='UTF-8'?>\n" + ET.tostring(root, "unicode") + "\n"


def _suite(
    root: ET.Element,
    run: RunResult,
    kernel: KernelResult,
    name: str,
    seconds: float,
    cases: list[_Case],
) -> None:
    counts = {
        outcome: sum(case.outcome == outcome for case in cases)
        for outcome in ("failure", "error", "skipped")
    }
    suite = ET.SubElement(
        root,
        "testsuite",
        name=_text(name),
        tests=str(len(cases)),
        failures=str(counts["failure"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
        time=_seconds(seconds),
        timestamp=_text(run.started[:19]),
        hostname=_text(run.host.partition(",")[0]),
    )
    properties = ET.SubElement(suite, "properties")
    about = {
        "release": kernel.release,
        "version": kernel.version,
        "image_sha256": kernel.image_sha256,
        "accel": kernel.accel,
        "qemu": run.qemu,
        "virtme_ng": run.virtme_ng,
        "seed": str(run.seed),
        "run": run.id,
    }
    for label, text in about.items():
        ET.SubElement(properties, "property", name=label, value=_text(text))
    # Only a test that is alone in its suite has a time of its own.
    alone = seconds if len(cases) == 1 else 0.0
    for case in cases:
        element = ET.SubElement(
            suite, "testcase", classname=_text(name), name=_text(case.name), time=_seconds(alone)
        )
        if case.outcome:
            said = ET.SubElement(
                element, case.outcome, type=_text(case.type), message=_text(case.message)
            )
            said.text = _lines(case.text) or None


def _kernel(kernel: KernelResult) -> _Case:
    """The kernel as a test of its own."""
    verdict = kernel.verdict
    if verdict is KernelVerdict.UNSUPPORTED:
        return _Case("kernel", "skipped", verdict, kernel.reason)
    if verdict in OF_THE_CHECKS:
        return _Case("kernel")
    outcome = "error" if verdict in UNKNOWN else "failure"
    text = "\n\n".join(
        f"{incident.kind}: {incident.title}\n{incident.excerpt}" for incident in kernel.incidents
    )
    return _Case("kernel", outcome, verdict, f"{verdict}: {kernel.reason}", text)


def _check(check: CheckResult) -> _Case:
    key = check.key
    where = "/".join(part for part in (key.payload, key.phase, key.side) if part)
    name = f"{key.id} ({where})" if where else key.id
    said = (
        ("expected", check.expected),
        ("got", check.got),
        ("raw", check.raw),
        ("known", check.known),
    )
    text = "\n".join(f"{label}: {value}" for label, value in said if value)
    if check.known:
        return _Case(name, "skipped", "known", check.known, text)
    match check.verdict:
        case CheckVerdict.PASS:
            return _Case(name)
        case CheckVerdict.UNSUPPORTED:
            return _Case(name, "skipped", check.verdict, check.detail)
        case CheckVerdict.FAIL:
            return _Case(name, "failure", check.verdict, check.detail, text)
        case CheckVerdict.LOST | CheckVerdict.ERROR:
            return _Case(name, "error", check.verdict, check.detail or check.verdict, text)


def _seconds(seconds: float) -> str:
    return f"{max(0.0, seconds):.3f}"


def _text(text: str) -> str:
    return printable(text[:MAX_TEXT])


def _lines(text: str) -> str:
    return "\n".join(printable(line.expandtabs()) for line in text[:MAX_TEXT].split("\n"))
