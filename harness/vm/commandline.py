# SPDX-License-Identifier: GPL-2.0-only
"""The command line and the environment of virtme-ng, and the memory that a VM needs.

virtme-ng 1.42 pastes most of its arguments unquoted into a shell command. So every argument is
either checked to be harmless or a path that the harness made: the user's paths are reached through
symbolic links in the boot's work directory.

A VM with too little memory ends in "Out of memory" or in a panic of a kernel that is not to blame.
"""

from __future__ import annotations

import os
import re
import shlex
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import Malformed
from harness.host.architectures import ARCHITECTURES, HOST, Arch
from harness.kernels import elf, kernel_image
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest.plan import PROGRAM_S, Plan
from harness.vm.initramfs import CHECK

#: Name of the virtio port that carries the events.
PORT = "mptcp.events"
#: In the work directory.
EVENTS_SOCKET = "events"
INITRAMFS = "initramfs"
CONSOLE_SOCKET = "console"
MONITOR_SOCKET = "monitor"
QEMU_STATUS = "qemu.status"
QEMU_COMMAND = "qemu.command"  # each argument ends in a NUL
STAND_INS = "python"

#: virtme-ng asks file(1) or strings(1) for the kernel's release, to find modules. The harness knows
#: it, so the host needs neither, and a boot does not read 60 MB.
_FILE = """\
#!/bin/sh
echo 'Linux kernel, version {release}, '
"""

#: virtme-ng does not report QEMU's exit status, which tells a VM that ended by itself (0) from one
#: whose QEMU failed. virtme-ng also asks for --version, which has no effect.
#:
#: The wrapper drops the devices for virtme-ng's own init: two directories of the host over 9p, six
#: ports for a script's output, one of which ends in a file of the host, and a watchdog. The guest
#: does not need them and cannot reach them, and the kernel does not probe them, which saves 0.1 s
#: under TCG. Devices that a later virtme-ng names differently pass, as do those of the harness. The
#: limit is for a guest that finds a file to write to: it can fill it to 32 MiB (blocks of 512
#: bytes); because SIGXFSZ is ignored, QEMU just fails to write more. Without core dumps, a QEMU
#: that aborts, as under a broken KVM, does not leave the guest's memory in a file.
_QEMU_WRAPPER = """\
#!/bin/sh
[ "$1" = --version ] && {version}
left=$#
while [ $left -gt 0 ]; do
    option=$1
    case $option in
    -device|-chardev|-fsdev)
        case $2 in
        virtio-9p-*|local,*|virtserialport,name=virtme.*|i6300esb,*|diag288,*) ;;
        virtio-serial-pci|virtio-serial-device|virtio-serial-ccw) ;;
        {console}*,id=stdin,*|*,id=stdout,*|*,id=stderr,*|*,id=dev_std*|*,id=ret,*) ;;
        *) set -- "$@" "$option" "$2" ;;
        esac
        shift 2
        left=$((left - 2)) ;;
    *)
        set -- "$@" "$option"
        shift
        left=$((left - 1)) ;;
    esac
done
printf '%s\\0' {qemu} "$@" > {command_file}
{starting}
trap '' XFSZ
ulimit -f 65536
ulimit -c 0
{qemu} "$@"
status=$?
echo $status > {status_file}
exit $status
"""

#: A case of the wrapper that replaces the file of virtme-ng's serial console by a socket.
_CONSOLE = 'file,id=console,*) set -- "$@" "$option" socket,id=console,path={socket} ;;\n        '

#: virtme-ng imports requests, which takes 50 ms, for downloads that no boot needs.
_REQUESTS = '"""Stands in for a library that virtme-ng does not need to boot."""\n'

_HARMLESS_PATH = re.compile(r"[A-Za-z0-9/._+~-]+")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
_GUEST_VALUE = re.compile(r"[A-Za-z0-9._,-]+")


class Unsafe(Exception):
    """A value that cannot be passed to virtme-ng; the text says which and why."""


@dataclass(frozen=True)
class Machine:
    """The virtual machine of a boot."""

    cpus: int = 1
    memory_mib: int = 512
    append: tuple[str, ...] = ()
    kvm: bool = False
    arch: Arch = HOST


