# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that are not booted: what each gives follows from its name. Also a plugin of pytest, for
the workers of pytest-xdist, which are processes of their own.

Each boot adds a line to the file ``boots`` in the directory that STAND_IN names: the kernel, the
process, the number of its planned checks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from guest import checks, runner
from harness.errors import HostError
from harness.manifest.plan import Plan
from harness.pytest_plugin import active, fixture  # noqa: F401  (see below)
from harness.run import attempts, workspace
from harness.verdict.results import (
    Attempt,
    BootEnd,
    Capability,
    CheckKey,
    CheckResult,
    Incident,
    IncidentKind,
    Stream,
)
from harness.verdict.verdicts import CheckVerdict, Family
from harness.vm import boot
from harness.vm.commands import CommandPlan, Guest, GuestLost
from tests.fake_boots import GOOD, Outcomes
from tests.vm.local_guest import Console, Vm, guest_of

PLACE = "STAND_IN"
checks.all_checks()  # pytester forgets modules that were first imported in its own runs
READABLE, EXACT = "mptcp_info.readable", "mptcp_info.bytes_acked_exact"
FAILED = CheckResult(
    CheckKey(Family.IPV4, EXACT, "", "", ""),
    CheckVerdict.FAIL,
    "mptcpi_bytes_acked",
    expected="158",
    got="0",
    raw="9e00000000000000",
)
TITLE = "Kernel panic - not syncing: sysrq triggered crash"
PANIC = Incident(IncidentKind.PANIC, TITLE, "panic:x", f"{TITLE}\n panic+0x118/0x2f0")


class Kernels(Outcomes):
    """By name: ``good``; ``failing``, ``panicking`` and ``hanging`` in a check of IPv4; …"""

    def boot(self, plan: boot.BootPlan, *rest: object) -> Attempt:
        name, asked = plan.kernel.name, plan.request.plan
        results = list(_planned(asked))
        with (self.directory / "boots").open("a") as file:
            file.write(f"{name} {os.getpid()} {len(results)}\n")
        self.of[name] = _attempt(name, results, rest)
        return super().boot(plan, *rest)


def _planned(plan: Plan) -> Iterator[CheckResult]:
    """A pass at each place of the plan's checks."""
    chosen = [c for c in checks.all_checks(plan.profile) if not plan.checks or c.id in plan.checks]
    for family in plan.families:
        for payload, entries in runner._groups(family, chosen):
            for check, phase, side in entries:
                key = CheckKey(family, check.id, payload, phase, side)
                yield CheckResult(key, CheckVerdict.PASS)


def _attempt(name: str, results: list[CheckResult], rest: tuple[object, ...]) -> Attempt:
    present = (
        Capability("ipv6", Family.IPV6, True),
        *(Capability("mptcp", family, True) for family in Family),
    )
    stream = replace(GOOD.stream, capabilities=present, results=tuple(results))
    attempt = replace(GOOD, stream=stream)
    kind = name.partition("-")[0]
    if kind in ("lacking", "failing", "unsupporting", "broken", "silent"):
        return _of_checks(kind, attempt, results)
    match kind:
        case "panicking":
            return _cut(attempt, results, BootEnd.VMM_DIED, PANIC)
        case "hanging":
            return _cut(attempt, results, BootEnd.SILENCE_DEADLINE)
        case "warning":
            report = Incident(IncidentKind.WARNING, "WARNING: at net/mptcp", "warning:x", "WARNING")
            return replace(attempt, incidents=(report,))
        case "unbootable":
            return replace(GOOD, end=BootEnd.BOOT_DEADLINE, stream=Stream())
        case "unlaunched":
            return replace(GOOD, end=BootEnd.LAUNCH_FAILED, detail="no /dev/kvm", stream=Stream())
        case "deadly" if booted(Path(os.environ[PLACE])).count(name) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case "endless" if booted(Path(os.environ[PLACE])).count(name) == 1:
            stop = rest[0]
            assert isinstance(stop, threading.Event)
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
            assert stop.wait(60)
            return replace(GOOD, end=BootEnd.INTERRUPTED, stream=Stream())
    return attempt


