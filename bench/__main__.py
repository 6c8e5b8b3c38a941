# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark's command line: arguments in, tables out, and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bench import (
    baseline,
    figures,
    growth,
    lab,
    machine,
    measure,
    record,
    slowest,
    table,
    tools,
    waterfall,
)
from bench.baseline import Change, Trend
from bench.figures import Figure, Standing
from bench.lab import HostLab, Lab, Observation
from bench.measure import Observations, Times
from bench.runner import Failed
from bench.slowest import Taken
from harness.errors import KernelUnavailable
from harness.host.tools import ToolsMissing
from harness.manifest.kernels_yaml import ManifestError
from harness.verdict.results import Phase
from harness.verdict.verdicts import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
)

BASELINE = Path(__file__).with_name("baseline.json")
SVG = "waterfall.svg"

DESCRIPTION = """\
Measures the harness against a shell loop over virtme-ng and against QEMU alone, side by side, and
says which targets are met and which ratios are worse than in bench/baseline.json.
"""
EPILOG = """\
examples:
  python -m bench                                 everything
  python -m bench --samples 3 --only 'habit.*'    one comparison
  python -m bench --host-only                     what needs neither kernels nor QEMU
  python -m bench --kvm                           what a user with KVM waits for
  python -m bench --only step --tree ../linux     a step of git bisect

figures: {keys}

All of them take about 20 minutes on two processors without KVM. The machine should do nothing else.

exit status: 0 every target that could be measured is met, and no ratio is worse than in the
baseline; 1 otherwise; 2 wrong arguments; 3 a tool or a kernel is missing; 130 interrupted.
"""


class UsageError(Exception):
    """Arguments that cannot be worked with; exits with 2."""


