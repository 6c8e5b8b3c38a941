# SPDX-License-Identifier: GPL-2.0-only
"""Modules that lie in a directory: installed ones, or those of a built tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from harness.kernels import kconfig, modules
from harness.kernels.modules import BUILTIN, NEEDED, Module, ModuleSet
from harness.kernels.prepared import KernelUnavailable

#: Where a build leaves its images.
_IMAGES = (PurePath("arch/x86/boot/bzImage"), PurePath("vmlinux"))


def is_tree(directory: Path) -> bool:
    """Whether ``directory`` is where a kernel was configured or built (also with O=)."""
    return (directory / ".config").is_file() or (
        directory / "include" / "config" / "kernel.release"
    ).is_file()


def tree_of(image: Path) -> Path | None:
    """The tree in which ``image``, a path without links, was built; None where it is in none."""
    for ending in _IMAGES:
        tree = image.parents[len(ending.parts) - 1 :][:1]
        if tree and image == tree[0] / ending and is_tree(tree[0]):
            return tree[0]
    return None


def find(given: Path, release: str) -> ModuleSet:
    """The modules of ``release`` for a boot, from what a user gave as their directory.

    That is a built tree, a root with lib/modules/RELEASE, or lib/modules/RELEASE itself.
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
        f"{given} holds no modules of {release}: {has}; give a built kernel tree, a directory "
        f"with lib/modules/{release} in it, or that directory itself"
    )


def installed_below(root: Path, release: str) -> tuple[Path, ...]:
    """Where the modules of ``release`` are below ``root``, if they are."""
    return (root / "lib" / "modules" / release, root / "usr" / "lib" / "modules" / release)


def of_directory(directory: Path) -> ModuleSet:
    """The modules for a boot in ``directory``, laid out as lib/modules/RELEASE."""
    paths: dict[str, Path] = {}
    # No links are followed: "build" and "source" lead to a whole kernel tree.
    for parent, _, names in os.walk(directory):
        for name in names:
            module = modules.module_name(name)
            if module is not None:
                paths.setdefault(module, Path(parent, name))

    def fetch(names: frozenset[str]) -> Iterator[Module]:
        for name in sorted(names & paths.keys()):
            path = paths[name]
            yield modules.load(path.relative_to(directory).as_posix(), path.read_bytes())

    return ModuleSet(modules.collect(fetch), _builtin(directory), (directory,))


def of_tree(tree: Path) -> ModuleSet:
    """The modules for a boot that were built in ``tree``; none where all is built in.

    Raises KernelUnavailable when .config wants modules for the boot that are not there.
    """
    order = tree / "modules.order"
    paths: dict[str, str] = {}
    for line in order.read_text(errors="replace").splitlines() if order.is_file() else ():
        # "drivers/char/x.o" from 6.2 on (commit f65a486821cf), "drivers/char/x.ko" before, and
        # with "kernel/" in front in the oldest.
        path = line.removeprefix("kernel/").removesuffix(".o").removesuffix(".ko") + ".ko"
        paths[modules.module_name(path) or path] = path

    def fetch(names: frozenset[str]) -> Iterator[Module]:
        for name in sorted(names & paths.keys()):
            file = tree / paths[name]
            if file.is_file():
                yield modules.load(paths[name], file.read_bytes())

    found = ModuleSet(modules.collect(fetch), _builtin(tree), (tree,))
    config = read_config(tree)
    built = {module.name for module in found.modules}
    # A guest that stays silent for want of one explains nothing.
    for name, option in NEEDED.items():
        if config.get(option) == "m" and name not in built:
            raise KernelUnavailable(
                f"{tree} is configured with {option}=m, but the module {name} is not built; "
                f"build it with: make -C {tree} -j$(nproc) modules"
            )
    return found


def read_config(tree: Path) -> dict[str, str]:
    """The options that ``tree/.config`` sets, such as CONFIG_MPTCP, to their text."""
    config = tree / ".config"
    text = config.read_text(errors="replace") if config.is_file() else ""
    return kconfig.parse(text)


def _builtin(directory: Path) -> frozenset[str] | None:
    path = directory / BUILTIN
    return modules.builtin_names(path.read_bytes()) if path.is_file() else None
