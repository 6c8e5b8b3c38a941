# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that counts what it executes, and its two boots: with the checks, with the selftests.

The counting kernel is Debian's newest source, unmodified but for net/mptcp/Makefile, in the
configuration of the kernel with faults. It is booted by the harness as any other; only the files
beside the checker differ: see in_guest.py and dump.sh.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.coverage import counters, in_guest
from bench.coverage.counters import NoCounters, SourceFile
from bench.faults import kernel as builder
from bench.faults import selftests
from bench.faults.catalogue import DATA
from harness import kernels
from harness.host import tools
from harness.kernels import Cache, kconfig
from harness.kernels.debian import Package
from harness.manifest import kernels_yaml
from harness.manifest.kernels_yaml import Accel
from harness.manifest.known_issues import KnownIssues
from harness.run import workspace
from harness.run.attempts import Attempts, Options
from harness.run.request import RunRequest
from harness.vm import accelerator, initramfs

Say = Callable[[str], None]
MANIFEST = Path(__file__).resolve().parent.parent.parent / "kernels.yaml"
DUMP = Path(__file__).with_name("dump.sh")
#: Seconds; the counters take their time over a serial line, too.
TIMEOUT_S = 900
_MAKEFILE = "net/mptcp/Makefile"
_PROFILE = "GCOV_PROFILE := y\n"
_FRAGMENT = """\
# counts what is executed
CONFIG_DEBUG_FS=y
CONFIG_GCOV_KERNEL=y
# CONFIG_GCOV_PROFILE_ALL is not set
"""


@dataclass(frozen=True)
class CountingKernel:
    """``tree`` is what ``image`` was built from; the compiler's notes are in it."""

    image: Path
    tree: Path


def build(package: Package, directory: Path, cache: Cache, say: Say, jobs: int) -> CountingKernel:
    """Raises NotBuilt and KernelUnavailable."""
    # A tree of its own: that of the faults has other lines.
    place = directory / "coverage"
    place.mkdir(parents=True, exist_ok=True)
    tree = builder.unpacked(package, place, cache, say)
    makefile = tree / _MAKEFILE
    if _PROFILE not in makefile.read_text():
        makefile.write_text(_PROFILE + makefile.read_text())
    fragment = kconfig.fragment() + (DATA / "kernel.config").read_text() + _FRAGMENT
    return CountingKernel(builder.build(tree, fragment, place, say, jobs), tree)


def with_checks(
    kernel: CountingKernel, work: Path, cache: Cache, say: Say
) -> tuple[str, Mapping[str, SourceFile]]:
    """The verdict, and its reason, of a boot with all checks in both families, and what ran."""
    known = kernels_yaml.load(MANIFEST).entries[0].known_issues
    entry = replace(kernels_yaml.for_image(kernel.image), timeout_s=TIMEOUT_S, known_issues=known)
    stop = threading.Event()
    extra = {
        f"{initramfs.CHECKER}/__main__.py": Path(in_guest.__file__).read_bytes(),
        "opt/dump.sh": DUMP.read_bytes(),
    }
    shutil.rmtree(work, ignore_errors=True)
    with workspace.opened(work, cache) as place:
        prepared = kernels.prepare(entry, cache, say)
        remembered = cache.root / "kvm.json"
        choice = accelerator.choose(Accel.AUTO, prepared, place.qemu, remembered, say, stop)
        options = Options(
            directory=place.directory,
            roots=place.roots,
            qemu=place.qemu,
            seed=1,
            jobs=2 * tools.processors(),  # makes the deadlines longer
            request=RunRequest(),
            known=KnownIssues.read([entry]),
            extra=extra,
        )
        result = Attempts(entry, prepared, choice.kvm, options, lambda _: None, stop).run()
        assert result is not None, "nobody stops it"
        say(f"checks: {result.verdict}: {result.reason}")
        if not result.attempts or not result.attempts[-1].console:
            raise NoCounters(f"the boot with the checks: {result.reason}")
        console = (place.directory / result.attempts[-1].console).read_text(errors="replace")
    found = counters.read_console(console.splitlines())
    said = f"{result.verdict}, {result.reason}" if result.reason else result.verdict.value
    return said, counters.read(kernel.tree, found, work / "gcov")


def with_selftests(
    kernel: CountingKernel, directory: Path, say: Say
) -> tuple[list[selftests.Found], Mapping[str, SourceFile]]:
    """What the kernel's own selftests say of it, and what ran."""
    programs = selftests.build(kernel.tree, directory)
    lines: list[str] = []
    extra = {"dump.sh": DUMP.read_bytes()}
    found = selftests.run_all(kernel.image, programs, [], say, extra, lines.append)
    counted = counters.read_console(lines)
    return found, counters.read(kernel.tree, counted, directory / "gcov-selftests")
