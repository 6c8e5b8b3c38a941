# SPDX-License-Identifier: GPL-2.0-only
"""The machines that a kernel is booted on again: as it failed, and others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.kernels import Cache, PreparedKernel
from harness.manifest.kernels_yaml import Accel
from harness.verdict.dependence import Machine
from harness.verdict.reproduction import Comparison
from harness.verdict.results import KernelVerdict
from harness.vm import accelerator, qemu

#: virtme-ng looks for QEMU by this name.
NAME = "qemu-system-x86_64"
#: Where one of a user's own is, beside PATH.
PLACES = ("/usr/local/bin", "/usr/bin", "/opt/qemu/bin", "/usr/local/qemu/bin")


@dataclass(frozen=True)
class Choice:
    """One machine, and the ``qemu`` of it; ``obstacle`` says why it cannot be had, if so."""

    machine: Machine
    qemu: Path
    obstacle: str = ""

    @property
    def kvm(self) -> bool:
        return self.machine.accel == "kvm"


@dataclass
class Machines:
    """What this host has to boot ``kernel`` on; ``qemu`` is the usual one."""

    kernel: PreparedKernel
    qemu: Path
    cache: Cache
    say: Callable[[str], None]
    stop: threading.Event

    def as_it_failed(self, kvm: bool, cpus: int) -> Choice:
        """As near to it as can be had; ``say`` is told of what is not."""
        if kvm:
            usable, why = self._kvm()
            if not usable:
                self.say(f"it failed under KVM, and is booted under TCG, for {why}")
                kvm = False
        return self._choice(self.qemu, kvm=kvm, cpus=cpus)

    def varied(self, kvm: bool, cpus: int, other: Path | None) -> Iterator[Choice]:
        """Both accelerators, one and two processors, and QEMU ``other``, the failing one first."""
        usable, why = self._kvm()
        obstacle = "" if usable else f"KVM was not tried, for {why}"
        numbers = sorted({1, 2, cpus}, key=lambda number: (number != cpus, number))
        for accel in (kvm, not kvm):
            for number in numbers:
                yield self._choice(
                    self.qemu, kvm=accel, cpus=number, obstacle=obstacle if accel else ""
                )
        if other is not None:
            yield self._choice(other, kvm=kvm and usable, cpus=cpus)

    def _choice(self, program: Path, *, kvm: bool, cpus: int, obstacle: str = "") -> Choice:
        shown = qemu.version(program, self.cache)
        if program != self.qemu:
            shown += f" ({program})"
        return Choice(Machine("kvm" if kvm else "tcg", cpus, shown), program, obstacle)

    def _kvm(self) -> tuple[bool, str]:
        """Whether KVM is to be tried, and if not, why."""
        choice = accelerator.choose(
            *(Accel.AUTO, self.kernel, self.qemu, self.cache.root / "kvm.json"),
            self.say,
            self.stop,
        )
        # What only this kernel made of KVM is what the failure may be about.
        usable = choice.kvm or not choice.settled
        return usable, choice.why.partition(" because ")[2] or choice.why


def check_qemu(given: Path) -> Path:
    """``given`` as an absolute path. Raises :class:`UsageError`."""
    if given.name != NAME or not os.access(given, os.X_OK) or given.is_dir():
        raise UsageError(
            f"--qemu {given}: it is no program of the name {NAME}, by which virtme-ng looks for "
            "it; name one, or a symbolic link to it"
        )
    return given.absolute()


def another_qemu(first: Path) -> Path | None:
    """A QEMU on this host that is another file than ``first``."""
    for directory in (*os.get_exec_path(), *PLACES):
        place = Path(directory, NAME)
        if os.access(place, os.X_OK) and place.is_file() and not place.samefile(first):
            return place.absolute()
    return None


@dataclass(frozen=True)
class Row:
    """One boot, the ``number``-th on its machine. ``console`` is "" where nothing was booted."""

    machine: Machine
    number: int
    verdict: KernelVerdict
    reason: str
    comparison: Comparison
    seconds: float
    console: str
