# SPDX-License-Identifier: GPL-2.0-only
"""From the result of a kernel to the outcomes of its tests; pure (docs/pytest.md has the table).

A test is a check in one family, at all of its places. Missing data is the worst case: a check
without a result is an error, unless the kernel lacks what its family needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from harness.text import plural, printable
from harness.verdict.failures import phrases, place
from harness.verdict.judge import CAPABILITY, OF_IPV6
from harness.verdict.results import CheckResult, FamilyResult, Incident, KernelResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict

#: The name of the test of the kernel itself.
KERNEL = "kernel"
#: The most places of a failing check that are shown in full, and lines of a section.
MAX_PLACES, MAX_LINES = 4, 60
#: Characters of a text of the guest.
MAX_TEXT = 16_384
#: What was going on, in the words of harness.vm.stream: ``ipv4 payload.arrives (segment/…)``.
_RUNNING = re.compile(r"\b(ipv4|ipv6) ([a-z0-9_]+\.[a-z0-9_]+)")
#: Verdicts that no check shows.
_OF_THE_KERNEL = (
    KernelVerdict.CRASH,
    KernelVerdict.HANG,
    KernelVerdict.LOST,
    KernelVerdict.BOOT_FAILURE,
    KernelVerdict.WARNING,
)


class Key(NamedTuple):
    """A test of a kernel: a check, or a capability, in a family; or the kernel itself."""

    family: Family | None
    id: str


class Kind(Enum):
    PASSED = "passed"
    SKIPPED = "skipped"
    KNOWN = "xfailed"
    FAILED = "failed"
    ERROR = "error"  # nothing was learned


@dataclass(frozen=True)
class Outcome:
    """The outcome of one test: ``text`` says why; ``sections`` are titles and texts."""

    kind: Kind
    text: str = ""
    sections: tuple[tuple[str, str], ...] = ()


def outcomes(result: KernelResult, wanted: Sequence[Key], console: str = "") -> dict[Key, Outcome]:
    """The outcome of each test in ``wanted``. ``console`` is the end of the console.

    A crash and a hang are charged to the checks that were running. If none of the wanted tests
    shows what is wrong with the kernel, the first one does.
    """
    charged = _charged(result)
    found = {key: _outcome(result, key, charged, console) for key in wanted}
    bad = any(outcome.kind in (Kind.FAILED, Kind.ERROR) for outcome in found.values())
    if wanted and not bad and result.verdict in _OF_THE_KERNEL:
        found[wanted[0]] = _of_kernel(result, console)
    return found


def _outcome(result: KernelResult, key: Key, charged: Mapping[Key, str], console: str) -> Outcome:
    if result.verdict is KernelVerdict.INFRASTRUCTURE:
        return Outcome(Kind.ERROR, f"infrastructure: {_line(result.reason)}")
    if key.family is None:
        return _of_kernel(result, console)
    if key in charged:
        return Outcome(Kind.FAILED, charged[key], tuple(_log(result, console)))
    family = result.families.get(key.family)
    checks = [check for check in family.checks if check.key.id == key.id] if family else []
    if checks:
        return _of_checks(checks, result)
    return _without_result(result, family, key)


def _of_kernel(result: KernelResult, console: str) -> Outcome:
    """The outcome of the kernel's own test, which passes if only checks fail."""
    text = f"{result.verdict}: {_line(result.reason)}"
    match result.verdict:
        case KernelVerdict.INFRASTRUCTURE:
            return Outcome(Kind.ERROR, text)
        case KernelVerdict.UNSUPPORTED:
            return Outcome(Kind.SKIPPED, text)
        case KernelVerdict.PASS | KernelVerdict.FAIL:
            known = next((incident for incident in result.incidents if incident.known), None)
            if known is None:
                return Outcome(Kind.PASSED)
            return Outcome(Kind.KNOWN, f"{_line(known.title)}: {_line(known.known)}")
        case _:
            return Outcome(Kind.FAILED, text, tuple(_log(result, console)))


