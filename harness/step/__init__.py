# SPDX-License-Identifier: GPL-2.0-only
"""One step of ``git bisect run`` in a kernel tree: build its commit, boot it, judge."""
