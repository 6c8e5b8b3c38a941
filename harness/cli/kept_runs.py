# SPDX-License-Identifier: GPL-2.0-only
"""``report``, ``merge`` and ``replay``: what earlier runs left."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from harness import bundle, replay
from harness.bundle import Bundle
from harness.cli import arguments
from harness.cli.common import check_writable, complain, globs, say, stopping, write
from harness.errors import UsageError
from harness.kernels import Cache
from harness.records import stored_runs, to_json
from harness.report import flakes, junit, kcidb, ktap, markdown
from harness.report import replay as report
from harness.run import workspace
from harness.verdict.failures import conclude
from harness.verdict.results import RunResult
from harness.verdict.verdicts import EXIT_INTERRUPTED, EXIT_OK


def _to_html(run: RunResult) -> str:
    from harness.cli import pages  # the template engine takes longer than the other formats

    return pages.of_run(run, workspace.store_file())


FORMATS: Mapping[str, Callable[[RunResult], str]] = {
    "html": _to_html,
    "junit": junit.to_junit,
    "ktap": ktap.to_ktap,
    "json": to_json.to_json,
    "markdown": markdown.to_markdown,
    "kcidb": kcidb.to_kcidb,
}


#: The one format with more than one run.
FLAKES = "flakes"


def add_report(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "report", run_report)
    command.add_argument(
        "run_name",
        nargs="?",
        default=stored_runs.LAST,
        metavar="RUN",
        help=f"{arguments.RUN_HELP} (default: last)",
    )
    command.add_argument(
        "--format",
        choices=sorted([*FORMATS, FLAKES]),
        default="markdown",
        help=f"format of the report (default: markdown); {FLAKES} lists the results that did not "
        f"pass in the last {flakes.RUNS} runs up to RUN, for the results page of the MPTCP "
        "project's CI",
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the report to FILE (default: standard output)",
    )
    command.add_argument(
        "--site",
        type=Path,
        metavar="DIR",
        help="instead of one report, write a page for each stored run and an index to DIR, for a "
        "web server; the next call writes only the pages of new runs",
    )


def run_report(given: argparse.Namespace) -> int:
    """Write the run in another format; the status does not depend on its verdicts."""
    if given.site is not None:
        return _write_site(given)
    place = workspace.store_file()
    if given.format == FLAKES:
        text = flakes.to_flakes(stored_runs.failures(given.run_name, place, flakes.RUNS))
    else:
        text = FORMATS[given.format](stored_runs.find(given.run_name, place))
    if given.output is None:
        sys.stdout.buffer.write(text.encode("utf-8"))  # all of these are UTF-8 by definition
        return EXIT_OK
    write("--output", given.output, text, "name another file")
    return EXIT_OK


def _write_site(given: argparse.Namespace) -> int:
    from harness.cli import site  # the template engine takes longer than the other formats

    if given.output is not None or given.run_name != stored_runs.LAST:
        raise UsageError("--site writes all kept runs: omit RUN and --output")
    say(site.write_site(given.site, workspace.store_file()))
    return EXIT_OK


def add_merge(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "merge", run_merge)
    command.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="a file written by --json, or a run's directory, whose consoles and events are copied",
    )
    command.add_argument(
        "--allow",
        metavar="WHAT",
        action=arguments.Patterns,
        help="merge although something is wrong: missing (kernels without a result), doubled "
        "(kernels with two; the worse one counts), or a different harness, seed, manifest or "
        "settings; several are separated by commas",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page for a browser to FILE"
    )
    arguments.add_output(command)


def run_merge(given: argparse.Namespace) -> int:
    """Merge the runs; table, files and exit status are those of one run."""
    from harness.cli import ci, matrix
    from harness.run import merging

    words = globs(given.allow) if given.allow else []
    if unknown := [word for word in words if word not in {*merging.Flaw}]:
        known = ", ".join(merging.Flaw)
        raise UsageError(f"--allow {given.allow}: {unknown[0]!r} is not one of {known}")
    check_writable(given.json)
    check_writable(given.html, "--html")
    parts = [merging.read(path) for path in given.runs]
    run = merging.merge(
        parts, [*map(merging.Flaw, words)], given.output, workspace.store_place(given.output)
    )
    with ci.no_commands():
        matrix.show(run, given.json)
    return matrix.finish(run, given)


#: The default number of boots of each variation.
TIMES = 3


def add_replay(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "replay", run_replay)
    command.add_argument(
        "bundle", type=Path, help="kernels/NAME/NAME.bundle.tar.zst in a run's directory"
    )
    command.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="the image, if the bundle has none (default: found by its hash)",
    )
    command.add_argument(
        "--vary",
        action="store_true",
        help="also boot under the other accelerator, with one and two processors, and with another "
        "QEMU; report whether the failure depends on the kernel, the timing or the environment",
    )
    command.add_argument(
        "--times",
        type=arguments.Number(1, 1000),
        metavar="N",
        help=f"number of boots of each variation (default: 1, with --vary {TIMES})",
    )
    command.add_argument(
        "--qemu",
        type=Path,
        metavar="FILE",
        help="another qemu-system-x86_64 (default: the one in PATH); --vary uses both",
    )
    arguments.add_output(command)


def run_replay(given: argparse.Namespace) -> int:
    """Boot the bundle's kernel again, and compare the results."""
    found = bundle.load(given.bundle)
    cache = Cache(given.cache)
    times = given.times or (TIMES if given.vary else 1)
    request = replay.ReplayRequest(given.image, given.qemu, given.vary, times)
    say(_about(found))
    with (
        stopping(cache.stop) as stop,
        workspace.opened(
            given.output, cache, user_spaces=[found.entry.user_space], say=say
        ) as place,
    ):
        tried = replay.run(
            *(found, request, place, cache, say),
            lambda row: print(report.line(row), flush=True),
            stop,
        )
        stopped = stop.is_set()
    if given.vary:
        print("", report.table(tried, conclude(tried)), sep="\n")
    else:
        print(report.summary(tried))
    say(f"consoles and events: {place.directory}")
    if stopped:
        complain("interrupted before all boots were made")
        return EXIT_INTERRUPTED
    return replay.exit_status(tried)


def _about(found: Bundle) -> str:
    failed = f"{found.entry.name} ({found.result.release}, seed {found.asked.seed})"
    return f"{failed} failed on {found.created:%Y-%m-%d}: {found.result.reason}"
