# SPDX-License-Identifier: GPL-2.0-only
"""The selftest's boots: a good kernel without a fault, then with one fault after another."""

from __future__ import annotations

import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from harness import kernels
from harness.errors import HostError, KernelUnavailable
from harness.host import tools
from harness.host.architectures import ARCHITECTURES, HOST
from harness.kernels import Cache, PreparedKernel
from harness.manifest.entries import Accel, KernelEntry
from harness.manifest.known_issues import KnownIssues
from harness.manifest.plan import Plan, Profile
from harness.run import workspace as workspaces
from harness.run.attempts import Attempts, Options
from harness.run.matrix import default_jobs
from harness.run.request import RunRequest
from harness.selftest import layout, module
from harness.selftest.faults import FAULTS, NONE, Fault, FaultRow, describe
from harness.verdict.verdicts import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_OK,
    Family,
    KernelVerdict,
)
from harness.vm import accelerator, commandline, initramfs
from harness.vm.boot import Deadlines
from harness.vm.commandline import Unsafe

#: Deadlines for faults that only a deadline ends, in seconds under KVM and under TCG.
SILENCE = {True: 5.0, False: 15.0}
POWER_OFF = {True: 2.0, False: 5.0}
#: The checks of a boot with a fault, enough for a fault in the middle.
CHECKS, FAMILY = ("mptcp_info.readable",), Family.IPV4
#: Paths in the guest's root, see guest/faults.py.
FAULT, CODE = "opt/fault", "opt/fault.ko"

Say = Callable[[str], None]


@dataclass(frozen=True)
class SelftestRequest:
    """The request of the user; None means that the harness chooses.

    ``exact`` is set if the user named the kernels; then a failing newest one is not skipped.
    """

    faults: tuple[Fault, ...] = FAULTS
    exact: bool = False
    jobs: int | None = None
    accel: Accel | None = None
    output: Path | None = None


def run(
    entries: Sequence[KernelEntry],
    request: SelftestRequest,
    cache: Cache,
    say: Say,
    on_row: Callable[[FaultRow], object],
    stop: threading.Event,
) -> tuple[FaultRow, ...]:
    """Boot the newest of ``entries`` that passes with each fault; the first row is without a fault.

    ``say`` gets progress messages, ``on_row`` each row as soon as possible in the order of the
    faults. Only the first row exists if the kernel does not pass; rows are missing once ``stop`` is
    set. Raises as :func:`harness.run.session.run` does, and KernelUnavailable.
    """
    if not request.exact:
        # An emulated machine of another architecture is no proof for kernels of the host's.
        entries = [entry for entry in entries if entry.arch is HOST] or entries
    wanted = {entry.user_space for entry in entries}
    with workspaces.opened(request.output, cache, user_spaces=wanted, say=say) as workspace:
        try:
            subject, first = _good_kernel(entries, request, workspace, cache, say, stop)
            if first is None:
                return ()
            on_row(first)
            rows = [first]
            if first.ok:
                rows += _strike(subject, request.faults, on_row, stop)
        except Unsafe as error:
            raise HostError(str(error)) from error
    return tuple(rows)


def exit_status(rows: Sequence[FaultRow], request: SelftestRequest) -> int:
    """The exit status: 0 only if every possible fault was detected; 3 if boots failed."""
    bad = [row for row in rows if not row.ok]
    if any(row.verdict is not KernelVerdict.INFRASTRUCTURE for row in bad):
        return EXIT_FAILED
    return EXIT_INFRASTRUCTURE if bad or len(rows) <= len(request.faults) else EXIT_OK


def _good_kernel(
    entries: Sequence[KernelEntry],
    request: SelftestRequest,
    workspace: workspaces.Workspace,
    cache: Cache,
    say: Say,
    stop: threading.Event,
) -> tuple[_Subject, FaultRow | None]:
    """The newest kernel that passes, or the last one tried; no row once ``stop`` is set."""
    prepared = _prepare(entries, request, cache, say)
    for place, (entry, kernel) in enumerate(prepared):
        wanted = request.accel or entry.accel
        remembered = cache.root / "kvm.json"
        choice = accelerator.choose(wanted, kernel, workspace.qemu, remembered, say, stop)
        say(f"{entry.name}: {kernel.release} under {'KVM' if choice.kvm else 'TCG'} ({choice.why})")
        jobs = request.jobs or default_jobs([entry] * len(FAULTS))
        subject = _Subject(entry, kernel, workspace, choice.kvm, jobs, stop)
        last = request.exact or place == len(prepared) - 1
        if not last and (why := subject.withstands(request.faults)):
            say(f"{entry.name}: {why}; so the next older kernel is tried")
            continue
        row = subject.row(NONE)
        if row is None or row.ok or last:
            return subject, row
        say(f"{entry.name}: {row.got}, so the next older kernel is tried")
    raise AssertionError("one of the kernels is the last")


