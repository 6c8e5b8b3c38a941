# SPDX-License-Identifier: GPL-2.0-only
"""The kernels of a search, ordered by version: those of one series, or all of the manifest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness import kernels
from harness.errors import KernelUnavailable, UsageError
from harness.kernels import Cache
from harness.kernels.debian import version_key
from harness.manifest.entries import DebSource, KernelEntry

#: Entries of the manifest that are not available, and why.
_Failed = list[tuple[KernelEntry, KernelUnavailable]]


@dataclass(frozen=True)
class Candidate:
    """A kernel that can be tested. ``version`` is its package's, "" if there is none."""

    entry: KernelEntry
    release: str
    version: str


@dataclass(frozen=True)
class Series:
    """Kernels, oldest first, from one end to the other, both included.

    ``reversed`` is set if the good one is newer: something was fixed or gained. ``notes`` say which
    kernels are missing because they could not be identified.
    """

    candidates: tuple[Candidate, ...]
    reversed: bool = False
    notes: tuple[str, ...] = ()


def between(
    entries: Sequence[KernelEntry],
    good: str,
    bad: str,
    cache: Cache,
    say: Callable[[str], None] = lambda _: None,
) -> Series:
    """The kernels from ``good`` to ``bad``; only package indexes are downloaded.

    A name is a kernel of the manifest, a kernel of one of its series, or the release or version of
    exactly one of them. Two kernels of one series select that series; any other two select all
    kernels of the manifest with a version between theirs, each package once.

    Raises UsageError, and KernelUnavailable if a series cannot be read.
    """
    for entry in entries:
        if entry.is_series and all(name.startswith(f"{entry.name}-") for name in (good, bad)):
            found = [
                _identified(kernel, cache, say) for kernel in kernels.expand(entry, cache, say)
            ]
            if {good, bad} <= {candidate.entry.name for candidate in found}:
                return _cut(found, _named(found, good), _named(found, bad))
    found, failed = _all(entries, cache, say)
    ends = (_had(found, failed, good), _had(found, failed, bad))
    return _cut(_once(found, ends), *ends, _notes(failed))


def everything(
    entries: Sequence[KernelEntry], cache: Cache, say: Callable[[str], None] = lambda _: None
) -> tuple[list[Candidate], tuple[str, ...]]:
    """All kernels of the manifest and of its series, and notes on those that are not available.

    A kernel may occur under two names; :func:`whole` has each once, in order.
    """
    found, failed = _all(entries, cache, say)
    return found, _notes(failed)


def _all(
    entries: Sequence[KernelEntry], cache: Cache, say: Callable[[str], None]
) -> tuple[list[Candidate], _Failed]:
    found: list[Candidate] = []
    failed: _Failed = []
    for entry in entries:
        try:
            members = kernels.expand(entry, cache, say)
            found += [_identified(member, cache, say) for member in members]
        except KernelUnavailable as error:
            failed.append((entry, error))
    return found, failed


def _notes(failed: _Failed) -> tuple[str, ...]:
    return tuple(f"{entry.name} is skipped: {error}" for entry, error in failed)


def whole(
    entries: Sequence[KernelEntry], cache: Cache, say: Callable[[str], None] = lambda _: None
) -> Series:
    """All kernels of the manifest, plain ones and those of its series, oldest first."""
    found, notes = everything(entries, cache, say)
    return Series(tuple(sorted(_once(found), key=age)), notes=notes)


def age(candidate: Candidate) -> tuple[object, ...]:
    """A key that sorts older kernels before newer ones.

    A release such as 6.1.0-50-amd64 does not show the stable release; the package version does.
    """
    return (
        version_key(_sortable(candidate.version or candidate.release)),
        version_key(_sortable(candidate.release)),
        candidate.entry.name,
    )


def _sortable(version: str) -> str:
    """``version`` with a tilde before rc, because a release candidate is older than its release."""
    return re.sub(r"-rc(?=\d)", "~rc", version)


def _identified(entry: KernelEntry, cache: Cache, say: Callable[[str], None]) -> Candidate:
    identity = kernels.identify(entry, cache, say)
    return Candidate(entry, identity.release, identity.version)


def _cut(
    found: Sequence[Candidate], good: Candidate, bad: Candidate, notes: tuple[str, ...] = ()
) -> Series:
    if _same(good, bad):
        raise UsageError(
            f"{good.entry.name} and {bad.entry.name} are the same kernel ({good.release}); choose "
            f"two different ones"
        )
    ordered = sorted(found, key=age)
    ends = sorted((ordered.index(good), ordered.index(bad)))
    chosen = tuple(ordered[ends[0] : ends[1] + 1])
    return Series(chosen, reversed=chosen[0] is bad, notes=notes)


def _once(found: Sequence[Candidate], preferred: Sequence[Candidate] = ()) -> list[Candidate]:
    """Each package once, under the name that the user gave, else under its first name."""
    kept: list[Candidate] = []
    for candidate in (*preferred, *found):
        if not any(_same(candidate, other) for other in kept):
            kept.append(candidate)
    return kept


def _same(one: Candidate, other: Candidate) -> bool:
    if one.entry.append != other.entry.append:  # `kasan=off` makes it another kernel to test
        return False
    debs = isinstance(one.entry.source, DebSource) and isinstance(other.entry.source, DebSource)
    package = debs and (one.release, one.version) == (other.release, other.version)
    return package or one.entry.source == other.entry.source


def _had(found: Sequence[Candidate], failed: _Failed, name: str) -> Candidate:
    """As :func:`_named`, with another error for a kernel of the manifest that is not available."""
    try:
        return _named(found, name)
    except UsageError:
        for entry, error in failed:
            if name == entry.name or (entry.is_series and name.startswith(f"{entry.name}-")):
                raise KernelUnavailable(f"{name} is not available: {error}") from error
        raise


def _named(found: Sequence[Candidate], name: str) -> Candidate:
    """The candidate called ``name``, or the only package with that release or version."""
    for candidate in found:
        if candidate.entry.name == name:
            return candidate
    alike = _once([candidate for candidate in found if name in set(_other_names(candidate))])
    if len(alike) == 1:
        return alike[0]
    if alike:
        names = ", ".join(candidate.entry.name for candidate in alike)
        raise UsageError(f"{name} may be {names}; name one of them")
    names_of_all = {text: c.entry.name for c in found for text in (c.entry.name, *_other_names(c))}
    near = difflib.get_close_matches(name, names_of_all, n=6, cutoff=0.5)
    if near:
        hint = " or ".join(list(dict.fromkeys(names_of_all[text] for text in near))[:3])
        raise UsageError(f"there is no kernel {name}; did you mean {hint}?")
    shown = ", ".join(candidate.entry.name for candidate in found[:6]) or "none"
    raise UsageError(
        f"there is no kernel {name}; give one of the manifest, or one of a series as the series "
        f"and the release, such as backports-6.17.8+deb13-amd64 (the first are: {shown})"
    )


def _other_names(candidate: Candidate) -> Iterator[str]:
    """6.17.8+deb13-amd64, 6.17.8-1 and 6.17.8."""
    for text in (candidate.release, candidate.version):
        if text:
            yield text
            yield re.split(r"[+-]", text)[0]
