# SPDX-License-Identifier: GPL-2.0-only
"""The few modules that a boot needs, in the order in which insmod can load them.

The guest's root is the initramfs, so a boot only needs the event channel: a virtio-serial port on
the PCI bus.
"""

from __future__ import annotations

import graphlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from harness.errors import KernelUnavailable
from harness.host.architectures import ARCHITECTURES
from harness.kernels import compression, elf, kconfig

#: The modules that the event channel needs, each with its configuration option.
NEEDED = {
    "virtio_pci": "CONFIG_VIRTIO_PCI",
    "virtio_console": "CONFIG_VIRTIO_CONSOLE",
}
#: The names with which these drivers register; an image with built-in drivers contains them.
DRIVERS = {"virtio_pci": b"virtio-pci", "virtio_console": b"virtio_console"}
#: Modules that some checks need, if a kernel has them as modules, as Debian's have: see
#: sock_diag(7). The checker loads them (guest/vm.py) when it runs those checks, not the boot.
ON_DEMAND = ("inet_diag", "tcp_diag", "mptcp_diag")
#: Their dependencies in kernels from 5.10 to 7.3, fetched together to save a second pass.
LIKELY = frozenset((*NEEDED, *ON_DEMAND)) | {
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_ring",
}
#: The file beside the modules that lists built-in ones.
BUILTIN = "modules.builtin"

#: Passes over all modules of a kernel, which takes seconds for a package; known kernels need one.
MOST_PASSES = 10
#: Bytes; the largest of NEEDED and LIKELY has 3 MB with its debug information.
MODULE_LIMIT = 64 << 20

# The name becomes a path, so it must not lead anywhere else.
_FILE = re.compile(r"([A-Za-z0-9_-]+)\.ko(?:\.(?:xz|zst|gz))?")


@dataclass(frozen=True)
class Module:
    """One module, decompressed."""

    name: str
    data: bytes

    @property
    def depends(self) -> tuple[str, ...]:
        """The modules that must be loaded before this one."""
        return tuple(name.replace("-", "_") for name in self._info("depends").split(",") if name)

    @property
    def release(self) -> str:
        """The release that it was built for; "" if it does not say."""
        return self._info("vermagic").split(" ")[0]

    def _info(self, key: str) -> str:
        """The first value of ``key`` in the module's .modinfo section, or ""."""
        for item in elf.section(self.data, b".modinfo").split(b"\0"):
            name, _, value = item.partition(b"=")
            if name == key.encode():
                return value.decode("utf-8", "replace")
        return ""


@dataclass(frozen=True)
class ModuleSet:
    """The modules of a boot in load order; ``builtin`` names built-in ones, None if unknown.

    ``searched`` are the directories that were searched.
    """

    modules: tuple[Module, ...] = ()
    builtin: frozenset[str] | None = None
    searched: tuple[Path, ...] = ()


#: Returns the modules of these names that exist; may return others too.
Fetch = Callable[[frozenset[str]], Iterable[Module]]


def module_name(path: str) -> str | None:
    """The name of the module in the file ``path``; None if it is not a module.

    The kernel treats ``-`` and ``_`` in names alike.
    """
    match = _FILE.fullmatch(PurePosixPath(path).name)
    return match[1].replace("-", "_") if match else None


def builtin_names(listed: bytes) -> frozenset[str]:
    """The names in the text of a modules.builtin."""
    names = map(module_name, listed.decode("utf-8", "replace").splitlines())
    return frozenset(name for name in names if name is not None)


def load(path: str, data: bytes) -> Module:
    """The module in ``data``, decompressed; ``path`` is that of its file."""
    name = module_name(path)
    if name is None:
        raise KernelUnavailable(f"{path!r} cannot be the path of a kernel module")
    try:
        plain = data if path.endswith(".ko") else compression.decompress(data, MODULE_LIMIT)
        elf.check_complete(plain)
    except ValueError as error:
        raise KernelUnavailable(f"the module {path} is damaged: {error}") from error
    return Module(name, plain)


