# SPDX-License-Identifier: GPL-2.0-only
"""From what a boot showed to verdicts, and from verdicts to what differs. Pure, no I/O."""
