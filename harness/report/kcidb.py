# SPDX-License-Identifier: GPL-2.0-only
"""A run for KCIDB, KernelCI's common database: its I/O schema 5.3 (kernelci/kcidb-io).

The harness does not know the source of a kernel, so a checkout stands for the image. A check is one
test in each family, with the worst status of all its places.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from harness.text import printable
from harness.verdict.results import CheckResult, KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict, worst

VERSION = {"major": 5, "minor": 3}
ORIGIN = "mptcp_harness"
MAX_EXCERPT = 16_384  # of the schema
MAX_COMMENT = 1024

CHECK_STATUS = {
    CheckVerdict.FAIL: "FAIL",
    CheckVerdict.ERROR: "ERROR",
    CheckVerdict.LOST: "MISS",
    CheckVerdict.PASS: "PASS",
    CheckVerdict.UNSUPPORTED: "SKIP",
}
KERNEL_STATUS = {
    KernelVerdict.CRASH: "FAIL",
    KernelVerdict.HANG: "FAIL",
    KernelVerdict.LOST: "ERROR",
    KernelVerdict.BOOT_FAILURE: "FAIL",
    KernelVerdict.FAIL: "FAIL",
    KernelVerdict.WARNING: "FAIL",
    KernelVerdict.PASS: "PASS",
    KernelVerdict.UNSUPPORTED: "SKIP",
    KernelVerdict.INFRASTRUCTURE: "MISS",
}


def to_kcidb(run: RunResult) -> str:
    """``run`` as one JSON object. Known failures are FAIL here, with the reason beside them."""
    checkouts = {_build(run, kernel): _checkout(run, kernel) for kernel in run.kernels}
    builds = {_build(run, kernel): _built(run, kernel) for kernel in run.kernels}
    report = {
        "version": VERSION,
        "checkouts": list(checkouts.values()),
        "builds": list(builds.values()),
        "tests": [test for kernel in run.kernels for test in _tests(run, kernel)],
    }
    return json.dumps(report, indent=1) + "\n"


def _build(run: RunResult, kernel: KernelResult) -> str:
    """The id of a build; the same image has the same id in every run."""
    what = kernel.image_sha256 or f"{run.id}:{kernel.name}"
    return _text(f"{ORIGIN}:{what}", 256)


def _checkout(run: RunResult, kernel: KernelResult) -> dict[str, Any]:
    return {
        "id": _build(run, kernel),
        "origin": ORIGIN,
        "comment": _text(kernel.version or kernel.release or kernel.name),
    }


def _built(run: RunResult, kernel: KernelResult) -> dict[str, Any]:
    build = {
        "id": _build(run, kernel),
        "checkout_id": _build(run, kernel),
        "origin": ORIGIN,
        "architecture": "x86_64",
        "comment": _text(kernel.origin or kernel.name),
        "misc": {"release": _text(kernel.release), "image_sha256": _text(kernel.image_sha256)},
    }
    return build | ({"status": "PASS"} if kernel.image_sha256 else {})


def _tests(run: RunResult, kernel: KernelResult) -> Iterator[dict[str, Any]]:
    yield _kernel(run, kernel)
    yield _test(run, kernel, "boot") | {"status": _boot_status(kernel)}
    if kernel.timing.boot_s > 0:
        seconds = {"value": round(kernel.timing.boot_s, 3), "unit": "s"}
        yield _test(run, kernel, f"{ORIGIN}.boot_time") | {"status": "DONE", "number": seconds}
    for family, result in kernel.families.items():
        by_id: dict[str, list[CheckResult]] = {}
        for check in result.checks:
            by_id.setdefault(check.key.id, []).append(check)
        for name, checks in by_id.items():
            yield _check(run, kernel, family, name, checks)


def _kernel(run: RunResult, kernel: KernelResult) -> dict[str, Any]:
    excerpt = "\n\n".join(f"{incident.title}\n{incident.excerpt}" for incident in kernel.incidents)
    test = _test(run, kernel, ORIGIN) | {
        "status": KERNEL_STATUS[kernel.verdict],
        "comment": _text(f"{kernel.verdict}: {kernel.reason}" if kernel.reason else kernel.verdict),
        "duration": max(0.0, round(kernel.timing.total_s, 3)),
        "misc": {
            "kernel": _text(kernel.name),
            "verdict": kernel.verdict,
            "seed": run.seed,
            "run": _text(run.id),
            "fingerprints": [_text(incident.fingerprint) for incident in kernel.incidents],
            "capabilities": {_text(n): there for n, there in kernel.capabilities.items()},
        },
    }
    return test | ({"log_excerpt": _lines(excerpt)} if excerpt else {})


def _boot_status(kernel: KernelResult) -> str:
    """PASS if any check ran, because then the guest booted; otherwise by the verdict."""
    if kernel.families and any(result.checks for result in kernel.families.values()):
        return "PASS"
    return {"PASS": "PASS", "SKIP": "PASS"}.get(
        KERNEL_STATUS[kernel.verdict], KERNEL_STATUS[kernel.verdict]
    )


def _check(
    run: RunResult,
    kernel: KernelResult,
    family: Family,
    name: str,
    checks: Sequence[CheckResult],
) -> dict[str, Any]:
    verdict = worst(check.verdict for check in checks)
    told = [check for check in checks if check.verdict is verdict]
    test = _test(run, kernel, f"{ORIGIN}.{family}.{name}") | {
        "status": CHECK_STATUS[verdict],
        "misc": {"places": len(checks), "of_this_status": len(told)},
    }
    comment = "; ".join(filter(None, [told[0].detail, told[0].known]))
    if comment:
        test["comment"] = _text(comment)
    if verdict.is_bad:
        test["log_excerpt"] = _lines("\n".join(_words(told)))
    return test


def _words(checks: Iterable[CheckResult]) -> Iterator[str]:
    for check in checks:
        said = (check.detail, check.expected and f"expected {check.expected}")
        got = check.got and f"got {check.got}"
        yield f"{check.key}: {'; '.join(filter(None, [*said, got]))}"


def _test(run: RunResult, kernel: KernelResult, path: str) -> dict[str, Any]:
    environment = f"virtme-ng {run.virtme_ng}, QEMU {run.qemu}, {kernel.accel or run.accel}"
    test: dict[str, Any] = {
        "id": _text(f"{ORIGIN}:{run.id}:{kernel.name}:{path}", 512),
        "build_id": _build(run, kernel),
        "origin": ORIGIN,
        "path": _path(path),
        "environment": {"comment": _text(environment)},
    }
    return test | ({"start_time": run.started} if _is_time(run.started) else {})


def _path(path: str) -> str:
    """The schema allows letters, digits, _ and -, in non-empty parts."""
    parts = path[:256].split(".")
    return ".".join(
        "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in part) or "_"
        for part in parts
    )


def _is_time(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _text(text: str, limit: int = MAX_COMMENT) -> str:
    return printable(text[:limit])


def _lines(text: str) -> str:
    shown = "\n".join(printable(line.expandtabs()) for line in text[:MAX_EXCERPT].split("\n"))
    return shown[:MAX_EXCERPT]
