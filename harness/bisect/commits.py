# SPDX-License-Identifier: GPL-2.0-only
"""The commits between a good kernel and a bad one: from Debian's change log; and the
``git bisect`` that continues in a kernel tree.

``apt-get changelog`` contacts its own server, which no mirror or proxy replaces, and for a
signed image it knows only who signed it. The packages themselves hold the whole log: it is read
from one, kept in the cache as it came, and taken apart."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from harness.bisect.candidates import Candidate
from harness.bisect.predicate import Checks, Predicate
from harness.bisect.results import LogEntry
from harness.errors import HostError, KernelUnavailable, Malformed
from harness.host.files import touch
from harness.kernels import apt, archive, compression, deb
from harness.kernels.cache import Cache, digest
from harness.kernels.debian import KernelPackages, Package, version_key
from harness.manifest.entries import DebSource, UpstreamSource
from harness.verdict.judge import CAPABILITY

#: The directory of the cache for change logs, one for each package.
LOGS = "changelogs"
LOG_SUFFIX = ".gz"

_MEMBER = re.compile(r"(?:\./)?usr/share/doc/[^/]+/changelog(?:\.Debian)?\.gz")
# Bytes; the log of 6.12.117 has 1.5 MB, and 4.3 MB unpacked.
_PACKED_LIMIT = 16 << 20
UNPACKED_LIMIT = 64 << 20
# Characters; the longest line of a real log has 111, the longest item a few lines.
_LINE_LIMIT = 1000
_ITEM_LIMIT = 2000
# A kernel's release is that of its headers plus a flavour.
_RELEASE = re.compile(r"(\S+?)(?:-(?:cloud|rt))?-amd64(?:-unsigned)?")
_HEAD = re.compile(r"(linux[a-z0-9.+-]*) \(([A-Za-z0-9.+:~-]{1,100})\) .*")
# The log of a signed image begins with its own entry, which names the kernel's newest.
_SIGNED = re.compile(r"\s+\* Sign kernel from linux ([A-Za-z0-9.+:~-]{1,100})")
_REBUILD = re.compile(r"~(?:bpo|deb)[0-9]+[+u][0-9.]+")
_ITEM = re.compile(r"(\s+)[*-] (.*)")


@dataclass(frozen=True)
class ChangeLog:
    """A change log. ``text`` is foreign; ``origin`` names the package, for people."""

    text: str
    origin: str


@dataclass
class ChangelogEntry:
    """The changes of a package version: an item for each commit or remark, on one line."""

    version: str
    items: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Changes:
    """The changes from one kernel to a newer one that may concern the tests.

    ``items`` are pairs (package version, text), newest first, out of ``total`` items in
    ``versions`` entries. ``notes`` say what the log omits. All text is foreign and must be escaped.
    """

    items: tuple[tuple[str, str], ...]
    total: int
    versions: int
    origin: str
    notes: tuple[str, ...] = ()


def read_log(source: DebSource, cache: Cache, say: Callable[[str], None]) -> ChangeLog:
    """The change log of the kernel that ``source`` names. Raises KernelUnavailable."""
    kernel = deb.identify(source, cache, say=say)
    origin = f"{kernel.name} {kernel.version} of {source.suite}"
    key = digest([[part.name, part.version, part.sha256] for part in kernel.parts])
    place = cache.directory(LOGS) / f"{kernel.release}-{key}{LOG_SUFFIX}"
    if place.is_file():
        try:
            text = _unpacked(place.read_bytes())
        except (Malformed, compression.Unknown):
            pass  # damaged by a power failure
        else:
            touch(place)
            return ChangeLog(text, origin)
    packed = _download(kernel, source.suite, cache, say=say)
    try:
        text = _unpacked(packed)
    except (Malformed, compression.Unknown) as error:
        raise KernelUnavailable(
            f"the change log of {origin} cannot be unpacked: {error}"
        ) from error
    if not cache.is_read_only:
        with cache.scratch() as directory:
            (directory / "new").write_bytes(packed)
            shutil.move(directory / "new", place)
    return ChangeLog(text, origin)


def _unpacked(packed: bytes) -> str:
    return compression.decompress(packed, UNPACKED_LIMIT).decode("utf-8", "replace")


def _download(
    kernel: KernelPackages, suite: str, cache: Cache, say: Callable[[str], None]
) -> bytes:
    """The packed log from the smallest available package of ``kernel``'s source and version."""
    failures = []
    for package in _holders(kernel, suite, cache):
        with cache.scratch() as directory:
            say(f"downloading {package.name} ({package.size / 1e6:.0f} MB) for its change log")
            try:
                file = apt.download(suite, [package], directory, cache, say=say)[package.name]
                for _, packed in archive.members(file, _is_log, cache.stop):
                    if len(packed) > _PACKED_LIMIT:
                        raise KernelUnavailable(f"its change log has {len(packed)} bytes")
                    return packed
                failures.append(f"{package.name} holds no change log")
            except apt.Gone as gone:
                failures.append(str(gone))
            except KernelUnavailable as error:
                if cache.stop.is_set():
                    raise
                failures.append(f"{package.name}: {error}")
    raise KernelUnavailable("; ".join(failures) or f"no package holds {kernel.name}'s change log")


