# SPDX-License-Identifier: GPL-2.0-only
"""Renders results as text: one module per format, pure functions; and the display of a run."""
