# SPDX-License-Identifier: GPL-2.0-only
"""The compatibility map of a series: what changed between which two kernels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.bisect.results import Boundary, Change, CompatibilityMap, Kernel, Kind
from harness.report.terminal import Glyphs
from harness.text import plural
from harness.verdict.results import CheckVerdict, Family

SCHEMA = 1
#: What the search takes for granted; said wherever its result is.
ASSUMPTION = (
    "Where two kernels that were booted agree in everything, all between them are taken to agree\n"
    "with them: what came and went again there is not seen."
)
_NAME_WIDTH = 44


@dataclass(frozen=True)
class _Row:
    what: str
    old: str
    new: str


def render(found: CompatibilityMap, glyphs: Glyphs) -> str:
    """For people: a table for each boundary, then what it cost, then what is not known."""
    lines = [
        f"{plural(found.kernels, 'kernel')} from {_named(found.oldest, glyphs)} "
        f"to {_named(found.newest, glyphs)}",
    ]
    for boundary in found.boundaries:
        lines += ["", *_boundary(boundary, glyphs)]
    if not found.boundaries:
        lines += ["", "nothing that is looked at differs between the oldest and the newest"]
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
    yield f"after {_named(boundary.last, glyphs)}, from {_named(boundary.first, glyphs)} on"
    if boundary.untestable:
        names = ", ".join(glyphs.safe(kernel.release) for kernel in boundary.untestable)
        yield f"  (or from one of these on, which could not be tested: {names})"
    rows = list(_rows(boundary.changes))
    width = min(max(len(glyphs.safe(row.what)) for row in rows), _NAME_WIDTH)
    for row in rows:
        what, old, new = glyphs.safe(row.what), glyphs.safe(row.old, 60), glyphs.safe(row.new, 60)
        yield f"  {what:{width}}  {old} -> {new}"


def _rows(changes: Iterable[Change]) -> Iterator[_Row]:
    """What both families share stands in one row; so do checks that lacked a capability.

    A dozen checks are ``unsupported`` up to the kernel that brings what they need: that is told
    once for each option, any other change of a check by its name.
    """
    by_change: dict[tuple[Kind, str, str, str], set[Family]] = {}
    order = list(Kind)
    for change in sorted(changes, key=lambda c: (order.index(c.feature.kind), c.feature)):
        feature = change.feature
        key = (feature.kind, feature.name, change.old, change.new)
        by_change.setdefault(key, set()).add(feature.family)
    grouped: dict[tuple[Kind, str, str, str, str], list[str]] = {}
    for (kind, name, old, new), families in by_change.items():
        where = "" if len(families) == len(Family) else f" ({', '.join(sorted(families))})"
        option = name
        if kind is Kind.CHECK and {old, new} == {CheckVerdict.UNSUPPORTED, CheckVerdict.PASS}:
            option = name.partition(".")[0] + ".*"
        grouped.setdefault((kind, option, where, old, new), []).append(name)
    for (kind, option, where, old, new), names in grouped.items():
        what = option
        if option not in names:
            what = f"{option}, {plural(len(names), 'check')}" if len(names) > 1 else names[0]
        if kind is Kind.SIZE:
            what = f"size of {option}"
        yield _Row(what + where, old, new)


def _cost(found: CompatibilityMap) -> str:
    told = f"{found.booted} of {plural(found.kernels, 'kernel')} booted"
    if found.known:
        told += f", {plural(found.known, 'result')} of earlier runs used"
    return f"{told}, in {plural(found.rounds, 'round')} and {found.seconds:.0f} s."


def _unknown_ends(found: CompatibilityMap, glyphs: Glyphs) -> Iterator[str]:
    if found.oldest != found.oldest_tested:
        yield f"nothing is known of what is older than {_named(found.oldest_tested, glyphs)}"
    if found.newest != found.newest_tested:
        yield f"nothing is known of what is newer than {_named(found.newest_tested, glyphs)}"


def _named(kernel: Kernel, glyphs: Glyphs) -> str:
    """``debian-6.1 (6.1.0-50-amd64, 6.1.176-1)``, without what the name says already."""
    more = [
        text
        for text in (kernel.release, kernel.version)
        if text and text not in kernel.name and text != kernel.name
    ]
    shown = [glyphs.safe(text, 100) for text in more]
    return glyphs.safe(kernel.name, 100) + (f" ({', '.join(shown)})" if shown else "")


def to_json(found: CompatibilityMap) -> str:
    """One object: ``schema`` (1), ``command`` (``bisect --boundaries``), ``assumption``,
    ``kernels``, ``booted``, ``reused``, ``rounds``, ``seconds``, the kernels ``oldest``,
    ``newest``, ``oldest_tested``, ``newest_tested``, ``boundaries`` [{last, first, untestable,
    changes [{kind, name, family, old, new}]}], ``untestable`` [{kernel, reason}], ``notes``,
    ``directory``.

    A kernel is {name, release, version}. Keys are added, never renamed.
    """
    record = {
        "schema": SCHEMA,
        "command": "bisect --boundaries",
        "assumption": ASSUMPTION.replace("\n", " "),
        "kernels": found.kernels,
        "booted": found.booted,
        "reused": found.known,
        "rounds": found.rounds,
        "seconds": round(found.seconds, 3),
        "oldest": _kernel(found.oldest),
        "newest": _kernel(found.newest),
        "oldest_tested": _kernel(found.oldest_tested),
        "newest_tested": _kernel(found.newest_tested),
        "boundaries": [
            {
                "last": _kernel(boundary.last),
                "first": _kernel(boundary.first),
                "untestable": _kernels(boundary.untestable),
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
            {"kernel": _kernel(one.kernel), "reason": one.reason} for one in found.untestable
        ],
        "notes": list(found.notes),
        "directory": found.directory,
    }
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def _kernel(kernel: Kernel) -> dict[str, Any]:
    return {"name": kernel.name, "release": kernel.release, "version": kernel.version}


def _kernels(found: Sequence[Kernel]) -> list[dict[str, Any]]:
    return [_kernel(kernel) for kernel in found]
