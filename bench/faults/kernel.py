# SPDX-License-Identifier: GPL-2.0-only
"""The kernel that holds all faults: Debian's newest source, patched, built once for its content."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from bench.faults import source
from bench.faults.catalogue import DATA, Fault
from harness.host import toolchain, tools
from harness.kernels import apt, kconfig
from harness.kernels.cache import Cache, digest
from harness.kernels.debian import Package

SUITE = "trixie-backports"
_PACKAGE = re.compile(r"linux-source-(\d+)\.(\d+)")
_IMAGE = Path("arch/x86/boot/bzImage")
Say = Callable[[str], None]


class NotBuilt(Exception):
    """There is no kernel; a sentence with what to do."""


@dataclass(frozen=True)
class FaultKernel:
    """``image`` has every fault in it; ``release`` and ``package`` say of which source.

    ``tree`` is what it was built from.
    """

    image: Path
    release: str
    package: str
    tree: Path


def prepare(
    faults: Sequence[Fault], directory: Path, cache: Cache, say: Say, jobs: int
) -> FaultKernel:
    """The kernel with ``faults`` below ``directory``, built unless it is there already.

    Raises NotBuilt, source.NotApplied and KernelUnavailable.
    """
    package = newest(cache, say)
    fragment = kconfig.fragment() + (DATA / "kernel.config").read_text()
    code = Path(source.__file__).read_text()
    edits = [(fault.name, [asdict(edit) for edit in fault.edits]) for fault in faults]
    key = digest([package.sha256, edits, fragment, code, toolchain.version()])
    name = f"{package.name} {package.version}"
    release = package.version.partition("-")[0]
    image = directory / "images" / key / "bzImage"
    tree = unpacked(package, directory, cache, say)
    if not image.exists():
        say(f"putting {len(faults)} faults into {name}")
        source.apply(faults, tree)
        built = build(tree, fragment, directory, say, jobs)
        image.parent.mkdir(parents=True, exist_ok=True)
        new = image.with_name("new")
        shutil.copy(built, new)
        new.replace(image)
    return FaultKernel(image, release, name, tree)


def newest(cache: Cache, say: Say) -> Package:
    """Debian's newest package of the kernel's source."""
    found = apt.find(SUITE, "linux-source-*", cache, say)
    by_version = {
        (int(match[1]), int(match[2])): package
        for name, package in found.items()
        if (match := _PACKAGE.fullmatch(name))
    }
    if not by_version:
        raise NotBuilt(f"the suite {SUITE} has no package linux-source-N.M")
    return by_version[max(by_version)]


def unpacked(package: Package, directory: Path, cache: Cache, say: Say) -> Path:
    """The source of ``package``, unpacked below ``directory``."""
    tree = directory / f"{package.name}_{package.version}"
    if tree.exists():
        return tree
    work = directory / "unpacking"
    shutil.rmtree(work, ignore_errors=True)
    (work / "tree").mkdir(parents=True)
    say(f"fetching {package.name} {package.version}, {package.size >> 20} MiB")
    deb = apt.download(SUITE, [package], work, cache)[package.name]
    _run(["dpkg-deb", "-x", str(deb), "package"], work)
    archive = next((work / "package/usr/src").glob(f"{package.name}.tar.*"))
    _run(["tar", "-xf", str(archive), "-C", "tree", "--strip-components=1"], work)
    (work / "tree").rename(tree)
    shutil.rmtree(work)
    return tree


def build(tree: Path, fragment: str, directory: Path, say: Say, jobs: int) -> Path:
    """Configure ``tree`` as ``fragment`` says, where it is not yet, and make its image."""
    log = directory / "build.log"
    compiler, environment = _environment(directory)
    configured = tree / ".configured-with"
    with log.open("w") as output:
        if not configured.exists() or configured.read_text() != fragment:
            wanted = directory / "fragment"
            wanted.write_text(fragment)
            say("configuring it")
            _logged(["vng", "--kconfig", "--config", str(wanted)], tree, environment, output)
            configured.write_text(fragment)
        say(f"building it; log: {log}")
        (tree / _IMAGE).unlink(missing_ok=True)
        make = ["nice", "-n", "10", "make", f"-j{jobs}", *compiler, "bzImage"]
        _logged(make, tree, environment, output)
    return tree / _IMAGE


def _environment(directory: Path) -> tuple[list[str], dict[str, str]]:
    """What make(1) is told of the compiler, and the environment: nothing of the user's."""
    compiler, cached = toolchain.ccache(os.environ)
    environment = {**os.environ, **cached, "PATH": tools.virtme_ng_path(), "LC_ALL": "C"}
    environment |= {"HOME": str(directory), "KBUILD_BUILD_TIMESTAMP": "@0"}
    return compiler, environment


def _logged(command: Sequence[str], tree: Path, environment: dict[str, str], log: IO[str]) -> None:
    run = subprocess.run(command, cwd=tree, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if run.returncode != 0:
        raise NotBuilt(f"`{' '.join(command)}` ended with status {run.returncode}; see the log")


def _run(command: Sequence[str], directory: Path) -> None:
    run = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if run.returncode != 0:
        raise NotBuilt(f"`{' '.join(command)}` failed: {run.stderr.strip()}")
