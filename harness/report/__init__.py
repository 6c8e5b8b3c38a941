# SPDX-License-Identifier: GPL-2.0-only
"""From results to text: one module per format, pure functions, and the display of a run."""
