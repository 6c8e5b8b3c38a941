# SPDX-License-Identifier: GPL-2.0-only
"""The ``deb`` source: kernel packages of Debian's archive, or of another one laid out like it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.errors import KernelUnavailable
from harness.host.architectures import Arch
from harness.kernels import apt, archive, debian
from harness.kernels.cache import Built, Cache, digest
from harness.kernels.debian import Archive, KernelPackages, Package
from harness.kernels.kernel_image import PreparedKernel, prepared
from harness.manifest.entries import DebSource

# Suites and packages become part of apt's configuration and command line.
_SUITE = re.compile(r"[a-z0-9][A-Za-z0-9.+~/-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+")


def prepare(
    name: str,
    source: DebSource,
    cache: Cache,
    say: Callable[[str], None],
    arch: Arch = Arch.AMD64,
) -> PreparedKernel:
    """The kernel that ``source`` names; a metapackage means the current kernel of its suite.

    A cached kernel is found through the index; nothing is downloaded again. If the mirror no longer
    has the current kernel of a metapackage, this is the next older one that it has.
    """
    _check_suite(source.suite)
    if not _PACKAGE.fullmatch(source.package):
        raise KernelUnavailable(
            f"{source.package!r} is not a valid name of a package; give one such as "
            "linux-image-amd64"
        )

    def index(refresh: bool = False) -> dict[str, Package]:
        archive = other(source)
        return apt.index(source.suite, cache, say, refresh=refresh, arch=arch, archive=archive)

    def attempt(packages: dict[str, Package], package: str) -> PreparedKernel:
        return _prepare(name, replace(source, package=package), packages, cache, say, arch)

    try:
        return attempt(index(), source.package)
    except apt.Gone as gone:
        say(f"{gone}: reading the index again")
    packages = index(refresh=True)
    try:
        return attempt(packages, source.package)
    except apt.Gone as gone:
        return _older(source, packages, attempt, say, gone)


def _older(
    source: DebSource,
    packages: dict[str, Package],
    attempt: Callable[[dict[str, Package], str], PreparedKernel],
    say: Callable[[str], None],
    gone: apt.Gone,
) -> PreparedKernel:
    """The newest older kernel of the metapackage ``source`` that the mirror has, or raise
    ``gone``."""
    current = debian.resolve(packages, source.package, source.suite)
    for older in debian.older(packages, current) if source.package != current.name else ():
        note = f"the mirror no longer has {current.name} of {source.suite}; this is {older.name}"
        say(note)
        try:
            found = attempt(packages, older.name)
        except apt.Gone:
            continue
        return replace(found, notes=(note, *found.notes))
    raise gone


def identify(
    source: DebSource, cache: Cache, say: Callable[[str], None], arch: Arch = Arch.AMD64
) -> KernelPackages:
    """The kernel that ``source`` names, found through the index alone."""
    _check_suite(source.suite)
    index = apt.index(source.suite, cache, say, arch=arch, archive=other(source))
    return debian.resolve(index, source.package, source.suite)


def series(
    source: DebSource, cache: Cache, say: Callable[[str], None], arch: Arch = Arch.AMD64
) -> list[Package]:
    """The kernels that the pattern in ``source`` matches, oldest first."""
    _check_suite(source.suite)
    index = apt.index(source.suite, cache, say, arch=arch, archive=other(source))
    return debian.matching(index, source.package, source.suite)


def other(source: DebSource) -> Archive | None:
    """The archive of ``source``; None for Debian's."""
    if source.mirror is None or source.signed_by is None:
        return None
    return Archive(source.mirror, source.signed_by)


def _check_suite(suite: str) -> None:
    if not _SUITE.fullmatch(suite) or ".." in suite:
        raise KernelUnavailable(
            f"{suite!r} is not a valid name of a suite; give one of Debian's, such as bookworm"
        )


def _prepare(
    name: str,
    source: DebSource,
    index: dict[str, Package],
    cache: Cache,
    say: Callable[[str], None],
    arch: Arch,
) -> PreparedKernel:
    kernel = debian.resolve(index, source.package, source.suite)
    identity = [[part.name, part.version, part.sha256] for part in kernel.parts]

    def build(root: Path) -> Built:
        with cache.scratch() as directory:
            size = sum(part.size for part in kernel.parts) / 1e6
            say(f"downloading {kernel.name} ({size:.0f} MB)")
            files = apt.download(
                *(source.suite, kernel.parts, directory, cache, arch, say), other(source)
            )
            say(f"unpacking {kernel.name}")
            what = f"the package {kernel.name}"
            return archive.unpack(files.values(), root, what, cache.stop, arch=arch)

    entry = cache.entry(f"deb-{kernel.release}-{digest(identity)}", build, say)
    origin = f"{source.suite} {kernel.name} {kernel.version}"
    found = prepared(name, entry, origin=origin, version=kernel.version)
    return replace(found, notes=(*found.notes, *_missing_modules(kernel, source.suite)))


def _missing_modules(kernel: KernelPackages, suite: str) -> tuple[str, ...]:
    """A note where the suite has the kernel and not its modules."""
    absent = [name for name in kernel.absent if name.startswith("linux-modules-")]
    if not absent:
        return ()
    return (
        f"{suite} no longer has {absent[0]}: modules of this kernel, such as inet_diag, are "
        "missing, and checks that need them are unsupported",
    )
