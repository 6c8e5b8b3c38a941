# SPDX-License-Identifier: GPL-2.0-only
"""The table at the end of a run. :mod:`harness.report.details` renders what is below it.

All foreign text is escaped and passed to rich as Text, which interprets no markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from harness.manifest.expectations import CAPABILITIES, OF_SCENARIOS
from harness.report.details import kernel_details
from harness.report.terminal import ASCII, UNICODE, Glyphs, style_of
from harness.text import plural
from harness.verdict.results import EarlierRun, KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict

#: Below this width, verdicts would be cut; a narrower terminal wraps the lines itself.
MIN_WIDTH = 72
#: A guest must not decide the number of columns.
MAX_CAPABILITIES = 16
#: Kernels named in one line, if more are alike.
MAX_NAMES = 4
#: Capabilities without a column of their own; one column counts them.
MINOR = tuple(spec.name for spec in CAPABILITIES.values() if spec.minor)
#: Kernels of one host that are named.
FEW = 6


def render(run: RunResult, *, width: int, colour: bool, unicode: bool) -> str:
    """The table of ``run``, the failures of each kernel, and a summary line.

    ``width`` is in columns. ``colour`` writes terminal escapes, ``unicode`` more than ASCII.
    """
    glyphs = UNICODE if unicode else ASCII
    console = _console(max(width, MIN_WIDTH), colour=colour)
    console.print(Group(*_report(run, glyphs, console)), crop=False)
    assert isinstance(console.file, StringIO)
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())


def _console(width: int, *, colour: bool) -> Console:
    """A console that ignores the environment."""
    return Console(
        file=StringIO(),
        width=width,
        height=100,  # without it, rich ignores the width if TERM is dumb
        color_system="standard" if colour else None,
        force_terminal=colour,
        force_interactive=False,
        force_jupyter=False,
        no_color=False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _report(run: RunResult, glyphs: Glyphs, console: Console) -> Iterator[RenderableType]:
    if run.kernels or run.missing:
        names = _capability_names(run.kernels)
        table = _fitting(run, names, glyphs, console)
        yield from _flags(table, names, glyphs, console)
        yield table
        yield ""
        lacking = list(_lacking(run.kernels, glyphs))
        if lacking:
            yield from lacking
            yield ""
    for kernel in run.kernels:
        details = list(kernel_details(run, kernel, glyphs))
        if details:
            yield from details
            yield ""
    for note in run.notes:
        yield Text(f"note: {glyphs.safe(note, 1024)}")
    yield from _hosts(run, glyphs)
    yield _summary(run, glyphs)
    yield from _reused(run, glyphs)
    yield _setting(run, glyphs)


def _capability_names(kernels: Sequence[KernelResult]) -> list[str]:
    reported = dict.fromkeys(name for kernel in kernels for name in kernel.capabilities)
    if not reported:
        return []
    lacked = {name for kernel in kernels for name, has in kernel.capabilities.items() if not has}
    hidden = {*MINOR, *({"mptcp_ipv6"} - lacked)}  # otherwise the family's column shows the same
    own = [name for name in CAPABILITIES if name not in hidden]
    others = sorted(reported.keys() - CAPABILITIES.keys() - OF_SCENARIOS)
    return [*own, *others][:MAX_CAPABILITIES]


def _fitting(run: RunResult, names: Sequence[str], glyphs: Glyphs, console: Console) -> Table:
    """The widest table that fits; if none does, the narrowest, with folded names."""
    unbounded = console.options.update_width(1000)
    for gap, counted in ((2, True), (1, True), (1, False)):
        table = _table(run, names, glyphs, gap=gap, counted=counted)
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    return table


def _table(
    run: RunResult, names: Sequence[str], glyphs: Glyphs, *, gap: int, counted: bool
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    table.add_column("kernel", overflow="fold")
    table.add_column("release", overflow="fold")
    table.add_column(_leaders(names, glyphs), no_wrap=True)
    if counted:
        table.add_column("options", no_wrap=True, justify="right")
    table.add_column("IPv4", no_wrap=True)
    table.add_column("IPv6", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("seconds", no_wrap=True, justify="right")
    for kernel in run.kernels:
        table.add_row(
            Text(glyphs.safe(kernel.name, 64)),
            Text(_release(kernel, glyphs)),
            _marks(kernel, names, glyphs),
            *([_count(kernel, glyphs)] if counted else []),
            _family(kernel, Family.IPV4, glyphs),
            _family(kernel, Family.IPV6, glyphs),
            _verdict(kernel),
            _seconds(kernel, glyphs),
        )
    for name in run.missing:
        unknown = Text(glyphs.unknown, style="dim")
        marks = Text(" ".join(glyphs.unknown for _ in names), style="dim")
        shown = Text(glyphs.safe(name, 64))
        missing = Text("missing", style="bold red")
        count = [unknown] if counted else []
        table.add_row(shown, unknown, marks, *count, unknown, unknown, missing, unknown)
    return table


def _release(kernel: KernelResult, glyphs: Glyphs) -> str:
    """The release, with the ABI of the user space unless it is the kernel's own."""
    shown = glyphs.safe(kernel.release, 64) or glyphs.unknown
    return shown if kernel.abi == "native" else f"{shown}, {glyphs.safe(kernel.abi, 16)}"


