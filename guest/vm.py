# SPDX-License-Identifier: GPL-2.0-only
"""The checker's side of a boot: find the event port, run, close the stream.

Arguments are ``key=value``: ``port`` (the virtio port's name), ``nonce``, ``seed``,
``families`` and ``checks`` (both separated by commas; all when absent), ``profile`` (what all
means: ``quick``, or ``full`` when absent), ``payload`` (bytes);
``rounds``, ``seconds`` and ``until_fail`` where the checks are repeated, see Options;
``slowness`` where the kernel is slower than most, see Options;
``program_s`` where programs are run after them, see :mod:`guest.programs`.
"""

from __future__ import annotations

import gc
import posix  # quick runs start without os and ctypes
import sys
import time

from guest import checks, events
from guest.runner import FAMILIES, Options, Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

PORTS = "/sys/class/virtio-ports"
#: Where the guest's root has the modules that are not loaded at boot.
ON_DEMAND = "/on_demand"
DEBUGFS = "/sys/kernel/debug"
#: finit_module(2) by machine; glibc has no function for it.
FINIT_MODULE = {"x86_64": 313, "aarch64": 273, "riscv64": 273, "s390x": 344, "ppc64le": 353}
#: Seconds to wait for the port: virtio_console may still be probing when we start.
PORT_DEADLINE = 10.0


def open_port(name: str, flags: int = posix.O_WRONLY) -> int:
    """A file descriptor for the virtio port ``name``, found through sysfs: there is no udev."""
    deadline = time.monotonic() + PORT_DEADLINE
    while True:
        try:
            for device in posix.listdir(PORTS):
                with open("%s/%s/name" % (PORTS, device)) as file:
                    if file.read().strip() == name:
                        return posix.open("/dev/" + device, flags)
        except FileNotFoundError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit("no virtio port named %s below %s" % (name, PORTS))
        time.sleep(0.01)


def load_modules(directory: str = ON_DEMAND) -> None:
    """Load the kernel modules that only some checks need, in the order of their names.

    One that does not load is the kernel's affair: what it would have brought is absent.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    try:
        names = sorted(posix.listdir(directory))
    except OSError:
        return
    for name in names:
        with open("%s/%s" % (directory, name), "rb", buffering=0) as file:
            libc.syscall(FINIT_MODULE[posix.uname().machine], file.fileno(), b"", 0)


def fewer_timer_interrupts() -> None:
    """Let time slices end at ticks, as they do on older kernels.

    Linux 7.3 sets a timer for the end of each slice when a thread of the kernel waits. That takes
    an emulated processor a twentieth of its time, because its APIC is emulated too.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"debugfs", DEBUGFS.encode(), b"debugfs", 0, None):
        return
    try:
        with open(DEBUGFS + "/sched/features", "wb", buffering=0) as file:
            file.write(b"NO_HRTICK")
    except OSError:
        pass  # the kernel lacks the feature
    libc.umount2(DEBUGFS.encode(), 0)


def taint() -> int:
    """The bits of /proc/sys/kernel/tainted."""
    with open("/proc/sys/kernel/tainted") as file:
        return int(file.read())


def _profile(wanted: str, names: Optional[Sequence[str]]) -> str:
    """The profile that holds the checks of these ``names``, or the one that is ``wanted``."""
    if names is None:
        return wanted
    quick = [item.id for item in checks.all_checks(checks.QUICK)]
    return checks.QUICK if set(names).issubset(quick) else checks.FULL


def main(arguments: Sequence[str]) -> int:
    gc.disable()  # nothing here is in cycles; tests/guest/test_rounds.py looks for them
    if arguments[:1] and arguments[0].startswith("@"):
        # A file, for a kernel's command line takes no more than 2 KiB.
        with open(arguments[0][1:]) as file:
            arguments = file.read().splitlines()
    given = dict(argument.split("=", 1) for argument in arguments)
    port = open_port(given["port"])

    def write(data: bytes) -> None:
        while data:
            data = data[posix.write(port, data) :]

    names = given["checks"].split(",") if "checks" in given else None
    options = Options(
        families=given["families"].split(",") if "families" in given else tuple(FAMILIES),
        seed=int(given["seed"]),
        selected=None if names is None else names.__contains__,
        size=int(given["payload"]) if "payload" in given else None,
        rounds=int(given.get("rounds", 1)),
        until_fail="until_fail" in given,
        seconds=int(given["seconds"]) if "seconds" in given else None,
        profile=_profile(given.get("profile", checks.FULL), names),
        slowness=float(given.get("slowness", 1)),
    )
    if options.profile == checks.FULL:
        fewer_timer_interrupts()
        load_modules()  # before the taint is read: a module without a signature is one
    emitter = events.Emitter(write, port=port)
    system = posix.uname()
    emitter.emit(
        "hello",
        protocol=events.PROTOCOL,
        nonce=given["nonce"],
        release=system.release,
        version=system.version,
        machine=system.machine,
        python=sys.version.split()[0],
        seed=options.seed,
        taint=taint(),
    )
    runner = Runner(options, emitter)
    results = runner.run()
    if "program_s" in given:
        from guest import programs

        programs.run_all(emitter, int(given["program_s"]))
    emitter.emit("end", nonce=given["nonce"], results=results, rounds=runner.rounds, taint=taint())
    return 1 if runner.failed else 0
