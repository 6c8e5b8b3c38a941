# SPDX-License-Identifier: GPL-2.0-only
"""The JSON of a run, a contract with scripts. Keys are added, never renamed.

Strings may contain anything that a guest sent. The text is ASCII with escaped control characters. A
lone surrogate, which is not valid in UTF-8 and which many parsers reject, becomes the six
characters that Python prints for it (``\\udc80``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.verdict.results import (
    Attempt,
    BootEnd,
    CheckResult,
    Confirmed,
    CrossCheck,
    EarlierRun,
    FamilyResult,
    Incident,
    KernelResult,
    Phase,
    Rounds,
    RunResult,
    Timing,
)

SCHEMA = 1


def to_json(run: RunResult) -> str:
    """``run`` as one JSON object, each check on a line, with a newline at the end."""
    return join(run, map(kernel_text, run.kernels))


def join(run: RunResult, kernels: Iterable[str]) -> str:
    """:func:`to_json` from the :func:`kernel_text` of each of its kernels, in their order."""
    return "".join(parts(run, kernels))


def parts(run: RunResult, kernels: Iterable[str]) -> Iterator[str]:
    """:func:`join` piece by piece: the record of sixty kernels has 25 MB."""
    head = json.dumps({"schema": SCHEMA, "run": clean(_run(run))}, indent=1, allow_nan=False)
    yield f'{head.removesuffix("}").rstrip()},\n "kernels": [\n'
    for number, text in enumerate(kernels):
        yield ",\n" if number else ""
        yield text.rstrip("\n")
    yield "\n]}\n"


def kernel_text(kernel: KernelResult) -> str:
    """:func:`kernel_to_json` as text, each check on a line, with a newline at the end.

    It is not indented, because indentation is not done in C and takes five times as long.
    """
    text = json.dumps(_kernel(kernel), allow_nan=False)
    if "\\ud" in text:  # only then examine each string, which takes five times as long
        text = json.dumps(kernel_to_json(kernel), allow_nan=False)
    # Inside a string, the quotation marks would be escaped.
    return text.replace('{"id": ', '\n  {"id": ') + "\n"


def kernel_to_json(kernel: KernelResult) -> dict[str, Any]:
    """One element of ``kernels`` as JSON data, with lone surrogates replaced."""
    cleaned: dict[str, Any] = clean(_kernel(kernel))
    return cleaned


def _kernel(kernel: KernelResult) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "release": kernel.release,
        "version": kernel.version,
        "origin": kernel.origin,
        "image_sha256": kernel.image_sha256,
        "verdict": kernel.verdict,
        "reason": kernel.reason,
        "accel": kernel.accel,
        "capabilities": dict(kernel.capabilities),
        "families": {name: _family(result) for name, result in kernel.families.items()},
        "incidents": [_incident(incident) for incident in kernel.incidents],
        "attempts": [_attempt(attempt) for attempt in kernel.attempts],
        "notes": kernel.notes,
        "timing": _timing(kernel.timing),
        "reused_from": _earlier(kernel.reused_from),
        "confirmed": _confirmed(kernel.confirmed),
        "rounds": _rounds(kernel.rounds),
        "missing_fixes": [asdict(fix) for fix in kernel.missing_fixes],
        "cross_checks": [_cross_check(each) for each in kernel.cross_checks],
        "abi": kernel.abi,
        "host": kernel.host,
        "arch": kernel.arch,
    }


def _run(run: RunResult) -> dict[str, Any]:
    return {
        "id": run.id,
        "started": run.started,
        "finished": run.finished,
        "harness_version": run.harness_version,
        "host": run.host,
        "qemu": run.qemu,
        "virtme_ng": run.virtme_ng,
        "accel": run.accel,
        "seed": run.seed,
        "interrupted": run.interrupted,
        "missing": run.missing,
        "directory": run.directory,
        "timing": {"startup_s": _seconds(run.startup_s)},
        "notes": run.notes,
        "code": run.code,
        "asked": json.loads(run.asked) if run.asked else None,
    }


def _cross_check(found: CrossCheck) -> dict[str, Any]:
    return {
        "program": found.program,
        "family": found.family,
        "end": found.run.end,
        "status": found.run.status,
        "seconds": _seconds(found.run.seconds),
        "agrees": found.agrees,
        "detail": found.detail,
        "output": found.run.output,
    }


def _earlier(run: EarlierRun | None) -> dict[str, Any] | None:
    return None if run is None else asdict(run)


def _confirmed(confirmed: Confirmed | None) -> dict[str, Any] | None:
    return None if confirmed is None else asdict(confirmed)


def _rounds(rounds: Rounds | None) -> dict[str, Any] | None:
    if rounds is None:
        return None
    return {
        "asked": rounds.asked,
        "done": rounds.done,
        "failed": rounds.failed,
        "by_check": dict(rounds.by_check),
        "failures": [
            {
                "family": failure.key.family,
                "check": failure.key.id,
                "payload": failure.key.payload,
                "phase": failure.key.phase,
                "side": failure.key.side,
                "count": failure.count,
                "first": failure.first,
                "seed": failure.seed,
                "errors": failure.errors,
            }
            for failure in rounds.failures
        ],
        "cut": None if rounds.cut is None else asdict(rounds.cut),
    }


def _family(result: FamilyResult) -> dict[str, Any]:
    return {"verdict": result.verdict, "checks": [_check(check) for check in result.checks]}


def _check(check: CheckResult) -> dict[str, Any]:
    """The JSON object of ``check``, without optional members that are empty.

    Plain statements, because a kernel has a thousand checks.
    """
    key = check.key
    fields = {
        "id": key.id,
        "phase": key.phase,
        "side": key.side,
        "verdict": check.verdict,
        "detail": check.detail,
    }
    if key.payload:
        fields["payload"] = key.payload
    if check.expected:
        fields["expected"] = check.expected
    if check.got:
        fields["got"] = check.got
    if check.raw:
        fields["raw"] = check.raw
    if check.known:
        fields["known"] = check.known
    return fields


def _incident(incident: Incident) -> dict[str, Any]:
    return {
        "kind": incident.kind,
        "title": incident.title,
        "fingerprint": incident.fingerprint,
        "check": incident.check,
        "excerpt": incident.excerpt,
        "known": incident.known,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "end": boot_end_word(attempt.end),
        "verdict": attempt.verdict,
        "detail": attempt.detail,
        "accel": attempt.accel,
        "console": attempt.console,
        "events": attempt.events,
        "command": attempt.command,
        "boot_s": _seconds(attempt.boot_s),
        "checks_s": _seconds(attempt.checks_s),
        "total_s": _seconds(attempt.total_s),
        "phases": _phases(attempt.phases),
        "errors": attempt.stream.errors,
    }


def _timing(timing: Timing) -> dict[str, Any]:
    return {
        "prepare_s": _seconds(timing.prepare_s),
        "boot_s": _seconds(timing.boot_s),
        "checks_s": _seconds(timing.checks_s),
        "total_s": _seconds(timing.total_s),
        "phases": _phases(timing.phases),
    }


def _phases(phases: Sequence[Phase]) -> list[dict[str, Any]]:
    return [{"name": phase.name, "seconds": _seconds(phase.seconds)} for phase in phases]


def boot_end_word(end: BootEnd) -> str:
    """``powered-off`` for POWERED_OFF, because the sentence in its value may change."""
    return end.name.lower().replace("_", "-")


def _seconds(value: float) -> float:
    return round(float(value), 3)


def clean(value: Any) -> Any:
    """``value`` with lone surrogates replaced by what Python prints for them."""
    if type(value) is str and value.isascii():
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, (dict, Mapping)):
        return {clean(name): clean(item) for name, item in value.items()}
    return value
