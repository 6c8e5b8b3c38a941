# SPDX-License-Identifier: GPL-2.0-only
"""What goes wrong, by what the user can do about it. The text is a sentence with the remedy.

The command line shows that sentence and ends with the status of the class; anything else that is
raised is a fault of the harness.
"""

from __future__ import annotations


class HarnessError(Exception):
    """A sentence for the user."""


class UsageError(HarnessError):
    """Arguments or files of the user's that cannot be worked with. Exit status 2."""


class Damaged(UsageError):
    """A file does not hold what the harness once wrote there. Exit status 2."""


class HostError(HarnessError):
    """The host cannot do what is needed: a tool, the disk, the network. Exit status 3."""


class Busy(HostError):
    """Another harness is at work on the same thing. Exit status 3."""


class Interrupted(HarnessError):
    """The user ended it before it was done. Exit status 130."""


class Malformed(ValueError):
    """Bytes that came from outside are not of their format: why, as the end of a sentence."""


class KernelUnavailable(HostError):
    """Nothing bootable came of a source: a sentence with what was tried, what happened, what to do.

    The kernel's verdict is ``infrastructure``; ``transient`` says whether a retry makes sense.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
