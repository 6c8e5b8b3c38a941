# SPDX-License-Identifier: GPL-2.0-only
"""One boot: command line, guest root, process, deadlines, console, event channel, accelerator."""
