# SPDX-License-Identifier: GPL-2.0-only
"""One check with several variants and one result: a result costs an emulated VM 5 ms."""

from __future__ import annotations

from guest.checks import Failed
from guest.lab import Lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    Function = Callable[[Lab], None]


def each(*variants: str) -> Callable[[Function], Function]:
    """Run the decorated check once for each of ``variants``, which its lab has as its side.

    A failure names its variant first. The rest is not run.
    """

    def decorate(function: Function) -> Function:
        def run(lab: Lab) -> None:
            for variant in variants:
                inner = Lab(lab.family, lab.phase, variant, lab.seed)
                try:
                    function(inner)
                except Failed as failed:
                    what = "%s: %s" % (variant, failed.what)
                    raise Failed(what, failed.expected, failed.got, failed.raw) from None
                finally:
                    inner.close()

        run.__doc__ = function.__doc__
        run.__module__ = function.__module__
        return run

    return decorate
