# SPDX-License-Identifier: GPL-2.0-only
"""Between a good kernel and a bad one: where a fault began, or was mended.

The kernels are in :mod:`harness.bisect.candidates`, what is looked for in
:mod:`harness.bisect.predicate`, which kernels to boot next in :mod:`harness.bisect.search`; what
was found out lies on the disk (:mod:`harness.bisect.state`), and :mod:`harness.bisect.runner` joins
all that. What a command line needs is named in the modules themselves.
"""
