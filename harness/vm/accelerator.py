# SPDX-License-Identifier: GPL-2.0-only
"""The version of QEMU, and the choice between KVM and TCG.

KVM counts as usable only after it has booted a kernel. A /dev/kvm that opens, and even creates VMs,
may still be unable to run a stock kernel: QEMU then aborts at once, or hangs, with or without an
internal error.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError
from harness.host import files, tools
from harness.host.architectures import ARCHITECTURES, HOST
from harness.host.files import write_atomically
from harness.host.programs import TICK, RunningClock, Supervised
from harness.kernels.cache import Cache
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest.entries import Accel
from harness.vm.commandline import Unsafe
from harness.vm.process import work_directory

#: Seconds; QEMU on a slow disk takes one.
ANSWER_WITHIN_S = 30.0


def qemu_version(qemu: Path, cache: Cache) -> str:
    """The version that ``qemu`` reports, or ``unknown`` with the reason.

    It is remembered until the file changes, because loading QEMU with its libraries takes 40 ms in
    every run.
    """
    try:
        seen = [str(qemu), files.stamp(qemu)]
        memory = cache.directory() / "qemu.json"
    except OSError as error:
        return f"unknown ({error.strerror})"
    known = files.recall(memory)
    if isinstance(known, dict) and known.get("of") == seen and isinstance(known.get("is"), str):
        return str(known["is"])
    found = ask_version(qemu)
    if not found.startswith("unknown") and files.is_settled(files.stamp(qemu)):
        files.remember(memory, {"of": seen, "is": found})
    return found


def ask_version(qemu: Path) -> str:
    """As :func:`qemu_version`, without remembering."""
    try:
        answer = subprocess.run(
            [str(qemu), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_WITHIN_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    match = re.search(r"version (\S+)", answer.stdout)
    return match[1] if match else "unknown"


DEVICE = tools.KVM
#: Seconds for the first output of a kernel under a working KVM; one is usually enough.
PATIENCE = 8.0
#: Seconds until it must look for a root; the whole trial may take 15 s.
LIMIT = 14.0
#: The output of every kernel once its console works.
FIRST_WORDS = b"Linux version "
#: Printed when the kernel looks for a root; by then, all of KVM was exercised.
LAST_WORDS = (b"Kernel panic", b"VFS: ", b"Run /")
BROKEN = b"KVM internal error"
#: Seconds for which an answer is remembered; the host may be repaired in the meantime.
VALID = 24 * 3600
#: The number of images whose own answers are remembered.
MAX_ANSWERS = 50
#: Bytes of a trial's output that are examined.
ENOUGH = 1 << 20
# Not permanent: at the next run, memory may be free or another hypervisor gone.
_PASSING = re.compile(rb"Cannot allocate memory|resource busy|Too many open files")
_REMEDY = (
    "in a virtual machine, enable nested virtualisation; otherwise, update the host's kernel and "
    "QEMU; with accel: tcg, KVM is not tried"
)


@dataclass(frozen=True)
class Choice:
    """The accelerator for a run, and the reason, for the user.

    Unless ``settled``, it holds for its kernel only; another kernel may show more.
    """

    kvm: bool
    why: str
    settled: bool = True


@dataclass(frozen=True)
class Trial:
    """The result of booting a kernel under KVM; ``trouble`` is empty if that works.

    It is ``certain`` if it affects every kernel on this host. If it might be the fault of the
    kernel, it holds for this run, and in later runs only for the image with the hash ``only_for``.
    """

    trouble: str = ""
    certain: bool = True
    only_for: str = ""


def choose(
    wanted: Accel,
    kernel: PreparedKernel,
    qemu: Path,
    remembered: Path,
    say: Callable[[str], None],
    stop: threading.Event | None = None,
) -> Choice:
    """The accelerator to use; ``wanted`` is that of the manifest or the user.

    ``auto`` tries to boot ``kernel`` under KVM for at most LIMIT seconds. It remembers what that
    shows about the host in the file ``remembered`` for a day, or until the host reboots or QEMU or
    the device changes. Raises :class:`HostError` for ``kvm`` if KVM boots nothing. Once ``stop`` is
    set, it returns at once.
    """
    if wanted is Accel.TCG:
        return Choice(False, "TCG was requested")
    if kernel.arch is not HOST:
        here = f"this host, {ARCHITECTURES[HOST].name}, has no KVM for {kernel.arch}"
        if wanted is Accel.KVM:
            raise HostError(f"accel is kvm, but {here}; use accel: auto or tcg for {kernel.name}")
        return Choice(False, here, settled=False)
    obstacle = tools.kvm_obstacle(DEVICE)
    if obstacle is None:
        trial = _recall_or_try(kernel, qemu, remembered, say, stop or threading.Event())
    else:
        trial = Trial(f"{DEVICE} is {obstacle[0]}: {obstacle[1]}")
    if not trial.trouble:
        return Choice(True, "KVM boots kernels here")
    if wanted is not Accel.KVM:
        why = f"TCG emulation, several times slower, because {trial.trouble}"
        return Choice(False, why, trial.certain)
    if not trial.certain:
        return Choice(True, f"KVM was requested, although {trial.trouble}", settled=False)
    raise HostError(
        f"accel is kvm, but {trial.trouble}; use accel: auto or tcg to continue without KVM"
    )


def _recall_or_try(
    kernel: PreparedKernel,
    qemu: Path,
    remembered: Path,
    say: Callable[[str], None],
    stop: threading.Event,
) -> Trial:
    key = _circumstances(qemu)
    answers = _answers(remembered, key)
    for only_for in ("", kernel.image_sha256):
        if only_for in answers:
            return Trial(answers[only_for][1], only_for=only_for)
    say(f"trying whether KVM boots {kernel.release}")
    try:
        trial = _try(kernel, qemu, stop)
    except (OSError, Unsafe) as error:
        return Trial(f"KVM could not be tried ({error})", certain=False)
    if trial.certain:
        answers[trial.only_for] = (time.time(), trial.trouble)
        record = {"circumstances": key, "answers": dict(list(answers.items())[-MAX_ANSWERS:])}
        with contextlib.suppress(OSError):
            remembered.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(remembered, json.dumps(record))
    return trial


def _answers(remembered: Path, key: str) -> dict[str, tuple[float, str]]:
    """The answers under the circumstances ``key``: time and trouble.

    The keys are hashes of images; "" is for all images.
    """
    found = {}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        record = json.loads(remembered.read_text())
        if record["circumstances"] == key:
            for only_for, (at, trouble) in record["answers"].items():
                if 0 <= time.time() - float(at) < VALID:
                    found[str(only_for)] = (float(at), str(trouble))
    return found


def _circumstances(qemu: Path) -> str:
    """Everything that the answer depends on: the host, QEMU, the device and its permissions."""
    status, device = qemu.resolve().stat(), DEVICE.stat()
    return " ".join(
        map(
            str,
            (
                *(files.host_start(), platform.release(), qemu, status.st_size, status.st_mtime_ns),
                *(device.st_dev, device.st_ino, device.st_rdev, device.st_mode),
                *(device.st_uid, device.st_gid, os.geteuid(), sorted(os.getgroups())),
            ),
        )
    )


def _try(kernel: PreparedKernel, qemu: Path, stop: threading.Event) -> Trial:
    """Boot ``kernel`` under KVM until it looks for a root."""
    machine = ARCHITECTURES[kernel.arch]
    command = [
        *(str(qemu), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", f"{machine.kvm_machine},accel=kvm", "-cpu", "host", "-m", "512M"),
        *("-serial", "stdio"),
        *("-kernel", str(kernel.boot_image)),
        *("-append", f"{machine.kvm_console} panic=-1"),
    ]
    with work_directory() as work:
        console = work / "console"
        with (
            console.open("wb") as output,
            Supervised(
                command,
                os.environ,
                output=output,
                errors=subprocess.STDOUT,
                directory=work,
                removing=work,
            ) as kept,
        ):
            status = _watch(kept, console, stop)
        if stop.is_set():
            return Trial("the run was stopped", certain=False)
        return judge(_read(console), status, kernel)


def _watch(kept: Supervised, console: Path, stop: threading.Event) -> int | None:
    """Wait until the trial is decided; returns QEMU's status, None if it had not ended."""
    clock = RunningClock()
    started = clock.now()
    poll = select.poll()
    poll.register(kept.exited, select.POLLIN)
    while not stop.is_set():
        said = _read(console)
        limit = LIMIT if FIRST_WORDS in said else PATIENCE
        if any(words in said for words in (BROKEN, *LAST_WORDS)):
            break
        if kept.exit_status() is not None or clock.now() - started > limit:
            break
        poll.poll(1000 * TICK)
    return kept.exit_status()


