# SPDX-License-Identifier: GPL-2.0-only
"""Which lines and branches of net/mptcp the checks run, and which the kernel's selftests run."""
