# SPDX-License-Identifier: GPL-2.0-only
"""What runs every night: is something wrong that was not wrong before, and since which kernel?"""

from harness.nightly.night import NightRequest, Search, run

__all__ = ["NightRequest", "Search", "run"]
