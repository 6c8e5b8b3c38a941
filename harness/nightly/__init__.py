# SPDX-License-Identifier: GPL-2.0-only
"""What runs every night: is something wrong that was not wrong before, and since which kernel?"""

from harness.nightly.lock import Busy, only_one
from harness.nightly.runner import Search, Wishes, run

__all__ = ["Busy", "Search", "Wishes", "only_one", "run"]
