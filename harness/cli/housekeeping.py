# SPDX-License-Identifier: GPL-2.0-only
"""``doctor``, ``selftest`` and ``prune``: the host, the harness itself, and the files it keeps."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness import selftest
from harness.cli import arguments
from harness.cli.common import chosen, fleet_of, say, stopping
from harness.errors import UsageError
from harness.host import architectures, toolchain, tools
from harness.host.architectures import Arch
from harness.kernels import Cache
from harness.manifest import kernels_yaml
from harness.manifest.entries import GitSource
from harness.records import prune
from harness.run import session, workspace
from harness.selftest import faults
from harness.text import plural, printable
from harness.verdict.verdicts import EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED, EXIT_OK
from harness.vm import process

if TYPE_CHECKING:
    from harness.run.fleet_worker import About
    from harness.run.request import Fleet


def run_doctor(given: argparse.Namespace) -> int:
    """Show what this host lacks, and the command that installs it."""
    cache = Cache(given.cache).root
    kept = prune.doctor(cache, workspace.runs_directory(), workspace.store_file())
    host = tools.doctor(cache, _archs(given.manifest))
    builds = map(toolchain.doctor, _compilers(given.manifest))
    findings = (*host, process.doctor(), *builds, *kept)
    if (wanted := fleet_of(given)) is not None:
        findings = _of_fleet(wanted, Cache(given.cache))
    for finding in findings:
        what = " ".join(word for word in (finding.found, finding.version) if word)
        print(f"{finding.standing:8} {finding.subject:22} {printable(what)}")
        if finding.remedy:
            print(f"{'':31} {printable(finding.remedy)}")
    lacking = any(finding.standing is tools.Standing.MISSING for finding in findings)
    return EXIT_INFRASTRUCTURE if lacking else EXIT_OK


def _archs(manifest: Path | None) -> frozenset[Arch]:
    """The architectures of the manifest's kernels, or of ./kernels.yaml if there is one."""
    if manifest is not None:
        return frozenset(entry.arch for entry in kernels_yaml.load(manifest).entries)
    return architectures.named_in(Path("kernels.yaml"))


def _compilers(manifest: Path | None) -> list[str]:
    """gcc, which `step` needs, and the other compilers of the manifest's kernels from git."""
    entries = kernels_yaml.load(manifest).entries if manifest is not None else ()
    named = {e.source.compiler for e in entries if isinstance(e.source, GitSource)}
    return [toolchain.GCC, *sorted(named - {toolchain.GCC})]


def _of_fleet(wanted: Fleet, cache: Cache) -> tuple[tools.Finding, ...]:
    """A finding for each worker, compared with this host. Raises HostError."""
    from harness.run import fleet_workers

    with tempfile.TemporaryDirectory() as place:
        with workspace.opened(Path(place, "run"), cache, say=say) as found:
            versions = session.about_run(found)
        with stopping(cache.stop) as stop:
            workers = fleet_workers.survey(wanted, versions, stop)
    if not workers:
        remedy = "start `dask worker` with --resources vm=N"
        missing = tools.Standing.MISSING
        return (tools.Finding("fleet", missing, "no worker", remedy=remedy),)
    return tuple(_of_worker(about, why) for about, why in workers)


def _of_worker(about: About | None, why: str) -> tools.Finding:
    if about is None:
        return tools.Finding("worker", tools.Standing.MISSING, "no answer", remedy=why)
    found = (
        f"{about.host}: {plural(about.vms, 'VM')} at a time, {'KVM' if about.kvm else 'no KVM'}, "
        f"{plural(about.processors, 'processor')}, {about.memory_mib} MiB free"
    )
    standing = tools.Standing.MISSING if why else tools.Standing.OK
    return tools.Finding("worker", standing, found, remedy=why)


def run_prune(given: argparse.Namespace) -> int:
    """Remove what was not used for a long time, and print what was removed."""
    runs = workspace.runs_directory()
    removed = prune.prune(Cache(given.cache), runs, given.keep, dry_run=given.dry_run)
    for item in removed:
        if item.kind == prune.LOCKS:  # hundreds of empty files: only the total is printed
            continue
        path = printable(str(item.paths[0]))
        print(
            f"{prune.mebibytes(item.size):>12}  {'obsolete' if item.obsolete else 'old':8}  {path}"
        )
    stored = prune.prune_store(workspace.store_file(), given.keep, dry_run=given.dry_run)
    kinds = (*prune.KINDS, prune.LEFT, *prune.KEPT, prune.LOCKS)
    totals = [*(prune.total(removed, kind) for kind in kinds), stored]
    what = prune.summary(totals) or "nothing"
    size = sum(kind.size for kind in totals)
    print(f"{'would be removed' if given.dry_run else 'removed'}: {what}; {size} bytes")
    return EXIT_OK


def add_doctor(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "doctor", run_doctor)
    command.add_argument(
        "manifest",
        type=Path,
        nargs="?",
        help="also check the tools for this manifest's kernels of other architectures and from git "
        "(default: ./kernels.yaml if it exists, for the architectures only)",
    )
    arguments.add_fleet(
        command, "also show the workers of this Dask scheduler, such as tls://lab:8786"
    )


def add_prune(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "prune", run_prune)
    command.add_argument(
        "--keep",
        type=arguments.seconds_of,
        default="30d",
        metavar="AGE",
        help="keep kernels, results and runs that were used within AGE, such as 12h, 30d or 2w "
        "(default: 30d)",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="list what would be removed, and remove nothing"
    )


def run_selftest(given: argparse.Namespace) -> int:
    """Boot a good kernel with one fault after another, and verify that each is detected."""
    started = time.monotonic()
    cache = Cache(given.cache)
    try:
        wanted = selftest.select(given.only)
    except UsageError as error:
        raise UsageError(f"--only: {error}") from None
    entries = chosen(given, cache)
    request = selftest.SelftestRequest(
        wanted, bool(given.kernels), given.jobs, given.accel, given.output
    )

    def say(text: str) -> None:
        print(printable(text), flush=True)

    with stopping(cache.stop) as stop:
        rows = selftest.run(
            entries,
            request,
            cache,
            say,
            lambda row: print(faults.line(row), flush=True),
            stop,
        )
    print(faults.summary(rows, len(wanted) + 1, time.monotonic() - started))
    return EXIT_INTERRUPTED if stop.is_set() else selftest.exit_status(rows, request)


def add_selftest(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "selftest", run_selftest)
    arguments.add_manifest(command)
    command.add_argument(
        "--kernel",
        dest="kernels",
        metavar="NAME",
        help="boot this kernel of the manifest (default: the newest that passes)",
    )
    command.add_argument("--only", metavar="FAULT,...", help="only these faults (default: all)")
    arguments.add_resources(command)
    arguments.add_output(command)
