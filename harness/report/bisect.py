# SPDX-License-Identifier: GPL-2.0-only
"""The answer of a bisect, or the compatibility map of a series, as text and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.bisect.results import (
    Bisection,
    Boundary,
    BoundaryKind,
    CommitEnding,
    CommitEvidence,
    CommitSearch,
    CompatibilityMap,
    Ending,
    GitCommit,
    Kernel,
    KernelEvidence,
    SeriesChange,
)
from harness.report.terminal import Glyphs
from harness.text import plural, printable
from harness.verdict.verdicts import CheckVerdict, Family

SCHEMA = 1
#: Lines of a change log that the text shows; --json has all.
SHOWN = 40


def render(found: Bisection) -> str:
    """The result as several lines of plain text, escaped for a terminal."""
    lines = [*_answer(found), ""]
    if found.evidence and found.ending is not Ending.INTERRUPTED:
        lines += ["tested, oldest first:", *map(_tested, found.evidence), ""]
    lines.append(_effort(found))
    if found.changes:
        lines += ["", f"change log entries between them ({len(found.changes)}):"]
        lines += [f"  {change.version}: {change.text}" for change in found.changes[:SHOWN]]
    if len(found.changes) > SHOWN:
        lines.append(f"  and {len(found.changes) - SHOWN} more (see --json FILE)")
    lines += [f"note: {note}" for note in found.notes]
    if found.commits is not None:
        lines += ["", *_in_git(found.commits)]
    if found.git and (found.commits is None or found.commits.first is None):
        lines += ["", "to continue in a kernel tree:", f"  {found.git}"]
    if found.directory:
        lines += ["", f"consoles and events: {found.directory}"]
    return "".join(f"{printable(line)}\n" for line in lines)


def render_commits(found: CommitSearch) -> str:
    """The result of a search in git alone."""
    return "".join(f"{printable(line)}\n" for line in _in_git(found))


def _in_git(found: CommitSearch) -> Iterator[str]:
    """The commit, or the reason why none was found, and the tested commits."""
    if found.first is None:
        yield f"in git: no commit ({found.ending}): {found.text}"
    else:
        others = f", or one of the {len(found.others)} below it" if found.others else ""
        verb = "was fixed by" if found.fixed else "came with"
        yield f"in git: the fault {verb} commit {found.first.id}{others}"
        yield f"  {_commit(found.first)}"
        for other in found.others:
            yield f"  or {_commit(other)}"
    if found.good:
        yield f"  from {found.good} to {found.bad} in {found.repository}"
    if found.evidence and found.ending is not CommitEnding.INTERRUPTED:
        yield "commits tested, oldest first:"
        yield from (_tested_commit(tested) for tested in found.evidence)
    if found.evidence:
        earlier = f" ({found.earlier} of them earlier)" if found.earlier else ""
        yield (
            f"{plural(found.commits, 'commit')}, {len(found.evidence)} tested, "
            f"{plural(found.boots, 'boot')}{earlier}, {found.seconds:.0f} s"
        )
    yield from (f"note: {note}" for note in found.notes)
    if found.directory:
        yield f"their consoles and events: {found.directory}"


def _commit(commit: GitCommit) -> str:
    return f"{commit.id[:12]} {commit.subject} ({commit.author}, {commit.date})"


def _tested_commit(tested: CommitEvidence) -> str:
    said = _counted(tested) if tested.builds else "does not build"
    lines = tested.why.splitlines() or [""]
    why = lines[0] if tested.builds else lines[-1].strip()  # the compiler's last error
    source = f" [run {tested.reused_from}]" if tested.reused_from else ""
    return f"  {tested.commit.id[:12]} {tested.commit.subject}: {said}: {why}{source}"


def _answer(found: Bisection) -> Iterable[str]:
    if found.last_good is None or found.first_bad is None:
        yield f"bisect {found.what}: no answer ({found.ending}): {found.text}"
        return
    # In order of time: the fault may have been fixed.
    rows = [("last good", found.last_good), ("first bad", found.first_bad)]
    if found.reversed:
        rows = [("last bad", found.first_bad), ("first good", found.last_good)]
    between = f", or one of the {len(found.skipped)} before it" if found.skipped else ""
    yield f"bisect {found.what}: the change came with {rows[1][1].name}{between}"
    for word, kernel in rows:
        yield f"  {word:10}  {_kernel(kernel)}"
    for tested in found.skipped:
        yield f"  {'skipped':10}  {_kernel(tested.kernel)}: {tested.why or 'not tested'}"
    flaky = f"; flaky: bad kernels showed it in {found.failed} of {plural(found.of, 'boot')}"
    yield f"  confidence  {_percent(found.confidence)}{flaky if found.failed < found.of else ''}"


def _percent(confidence: float) -> str:
    """Rounded down, so that it is never 100 % by rounding."""
    return f"{math.floor(min(confidence, 0.999) * 1000) / 10:g} %"


def _kernel(kernel: Kernel) -> str:
    version = f", package version {kernel.version}" if kernel.version else ""
    return f"{kernel.name} ({kernel.release}{version})"


def _counted(tested: KernelEvidence | CommitEvidence) -> str:
    """``bad``, or ``1 of 3 good, 2 of 3 bad``."""
    counts = {"good": tested.good, "bad": tested.bad, "untestable": tested.untestable}
    total = sum(counts.values())
    return ", ".join(
        word if count == total == 1 else f"{count} of {total} {word}"
        for word, count in counts.items()
        if count
    )


def _tested(tested: KernelEvidence) -> str:
    said = _counted(tested)
    source = f" [run {tested.reused_from}]" if tested.reused_from else ""
    return f"  {tested.kernel.name:40} {said}: {tested.why}{source}"


def _effort(found: Bisection) -> str:
    earlier = f" ({found.earlier} of them earlier)" if found.earlier else ""
    return (
        f"{plural(found.kernels, 'kernel')}, {plural(found.rounds, 'round')}, "
        f"{plural(found.boots, 'boot')}{earlier}, {found.seconds:.0f} s"
    )


def to_json(found: Bisection) -> dict[str, Any]:
    """``found`` for a JSON writer: ``schema`` (1), ``ending``, ``what``, ``text``, ``reversed``,
    ``kernels``, ``rounds``, ``boots``, ``earlier``, ``seconds``, ``last_good`` and ``first_bad``
    {name, release, version} or null, ``skipped`` and ``evidence``: lists of {kernel, good, bad,
    untestable, why, reused_from}, ``confidence`` (0 to 1), ``failed``, ``of``, ``changes``: a list
    of {version, text}, ``git``, ``notes``, ``directory``, ``commits``: null without --repo, else
    {ending, repository, good, bad, text, first and others {id, subject, author, date}, fixed,
    evidence [{commit, good, bad, untestable, why, builds, reused_from}], commits, boots, earlier,
    seconds, notes, directory}. Keys are added, never renamed."""
    return {"schema": SCHEMA, **asdict(found)}


MAP_SCHEMA = 1
#: The assumption of the search; shown with every result.
ASSUMPTION = (
    "If two booted kernels agree in everything, the kernels between them are assumed to agree.\n"
    "A change that was undone in between is not seen."
)
_NAME_WIDTH = 44


@dataclass(frozen=True)
class _Row:
    what: str
    old: str
    new: str


def render_map(found: CompatibilityMap, glyphs: Glyphs) -> str:
    """The map as text: a table for each boundary, the cost, and what is unknown."""
    lines = [
        f"{plural(found.kernels, 'kernel')} from {_named(found.oldest, glyphs)} "
        f"to {_named(found.newest, glyphs)}",
    ]
    for boundary in found.boundaries:
        lines += ["", *_boundary(boundary, glyphs)]
    if not found.boundaries:
        lines += ["", "the oldest and the newest kernel do not differ"]
    lines += ["", _cost(found), ASSUMPTION]
    if found.untestable:
        lines += ["", "could not be tested:"]
        for one in found.untestable:
            lines.append(f"  {_named(one.kernel, glyphs)}: {glyphs.safe(one.reason)}")
    lines += [
        f"note: {glyphs.safe(note)}" for note in (*_unknown_ends(found, glyphs), *found.notes)
    ]
    if found.directory:
        lines.append(f"consoles and events: {glyphs.safe(found.directory)}")
    return "\n".join(lines) + "\n"


def _boundary(boundary: Boundary, glyphs: Glyphs) -> Iterator[str]:
    yield f"between {_named(boundary.last, glyphs)} and {_named(boundary.first, glyphs)}"
    if boundary.untestable:
        names = ", ".join(glyphs.safe(kernel.release) for kernel in boundary.untestable)
        yield f"  (or from one of these, which could not be tested: {names})"
    rows = list(_rows(boundary.changes))
    width = min(max(len(glyphs.safe(row.what)) for row in rows), _NAME_WIDTH)
    for row in rows:
        what, old, new = glyphs.safe(row.what), glyphs.safe(row.old, 60), glyphs.safe(row.new, 60)
        yield f"  {what:{width}}  {old} -> {new}"


def _rows(changes: Iterable[SeriesChange]) -> Iterator[_Row]:
    """One row for a change that both families share, and one for checks that lacked a capability.

    A dozen checks may be ``unsupported`` up to the kernel that adds their capability: there is one
    row for each option. Every other change of a check has a row of its own.
    """
    by_change: dict[tuple[BoundaryKind, str, str, str], set[Family]] = {}
    order = list(BoundaryKind)
    for change in sorted(changes, key=lambda c: (order.index(c.feature.kind), c.feature)):
        feature = change.feature
        key = (feature.kind, feature.name, change.old, change.new)
        by_change.setdefault(key, set()).add(feature.family)
    grouped: dict[tuple[BoundaryKind, str, str, str, str], list[str]] = {}
    for (kind, name, old, new), families in by_change.items():
        where = "" if len(families) == len(Family) else f" ({', '.join(sorted(families))})"
        option = name
        if kind is BoundaryKind.CHECK and {old, new} == {
            CheckVerdict.UNSUPPORTED,
            CheckVerdict.PASS,
        }:
            option = name.partition(".")[0] + ".*"
        grouped.setdefault((kind, option, where, old, new), []).append(name)
    for (kind, option, where, old, new), names in grouped.items():
        what = option
        if option not in names:
            what = f"{option}, {plural(len(names), 'check')}" if len(names) > 1 else names[0]
        if kind is BoundaryKind.SIZE:
            what = f"size of {option}"
        yield _Row(what + where, old, new)


def _cost(found: CompatibilityMap) -> str:
    told = f"{found.booted} of {plural(found.kernels, 'kernel')} booted"
    if found.known:
        told += f", {plural(found.known, 'result')} from earlier runs reused"
    return f"{told}, in {plural(found.rounds, 'round')} and {found.seconds:.0f} s."


def _unknown_ends(found: CompatibilityMap, glyphs: Glyphs) -> Iterator[str]:
    if found.oldest != found.oldest_tested:
        yield f"nothing is known about kernels older than {_named(found.oldest_tested, glyphs)}"
    if found.newest != found.newest_tested:
        yield f"nothing is known about kernels newer than {_named(found.newest_tested, glyphs)}"


def _named(kernel: Kernel, glyphs: Glyphs) -> str:
    """``debian-6.1 (6.1.0-50-amd64, 6.1.176-1)``, without parts that the name contains."""
    more = [
        text
        for text in (kernel.release, kernel.version)
        if text and text not in kernel.name and text != kernel.name
    ]
    shown = [glyphs.safe(text, 100) for text in more]
    return glyphs.safe(kernel.name, 100) + (f" ({', '.join(shown)})" if shown else "")


def map_to_json(found: CompatibilityMap) -> str:
    """One object: ``schema`` (1), ``command`` (``bisect --boundaries``), ``assumption``,
    ``kernels``, ``booted``, ``reused``, ``rounds``, ``seconds``, the kernels ``oldest``,
    ``newest``, ``oldest_tested``, ``newest_tested``, ``boundaries`` [{last, first, untestable,
    changes [{kind, name, family, old, new}]}], ``untestable`` [{kernel, reason}], ``notes``,
    ``directory``.

    A kernel is {name, release, version}. Keys are added, never renamed.
    """
    record = {
        "schema": MAP_SCHEMA,
        "command": "bisect --boundaries",
        "assumption": ASSUMPTION.replace("\n", " "),
        "kernels": found.kernels,
        "booted": found.booted,
        "reused": found.known,
        "rounds": found.rounds,
        "seconds": round(found.seconds, 3),
        "oldest": _kernel_to_json(found.oldest),
        "newest": _kernel_to_json(found.newest),
        "oldest_tested": _kernel_to_json(found.oldest_tested),
        "newest_tested": _kernel_to_json(found.newest_tested),
        "boundaries": [
            {
                "last": _kernel_to_json(boundary.last),
                "first": _kernel_to_json(boundary.first),
                "untestable": _kernels_to_json(boundary.untestable),
                "changes": [
                    {
                        "kind": change.feature.kind,
                        "name": change.feature.name,
                        "family": change.feature.family,
                        "old": change.old,
                        "new": change.new,
                    }
                    for change in boundary.changes
                ],
            }
            for boundary in found.boundaries
        ],
        "untestable": [
            {"kernel": _kernel_to_json(one.kernel), "reason": one.reason}
            for one in found.untestable
        ],
        "notes": list(found.notes),
        "directory": found.directory,
    }
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def _kernel_to_json(kernel: Kernel) -> dict[str, Any]:
    return {"name": kernel.name, "release": kernel.release, "version": kernel.version}


def _kernels_to_json(found: Sequence[Kernel]) -> list[dict[str, Any]]:
    return [_kernel_to_json(kernel) for kernel in found]
