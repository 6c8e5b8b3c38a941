# SPDX-License-Identifier: GPL-2.0-only
"""What a VM needs of the host: KVM or TCG, and memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HostError
from harness.kernels import PreparedKernel
from harness.manifest.kernels_yaml import Accel
from harness.run.request import Listener, Progress, Stage
from harness.vm import accelerator
from harness.vm.accelerator import Choice


class Accelerators:
    """The choices of one run. ``remembered`` is the file with what was found out before."""

    def __init__(
        self, qemu: Path, remembered: Path, listener: Listener, stop: threading.Event
    ) -> None:
        self._qemu = qemu
        self._remembered = remembered
        self._listener = listener
        self._stop = stop
        self._lock = threading.Lock()
        self._made: dict[tuple[Accel, str], Choice | HostError] = {}

    def is_kvm(self, wanted: Accel, kernel: PreparedKernel) -> bool:
        """Whether ``kernel`` is to be booted under KVM. Raises HostError.

        What was found out by one kernel alone, which may be broken, counts for that image only.
        """
        of_all, of_image = (wanted, ""), (wanted, kernel.image_sha256)
        with self._lock:
            choice = self._made.get(of_all) or self._made.get(of_image)
            if choice is None:
                choice = self._choose(wanted, kernel)
                settled = isinstance(choice, HostError) or choice.settled
                self._made[of_all if settled else of_image] = choice
        if isinstance(choice, HostError):
            raise choice
        return choice.kvm

    def _choose(self, wanted: Accel, kernel: PreparedKernel) -> Choice | HostError:
        try:
            choice = accelerator.choose(
                wanted, kernel, self._qemu, self._remembered, self._say, self._stop
            )
        except HostError as error:
            return error
        self._say(f"accelerator: {'KVM' if choice.kvm else 'TCG'} ({choice.why})")
        return choice

    def _say(self, text: str) -> None:
        self._listener(Progress("", Stage.BOOTING, text))


#: Seconds in which a VM takes the memory that it will: its kernel is up, its guest's Python runs.
SETTLING = 5.0
#: Seconds between two looks at the host's memory; other programs do not say when they end.
PAUSE = 0.25


class MemoryGate:
    """Lets VMs in as the host's memory allows, and one in any case if no other runs.

    ``available`` says how many MiB can be had. A VM takes what it needs by and by: for SETTLING
    seconds what was promised to it counts as gone, afterwards what ``available`` says holds.
    """

    def __init__(
        self, available: Callable[[], int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._available = available
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[object, tuple[float, int]] = {}  # since when, and MiB

    @contextmanager
    def wait(
        self, needed_mib: int, stop: threading.Event, say: Callable[[str], None]
    ) -> Iterator[None]:
        """Wait until there are ``needed_mib`` for a VM, which runs while the context lasts.

        ``say`` is told once if that has to be waited for. Goes on at once when ``stop`` is set.
        """
        vm = object()
        said = False
        while (left := self._let_in(vm, needed_mib)) is not None and not stop.is_set():
            if not said:
                say(
                    f"waiting for memory: a VM needs {needed_mib} MiB, {max(0, left)} MiB are "
                    "left; end other programs, or use -j 1"
                )
                said = True
            stop.wait(PAUSE)
        try:
            yield
        finally:
            with self._lock:
                self._running.pop(vm, None)

    def _let_in(self, vm: object, needed_mib: int) -> int | None:
        """None once ``vm`` may run; else the MiB that are left."""
        with self._lock:
            now = self._clock()
            promised = sum(mib for since, mib in self._running.values() if now - since < SETTLING)
            left = self._available() - promised
            if self._running and left < needed_mib:
                return left
            self._running[vm] = (now, needed_mib)
            return None
