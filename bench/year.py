# SPDX-License-Identifier: GPL-2.0-only
"""A store with a generated year of nightly runs, and the time that queries over it take.

Kernels get a new build every week or two. Some builds break checks, a later one repairs them; some
checks fail now and then; a few boots crash or are lost to the host.
"""

from __future__ import annotations

import datetime
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.runner import Failed, Run
from harness.records import store, summaries, to_json
from harness.records.store import FILE, Store
from harness.records.summaries import Digest
from harness.verdict.results import (
    Attempt,
    BootEnd,
    CheckKey,
    CheckResult,
    FamilyResult,
    Incident,
    IncidentKind,
    KernelResult,
    Timing,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict, worst

#: Each must answer in this time, start-up of Python included.
QUERY_S = 0.3
DAYS, KERNELS, CHECKS = 365, 60, 400
FIRST = datetime.datetime(2026, 1, 1, 2, 30, tzinfo=datetime.UTC)
PANIC = Incident(
    IncidentKind.PANIC,
    "Kernel panic - not syncing: Fatal exception in interrupt",
    "5e2b1a60c9d4f783",
    "[    4.102544] Kernel panic - not syncing: Fatal exception in interrupt\n" * 20,
)
#: By key of the figure; DAYS of runs are asked for.
QUERIES: Mapping[str, Sequence[str]] = {
    "runs": ("runs", "--last", str(DAYS)),
    "kernels": ("history", "--last", str(DAYS)),
    "kernel": ("history", "--last", str(DAYS), "-k", "kernel-07", "--check", "*"),
    "check": ("history", "--last", str(DAYS), "--check", "option07.*"),
    "checks": ("history", "--last", str(DAYS), "--check", "*"),
    "compare": ("compare",),
    "missing-fixes": ("missing-fixes",),
    "compare-kernels": ("compare", "--kernels", "kernel-07", "kernel-08"),
}


@dataclass(frozen=True)
class _Night:
    """What decides one kernel's record: equal ones are made once."""

    kernel: str
    build: int
    bad: tuple[str, ...]
    crashed: bool


class Year:
    """Writes the runs of a year into a store in ``directory``, the state directory of a user."""

    def __init__(self, directory: Path, days: int, kernels: int, checks: int) -> None:
        self.place = directory / "mptcp-harness" / FILE
        self._days = days
        self._names = [f"kernel-{number:02}" for number in range(kernels)]
        self._checks = [
            f"option{number // 10:02}.property{number % 10}" for number in range(checks)
        ]
        self._random = random.Random(1)  # noqa: S311  (repeatable)
        self._records: dict[_Night, tuple[str, Digest]] = {}

    def write(self) -> None:
        """Write every run, oldest first."""
        asked = json.dumps(
            {
                "manifest": "kernels.yaml",
                "kernels": [{"name": name, "source": "x" * 300} for name in self._names],
            }
        )
        with Store(self.place) as kept:
            for day in range(self._days):
                when = FIRST + datetime.timedelta(days=day)
                id = f"{when:%Y%m%d-%H%M%S}-{day:06x}"
                about = '{"harness": "0.1.0 abc", "QEMU": "7.2.22"}'
                kept.begin(store.Run(id, when.isoformat(), asked, day, f"/runs/{id}", about))
                for number, name in enumerate(self._names):
                    self._add(kept, id, self._night(number, name, day))
                kept.finish(id)

    def _add(self, kept: Store, run: str, night: _Night) -> None:
        if night not in self._records:
            result = self._result(night)
            text = to_json.kernel_text(result)
            self._records[night] = (text, summaries.digest(result, text))
        text, digest = self._records[night]
        verdict = digest.summary.verdict
        kept.add(run, night.kernel, verdict, text, learned=False, digest=digest)

    def _night(self, number: int, name: str, day: int) -> _Night:
        """What happens to the kernel ``number`` on ``day``."""
        build = (day + 3 * number) // (7 + number % 8)
        broken = random.Random(number * 1000 + build)  # noqa: S311
        bad = set(broken.sample(self._checks, 3)) if broken.random() < 0.15 else set()
        if number % 4 == 0 and self._random.random() < 0.07:
            bad.add(self._checks[number * 5 % len(self._checks)])
        order = tuple(check for check in self._checks if check in bad)
        return _Night(name, build, order, crashed=self._random.random() < 0.003)

    def _result(self, night: _Night) -> KernelResult:
        families = {}
        for family in Family:
            checks = tuple(self._check(family, check, night) for check in self._checks)
            families[family] = FamilyResult(worst(check.verdict for check in checks), checks)
        verdict = KernelVerdict.FAIL if night.bad else KernelVerdict.PASS
        if night.crashed:
            verdict = KernelVerdict.CRASH
        return KernelResult(
            night.kernel,
            verdict,
            PANIC.title if night.crashed else f"{len(night.bad)} checks did not pass",
            release=f"6.12.{night.build}-amd64",
            version=f"6.12.{night.build}-1",
            image_sha256=f"{random.Random(f'{night.kernel}{night.build}').getrandbits(256):064x}",  # noqa: S311
            accel="tcg",
            capabilities={f"capability{number}": True for number in range(40)},
            families=families,
            incidents=(PANIC,) if night.crashed else (),
            attempts=(Attempt(1, BootEnd.POWERED_OFF, command=("vng", "-r", "vmlinux")),),
            timing=Timing(0.3, 4.0, 38.0, 43.0),
        )

    def _check(self, family: Family, check: str, night: _Night) -> CheckResult:
        key = CheckKey(family, check, "segment", "established", "client")
        result = CheckResult(key, CheckVerdict.PASS, "as documented")
        if night.crashed and family is Family.IPV6:
            return replace(result, verdict=CheckVerdict.LOST, detail="")
        if check in night.bad:
            return replace(result, verdict=CheckVerdict.FAIL, expected="1", got="0", raw="00000000")
        return result


def generate(
    directory: Path, days: int = DAYS, kernels: int = KERNELS, checks: int = CHECKS
) -> None:
    """Write a year into the state directory ``directory``; takes a minute."""
    Year(directory, days, kernels, checks).write()


def ask(query: Sequence[str], state: Path) -> Run:
    """`mptcp-harness` with ``query``. Raises Failed if it has no answer."""
    # Bytecode is kept, as it is where the harness is installed.
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    used = _children_s()
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "harness", *query],
        env=environment,
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode not in (0, 1) or not done.stdout:
        raise Failed(f"{' '.join(query)} ended with status {done.returncode}: {done.stderr[-300:]}")
    return Run(seconds, _children_s() - used, done.returncode, done.stdout, 0, 0.0)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
