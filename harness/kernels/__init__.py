# SPDX-License-Identifier: GPL-2.0-only
"""Where a bootable kernel comes from: one module per source, all ending in a PreparedKernel."""
