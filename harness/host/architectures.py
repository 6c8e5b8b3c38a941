# SPDX-License-Identifier: GPL-2.0-only
"""The architectures of kernels: everything that differs between them is in one table. Standard
library only, as :mod:`harness.host.tools`, which noxfile.py imports.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Arch(StrEnum):
    """An architecture, as Debian and ``vng --arch`` name it."""

    AMD64 = "amd64"
    ARM64 = "arm64"
    S390X = "s390x"
    RISCV64 = "riscv64"
    PPC64EL = "ppc64el"


@dataclass(frozen=True)
class Userland:
    """The directories of an architecture's libraries in Debian's packages.

    ``loader`` is the path that programs name (PT_INTERP).
    """

    triplet: str
    loader: str

    @property
    def libraries(self) -> str:
        return f"usr/lib/{self.triplet}"


#: The user space of ``abi: i386``, whose kernel is amd64's.
I386 = Userland("i386-linux-gnu", "lib/ld-linux.so.2")


@dataclass(frozen=True)
class Architecture:
    """The requirements of a boot on this architecture.

    ``emulated`` are options of QEMU for an emulated boot, over those of virtme-ng. ``factor``
    multiplies the deadlines of such a boot. ``kvm_machine`` and ``kvm_console`` are QEMU's machine
    and the kernel's arguments for a trial of KVM, for architectures of hosts. ``magic`` is where a
    raw image has which bytes; without it, QEMU boots an ELF file. ``program_counter`` is what
    stands before it in QEMU's "info registers", as a regular expression.
    """

    name: str  # for people
    machine: str  # what uname -m says
    elf_machine: int
    qemu: str
    qemu_package: str  # of Debian
    userland: Userland
    console: str  # the device of console=
    tree_image: Path  # where a build leaves the image
    program_counter: str
    emulated: tuple[str, ...] = ()
    port_bus: str = "virtio-serial-pci"  # the device on which the event port is
    factor: float = 1.0
    magic: tuple[int, bytes] | None = None
    kvm_machine: str = ""
    kvm_console: str = ""


_PPC_MACHINE = (
    # The kernel is started without SLOF, whose device probing takes 10 s. Without the cap- options
    # QEMU warns that TCG does not emulate the mitigations.
    "pseries,x-vof=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off"
)

ARCHITECTURES: Mapping[Arch, Architecture] = {
    Arch.AMD64: Architecture(
        name="x86-64",
        machine="x86_64",
        elf_machine=62,
        qemu="qemu-system-x86_64",
        qemu_package="qemu-system-x86",
        userland=Userland("x86_64-linux-gnu", "lib64/ld-linux-x86-64.so.2"),
        console="ttyS0",
        tree_image=Path("arch/x86/boot/bzImage"),
        program_counter="RIP=",
        kvm_machine="q35",
        kvm_console="console=ttyS0 earlyprintk=serial,ttyS0,115200",
    ),
    Arch.ARM64: Architecture(
        name="arm64",
        machine="aarch64",
        elf_machine=183,
        qemu="qemu-system-aarch64",
        qemu_package="qemu-system-arm",
        userland=Userland("aarch64-linux-gnu", "lib/ld-linux-aarch64.so.1"),
        console="ttyAMA0",
        tree_image=Path("arch/arm64/boot/Image"),
        program_counter="PC=",
        # 15 % faster than virtme-ng's cortex-a57; `max` takes twice the time.
        emulated=("-cpu", "cortex-a76"),
        kvm_machine="virt,gic-version=host",
        kvm_console="console=ttyAMA0 earlycon=pl011,0x9000000",
        magic=(56, b"ARM\x64"),
    ),
    Arch.S390X: Architecture(
        name="s390x",
        machine="s390x",
        elf_machine=22,
        qemu="qemu-system-s390x",
        qemu_package="qemu-system-misc",
        userland=Userland("s390x-linux-gnu", "lib/ld64.so.1"),
        console="ttysclp0",
        # QEMU 7.2 computes wrong checksums (csum_partial) with the vector facility.
        emulated=("-cpu", "qemu,vx=off"),
        tree_image=Path("arch/s390/boot/bzImage"),
        program_counter="PSW=mask [0-9a-f]{16} addr ",
        magic=(0x10008, b"S390EP"),
    ),
    Arch.RISCV64: Architecture(
        name="riscv64",
        machine="riscv64",
        elf_machine=243,
        qemu="qemu-system-riscv64",
        qemu_package="qemu-system-misc",
        userland=Userland("riscv64-linux-gnu", "lib/ld-linux-riscv64-lp64d.so.1"),
        console="ttyS0",
        tree_image=Path("arch/riscv/boot/Image"),
        program_counter="pc +",
        magic=(56, b"RSC\x05"),
    ),
    Arch.PPC64EL: Architecture(
        name="ppc64el",
        machine="ppc64le",
        elf_machine=21,
        qemu="qemu-system-ppc64",
        qemu_package="qemu-system-ppc",
        userland=Userland("powerpc64le-linux-gnu", "lib64/ld64.so.2"),
        console="hvc0",
        tree_image=Path("vmlinux"),
        program_counter="NIP +",
        emulated=("-machine", _PPC_MACHINE),
    ),
}


def of_machine(machine: str) -> Arch | None:
    """The architecture of ``uname -m``; None if the harness does not know it."""
    found = (arch for arch, data in ARCHITECTURES.items() if data.machine == machine)
    return next(found, None)


def named_in(manifest: Path) -> frozenset[Arch]:
    """The architectures that ``manifest`` names; empty if it cannot be read.

    From its text, so that nox can install QEMU before there is anything that reads YAML.
    """
    try:
        text = manifest.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    words = re.findall(r"^[^#\n]*\barch:\s*[\"']?(\w+)", text, re.MULTILINE)
    return frozenset(Arch(word) for word in words if word in tuple(Arch))


#: The host's own; on a machine that the harness does not know, kernels of x86-64 are emulated.
HOST = of_machine(os.uname().machine) or Arch.AMD64
