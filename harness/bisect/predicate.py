# SPDX-License-Identifier: GPL-2.0-only
"""Predicates of a bisect: whether a result is bad, good, or neither.

A different failure is neither bad nor good, because it usually hides the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Protocol

from harness.verdict.judge import CAPABILITY
from harness.verdict.results import CheckResult, KernelResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict

#: Verdicts whose checks are not used: no boot, or a broken stream.
SILENT = (KernelVerdict.INFRASTRUCTURE, KernelVerdict.BOOT_FAILURE, KernelVerdict.LOST)
#: Verdicts with which all checks ran and the VM ended properly.
_TO_THE_END = (KernelVerdict.PASS, KernelVerdict.WARNING, KernelVerdict.FAIL)


class Outcome(StrEnum):
    GOOD = "good"
    BAD = "bad"
    UNTESTABLE = "untestable"


@dataclass(frozen=True)
class Judged:
    """An outcome. ``why`` is for people and may contain text of a guest."""

    outcome: Outcome
    why: str


class Predicate(Protocol):
    """``str()`` describes the predicate; two with the same text judge alike."""

    def judge(self, result: KernelResult) -> Judged: ...


@dataclass(frozen=True)
class Checks:
    """Bad if a matching check fails; for ``capability.NAME``, if the capability is absent.

    Good if a matching check passes and all of them gave a result. A known issue is a failure.
    """

    globs: tuple[str, ...]

    def __str__(self) -> str:
        return f"--check {','.join(self.globs)}"

    def judge(self, result: KernelResult) -> Judged:
        if result.verdict in SILENT:
            return _untestable(result)
        found = list(self._matching(result))
        absent = [check for check in found if _is_capability(check) and not _there(check, result)]
        failed = [
            *absent,
            *(c for c in found if not _is_capability(c) and c.verdict is CheckVerdict.FAIL),
        ]
        if failed:
            return Judged(Outcome.BAD, f"{failed[0].key}: {_said(failed[0], result)}")
        silent = [c for c in found if c.verdict in (CheckVerdict.LOST, CheckVerdict.ERROR)]
        if silent:
            why = f"{silent[0].key} is {silent[0].verdict}: {silent[0].detail or result.reason}"
            return Judged(Outcome.UNTESTABLE, why)
        passed = [c for c in found if _is_capability(c) or c.verdict is CheckVerdict.PASS]
        if passed:
            return Judged(Outcome.GOOD, f"{passed[0].key}: {_said(passed[0], result)}")
        if found:
            return Judged(Outcome.UNTESTABLE, f"{found[0].key} is unsupported: {found[0].detail}")
        why = f"no check {','.join(self.globs)} was made ({result.verdict}: {result.reason})"
        return Judged(Outcome.UNTESTABLE, why)

    def _matching(self, result: KernelResult) -> Iterator[CheckResult]:
        for family in result.families.values():
            for check in family.checks:
                if any(fnmatchcase(check.key.id, glob) for glob in self.globs):
                    yield check


@dataclass(frozen=True)
class HasIncident:
    """Bad if an incident has this ``fingerprint``, or is the only one with this prefix."""

    fingerprint: str

    def __str__(self) -> str:
        return f"--incident {self.fingerprint}"

    def judge(self, result: KernelResult) -> Judged:
        alike = {
            incident.fingerprint: incident
            for incident in result.incidents
            if incident.fingerprint.startswith(self.fingerprint)
        }
        exact = alike.get(self.fingerprint)
        if exact is not None or len(alike) == 1:
            incident = exact or next(iter(alike.values()))
            return Judged(Outcome.BAD, f"{incident.fingerprint}: {incident.title}")
        if alike:
            several = ", ".join(sorted(alike))
            why = f"{self.fingerprint} may be any of {several}; give a longer prefix"
            return Judged(Outcome.UNTESTABLE, why)
        if result.verdict not in _TO_THE_END:
            return _untestable(result)
        return Judged(Outcome.GOOD, "the boot completed without it")


@dataclass(frozen=True)
class Anything:
    """Bad if a kernel booted but misses its expected verdict in any way."""

    def __str__(self) -> str:
        return "--any"

    def judge(self, result: KernelResult) -> Judged:
        if result.verdict is KernelVerdict.PASS:
            return Judged(Outcome.GOOD, result.reason or "all checks passed")
        unknown = (KernelVerdict.INFRASTRUCTURE, KernelVerdict.BOOT_FAILURE)
        if result.verdict in unknown or result.verdict.as_expected:
            return _untestable(result)
        return Judged(Outcome.BAD, f"{result.verdict}: {result.reason}")


def of(
    *, check: str | None = None, incident: str | None = None, anything: bool = False
) -> Predicate | None:
    """The predicate of the command line, which has at most one of these; None if it has none.

    ``check`` is one or several globs separated by commas.
    """
    if check is not None:
        return Checks(tuple(part.strip() for part in check.split(",")))
    if incident is not None:
        return HasIncident(incident)
    return Anything() if anything else None


def difference(good: Sequence[KernelResult], bad: Sequence[KernelResult]) -> Checks | None:
    """The checks that fail in a boot of ``bad`` and pass in ``good``, without failing there.

    None if there is no such check.
    """
    failing = [id for result in bad for id in _with(result, CheckVerdict.FAIL)]
    passing = {id for result in good for id in _with(result, CheckVerdict.PASS)}
    passing -= {id for result in good for id in _with(result, CheckVerdict.FAIL)}
    found = dict.fromkeys(id for id in failing if id in passing)
    return Checks(tuple(found)) if found else None


def _with(result: KernelResult, verdict: CheckVerdict) -> Sequence[str]:
    if result.verdict in SILENT:
        return []
    return [
        check.key.id
        for family in result.families.values()
        for check in family.checks
        if check.verdict is verdict
    ]


def _is_capability(check: CheckResult) -> bool:
    """Whether it shows presence or absence; a lost one does not."""
    return check.key.id.startswith(CAPABILITY) and check.verdict is not CheckVerdict.LOST


def _there(check: CheckResult, result: KernelResult) -> bool:
    # Not by the verdict: a capability that is present against the manifest fails too.
    return result.capabilities.get(check.key.id.removeprefix(CAPABILITY), False)


def _said(check: CheckResult, result: KernelResult) -> str:
    if not _is_capability(check):
        return check.detail or str(check.verdict)
    standing = "present" if _there(check, result) else "absent"
    return f"{standing}: {check.detail}" if check.detail else standing


def _untestable(result: KernelResult) -> Judged:
    return Judged(Outcome.UNTESTABLE, f"{result.verdict}: {result.reason}")
