# SPDX-License-Identifier: GPL-2.0-only
"""The few modules that a boot under virtme-ng needs, made ready for its initramfs.

virtme-ng reads modules only uncompressed or as ``.zst``; Debian's are ``.ko.xz`` from 6.12 on.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from harness import host
from harness.kernels import compression, elf
from harness.kernels.prepared import KernelUnavailable

#: What virtme-ng 1.42 puts into its initramfs (virtme/virtmods.py), by module instead of alias,
#: without the keyboard and without virtiofs, of which boots make no use. One that a kernel has
#: built in, or lacks, is no module of it.
NEEDED = (
    "9p",
    "9pnet_virtio",
    "virtio_console",
    "virtio_pci",
    "virtio_mmio",
    "unix",
)
#: What those depend on in kernels from 5.10 to 7.3: fetched along, to save a second pass.
LIKELY = frozenset(NEEDED) | {
    "9pnet",
    "fscache",
    "netfs",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_ring",
}
#: Files beside the modules that depmod and modprobe read.
LISTS = ("modules.builtin", "modules.builtin.modinfo", "modules.order")

# Where a module may lie below lib/modules/RELEASE: no way leads out, whoever made the package.
_PART = "[A-Za-z0-9_+-][A-Za-z0-9_.+-]*"
PATH = rf"{_PART}(?:/{_PART})*"

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


@dataclass(frozen=True)
class Module:
    """One module: its path below ``lib/modules/RELEASE`` without a compression's suffix."""

    name: str
    path: str
    data: bytes

    def info(self, key: str) -> str:
        """The first value of ``key`` in the module's .modinfo section, or ""."""
        for item in elf.section(self.data, b".modinfo").split(b"\0"):
            name, _, value = item.partition(b"=")
            if name == key.encode():
                return value.decode("utf-8", "replace")
        return ""


@dataclass(frozen=True)
class ModuleSet:
    """The modules of a boot, and ``lists``: LISTS by name, as far as they were there."""

    modules: tuple[Module, ...] = ()
    lists: Mapping[str, bytes] = field(default_factory=dict)


#: Gives the modules of these names, as far as they exist; may give others too.
Fetch = Callable[[frozenset[str]], Iterable[Module]]


def module_name(path: str) -> str | None:
    """The name of the module in the file ``path``; None if it is no module.

    The kernel takes ``-`` and ``_`` for the same in names.
    """
    name = PurePosixPath(path).name
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("-", "_")
    return None


def load(path: str, data: bytes) -> Module:
    """The module in ``data``, decompressed. ``path`` lies below ``lib/modules/RELEASE``."""
    name = module_name(path)
    if name is None or not re.fullmatch(PATH, path):
        raise KernelUnavailable(f"{path!r} cannot be the path of a kernel module")
    try:
        plain = data if path.endswith(".ko") else compression.decompress(data)
        elf.check_complete(plain)
    except ValueError as error:
        raise KernelUnavailable(f"the module {path} is damaged: {error}") from error
    return Module(name, path[: path.rindex(".ko") + len(".ko")], plain)


def collect(fetch: Fetch, lists: Mapping[str, bytes]) -> ModuleSet:
    """NEEDED, as far as they exist as modules, with all that they depend on."""
    known = {module.name: module for module in fetch(LIKELY)}
    chosen: dict[str, Module] = {}
    wanted = [name for name in NEEDED if name in known]
    while wanted:
        missing = frozenset(wanted) - known.keys()
        if missing:
            known.update((module.name, module) for module in fetch(missing))
        following = []
        for name in wanted:
            if name not in known:
                raise KernelUnavailable(
                    f"the module {name}, on which the modules for the boot depend, is missing "
                    "from the kernel's modules; install or unpack them completely"
                )
            chosen[name] = known[name]
            depends = known[name].info("depends").replace("-", "_").split(",")
            following += [other for other in depends if other and other not in chosen]
        wanted = following
    return ModuleSet(tuple(chosen[name] for name in sorted(chosen)), lists)


def check_root_filesystem(found: ModuleSet, what: str) -> None:
    """Raise KernelUnavailable if ``what`` cannot mount the guest's root, by 9p over virtio.

    Without the list of what is built in this cannot be known, and passes.
    """
    builtin = found.lists.get("modules.builtin")
    if builtin is None:
        return
    names = {module_name(line) for line in builtin.decode("utf-8", "replace").splitlines()}
    names |= {module.name for module in found.modules}
    if not {"9p", "9pnet_virtio"} <= names:
        raise KernelUnavailable(
            f"{what} has no 9p over virtio, by which the guest's root is mounted (virtiofs does "
            "not replace it here); use a kernel with CONFIG_9P_FS and CONFIG_NET_9P_VIRTIO, on "
            "Debian one without -cloud in its name"
        )


def install(found: ModuleSet, root: Path, release: str) -> None:
    """Write the modules to ``root/lib/modules/release`` and make what modprobe needs there.

    Nothing is written when there is no module. Raises KernelUnavailable when a module was
    built for another kernel, or depmod is missing or fails.
    """
    if not found.modules:
        return
    directory = root / "lib" / "modules" / release
    for module in found.modules:
        magic = module.info("vermagic").split(" ")[0]
        if magic not in ("", release):
            raise KernelUnavailable(
                f"the modules are of {magic}, the image is of {release}: the module {module.name} "
                "would not load; build or install both again from the same source"
            )
        place = directory / module.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(module.data)
    for name, data in found.lists.items():
        (directory / name).write_bytes(data)
    _depmod(root, release)


def _depmod(root: Path, release: str) -> None:
    program = host.find("depmod")
    if program is None:
        raise KernelUnavailable("depmod was not found; install it with: apt-get install kmod")
    # Some builds of kmod look in usr/lib/modules only, virtme-ng in lib/modules only.
    usr = root / "usr"
    usr.symlink_to(".")
    run = subprocess.run(
        [program, "-b", root, release], capture_output=True, text=True, errors="replace"
    )
    usr.unlink()
    if run.returncode != 0 or not (root / "lib/modules" / release / "modules.dep").exists():
        said = run.stderr.strip() or f"exit status {run.returncode}"
        raise KernelUnavailable(f"depmod failed on the modules of {release}: {said}")
