# SPDX-License-Identifier: GPL-2.0-only
"""kernels.yaml and the known-issues files, as frozen objects."""
