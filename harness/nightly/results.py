# SPDX-License-Identifier: GPL-2.0-only
"""The findings of a nightly, and its status: pure data."""

from __future__ import annotations

from dataclasses import dataclass

from harness.selftest.faults import NONE, FaultRow
from harness.verdict.comparison import Difference
from harness.verdict.results import KernelResult, RunResult
from harness.verdict.verdicts import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    KernelVerdict,
)


@dataclass(frozen=True)
class Selftest:
    """The ``rows`` of the selftest, out of ``wanted``; ``trouble`` says why there are none."""

    rows: tuple[FaultRow, ...] = ()
    wanted: int = 0
    seconds: float = 0.0
    trouble: str = ""
    skipped: bool = False  # by --no-selftest

    @property
    def ok(self) -> bool:
        """Whether every possible fault was detected, or the selftest was skipped."""
        complete = len(self.rows) >= self.wanted and all(row.ok for row in self.rows)
        return self.skipped or (complete and not self.trouble)

    @property
    def is_blind(self) -> bool:
        """Whether a fault was not detected; then no pass of this night counts."""
        wrong = (row for row in self.rows if not row.ok and row.fault != NONE.name)
        return any(row.verdict is not KernelVerdict.INFRASTRUCTURE for row in wrong)


@dataclass(frozen=True)
class Compared:
    """A kernel compared with its last result, of the run ``run``, which began at ``started``."""

    difference: Difference
    run: str
    started: str

    @property
    def kernel(self) -> KernelResult:
        return self.difference.after

    @property
    def fails_anew(self) -> bool:
        """Whether a check fails that the earlier result, made with other settings, does not
        have."""
        unseen = set(self.difference.only_after)
        checks = (check for family in self.kernel.families.values() for check in family.checks)
        return any(check.key in unseen and check.weight.is_bad for check in checks)


@dataclass(frozen=True)
class RegressionBisect:
    """The bisect of a regression: the ``answer`` as lines, or ``why_not``."""

    kernel: str
    sought: str
    answer: tuple[str, ...] = ()
    why_not: str = ""


@dataclass(frozen=True)
class Night:
    """A night. ``first`` are the kernels without an earlier result.

    ``uncompared`` says why no kernel could be compared with its last result.
    """

    manifest: str
    selftest: Selftest
    run: RunResult
    compared: tuple[Compared, ...] = ()
    first: tuple[KernelResult, ...] = ()
    bisects: tuple[RegressionBisect, ...] = ()
    notes: tuple[str, ...] = ()
    uncompared: str = ""

    @property
    def regressions(self) -> tuple[Compared, ...]:
        """The kernels that are newly wrong, by comparison or in a check that did not run before."""
        return tuple(c for c in self.compared if c.difference.is_worse or c.fails_anew)

    @property
    def wrong_at_first(self) -> tuple[KernelResult, ...]:
        """Kernels that miss their expected verdict and have no earlier result to compare with."""
        return tuple(
            kernel
            for kernel in (*self.first, *(c.kernel for c in self.incomparable))
            if _is_bad(kernel)
        )

    @property
    def still_wrong(self) -> tuple[Compared, ...]:
        """Kernels that miss their expected verdict but are not worse than before."""
        worse = self.regressions
        return tuple(c for c in self.compared if c not in worse and _is_bad(c.kernel))

    @property
    def better(self) -> tuple[Compared, ...]:
        """Kernels that missed their expected verdict before and have it now."""
        return tuple(
            c
            for c in self.compared
            if c.kernel.verdict.as_expected and _is_bad(c.difference.before)
        )

    @property
    def untested(self) -> tuple[KernelResult, ...]:
        """Kernels about which nothing was learned tonight."""
        return tuple(k for k in self.run.kernels if k.verdict is KernelVerdict.INFRASTRUCTURE)

    @property
    def incomparable(self) -> tuple[Compared, ...]:
        """Kernels that were tested but could not be compared with their last result."""
        untested = self.untested
        return tuple(c for c in self.compared if c.difference.cannot and c.kernel not in untested)

    @property
    def new(self) -> int:
        """The number of new problems."""
        return len(self.regressions) + len(self.wrong_at_first)

    @property
    def status(self) -> int:
        """The exit status; 0 only if nothing is newly wrong and everything was tested."""
        if self.run.interrupted:
            return EXIT_INTERRUPTED
        if self.new or self.selftest.is_blind:
            return EXIT_FAILED
        unknown = self.untested or self.incomparable or self.uncompared or not self.run.kernels
        return EXIT_INFRASTRUCTURE if unknown or not self.selftest.ok else EXIT_OK

    @property
    def summary(self) -> str:
        """One line without names, for example for the subject of a mail."""
        if self.run.interrupted:
            return "interrupted"
        said = []
        if self.selftest.is_blind:
            said.append("the selftest failed")
        elif not self.selftest.ok:
            said.append("the selftest could not run")
        for count, what in (
            (self.new, "newly wrong"),
            (len(self.untested), "not tested"),
            (len(self.incomparable), "not comparable"),
            (len(self.still_wrong), "still wrong"),
            (len(self.better), "mended"),
        ):
            if count:
                said.append(f"{count} {what}")
        if self.uncompared:
            said.append("not compared with earlier nights")
        if not self.new:
            said.insert(0, "nothing is newly wrong" if self.run.kernels else "nothing was tested")
        return ", ".join(said)


def _is_bad(kernel: KernelResult) -> bool:
    return not kernel.verdict.as_expected and kernel.verdict is not KernelVerdict.INFRASTRUCTURE
