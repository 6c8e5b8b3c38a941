# SPDX-License-Identifier: GPL-2.0-only
"""A run as KTAP 1: a subtest for each kernel, with a subtest for each family in it.

https://docs.kernel.org/dev-tools/ktap.html. The rules of the kernel's own reader,
tools/testing/kunit/kunit_parser.py, are stricter: a name has no ``#``, and what follows it begins
with `` # ``. A result line without a directive ends with the time that it took, as those of the
kernel's MPTCP selftests do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.text import printable
from harness.verdict.results import CheckResult, FamilyResult, KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict

VERSION = "KTAP version 1"
INDENT = "  "
#: Bad verdicts that no check shows; the subtest "kernel" shows them.
OF_THE_KERNEL = frozenset(KernelVerdict) - {
    KernelVerdict.PASS,
    KernelVerdict.UNSUPPORTED,
    KernelVerdict.FAIL,
}


def to_ktap(run: RunResult) -> str:
    """``run`` as KTAP; known failures pass as XFAIL."""
    lines = [VERSION, f"1..{len(run.kernels) + len(run.missing)}"]
    for number, kernel in enumerate(run.kernels, 1):
        lines += (INDENT + line for line in _kernel(kernel))
        lines.append(_kernel_line(number, kernel))
    for number, name in enumerate(run.missing, len(run.kernels) + 1):
        lines.append(f"not ok {number} - {_text(name)} # ERROR missing, the run was interrupted")
    return "".join(f"{line}\n" for line in lines)


def _kernel_line(number: int, kernel: KernelResult) -> str:
    line = f"{_ok(kernel.verdict.as_expected)} {number} - {_text(kernel.name)}"
    if kernel.verdict is KernelVerdict.UNSUPPORTED:
        return f"{line} # SKIP {_text(kernel.reason)}"
    return line + _time(kernel.timing.total_s)


def _kernel(kernel: KernelResult) -> Iterator[str]:
    yield VERSION
    yield f"1..{len(kernel.families) + 1}"
    if kernel.release:
        yield f"# release: {_text(kernel.release)}"
    yield f"# verdict: {kernel.verdict}"
    if kernel.reason:
        yield f"# reason: {_text(kernel.reason)}"
    for incident in kernel.incidents:
        yield f"# {incident.kind}: {_text(incident.title)}"
    broken = kernel.verdict in OF_THE_KERNEL
    directive = {
        KernelVerdict.HANG: " # TIMEOUT hang",
        KernelVerdict.LOST: " # ERROR lost",
        KernelVerdict.INFRASTRUCTURE: " # ERROR infrastructure",
    }.get(kernel.verdict, "")
    yield f"{_ok(not broken)} 1 - kernel{directive or _time(kernel.timing.boot_s)}"
    for number, (family, result) in enumerate(kernel.families.items(), 2):
        yield from (INDENT + line for line in _family(result))
        skip = " # SKIP" if result.verdict is CheckVerdict.UNSUPPORTED else ""
        good = not result.verdict.is_bad
        time = _time(kernel.phase_s(family))
        yield f"{_ok(good)} {number} - {_family_name(family)}{skip or time}"


def _family(result: FamilyResult) -> Iterator[str]:
    yield VERSION
    yield f"1..{len(result.checks)}"
    for number, check in enumerate(result.checks, 1):
        yield from _diagnostics(check)
        yield _check(number, check)


def _check(number: int, check: CheckResult) -> str:
    key = check.key
    where = "/".join(part for part in (key.payload, key.phase, key.side) if part)
    name = f"{_text(key.id)} ({_text(where)})" if where else _text(key.id)
    good = f"ok {number} - {name}"
    bad = f"not ok {number} - {name}"
    if check.known:
        return f"{good} # XFAIL {_text(check.known)}"
    match check.verdict:
        case CheckVerdict.PASS:
            return good
        case CheckVerdict.UNSUPPORTED:
            return f"{good} # SKIP {_text(check.detail)}".rstrip()
        case CheckVerdict.FAIL:
            return bad
        case CheckVerdict.LOST | CheckVerdict.ERROR:
            return f"{bad} # ERROR {check.verdict}"


def _diagnostics(check: CheckResult) -> Sequence[str]:
    if not check.verdict.is_bad:
        return ()
    said = (
        ("detail", check.detail),
        ("expected", check.expected),
        ("got", check.got),
        ("raw", check.raw),
    )
    return [f"# {label}: {_text(text)}" for label, text in said if text]


def _family_name(family: Family) -> str:
    return family.value


def _time(seconds: float) -> str:
    """`` # time=12ms``; "" if it is not known."""
    return f" # time={round(seconds * 1000)}ms" if seconds > 0 else ""


def _ok(good: bool) -> str:
    return "ok" if good else "not ok"


def _text(text: str) -> str:
    """``text`` on one line, without #, which would begin a directive."""
    return printable(text[:1024]).replace("#", "\\x23")
