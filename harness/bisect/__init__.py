# SPDX-License-Identifier: GPL-2.0-only
"""Between a good kernel and a bad one: where a fault began, or was mended.

The kernels are in :mod:`harness.bisect.candidates`, what is looked for in
:mod:`harness.bisect.predicate`, which kernels to boot next in :mod:`harness.bisect.search`. What
was found out is on the disk (:mod:`harness.bisect.state`); :mod:`harness.bisect.bisection` joins
all of it.
"""
