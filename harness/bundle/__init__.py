# SPDX-License-Identifier: GPL-2.0-only
"""Bundles of failing kernels, with which they are booted again in the same way: docs/replay.md.

:mod:`harness.bundle.contents` is what a bundle says. :mod:`harness.bundle.archive` is its file,
which is made when a kernel fails and read again without trust.
"""

from harness.bundle.archive import Bundles, load, place
from harness.bundle.contents import Bundle

__all__ = ["Bundle", "Bundles", "load", "place"]
