# SPDX-License-Identifier: GPL-2.0-only
"""Prepares kernels: one module per source, each of which makes a PreparedKernel."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import KernelUnavailable, UsageError
from harness.host.architectures import HOST, Arch
from harness.kernels.cache import Cache
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest import entries
from harness.manifest.entries import (
    DebSource,
    FileSource,
    GitSource,
    ImageSource,
    KernelEntry,
    TreeSource,
    UpstreamSource,
    UrlSource,
)

__all__ = [
    "Cache",
    "Identity",
    "PreparedKernel",
    "debug_images",
    "expand",
    "for_path",
    "identify",
    "prepare",
]


#: What most images begin with: the EFI stub of a bzImage, and ELF.
_IMAGES = (b"MZ", b"\x7fELF")

# Each source is imported where a kernel has it: all of them together take 0.1 s.


def prepare(entry: KernelEntry, cache: Cache, say: Callable[[str], None]) -> PreparedKernel:
    """The kernel of ``entry``, ready to boot; ``say`` gets a line for each slow step.

    Raises KernelUnavailable for any failure. May be called from several threads.
    """
    with _filesystem_errors(entry, cache):
        found = replace(_prepare(entry, cache, say), arch=entry.arch)
    if entry.source.sha256 not in (None, found.image_sha256):
        raise KernelUnavailable(
            f"the image of {found.origin} has the SHA-256 {found.image_sha256}, but the manifest "
            f"says {entry.source.sha256}; if the kernel is right, correct the manifest"
        )
    return found


def _prepare(entry: KernelEntry, cache: Cache, say: Callable[[str], None]) -> PreparedKernel:
    match entry.source:
        case DebSource() as source:
            from harness.kernels import deb

            return deb.prepare(entry.name, source, cache, say, entry.arch)
        case ImageSource() as source:
            _check_reachable(source)
            from harness.kernels import image

            return image.prepare(entry.name, source, cache, say, entry.arch)
        case TreeSource() as source:
            from harness.kernels import image

            return image.prepare_tree(entry.name, source, cache, say, entry.arch)
        case UpstreamSource() as source:
            from harness.kernels import upstream

            return upstream.prepare(entry.name, source, cache, say)
        case FileSource() as source:
            from harness.kernels import packaged

            return packaged.prepare(entry.name, source, cache, say, entry.arch)
        case GitSource() as source:
            from harness.kernels import gitref

            return gitref.prepare(entry.name, source, cache, say)
        case UrlSource() as source:
            from harness.kernels import packaged

            return packaged.prepare_url(entry.name, source, cache, say, entry.arch)


def for_path(path: Path, modules_of: Path | None = None, arch: Arch = HOST) -> KernelEntry:
    """An entry for what is at ``path``: a tree or the directory of a build, an archive, an image.

    Raises UsageError if it is missing or none of these, or if it has its own modules and others are
    given.
    """
    if path.is_dir():
        from harness.kernels import image

        if not image.is_tree(path, arch):
            raise UsageError(
                f"{path.absolute()} is not a kernel tree: it has neither Kbuild nor .config; give "
                "an image, a kernel's package, or a built tree"
            )
        entry = entries.of_command_line(path.resolve(), TreeSource(path.absolute()), arch)
    else:
        entry = entries.for_image(path, modules_of, arch)
        with contextlib.suppress(OSError):  # reported when it is opened as an image
            kind = _archive_format(path)
            if kind:
                entry = replace(entry, source=FileSource(kind, (path.absolute(),)))
    if modules_of is not None and not isinstance(entry.source, ImageSource):
        raise UsageError(f"{path} has its own modules, so --modules has no effect; omit it")
    return entry


def _archive_format(path: Path) -> str:
    """The format of the archive in the file ``path``; "" if it is none. Raises OSError."""
    with path.open("rb") as file:
        if file.read(4).startswith(_IMAGES):
            return ""
    from harness.kernels import archive

    kind = archive.format_of(path)
    return "" if kind is None else kind.value


def expand(
    entry: KernelEntry, cache: Cache, say: Callable[[str], None] = lambda _: None
) -> tuple[KernelEntry, ...]:
    """The kernels of a series, oldest first, each named after the series and its package.

    Any other entry is returned alone. Raises KernelUnavailable.
    """
    source = entry.source
    if entry.is_series and isinstance(source, GitSource):
        with _filesystem_errors(entry, cache):
            from harness.kernels import gitref

            matching = gitref.refs(source, cache, say)
        return tuple(
            replace(
                entry,
                name=f"{entry.name}-{_safe(ref)}",
                is_series=False,
                source=replace(source, ref=ref),
            )
            for ref in matching
        )
    if not entry.is_series or not isinstance(source, DebSource):
        return (entry,)
    with _filesystem_errors(entry, cache):
        from harness.kernels import deb

        found = deb.series(source, cache, say, entry.arch)
    return tuple(
        replace(
            entry,
            name=f"{entry.name}-{_safe(package.name.removeprefix('linux-image-'))}",
            is_series=False,
            source=replace(source, package=package.name),
        )
        for package in found
    )


@dataclass(frozen=True)
class Identity:
    """The identity of a kernel. ``version`` is that of its package, "" if there is none."""

    release: str
    version: str = ""


def identify(entry: KernelEntry, cache: Cache, say: Callable[[str], None]) -> Identity:
    """The identity of the kernel of ``entry``, which is not a series. Downloads no package.

    Raises KernelUnavailable.
    """
    match entry.source:
        case DebSource() as source:
            with _filesystem_errors(entry, cache):
                from harness.kernels import deb

                found = deb.identify(source, cache, say, entry.arch)
            return Identity(found.release, found.version)
        case GitSource() as source:
            with _filesystem_errors(entry, cache):
                from harness.kernels import gitref

                return Identity(gitref.release(source, cache, say))
        case UpstreamSource(tag=tag):
            return Identity(tag.removeprefix("v"))
    return Identity(prepare(entry, cache, say).release)


@contextlib.contextmanager
def _filesystem_errors(entry: KernelEntry, cache: Cache) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        hint = f"check {cache.root} and the directories above it"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"free some space on the disk of {cache.root}; a kernel needs about 500 MB"
        raise KernelUnavailable(
            f"preparing {entry.name} failed: {error.strerror or error}{where}; {hint}"
        ) from error


def _check_reachable(source: ImageSource) -> None:
    """Raise KernelUnavailable if ``source.image`` is not readable for this user."""
    try:
        source.image.stat()
    except PermissionError as error:
        raise KernelUnavailable(
            f"{source.image} cannot be read ({error.strerror}); make it, and the directories "
            "above it, readable for this user"
        ) from error
    except OSError:
        return  # a missing file is reported when it is opened


def debug_images(entry: KernelEntry) -> tuple[Path, ...]:
    """Candidates for a vmlinux of ``entry`` with debug information; it may be of another build.

    They are in its tree, in that of its modules, or in the tree of its bzImage.
    """
    match entry.source:
        case TreeSource(tree=tree):
            places = [tree]
        case ImageSource(image=image, modules=modules):
            places = [path for path in (modules, image.parent, *image.parents[3:4]) if path]
        case _:
            places = []
    return tuple(path for place in places if (path := place / "vmlinux").is_file())


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name)
