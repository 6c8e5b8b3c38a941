# SPDX-License-Identifier: GPL-2.0-only
"""Boots one prepared kernel until something is learned, and again to confirm a bad result.

Only infrastructure is retried automatically. If the user asks for it, more boots confirm a bad
result; the worst boot decides. Every boot is kept.
"""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import kernels
from harness.errors import HostError
from harness.host import tools
from harness.host.architectures import Arch
from harness.kernels import PreparedKernel
from harness.manifest import cross_check, fixes, known_issues
from harness.manifest.entries import KernelEntry, UserSpace
from harness.manifest.fixes_table import FIXES
from harness.manifest.known_issues import Applied, KnownIssues
from harness.manifest.plan import PROGRAM_S
from harness.records.reuse import Results
from harness.run.request import Listener, Progress, RunRequest, Stage
from harness.verdict import judge
from harness.verdict.results import (
    Attempt,
    BootEnd,
    CheckKey,
    CheckResult,
    Confirmed,
    CrossCheck,
    FamilyResult,
    KernelResult,
    Timing,
    merge_capabilities,
)
from harness.verdict.rounds import MOST
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from harness.vm import boot, commandline, traces
from harness.vm.boot import BootPlan, Checking, Deadlines
from harness.vm.commandline import Machine, Request, Unsafe
from harness.vm.machines import Machines

#: Seconds before the second and third attempt. Only infrastructure is retried.
BACK_OFF = (1.0, 4.0)
#: In an attempt's directory: the traceback of a fault of the harness.
TRACEBACK = "traceback.txt"


@dataclass(frozen=True)
class Options:
    """The settings of a run that all its kernels share."""

    directory: Path  # of the run; files of kernel NAME go to kernels/NAME
    roots: Mapping[UserSpace, Path]  # archives of the guest's root, see harness.vm.initramfs
    qemu: Path  # of the host's architecture
    seed: int
    jobs: int
    request: RunRequest = field(default_factory=RunRequest)
    results: Results | None = None  # results of earlier runs
    known: KnownIssues = field(default_factory=KnownIssues)
    extra: Mapping[str, bytes] = field(default_factory=dict)  # as in a BootPlan
    at_most: Deadlines | None = None  # upper bounds for the deadlines of a boot
    on_boot: Callable[[BootPlan], None] = lambda _: None  # called before each boot
    qemus: Mapping[Arch, Path] = field(default_factory=dict)  # of other architectures
    machines: Machines | None = None  # as in a BootPlan
    #: Why the kernels of a user space cannot be booted on this host.
    obstacles: Mapping[UserSpace, str] = field(default_factory=dict)


