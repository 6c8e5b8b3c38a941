# SPDX-License-Identifier: GPL-2.0-only
"""What a failing kernel leaves behind, to be booted again in the same way: docs/replay.md.

:mod:`harness.bundle.contents` is what one says, :mod:`harness.bundle.archive` the file it is in,
:mod:`harness.bundle.keep` makes one at the end of a kernel that fails.
"""

from harness.bundle.contents import Bundle, load
from harness.bundle.keep import Bundles, place

__all__ = ["Bundle", "Bundles", "Damaged", "load", "place"]
