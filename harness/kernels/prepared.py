# SPDX-License-Identifier: GPL-2.0-only
"""What every source ends in, and how a source says that it could not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError


@dataclass(frozen=True)
class PreparedKernel:
    """A kernel that can be booted.

    Its files lie in ``root``: ``boot/vmlinuz-RELEASE``, ``boot/vmlinux-RELEASE`` or both, and
    ``modules/NAME.ko``, decompressed, for what a boot needs and the kernel has not built in.
    """

    name: str  # the manifest's name
    release: str  # uname -r
    version: str  # a package version, or what the image says of itself ("Linux version …" tail)
    origin: str  # for people: "bookworm linux-image-6.1.0-50-amd64 6.1.176-1"
    image: Path  # the image as the source had it; its bytes are hashed
    image_sha256: str
    root: Path
    boot_image: Path  # what QEMU boots: an uncompressed vmlinux where one could be had
    modules: tuple[Path, ...] = ()  # in the order in which insmod has to load them
    modules_sha256: tuple[str, ...] = ()  # of their bytes, in the same order
    notes: tuple[str, ...] = ()  # what is known before it boots, in sentences for its result


class KernelUnavailable(HostError):
    """Nothing bootable came of a source: a sentence with what was tried, what happened, what to do.

    The kernel's verdict is ``infrastructure``; ``transient`` says whether a retry makes sense.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
