# SPDX-License-Identifier: GPL-2.0-only
"""The faults, and the expected verdict of each. Pure, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import UsageError
from harness.selftest.code import SOURCE, Code
from harness.text import plural, printable
from harness.verdict.results import Incident, IncidentKind
from harness.verdict.verdicts import KernelVerdict

#: Reports that a blocked processor may cause, including one in the console driver.
STALLS = {IncidentKind.RCU, IncidentKind.SOFT_LOCKUP, IncidentKind.HARD_LOCKUP}


@dataclass(frozen=True)
class Fault:
    """A fault; guest/faults.py uses the same ``name``.

    Expected are ``verdict``, a reason that matches ``reason`` (a regular expression), and
    ``incident`` on the console, or no incident if it is None. ``code`` runs in the kernel.
    ``outlives`` is set if only a deadline ends the boot, ``stalls`` if a processor is blocked,
    which the kernel may report.
    """

    name: str
    verdict: KernelVerdict
    reason: str = ""
    incident: IncidentKind | None = None
    code: Code | None = None
    outlives: bool = False
    stalls: bool = False
    memory_mib: int | None = None

    @property
    def expected(self) -> str:
        return describe(self.verdict, [self.incident] if self.incident else [])

    def objection(self, verdict: KernelVerdict, reason: str, incidents: Iterable[Incident]) -> str:
        """Why the verdict on a boot is wrong; "" if it is as expected."""
        kinds = [incident.kind for incident in incidents]
        if verdict is not self.verdict:
            return f"expected {self.verdict}; the reason given: {reason or 'none'}"
        if not re.search(self.reason, reason):
            return f"expected a reason like {self.reason!r}, not {reason!r}"
        if self.incident is not None and self.incident not in kinds:
            return f"expected {self.incident} on the console"
        unwanted = [kind for kind in kinds if not (self.stalls and kind in STALLS)]
        if self.incident is None and unwanted:
            return f"expected no {unwanted[0]} on the console"
        return ""


def describe(verdict: KernelVerdict, kinds: Iterable[IncidentKind]) -> str:
    """``crash (panic)``."""
    shown = ", ".join(dict.fromkeys(kinds))
    return f"{verdict} ({shown})" if shown else str(verdict)


#: Not a fault: the others mean nothing unless this boot passes.
NONE = Fault("none", KernelVerdict.PASS)

_SILENT = "fell silent"
_NO_END = "without its closing event"


def _detected(name: str, kind: IncidentKind, code: Code) -> Fault:
    return Fault(name, KernelVerdict.WARNING, _SAID.get(kind, code.symbol), kind, code)


#: What a reason has in the place of the code's function: UBSAN names the file, and kmemleak first
#: says how many leaks there are.
_SAID = {
    IncidentKind.UBSAN: re.escape(SOURCE),
    IncidentKind.KMEMLEAK: "new suspected memory leaks",
}
#: In the order of the output.
FAULTS = (
    Fault("panic", KernelVerdict.CRASH, "sysrq triggered crash", IncidentKind.PANIC),
    Fault("oops", KernelVerdict.CRASH, Code.OOPS.symbol, IncidentKind.OOPS, Code.OOPS),
    Fault("warning", KernelVerdict.WARNING, Code.WARN.symbol, IncidentKind.WARNING, Code.WARN),
    # What only a kernel with the detector reports.
    _detected("use-after-free", IncidentKind.KASAN, Code.READ_FREED),
    _detected("lock-order", IncidentKind.LOCKDEP, Code.LOCK_ORDER),
    _detected("leak", IncidentKind.KMEMLEAK, Code.LEAK),
    _detected("out-of-bounds", IncidentKind.UBSAN, Code.OUT_OF_BOUNDS),
    Fault("hang", KernelVerdict.HANG, _SILENT, outlives=True),
    Fault("busy-hang", KernelVerdict.HANG, _SILENT, code=Code.SPIN, outlives=True, stalls=True),
    Fault("exit-255", KernelVerdict.BOOT_FAILURE, "ended with status 255"),
    Fault("early-end", KernelVerdict.LOST, _NO_END),
    Fault("truncated-stream", KernelVerdict.LOST, "was cut within event"),
    Fault("forged-pass", KernelVerdict.LOST, r"event \d+: numbered \d+"),
    Fault("forged-end", KernelVerdict.LOST, "nonce is not this boot's"),
    Fault("endless-events", KernelVerdict.LOST, r"line of \d+ bytes", outlives=True),
    Fault("endless-console", KernelVerdict.HANG, _SILENT, outlives=True, stalls=True),
    # Less memory is exhausted faster; Debian's kernels run the checks in 192 MiB.
    Fault(
        *("out-of-memory", KernelVerdict.LOST, _NO_END, IncidentKind.OUT_OF_MEMORY),
        memory_mib=192,
    ),
)


def select(names: str | None) -> tuple[Fault, ...]:
    """The faults ``names`` (separated by commas), or all; raises :class:`UsageError`."""
    if names is None:
        return FAULTS
    wanted = [name.strip() for name in names.split(",")]
    known = [fault.name for fault in FAULTS]
    for name in wanted:
        if name not in (*known, NONE.name):  # which is always booted, and first
            raise UsageError(f"{name!r} is not a fault of the selftest; it has {', '.join(known)}")
    return tuple(fault for fault in FAULTS if fault.name in wanted)


@dataclass(frozen=True)
class FaultRow:
    """The result of one fault. ``objection`` is empty if it is as expected.

    ``impossible`` says why this kernel cannot have the fault, if so; then nothing is wrong.
    ``console`` is the file with the kernel's log, "" if nothing was booted.
    """

    fault: str
    expected: str
    got: str
    verdict: KernelVerdict
    seconds: float
    objection: str = ""
    console: str = ""
    impossible: str = ""

    @property
    def ok(self) -> bool:
        return not self.objection


def line(row: FaultRow) -> str:
    """``row`` as a line, with problems on separate lines."""
    standing = "not possible" if row.impossible else "ok" if row.ok else "NOT OK"
    text = f"{row.fault:17} {row.expected:21} {row.got:21} {row.seconds:7.1f} {standing}"
    if not row.ok:
        text += f"\n    {printable(row.objection)}"
        if row.console:
            text += f"\n    console: {printable(row.console)}"
    return text


def summary(rows: Sequence[FaultRow], wanted: int, seconds: float) -> str:
    """The last line; ``wanted`` is the expected number of rows, including that without a fault."""
    bad = [row.fault for row in rows if not row.ok]
    impossible = [row for row in rows if row.impossible]
    if bad == [NONE.name]:
        said = "NOT OK: no kernel passes, so faults cannot be tested"
    elif bad:
        said = f"NOT OK: {', '.join(bad)}"
    elif len(rows) < wanted:
        said = f"NOT OK: {wanted - len(rows)} of {plural(wanted, 'boot')} not done"
    else:
        said = f"ok: {plural(len(rows) - 1 - len(impossible), 'fault')}, all detected correctly"
    if impossible:
        why = (f"{row.fault} ({row.impossible})" for row in impossible)
        said += f"; not possible in this kernel: {', '.join(why)}"
    return f"selftest {printable(said)} ({seconds:.0f} s)"