def _verdict(kernel: KernelResult) -> Text:
    shown = Text(kernel.verdict, style=style_of(kernel.verdict))
    return shown.append(f", {len(kernel.known)} known" if kernel.known else "", style="yellow")


def _seconds(kernel: KernelResult, glyphs: Glyphs) -> Text:
    if kernel.reused_from is not None:
        return Text("reused", style="dim")
    seconds = kernel.timing.total_s
    return Text(f"{seconds:.1f}" if seconds else glyphs.unknown)


def _leaders(names: Sequence[str], glyphs: Glyphs) -> str:
    return " ".join(glyphs.leader for _ in names)


def _flags(
    table: Table, names: Sequence[str], glyphs: Glyphs, console: Console
) -> Iterator[RenderableType]:
    """The capabilities' names in full, each with a leader down to its narrow column."""
    # Not render_lines(), which renders all rows.
    header = "".join(s.text for s in next(iter(Segment.split_lines(console.render(table)))))
    indent = cell_len(header.partition(glyphs.leader)[0])
    for number, name in enumerate(names):
        leaders = f"{glyphs.leader} " * number
        yield Text(
            " " * indent + leaders + glyphs.safe(name, 24),
            style="bold",
            no_wrap=True,
            overflow="ignore",
        )


def _marks(kernel: KernelResult, names: Sequence[str], glyphs: Glyphs) -> Text:
    failed = _failed(kernel)
    marks = []
    for name in names:
        present = kernel.capabilities.get(name)
        if present is None:
            mark = Text(glyphs.unknown, style="dim")
        elif f"capability.{name}" in failed:
            mark = Text(glyphs.yes if present else glyphs.no, style="bold red")
        else:
            mark = Text(glyphs.yes, "green") if present else Text(glyphs.no, "dim")
        marks.append(mark)
    return Text(" ").join(marks)


def _failed(kernel: KernelResult) -> set[str]:
    return {
        check.key.id
        for family in kernel.families.values()
        if family.verdict.is_bad
        for check in family.checks
        if check.weight.is_bad
    }


def _count(kernel: KernelResult, glyphs: Glyphs) -> Text:
    """How many of the minor capabilities the kernel has."""
    found = [kernel.capabilities[name] for name in MINOR if name in kernel.capabilities]
    if not found or not kernel.capabilities.get("mptcp"):
        return Text(glyphs.unknown, style="dim")
    unexpected = not _failed(kernel).isdisjoint(f"capability.{name}" for name in MINOR)
    whole = "green" if sum(found) == len(MINOR) else "dim"
    return Text(f"{sum(found)}/{len(MINOR)}", style="bold red" if unexpected else whole)


def _lacking(kernels: Sequence[KernelResult], glyphs: Glyphs) -> Iterator[Text]:
    """The missing minor capabilities, one line for kernels that lack the same; none if all are
    missing."""
    alike: dict[tuple[str, ...], list[KernelResult]] = {}
    for kernel in kernels:
        lacks = tuple(name for name in MINOR if kernel.capabilities.get(name) is False)
        if lacks and any(kernel.capabilities.get(name) for name in MINOR):
            alike.setdefault(lacks, []).append(kernel)
    for lacks, same in alike.items():
        more = f" and {len(same) - MAX_NAMES} more" if len(same) > MAX_NAMES else ""
        verb = "lacks" if len(same) == 1 else "lack"
        yield Text(f"{_names(same[:MAX_NAMES], glyphs)}{more} {verb} {', '.join(lacks)}")


