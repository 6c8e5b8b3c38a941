# SPDX-License-Identifier: GPL-2.0-only
"""The ``deb`` source: Debian's kernel packages; only the files that a boot needs are kept.

A package unpacks to up to 780 MB; it is streamed and never written to the disk.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from harness.errors import Interrupted, KernelUnavailable
from harness.host.programs import Supervised
from harness.kernels import apt, debian, modules
from harness.kernels.cache import Built, Cache, digest
from harness.kernels.debian import KernelPackages, Package
from harness.kernels.kernel_image import RELEASE, PreparedKernel, assemble, prepared, recognise
from harness.kernels.modules import Module, ModuleSet
from harness.manifest.kernels_yaml import DebSource

# Suites and packages become part of apt's configuration and command line.
_SUITE = re.compile(r"[a-z0-9][A-Za-z0-9.+~/-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+")

_IMAGE = re.compile(rf"(?:\./)?(?:boot/vmlinuz-{RELEASE}|usr/lib/modules/{RELEASE}/vmlinuz)")
_MODULES = rf"(?:\./)?(?:usr/)?lib/modules/{RELEASE}"
_MODULE = re.compile(rf"{_MODULES}/.+")
_BUILTIN = re.compile(rf"{_MODULES}/{re.escape(modules.BUILTIN)}")
# Bytes; every vmlinuz and every module that a boot needs is much smaller.
_MEMBER_LIMIT = 256 << 20
# Limits of a package: unpacked bytes and members; real ones have 780 MB and 5000. The whole package
# is decompressed, and tarfile keeps every header.
_PACKAGE_LIMIT = 8 << 30
_MEMBERS_LIMIT = 200_000
# The wanted files of a package are kept in memory; real packages have 20 MB of them.
_WANTED_LIMIT = 512 << 20
#: Seconds until dpkg-deb ends after its output is closed.
_PATIENCE = 60
# The limit of a name or attributes of the next member, which tarfile reads completely.
_HEADER_LIMIT = 1 << 20
_EXTENSIONS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_PIPE_BUFFER = 1 << 20


def prepare(
    name: str, source: DebSource, cache: Cache, say: Callable[[str], None]
) -> PreparedKernel:
    """The kernel that ``source`` names; a metapackage means the current kernel of its suite.

    A cached kernel is found through the index; nothing is downloaded again.
    """
    _check_suite(source.suite)
    if not _PACKAGE.fullmatch(source.package):
        raise KernelUnavailable(
            f"{source.package!r} is not a valid name of a package; give one such as "
            "linux-image-amd64"
        )
    index = apt.index(source.suite, cache, say)
    try:
        return _prepare(name, source, index, cache, say)
    except apt.Gone as gone:
        say(f"{gone}: reading the index again")
        index = apt.index(source.suite, cache, say, refresh=True)
        return _prepare(name, source, index, cache, say)


def identify(source: DebSource, cache: Cache, say: Callable[[str], None]) -> KernelPackages:
    """The kernel that ``source`` names, found through the index alone."""
    _check_suite(source.suite)
    return debian.resolve(apt.index(source.suite, cache, say), source.package, source.suite)


def series(source: DebSource, cache: Cache, say: Callable[[str], None]) -> list[Package]:
    """The kernels that the pattern in ``source`` matches, oldest first."""
    _check_suite(source.suite)
    index = apt.index(source.suite, cache, say)
    return debian.matching(index, source.package, source.suite)


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
) -> PreparedKernel:
    kernel = debian.resolve(index, source.package, source.suite)
    identity = [[part.name, part.version, part.sha256] for part in kernel.parts]

    def build(root: Path) -> Built:
        with cache.scratch() as directory:
            size = sum(part.size for part in kernel.parts) / 1e6
            say(f"downloading {kernel.name} ({size:.0f} MB)")
            files = apt.download(source.suite, kernel.parts, directory, cache, say=say)
            say(f"unpacking {kernel.name}")
            return unpack(list(files.values()), root, kernel.name, cache.stop)

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
        f"{suite} no longer has {absent[0]}: what this kernel has as a module, such as inet_diag, "
        "is missing, and checks that need it are unsupported",
    )


def unpack(debs: Iterable[Path], root: Path, what: str, stop: threading.Event) -> Built:
    """Fill ``root`` from the packages of one kernel, called ``what`` in messages.

    Raises KernelUnavailable, also once ``stop`` is set.
    """
    debs = list(debs)
    images: dict[str, bytes] = {}
    builtin: list[bytes] = []

    def fetch(names: frozenset[str]) -> Iterator[Module]:
        for deb in debs:
            for path, data in members(deb, lambda path: _is_wanted(path, names), stop):
                if _IMAGE.fullmatch(path):
                    images[path] = data
                elif _BUILTIN.fullmatch(path):
                    builtin.append(data)
                else:
                    yield modules.load(path, data)

    chosen = modules.collect(fetch)
    if len(images) != 1:
        raise KernelUnavailable(
            f"the package {what} holds {len(images) or 'no'} kernel images; give a package with "
            f"one kernel, such as linux-image-amd64"
        )
    image = recognise(next(iter(images.values())), f"the image in {what}")
    found = ModuleSet(chosen, modules.builtin_names(builtin[0]) if builtin else None)
    modules.check_event_channel(found, what)
    return assemble(root, image, found)


def _is_wanted(path: str, names: frozenset[str]) -> bool:
    if _IMAGE.fullmatch(path) or _BUILTIN.fullmatch(path):
        return True
    return _MODULE.fullmatch(path) is not None and modules.module_name(path) in names


class _Header(tarfile.TarInfo):
    """A member's header of limited size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENSIONS and header.size > _HEADER_LIMIT:
            # tarfile treats some of its own errors as the end of the archive.
            raise _Excess(f"a header of {header.size} bytes")
        return header


