# SPDX-License-Identifier: GPL-2.0-only
"""The checker that runs inside the VM, or alone on any Linux with MPTCP.

Standard library only, Python 3.9 or later, imports nothing from ``harness``.
"""
