# SPDX-License-Identifier: GPL-2.0-only
"""Boots kernels under virtme-ng, runs the guest's checks in them and judges the results."""

__version__ = "0.1.0"
