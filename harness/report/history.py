# SPDX-License-Identifier: GPL-2.0-only
"""Kernels and checks over the last runs: a letter for each, and when it changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.report.terminal import Glyphs
from harness.verdict.results import CheckVerdict, KernelResult, KernelVerdict, RunResult, worst

#: For a run that does not include the kernel or check.
ABSENT = "."
KERNEL_LETTERS = {
    KernelVerdict.PASS: "P",
    KernelVerdict.FAIL: "F",
    KernelVerdict.CRASH: "C",
    KernelVerdict.HANG: "H",
    KernelVerdict.LOST: "L",
    KernelVerdict.BOOT_FAILURE: "B",
    KernelVerdict.WARNING: "W",
    KernelVerdict.UNSUPPORTED: "U",
    KernelVerdict.INFRASTRUCTURE: "?",
}
CHECK_LETTERS = {
    CheckVerdict.PASS: "P",
    CheckVerdict.FAIL: "F",
    CheckVerdict.LOST: "L",
    CheckVerdict.ERROR: "E",
    CheckVerdict.UNSUPPORTED: "U",
}


@dataclass(frozen=True)
class RunEntry:
    """One run's result: ``word`` is the verdict, ``image`` the kernel's SHA-256.

    ``good`` is None if nothing was learned. ``flaky`` is set if boots of that run disagreed.
    """

    run: RunResult
    word: str
    letter: str
    good: bool | None
    image: str
    flaky: bool = False


@dataclass(frozen=True)
class Line:
    """A kernel, or a check of it, over runs, oldest first; None where a run does not have it."""

    name: str
    entries: tuple[RunEntry | None, ...]

    @property
    def conclusive(self) -> tuple[RunEntry, ...]:
        return tuple(entry for entry in self.entries if entry and entry.good is not None)

    @property
    def change(self) -> tuple[RunEntry, RunEntry] | None:
        """The last two neighbouring runs that differ, ignoring runs that learned nothing."""
        pairs = list(zip(self.conclusive, self.conclusive[1:], strict=False))
        return next((pair for pair in reversed(pairs) if pair[0].word != pair[1].word), None)

    @property
    def flaky(self) -> bool:
        """Whether the same image was both good and bad."""
        if any(entry.flaky for entry in self.conclusive):
            return True
        by_image: dict[str, set[bool | None]] = {}
        for entry in self.conclusive:
            if entry.image:
                by_image.setdefault(entry.image, set()).add(entry.good)
        return any(len(seen) > 1 for seen in by_image.values())


def kernel_lines(runs: Sequence[RunResult], wanted: Callable[[str], bool]) -> tuple[Line, ...]:
    """A line for each kernel whose name is ``wanted``; ``runs`` are oldest first."""
    return tuple(
        Line(
            name,
            tuple(
                _kernel_entry(run, kernel) if (kernel := _kernel_of(run, name)) else None
                for run in runs
            ),
        )
        for name in _names(runs)
        if wanted(name)
    )


def check_lines(
    runs: Sequence[RunResult], wanted: Callable[[str], bool], checks: Callable[[str], bool]
) -> tuple[Line, ...]:
    """A line for each check of each kernel that ``checks`` selects and that was bad in any run."""
    lines = []
    for name in filter(wanted, _names(runs)):
        kernels = [_kernel_of(run, name) for run in runs]
        bad = dict.fromkeys(
            check.key.id
            for kernel in kernels
            if kernel is not None
            for family in kernel.families.values()
            for check in family.checks
            if check.verdict.is_bad and checks(check.key.id)
        )
        for check_id in bad:
            entries = (
                _check_entry(run, kernel, check_id) if kernel is not None else None
                for run, kernel in zip(runs, kernels, strict=True)
            )
            lines.append(Line(f"{name} {check_id}", tuple(entries)))
    return tuple(lines)


def render(lines: Sequence[Line], runs: Sequence[RunResult], glyphs: Glyphs) -> str:
    """The lines, a legend of the letters, and the names of flaky ones."""
    return "".join(f"{line}\n" for line in _text(lines, runs, glyphs))


def _text(lines: Sequence[Line], runs: Sequence[RunResult], glyphs: Glyphs) -> Iterator[str]:
    if runs:
        ends = f"{glyphs.safe(runs[0].started, 32)} to {glyphs.safe(runs[-1].started, 32)}"
        yield f"the last {len(runs)} runs, {ends}, oldest first"
    width = max((len(glyphs.safe(line.name, 96)) for line in lines), default=0)
    for line in lines:
        letters = "".join(entry.letter if entry else ABSENT for entry in line.entries)
        flaky = "flaky; " if line.flaky else ""
        yield f"{glyphs.safe(line.name, 96):{width}}  {letters}  {flaky}{_since(line, glyphs)}"
    seen = {entry.letter: entry.word for line in lines for entry in line.entries if entry}
    if seen:
        legend = ", ".join(f"{letter} {word}" for letter, word in sorted(seen.items()))
        yield f"{legend}, {ABSENT} not in that run"
    unsteady = [glyphs.safe(line.name, 96) for line in lines if line.flaky]
    if unsteady:
        yield f"flaky, good and bad with the same image: {', '.join(unsteady)}"


def _since(line: Line, glyphs: Glyphs) -> str:
    if not line.conclusive:
        return "never tested"
    if line.change is None:
        return f"always {line.conclusive[-1].word}"
    before, after = line.change
    then = f"{glyphs.safe(after.run.started, 32)}, run {glyphs.safe(after.run.id, 64)}"
    image = "" if not before.image or before.image != after.image else ", with the same image"
    return f"{before.word} -> {after.word} at {then}{image}"


def _names(runs: Sequence[RunResult]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kernel.name for run in reversed(runs) for kernel in run.kernels))


def _kernel_of(run: RunResult, name: str) -> KernelResult | None:
    return next((kernel for kernel in run.kernels if kernel.name == name), None)


def _kernel_entry(run: RunResult, kernel: KernelResult) -> RunEntry:
    infrastructure = kernel.verdict is KernelVerdict.INFRASTRUCTURE
    confirmed = kernel.confirmed
    return RunEntry(
        run,
        kernel.verdict,
        KERNEL_LETTERS[kernel.verdict],
        None if infrastructure else kernel.verdict.as_expected,
        kernel.image_sha256,
        flaky=confirmed is not None and confirmed.bad < confirmed.boots,
    )


def _check_entry(run: RunResult, kernel: KernelResult, check_id: str) -> RunEntry | None:
    verdicts = [
        check.verdict
        for family in kernel.families.values()
        for check in family.checks
        if check.key.id == check_id
    ]
    if not verdicts:
        return None
    verdict = worst(verdicts)
    # A missing result says nothing about this check: the kernel may have crashed in another.
    good = None if verdict is CheckVerdict.LOST else not verdict.is_bad
    return RunEntry(run, verdict, CHECK_LETTERS[verdict], good, kernel.image_sha256)
