# SPDX-License-Identifier: GPL-2.0-only
"""Prepares and boots many kernels at the same time, and reports progress."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TypeVar

from harness import kernels
from harness.errors import HostError, KernelUnavailable
from harness.host import tools
from harness.kernels import Cache
from harness.manifest.entries import KernelEntry
from harness.records.reuse import Answer
from harness.run import attempts
from harness.run.attempts import Options
from harness.run.executor import QEMU_OVERHEAD, Executor, Local, Ready, Tested
from harness.run.request import Listener, Progress, Stage
from harness.verdict.results import KernelResult, Phase

_T = TypeVar("_T")

#: Kernels that are prepared at the same time: one may wait for the network while another unpacks.
PREPARING = 2


def default_jobs(entries: Sequence[KernelEntry]) -> int:
    """The number of VMs that processors and free memory allow at a time, at least one."""
    largest = max((entry.memory_mib for entry in entries), default=512) + QEMU_OVERHEAD
    by_memory = tools.available_memory_mib() // largest
    widest = max((entry.cpus for entry in entries), default=1)
    return max(1, min(tools.processors() // widest, by_memory, len(entries)))


class Matrix:
    """One run over ``entries``; each kernel's result is passed to ``on_result`` at once.

    A later run finds it by the key that is passed with it; the key is empty if the result must not
    be reused. ``stop`` interrupts: VMs end, and :meth:`run` returns no result for unfinished
    kernels. An exception while one kernel is tested, even a fault of the harness, becomes that
    kernel's result. Only exceptions of ``on_result`` and of the store end the run.
    """

    def __init__(
        self,
        entries: Sequence[KernelEntry],
        options: Options,
        cache: Cache,
        listener: Listener,
        on_result: Callable[[KernelResult, str], None],
        stop: threading.Event,
        executor: Executor | None = None,
    ) -> None:
        self._entries = entries
        self._options = options
        self._cache = cache
        self._listener = listener
        self._on_result = on_result
        self._stop = stop
        self._trusting = cache.trusting()
        self._here = Local(options, cache, listener, stop)
        self._executor = executor or self._here

    def run(self) -> tuple[KernelResult, ...]:
        """Test all kernels; the results are in the order of the entries."""

        def prepare(entry: KernelEntry) -> Future[KernelResult | None]:
            started = time.monotonic()
            prepared = self._safely(entry, self._prepare)
            return booters.submit(self._finish, entry, prepared, time.monotonic() - started)

        with (
            ThreadPoolExecutor(self._executor.jobs, "boot") as booters,
            ThreadPoolExecutor(PREPARING, "prepare") as preparers,
        ):
            ordered = self._executor.in_order(self._entries)
            under_way = {entry.name: preparers.submit(prepare, entry) for entry in ordered}
            try:
                results = {name: each.result().result() for name, each in under_way.items()}
            except BaseException:
                self._stop.set()
                raise
        found = (results[entry.name] for entry in self._entries)
        return tuple(result for result in found if result is not None)

    # The steps for one kernel.

    def _prepare(self, entry: KernelEntry) -> Ready | KernelResult | None:
        """The kernel to boot, or a result without a boot; None if interrupted."""
        self._tell(entry, Stage.PREPARING)

        def say(text: str) -> None:
            self._tell(entry, Stage.PREPARING, text)

        if obstacle := self._options.obstacles.get(entry.user_space):
            return KernelResult.infrastructure(entry.name, obstacle)
        for pause in (*attempts.BACK_OFF, None):
            if self._stop.is_set():
                return None
            try:
                earlier = self._earlier(entry, say)
                if earlier.result is not None:
                    return earlier.result
                prepared = self._executor.prepare(entry, say)
            except KernelUnavailable as error:
                if not error.transient or pause is None:
                    return KernelResult.infrastructure(entry.name, str(error))
                self._tell(entry, Stage.RETRYING, f"{error}; trying again in {pause:.0f} s")
                self._stop.wait(pause)
            else:
                self._tell(entry, Stage.WAITING, earlier.why)
                why = (earlier.why,) if earlier.why else ()
                return replace(prepared, notes=(*why, *prepared.notes))
        raise AssertionError("the last pause is None")

    def _earlier(self, entry: KernelEntry, say: Callable[[str], None]) -> Answer:
        """The result of ``entry`` in an earlier run, if --reuse asks for it."""
        if self._options.results is None or not self._options.request.reuse:
            return Answer()
        kernel = kernels.prepare(entry, self._trusting, say)
        try:
            kvm = self._here.accelerators.is_kvm(self._options.request.accel or entry.accel, kernel)
        except HostError:
            return Answer()  # the kernel's own result will report it
        return self._options.results.find(entry, kernel, kvm=kvm)

    def _finish(
        self, entry: KernelEntry, prepared: Ready | KernelResult | None, prepare_s: float
    ) -> KernelResult | None:
        if prepared is None or self._stop.is_set():
            return None
        if isinstance(prepared, KernelResult):
            result, key = prepared, ""
        else:
            tested = self._safely(entry, lambda entry: self._executor.test(entry, prepared))
            if tested is None:
                return None
            if isinstance(tested, KernelResult):
                tested = Tested(tested)
            result, key = tested.result, tested.key
        result = _with_preparing(result, prepare_s)
        self._on_result(result, key)
        earlier = result.reused_from
        detail = f"reused from run {earlier.run}" if earlier else result.reason
        self._tell(entry, Stage.DONE, detail, verdict=result.verdict)
        return result

    def _safely(
        self, entry: KernelEntry, step: Callable[[KernelEntry], _T]
    ) -> _T | KernelResult | None:
        """The result of ``step`` for ``entry``. A fault of the harness does not end the other
        kernels."""
        try:
            return step(entry)
        except HostError:
            raise
        except Exception as error:
            if self._stop.is_set():  # most likely caused by the interruption
                return None
            reason = attempts.unexpected(error, self._options.directory, entry.name)
            return KernelResult.infrastructure(entry.name, reason)

    def _tell(
        self, entry: KernelEntry, stage: Stage, detail: str = "", *, verdict: str = ""
    ) -> None:
        self._listener(Progress(entry.name, stage, detail, verdict=verdict))


def _with_preparing(result: KernelResult, seconds: float) -> KernelResult:
    timing, prepare_s = result.timing, round(result.timing.prepare_s + seconds, 3)
    booted = tuple(phase for phase in timing.phases if phase.name != "prepare")
    phases = (Phase("prepare", prepare_s), *booted) if booted else ()
    return replace(result, timing=replace(timing, prepare_s=prepare_s, phases=phases))


def select(
    entries: Sequence[KernelEntry],
    pattern: str | None,
    expand: Callable[[KernelEntry], Sequence[KernelEntry]],
) -> list[KernelEntry]:
    """The kernels that ``pattern`` names, or all entries except series.

    ``pattern`` is one or several globs separated by commas. They are matched against the names of
    entries, and of the kernels in a series.
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
    """Whether a name that begins with ``series`` could match; otherwise its index is not read."""
    literal = re.split(r"[*?[]", glob, maxsplit=1)[0]
    return literal.startswith(series) or series.startswith(literal)