def _is_log(path: str) -> bool:
    return _MEMBER.fullmatch(path) is not None


def _holders(kernel: KernelPackages, suite: str, cache: Cache) -> Iterator[Package]:
    """The packages with the log, smallest first: 1 MB, 11 MB (if it still exists), 70 to 170 MB.

    From 6.19 on, the image's package only links to the log of linux-base.
    """
    for package in kernel.parts:
        if package.name.startswith("linux-base-"):
            yield package
    release = _RELEASE.fullmatch(kernel.release)
    if release:
        headers = apt.lookup(suite, f"linux-headers-{release[1]}-common", kernel.version, cache)
        if headers is not None:
            yield headers
    for package in kernel.parts:
        if package.name.startswith("linux-image-"):
            yield package


def entries_of(text: str) -> Iterator[ChangelogEntry]:
    """The entries of a change log, newest first. Other text is skipped."""
    entry: ChangelogEntry | None = None
    indent = -1
    for line in (line[:_LINE_LIMIT] for line in text.splitlines()):
        head = _HEAD.fullmatch(line)
        if head:
            if entry is not None:
                yield entry
            entry, indent = ChangelogEntry(head[2]), -1
            continue
        if entry is None:
            continue
        signed, item = _SIGNED.fullmatch(line), _ITEM.fullmatch(line)
        if signed:
            entry.version = signed[1]
        elif item:
            entry.items.append(item[2].strip())
            indent = len(item[1])
        elif indent >= 0 and line[: indent + 1].isspace() and line.strip():
            entry.items[-1] = f"{entry.items[-1]} {line.strip()}"[:_ITEM_LIMIT]
        else:
            indent = -1
    if entry is not None:
        yield entry


def is_between(version: str, older: str, newer: str) -> bool:
    """Whether ``version`` is newer than ``older``, and not newer than ``newer``."""
    return _order(older) < _order(version) <= _order(newer)


def reaches(found: Iterable[ChangelogEntry], version: str) -> bool:
    """Whether an entry has ``version`` or an older one."""
    return any(_order(entry.version) <= _order(version) for entry in found)


def _order(version: str) -> tuple[object, ...]:
    """A sort key. 7.3.4-1~bpo13+1 sorts before 7.3.4-1, but is a build of it with all its
    changes."""
    return version_key(_REBUILD.sub("", version))


# net/mptcp, and net/ipv4/tcp*.c: subjects begin with "tcp:", "net/tcp-ao:", "net: tcp: ...", and
# what several protocols share is under "net:", "ipv4:", "inet:". "nvme-tcp:" does not count.
_SUBJECT = re.compile(
    r"mptcp"
    r"|^(?:Revert \"|\[[^]]*\] )*(?:net/)?tcp(?:[-_/ ][a-z0-9]+)?:"
    r"|^(?:Revert \"|\[[^]]*\] )*(?:net|(?:net/)?ipv[46]|inet|sock)[:,].*\btcp(?:_\w+)?\b",
    re.IGNORECASE,
)
_MAINLINE = re.compile(r"New upstream release(?: candidate)?\b")
# The words of a check that may occur in a subject; others are too common.
_OPTION = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+")


def entries_between(
    good: Candidate,
    bad: Candidate,
    check_pattern: str | None,
    cache: Cache,
    say: Callable[[str], None],
) -> Changes:
    """The changes between the two that mention MPTCP, TCP or the checked option.

    ``check_pattern`` is a check's id, or globs separated by commas. Raises HostError. A package of
    1 to 170 MB is downloaded for each log, once.
    """
    older, newer = sorted((good, bad), key=lambda candidate: version_key(candidate.version))
    source = newer.entry.source
    if not isinstance(source, DebSource) or source.mirror or not (older.version and newer.version):
        raise HostError(
            f"{newer.entry.name} and {older.entry.name} are not both Debian packages, so there is "
            f"no change log between them; use `git log` in a kernel tree"
        )
    try:
        log = read_log(source, cache, say)
    except KernelUnavailable as error:
        raise HostError(f"the change log is not available: {error}") from error
    entries = list(entries_of(log.text))
    within = [e for e in entries if is_between(e.version, older.version, newer.version)]
    if not within:
        raise HostError(
            f"the change log of {log.origin} has no entry after {older.version} up to "
            f"{newer.version}; `git log` in a kernel tree may show more"
        )
    reached = reaches(entries, older.version)
    return Changes(
        items=tuple(_concerning(within, words_of(check_pattern))),
        total=sum(len(entry.items) for entry in within),
        versions=len(within),
        origin=log.origin,
        notes=tuple(_notes_on_entries(within, "" if reached else older.version)),
    )