@dataclass(frozen=True)
class Request:
    """The request to the checker, see guest/vm.py."""

    nonce: str
    seed: int
    plan: Plan = field(default_factory=Plan)
    program_s: int = PROGRAM_S  # for each run of a program
    slowness: int = 1  # multiplies the deadlines of scenarios' checks

    def arguments(self) -> list[str]:
        given = {"port": PORT, "nonce": self.nonce, **self.plan.arguments(self.seed)}
        if self.slowness != 1:
            given["slowness"] = str(self.slowness)
        if "program_s" in given:
            given["program_s"] = str(self.program_s)
        for name, value in given.items():
            if not _GUEST_VALUE.fullmatch(value):
                raise Unsafe(f"{name} {value!r} cannot be passed to the guest")
        return [f"{name}={value}" for name, value in given.items()]


def is_harmless(path: str) -> bool:
    """Whether a shell, QEMU's option parser and virtme-ng take ``path`` literally."""
    return _HARMLESS_PATH.fullmatch(path) is not None


def lay_out(
    work: Path,
    kernel: PreparedKernel,
    qemu: Path,
    *,
    console: Path | None = None,
    asking: str | None = None,
) -> None:
    """Fill the empty directory ``work`` with a link to the kernel and virtme-ng's environment.

    ``console`` is a socket to which the serial console is connected, both ways. With ``asking``,
    the version of QEMU, QEMU's command line is written and QEMU is not run at all.
    """
    if not is_harmless(str(work)):
        raise Unsafe(f"the work directory {str(work)!r} has characters that are special to a shell")
    if not _RELEASE.fullmatch(kernel.release):
        raise Unsafe(f"the kernel's release {kernel.release!r} has unusual characters")
    (work / "kernel").symlink_to(kernel.boot_image)
    # The guest's root is the initramfs; the root that virtme-ng shares is empty.
    (work / "root").mkdir()
    # virtme-ng looks for modules in the directories above the image, and at last in the host's own.
    # Here it finds an empty directory, and makes no initramfs for them.
    (work / "lib/modules").mkdir(parents=True)
    programs = work / "bin"
    programs.mkdir()
    _script(programs / "file", _FILE.format(release=kernel.release))
    stand_ins = work / STAND_INS
    stand_ins.mkdir()
    (stand_ins / "requests.py").write_text(_REQUESTS)
    wrapper = _QEMU_WRAPPER.format(
        qemu=shlex.quote(str(qemu)),
        status_file=shlex.quote(str(work / QEMU_STATUS)),
        command_file=shlex.quote(str(work / QEMU_COMMAND)),
        version=f"exec {shlex.quote(str(qemu))} --version" if asking is None else _said(asking),
        starting="" if asking is None else "exit 0",
        console="" if console is None else _CONSOLE.format(socket=console),
    )
    _script(programs / qemu.name, wrapper)
    config = work / "home/.config/virtme-ng"
    config.mkdir(parents=True)
    # A user's default_opts would change the VM; this file is read first and has none.
    (config / "virtme-ng.conf").write_text("{}\n")


def _said(version: str) -> str:
    """In the wrapper, the answer of a QEMU of this ``version``; loading one takes 40 ms."""
    return f"echo {shlex.quote(f'QEMU emulator version {version}')} && exit 0"


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o700)


def command(work: Path, machine: Machine, script: Sequence[str] = CHECK) -> list[str]:
    """virtme-ng's command line for a ``work`` directory that :func:`lay_out` made."""
    arguments = [
        *("vng", "--run", str(work / "kernel"), "--root", str(work / "root")),
        # Makes the kernel log to standard error from its first byte on.
        "--verbose",
        # Otherwise it waits for a virtiofsd, 5 s for bookworm's, to share a root that nobody
        # mounts.
        "--force-9p",
        *("--cpus", str(machine.cpus), "--memory", f"{machine.memory_mib}M"),
        *("--name", "mptcp-harness"),
        "--disable-monitor",
    ]
    if machine.arch is not HOST:
        arguments += ["--arch", machine.arch.value]
    if not machine.kvm:
        arguments.append("--disable-kvm")
    for argument in machine.append:
        arguments += ["--append", argument]
    return [*arguments, f"--qemu-opts={_qemu_options(work, machine)}", "--exec", shlex.join(script)]


