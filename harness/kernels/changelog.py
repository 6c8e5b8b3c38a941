# SPDX-License-Identifier: GPL-2.0-only
"""The change logs of Debian's kernels: read from a package, kept in the cache, taken apart.

``apt-get changelog`` asks a server of its own, which a mirror or a proxy does not stand in for, and
for a signed image it knows only who signed it. The packages themselves hold the whole log.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from harness.errors import KernelUnavailable, Malformed
from harness.host.files import touch
from harness.kernels import apt, compression, deb
from harness.kernels.cache import Cache, digest
from harness.kernels.debian import KernelPackages, Package, version_key
from harness.manifest.kernels_yaml import DebSource

#: Of the cache, where they are kept as they came, by package.
DIRECTORY = "changelogs"
SUFFIX = ".gz"

_MEMBER = re.compile(r"(?:\./)?usr/share/doc/[^/]+/changelog(?:\.Debian)?\.gz")
# In bytes; that of 6.12.117 has 1.5 MB, and 4.3 MB unpacked.
_PACKED_LIMIT = 16 << 20
UNPACKED_LIMIT = 64 << 20
# In characters; the longest line of a real one has 111, the longest item a few lines.
_LINE_LIMIT = 1000
_ITEM_LIMIT = 2000
# The release of a kernel is that of its headers and a flavour.
_RELEASE = re.compile(r"(\S+?)(?:-(?:cloud|rt))?-amd64(?:-unsigned)?")
_HEAD = re.compile(r"(linux[a-z0-9.+-]*) \(([A-Za-z0-9.+:~-]{1,100})\) .*")
# The log of a signed image begins with an entry of its own that holds the kernel's newest.
_SIGNED = re.compile(r"\s+\* Sign kernel from linux ([A-Za-z0-9.+:~-]{1,100})")
_REBUILD = re.compile(r"~(?:bpo|deb)[0-9]+[+u][0-9.]+")
_ITEM = re.compile(r"(\s+)[*-] (.*)")


@dataclass(frozen=True)
class ChangeLog:
    """``text`` is of others' making; ``origin`` says for people which package it is from."""

    text: str
    origin: str


@dataclass
class ChangelogEntry:
    """What a version of the package changed: an item for each commit or remark, on one line."""

    version: str
    items: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Changes:
    """What changed from one kernel to a newer one, as far as it may concern what is tested.

    ``items`` are pairs (version of the package that brought it, text), newest first, of ``total``
    items in ``versions`` entries. ``notes`` tell what the log leaves out. All text is of others'
    making, to be escaped where it is shown.
    """

    items: tuple[tuple[str, str], ...]
    total: int
    versions: int
    origin: str
    notes: tuple[str, ...] = ()


def read(source: DebSource, cache: Cache, say: Callable[[str], None]) -> ChangeLog:
    """The change log of the kernel that ``source`` names. Raises KernelUnavailable."""
    kernel = deb.identify(source, cache, say=say)
    origin = f"{kernel.name} {kernel.version} of {source.suite}"
    key = digest([[part.name, part.version, part.sha256] for part in kernel.parts])
    place = cache.directory(DIRECTORY) / f"{kernel.release}-{key}{SUFFIX}"
    if place.is_file():
        try:
            text = _unpacked(place.read_bytes())
        except (Malformed, compression.Unknown):
            pass  # a power failure tore it
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
    """As it is in the smallest package of ``kernel``'s source and version that can be had."""
    failures = []
    for package in _holders(kernel, suite, cache):
        with cache.scratch() as directory:
            say(f"downloading {package.name} ({package.size / 1e6:.0f} MB) for its change log")
            try:
                file = apt.download(suite, [package], directory, cache, say=say)[package.name]
                for _, packed in deb.members(file, _is_log, cache.stop):
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
    """Those that hold the log, the smallest first: 1 MB, 11 MB (where still there), 70 to 170 MB.

    From 6.19 on the image's package has only a link to that of linux-base.
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


def entries(text: str) -> Iterator[ChangelogEntry]:
    """The entries of a change log, in its order: newest first. What is none is passed over."""
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
    """Whether an entry is of ``version`` or of an older one."""
    return any(_order(entry.version) <= _order(version) for entry in found)


def _order(version: str) -> tuple[object, ...]:
    """7.3.4-1~bpo13+1, though it sorts before 7.3.4-1, is a build of it and has all it has."""
    return version_key(_REBUILD.sub("", version))
