# SPDX-License-Identifier: GPL-2.0-only
"""One boot for each fault, by the harness's own ``matrix``, and what its record says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.faults import source
from bench.faults.catalogue import Fault
from bench.faults.kernel import FaultKernel
from harness.host.files import write_atomically
from harness.kernels.cache import digest
from harness.manifest.entries import Abi

ROOT = Path(__file__).resolve().parent.parent.parent
#: The boot with no fault, which must pass: what fails in it is caught by nothing.
SOUND = "none"
_SOUND_OF = {abi: SOUND if abi is Abi.NATIVE else f"{SOUND}-{abi}" for abi in Abi}
#: Faults of one call of ``matrix``: what an interruption loses.
BATCH = 8
_BAD = {"fail", "error"}
#: Verdicts that say nothing about the fault.
_NOT_TESTED = {"infrastructure", "boot-failure"}
Say = Callable[[str], None]
#: What a boot gave, in the form that ``matrix --json`` has for a kernel; ``_run`` is its directory.
Record = Mapping[str, Any]
#: Boots with each of the faults that are named; what it gave, by fault.
Boots = Callable[[Sequence[str]], Mapping[str, Record]]


class Scope(StrEnum):
    """Which checks a fault was given: those named for it, those of its group, all."""

    NAMED = "named"
    GROUP = "group"
    ALL = "all"


class SweepFailed(Exception):
    """The boots say nothing; a sentence."""


@dataclass(frozen=True)
class Outcome:
    """What the boot with ``fault`` gave.

    ``checks`` are those that fail in it and not in the sound boot, in the order of the run;
    ``charged`` is the check that a crash or hang was charged to. ``fault_key`` and ``checks_key``
    tell of which fault and of which checks it is. ``scope`` says which checks were run.
    """

    fault: str
    verdict: str
    reason: str
    checks: tuple[str, ...]
    charged: str
    seconds: float
    fault_key: str
    checks_key: str
    scope: Scope = Scope.ALL

    @property
    def caught(self) -> bool:
        return bool(self.checks or self.charged)


class MatrixBoots:
    """Boots ``kernel`` by the harness's own ``matrix``, ``jobs`` VMs at a time."""

    def __init__(
        self, kernel: FaultKernel, directory: Path, jobs: int, faults: Iterable[Fault]
    ) -> None:
        self._image = kernel.image
        self._directory = directory
        self._jobs = jobs
        self._abis = abis(faults)

    def __call__(self, names: Sequence[str]) -> dict[str, Record]:
        work = self._directory / f"{time.time_ns()}"
        work.mkdir(parents=True)
        manifest, record = work / "faults.yaml", work / "record.json"
        manifest.write_text(manifest_text(self._image, names, self._abis))
        command = [sys.executable, "-m", "harness", "matrix", str(manifest), "-j", str(self._jobs)]
        command += ["--json", str(record), "--output", str(work / "run"), "--seed", "1"]
        with (work / "output").open("w") as output:
            subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        if not record.exists():
            raise SweepFailed(f"`matrix` left no record; see {work / 'output'}")
        kernels = json.loads(record.read_text())["kernels"]
        return {kernel["name"]: kernel | {"_run": str(work / "run")} for kernel in kernels}


