# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts on checks and kernels, families, and exit statuses: the words of every result.

They are apart from the results because every command needs them, and dataclasses take a
millisecond each to make.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Family(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"


class CheckVerdict(StrEnum):
    """The verdict on one check at one phase and side; worst first."""

    FAIL = "fail"
    LOST = "lost"  # planned, but without a result
    ERROR = "error"  # the check itself is broken
    PASS = "pass"
    UNSUPPORTED = "unsupported"  # a capability it needs is absent, as expected

    @property
    def is_bad(self) -> bool:
        return self in (CheckVerdict.FAIL, CheckVerdict.LOST, CheckVerdict.ERROR)


class KernelVerdict(StrEnum):
    """The verdict on one kernel; worst first, apart from ``infrastructure``."""

    CRASH = "crash"  # panic, oops, BUG
    HANG = "hang"
    LOST = "lost"  # the guest ended without its closing event
    BOOT_FAILURE = "boot-failure"
    FAIL = "fail"
    WARNING = "warning"  # the kernel log has a report, but all checks passed
    PASS = "pass"
    UNSUPPORTED = "unsupported"  # no MPTCP, and none was expected
    INFRASTRUCTURE = "infrastructure"  # nothing was learned about the kernel

    @property
    def as_expected(self) -> bool:
        return self in (KernelVerdict.PASS, KernelVerdict.UNSUPPORTED)


def worst(verdicts: Iterable[CheckVerdict]) -> CheckVerdict:
    """The worst of ``verdicts``; ``unsupported`` if there are none."""
    order = list(CheckVerdict)
    return min(verdicts, key=order.index, default=CheckVerdict.UNSUPPORTED)


EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INFRASTRUCTURE = 3
EXIT_INTERRUPTED = 130