class Attempts:
    """Boots ``kernel`` and judges each boot."""

    def __init__(
        self,
        entry: KernelEntry,
        kernel: PreparedKernel,
        kvm: bool,
        options: Options,
        listener: Listener,
        stop: threading.Event,
    ) -> None:
        self._entry = entry
        self._kernel = kernel
        self._kvm = kvm
        self._options = options
        self._listener = listener
        self._stop = stop
        self._made: list[Attempt] = []

    def run(self) -> KernelResult | None:
        """The result, with every attempt; None if it was interrupted before there was one."""
        result = self._decide()
        if result is None:
            return None
        bad = not result.verdict.as_expected and result.verdict is not KernelVerdict.INFRASTRUCTURE
        if bad and self._options.request.confirm and not self._stop.is_set():
            result = self._confirm(result)
        total_s = round(sum(attempt.total_s for attempt in self._made), 3)
        timing = replace(result.timing, total_s=total_s)
        return replace(result, attempts=tuple(self._made), timing=timing)

    def _confirm(self, first: KernelResult) -> KernelResult:
        """Make all confirming boots, whatever their result; an interruption keeps those made."""
        wanted = self._options.request.confirm
        results = [first]
        for number in range(1, wanted + 1):
            said = f"{first.verdict}: {first.reason}"
            self._tell(Stage.CONFIRMING, f"boot {number} of {wanted} more, for {said}")
            again = self._decide()
            if again is None:
                break
            results.append(again)
        return confirmed(results, wanted)

    def _decide(self) -> KernelResult | None:
        """Boot until something is learned, at most three times; None if interrupted.

        The finished rounds of an interrupted boot are a result.
        """
        for pause in (*BACK_OFF, None):
            try:
                attempt = self._boot(len(self._made) + 1)
                attempt, result = self._judge(attempt)
            except (Unsafe, OSError) as error:
                return unknown(self._entry, self._kernel, str(error))
            except Exception as error:
                number, directory = len(self._made) + 1, self._options.directory
                reason = unexpected(error, directory, self._entry.name, number)
                return unknown(self._entry, self._kernel, reason)
            self._made.append(attempt)
            if self._stop.is_set() and attempt.end is BootEnd.INTERRUPTED:
                rounds = attempt.stream.rounds
                return result if rounds is not None and rounds.done else None
            if result.verdict is not KernelVerdict.INFRASTRUCTURE or pause is None:
                return result
            self._tell(Stage.RETRYING, f"{result.reason}; trying again in {pause:.0f} s")
            self._stop.wait(pause)
        raise AssertionError("the last pause is None")

    def _boot(self, number: int) -> Attempt:
        self._tell(Stage.BOOTING, "KVM" if self._kvm else "TCG")
        plan = self._plan(number)
        self._options.on_boot(plan)

        def on_progress(at: Checking) -> None:
            if not at.repeating:
                self._tell(Stage.CHECKING, at.running, done=at.done, planned=at.planned)
                return
            asked = at.planned if at.planned < MOST else 0  # MOST stands for "without end"
            detail = f"{at.failed or 'none'} failed"
            self._tell(Stage.REPEATING, detail, done=at.done, planned=asked)

        attempt = self._decoded(boot.boot(plan, self._stop, on_progress))
        shown = commandline.for_display(attempt.command)
        (plan.directory / "command.txt").write_text(shown + "\n")
        return replace(
            attempt,
            console=os.path.relpath(attempt.console, self._options.directory),
            events=os.path.relpath(attempt.events, self._options.directory),
        )

    def _decoded(self, attempt: Attempt) -> Attempt:
        """``attempt`` with source lines in its traces, if a vmlinux has them."""
        images = kernels.debug_images(self._entry) if attempt.incidents else ()
        console = Path(attempt.console).read_bytes() if images else b""
        vmlinux = next((image for image in images if traces.is_vmlinux_of(image, console)), None)
        if vmlinux is None:
            return attempt
        try:
            excerpts = traces.decode_all([i.excerpt for i in attempt.incidents], vmlinux)
        except HostError as error:
            note = f"the traces have no source lines, although {vmlinux} has them: {error}"
            stream = replace(attempt.stream, notes=(*attempt.stream.notes, note))
            return replace(attempt, stream=stream)
        decoded = zip(attempt.incidents, excerpts, strict=True)
        incidents = tuple(replace(incident, excerpt=text) for incident, text in decoded)
        return replace(attempt, incidents=incidents)

    def _plan(self, number: int) -> BootPlan:
        entry, options = self._entry, self._options
        # Once for both: the host's load may change in between.
        share = tools.share(options.jobs, entry.cpus)
        deadlines, plan = self._deadlines(share), options.request.plan
        # Less than the deadline of the boot, so that a program that hangs does not count as a hang.
        program_s = max(1, min(PROGRAM_S, int(deadlines.total / 2)))
        slowness = round(entry.slowness * max(1.0, share))
        return BootPlan(
            kernel=self._kernel,
            base=options.roots[entry.user_space],
            qemu=options.qemus.get(entry.arch, options.qemu),
            machine=Machine(entry.cpus, entry.memory_mib, entry.append, self._kvm, entry.arch),
            request=Request(secrets.token_hex(16), options.seed, plan, program_s, slowness),
            deadlines=deadlines,
            directory=options.directory / "kernels" / entry.name / f"attempt-{number}",
            number=number,
            extra={**options.extra, **cross_check.files(plan.programs, plan.families)},
            machines=options.machines,
        )

    def _deadlines(self, share: float) -> Deadlines:
        entry, options = self._entry, self._options
        deadlines = Deadlines.scaled(entry.timeout_s, kvm=self._kvm, share=share, arch=entry.arch)
        return deadlines if options.at_most is None else deadlines.bounded(options.at_most)

    def _judge(self, attempt: Attempt) -> tuple[Attempt, KernelResult]:
        """``attempt`` with its verdict, and the result of this boot alone."""
        entry, prepared = self._entry, self._kernel
        # The release that the running kernel reports decides, not that of its package.
        release = attempt.stream.release or prepared.release
        seen = self._known(attempt, release)
        lacking = fixes.lacking(FIXES, release, attempt.stream.version, entry.expect)
        excused = fixes.excuse(seen.families, lacking)
        families = judge.unexcused(excused, attempt.stream.rounds)
        attempt = replace(attempt, incidents=seen.incidents)
        verdict, reason = judge.kernel(attempt, families)
        compared = self._cross_checks(attempt, families)
        result = KernelResult(
            name=entry.name,
            verdict=verdict,
            reason=reason,
            release=release,
            version=prepared.version,
            origin=prepared.origin,
            image_sha256=prepared.image_sha256,
            accel=attempt.accel,
            capabilities=merge_capabilities(attempt.stream.capabilities),
            families=families,
            incidents=attempt.incidents,
            notes=(*map(str, compared), *prepared.notes, *attempt.stream.notes, *seen.notes),
            timing=Timing(
                boot_s=attempt.boot_s,
                checks_s=attempt.checks_s,
                phases=attempt.phases,
            ),
            rounds=attempt.stream.rounds,
            missing_fixes=fixes.shown_missing(families, lacking),
            cross_checks=compared,
            abi=entry.abi.value,
            arch=entry.arch.value,
        )
        return replace(attempt, verdict=verdict), result

    def _known(self, attempt: Attempt, release: str) -> Applied:
        """The results of ``attempt`` by family, with known issues marked."""
        entry, known = self._entry, self._options.known
        judged = judge.families(
            attempt, self._options.request.plan.families, entry.expected(release)
        )
        may_be_known = known_issues.may_apply(judged, attempt.incidents)
        return known_issues.apply(
            judged,
            attempt.incidents,
            known.of(entry) if may_be_known else (),
            entry.name,
            release,
            known.today,
            entry.abi,
        )

    def _cross_checks(
        self, attempt: Attempt, families: Mapping[Family, FamilyResult]
    ) -> tuple[CrossCheck, ...]:
        plan = self._options.request.plan
        ended = itertools.chain(attempt.stream.programs, itertools.repeat(None))
        return tuple(
            cross_check.compare(program.shown(family), family, run, families.get(family))
            for (program, family), run in zip(
                cross_check.runs(plan.programs, plan.families), ended, strict=False
            )
        )

    def _tell(self, stage: Stage, detail: str = "", *, done: int = 0, planned: int = 0) -> None:
        self._listener(Progress(self._entry.name, stage, detail, done, planned))


