# SPDX-License-Identifier: GPL-2.0-only
"""KVM or TCG: KVM counts as usable only when it has been seen to boot.

A /dev/kvm that opens, and even creates VMs, can still be unable to run a stock kernel: QEMU
then aborts at once, or reports an internal error and hangs for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.kernels.prepared import PreparedKernel
from harness.manifest import Accel

DEVICE = Path("/dev/kvm")
#: Seconds in which a kernel under a working KVM says its first words (one is plenty).
PATIENCE = 15.0
#: What every x86 kernel says once its console works.
FIRST_WORDS = b"Linux version "
#: Printed when the kernel has got so far that it looks for a root: all of KVM was exercised.
LAST_WORDS = (b"Kernel panic", b"VFS: ", b"Run /")
BROKEN = b"KVM internal error"


@dataclass(frozen=True)
class Choice:
    """The accelerator for a run, and why, in words for the user."""

    kvm: bool
    why: str


class AcceleratorUnavailable(Exception):
    """KVM was asked for in so many words and cannot be had."""


def choose(
    wanted: Accel,
    kernel: PreparedKernel,
    qemu: Path,
    remembered: Path,
    say: Callable[[str], None],
) -> Choice:
    """The accelerator to use where the manifest or the user ``wanted`` one.

    ``auto`` tries to boot ``kernel`` under KVM once and keeps the answer in the file
    ``remembered`` until the host reboots or QEMU changes. Raises
    :class:`AcceleratorUnavailable` for ``kvm`` where KVM does not boot.
    """
    if wanted is Accel.TCG:
        return Choice(False, "TCG was asked for")
    trouble = _obstacle() or _recall_or_try(kernel, qemu, remembered, say)
    if not trouble:
        return Choice(True, "KVM boots kernels here")
    if wanted is Accel.KVM:
        raise AcceleratorUnavailable(
            f"accel is kvm, but {trouble}; use accel: auto or tcg to go on without KVM"
        )
    return Choice(False, f"TCG emulation, several times slower, because {trouble}")


def _obstacle() -> str:
    """Why KVM cannot even be tried; empty when it can."""
    if not DEVICE.exists():
        return f"this host has no {DEVICE}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} is not accessible (add yourself to its group, usually kvm)"
    return ""


def _recall_or_try(
    kernel: PreparedKernel, qemu: Path, remembered: Path, say: Callable[[str], None]
) -> str:
    key = _circumstances(qemu)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        record = json.loads(remembered.read_text())
        if record["circumstances"] == key:
            return str(record["trouble"])
    say(f"trying whether KVM boots {kernel.release}")
    trouble = _try(kernel, qemu)
    with contextlib.suppress(OSError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        new = remembered.with_name(f"{remembered.name}.{os.getpid()}")
        new.write_text(json.dumps({"circumstances": key, "trouble": trouble}))
        new.replace(remembered)
    return trouble


def _circumstances(qemu: Path) -> str:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    status = qemu.resolve().stat()
    return f"{boot_id} {platform.release()} {qemu} {status.st_size} {status.st_mtime_ns}"


def _try(kernel: PreparedKernel, qemu: Path) -> str:
    """Boot ``kernel`` under KVM until it wants a root; why it did not, or nothing."""
    command = [
        *(str(qemu), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35,accel=kvm", "-cpu", "host", "-m", "512M", "-serial", "stdio"),
        *("-kernel", str(kernel.boot_image)),
        *("-append", "console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1"),
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said = _listen(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if BROKEN in said:
        return "KVM stops with an internal error when a kernel is booted"
    if FIRST_WORDS in said and any(words in said for words in LAST_WORDS):
        return ""
    words = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    last = words[-1].strip()[-200:] if words else "nothing at all"
    return f"a kernel did not boot under KVM (the last words: {last})"


def _listen(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if not selector.select(deadline - time.monotonic()):
                continue
            data = os.read(process.stdout.fileno(), 65536)
            said += data
            if not data or BROKEN in said or any(words in said for words in LAST_WORDS):
                break
    return said
