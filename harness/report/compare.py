# SPDX-License-Identifier: GPL-2.0-only
"""The differences between two kernels or two runs, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.report.terminal import Glyphs
from harness.text import plural
from harness.verdict.comparison import (
    CapabilityChange,
    Change,
    ChangeKind,
    Difference,
    Pace,
    RunDifference,
)
from harness.verdict.failures import phrases, place
from harness.verdict.results import CheckKey, Incident, KernelResult

# Anything beyond these limits is only counted.
MAX_CHECKS = 20
MAX_PHRASES = 6
MAX_INCIDENTS = 10
MAX_EXCERPT_LINES = 12
#: Kinds of change whose checks are listed with their places and details; others only by name.
TOLD = (ChangeKind.FAILING, ChangeKind.LOST, ChangeKind.ERROR, ChangeKind.COUNTING)


def render(difference: Difference, glyphs: Glyphs) -> str:
    """The differences between two kernels, and a summary line."""
    lines = [_heading(difference, glyphs), *_body(difference, glyphs), sentence(difference, glyphs)]
    return "".join(f"{line}\n" for line in lines)


def render_runs(difference: RunDifference, glyphs: Glyphs) -> str:
    """The differences between two runs, kernel by kernel, and a summary line."""
    lines = list(_runs(difference, glyphs))
    return "".join(f"{line}\n" for line in lines)


def sentence(difference: Difference, glyphs: Glyphs) -> str:
    """``worse: 2 capabilities lost, 1 check newly failing``, in one line."""
    if difference.cannot:
        return glyphs.safe(f"cannot be compared: {difference.cannot}", 1024)
    told = list(_counts(difference))
    if not told:
        part = (
            " in the checks that both ran"
            if difference.only_before or difference.only_after
            else ""
        )
        return f"no difference{part}"
    return f"{'worse' if difference.is_worse else 'not worse'}: {', '.join(told)}"


def _counts(difference: Difference) -> Iterator[str]:
    before, after = difference.before.verdict, difference.after.verdict
    if before is not after:
        yield f"{before} before, {after} now"
    for what, changes in (("lost", difference.lost), ("gained", difference.gained)):
        if changes:
            count = len({change.name for change in changes})
            yield f"{count} {'capability' if count == 1 else 'capabilities'} {what}"
    for kind in ChangeKind:
        count = sum(change.kind is kind for change in difference.changes)
        if count:
            yield f"{plural(count, 'check')} {kind}"
    if difference.new_incidents:
        yield plural(len(difference.new_incidents), "new incident")
    if difference.gone_incidents:
        yield f"{plural(len(difference.gone_incidents), 'incident')} gone"
    altered = len({change.name for change in difference.altered})
    if altered:
        yield f"{plural(altered, 'answer')} changed"


def _heading(difference: Difference, glyphs: Glyphs) -> str:
    return f"{_named(difference.before, glyphs)} -> {_named(difference.after, glyphs)}"


def _named(kernel: KernelResult, glyphs: Glyphs) -> str:
    release = f" ({glyphs.safe(kernel.release, 64)})" if kernel.release else ""
    return f"{glyphs.safe(kernel.name, 64)}{release}"


def _body(difference: Difference, glyphs: Glyphs) -> Iterator[str]:
    if difference.cannot:
        return
    yield from _verdicts(difference, glyphs)
    yield from _capabilities("capabilities lost", difference.lost, glyphs)
    yield from _capabilities("capabilities gained", difference.gained, glyphs)
    yield from _capabilities("answers changed", difference.altered, glyphs)
    for kind in ChangeKind:
        yield from _kind(kind, [c for c in difference.changes if c.kind is kind], glyphs)
    yield from _incidents("new incidents", difference.new_incidents, glyphs, excerpts=True)
    yield from _incidents("incidents gone", difference.gone_incidents, glyphs, excerpts=False)
    if difference.still:
        yield from _listed("failing in both", difference.still, glyphs)
    yield from _uncompared("before", difference.only_before, glyphs)
    yield from _uncompared("now", difference.only_after, glyphs)
    if difference.verdict_is_of_the_rest:
        yield "  note: the failing checks were not tested before"
    yield "  " + "; ".join(_pace(pace) for pace in difference.paces)
    for note in difference.notes:
        yield f"  note: {glyphs.safe(note)}"


def _uncompared(when: str, keys: Sequence[CheckKey], glyphs: Glyphs) -> Iterator[str]:
    """Checks that only one side ran, by family and option: after a crash that may be all of
    them."""
    if keys:
        families = ", ".join(dict.fromkeys(key.family for key in keys))
        options = list(dict.fromkeys(key.id.partition(".")[0] for key in keys))
        shown = ", ".join(glyphs.safe(option, 64) for option in options[:MAX_CHECKS])
        more = f", {glyphs.ellipsis}" if len(options) > MAX_CHECKS else ""
        count = plural(len(keys), "result")
        yield f"  not compared, only {when}: {count} of {families}: {shown}{more}"


def _verdicts(difference: Difference, glyphs: Glyphs) -> Iterator[str]:
    before, after = difference.before, difference.after
    if before.verdict is after.verdict and after.verdict.as_expected:
        return
    same = before.verdict is after.verdict
    yield f"  verdict: {before.verdict}{' in both' if same else f' -> {after.verdict}'}"
    for when, kernel in (("before", before), ("now", after)):
        if not kernel.verdict.as_expected:
            yield f"    {when}: {glyphs.safe(kernel.reason)}"


def _capabilities(title: str, changes: Sequence[CapabilityChange], glyphs: Glyphs) -> Iterator[str]:
    if changes:
        yield f"  {title}:"
    for change in changes:
        families = f" ({', '.join(change.families)})" if len(change.families) == 1 else ""
        standing = " (a failure)" if change.failing else ""
        standing += f", {glyphs.safe(change.known)}" if change.known else ""
        if change.is_lost:
            said = change.after_detail
        elif change.is_gained:
            said = change.before_detail and f"was {change.before_detail}"
        else:
            said = f"{change.before_detail or 'nothing'} -> {change.after_detail or 'nothing'}"
        shown = f": {glyphs.safe(said)}" if said else ""
        yield f"    {glyphs.safe(change.name, 64)}{families}{shown}{standing}"


def _kind(kind: ChangeKind, changes: Sequence[Change], glyphs: Glyphs) -> Iterator[str]:
    if not changes:
        return
    if kind not in TOLD:
        yield from _listed(kind, [change.check for change in changes], glyphs)
        return
    yield f"  {kind}:"
    for change in changes[:MAX_CHECKS]:
        yield from _change(change, glyphs)
    yield from _more(len(changes) - MAX_CHECKS, "check")


def _change(change: Change, glyphs: Glyphs) -> Iterator[str]:
    after = [result for _, result in change.places]
    where = phrases([place(result.key) for result in after])
    at = "; ".join(where[:MAX_PHRASES])
    more = f"; {glyphs.ellipsis}" if len(where) > MAX_PHRASES else ""
    count = f"at {len(after)} of {plural(change.compared, 'place')}"
    yield f"    {glyphs.safe(change.check, 64)} {count}: {glyphs.safe(at)}{more}"
    first = after[0]
    for label, text in (
        ("what", first.detail),
        ("expected", first.expected),
        ("got", first.got),
    ):
        if text:
            yield f"      {label:8} {glyphs.safe(text)}"
    if len({(result.detail, result.expected, result.got) for result in after}) > 1:
        yield "      (first place; the values differ at others)"


def _listed(title: str, names: Sequence[str], glyphs: Glyphs) -> Iterator[str]:
    """Names grouped by the part before the first dot, one line for each option."""
    yield f"  {title}:"
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        group, _, rest = name.partition(".")
        groups.setdefault(group, []).append(rest or name)
    for group, members in groups.items():
        shown = ", ".join(glyphs.safe(member, 64) for member in members[:MAX_CHECKS])
        more = f", {glyphs.ellipsis} ({len(members)})" if len(members) > MAX_CHECKS else ""
        yield f"    {glyphs.safe(group, 64)}: {shown}{more}"


def _incidents(
    title: str, incidents: Sequence[Incident], glyphs: Glyphs, *, excerpts: bool
) -> Iterator[str]:
    if incidents:
        yield f"  {title}:"
    for incident in incidents[:MAX_INCIDENTS]:
        during = f", during {glyphs.safe(incident.check)}" if incident.check else ""
        yield f"    {incident.kind}: {glyphs.safe(incident.title)}{during}"
        yield f"      fingerprint {glyphs.safe(incident.fingerprint)}"
        if excerpts:
            lines = incident.excerpt.strip("\r\n").split("\n")
            for line in lines[:MAX_EXCERPT_LINES]:
                yield f"      {glyphs.safe(line.rstrip().expandtabs())}"
            yield from _more(len(lines) - MAX_EXCERPT_LINES, "line")
    yield from _more(len(incidents) - MAX_INCIDENTS, "incident")


def _more(count: int, noun: str) -> Iterator[str]:
    if count > 0:
        yield f"    and {plural(count, f'more {noun}')}"


def _pace(pace: Pace) -> str:
    if pace.ratio is None:
        told = [f"{s:.1f} s" if s > 0 else "not known" for s in (pace.before_s, pace.after_s)]
        return f"{pace.what} {told[0]} -> {told[1]}"
    return f"{pace.what} {pace.before_s:.1f} s -> {pace.after_s:.1f} s (x{pace.ratio:.2f})"


def _runs(difference: RunDifference, glyphs: Glyphs) -> Iterator[str]:
    for when, run in (("before", difference.before), ("after", difference.after)):
        state = ", interrupted" if run.interrupted else ""
        yield f"{when:6} run {glyphs.safe(run.id)}, {glyphs.safe(run.started)}{state}"
    if difference.cannot:
        yield f"cannot be compared: {glyphs.safe(difference.cannot)}"
        return
    yield ""
    for kernel in difference.kernels:
        if not kernel.is_same:
            yield f"{_heading(kernel, glyphs)}: {sentence(kernel, glyphs)}"
            yield from _body(kernel, glyphs)
            yield ""
    for new in difference.new:
        reason = "" if new.verdict.as_expected else f": {glyphs.safe(new.reason)}"
        yield f"{_named(new, glyphs)}: new, {new.verdict}{reason}"
    for title, names in (("gone", difference.gone), ("not tested", difference.missing)):
        if names:
            yield f"{title}: {', '.join(glyphs.safe(name, 64) for name in names)}"
    for note in difference.notes:
        yield f"note: {glyphs.safe(note)}"
    yield _sum(difference, glyphs)


def _sum(difference: RunDifference, glyphs: Glyphs) -> str:
    """The summary line: kernels that are worse, that differ otherwise, or could not be compared."""
    groups: dict[str, list[str]] = {}
    for kernel in difference.kernels:
        if kernel.cannot:
            group = "not comparable"
        elif kernel.is_worse:
            group = "worse"
        else:
            group = "the same" if kernel.is_same else "otherwise, not worse"
        groups.setdefault(group, []).append(glyphs.safe(kernel.after.name, 64))
    parts = [plural(len(difference.kernels), "kernel") + " compared"]
    for group in ("worse", "not comparable", "otherwise, not worse"):
        if group in groups:
            parts.append(f"{group}: {', '.join(groups[group])}")
    if "the same" in groups:
        parts.append(f"{len(groups['the same'])} the same")
    return "; ".join(parts)


def to_json(difference: Difference) -> dict[str, Any]:
    """The object ``comparison`` of ``check --against --json``; keys are added, never renamed."""
    return {
        "before": _kernel(difference.before),
        "after": _kernel(difference.after),
        "cannot": difference.cannot,
        "worse": difference.is_worse,
        "same": difference.is_same,
        "checks": [
            {
                "id": change.check,
                "change": change.kind,
                "places": [str(after.key) for _, after in change.places],
                "compared": change.compared,
                "detail": change.places[0][1].detail,
            }
            for change in difference.changes
        ],
        "capabilities": [
            {
                "name": change.name,
                "families": list(change.families),
                "before": change.before,
                "after": change.after,
                "before_detail": change.before_detail,
                "after_detail": change.after_detail,
                "known": change.known,
            }
            for change in difference.capabilities
        ],
        "incidents": {
            "new": [_incident(incident) for incident in difference.new_incidents],
            "gone": [_incident(incident) for incident in difference.gone_incidents],
        },
        "bad_in_both": list(difference.still),
        "not_compared": {
            "before": [str(key) for key in difference.only_before],
            "after": [str(key) for key in difference.only_after],
        },
        "timing": [
            {"what": pace.what, "before_s": pace.before_s, "after_s": pace.after_s}
            for pace in difference.paces
        ],
        "notes": list(difference.notes),
    }


def runs_to_json(difference: RunDifference) -> dict[str, Any]:
    """The object of ``compare --json``; keys are added, never renamed."""
    return {
        "schema": 1,
        "before": {"run": difference.before.id, "started": difference.before.started},
        "after": {"run": difference.after.id, "started": difference.after.started},
        "cannot": difference.cannot,
        "worse": difference.is_worse,
        "complete": difference.is_complete,
        "kernels": [to_json(kernel) for kernel in difference.kernels if not kernel.is_same],
        "same": [kernel.after.name for kernel in difference.kernels if kernel.is_same],
        "new": [_kernel(kernel) for kernel in difference.new],
        "gone": list(difference.gone),
        "missing": list(difference.missing),
        "notes": list(difference.notes),
    }


def _kernel(kernel: KernelResult) -> dict[str, str]:
    return {
        "name": kernel.name,
        "release": kernel.release,
        "image_sha256": kernel.image_sha256,
        "verdict": kernel.verdict,
    }


def _incident(incident: Incident) -> dict[str, str]:
    return {"kind": incident.kind, "title": incident.title, "fingerprint": incident.fingerprint}
