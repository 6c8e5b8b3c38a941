# SPDX-License-Identifier: GPL-2.0-only
"""Which QEMU it is, and whether it uses KVM or TCG.

KVM counts as usable only when it has been seen to boot. A /dev/kvm that opens, and even creates
VMs, can still be unable to run a stock kernel: QEMU then aborts at once, or reports an internal
error and hangs for ever, or only hangs.
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
from harness.host.files import write_atomically
from harness.host.programs import TICK, RunningClock, Supervised
from harness.kernels.cache import Cache
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest.kernels_yaml import Accel
from harness.vm.commandline import Unsafe
from harness.vm.process import work_directory

#: Seconds; a QEMU on a slow disk takes one.
ANSWER_WITHIN_S = 30.0


def qemu_version(qemu: Path, cache: Cache) -> str:
    """The version that ``qemu`` says it has, or ``unknown`` and why.

    Remembered as long as the file is not touched: to load QEMU with its libraries takes 40 ms,
    which every run would wait for.
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
    """What :func:`qemu_version` gives, without a memory."""
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
#: Seconds in which a kernel under a working KVM says its first words (one is plenty).
PATIENCE = 8.0
#: Seconds in which it has to look for a root. More would break the promise of 15 seconds.
LIMIT = 14.0
#: What every x86 kernel says once its console works.
FIRST_WORDS = b"Linux version "
#: Printed when the kernel has got so far that it looks for a root: all of KVM was exercised.
LAST_WORDS = (b"Kernel panic", b"VFS: ", b"Run /")
BROKEN = b"KVM internal error"
#: Seconds for which an answer is remembered: what is wrong with a host may be mended meanwhile.
VALID = 24 * 3600
#: Of how many images an answer of their own is remembered.
MAX_ANSWERS = 50
#: Bytes of a trial's output that are looked at.
ENOUGH = 1 << 20
# Not for the life of the host: the next run may find memory, or another hypervisor gone.
_PASSING = re.compile(rb"Cannot allocate memory|resource busy|Too many open files")
_REMEDY = (
    "in a virtual machine, have nested virtualisation turned on; elsewhere, update the host's "
    "kernel and QEMU; with accel: tcg, KVM is not tried"
)


@dataclass(frozen=True)
class Choice:
    """The accelerator for a run, and why, in words for the user.

    One that is not ``settled`` was made for its kernel alone: another kernel may tell more.
    """

    kvm: bool
    why: str
    settled: bool = True


@dataclass(frozen=True)
class Trial:
    """What came of booting a kernel under KVM: ``trouble`` is empty where that works.

    It is ``certain`` where every kernel would meet it on this host. What is certain only as long
    as the kernel is a sound one holds for the run, and in later runs for ``only_for``, its hash.
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
    """The accelerator to use where the manifest or the user ``wanted`` one.

    ``auto`` tries to boot ``kernel`` under KVM, for at most LIMIT seconds, and keeps what that
    tells about the host in the file ``remembered`` for a day, or until the host reboots, or QEMU
    or the device changes. Raises :class:`HostError` for ``kvm`` where KVM boots nothing. Once
    ``stop`` is set some answer comes at once.
    """
    if wanted is Accel.TCG:
        return Choice(False, "TCG was asked for")
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
        return Choice(True, f"KVM was asked for, although {trial.trouble}", settled=False)
    raise HostError(
        f"accel is kvm, but {trial.trouble}; use accel: auto or tcg to go on without KVM"
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
        return Trial(f"it could not be tried ({error})", certain=False)
    if trial.certain:
        answers[trial.only_for] = (time.time(), trial.trouble)
        record = {"circumstances": key, "answers": dict(list(answers.items())[-MAX_ANSWERS:])}
        with contextlib.suppress(OSError):
            remembered.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(remembered, json.dumps(record))
    return trial


def _answers(remembered: Path, key: str) -> dict[str, tuple[float, str]]:
    """What was found under the circumstances ``key``: when, and the trouble.

    By the hash of the image that it holds for; "" for all.
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
    """All that the answer depends on: the host, QEMU, the device and who may use it."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    status, device = qemu.resolve().stat(), DEVICE.stat()
    return " ".join(
        map(
            str,
            (
                *(boot_id, platform.release(), qemu, status.st_size, status.st_mtime_ns),
                *(device.st_dev, device.st_ino, device.st_rdev, device.st_mode),
                *(device.st_uid, device.st_gid, os.geteuid(), sorted(os.getgroups())),
            ),
        )
    )


def _try(kernel: PreparedKernel, qemu: Path, stop: threading.Event) -> Trial:
    """Boot ``kernel`` under KVM until it wants a root."""
    command = [
        *(str(qemu), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35,accel=kvm", "-cpu", "host", "-m", "512M", "-serial", "stdio"),
        *("-kernel", str(kernel.boot_image)),
        *("-append", "console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1"),
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
            return Trial("the run is to stop", certain=False)
        return judge(_read(console), status, kernel)


def _watch(kept: Supervised, console: Path, stop: threading.Event) -> int | None:
    """Wait until the trial has shown what it can; QEMU's status, None where it had not ended."""
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
    """What a trial's output, and QEMU's exit status if it ended by itself, tell about KVM."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
    last = " | ".join([line for line in lines if line][-2:])[-300:] or "nothing at all"
    if BROKEN in said:
        return Trial(f"KVM stops with an internal error when a kernel is booted; {_REMEDY}")
    if FIRST_WORDS in said:
        if any(words in said for words in LAST_WORDS):
            return Trial()
        so_far = f"{kernel.release} began to boot under KVM and did not get to its root"
        return Trial(f"{so_far}, perhaps by a fault of its own ({last})", certain=False)
    if status is None:
        silent = f"a kernel that is booted under KVM says nothing for {PATIENCE:.0f} seconds"
        return Trial(f"{silent}; {_REMEDY}", only_for=kernel.image_sha256)
    gave_up = status == 128 + signal.SIGABRT or b"kvm" in said.lower()
    if gave_up and not _PASSING.search(said):
        return Trial(f"QEMU gives up when it is to boot a kernel under KVM ({last}); {_REMEDY}")
    return Trial(
        f"QEMU ended with status {status} before {kernel.release} said a word ({last})",
        certain=False,
    )
