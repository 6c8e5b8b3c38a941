# SPDX-License-Identifier: GPL-2.0-only
"""What runs every night: is something wrong that was not wrong before, and since which kernel?"""

from harness.nightly.lock import Busy, only_one
from harness.nightly.night import NightRequest, Search, run
from harness.nightly.reported import Told, begin, end

__all__ = ["Busy", "NightRequest", "Search", "Told", "begin", "end", "only_one", "run"]