def _of_checks(checks: Sequence[CheckResult], result: KernelResult) -> Outcome:
    """The outcome of a check from its results at all places; known failures do not count."""
    order = list(CheckVerdict)
    worst = min(checks, key=lambda check: order.index(check.weight))
    known = [check for check in checks if check.known]
    match worst.weight:
        case CheckVerdict.FAIL:
            return _failed([check for check in checks if check.weight is CheckVerdict.FAIL], checks)
        case CheckVerdict.LOST:
            why = worst.detail or f"{result.verdict}: {result.reason}"
            return Outcome(Kind.ERROR, f"lost: {_line(why)}")
        case CheckVerdict.ERROR:
            text = f"error in the check: {_line(worst.detail)}"
            return Outcome(Kind.ERROR, text, tuple(_evidence(worst)))
        case CheckVerdict.UNSUPPORTED:
            return Outcome(Kind.SKIPPED, _line(worst.detail))
        case CheckVerdict.PASS if known:
            return Outcome(Kind.KNOWN, _line(known[0].known), tuple(_evidence(known[0])))
        case CheckVerdict.PASS:
            return Outcome(Kind.PASSED)


def _failed(bad: Sequence[CheckResult], planned: Sequence[CheckResult]) -> Outcome:
    first = bad[0]
    text = _line(first.detail) or "it fails"
    if first.expected or first.got:
        text += f": expected {_line(first.expected)}, got {_line(first.got)}"
    if len(planned) > 1:
        at = "; ".join(phrases([place(check.key) for check in bad])[:MAX_PLACES])
        text += f"\nat {len(bad)} of {plural(len(planned), 'place')}: {at}"
    return Outcome(Kind.FAILED, text, tuple(_evidence(first)))


def _without_result(result: KernelResult, family: FamilyResult | None, key: Key) -> Outcome:
    """The outcome of a check that the guest did not plan, or that the boot did not reach."""
    if family is None or result.verdict in _OF_THE_KERNEL[:-1]:
        return Outcome(Kind.ERROR, f"not tested: {result.verdict}: {_line(result.reason)}")
    absent = (CheckVerdict.UNSUPPORTED, CheckVerdict.FAIL)
    for check in family.checks:
        name = check.key.id.removeprefix(CAPABILITY)
        if name in ("mptcp", *OF_IPV6) and check.verdict in absent and name != key.id:
            why = _line(check.got.removeprefix("absent: ") or check.detail)
            return Outcome(Kind.SKIPPED, f"no {name}: {why}")
    return Outcome(Kind.ERROR, "no result: the guest did not plan this check")


def _charged(result: KernelResult) -> dict[Key, str]:
    """The checks that were running when the kernel crashed or hung, each with what happened."""
    if result.verdict is KernelVerdict.HANG:
        said = [(f"hang: {result.reason}", result.reason)]
    else:
        crashes = [i for i in result.incidents if i.kind.is_crash and not i.environment]
        said = [(f"{result.verdict}: {i.title}", i.check or "") for i in crashes]
    return {
        Key(Family(family), id): f"{_line(text)}, while this check ran"
        for text, running in said
        for family, id in _RUNNING.findall(running)
    }


def _evidence(check: CheckResult) -> Iterator[tuple[str, str]]:
    for title, text in (("expected", check.expected), ("got", check.got)):
        if text:
            yield title, _lines(text)
    if check.raw:
        yield "raw bytes", hexdump(check.raw)


def _log(result: KernelResult, console: str) -> Iterator[tuple[str, str]]:
    """The reports on the console, or its last lines if there is no report."""
    for incident in result.incidents:
        yield f"console: {incident.kind}", _of_incident(incident)
    if not result.incidents and console:
        yield "console: its last lines", _lines(console)


def _of_incident(incident: Incident) -> str:
    during = f"during {_line(incident.check)}\n" if incident.check else ""
    return f"{_line(incident.title)}\n{during}{_lines(incident.excerpt)}"


def hexdump(raw: str) -> str:
    """``raw``, in hexadecimal, as lines of an offset and 16 bytes; as it is if it is not."""
    try:
        content = bytes.fromhex(raw[:MAX_TEXT])
    except ValueError:
        return _line(raw)
    rows = (content[start : start + 16].hex(" ", 4) for start in range(0, len(content), 16))
    return "\n".join(f"{16 * number:04x}  {row}" for number, row in enumerate(rows))


def _line(text: str) -> str:
    return printable(text[:MAX_TEXT].strip())


def _lines(text: str) -> str:
    lines = text[:MAX_TEXT].strip("\r\n").split("\n")
    return "\n".join(printable(line.rstrip("\r").expandtabs()) for line in lines[:MAX_LINES])