class _Excess(Exception):
    """A package exceeds a limit; the text says which."""


class _Budget:
    """Counts the content of a package, and raises _Excess if it exceeds a limit."""

    def __init__(self) -> None:
        self._members = self._bytes = self._wanted = 0

    def member(self, member: tarfile.TarInfo) -> None:
        self._members += 1
        self._bytes += member.size
        if self._members > _MEMBERS_LIMIT:
            raise _Excess(f"more than {_MEMBERS_LIMIT} members")
        if self._bytes > _PACKAGE_LIMIT:
            raise _Excess(f"more than {_PACKAGE_LIMIT >> 20} MiB")

    def wanted(self, member: tarfile.TarInfo) -> None:
        self._wanted += member.size
        if member.size > _MEMBER_LIMIT:
            raise _Excess(f"{member.name} of {member.size} bytes")
        if self._wanted > _WANTED_LIMIT:
            raise _Excess(f"more than {_WANTED_LIMIT >> 20} MiB of images and modules")


def members(
    deb: Path, is_wanted: Callable[[str], bool], stop: threading.Event
) -> Iterator[tuple[str, bytes]]:
    """The regular files in ``deb`` whose paths are wanted, in one pass: (path, contents).

    Raises KernelUnavailable, also if the package exceeds a limit.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile())
        read, write = os.pipe()
        source = stack.enter_context(os.fdopen(read, "rb", buffering=0))
        with os.fdopen(write, "wb") as output:
            program = stack.enter_context(
                Supervised(command, os.environ, output=output, errors=errors)
            )
        try:
            with tarfile.open(
                fileobj=source, mode="r|", bufsize=_PIPE_BUFFER, tarinfo=_Header
            ) as archive:
                budget = _Budget()
                for member in archive:
                    if stop.is_set():
                        raise KernelUnavailable("interrupted")
                    budget.member(member)
                    if not member.isreg() or not is_wanted(member.name):
                        continue
                    budget.wanted(member)
                    file = archive.extractfile(member)
                    assert file is not None
                    yield member.name, file.read()
        # RecursionError: tarfile calls itself for each header that only names the next member.
        except (tarfile.TarError, RecursionError) as error:
            raise KernelUnavailable(f"{deb.name} cannot be unpacked: {error}") from error
        except _Excess as excess:
            raise KernelUnavailable(
                f"{deb.name} is not a kernel package: it has {excess}"
            ) from None
        source.close()
        try:
            status = program.wait(stop, _PATIENCE)
        except (Interrupted, subprocess.TimeoutExpired) as error:
            raise KernelUnavailable(f"{deb.name}: {error}") from error
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip()
    # dpkg-deb may die of SIGPIPE after its reader closed the pipe behind the last member.
    if 0 < status < 128 and said:
        raise KernelUnavailable(f"{deb.name} cannot be unpacked: {said}")
