# SPDX-License-Identifier: GPL-2.0-only
"""Exceptions, grouped by the user's remedy. The text of each is a sentence with that remedy.

The command line prints the sentence and exits with the status of the class. Any other exception is
a bug of the harness.
"""

from __future__ import annotations


class HarnessError(Exception):
    """A sentence for the user."""


class UsageError(HarnessError):
    """The user's arguments or files are wrong. Exit status 2."""


class Damaged(UsageError):
    """A file does not hold what the harness once wrote there. Exit status 2."""


class HostError(HarnessError):
    """The host failed: a tool, the disk or the network. Exit status 3."""


class Busy(HostError):
    """Another harness is working on the same thing. Exit status 3."""


class Interrupted(HarnessError):
    """The user interrupted the command. Exit status 130."""


class Malformed(ValueError):
    """Foreign bytes do not have their expected format; the text is the end of a sentence."""


class KernelUnavailable(HostError):
    """A source gave no bootable kernel: what was tried, what happened and what to do.

    The kernel's verdict is ``infrastructure``; ``transient`` says whether a retry makes sense.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class Unbuildable(KernelUnavailable):
    """A commit cannot be built, whatever the host does; others may be."""
