# SPDX-License-Identifier: GPL-2.0-only
"""Whether a failure came again in other boots, and what it follows. Pure, no I/O."""
