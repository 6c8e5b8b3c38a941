# SPDX-License-Identifier: GPL-2.0-only
"""The ``deb`` source: Debian's kernel packages, of which only what a boot needs is kept.

A package unpacks to as much as 780 MB; it is streamed through, and never lies on the disk.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from harness.kernels import apt, modules, packages
from harness.kernels.assemble import assemble, prepared
from harness.kernels.cache import Built, Cache, digest
from harness.kernels.kernel_image import RELEASE, recognise
from harness.kernels.modules import Module, ModuleSet
from harness.kernels.packages import Package
from harness.kernels.prepared import KernelUnavailable, PreparedKernel
from harness.manifest import DebSource

# Suites and packages become words of apt's configuration and command line.
_SUITE = re.compile(r"[a-z0-9][A-Za-z0-9.+~/-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+")

_IMAGE = re.compile(rf"(?:\./)?(?:boot/vmlinuz-{RELEASE}|usr/lib/modules/{RELEASE}/vmlinuz)")
_MODULES = rf"(?:\./)?(?:usr/)?lib/modules/{RELEASE}"
_MODULE = re.compile(rf"{_MODULES}/.+")
_BUILTIN = re.compile(rf"{_MODULES}/{re.escape(modules.BUILTIN)}")
# No vmlinuz and no module that a boot needs comes near this size, in bytes.
_MEMBER_LIMIT = 256 << 20
_PIPE_BUFFER = 1 << 20


def prepare(
    name: str, source: DebSource, cache: Cache, say: Callable[[str], None]
) -> PreparedKernel:
    """The kernel that ``source`` names; a metapackage stands for its suite's current one.

    What the cache holds is found through the index alone: nothing is downloaded again.
    """
    _check_suite(source.suite)
    if not _PACKAGE.fullmatch(source.package):
        raise KernelUnavailable(
            f"{source.package!r} cannot be the name of a package; give one such as "
            "linux-image-amd64"
        )
    index = apt.index(source.suite, cache, say)
    try:
        return _prepare(name, source, index, cache, say)
    except apt.Gone as gone:
        say(f"{gone}: reading the index again")
        index = apt.index(source.suite, cache, say, refresh=True)
        return _prepare(name, source, index, cache, say)


def series(source: DebSource, cache: Cache, say: Callable[[str], None]) -> list[Package]:
    """The kernels that the pattern in ``source`` matches, oldest first."""
    _check_suite(source.suite)
    index = apt.index(source.suite, cache, say)
    return packages.matching(index, source.package, source.suite)


def _check_suite(suite: str) -> None:
    if not _SUITE.fullmatch(suite) or ".." in suite:
        raise KernelUnavailable(
            f"{suite!r} cannot be the name of a suite; give one of Debian's, such as bookworm"
        )


def _prepare(
    name: str,
    source: DebSource,
    index: dict[str, Package],
    cache: Cache,
    say: Callable[[str], None],
) -> PreparedKernel:
    kernel = packages.resolve(index, source.package, source.suite)
    identity = [[part.name, part.version, part.sha256] for part in kernel.parts]

    def build(root: Path) -> Built:
        with cache.scratch() as directory:
            size = sum(part.size for part in kernel.parts) / 1e6
            say(f"downloading {kernel.name} ({size:.0f} MB)")
            files = apt.download(source.suite, kernel.parts, directory, cache)
            say(f"unpacking {kernel.name}")
            return unpack(list(files.values()), root, kernel.name)

    entry = cache.entry(f"deb-{kernel.release}-{digest(identity)}", build, say)
    origin = f"{source.suite} {kernel.name} {kernel.version}"
    return prepared(name, entry, origin=origin, version=kernel.version)


def unpack(debs: Iterable[Path], root: Path, what: str) -> Built:
    """Fill ``root`` from the packages of one kernel, called ``what`` in messages."""
    debs = list(debs)
    images: dict[str, bytes] = {}
    builtin: list[bytes] = []

    def fetch(names: frozenset[str]) -> Iterator[Module]:
        for deb in debs:
            for path, data in _members(deb, lambda path: _is_wanted(path, names)):
                if _IMAGE.fullmatch(path):
                    images[path] = data
                elif _BUILTIN.fullmatch(path):
                    builtin.append(data)
                else:
                    yield modules.load(path, data)

    chosen = modules.collect(fetch)
    if len(images) != 1:
        raise KernelUnavailable(
            f"the package {what} holds {len(images) or 'no'} kernel images; name a package of "
            "one kernel, such as linux-image-amd64"
        )
    image = recognise(next(iter(images.values())), f"the image in {what}")
    found = ModuleSet(chosen, modules.builtin_names(builtin[0]) if builtin else None)
    modules.check_event_channel(found, what)
    return assemble(root, image, found)


def _is_wanted(path: str, names: frozenset[str]) -> bool:
    if _IMAGE.fullmatch(path) or _BUILTIN.fullmatch(path):
        return True
    return _MODULE.fullmatch(path) is not None and modules.module_name(path) in names


def _members(deb: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The regular files in ``deb`` whose paths are wanted, in one pass: (path, contents)."""
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=_PIPE_BUFFER) as archive:
                for member in archive:
                    if not member.isreg() or not is_wanted(member.name):
                        continue
                    if member.size > _MEMBER_LIMIT:
                        raise KernelUnavailable(f"{deb.name} is damaged: {member.name} is huge")
                    file = archive.extractfile(member)
                    assert file is not None
                    yield member.name, file.read()
        except tarfile.TarError as error:
            raise KernelUnavailable(f"{deb.name} cannot be unpacked: {error}") from error
        finally:
            process.stdout.close()
            said = process.stderr.read().decode("utf-8", "replace").strip()
    # Once its reader closed the pipe behind the last member, dpkg-deb may die of SIGPIPE.
    if process.returncode > 0 and said:
        raise KernelUnavailable(f"{deb.name} cannot be unpacked: {said}")
