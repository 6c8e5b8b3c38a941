# SPDX-License-Identifier: GPL-2.0-only
"""What every source ends in, and how a source says that it could not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PreparedKernel:
    """A kernel that virtme-ng can boot.

    ``root`` is laid out as virtme-ng expects it, so that it finds the modules by itself:
    ``boot/vmlinuz-RELEASE`` or ``boot/vmlinux-RELEASE`` beside ``lib/modules/RELEASE``, the
    modules decompressed and ``modules.dep`` made. ``boot_image`` lies in it. A kernel without
    modules has no ``lib/modules``.
    """

    name: str  # the manifest's name
    release: str  # uname -r
    version: str  # a package version, or what the image says of itself ("Linux version …" tail)
    origin: str  # for people: "bookworm linux-image-6.1.0-50-amd64 6.1.176-1"
    image: Path  # the image as the source had it; its bytes are hashed
    image_sha256: str
    root: Path
    boot_image: Path  # what QEMU boots: an uncompressed vmlinux where one could be had


class KernelUnavailable(Exception):
    """Nothing bootable came of a source: a sentence with what was tried, what happened, what to do.

    The kernel's verdict is ``infrastructure``; ``transient`` says whether a retry makes sense.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
