# SPDX-License-Identifier: GPL-2.0-only
"""Faults in net/mptcp, and which checks catch them.

    python -m bench.faults                      all faults: docs/detection.md
    python -m bench.faults --only tos_live,…    these faults, whatever is known of them
    python -m bench.faults --build              only build the kernel, and say where it is

Takes Debian's newest kernel source, puts the faults of bench/faults/data into it, builds one small
kernel, and boots it once for each fault. Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from bench.faults import catalogue, document, kernel, selftests, source
from bench.faults.catalogue import Fault
from bench.faults.shared_vm import TieredBoots
from bench.faults.sweep import ROOT, Boots, MatrixBoots, Sweep, SweepFailed
from harness.errors import KernelUnavailable
from harness.host import tools
from harness.kernels.cache import Cache

DOCUMENT = ROOT / "docs/detection.md"


def main(argv: Sequence[str] | None = None) -> int:
    given = _arguments(argv)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {line}", flush=True)

    given.directory.mkdir(parents=True, exist_ok=True)
    try:
        faults = catalogue.load()
        applied = catalogue.applied(faults)
        made = (applied, given.directory, Cache(), say, given.build_jobs)
        built = kernel.prepare(*made)
        say(f"the kernel is {built.image}")
        if given.build:
            return 0
        chosen = [f for f in applied if not given.only or f.name in given.only]
        if unknown := set(given.only) - {fault.name for fault in chosen}:
            raise SweepFailed(f"no fault is named {', '.join(sorted(unknown))}")
        kept = given.directory / "selftests.json"
        if given.selftests:
            programs = selftests.build(built.tree, given.directory)
            names = [fault.name for fault in chosen]
            selftests.keep(kept, selftests.run_all(built.image, programs, names, say))
        sweep = Sweep(_boots(built, chosen, given), given.directory / "outcomes.json", say)
        sweep.run(chosen, again=bool(given.only) or given.again)
        document.write(given.output, faults, sweep.outcomes, built, selftests.recall(kept))
        say(document.summary(applied, sweep.outcomes))
    except (catalogue.BadCatalogue, kernel.NotBuilt, source.NotApplied, SweepFailed) as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    except KernelUnavailable as error:
        print(f"faults: {error}", file=sys.stderr)
        return 3
    return 0


def _boots(built: kernel.FaultKernel, chosen: Sequence[Fault], given: argparse.Namespace) -> Boots:
    work = given.directory / "boots"
    if given.shared:
        return TieredBoots(built.image, work, given.jobs, chosen, everything=not given.near)
    return MatrixBoots(built, work, given.jobs, chosen)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    what = argparse.ArgumentParser(
        prog="bench.faults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    what.add_argument(
        "--only",
        metavar="NAMES",
        type=lambda text: text.split(","),
        default=[],
        help="only these faults, comma-separated; booted again even if known",
    )
    what.add_argument("--again", action="store_true", help="boot all faults again")
    what.add_argument(
        "--shared",
        action="store_true",
        help="several faults in one VM, and all checks only for what the nearest ones miss: for\n"
        "hosts without KVM, where a boot with all checks takes minutes",
    )
    what.add_argument(
        "--near",
        action="store_true",
        help="with --shared: not all checks for what those named for a fault and those of its\n"
        "group miss",
    )
    what.add_argument(
        "--selftests", action="store_true", help="run the kernel's own selftests, too"
    )
    what.add_argument("--build", action="store_true", help="only build the kernel")
    what.add_argument("-j", dest="jobs", type=int, default=2, metavar="N", help="VMs at a time")
    what.add_argument(
        *("--build-jobs",),
        type=int,
        default=tools.processors(),
        metavar="N",
        help="compilers at a time (default: the processors)",
    )
    what.add_argument(
        "--directory",
        type=lambda text: Path(text).absolute(),
        default=platformdirs.user_cache_path("mptcp-harness-faults"),
        metavar="DIR",
        help="where source, kernel and outcomes are kept; 4 GB (default: %(default)s)",
    )
    what.add_argument(
        *("--output",), type=Path, default=DOCUMENT, metavar="FILE", help="default: %(default)s"
    )
    return what.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
