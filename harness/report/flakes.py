# SPDX-License-Identifier: GPL-2.0-only
"""The last runs as the JSON that the flakes page of the MPTCP project's CI shows.

https://github.com/multipath-tcp/mptcp-upstream-tests-results: ``[{tag, run_id, results: {file:
{id: {result, name, comment, time_ms}}}}]``, oldest first, where ``results`` has only what did not
pass. Here, a file is a kernel. The page puts tags and names into HTML as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from harness.text import printable
from harness.verdict.results import CheckResult, KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict

#: The number of runs that the page shows.
RUNS = 100
MAX_TEXT = 1024
#: The id of the kernel itself; its checks count from 1.
KERNEL = "0"


def to_flakes(runs: Iterable[RunResult]) -> str:
    """``runs``, oldest first. A kernel or check that passed is left out."""
    return json.dumps([_run(run) for run in runs], indent=1) + "\n"


def _run(run: RunResult) -> dict[str, Any]:
    results = {_text(kernel.name): dict(_kernel(kernel)) for kernel in run.kernels}
    entry: dict[str, Any] = {
        "results": {name: found for name, found in results.items() if found},
        "run_id": _text(run.id),
        "tag": _text(run.id),
    }
    untested = [k.name for k in run.kernels if k.verdict is KernelVerdict.INFRASTRUCTURE]
    if untested:
        entry["warn"] = f"not tested: {_text(', '.join(untested))}"
    if run.interrupted:
        entry["error"] = "interrupted"
    return entry


def _kernel(kernel: KernelResult) -> Iterator[tuple[str, dict[str, str]]]:
    """The kernel, if its checks do not say what is wrong with it, and its checks by number."""
    of_checks = (KernelVerdict.FAIL, KernelVerdict.INFRASTRUCTURE)
    broken = not kernel.verdict.as_expected and kernel.verdict not in of_checks
    if broken:
        total_ms = round(kernel.timing.total_s * 1000)
        yield (
            KERNEL,
            {
                "result": _bad(kernel),
                "name": _text(f"{kernel.name}: kernel"),
                "comment": _text(f"{kernel.verdict}: {kernel.reason}"),
                "time_ms": str(total_ms),
            },
        )
    by_id: dict[str, list[CheckResult]] = {}
    for result in kernel.families.values():
        for check in result.checks:
            by_id.setdefault(check.key.id, []).append(check)
    for number, (name, checks) in enumerate(by_id.items(), 1):
        bad = [check for check in checks if check.verdict.is_bad]
        if broken:  # it explains what is lost
            bad = [check for check in bad if check.verdict is not CheckVerdict.LOST]
        if bad:
            yield str(number), _check(kernel, name, bad, len(checks))


def _check(kernel: KernelResult, name: str, bad: list[CheckResult], places: int) -> dict[str, str]:
    counting = [check for check in bad if not check.known]
    first = (counting or bad)[0]
    said = "; ".join(filter(None, [first.detail or first.verdict, first.known]))
    return {
        "result": _bad(kernel) if counting else "skip",
        "name": _text(f"{kernel.name}: {name}"),
        "comment": _text(f"{said} ({first.key}; {len(bad)} of {places} places)"),
    }


def _bad(kernel: KernelResult) -> str:
    confirmed = kernel.confirmed
    return "flaky" if confirmed is not None and confirmed.bad < confirmed.boots else "fail"


def _text(text: str) -> str:
    shown = printable(text[:MAX_TEXT])
    for char in "&<>":
        shown = shown.replace(char, f"\\x{ord(char):02x}")
    return shown
