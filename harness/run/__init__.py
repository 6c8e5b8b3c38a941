# SPDX-License-Identifier: GPL-2.0-only
"""One run of tests: preparing, booting and judging its kernels, and storing the results."""
