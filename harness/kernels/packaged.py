# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that a developer built: ``deb: {file}``, ``rpm: {file}``, ``tar: {file}`` and ``url``.

Nobody signed such files. They are read without trust, see harness.kernels.archive.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from harness.errors import KernelUnavailable
from harness.host import fetcher, files, programs, tools
from harness.host.architectures import Arch
from harness.kernels import archive, image, modules
from harness.kernels.cache import Built, Cache, digest, file_sha256, unavailable
from harness.kernels.kernel_image import PreparedKernel, assemble, prepared, recognise
from harness.kernels.modules import ModuleSet
from harness.manifest.entries import FileSource, UrlSource

Say = Callable[[str], None]
#: Seconds for a download.
_TIMEOUT = 3600


def prepare(
    name: str, source: FileSource, cache: Cache, say: Say, arch: Arch = Arch.AMD64
) -> PreparedKernel:
    """The kernel in the files of ``source``. Raises KernelUnavailable."""
    for path in source.files:
        found = _format(path)
        if found is None or found.value != source.format:
            is_really = f"a {found} archive: use {found}:" if found else "no archive of that kind"
            raise KernelUnavailable(
                f"{path} is {is_really}" + ("" if found else f"; give a .{source.format} file")
            )
    return _of_archives(name, source.files, cache, say, arch)


def _of_archives(
    name: str, paths: Sequence[Path], cache: Cache, say: Say, arch: Arch
) -> PreparedKernel:
    sums = [_sha256(path, cache) for path in paths]
    what = " and ".join(path.name for path in paths)

    def build(root: Path) -> Built:
        say(f"unpacking {what}")
        return archive.unpack(
            *(paths, root, what, cache.stop),
            check=functools.partial(image.check_configuration, paths[0]),
            arch=arch,
        )

    key = f"file-{_safe(paths[0].stem)}-{digest(_of_arch(sums, arch))}"
    origin = " and ".join(map(str, paths))
    return prepared(name, cache.entry(key, build, say), origin=origin)


def _of_arch(identity: list[Any], arch: Arch) -> list[Any]:
    """``identity`` for a key: what was accepted for one architecture is not for another."""
    return identity if arch is Arch.AMD64 else [*identity, arch.value]


def _format(path: Path) -> archive.Format | None:
    try:
        return archive.format_of(path)
    except OSError as error:
        raise KernelUnavailable(
            f"{path} cannot be read ({error.strerror}); correct its path or permissions"
        ) from error


def _sha256(path: Path, cache: Cache) -> str:
    """The hash of ``path``; a trusting cache reads a file that was not touched only once."""
    memory = cache.root / "images" / f"{digest(['file', str(path)])}.json"
    seen = files.stamp(path)
    known = files.recall(memory)
    if cache.trusts and isinstance(known, dict) and known.get("stamp") == seen:
        return str(known.get("sha256"))
    found = file_sha256(path)
    if files.is_settled(seen) and not cache.is_read_only:
        cache.directory("images")
        files.remember(memory, {"stamp": seen, "sha256": found})
    return found


def prepare_url(
    name: str, source: UrlSource, cache: Cache, say: Say, arch: Arch = Arch.AMD64
) -> PreparedKernel:
    """The kernel at an address. With a SHA-256 it is downloaded once, else for each run."""
    wanted = source.file_sha256
    if wanted is not None:

        def build(root: Path) -> Built:
            with cache.scratch() as directory:
                got = _download_all(source, directory, cache, say)
                return _fill(root, source, got, cache, arch)

        key = f"url-{digest(_of_arch([wanted, source.modules], arch))}"
        return prepared(name, cache.entry(key, build, say), origin=source.image)
    with cache.scratch() as directory:
        got = _download_all(source, directory, cache, say)
        key = f"url-{digest(_of_arch([file_sha256(path) for path in got], arch))}"
        entry = cache.entry(key, lambda root: _fill(root, source, got, cache, arch), say)
    return prepared(name, entry, origin=source.image)


def _download_all(source: UrlSource, directory: Path, cache: Cache, say: Say) -> list[Path]:
    """The file of the image and, if there is one, that of the modules."""
    path = _download(source.image, directory / "image", cache, say)
    if source.file_sha256 not in (None, actual := file_sha256(path)):
        raise KernelUnavailable(
            f"{source.image} has the SHA-256 {actual}, but the manifest says "
            f"{source.file_sha256}; correct the address or the sum"
        )
    if source.modules is None:
        return [path]
    return [path, _download(source.modules, directory / "modules", cache, say)]


def _fill(root: Path, source: UrlSource, got: Sequence[Path], cache: Cache, arch: Arch) -> Built:
    """The kernel in the files ``got``: an image or an archive, and perhaps modules."""
    path, *more = got
    place = Path(_file_name(source.image))
    check = functools.partial(image.check_configuration, place)
    if _format(path) is not None:
        return archive.unpack(got, root, source.image, cache.stop, check, arch)
    recognised = recognise(path.read_bytes(), source.image, arch)
    chosen = archive.module_set(more, cache.stop) if more else ModuleSet()
    modules.check_event_channel(chosen, source.image)
    return assemble(root, recognised, chosen, check)


def _file_name(address: str) -> str:
    return PurePosixPath(urlsplit(address).path).name or address


def _download(address: str, target: Path, cache: Cache, say: Say) -> Path:
    """Fetch ``address`` to ``target``, in a process that ends with the harness."""
    shown = _file_name(address)
    say(f"downloading {shown}")

    def waiting(seconds: float) -> None:
        done = target.stat().st_size / 1e6 if target.exists() else 0
        say(f"downloading {shown}: {done:.0f} MB after {seconds:.0f} s")

    too_long = f"{address} was not downloaded within {_TIMEOUT} seconds; check the network"
    with unavailable(too_long):
        run = programs.run(
            [sys.executable, "-I", "-S", str(fetcher.__file__), address, str(target)],
            tools.apt_environment(),
            stop=cache.stop,
            timeout=_TIMEOUT,
            waiting=waiting,
        )
    if run.returncode != 0:
        said = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
        raise KernelUnavailable(
            f"{address} cannot be downloaded: {said}; check the address and the network",
            transient=run.returncode == fetcher.TRANSIENT,
        )
    return target


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name)[:60]
