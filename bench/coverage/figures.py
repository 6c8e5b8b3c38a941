# SPDX-License-Identifier: GPL-2.0-only
"""What is kept of the coverage, and what a reader sees of it: a table, and the lines never run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.coverage.counters import Function, SourceFile
from harness.host.files import write_atomically

#: Committed, so that docs/detection.md has the figures wherever it is written.
KEPT = Path(__file__).with_name("figures.json")


@dataclass(frozen=True)
class Figures:
    """How many lines and branches of a file ran, of those that there are."""

    lines_run: int
    lines: int
    branches_run: int
    branches: int

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.lines_run + other.lines_run,
            self.lines + other.lines,
            self.branches_run + other.branches_run,
            self.branches + other.branches,
        )


@dataclass(frozen=True)
class Measured:
    """``kernel`` is the package of its source, ``verdict`` that of the checks, in words.

    The figures are by file, of the checks and of the selftests.
    """

    kernel: str
    verdict: str
    checks: Mapping[str, Figures]
    selftests: Mapping[str, Figures]


def of(files: Mapping[str, SourceFile]) -> dict[str, Figures]:
    return {
        path: Figures(
            sum(count > 0 for count in file.lines.values()),
            len(file.lines),
            sum(count > 0 for count in file.branches.values()),
            len(file.branches),
        )
        for path, file in files.items()
    }


def keep(measured: Measured, path: Path = KEPT) -> None:
    write_atomically(path, json.dumps(asdict(measured), indent=1) + "\n")


def recall(path: Path = KEPT) -> Measured | None:
    """What was measured last, if anything was."""
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    sides = {
        side: {name: Figures(**figures) for name, figures in kept[side].items()}
        for side in ("checks", "selftests")
    }
    return Measured(kernel=kept["kernel"], verdict=kept["verdict"], **sides)


def table(measured: Measured) -> list[str]:
    """Markdown: each file of net/mptcp, and their sum."""
    lines = [
        "| file | lines | branches | selftests' lines | selftests' branches |",
        "|---|---:|---:|---:|---:|",
    ]
    nothing = Figures(0, 0, 0, 0)
    all_checks = all_selftests = nothing
    for path, checks in measured.checks.items():
        selftests = measured.selftests.get(path, nothing)
        lines.append(_row(f"`{path}`", checks, selftests))
        all_checks, all_selftests = all_checks + checks, all_selftests + selftests
    return [*lines, _row("**all**", all_checks, all_selftests)]


def _row(name: str, checks: Figures, selftests: Figures) -> str:
    cells = [
        _share(part, whole)
        for side in (checks, selftests)
        for part, whole in ((side.lines_run, side.lines), (side.branches_run, side.branches))
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.0f} %)" if whole else "-"


def never_run(files: Mapping[str, SourceFile], tree: Path) -> Iterator[str]:
    """Each line that never ran as ``file:line: source``, under its function."""
    for path, file in files.items():
        source = (tree / path).read_text().splitlines()
        idle = [number for number, count in file.lines.items() if not count]
        last = None
        for number in idle:
            function = _around(file.functions, number)
            if function is not last:
                last = function
                yield _heading(path, function)
            yield f"{path}:{number}: {source[number - 1].strip()}"


def _around(functions: Sequence[Function], line: int) -> Function | None:
    return next((f for f in functions if f.start <= line <= f.end), None)


def _heading(path: str, function: Function | None) -> str:
    if function is None:
        return f"\n# {path}"
    calls = f"called {function.calls} times" if function.calls else "never called"
    return f"\n# {path} {function.name}(): {calls}"
