# SPDX-License-Identifier: GPL-2.0-only
"""The options that a kernel needs to be tested, with reasons, and the fragment that sets them.

virtme-ng inserts a fragment (``vng --kconfig --config FILE``) between its own optional lines and
its fixed ones (virtme/commands/configkernel.py); the last line of an option counts. Everything is
built in, so that the image is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

#: The commands that build a testable kernel, for error messages.
REMEDY = "mptcp-harness config | vng --kconfig --config - && vng --build --skip-modules"


class Lack(Enum):
    """The effect of a missing option."""

    NO_BOOT = "the guest cannot start or cannot report"
    NOT_TESTED = "less is tested"
    NONE = "only time is lost"


@dataclass(frozen=True)
class Option:
    """``name`` must be ``y``, or ``m`` if the harness loads ``module`` itself."""

    name: str
    why: str
    lack: Lack
    module: str = ""


_LINE = re.compile(r"(CONFIG_\w+)=(\S+)")

_BOOT = Lack.NO_BOOT
_TEST = Lack.NOT_TESTED

#: All of them exist with these names in kernels from 5.6 to 7.3.
OPTIONS = (
    Option("CONFIG_INET", "TCP/IP", _TEST),
    Option("CONFIG_IPV6", "the checks run in both address families", _TEST),
    Option("CONFIG_MPTCP", "what is tested", _TEST),
    Option("CONFIG_MPTCP_IPV6", "MPTCP over IPv6", _TEST),
    Option("CONFIG_NET_NS", "each scenario has its own network namespace", _TEST),
    Option("CONFIG_PACKET", "segments are read and written on the wire", _TEST),
    # x86's defconfig turns it off. INET_TCP_DIAG and INET_MPTCP_DIAG follow it.
    Option("CONFIG_INET_DIAG", "inet_diag shows the sockets", _TEST, "inet_diag"),
    Option("CONFIG_INET_DIAG_DESTROY", "sockets are destroyed through inet_diag", _TEST),
    Option("CONFIG_USERFAULTFD", "calls that wait in the middle of a copy", _TEST),
    Option("CONFIG_PCI", "the bus of the VM's devices", _BOOT),
    Option("CONFIG_VIRTIO_PCI", "the event channel is a virtio device", _BOOT, "virtio_pci"),
    Option("CONFIG_VIRTIO_CONSOLE", "the event channel is a virtio port", _BOOT, "virtio_console"),
    Option("CONFIG_SERIAL_8250", "the kernel log is read from the serial port", _BOOT),
    Option("CONFIG_SERIAL_8250_CONSOLE", "the same", _BOOT),
    Option("CONFIG_PRINTK", "panics and warnings are found in the kernel log", _BOOT),
    Option("CONFIG_BLK_DEV_INITRD", "the guest's root is the initramfs", _BOOT),
    Option("CONFIG_BINFMT_ELF", "the guest runs a Python", _BOOT),
    Option("CONFIG_BINFMT_SCRIPT", "the guest's init is a shell script", _BOOT),
    Option("CONFIG_DEVTMPFS", "/dev of the guest, with the event channel", _BOOT),
    Option("CONFIG_PROC_FS", "/proc of the guest, with the command to run", _BOOT),
    Option("CONFIG_SYSFS", "/sys of the guest, which names the event channel", _BOOT),
    Option("CONFIG_FUTEX", "Python's locks", _BOOT),
    Option("CONFIG_EPOLL", "Python waits for sockets", _BOOT),
    Option("CONFIG_HYPERVISOR_GUEST", "the next two depend on it", Lack.NONE),
    Option("CONFIG_PARAVIRT", "a guest's clock under KVM", Lack.NONE),
    Option("CONFIG_PVH", "QEMU starts the image uncompressed, which saves seconds", Lack.NONE),
    Option("CONFIG_KERNEL_GZIP", "the harness can unpack it, and gzip is everywhere", Lack.NONE),
    Option("CONFIG_IKCONFIG", "the image contains its configuration", Lack.NONE),
)

#: Must not be set, because the harness passes console and command on the command line.
FORBIDDEN = (Option("CONFIG_CMDLINE_OVERRIDE", "the command line of the boot is replaced", _BOOT),)

#: Disabled because building it takes long, with the reason.
_NO_MODULES = ("CONFIG_MODULES", "everything is built in, so only the image has to be built")
_SLOW = (
    ("CONFIG_DRM", "graphics: slow to build and not needed"),
    ("CONFIG_SOUND", "sound: the same"),
)
#: virtme-ng puts CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y behind every fragment, which overrides
#: any other choice of debug information. But it depends on DEBUG_KERNEL, which EXPERT would select.
#: Without it, a build takes a third of the time and of the disk space.
_DEBUG_INFO = (
    ("CONFIG_EXPERT", "would turn the next one on"),
    ("CONFIG_DEBUG_KERNEL", "debug information triples the build's time and size"),
)


def fragment(*, modules: bool = False, debug_info: bool = False) -> str:
    """The lines for ``vng --kconfig --config -``, each with its reason.

    With ``modules``, the kernel can load modules; with ``debug_info``, traces get source lines.
    """
    left_out = [
        *([] if modules else [_NO_MODULES]),
        *_SLOW,
        *([] if debug_info else _DEBUG_INFO),
    ]
    wanted = [(f"{option.name}=y", option.why) for option in OPTIONS]
    left_out += [(option.name, option.why) for option in FORBIDDEN]
    unwanted = [(f"# {name} is not set", why) for name, why in left_out]
    return "".join(f"# {why}\n{line}\n" for line, why in (*wanted, *unwanted))


def parse(text: str) -> dict[str, str]:
    """The options that the ``text`` of a .config sets, such as CONFIG_MPTCP, with their values."""
    return {match[1]: match[2] for match in map(_LINE.fullmatch, text.split("\n")) if match}


def missing(
    values: Mapping[str, str], modules: Iterable[str] = ()
) -> tuple[tuple[Option, ...], tuple[Option, ...]]:
    """The missing options without which a kernel cannot boot, and those without which less is
    tested.

    ``values`` are the options that are set, such as ``CONFIG_MPTCP``, with their values.
    ``modules`` are the names of modules that were found; the harness loads them itself.
    """
    found = frozenset(modules)

    def is_there(option: Option) -> bool:
        value = values.get(option.name)
        return value == "y" or (value == "m" and option.module in found)

    lacking = [option for option in OPTIONS if not is_there(option)]
    return (
        tuple(option for option in lacking if option.lack is Lack.NO_BOOT),
        tuple(option for option in lacking if option.lack is Lack.NOT_TESTED),
    )


def forbidden(values: Mapping[str, str]) -> tuple[Option, ...]:
    """The options of a configuration that prevent a test."""
    return tuple(option for option in FORBIDDEN if values.get(option.name) == "y")


def in_words(options: Sequence[Option]) -> str:
    """``CONFIG_PCI (the bus of the VM's devices) and CONFIG_FUTEX (Python's locks)``."""
    parts = [f"{option.name} ({option.why})" for option in options]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
