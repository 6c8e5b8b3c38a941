# SPDX-License-Identifier: GPL-2.0-only
"""Turns the observations of a boot into verdicts, and compares verdicts. Pure, no I/O."""
