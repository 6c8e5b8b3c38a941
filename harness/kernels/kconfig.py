# SPDX-License-Identifier: GPL-2.0-only
"""The options that a kernel must be built with to be tested, and why; the fragment that sets them.

virtme-ng puts a fragment (``vng --kconfig --config FILE``) behind its own optional lines and
before its own fixed ones (virtme/commands/configkernel.py); what is said last counts. All that
is needed is built in, so that the image is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

#: What makes a kernel that can be tested, said wherever one cannot.
REMEDY = "mptcp-harness config | vng --kconfig --config - && vng --build --skip-modules"


class Lack(Enum):
    """What comes of it where an option is missing."""

    NO_BOOT = "the guest cannot start, or nobody hears of it"
    NOT_TESTED = "less is tested"
    NONE = "only time is lost"


@dataclass(frozen=True)
class Option:
    """``name`` has to be ``y``, or ``m`` where the harness loads ``module`` itself."""

    name: str
    why: str
    lack: Lack
    module: str = ""


_LINE = re.compile(r"(CONFIG_\w+)=(\S+)")

_BOOT = Lack.NO_BOOT
_TEST = Lack.NOT_TESTED

#: All of them exist, under these names, in kernels from 5.6 to 7.3.
OPTIONS = (
    Option("CONFIG_INET", "TCP/IP", _TEST),
    Option("CONFIG_IPV6", "the checks run in both address families", _TEST),
    Option("CONFIG_MPTCP", "what is tested", _TEST),
    Option("CONFIG_MPTCP_IPV6", "MPTCP over IPv6", _TEST),
    Option("CONFIG_PCI", "the bus of the VM's devices", _BOOT),
    Option("CONFIG_VIRTIO_PCI", "the event channel is a virtio device", _BOOT, "virtio_pci"),
    Option("CONFIG_VIRTIO_CONSOLE", "the event channel is a virtio port", _BOOT, "virtio_console"),
    Option("CONFIG_SERIAL_8250", "the kernel log is read from the serial port", _BOOT),
    Option("CONFIG_SERIAL_8250_CONSOLE", "the same", _BOOT),
    Option("CONFIG_PRINTK", "panics and warnings are found in the kernel log", _BOOT),
    Option("CONFIG_BLK_DEV_INITRD", "the guest's root is the initramfs", _BOOT),
    Option("CONFIG_BINFMT_ELF", "the guest runs a Python", _BOOT),
    Option("CONFIG_BINFMT_SCRIPT", "the guest's init is a shell script", _BOOT),
    Option("CONFIG_DEVTMPFS", "/dev of the guest, where the event channel is", _BOOT),
    Option("CONFIG_PROC_FS", "/proc of the guest, with the command to run", _BOOT),
    Option("CONFIG_SYSFS", "/sys of the guest, which names the event channel", _BOOT),
    Option("CONFIG_FUTEX", "Python's locks", _BOOT),
    Option("CONFIG_EPOLL", "Python's waiting for sockets", _BOOT),
    Option("CONFIG_HYPERVISOR_GUEST", "comes before the next two", Lack.NONE),
    Option("CONFIG_PARAVIRT", "a guest's clock under KVM", Lack.NONE),
    Option("CONFIG_PVH", "QEMU starts the image uncompressed: seconds less", Lack.NONE),
    Option("CONFIG_KERNEL_GZIP", "the harness can unpack it, and gzip is everywhere", Lack.NONE),
    Option("CONFIG_IKCONFIG", "the image tells its own configuration", Lack.NONE),
)

#: What must not be set: the harness gives the kernel its console and its command this way.
FORBIDDEN = (Option("CONFIG_CMDLINE_OVERRIDE", "the command line of the boot is replaced", _BOOT),)

#: Left out of the build because it takes long; with why.
_NO_MODULES = ("CONFIG_MODULES", "all that is needed is built in: only the image is built")
_SLOW = (
    ("CONFIG_DRM", "graphics: long to build, no use here"),
    ("CONFIG_SOUND", "sound: the same"),
)
#: virtme-ng's CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y stands behind every fragment, so that
#: no other choice of debug information wins; but none can be made without DEBUG_KERNEL, which
#: EXPERT would select. Without it a build takes a third of the time, and of the disk.
_DEBUG_INFO = (
    ("CONFIG_EXPERT", "would turn the next one on"),
    ("CONFIG_DEBUG_KERNEL", "debug information triples the build's time and size"),
)


def fragment(*, modules: bool = False, debug_info: bool = False) -> str:
    """The lines for ``vng --kconfig --config -``, each with why.

    With ``modules`` the kernel can load some; with ``debug_info`` traces get source lines.
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
    """The options that the ``text`` of a .config sets, such as CONFIG_MPTCP, to their text."""
    return {match[1]: match[2] for match in map(_LINE.fullmatch, text.split("\n")) if match}


def missing(
    values: Mapping[str, str], modules: Iterable[str] = ()
) -> tuple[tuple[Option, ...], tuple[Option, ...]]:
    """Of a configuration what stops a boot, and what keeps something from being tested.

    ``values`` are the options that it sets, such as ``CONFIG_MPTCP``, to their text. ``modules``
    are the names of those that were found, which the harness loads itself.
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
    """The options of a configuration with which no boot can be tested."""
    return tuple(option for option in FORBIDDEN if values.get(option.name) == "y")


def in_words(options: Sequence[Option]) -> str:
    """``CONFIG_PCI (the bus of the VM's devices) and CONFIG_FUTEX (Python's locks)``."""
    parts = [f"{option.name} ({option.why})" for option in options]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