def teller(
    cache: Cache, say: Callable[[str], None]
) -> Callable[[Candidate, Candidate, Predicate], tuple[tuple[LogEntry, ...], tuple[str, ...]]]:
    """:func:`entries_between` for a bisect's report, in which a missing log is only a note."""

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
    """The options in the names of checks: ``FULL_INFO`` for ``full_info.*``."""
    found = []
    for part in (check_pattern or "").split(","):
        name = part.strip().removeprefix(CAPABILITY).partition(".")[0]
        if _OPTION.fullmatch(name):
            found.append(name.upper())
    return tuple(dict.fromkeys(found))


def _concerning(entries: Sequence[ChangelogEntry], words: Sequence[str]) -> list[tuple[str, str]]:
    named = "|".join(re.escape(word) for word in words)
    option = re.compile(rf"(?<![A-Za-z0-9])(?:MPTCP_)?(?:{named})(?![A-Za-z0-9_])")
    return [
        (entry.version, item)
        for entry in entries
        for item in entry.items
        if _SUBJECT.search(item) or (words and option.search(item))
    ]


def _notes_on_entries(entries: Sequence[ChangelogEntry], unreached: str) -> list[str]:
    notes = []
    mainline = [e.version for e in entries if any(_MAINLINE.match(item) for item in e.items)]
    if mainline:
        shown = ", ".join(mainline[:4]) + (", …" if len(mainline) > 4 else "")
        notes.append(
            f"the log does not list the commits of a new mainline version, such as: {shown}"
        )
    if unreached:
        notes.append(f"the log does not reach back to {unreached}")
    return notes


# "6.17.8-1~bpo13+1", "6.17~rc3-1~exp1", "6.6", "6.12.117-dirty", "6.12.0-rc3+".
_VERSION = re.compile(r"(\d+\.\d+)(?:\.(\d+))?(?:[~-]rc(\d+))?")


@dataclass(frozen=True)
class Continuing:
    """The command that continues in a tree, "" if the tags are unknown; ``notes`` are warnings."""

    text: str = ""
    notes: tuple[str, ...] = ()


def git_bisect(
    good: Candidate, bad: Candidate, wanted: Predicate, *, reverse: bool = False
) -> Continuing:
    """The git bisect from ``good`` to ``bad``. With ``reverse``, the good one is newer, and git
    searches for the commit that fixed it."""
    tags = [tag(candidate) for candidate in (good, bad)]
    if not all(tags):
        return Continuing(
            notes=("there is no git bisect command, because the tag of a kernel is unknown",)
        )
    if tags[0] == tags[1]:
        debian = any(isinstance(c.entry.source, DebSource) for c in (good, bad))
        whose = "Debian's" if debian else "their"
        why = f"both kernels are built from {tags[0]}: they differ in {whose} patches or settings"
        return Continuing(notes=(why,))
    step = f"mptcp-harness step {_argument(wanted)}"
    if reverse:
        # git's old term is bad for step, so 0 and 1 are swapped.
        swapped = shlex.quote(f"{step}; s=$?; [ $s -le 1 ] && exit $((1 - s)); exit $s")
        start = f"git bisect start --term-old=broken --term-new=fixed {tags[0]} {tags[1]}"
        return Continuing(f"{start} && git bisect run sh -c {swapped}", _notes(good, bad))
    return Continuing(
        f"git bisect start {tags[1]} {tags[0]} && git bisect run {step}", _notes(good, bad)
    )


def tag(candidate: Candidate) -> str:
    """The tag of the stable or mainline release that ``candidate`` is based on, "" if unknown."""
    match = _VERSION.match(candidate.version or candidate.release)
    if match is None:
        return ""
    # Mainline's 6.17.0 is tagged v6.17.
    stable = f".{match[2]}" if match[2] and int(match[2]) else ""
    return f"v{match[1]}{stable}" + (f"-rc{match[3]}" if match[3] else "")


def _argument(wanted: Predicate) -> str:
    option, _, value = str(wanted).partition(" ")
    return f"{option} {shlex.quote(value)}" if value else option


def _notes(good: Candidate, bad: Candidate) -> tuple[str, ...]:
    notes = []
    if any(isinstance(candidate.entry.source, DebSource) for candidate in (good, bad)):
        notes.append(
            "the tags are those of the upstream releases; Debian's kernels have their own patches "
            "and configuration, so verify in the tree that both ends behave as here"
        )
    elif not all(isinstance(c.entry.source, UpstreamSource) for c in (good, bad)):
        notes.append("the tags are guessed from the releases; a build may be of another commit")
    branches = {_branch(candidate) for candidate in (good, bad)}
    if len(branches) > 1:
        notes.append(
            "the tags are on different stable branches: git bisect first tests their common "
            "ancestor"
        )
    return tuple(notes)


def _branch(candidate: Candidate) -> str:
    match = _VERSION.match(candidate.version or candidate.release)
    return match[1] if match else ""
