# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark: the harness against a shell loop over virtme-ng, and against QEMU alone."""
