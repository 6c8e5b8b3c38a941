# SPDX-License-Identifier: GPL-2.0-only
"""Many kernels: what is prepared and booted when, and who is told."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from harness import kernels
from harness.errors import HostError
from harness.host import tools
from harness.kernels import Cache, KernelUnavailable, PreparedKernel
from harness.manifest.kernels_yaml import Accel, KernelEntry
from harness.manifest.known_issues import KnownIssues
from harness.records.reuse import Answer
from harness.run import attempts, memory_gate
from harness.run.attempts import Attempts, Options, Subject
from harness.run.progress import Listener, Progress, Stage
from harness.verdict.results import KernelResult, Timing
from harness.vm import accelerator

#: Kernels that are prepared at the same time: a download waits for the network, unpacking works.
PREPARING = 2
#: MiB beside a guest's memory that QEMU itself takes.
QEMU_OVERHEAD = 150


def default_jobs(entries: Sequence[KernelEntry]) -> int:
    """How many VMs the processors and the free memory allow at a time, at least one."""
    largest = max((entry.memory_mib for entry in entries), default=512) + QEMU_OVERHEAD
    by_memory = tools.available_memory_mib() // largest
    widest = max((entry.cpus for entry in entries), default=1)
    return max(1, min(tools.processors() // widest, by_memory, len(entries)))


@dataclass(frozen=True)
class _Ready:
    """A kernel to be booted; ``why``, if an earlier result does not spare it that."""

    kernel: PreparedKernel
    why: str


_Prepared = _Ready | KernelUnavailable | KernelResult
_Choice = accelerator.Choice | HostError


class Matrix:
    """One run over ``entries``; each kernel's result goes to ``on_result`` as soon as it is there.

    With it goes the key by which a later run may find it, empty where it may not be used again.
    ``stop`` interrupts: VMs end, kernels not finished are missing from what :meth:`run` returns.
    Raises ManifestError where a file of known issues is wrong.
    """

    def __init__(
        self,
        entries: Sequence[KernelEntry],
        options: Options,
        cache: Cache,
        listener: Listener,
        on_result: Callable[[KernelResult, str], None],
        stop: threading.Event,
    ) -> None:
        self._entries = entries
        self._options = options
        self._cache = cache
        self._listener = listener
        self._on_result = on_result
        self._stop = stop
        self._accelerators: dict[tuple[Accel, str], _Choice] = {}
        self._choosing = threading.Lock()
        self._known = options.known or KnownIssues.read(entries)
        self._trusting = cache.trusting()
        self._gate = memory_gate.Gate(tools.available_memory_mib)

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

    # One kernel, step by step.

    def _prepare(self, entry: KernelEntry) -> tuple[_Prepared, float]:
        started = time.monotonic()
        self._tell(entry, Stage.PREPARING)

        def say(text: str) -> None:
            self._tell(entry, Stage.PREPARING, text)

        for pause in (*attempts.BACK_OFF, None):
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
        if self._options.results is None or not self._options.request.reuse:
            return Answer()
        kernel = kernels.prepare(entry, self._trusting, say)
        try:
            kvm = self._accelerator(entry, kernel).kvm
        except HostError:
            return Answer()  # the kernel's own result will say so
        return self._options.results.find(entry, kernel, kvm=kvm)

    def _finish(
        self, entry: KernelEntry, prepared: _Prepared, prepare_s: float
    ) -> KernelResult | None:
        if self._stop.is_set():
            return None
        key = ""
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
                    result = replace(result, notes=(*([why] if why else ()), *result.notes))
                    if self._options.results is not None:
                        key = self._options.results.key(entry, kernel, result)
        if result is not None:
            self._on_result(result, key)
            earlier = result.reused_from
            detail = f"reused from run {earlier.run}" if earlier else result.reason
            self._tell(entry, Stage.DONE, detail, verdict=result.verdict)
        return result

    def _test(
        self, entry: KernelEntry, prepared: PreparedKernel, prepare_s: float
    ) -> KernelResult | None:
        try:
            kvm = self._accelerator(entry, prepared).kvm
        except HostError as error:
            return Subject(entry, prepared, False, prepare_s).unknown(str(error))
        subject = Subject(entry, prepared, kvm, prepare_s)

        def say(text: str) -> None:
            self._listener(Progress("", Stage.WAITING, f"{entry.name}: {text}"))

        with self._gate.wait(entry.memory_mib + QEMU_OVERHEAD, self._stop, say):
            return Attempts(subject, self._options, self._known, self._listener, self._stop).run()

    def _accelerator(self, entry: KernelEntry, prepared: PreparedKernel) -> accelerator.Choice:
        """The accelerator for ``entry``, found out once a run and told once.

        What was found out by one kernel alone, which may be broken, counts for that image only.
        """
        wanted = self._options.request.accel or entry.accel
        of_all, of_image = (wanted, ""), (wanted, prepared.image_sha256)
        with self._choosing:
            choice = self._accelerators.get(of_all) or self._accelerators.get(of_image)
            if choice is None:
                choice = self._choose(wanted, prepared)
                settled = isinstance(choice, HostError) or choice.settled
                self._accelerators[of_all if settled else of_image] = choice
        if isinstance(choice, HostError):
            raise choice
        return choice

    def _choose(self, wanted: Accel, prepared: PreparedKernel) -> _Choice:
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
        except HostError as error:
            return error
        say(f"accelerator: {'KVM' if choice.kvm else 'TCG'} ({choice.why})")
        return choice

    def _tell(
        self, entry: KernelEntry, stage: Stage, detail: str = "", *, verdict: str = ""
    ) -> None:
        self._listener(Progress(entry.name, stage, detail, verdict=verdict))


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