def _of_checks(kind: str, attempt: Attempt, results: list[CheckResult]) -> Attempt:
    """A complete boot, in which checks did not pass."""
    stream = attempt.stream
    match kind:
        case "lacking":
            absent = (
                Capability("mptcp", Family.IPV4, False, "EPROTONOSUPPORT"),
                Capability("ipv6", Family.IPV6, False, "EAFNOSUPPORT"),
            )
            return replace(attempt, stream=replace(stream, capabilities=absent, results=()))
        case "unsupporting":
            lacked = Capability("mptcp_info", Family.IPV4, False, "EOPNOTSUPP")
            stream = replace(stream, capabilities=(*stream.capabilities, lacked))
            why = "no mptcp_info: EOPNOTSUPP"
            told = CheckResult(FAILED.key, CheckVerdict.UNSUPPORTED, why)
        case "silent":  # it plans less than was asked
            kept = tuple(result for result in results if result.key.id != EXACT)
            return replace(attempt, stream=replace(stream, results=kept))
        case "broken":
            told = CheckResult(FAILED.key, CheckVerdict.ERROR, "KeyError: 'x'")
        case _:
            told = FAILED
    bent = tuple(_bad(result, told) for result in results)
    return replace(attempt, stream=replace(stream, results=bent))


def _bad(result: CheckResult, told: CheckResult) -> CheckResult:
    """``told`` at the key of ``result``, if it is about the same check."""
    same = (result.key.family, result.key.id) == (told.key.family, told.key.id)
    return replace(told, key=result.key) if same else result


def _running(results: list[CheckResult]) -> int:
    """The number of the first result of the check that is running at the end."""
    return next((n for n, r in enumerate(results) if r.key.id == EXACT), len(results) - 1)


def _cut(
    attempt: Attempt, results: list[CheckResult], end: BootEnd, *incidents: Incident
) -> Attempt:
    at = _running(results)
    lost = [replace(result, verdict=CheckVerdict.LOST) for result in results[at:]]
    stream = replace(
        attempt.stream,
        closed=False,
        results=(*results[:at], *lost),
        running=str(results[at].key),
    )
    told = tuple(replace(incident, check=str(results[at].key)) for incident in incidents)
    return replace(attempt, end=end, stream=stream, incidents=told)


REPORT = b"""\
[    1.000000] ------------[ cut here ]------------
[    1.000001] WARNING: CPU: 0 PID: 1 at net/mptcp/protocol.c:1 mptcp_poll+0x1/0x2
[    1.000002] ---[ end trace 0000000000000000 ]---
"""


@contextlib.contextmanager
def _booted(plan: CommandPlan, stop: threading.Event) -> Iterator[Guest]:
    """The guest of the fixture `kernel`: programs run on this host."""
    name = plan.kernel.name
    with (Path(os.environ[PLACE]) / "boots").open("a") as file:
        file.write(f"{name}\n")
    if name.startswith("unbootable"):
        raise GuestLost("the guest is lost: it does not start")
    vm = Vm()
    try:
        guest = guest_of(
            vm, Console(REPORT if name.startswith("warning") else b"[  1.0] fine\n"), stop
        )
        guest.wait_for_hello()
        yield guest
    finally:
        vm.close()


def install(patch: pytest.MonkeyPatch, directory: Path) -> Kernels:
    """Let nothing be booted, and write what would have been to ``directory``."""
    kernels = Kernels(directory)
    kernels.install(patch.setattr)
    patch.setattr(attempts, "BACK_OFF", (0.0, 0.0))
    patch.setattr(fixture, "booted", _booted)
    if (directory / "no-qemu").exists():

        def find_tools() -> None:
            raise HostError("this host lacks qemu-system-x86_64; install it")

        patch.setattr(workspace, "find_tools", find_tools)
    return kernels


def booted(directory: Path) -> list[str]:
    """The kernels that were booted, in order."""
    file = directory / "boots"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    install(patch, Path(os.environ[PLACE]))
