# SPDX-License-Identifier: GPL-2.0-only
"""What is kept of runs: the store, its JSON, and the searches in it."""
