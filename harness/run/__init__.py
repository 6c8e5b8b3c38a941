# SPDX-License-Identifier: GPL-2.0-only
"""One run of tests: which kernel boots when, and what becomes of each."""
