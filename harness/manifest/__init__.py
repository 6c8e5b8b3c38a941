# SPDX-License-Identifier: GPL-2.0-only
"""Reads kernels.yaml and the files of known issues into frozen objects."""
