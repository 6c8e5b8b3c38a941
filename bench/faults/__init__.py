# SPDX-License-Identifier: GPL-2.0-only
"""Faults put into net/mptcp, one at a time at run time, and the checks that catch each of them."""