def _read(console: Path) -> bytes:
    with console.open("rb") as file:
        return file.read(ENOUGH)


def judge(said: bytes, status: int | None, kernel: PreparedKernel) -> Trial:
    """Judge KVM by the output of a trial, and by QEMU's exit status if it ended by itself."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
    last = " | ".join([line for line in lines if line][-2:])[-300:] or "nothing"
    if BROKEN in said:
        return Trial(f"KVM stops with an internal error when a kernel is booted; {_REMEDY}")
    if FIRST_WORDS in said:
        if any(words in said for words in LAST_WORDS):
            return Trial()
        so_far = f"{kernel.release} began to boot under KVM but did not reach its root"
        return Trial(f"{so_far}, perhaps by a fault of its own ({last})", certain=False)
    if status is None:
        silent = f"a kernel booted under KVM prints nothing for {PATIENCE:.0f} seconds"
        return Trial(f"{silent}; {_REMEDY}", only_for=kernel.image_sha256)
    gave_up = status == 128 + signal.SIGABRT or b"kvm" in said.lower()
    if gave_up and not _PASSING.search(said):
        return Trial(f"QEMU aborts when it boots a kernel under KVM ({last}); {_REMEDY}")
    return Trial(
        f"QEMU ended with status {status} before {kernel.release} printed anything ({last})",
        certain=False,
    )