class Sweep:
    """Outcomes, kept in the file ``kept``; what is known is not booted again.

    A fault that was caught stays so. One that was missed is booted again when the checks changed.
    """

    def __init__(self, boots: Boots, kept: Path, say: Say) -> None:
        self._boot = boots
        self._kept = kept
        self._say = say
        self._checks_key = checks_key()
        self.outcomes: dict[str, Outcome] = self._read()
        self._sound_bad: dict[str, set[str]] = {}
        self._abis: Mapping[str, Abi] = {}

    def run(self, faults: Sequence[Fault], *, again: bool) -> None:
        """Boot with none and with each of ``faults`` that is not known; raises SweepFailed."""
        keys = {fault.name: _fault_key(fault) for fault in faults}
        waiting = [name for name, key in keys.items() if again or not self._known(name, key)]
        self._say(f"{len(faults)} faults, {len(waiting)} of which are to be booted")
        if not waiting:
            return
        self._abis = abis(faults)
        for name in sorted({SOUND, *(sound_for(name, self._abis) for name in waiting)}):
            self._sound(name)
        started = time.monotonic()
        for first in range(0, len(waiting), BATCH):
            batch = waiting[first : first + BATCH]
            for name, record in self._boot(batch).items():
                self.outcomes[name] = self._outcome(name, record, keys[name])
                self._tell(self.outcomes[name])
            self._write()
            done = first + len(batch)
            left = (time.monotonic() - started) / done * (len(waiting) - done)
            self._say(f"{done} of {len(waiting)} booted, about {left / 60:.0f} min left")

    def _known(self, name: str, key: str) -> bool:
        known = self.outcomes.get(name)
        if known is None or known.fault_key != key or known.verdict in _NOT_TESTED:
            return False
        return known.caught or known.checks_key == self._checks_key

    def _sound(self, name: str) -> None:
        record = self._boot([name])[name]
        self._sound_bad[name] = {key for key, verdict in _checks(record) if verdict in _BAD}
        outcome = self._outcome(name, record, "")
        self.outcomes[name] = replace(outcome, checks=tuple(sorted(self._sound_bad[name])))
        if outcome.verdict not in ("pass", "fail"):
            raise SweepFailed(f"without a fault ({name}): {outcome.verdict}: {outcome.reason}")
        bad = len(self._sound_bad[name])
        said = f"fails {bad} checks" if bad else "passes"
        self._say(f"without a fault ({name}) the kernel {said} ({outcome.seconds:.0f} s)")

    def _outcome(self, name: str, record: Record, key: str) -> Outcome:
        bad = [check for check, verdict in _checks(record) if verdict in _BAD]
        sound_bad = self._sound_bad[sound_for(name, self._abis)]
        new = [_id(check) for check in bad if check not in sound_bad]
        verdict, reason = record["verdict"], record["reason"]
        if not is_on(name, record):
            verdict, reason, new = "infrastructure", f"the fault {name} was not on", []
        return Outcome(
            fault=name,
            verdict=verdict,
            reason=reason,
            checks=tuple(dict.fromkeys(new)),
            charged=_charged(record) if verdict in ("crash", "hang", "warning") else "",
            seconds=record["timing"]["total_s"] or 0.0,
            fault_key=key,
            checks_key=self._checks_key,
            scope=Scope(record.get("_scope", Scope.ALL)),
        )

    def _tell(self, outcome: Outcome) -> None:
        if outcome.verdict in _NOT_TESTED:
            what = f"not tested: {outcome.reason}"
        elif not outcome.caught:
            what = f"missed ({outcome.verdict})"
        else:
            shown = ", ".join(outcome.checks[:3]) or f"{outcome.verdict} in {outcome.charged}"
            more = f" and {len(outcome.checks) - 3} more" if len(outcome.checks) > 3 else ""
            what = f"caught by {shown}{more}"
        self._say(f"{outcome.fault}: {what} ({outcome.seconds:.0f} s)")

    def _read(self) -> dict[str, Outcome]:
        if not self._kept.exists():
            return {}
        kept = json.loads(self._kept.read_text())
        return {
            name: Outcome(
                **{**fields, "checks": tuple(fields["checks"]), "scope": Scope(fields["scope"])}
            )
            for name, fields in kept.items()
        }

    def _write(self) -> None:
        kept = {name: asdict(outcome) for name, outcome in self.outcomes.items()}
        write_atomically(self._kept, json.dumps(kept, indent=1) + "\n")


def _fault_key(fault: Fault) -> str:
    """What changes with what ``fault`` does; not with what is said of it."""
    return digest([[asdict(edit) for edit in fault.edits], fault.abi])


def checks_key() -> str:
    """What changes whenever a check may."""
    files = sorted((ROOT / "guest").rglob("*.py"))
    return digest([[str(path.relative_to(ROOT)), path.read_text()] for path in files])


def abis(faults: Iterable[Fault]) -> dict[str, Abi]:
    """The user space of each fault, and of the boots with none."""
    found = {fault.name: fault.abi for fault in faults}
    return {_SOUND_OF[abi]: abi for abi in (Abi.NATIVE, *found.values())} | found


def sound_for(name: str, abis: Mapping[str, Abi]) -> str:
    """The boot with no fault in the user space of the fault ``name``."""
    return _SOUND_OF[abis.get(name, Abi.NATIVE)]


def switched(name: str) -> str:
    """What ``mptcp.fault`` is set to in the boot ``name``."""
    return name.partition("-")[0]


def manifest_text(image: Path, names: Iterable[str], abis: Mapping[str, Abi]) -> str:
    """A manifest with ``image`` once for each fault, with its user space of ``abis``."""
    lines = ["# Written by bench.faults.", "defaults: {accel: auto}", "kernels:"]
    for name in names:
        entry = f"name: {name}, image: {image}, append: {source.PARAMETER}={switched(name)}"
        lines.append(f"  - {{{entry}, abi: {abis.get(name, Abi.NATIVE)}}}")
    return "\n".join(lines) + "\n"


def _checks(record: Record) -> list[tuple[str, str]]:
    """Every result as what it is of, and its verdict."""
    return [
        (f"{family} {check['id']} {check['phase']} {check['side']} {check.get('payload', '')}",
         check["verdict"])
        for family, result in record["families"].items()
        for check in result["checks"]
    ]  # fmt: skip


def _id(key: str) -> str:
    return key.split()[1]


def _charged(record: Record) -> str:
    """The check that a crash, a warning or a hang was charged to; "" where it was not."""
    for incident in record["incidents"]:
        if incident["check"]:
            return str(incident["check"])
    if record["verdict"] == "hang":
        lost = [key for key, verdict in _checks(record) if verdict == "lost"]
        return _id(lost[0]) if lost and f" in {lost[0].split()[0]}" in record["reason"] else ""
    return ""


def is_on(name: str, record: Record) -> bool:
    """Whether the kernel itself said that the fault is on."""
    if "_on" in record:
        return bool(record["_on"])
    wanted = source.LOGGED.format(name=switched(name))
    return any(
        wanted in (Path(record["_run"]) / attempt["console"]).read_text(errors="replace")
        for attempt in record["attempts"]
        if attempt["console"]
    )
