# SPDX-License-Identifier: GPL-2.0-only
"""Faults in net/mptcp, and which checks catch them.

    python -m bench.faults                      all faults: docs/detection.md
    python -m bench.faults --only tos_live,…    these faults, whatever is known of them
    python -m bench.faults --selftests          the kernel's own selftests with all faults
    python -m bench.faults --coverage           lines and branches of net/mptcp that are run
    python -m bench.faults --chance 150         faults chosen by chance, not from the catalogue
    python -m bench.faults --build              only build the kernel, and say where it is

Takes Debian's newest kernel source, puts the faults of bench/faults/data into it, builds one small
kernel, and boots it once for each fault. Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs

from bench.coverage import figures, measure
from bench.coverage.counters import NoCounters
from bench.faults import catalogue, chance, document, kernel, selftests, source
from bench.faults.catalogue import Fault
from bench.faults.shared_vm import SharedBoots, TieredBoots
from bench.faults.sweep import ROOT, Boots, MatrixBoots, Sweep, SweepFailed, abis
from harness.errors import HostError, KernelUnavailable
from harness.host import tools
from harness.kernels.cache import Cache

DOCUMENT = ROOT / "docs/detection.md"
OUTCOMES = "outcomes.json"
Say = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    given = _arguments(argv)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {line}", flush=True)

    given.directory.mkdir(parents=True, exist_ok=True)
    try:
        faults = catalogue.load()
        if given.coverage:
            _measure(given, faults, say)
        elif given.chance:
            _sweep_by_chance(given, say)
        else:
            _sweep(given, faults, say)
    except (catalogue.BadCatalogue, kernel.NotBuilt, source.NotApplied, SweepFailed) as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    except (NoCounters, KernelUnavailable, HostError) as error:
        print(f"faults: {error}", file=sys.stderr)
        return 3
    return 0


def _sweep(given: argparse.Namespace, faults: Sequence[Fault], say: Say) -> None:
    applied = catalogue.applied(faults)
    built = kernel.prepare(applied, given.directory, Cache(), say, given.build_jobs)
    say(f"the kernel is {built.image}")
    if given.build:
        return
    chosen = [f for f in applied if not given.only or f.name in given.only]
    if unknown := set(given.only) - {fault.name for fault in chosen}:
        raise SweepFailed(f"no fault is named {', '.join(sorted(unknown))}")
    sweep = Sweep(_boots(built, chosen, given), given.directory / OUTCOMES, say)
    if given.selftests:
        programs = selftests.build(built.tree, given.directory)
        names = [fault.name for fault in chosen]
        selftests.keep(selftests.run_all(built.image, programs, names, say))
    else:
        sweep.run(chosen, again=bool(given.only) or given.again)
    kept = (selftests.recall(), figures.recall())
    document.write(given.output, faults, sweep.outcomes, built, *kept)
    say(document.summary(applied, sweep.outcomes))


def _sweep_by_chance(given: argparse.Namespace, say: Say) -> None:
    """Writes no document: a person judges first which of the missed faults can be seen at all."""
    cache, directory = Cache(), given.directory
    tree = kernel.unpacked(kernel.newest(cache, say), directory, cache, say)
    faults = chance.choose(source.reader(tree), given.chance, given.seed)
    built = kernel.prepare(faults, directory, cache, say, given.build_jobs)
    say(f"the kernel is {built.image}")
    if given.build:
        return
    boots = SharedBoots(built.image, directory / "boots", given.jobs, {}, abis(faults))
    kept = directory / f"chance-{given.chance}-{given.seed}.json"
    sweep = Sweep(boots, kept, say)
    sweep.run(faults, again=given.again)
    missed = [fault for fault in faults if not sweep.outcomes[fault.name].caught]
    for fault in missed:
        say(f"missed: {fault.sees}")
    say(f"{len(faults) - len(missed)} of {len(faults)} caught; outcomes: {kept}")


def _measure(given: argparse.Namespace, faults: Sequence[Fault], say: Say) -> None:
    """Boots no fault: of the document only the section on coverage is written."""
    cache, directory = Cache(), given.directory
    package = kernel.newest(cache, say)
    built = measure.build(package, directory, cache, say, given.build_jobs)
    verdict, by_checks = measure.with_checks(built, directory / "coverage-checks", cache, say)
    found, by_selftests = measure.with_selftests(built, directory, say)
    say(f"selftests: {', '.join(found[0].failed) or 'none'} failed")
    name = f"{package.name} {package.version}"
    measured = figures.Measured(name, verdict, figures.of(by_checks), figures.of(by_selftests))
    figures.keep(measured)
    idle = directory / "never-run.txt"
    idle.write_text("\n".join(figures.never_run(by_checks, built.tree)) + "\n")
    say(f"lines that no check runs: {idle}")
    given.output.write_text(document.with_coverage(given.output.read_text(), measured))


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
        "--selftests",
        action="store_true",
        help="run the kernel's own selftests instead of the checks",
    )
    what.add_argument(
        "--coverage",
        action="store_true",
        help="no faults: measure which lines and branches of net/mptcp the checks run, and which\n"
        "the kernel's own selftests",
    )
    what.add_argument(
        "--chance",
        type=int,
        default=0,
        metavar="N",
        help="instead of the catalogue's, N faults chosen by chance: conditions turned round,\n"
        "statements left out, errors returned as success; all checks for each",
    )
    what.add_argument(
        "--seed", type=int, default=1, metavar="S", help="of --chance: another choice (default: 1)"
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