def _family(kernel: KernelResult, family: Family, glyphs: Glyphs) -> Text:
    result = kernel.families.get(family)
    if result is None or result.verdict is CheckVerdict.UNSUPPORTED:
        return Text(glyphs.unknown, style="dim")
    return Text(result.verdict, style=style_of(result.verdict))


def _summary(run: RunResult, glyphs: Glyphs) -> Text:
    """``4 kernels: 3 pass, 1 unsupported; all as expected``."""
    count = len(run.kernels)
    missing = f"missing: {_listed(run.missing, glyphs)}" if run.missing else ""
    if not count:
        what = "interrupted before any kernel" if run.interrupted else "no kernel was tested"
        return Text("; ".join(filter(None, [what, missing])))
    verdicts = Counter(kernel.verdict for kernel in run.kernels)
    tally = ", ".join(f"{verdicts[v]} {v}" for v in KernelVerdict if verdicts[v])
    parts = [f"{plural(count, 'kernel')}: {tally}"]
    untested = [k for k in run.kernels if k.verdict is KernelVerdict.INFRASTRUCTURE]
    unexpected = [k for k in run.kernels if not k.verdict.as_expected and k not in untested]
    if unexpected:
        parts.append(f"not as expected: {_names(unexpected, glyphs)}")
    if untested:
        parts.append(f"not tested: {_names(untested, glyphs)}")
    if run.interrupted:
        parts.append("interrupted")
    if missing:
        parts.append(missing)
    good = len(parts) == 1
    if good:
        parts.append("all as expected" if count > 1 else "as expected")
    return Text("; ".join(parts), style="bold green" if good else "bold red")


def _reused(run: RunResult, glyphs: Glyphs) -> Iterator[Text]:
    """A line for each earlier run whose results are shown, with their kernels; not wrapped
    either."""
    earlier: dict[EarlierRun, list[KernelResult]] = {}
    for kernel in run.kernels:
        if kernel.reused_from is not None:
            # The results of one run are from different times.
            earlier.setdefault(replace(kernel.reused_from, finished="", total_s=0.0), []).append(
                kernel
            )
    for old, kernels in earlier.items():
        which = plural(len(kernels), "kernel") if len(earlier) == 1 else _names(kernels, glyphs)
        where = f", kept in {old.directory}" if old.directory else ""
        text = f"reused from run {old.run}: {which}; its seed was {old.seed}{where}"
        yield Text(glyphs.safe(text, 4096), no_wrap=True, overflow="ignore")


def _hosts(run: RunResult, glyphs: Glyphs) -> Iterator[Text]:
    """Where the kernels were tested, if not all on the run's own host."""
    tested: dict[str, list[KernelResult]] = {}
    for kernel in run.kernels:
        if kernel.host:
            tested.setdefault(kernel.host, []).append(kernel)
    for host, kernels in sorted(tested.items()):
        few = len(kernels) <= FEW
        which = _names(kernels, glyphs) if few else plural(len(kernels), "kernel")
        text = f"tested on {glyphs.safe(host, 200)}: {which}"
        yield Text(text, no_wrap=True, overflow="ignore")


def _names(kernels: Sequence[KernelResult], glyphs: Glyphs) -> str:
    return _listed([kernel.name for kernel in kernels], glyphs)


def _listed(names: Sequence[str], glyphs: Glyphs) -> str:
    return ", ".join(glyphs.safe(name, 64) for name in names)


def _setting(run: RunResult, glyphs: Glyphs) -> Text:
    """How the results were obtained, and where they are; not wrapped, so that the path can be
    copied."""
    parts = [run.accel] if run.accel else []
    parts += [f"QEMU {run.qemu}"] if run.qemu else []
    parts += [f"virtme-ng {run.virtme_ng}"] if run.virtme_ng else []
    parts += [f"seed {run.seed}"]
    parts += [f"results in {run.directory}"] if run.directory else []
    return Text(glyphs.safe(", ".join(parts), 4096), no_wrap=True, overflow="ignore")
