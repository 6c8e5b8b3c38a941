# SPDX-License-Identifier: GPL-2.0-only
"""Finds the kernel between a good one and a bad one at which a fault began or was fixed.

:mod:`harness.bisect.candidates` lists the kernels, :mod:`harness.bisect.predicate` says what is
bad, and :mod:`harness.bisect.search` chooses the kernels to boot next. :mod:`harness.bisect.state`
keeps the evidence on the disk, and :mod:`harness.bisect.bisection` joins all of it.
"""
