# SPDX-License-Identifier: GPL-2.0-only
"""What the change log of a Debian kernel says between two versions that may concern a check.

Debian lists the commits of each stable update by their subjects, but for a new mainline version it
only says that there is one. So an empty answer proves nothing, and the notes say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from harness.bisect.candidates import Candidate
from harness.bisect.predicate import Checks, Predicate
from harness.bisect.results import LogEntry
from harness.errors import HostError
from harness.kernels import Cache, KernelUnavailable, changelog
from harness.kernels.changelog import Changes, Entry
from harness.kernels.packages import version_key
from harness.manifest.kernels_yaml import DebSource
from harness.verdict.judge import CAPABILITY

# net/mptcp, and net/ipv4/tcp*.c: subjects begin with "tcp:", "net/tcp-ao:", "net: tcp: ...", and
# what several protocols share is under "net:", "ipv4:", "inet:". "nvme-tcp:" is another matter.
_SUBJECT = re.compile(
    r"mptcp"
    r"|^(?:Revert \"|\[[^]]*\] )*(?:net/)?tcp(?:[-_/ ][a-z0-9]+)?:"
    r"|^(?:Revert \"|\[[^]]*\] )*(?:net|(?:net/)?ipv[46]|inet|sock)[:,].*\btcp(?:_\w+)?\b",
    re.IGNORECASE,
)
_MAINLINE = re.compile(r"New upstream release(?: candidate)?\b")
# Of what a check is about, what may stand in a subject; others are words of every other commit.
_OPTION = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+")


def entries_between(
    good: Candidate,
    bad: Candidate,
    check_pattern: str | None,
    cache: Cache,
    say: Callable[[str], None],
) -> Changes:
    """What the newer of the two has over the older that mentions MPTCP, TCP or the checked option.

    ``check_pattern`` is a check's id, or globs of such separated by commas. Raises
    HostError; for one log a package of 1 to 170 MB is downloaded, once.
    """
    older, newer = sorted((good, bad), key=lambda candidate: version_key(candidate.version))
    source = newer.entry.source
    if not isinstance(source, DebSource) or not (older.version and newer.version):
        raise HostError(
            f"{newer.entry.name} and {older.entry.name} are not both Debian packages, so no change "
            "log leads from the one to the other; `git log` in a kernel tree does"
        )
    try:
        log = changelog.read(source, cache, say)
    except KernelUnavailable as error:
        raise HostError(f"the change log could not be had: {error}") from error
    entries = list(changelog.entries(log.text))
    within = [e for e in entries if changelog.is_between(e.version, older.version, newer.version)]
    if not within:
        raise HostError(
            f"the change log of {log.origin} has no entry after {older.version} up to "
            f"{newer.version}; `git log` in a kernel tree may tell more"
        )
    reached = changelog.reaches(entries, older.version)
    return Changes(
        items=tuple(_concerning(within, words_of(check_pattern))),
        total=sum(len(entry.items) for entry in within),
        versions=len(within),
        origin=log.origin,
        notes=tuple(_notes(within, "" if reached else older.version)),
    )


def teller(
    cache: Cache, say: Callable[[str], None]
) -> Callable[[Candidate, Candidate, Predicate], tuple[tuple[LogEntry, ...], tuple[str, ...]]]:
    """:func:`entries_between` for a bisect's report, to which a missing log is a note, no more."""

    def tell(
        good: Candidate, bad: Candidate, looked_for: Predicate
    ) -> tuple[tuple[LogEntry, ...], tuple[str, ...]]:
        pattern = ",".join(looked_for.globs) if isinstance(looked_for, Checks) else None
        try:
            found = entries_between(good, bad, pattern, cache, say)
        except HostError as error:
            return (), (str(error),)
        items = tuple(LogEntry(version, text) for version, text in found.items)
        counted = f"{len(items)} of {found.total} entries in {found.origin} may concern it"
        return items, (counted, *found.notes)

    return tell


def words_of(check_pattern: str | None) -> tuple[str, ...]:
    """The options that checks are named for: ``FULL_INFO`` for ``full_info.*``."""
    found = []
    for part in (check_pattern or "").split(","):
        name = part.strip().removeprefix(CAPABILITY).partition(".")[0]
        if _OPTION.fullmatch(name):
            found.append(name.upper())
    return tuple(dict.fromkeys(found))


def _concerning(entries: Sequence[Entry], words: Sequence[str]) -> list[tuple[str, str]]:
    named = "|".join(re.escape(word) for word in words)
    option = re.compile(rf"(?<![A-Za-z0-9])(?:MPTCP_)?(?:{named})(?![A-Za-z0-9_])")
    return [
        (entry.version, item)
        for entry in entries
        for item in entry.items
        if _SUBJECT.search(item) or (words and option.search(item))
    ]


def _notes(entries: Sequence[Entry], unreached: str) -> list[str]:
    notes = []
    mainline = [e.version for e in entries if any(_MAINLINE.match(item) for item in e.items)]
    if mainline:
        shown = ", ".join(mainline[:4]) + (", …" if len(mainline) > 4 else "")
        notes.append(
            "the log does not list the commits of a new mainline version, and these entries are "
            f"such: {shown}"
        )
    if unreached:
        notes.append(f"the log does not reach back to {unreached}")
    return notes
