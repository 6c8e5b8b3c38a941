# SPDX-License-Identifier: GPL-2.0-only
"""What runs every night: is something wrong that was not wrong before, and since which kernel?"""

from harness.nightly.lock import Busy, only_one
from harness.nightly.night import Search, Wishes, run
from harness.nightly.reported import Told, begin, end

__all__ = ["Busy", "Search", "Told", "Wishes", "begin", "end", "only_one", "run"]
