# SPDX-License-Identifier: GPL-2.0-only
"""What every source ends in: the directory of a kernel that can be booted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.kernels import modules
from harness.kernels.cache import Built, CacheEntry
from harness.kernels.kernel_image import Image, ImageKind, uncompressed
from harness.kernels.modules import ModuleSet


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


def assemble(root: Path, image: Image, found: ModuleSet) -> Built:
    """Fill ``root``, laid out as PreparedKernel says.

    Raises KernelUnavailable when the image is damaged or the modules are not its own.
    """
    boot = root / "boot"
    boot.mkdir()
    name = f"boot/{image.kind.value}-{image.release}"
    (root / name).write_bytes(image.data)
    boot_name = name
    kernel = uncompressed(image)
    if kernel is not None and image.kind is not ImageKind.VMLINUX:
        boot_name = f"boot/{ImageKind.VMLINUX.value}-{image.release}"
        (root / boot_name).write_bytes(kernel)
    installed = modules.install(found.modules, root, image.release)
    return Built(image.release, image.version, name, boot_name, installed)


def prepared(name: str, entry: CacheEntry, *, origin: str, version: str = "") -> PreparedKernel:
    """The kernel in ``entry``, as the manifest calls it; ``version`` over what the image says."""
    return PreparedKernel(
        name=name,
        release=entry.built.release,
        version=version or entry.built.version,
        origin=origin,
        image=entry.image,
        image_sha256=entry.image_sha256,
        root=entry.root,
        boot_image=entry.boot_image,
        modules=entry.modules,
        modules_sha256=entry.modules_sha256,
        notes=entry.built.notes,
    )
