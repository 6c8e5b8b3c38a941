# SPDX-License-Identifier: GPL-2.0-only
"""Proves on a real kernel that faults are seen: a guest that misbehaves on purpose.

The faults and what has to become of them are in :mod:`harness.selftest.faults`, what the guest
does in ``guest/faults.py``, the code that goes wrong in the kernel in
:mod:`harness.selftest.module`.
"""

from harness.selftest.boots import SelftestRequest, exit_status, run
from harness.selftest.faults import FAULTS, Fault, select

__all__ = ["FAULTS", "Fault", "SelftestRequest", "exit_status", "run", "select"]