@dataclass(frozen=True)
class Report:
    """What came of a run."""

    machine: str
    figures: tuple[Figure, ...]
    phases: tuple[Phase, ...]
    changes: tuple[Change, ...]
    checks: tuple[Taken, ...] = ()

    @property
    def good(self) -> bool:
        """Whether every target is met, and nothing got worse."""
        bad = (Standing.NOT_MET, Standing.FAILED)
        return not any(figure.standing in bad for figure in self.figures) and not any(
            change.trend is Trend.WORSE for change in self.changes
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    try:
        plans = measure.planned(lab.entries())
        given = _parser([plan.blank.key for plan in plans]).parse_args(argv)
        if given.growth:
            return grow(complain)
        kinds = measure.host_only() if given.host_only else plans
        chosen = _chosen(measure.with_kvm() if given.kvm else kinds, given.only)
        _check_writable(given.json, given.output)
        missing = tools.missing()
        times = Times(given.samples, given.many, given.cold)
        if given.host_only:
            report = run_on_host(chosen, times, complain)
        elif missing:
            raise ToolsMissing(missing)
        else:
            report = run(chosen, times, complain, given.tree)
        show(report)
        keep(report, given)
    except (UsageError, ManifestError) as error:
        complain(str(error))
        return EXIT_USAGE
    except (ToolsMissing, KernelUnavailable, Failed, OSError) as error:
        complain(str(error))
        return EXIT_INFRASTRUCTURE
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    return EXIT_OK if report.good else EXIT_FAILED


def grow(say: Callable[[str], None]) -> int:
    """Print what the harness costs as the work grows."""
    with tempfile.TemporaryDirectory(prefix="mptcp-bench-") as scratch:
        print(machine.describe(None), end="\n\n")
        print(growth.render(growth.measure(HostLab(Path(scratch), say), say)), end="")
    return EXIT_OK


def run(
    plans: Sequence[measure.Planned],
    times: Times,
    say: Callable[[str], None],
    tree: Path | None = None,
) -> Report:
    """Measure all of ``plans``; ``tree`` is a kernel tree for `step`."""
    earlier = _baseline()
    with tempfile.TemporaryDirectory(prefix="mptcp-bench-") as scratch:
        ready = Lab(Path(scratch), say, tree)
        described = machine.describe(ready.qemu)
        without = _unmeasurable(plans, ready)
        measurable = [plan for plan in plans if plan.blank.key not in without]
        subjects = measure.needed(measurable, measure.subjects(ready.entries, times))
        _warm_up(ready, subjects, say)
        seen, failures = measure.observe(subjects, ready, say)
    found = tuple(
        figures.unmeasured(plan.blank, without[plan.blank.key])
        if plan.blank.key in without
        else measure.figure(plan, seen, failures)
        for plan in plans
    )
    changes = tuple(baseline.changes(found, earlier))
    boot = _one_boot(seen)
    full = seen.of("full") or ([boot] if boot else [])
    checks = full[0].checks if full else ()
    return Report(described, found, boot.phases if boot else (), changes, checks)


def run_on_host(
    plans: Sequence[measure.Planned], times: Times, say: Callable[[str], None]
) -> Report:
    """Measure those of ``plans`` that need neither kernel nor QEMU."""
    with tempfile.TemporaryDirectory(prefix="mptcp-bench-") as scratch:
        subjects = measure.needed(plans, measure.host_subjects(times))
        # These subjects need no more than a HostLab.
        ready = cast(Lab, HostLab(Path(scratch), say))
        seen, failures = measure.observe(subjects, ready, say)
    found = tuple(measure.figure(plan, seen, failures) for plan in plans)
    return Report(machine.describe(None), found, (), ())


def show(report: Report) -> None:
    """Print what people read."""
    print(report.machine, end="\n\n")
    print(table.render(report.figures))
    if report.phases:
        print("One kernel, start to end, in seconds:", end="\n\n")
        print(waterfall.as_text(report.phases))
    if report.checks:
        print("The slowest checks, with their results, in seconds:", end="\n\n")
        print(slowest.as_text(report.checks))
    lines = [str(change) for change in report.changes]
    print(
        "Against the baseline:", *(lines or ["no ratio changed by more than its spread"]), sep="\n"
    )


def keep(report: Report, given: argparse.Namespace) -> None:
    """Write the files that were asked for."""
    if given.json is not None:
        changes = [str(change) for change in report.changes]
        text = record.as_json(report.figures, report.phases, changes, report.machine)
        given.json.write_text(text)
    if given.output is not None and report.phases:
        given.output.mkdir(parents=True, exist_ok=True)
        svg = waterfall.as_svg(report.phases, "One kernel, start to end")
        (given.output / SVG).write_text(svg)
    if given.update_baseline:
        merged = baseline.merged(_baseline(), baseline.ratios(report.figures))
        BASELINE.write_text(baseline.dump(merged, report.machine))


def complain(text: str) -> None:
    """Progress and complaints, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _baseline() -> dict[str, figures.Spread]:
    if not BASELINE.exists():
        return {}
    try:
        return baseline.load(BASELINE.read_text())
    except baseline.Unusable as error:
        raise UsageError(
            f"{BASELINE} is no baseline ({error}); remove it, and make it anew with "
            "--update-baseline"
        ) from error


def _chosen(plans: Sequence[measure.Planned], only: str | None) -> list[measure.Planned]:
    try:
        return measure.select(plans, [glob.strip() for glob in only.split(",")] if only else [])
    except ValueError as error:
        keys = ", ".join(plan.blank.key for plan in plans)
        raise UsageError(f"--only {str(error)!r} matches no figure; there are {keys}") from error


def _check_writable(json_file: Path | None, output: Path | None) -> None:
    """Better now than after twenty minutes."""
    if json_file is not None and (json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        raise UsageError(f"--json {json_file}: name a file in a directory that exists")
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"--output {output}: it is not a directory")


def _unmeasurable(plans: Sequence[measure.Planned], ready: Lab) -> dict[str, str]:
    """Why, by key."""
    found = {} if ready.tree else {"step": "give a kernel tree that step has built with --tree"}
    needing = {plan.blank.key for plan in measure.with_kvm()}
    if any(plan.blank.key in needing for plan in plans):
        why = ready.without_kvm()
        found |= dict.fromkeys(needing, why) if why else {}
    return found


def _warm_up(ready: Lab, subjects: Sequence[measure.Subject], say: Callable[[str], None]) -> None:
    """Run each kind of boot once, so that no first one pays for what the others find in memory."""
    kinds: dict[str, measure.Subject] = {}
    for subject in subjects:
        if subject.name.startswith(("harness.", "habit.", "floor.", "matrix")):
            kinds.setdefault(subject.name.partition(".")[0], subject)
    for subject in kinds.values():
        say(f"warming up: {subject.name}")
        with contextlib.suppress(Failed):  # it will fail again where it is measured
            subject.run(ready)


def _one_boot(seen: Observations) -> Observation | None:
    """The median run of the first kernel that was measured alone."""
    for name in (*(entry.name for entry in lab.entries()), "kvm"):
        runs = seen.of(f"harness.{name}")
        if runs:
            middle = statistics.median_high(run.run.seconds for run in runs)
            return next(run for run in runs if run.run.seconds == middle)
    return None


def _parser(keys: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=DESCRIPTION,
        epilog=EPILOG.format(keys=" ".join(keys)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    counts = (
        ("--samples", 5, "how often each thing is run, alternating with what it is compared with"),
        ("--many", 1, "how often sixty kernels are run, five minutes each"),
        ("--cold", 1, "how often kernels are fetched anew, half a gigabyte each"),
    )
    for option, default, what in counts:
        parser.add_argument(
            option, type=_count, default=default, metavar="N", help=f"{what} (default: {default})"
        )
    parser.add_argument(
        "--only", metavar="KEYS", help="only these figures, such as 'habit.*,reuse'"
    )
    parser.add_argument(
        "--host-only",
        action="store_true",
        help="only what needs neither kernels nor QEMU: queries over a generated year, starts of "
        "commands, and boots with a program in the place of QEMU; two minutes",
    )
    parser.add_argument(
        "--kvm", action="store_true", help="only what needs KVM, to be pasted: three minutes"
    )
    parser.add_argument(
        "--growth",
        action="store_true",
        help="only the cost of more kernels, rounds and stored runs, with stand-ins for QEMU",
    )
    parser.add_argument(
        "--tree", type=Path, metavar="DIR", help="a kernel tree that `step` has built, for `step`"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and samples there")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"write the waterfall of a boot there, as {SVG}"
    )
    parser.add_argument(
        "--update-baseline",
        action="store_true",
        help=f"put the measured ratios into bench/{BASELINE.name}",
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
