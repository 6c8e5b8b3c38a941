# SPDX-License-Identifier: GPL-2.0-only
"""The compatibility map of a run: which capability and which repair from which kernel on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.manifest.expectations import CAPABILITIES
from harness.manifest.fixes import kernel_version
from harness.report.overview import Mark, marks_of
from harness.verdict.results import KernelResult, MissingFix, RunResult


@dataclass(frozen=True)
class Feature:
    """A capability or a repair; ``there`` says of each kernel whether it has it, None: unknown.

    ``since`` is the mainline version that has it, "" if every version has it or it is unknown.
    """

    name: str
    meaning: str
    since: str
    there: tuple[bool | None, ...]
    from_on: str


@dataclass(frozen=True)
class FeatureMap:
    """The kernels in the order of their versions, without those that could not be asked."""

    kernels: tuple[KernelResult, ...]
    capabilities: tuple[Feature, ...]
    repairs: tuple[Feature, ...]


def feature_map(run: RunResult) -> FeatureMap:
    kernels = tuple(sorted((k for k in run.kernels if k.capabilities), key=_age))
    names = dict.fromkeys(name for kernel in kernels for name in kernel.capabilities)
    known = [name for name in CAPABILITIES if name in names]
    others = sorted(name for name in names if name not in CAPABILITIES)[:100]
    fixes = {fix.commit: fix for kernel in kernels for fix in kernel.missing_fixes}
    marks = {id(kernel): marks_of(kernel) for kernel in kernels}
    repairs = [
        _repair(fix, kernels, [_repaired(fix, k, marks[id(k)]) for k in kernels])
        for fix in sorted(fixes.values(), key=lambda fix: _numbers(fix.fixed_in))
    ]
    return FeatureMap(
        kernels, tuple(_capability(name, kernels) for name in (*known, *others)), tuple(repairs)
    )


def _age(kernel: KernelResult) -> tuple[int, int, int]:
    """The kernel's version; without one, it counts as the newest."""
    version = kernel_version(kernel.release, kernel.version)
    return (version[0], version[1], version[2] or 0) if version is not None else (10_000, 0, 0)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _capability(name: str, kernels: Sequence[KernelResult]) -> Feature:
    spec = CAPABILITIES.get(name)
    since = f"{spec.since[0]}.{spec.since[1]}" if spec is not None and spec.since else ""
    there = [kernel.capabilities.get(name) for kernel in kernels]
    meaning = spec.meaning if spec is not None else ""
    return Feature(name, meaning, since, tuple(there), from_on(kernels, there))


def _repair(fix: MissingFix, kernels: Sequence[KernelResult], there: list[bool | None]) -> Feature:
    return Feature(fix.commit, fix.title, fix.fixed_in, tuple(there), from_on(kernels, there))


def _repaired(fix: MissingFix, kernel: KernelResult, marks: dict[str, Mark]) -> bool | None:
    """Whether ``kernel`` has the fix as its checks show; None if none of them ran."""
    if any(missing.commit == fix.commit for missing in kernel.missing_fixes):
        return False
    ran = [marks[check] for check in fix.checks if check in marks]
    return True if ran and all(mark is Mark.PASS for mark in ran) else None


def from_on(kernels: Sequence[KernelResult], there: Sequence[bool | None]) -> str:
    """``from debian-6.12 on``, or the names of the kernels that have it."""
    asked = [
        (kernel.name[:64], has)
        for kernel, has in zip(kernels, there, strict=True)
        if has is not None
    ]
    having = [name for name, has in asked if has]
    if not having:
        return "in no kernel"
    if len(having) == len(asked):
        return "in every kernel" + (" that was asked" if len(asked) < len(there) else "")
    answers = [has for _, has in asked]
    if all(answers[answers.index(True) :]):
        return f"from {having[0]} on"
    shown = ", ".join(having[:3]) + (f" and {len(having) - 3} more" if len(having) > 3 else "")
    return f"in {shown}"
