# SPDX-License-Identifier: GPL-2.0-only
"""Boots the kernel of a bundle again, as it failed or in variations.

:mod:`harness.replay.image` finds the kernel; :mod:`harness.replay.replay` chooses the machines,
boots and compares.
"""

from harness.replay.replay import ReplayRequest, exit_status, run

__all__ = ["ReplayRequest", "exit_status", "run"]
