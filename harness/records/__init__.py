# SPDX-License-Identifier: GPL-2.0-only
"""Stored runs: the store, its JSON, and queries."""