def _qemu_options(work: Path, machine: Machine) -> str:
    data = ARCHITECTURES[machine.arch]
    # The guest waits in a loop until QEMU has taken what it writes to the port. Without the
    # eventfd, the emulated processor hands it over itself, and no other thread must wake up first:
    # this saves 0.2 ms an event.
    synchronous = "" if machine.kvm else ",ioeventfd=off"
    options = [
        # Replaces virtme-ng's own initramfs, which would mount a root over 9p.
        *("-initrd", str(work / INITRAMFS)),
        # A separate event channel, because the script's output ports need udev in the guest.
        *("-chardev", f"socket,id=mptcp,path={work / EVENTS_SOCKET}"),
        *("-device", f"{data.port_bus},id=mptcpbus{synchronous}"),
        *("-device", f"virtserialport,bus=mptcpbus.0,chardev=mptcp,name={PORT}"),
        # Used only if the guest hangs: see harness.vm.hang.
        *("-qmp", f"unix:{work / MONITOR_SOCKET},server=on,wait=off"),
    ]
    if machine.kvm:
        # virtme-ng asks for kvm:tcg, which falls back silently.
        options += ["-machine", "accel=kvm"]
    else:
        options += data.emulated
    return shlex.join(options)


def environment(work: Path, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for virtme-ng: a private home, its scripts in PATH, and no other settings."""
    inherited = os.environ if inherited is None else inherited
    path = [str(work / "bin"), sysconfig.get_path("scripts"), inherited.get("PATH", os.defpath)]
    kept = {name: inherited[name] for name in ("LANG", "LC_ALL") if name in inherited}
    return {
        **kept,
        "PATH": ":".join(path),
        "HOME": str(work / "home"),
        "TMPDIR": str(work),
        "PYTHONPATH": str(work / STAND_INS),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def for_display(arguments: Sequence[str]) -> str:
    """A command line as a person would type it."""
    return shlex.join(arguments)


#: MiB for the allocations of the kernel at boot, Python and the checks. Kernels 6.1 and 7.3 still
#: pass with 20 MiB less.
REST_MIB = 64
#: The kernel's struct page array takes 1/64 of the memory (64 bytes for 4096).
PAGES = 1 / 64
STEP_MIB = 16
#: Unpacked, Debian's kernels for s390x take four times the memory of their image.
RAW_GROWTH = 5

#: ``mem=64M`` limits the memory that the kernel uses (kernel-parameters.txt).
_MEM = re.compile(r"mem=(\d+)([KMGkmg]?)")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def check_memory(kernel: PreparedKernel, base: Path, machine: Machine) -> None:
    """Raise Unsafe, with the required amount, if ``kernel`` cannot boot in ``machine``."""
    needed = needed_mib(kernel, base)
    given, how = _given(machine)
    if given >= needed:
        return
    raise Unsafe(
        f"{how} leaves {given} MiB of memory, but {kernel.release} with the guest's root needs at "
        f"least {needed} MiB; set memory: {needed}M or more"
    )


def needed_mib(kernel: PreparedKernel, base: Path) -> int:
    """MiB that ``kernel`` needs with the guest's root ``base``, in steps of 16.

    While it is unpacked, the initramfs is in memory twice.
    """
    archives = base.stat().st_size + sum(module.stat().st_size for module in kernel.modules)
    mib = (_loaded_size(kernel.boot_image) + 2 * archives) / (1 << 20) + REST_MIB
    return -int(-mib / (1 - PAGES) // STEP_MIB) * STEP_MIB


def _given(machine: Machine) -> tuple[int, str]:
    """The MiB that the kernel may use, and the setting that says so."""
    limits = [(machine.memory_mib, f"memory: {machine.memory_mib}M")]
    for argument in machine.append:
        if match := _MEM.fullmatch(argument):
            limits.append(((int(match[1]) * _UNITS[match[2].lower()]) >> 20, argument))
    return min(limits)


def _loaded_size(image: Path) -> int:
    with image.open("rb") as file:
        start = file.read(4096)
    try:
        if kernel_image.is_bzimage(start):
            return kernel_image.loaded_size_of_bzimage(start)
        if start.startswith(elf.MAGIC):
            return elf.loaded_size(start)
        return kernel_image.loaded_size_of_raw(start) or RAW_GROWTH * image.stat().st_size
    except Malformed:
        return 0  # damage is reported elsewhere
