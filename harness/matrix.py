# SPDX-License-Identifier: GPL-2.0-only
"""Many kernels: what is prepared and booted when, what is tried again, who is told."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from harness import host, judge, kernels, known_issues
from harness.capabilities import expectations
from harness.kernels import Cache, KernelUnavailable, PreparedKernel
from harness.known_issues import KnownIssues
from harness.manifest import Accel, DebSource, KernelEntry
from harness.progress import Listener, Progress, Stage
from harness.results import (
    Attempt,
    BootEnd,
    CheckKey,
    Family,
    KernelResult,
    KernelVerdict,
    Phase,
    Timing,
    merge_capabilities,
)
from harness.reuse import Answer, Results
from harness.vm import accelerator, boot, commandline
from harness.vm.accelerator import AcceleratorUnavailable
from harness.vm.boot import BootPlan, Deadlines
from harness.vm.commandline import Machine, Request, Unsafe

#: Kernels that are prepared at the same time: a download waits for the network, unpacking works.
PREPARING = 2
#: Seconds before the second and third attempt. Only infrastructure is tried again.
BACK_OFF = (1.0, 4.0)
#: MiB beside a guest's memory that QEMU itself takes.
QEMU_OVERHEAD = 150


@dataclass(frozen=True)
class Options:
    """What a run is about, beside the kernels."""

    directory: Path  # of the run; files of kernel NAME go to kernels/NAME
    base: Path  # the guest's root, see harness.vm.initramfs
    qemu: Path
    seed: int
    jobs: int
    families: tuple[Family, ...] = tuple(Family)
    checks: tuple[str, ...] = ()  # all when empty
    payload: int | None = None
    accel: Accel | None = None  # over the manifest's
    results: Results | None = None  # where results are kept
    reuse: bool = False  # whether they may take the place of boots
    known: KnownIssues | None = None  # else read from the files that the kernels name


def default_jobs(entries: Sequence[KernelEntry]) -> int:
    """How many VMs the processors and the free memory allow at a time, at least one."""
    largest = max((entry.memory_mib for entry in entries), default=512) + QEMU_OVERHEAD
    by_memory = host.available_memory_mib() // largest
    widest = max((entry.cpus for entry in entries), default=1)
    return max(1, min(host.processors() // widest, by_memory, len(entries)))


@dataclass(frozen=True)
class _Ready:
    """A kernel to be booted; ``why``, if an earlier result does not spare it that."""

    kernel: PreparedKernel
    why: str


_Prepared = _Ready | KernelUnavailable | KernelResult


class Matrix:
    """One run over ``entries``; each kernel's result goes to ``on_result`` as soon as it is there.

    ``stop`` interrupts: VMs end, kernels not finished are missing from what :meth:`run` returns.
    Raises ManifestError where a file of known issues is wrong.
    """

    def __init__(
        self,
        entries: Sequence[KernelEntry],
        options: Options,
        cache: Cache,
        listener: Listener,
        on_result: Callable[[KernelResult], None],
        stop: threading.Event,
    ) -> None:
        self._entries = entries
        self._options = options
        self._cache = cache
        self._listener = listener
        self._on_result = on_result
        self._stop = stop
        self._accelerators: dict[Accel, accelerator.Choice | AcceleratorUnavailable] = {}
        self._choosing = threading.Lock()
        self._known = options.known or KnownIssues.read(entries)
        self._trusting = cache.trusting()

    def run(self) -> tuple[KernelResult, ...]:
        """The results in the order of the entries. Preparing overlaps booting."""

        def prepare(entry: KernelEntry) -> Future[KernelResult | None]:
            return booters.submit(self._finish, entry, *self._prepare(entry))

        with (
            ThreadPoolExecutor(self._options.jobs, "boot") as booters,
            ThreadPoolExecutor(PREPARING, "prepare") as preparers,
        ):
            under_way = [preparers.submit(prepare, entry) for entry in self._entries]
            try:
                results = [prepared.result().result() for prepared in under_way]
            except BaseException:
                self._stop.set()
                raise
        return tuple(result for result in results if result is not None)

    @property
    def accelerators(self) -> str:
        """What was booted with, for people: ``tcg``, ``kvm`` or both."""
        chosen = {
            "kvm" if choice.kvm else "tcg"
            for choice in self._accelerators.values()
            if isinstance(choice, accelerator.Choice)
        }
        return ", ".join(sorted(chosen))

    # One kernel, step by step.

    def _prepare(self, entry: KernelEntry) -> tuple[_Prepared, float]:
        started = time.monotonic()
        self._tell(entry, Stage.PREPARING)

        def say(text: str) -> None:
            self._tell(entry, Stage.PREPARING, text)

        for pause in (*BACK_OFF, None):
            if self._stop.is_set():
                return KernelUnavailable("interrupted"), 0
            try:
                earlier = self._earlier(entry, say)
                if earlier.result is not None:
                    return earlier.result, time.monotonic() - started
                prepared = kernels.prepare(entry, self._cache, say)
            except KernelUnavailable as error:
                if not error.transient or pause is None:
                    return error, time.monotonic() - started
                self._tell(entry, Stage.RETRYING, f"{error}; again in {pause:.0f} s")
                self._stop.wait(pause)
            else:
                self._tell(entry, Stage.WAITING, earlier.why)
                return _Ready(prepared, earlier.why), time.monotonic() - started
        raise AssertionError("the last pause is None")

    def _earlier(self, entry: KernelEntry, say: Callable[[str], None]) -> Answer:
        """What is known of ``entry`` from an earlier run, if that is wanted."""
        if self._options.results is None or not self._options.reuse:
            return Answer()
        kernel = kernels.prepare(entry, self._trusting, say)
        try:
            kvm = self._accelerator(entry, kernel).kvm
        except AcceleratorUnavailable:
            return Answer()  # the kernel's own result will say so
        return self._options.results.find(entry, kernel, kvm=kvm)

    def _finish(
        self, entry: KernelEntry, prepared: _Prepared, prepare_s: float
    ) -> KernelResult | None:
        if self._stop.is_set():
            return None
        result: KernelResult | None
        match prepared:
            case KernelUnavailable():
                timing = Timing(prepare_s=round(prepare_s, 3))
                result = KernelResult.infrastructure(entry.name, str(prepared), timing=timing)
            case KernelResult():
                result = replace(prepared, timing=Timing(prepare_s=round(prepare_s, 3)))
            case _Ready(kernel, why):
                result = self._test(entry, kernel, prepare_s)
                if result is not None:
                    self._keep(entry, kernel, result)
                    result = replace(result, notes=(*([why] if why else ()), *result.notes))
        if result is not None:
            self._on_result(result)
            earlier = result.reused_from
            detail = f"reused from run {earlier.run}" if earlier else result.reason
            self._tell(entry, Stage.DONE, detail, verdict=result.verdict)
        return result

    def _keep(self, entry: KernelEntry, kernel: PreparedKernel, result: KernelResult) -> None:
        """For a later run; where that fails, a later run has to boot."""
        if self._options.results is not None:
            try:
                self._options.results.keep(entry, kernel, result)
            except OSError as error:
                text = f"the result of {entry.name} cannot be kept for --reuse: {error}"
                self._listener(Progress("", Stage.DONE, text))

    def _test(
        self, entry: KernelEntry, prepared: PreparedKernel, prepare_s: float
    ) -> KernelResult | None:
        attempts: list[Attempt] = []
        try:
            kvm = self._accelerator(entry, prepared).kvm
            for pause in (*BACK_OFF, None):
                attempts.append(self._boot(entry, prepared, kvm, len(attempts) + 1))
                result = self._judge(entry, prepared, attempts, prepare_s)
                if self._stop.is_set() and attempts[-1].end is BootEnd.INTERRUPTED:
                    return None
                if result.verdict is not KernelVerdict.INFRASTRUCTURE or pause is None:
                    return result
                self._tell(entry, Stage.RETRYING, f"{result.reason}; again in {pause:.0f} s")
                self._stop.wait(pause)
        except (AcceleratorUnavailable, Unsafe, OSError) as error:
            return KernelResult.infrastructure(
                entry.name,
                str(error),
                release=prepared.release,
                version=prepared.version,
                origin=prepared.origin,
                image_sha256=prepared.image_sha256,
                attempts=tuple(attempts),
            )
        raise AssertionError("the last pause is None")

    def _accelerator(self, entry: KernelEntry, prepared: PreparedKernel) -> accelerator.Choice:
        """The accelerator for ``entry``, found out once a run and told once."""
        wanted = self._options.accel or entry.accel
        with self._choosing:
            if wanted not in self._accelerators:
                self._accelerators[wanted] = self._choose(wanted, prepared)
            choice = self._accelerators[wanted]
        if isinstance(choice, AcceleratorUnavailable):
            raise choice
        return choice

    def _choose(
        self, wanted: Accel, prepared: PreparedKernel
    ) -> accelerator.Choice | AcceleratorUnavailable:
        def say(text: str) -> None:
            self._listener(Progress("", Stage.BOOTING, text))

        try:
            choice = accelerator.choose(
                wanted,
                prepared,
                self._options.qemu,
                self._cache.root / "kvm.json",
                say,
                self._stop,
            )
        except AcceleratorUnavailable as error:
            return error
        say(f"accelerator: {'KVM' if choice.kvm else 'TCG'} ({choice.why})")
        return choice

    def _boot(
        self, entry: KernelEntry, prepared: PreparedKernel, kvm: bool, number: int
    ) -> Attempt:
        self._tell(entry, Stage.BOOTING, "TCG" if not kvm else "KVM")
        options = self._options
        directory = options.directory / "kernels" / entry.name / f"attempt-{number}"
        plan = BootPlan(
            kernel=prepared,
            base=options.base,
            qemu=options.qemu,
            machine=Machine(entry.cpus, entry.memory_mib, entry.append, kvm),
            request=Request(
                nonce=secrets.token_hex(16),
                seed=options.seed,
                families=tuple(options.families),
                checks=options.checks,
                payload=options.payload,
            ),
            families=options.families,
            deadlines=Deadlines.scaled(
                entry.timeout_s, kvm=kvm, share=options.jobs * entry.cpus / host.processors()
            ),
            directory=directory,
            number=number,
        )

        def on_progress(done: int, planned: int, running: CheckKey | None) -> None:
            detail = str(running) if running else ""
            self._tell(entry, Stage.CHECKING, detail, done=done, planned=planned)

        attempt = boot.boot(plan, self._stop, on_progress)
        (directory / "command.txt").write_text(commandline.for_display(attempt.command) + "\n")
        return replace(
            attempt,
            console=os.path.relpath(attempt.console, options.directory),
            events=os.path.relpath(attempt.events, options.directory),
        )

    def _judge(
        self,
        entry: KernelEntry,
        prepared: PreparedKernel,
        attempts: Sequence[Attempt],
        prepare_s: float,
    ) -> KernelResult:
        last = attempts[-1]
        # What a kernel calls itself when it runs decides; what its package says is a claim.
        release = last.stream.release or prepared.release
        expected = expectations(release, isinstance(entry.source, DebSource), entry.expect)
        seen = known_issues.apply(
            judge.families(last, self._options.families, expected),
            last.incidents,
            self._known.of(entry),
            entry.name,
            release,
            self._known.today,
        )
        last = replace(last, incidents=seen.incidents)
        verdict, reason = judge.kernel(last, seen.families)
        return KernelResult(
            name=entry.name,
            verdict=verdict,
            reason=reason,
            release=release,
            version=prepared.version,
            origin=prepared.origin,
            image_sha256=prepared.image_sha256,
            accel=last.accel,
            capabilities=merge_capabilities(last.stream.capabilities),
            families=seen.families,
            incidents=last.incidents,
            attempts=(*attempts[:-1], last),
            notes=(*last.stream.notes, *seen.notes),
            timing=Timing(
                prepare_s=round(prepare_s, 3),
                boot_s=last.boot_s,
                checks_s=last.checks_s,
                total_s=round(sum(attempt.total_s for attempt in attempts), 3),
                phases=(Phase("prepare", round(prepare_s, 3)), *last.phases),
            ),
        )

    def _tell(
        self,
        entry: KernelEntry,
        stage: Stage,
        detail: str = "",
        *,
        done: int = 0,
        planned: int = 0,
        verdict: str = "",
    ) -> None:
        self._listener(Progress(entry.name, stage, detail, done, planned, verdict))


def select(
    entries: Sequence[KernelEntry],
    pattern: str | None,
    expand: Callable[[KernelEntry], Sequence[KernelEntry]],
) -> list[KernelEntry]:
    """The kernels that ``pattern`` names, or all that are no series.

    ``pattern`` is one or several globs separated by commas, matched against an entry's name and,
    within a series, against each of its kernels' names.
    """
    chosen: list[KernelEntry] = []
    globs = pattern.split(",") if pattern else []
    for entry in entries:
        if not globs:
            chosen += [] if entry.is_series else [entry]
        elif any(fnmatchcase(entry.name, glob) for glob in globs):
            chosen += expand(entry)
        elif entry.is_series and any(_may_name_kernel_of(entry.name, glob) for glob in globs):
            chosen += [
                kernel
                for kernel in expand(entry)
                if any(fnmatchcase(kernel.name, glob) for glob in globs)
            ]
    return chosen


def _may_name_kernel_of(series: str, glob: str) -> bool:
    """Whether a name that begins with ``series`` could match: else its index is left unread."""
    literal = re.split(r"[*?[]", glob, maxsplit=1)[0]
    return literal.startswith(series) or series.startswith(literal)
