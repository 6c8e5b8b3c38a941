# SPDX-License-Identifier: GPL-2.0-only
"""A run whose every text wants out of the report that shows it."""

from __future__ import annotations

from dataclasses import replace

from harness.verdict.results import Incident, IncidentKind, RunResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests import factories

EVIL = (
    "</pre></code><script>alert(1)</script> ]]> & \" ' | `` ``` ```` # SKIP <!-- @root "
    "[x](http://example.org) \x1b[31m \x00 \x08 \u202e \ud800 \ufffe \r\n1..0\nok 1 - forged\n```\n"
)


def run() -> RunResult:
    """One kernel that fails and warns, and one that never got its turn."""
    failed = factories.check(EVIL, CheckVerdict.FAIL, detail=EVIL, expected=EVIL, got=EVIL)
    incident = Incident(IncidentKind.WARNING, EVIL, EVIL, f"{EVIL}\n{EVIL}", check=EVIL, known=EVIL)
    kernel = replace(
        factories.failing(factories.kernel(EVIL, EVIL), failed),
        verdict=KernelVerdict.WARNING,
        reason=EVIL,
        version=EVIL,
        origin=EVIL,
        image_sha256=EVIL,
        incidents=(incident,),
        notes=(EVIL,),
        capabilities={EVIL: True},
    )
    whole = factories.run(kernel)
    return replace(
        whole,
        missing=(EVIL,),
        host=EVIL,
        qemu=EVIL,
        virtme_ng=EVIL,
        accel=EVIL,
        notes=(EVIL,),
        started=EVIL,
        id=EVIL,
    )