def collect(fetch: Fetch) -> tuple[Module, ...]:
    """The modules of NEEDED and ON_DEMAND, each after its dependencies."""
    known = {module.name: module for module in fetch(LIKELY)}
    graph: dict[str, tuple[str, ...]] = {}
    wanted = [name for name in NEEDED if name in known]
    wanted += [
        name for name in ON_DEMAND if name in known and known.keys() >= set(known[name].depends)
    ]
    passes = 1
    while wanted:
        missing = frozenset(wanted) - known.keys()
        if missing:
            passes += 1
            if passes > MOST_PASSES:
                raise KernelUnavailable(
                    f"the modules for the boot have dependencies more than {MOST_PASSES} levels "
                    f"deep, down to {min(missing)}; install the kernel's own modules"
                )
            known.update((module.name, module) for module in fetch(missing))
        for name in wanted:
            if name not in known:
                raise KernelUnavailable(
                    f"the module {name}, which the modules for the boot depend on, is missing; "
                    f"install or unpack all of the kernel's modules"
                )
            graph[name] = known[name].depends
        wanted = [name for depends in graph.values() for name in depends if name not in graph]
    try:
        return tuple(known[name] for name in graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        raise KernelUnavailable(
            f"the modules {' and '.join(dict.fromkeys(error.args[1]))} depend on each other, so "
            f"none can be loaded first; build or install the kernel's modules again"
        ) from error


def check_event_channel(found: ModuleSet, what: str) -> None:
    """Raise KernelUnavailable if the guest in ``what`` could not send events.

    Without the list of built-in modules, this cannot be known and passes.
    """
    if found.builtin is None:
        return
    there = found.builtin | {module.name for module in found.modules}
    lacking = [name for name in NEEDED if name not in there]
    if lacking:
        raise KernelUnavailable(
            f"{what} has no {' and no '.join(lacking)}, neither built in nor as a module, by which "
            f"the guest sends its results; use a kernel with {' and '.join(NEEDED.values())}"
        )


def check_release(chosen: Iterable[Module], release: str) -> None:
    """Raise KernelUnavailable if one of ``chosen`` was not built for ``release``."""
    for module in chosen:
        if module.release not in ("", release):
            raise KernelUnavailable(
                f"the modules are for {module.release}, but the image is {release}, so the module "
                f"{module.name} would not load; build or install both again from the same source"
            )


def install(chosen: Iterable[Module], root: Path, release: str) -> tuple[str, ...]:
    """Write the modules to ``root``/modules; returns their paths below ``root``, in order.

    Raises KernelUnavailable if a module was built for another kernel.
    """
    chosen = tuple(chosen)
    check_release(chosen, release)
    paths = []
    for module in chosen:
        path = root / "modules" / f"{module.name}.ko"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(module.data)
        paths.append(path.relative_to(root).as_posix())
    return tuple(paths)


#: Where a build leaves its images.
_IMAGES = (*{data.tree_image for data in ARCHITECTURES.values()}, PurePath("vmlinux"))


def is_tree(directory: Path) -> bool:
    """Whether ``directory`` is where a kernel was configured or built (also with O=)."""
    return (directory / ".config").is_file() or (
        directory / "include" / "config" / "kernel.release"
    ).is_file()


def tree_of(image: Path) -> Path | None:
    """The tree in which ``image``, a path without links, was built; None if there is none."""
    for ending in _IMAGES:
        tree = image.parents[len(ending.parts) - 1 :][:1]
        if tree and image == tree[0] / ending and is_tree(tree[0]):
            return tree[0]
    return None


def find(given: Path, release: str) -> ModuleSet:
    """The modules of ``release`` for a boot, in the user's directory.

    The directory is a built tree, a root with lib/modules/RELEASE, or lib/modules/RELEASE itself.
    """
    if is_tree(given):
        return of_tree(given)
    if given.is_file():
        raise KernelUnavailable(
            f"{given} is a file; unpack it (tar -xf {given.name} -C DIR) and give DIR"
        )
    for place in (*installed_below(given, release), given / release):
        if place.is_dir():
            return of_directory(place)
    if given.name == release or any(given.glob("modules.*")) or (given / "kernel").is_dir():
        return of_directory(given)
    others = sorted(
        place.name for parent in installed_below(given, "") for place in parent.glob("*")
    )
    has = f"it has those of {', '.join(others[:5])}" if others else "it has none at all"
    raise KernelUnavailable(
        f"{given} has no modules of {release}: {has}; give a built kernel tree, a directory "
        f"with lib/modules/{release} in it, or that directory itself"
    )


def installed_below(root: Path, release: str) -> tuple[Path, ...]:
    """The directories below ``root`` that may have the modules of ``release``."""
    return (root / "lib" / "modules" / release, root / "usr" / "lib" / "modules" / release)


def of_directory(directory: Path) -> ModuleSet:
    """The modules for a boot in ``directory``, laid out as lib/modules/RELEASE."""
    paths: dict[str, Path] = {}
    # No links are followed: "build" and "source" lead to a whole kernel tree.
    for parent, _, names in os.walk(directory):
        for name in names:
            module = module_name(name)
            if module is not None:
                paths.setdefault(module, Path(parent, name))

    def fetch(names: frozenset[str]) -> Iterator[Module]:
        for name in sorted(names & paths.keys()):
            path = paths[name]
            yield load(path.relative_to(directory).as_posix(), path.read_bytes())

    return ModuleSet(collect(fetch), _builtin(directory), (directory,))


def of_tree(tree: Path) -> ModuleSet:
    """The modules for a boot that were built in ``tree``; empty if everything is built in.

    Raises KernelUnavailable if modules that .config enables for the boot are missing.
    """
    order = tree / "modules.order"
    paths: dict[str, str] = {}
    for line in order.read_text(errors="replace").splitlines() if order.is_file() else ():
        # "drivers/char/x.o" from 6.2 on (commit f65a486821cf), "drivers/char/x.ko" before, and
        # with "kernel/" in front in the oldest.
        path = line.removeprefix("kernel/").removesuffix(".o").removesuffix(".ko") + ".ko"
        paths[module_name(path) or path] = path

    def fetch(names: frozenset[str]) -> Iterator[Module]:
        for name in sorted(names & paths.keys()):
            file = tree / paths[name]
            if file.is_file():
                yield load(paths[name], file.read_bytes())

    found = ModuleSet(collect(fetch), _builtin(tree), (tree,))
    config = read_config(tree)
    built = {module.name for module in found.modules}
    # Without them, the guest would be silent, which explains nothing.
    for name, option in NEEDED.items():
        if config.get(option) == "m" and name not in built:
            raise KernelUnavailable(
                f"{tree} is configured with {option}=m, but the module {name} is not built; "
                f"build it with: make -C {tree} -j$(nproc) modules"
            )
    return found


def read_config(tree: Path) -> dict[str, str]:
    """The options that ``tree/.config`` sets, such as CONFIG_MPTCP, with their values."""
    config = tree / ".config"
    text = config.read_text(errors="replace") if config.is_file() else ""
    return kconfig.parse(text)


def _builtin(directory: Path) -> frozenset[str] | None:
    path = directory / BUILTIN
    return builtin_names(path.read_bytes()) if path.is_file() else None
