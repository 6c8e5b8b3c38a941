# SPDX-License-Identifier: GPL-2.0-only
"""How much memory a VM needs at least, known before it boots.

A VM with less ends in "Out of memory" or in a panic of the kernel, which is not to blame.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import Malformed
from harness.kernels import elf, kernel_image
from harness.kernels.prepared import PreparedKernel
from harness.vm.commandline import Machine, Unsafe

#: MiB for what the kernel allocates when it starts, Python and the checks. Measured with kernels
#: 6.1 and 7.3: with 20 less they still pass.
REST_MIB = 64
#: Of each MiB of memory the kernel's own notes on its pages take 1/64 (64 bytes for 4096).
PAGES = 1 / 64
STEP_MIB = 16

#: ``mem=64M`` leaves the kernel that much of the VM's memory (kernel-parameters.txt).
_MEM = re.compile(r"mem=(\d+)([KMGkmg]?)")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def check(kernel: PreparedKernel, base: Path, machine: Machine) -> None:
    """Raise Unsafe, with the amount that is needed, if ``kernel`` cannot boot in ``machine``."""
    needed = needed_mib(kernel, base)
    given, how = _given(machine)
    if given >= needed:
        return
    raise Unsafe(
        f"{how} leaves {given} MiB of memory, and {kernel.release} with the guest's root needs "
        f"{needed} MiB at least; give it memory: {needed}M or more"
    )


def needed_mib(kernel: PreparedKernel, base: Path) -> int:
    """MiB that ``kernel`` needs with the guest's root ``base``, in steps of 16.

    The initramfs lies in memory twice while it is unpacked.
    """
    archives = base.stat().st_size + sum(module.stat().st_size for module in kernel.modules)
    mib = (_loaded_size(kernel.boot_image) + 2 * archives) / (1 << 20) + REST_MIB
    return -int(-mib / (1 - PAGES) // STEP_MIB) * STEP_MIB


def _given(machine: Machine) -> tuple[int, str]:
    """The MiB that the kernel may use, and what says so."""
    limits = [(machine.memory_mib, f"memory: {machine.memory_mib}M")]
    for argument in machine.append:
        if match := _MEM.fullmatch(argument):
            limits.append(((int(match[1]) * _UNITS[match[2].lower()]) >> 20, argument))
    return min(limits)


def _loaded_size(image: Path) -> int:
    with image.open("rb") as file:
        start = file.read(4096)
    try:
        return (
            kernel_image.loaded_size_of_bzimage(start)
            if kernel_image.is_bzimage(start)
            else elf.loaded_size(start)
        )
    except Malformed:
        return 0  # that it is damaged is said elsewhere
