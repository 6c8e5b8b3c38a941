# SPDX-License-Identifier: GPL-2.0-only
"""The nightly run: reports what is newly wrong, and since which kernel."""

from harness.nightly.night import NightRequest, Search, run

__all__ = ["NightRequest", "Search", "run"]
