# SPDX-License-Identifier: GPL-2.0-only
"""The floor: QEMU alone, an uncompressed kernel, and an initramfs with nothing but the check."""

from __future__ import annotations

from pathlib import Path

from harness.kernels import PreparedKernel
from harness.vm import initramfs

#: loglevel and the rest are as Debian configured them; only what a console takes is asked for.
APPEND = "console=ttyS0 panic=-1"
INIT = b"""\
#!/bin/busybox sh
/bin/busybox ip link set dev lo up
/check -4
/check -6
/bin/busybox poweroff -f
"""


def write_initramfs(target: Path, busybox: Path, check: Path) -> None:
    """Write the archive with a statically linked ``busybox`` and the compiled ``check``."""
    with target.open("wb") as file:
        writer = initramfs.CpioWriter(file)
        for name in ("bin", "dev"):
            writer.directory(name)
        writer.character_device("dev/console", 5, 1)
        writer.file("bin/busybox", busybox.read_bytes(), 0o755)
        writer.file("check", check.read_bytes(), 0o755)
        writer.file("init", INIT, 0o755)
        writer.close()


def command(qemu: Path, kernel: PreparedKernel, initramfs: Path, *, kvm: bool = False) -> list[str]:
    """Both families in one boot; the console is standard output."""
    return [
        *(str(qemu), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", f"q35,accel={'kvm' if kvm else 'tcg'}"),
        *("-cpu", "host" if kvm else "max", "-m", "512M", "-serial", "stdio"),
        *("-kernel", str(kernel.boot_image), "-initrd", str(initramfs), "-append", APPEND),
    ]
