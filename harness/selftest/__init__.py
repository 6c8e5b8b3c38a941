# SPDX-License-Identifier: GPL-2.0-only
"""Proves on a real kernel that faults are detected, with a guest that misbehaves on purpose.

:mod:`harness.selftest.faults` has the faults and their expected verdicts, ``guest/faults.py`` the
misbehaving guest, and :mod:`harness.selftest.module` the faulty kernel code.
"""

from harness.selftest.boots import SelftestRequest, exit_status, run
from harness.selftest.faults import FAULTS, Fault, select

__all__ = ["FAULTS", "Fault", "SelftestRequest", "exit_status", "run", "select"]