def _prepare(
    entries: Sequence[KernelEntry], request: SelftestRequest, cache: Cache, say: Say
) -> list[tuple[KernelEntry, PreparedKernel]]:
    """The available kernels that may pass, newest first."""
    may_pass = [entry for entry in entries if entry.expect.get("mptcp", True)]
    wanted = entries if request.exact else may_pass or entries
    found = []
    for entry in wanted:
        try:
            found.append((entry, kernels.prepare(entry, cache, say)))
        except KernelUnavailable as error:
            if request.exact or (entry is wanted[-1] and not found):
                raise
            say(f"{entry.name}: {error}")
    return sorted(found, key=lambda one: _version(one[1].release), reverse=True)


def _version(release: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"[0-9]+", release)))


def _strike(
    subject: _Subject,
    faults: Sequence[Fault],
    on_row: Callable[[FaultRow], object],
    stop: threading.Event,
) -> list[FaultRow]:
    """The rows of ``faults``, with ``subject.jobs`` boots at a time."""
    rows = []
    with ThreadPoolExecutor(subject.jobs, "selftest") as booters:
        under_way = [booters.submit(subject.row, fault) for fault in faults]
        try:
            for row in (future.result() for future in under_way):
                if row is not None:
                    on_row(row)
                    rows.append(row)
        except BaseException:
            stop.set()
            raise
    return rows


@dataclass(frozen=True)
class _Subject:
    """The kernel under test, and how it is booted."""

    entry: KernelEntry
    kernel: PreparedKernel
    workspace: workspaces.Workspace
    kvm: bool
    jobs: int
    stop: threading.Event

    def row(self, fault: Fault) -> FaultRow | None:
        """Boot with ``fault`` and judge as the matrix does; None if stopped."""
        if self.stop.is_set():
            return None
        started = time.monotonic()
        try:
            options = self._options(fault)
        except layout.NoModule as error:
            passed = KernelVerdict.PASS
            return FaultRow(fault.name, fault.expected, "-", passed, 0.0, impossible=str(error))
        least = commandline.needed_mib(self.kernel, self.workspace.roots[self.entry.user_space])
        mib = max(fault.memory_mib or self.entry.memory_mib, least)
        entry = replace(self.entry, memory_mib=mib)
        attempts = Attempts(entry, self.kernel, self.kvm, options, lambda _: None, self.stop)
        result = attempts.run()
        if result is None or self.stop.is_set():
            return None
        console = result.attempts[-1].console if result.attempts else ""
        return FaultRow(
            fault=fault.name,
            expected=fault.expected,
            got=describe(result.verdict, (incident.kind for incident in result.incidents)),
            verdict=result.verdict,
            seconds=time.monotonic() - started,
            objection=fault.objection(result.verdict, result.reason, result.incidents),
            console=str(options.directory / console) if console else "",
        )

    def withstands(self, faults: Sequence[Fault]) -> str:
        """Why one of ``faults`` is impossible in this kernel; "" if all are possible."""
        coded = next((fault for fault in faults if fault.code is not None), NONE)
        try:
            self._files(coded)
        except layout.NoModule as error:
            return str(error)
        return ""

    def _files(self, fault: Fault) -> Mapping[str, bytes]:
        """The files that make the guest misbehave; none for a boot without a fault."""
        if fault is NONE:
            return {}
        misbehaving = resources.files("guest").joinpath(initramfs.FAULTS).read_bytes()
        extra = {f"{initramfs.CHECKER}/__main__.py": misbehaving, FAULT: fault.name.encode()}
        if fault.code is not None:
            extra[CODE] = module.build(fault.code, layout.of(self.kernel, fault.code))
        return extra

    def _options(self, fault: Fault) -> Options:
        plan = Plan(profile=Profile.QUICK)
        known = KnownIssues.read([self.entry])  # a kernel with known failures passes
        if fault is not NONE:
            plan = Plan((FAMILY,), CHECKS, Profile.QUICK)
            known = KnownIssues(files=dict.fromkeys(known.files, ()))  # nothing excuses a fault
        slow = self.entry.slowness
        if not self.kvm:
            slow *= ARCHITECTURES[self.entry.arch].factor
        share = slow * max(1.0, tools.share(self.jobs, self.entry.cpus))
        soon = Deadlines(
            boot=math.inf,
            silence=SILENCE[self.kvm] * share,
            power_off=POWER_OFF[self.kvm] * share,
            total=math.inf,
        )
        return Options(
            directory=self.workspace.directory / fault.name,
            roots=self.workspace.roots,
            qemu=self.workspace.qemu,
            qemus=self.workspace.qemus,
            machines=self.workspace.machines,
            seed=secrets.randbits(32),
            jobs=self.jobs,
            request=RunRequest(plan=plan),
            known=known,
            extra=self._files(fault),
            at_most=soon if fault.outlives else None,
        )