def unknown(entry: KernelEntry, kernel: PreparedKernel, reason: str) -> KernelResult:
    """The result if nothing was learned about ``kernel``."""
    return KernelResult.infrastructure(
        entry.name,
        reason,
        release=kernel.release,
        version=kernel.version,
        origin=kernel.origin,
        image_sha256=kernel.image_sha256,
    )


def unexpected(error: Exception, directory: Path, name: str, number: int = 1) -> str:
    """Write the traceback of ``error`` to the attempt ``number`` of a kernel; returns a message.

    ``directory`` is the run's.
    """
    place = directory / "kernels" / name / f"attempt-{number}" / TRACEBACK
    kept = f"its traceback is in {os.path.relpath(place, directory)}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as trouble:
        kept = f"its traceback could not be written: {trouble}"
    return f"the harness failed, not the kernel: {type(error).__name__}: {error}; {kept}"


def confirmed(results: Sequence[KernelResult], wanted: int) -> KernelResult:
    """The worst of ``results``, one for each boot, with everything that went wrong in any of them.

    The first is bad, and ``wanted`` more boots were planned. A boot that says nothing about the
    kernel does not count.
    """
    telling = [r for r in results if r.verdict is not KernelVerdict.INFRASTRUCTURE]
    bad = [result for result in telling if not result.verdict.as_expected]
    order = list(KernelVerdict)
    worst = min(bad, key=lambda result: order.index(result.verdict))
    count = Confirmed(len(telling), len(bad))
    incidents = list(worst.incidents)
    for incident in (incident for result in bad for incident in result.incidents):
        if incident.fingerprint not in [known.fingerprint for known in incidents]:
            incidents.append(incident)
    notes = dict.fromkeys(note for result in (worst, *bad) for note in result.notes)
    more = count.boots - 1
    short = [f"only {more} of {wanted} more boots gave a result"] if more < wanted else []
    return replace(
        worst,
        reason=f"{count}: {worst.reason}",
        families=_worst_families(bad),
        incidents=tuple(incidents),
        notes=(*notes, *short),
        confirmed=count,
    )


def _worst_families(bad: Sequence[KernelResult]) -> dict[Family, FamilyResult]:
    """Each check with its worst result in any of the boots."""
    order = list(CheckVerdict)
    families = {}
    for family in bad[0].families:
        worst: dict[CheckKey, CheckResult] = {}
        for check in (check for result in bad for check in result.families[family].checks):
            before = worst.setdefault(check.key, check)
            if order.index(check.weight) < order.index(before.weight):
                worst[check.key] = check
        families[family] = judge.family_result(list(worst.values()))
    return families
