# SPDX-License-Identifier: GPL-2.0-only
"""The host: its tools, other programs, and files."""
