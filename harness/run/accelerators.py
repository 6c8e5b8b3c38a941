# SPDX-License-Identifier: GPL-2.0-only
"""KVM or TCG for each kernel of a run: found out once, and told once."""

from __future__ import annotations

import threading
from pathlib import Path

from harness.errors import HostError
from harness.kernels import PreparedKernel
from harness.manifest.kernels_yaml import Accel
from harness.run.progress import Listener, Progress, Stage
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
