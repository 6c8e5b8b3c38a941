# SPDX-License-Identifier: GPL-2.0-only
"""The ``tree`` source: a kernel tree (or the directory of a build with O=) that was built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.kernels import image, kconfig, module_files
from harness.kernels.cache import Cache
from harness.kernels.prepared import KernelUnavailable, PreparedKernel
from harness.manifest.kernels_yaml import TreeSource


def prepare(
    name: str, source: TreeSource, cache: Cache, say: Callable[[str], None]
) -> PreparedKernel:
    """The kernel last built in ``source.tree``, as it is now: the tree may change afterwards."""
    tree = source.tree
    return image.from_file(
        name,
        _image(tree),
        lambda _: module_files.of_tree(tree),
        cache,
        say,
        origin=f"tree {tree}",
        sha256=source.sha256,
    )


def _image(tree: Path) -> Path:
    """The newer of bzImage and vmlinux: after ``make vmlinux`` the bzImage is of an older build."""
    if not tree.is_dir():
        raise KernelUnavailable(f"{tree} is not a directory; give a built kernel tree")
    images = (tree / "arch" / "x86" / "boot" / "bzImage", tree / "vmlinux")
    built = [path for path in images if path.is_file()]
    if built:
        return max(built, key=lambda path: path.stat().st_mtime_ns)
    if not (tree / "Kbuild").exists() and not module_files.is_tree(tree):
        raise KernelUnavailable(f"{tree} is not a kernel tree: it has neither Kbuild nor .config")
    command = f"make -C {tree} -j$(nproc)"
    if not (tree / ".config").is_file():
        command = f"cd {tree} && {kconfig.REMEDY}"
    raise KernelUnavailable(
        f"{tree} has no kernel for x86-64 (arch/x86/boot/bzImage or vmlinux); build it with: "
        f"{command}"
    )
