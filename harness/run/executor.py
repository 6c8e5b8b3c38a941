# SPDX-License-Identifier: GPL-2.0-only
"""Executors: test a kernel on this host, or on the workers of a fleet (harness.run.fleet)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness import kernels
from harness.errors import HostError
from harness.host import tools
from harness.kernels import Cache, PreparedKernel
from harness.manifest.entries import KernelEntry
from harness.run import attempts, workspace
from harness.run.attempts import Attempts, Options
from harness.run.request import Listener, Progress, Stage
from harness.run.workspace import Accelerators
from harness.verdict.results import KernelResult

#: MiB that QEMU needs in addition to the guest's memory.
QEMU_OVERHEAD = 150
Say = Callable[[str], None]
Preparing = Callable[[KernelEntry, Cache, Say], PreparedKernel]


@dataclass(frozen=True)
class Elsewhere:
    """In place of a prepared kernel: whoever tests it prepares it."""

    notes: tuple[str, ...] = ()


Ready = PreparedKernel | Elsewhere


@dataclass(frozen=True)
class Tested:
    """A result, and the key by which a later run finds it; empty if it must not be reused."""

    result: KernelResult
    key: str = ""


class Executor(Protocol):
    """Prepares and tests kernels; both methods are called from several threads."""

    @property
    def jobs(self) -> int:
        """The number of kernels that are tested at the same time, at most."""

    def in_order(self, entries: Sequence[KernelEntry]) -> Sequence[KernelEntry]:
        """``entries`` in the order in which they are to be tested."""

    def prepare(self, entry: KernelEntry, say: Say) -> Ready:
        """Prepare ``entry`` as far as this host needs it. Raises KernelUnavailable."""

    def test(self, entry: KernelEntry, ready: Ready) -> Tested | None:
        """The result of ``entry``; None if it was interrupted. Raises HostError, which ends the
        run."""


class Local:
    """Tests kernels on this host. ``preparing`` is how a kernel is prepared."""

    def __init__(
        self,
        options: Options,
        cache: Cache,
        listener: Listener,
        stop: threading.Event,
        *,
        accelerators: Accelerators | None = None,
        gate: workspace.MemoryGate | None = None,
        preparing: Preparing | None = None,
    ) -> None:
        self._options = options
        self._cache = cache
        self._listener = listener
        self._stop = stop
        self._preparing = preparing
        self._gate = gate or workspace.MemoryGate(tools.available_memory_mib)
        remembered = cache.root / "kvm.json"
        self.accelerators = accelerators or Accelerators(options.qemu, remembered, listener, stop)

    @property
    def jobs(self) -> int:
        return self._options.jobs

    def in_order(self, entries: Sequence[KernelEntry]) -> Sequence[KernelEntry]:
        return entries

    def prepare(self, entry: KernelEntry, say: Say) -> Ready:
        return (self._preparing or kernels.prepare)(entry, self._cache, say)

    def test(self, entry: KernelEntry, ready: Ready) -> Tested | None:
        assert isinstance(ready, PreparedKernel), "prepare() makes no other"
        result = self._boot(entry, ready)
        results = self._options.results
        if result is None:
            return None
        return Tested(result, results.key(entry, ready, result) if results is not None else "")

    def _boot(self, entry: KernelEntry, kernel: PreparedKernel) -> KernelResult | None:
        try:
            kvm = self.accelerators.is_kvm(self._options.request.accel or entry.accel, kernel)
        except HostError as error:
            return attempts.unknown(entry, kernel, str(error))

        def say(text: str) -> None:
            self._listener(Progress("", Stage.WAITING, f"{entry.name}: {text}"))

        with self._gate.wait(entry.memory_mib + QEMU_OVERHEAD, self._stop, say):
            return Attempts(entry, kernel, kvm, self._options, self._listener, self._stop).run()
