# SPDX-License-Identifier: GPL-2.0-only
"""Finds the kernel of a bundle: in the bundle, or elsewhere with the same hash."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import kernels
from harness.bundle import Bundle
from harness.errors import Damaged, KernelUnavailable, UsageError
from harness.host import files
from harness.kernels import Cache, PreparedKernel, image, kernel_image, modules
from harness.kernels.cache import RECORD, CacheEntry, file_sha256
from harness.kernels.modules import ModuleSet
from harness.manifest.entries import DebSource, ImageSource, KernelEntry, TreeSource, UpstreamSource

Say = Callable[[str], None]


def find(bundle: Bundle, given: Path | None, cache: Cache, say: Say) -> PreparedKernel:
    """The kernel of ``bundle`` with its own modules; the hash of its image is verified.

    Its image is ``given``, else in the bundle, else in the cache or its original place, else
    fetched again. Raises :class:`UsageError` for ``given``, and KernelUnavailable.
    """
    if given is not None:
        check(bundle, given)
    # The name does not matter: an entry with these hashes is the same kernel.
    known = _prepared(bundle, cache)
    if known is not None:
        return known
    if given is not None:
        return _with_modules(bundle, given, cache, say)
    if bundle.image is not None:
        with cache.scratch() as directory:
            file = directory / "image"
            file.write_bytes(bundle.image)
            return _with_modules(bundle, file, cache, say)
    for place in (*(entry.image for entry in _cached(bundle, cache)), *_original(bundle.entry)):
        with contextlib.suppress(OSError):
            if file_sha256(place) == bundle.image_sha256:
                say(f"the image is {place}")
                return _with_modules(bundle, place, cache, say)
    return _fetched(bundle, cache, say)


def check(bundle: Bundle, given: Path) -> None:
    """Raise :class:`UsageError` unless the file ``given`` is the image of ``bundle``."""
    try:
        found = file_sha256(given)
    except OSError as error:
        raise UsageError(f"--image {given}: cannot be read: {error.strerror}") from error
    if found != bundle.image_sha256:
        raise UsageError(
            f"--image {given}: its SHA-256 is {found}, but the bundle needs {wanted(bundle)}"
        )


def wanted(bundle: Bundle) -> str:
    """The identity of the image, for people."""
    return f"{bundle.origin}, release {bundle.release}, SHA-256 {bundle.image_sha256}"


def _with_modules(bundle: Bundle, file: Path, cache: Cache, say: Say) -> PreparedKernel:
    found = image.from_file(
        bundle.entry.name,
        file,
        lambda release: _modules(bundle, release),
        cache,
        say,
        origin=bundle.origin,
        arch=bundle.entry.arch,
        sha256=bundle.image_sha256,
    )
    return replace(found, version=bundle.version)


def _modules(bundle: Bundle, release: str) -> ModuleSet:
    """The modules of ``bundle``. Raises Damaged if one is invalid or not for ``release``."""
    try:
        found = tuple(modules.load(f"{name}.ko", data) for name, data in bundle.modules)
        modules.check_release(found, release)
    except KernelUnavailable as error:
        raise Damaged(f"the bundle is damaged: {error}") from error
    return ModuleSet(found)


def _prepared(bundle: Bundle, cache: Cache) -> PreparedKernel | None:
    """The kernel, if the cache has it with the same modules."""
    wanted_modules = tuple(hashlib.sha256(data).hexdigest() for _, data in bundle.modules)
    for entry in _cached(bundle, cache):
        if entry.modules_sha256 == wanted_modules:
            named = {"origin": bundle.origin, "version": bundle.version}
            return kernel_image.prepared(bundle.entry.name, entry, **named)
    return None


def _cached(bundle: Bundle, cache: Cache) -> Iterator[CacheEntry]:
    """Intact cache entries with the image."""
    for record in sorted(cache.directory("kernels").glob(f"*/{RECORD}")):
        noted: Any = files.recall(record)
        try:
            name = f"root/{noted['built']['image']}"
            is_it = noted["files"][name]["sha256"] == bundle.image_sha256
        except (LookupError, TypeError):
            continue
        entry = cache.existing(record.parent.name) if is_it else None
        if entry is not None and entry.image_sha256 == bundle.image_sha256:
            yield entry


def _original(entry: KernelEntry) -> tuple[Path, ...]:
    match entry.source:
        case ImageSource(image=place):
            return (place,)
        case TreeSource(tree=tree):
            return (tree / "arch" / "x86" / "boot" / "bzImage", tree / "vmlinux")
    return ()


def _fetched(bundle: Bundle, cache: Cache, say: Say) -> PreparedKernel:
    """The kernel, fetched again from the bundle's source. Raises KernelUnavailable."""
    entry, trouble = bundle.entry, "it was not found"
    for source in _sources(bundle):
        say(f"fetching {bundle.origin} again")
        try:
            found = kernels.prepare(replace(entry, source=source), cache, say)
        except KernelUnavailable as error:
            trouble = str(error)
            continue
        if found.image_sha256 == bundle.image_sha256:
            return _prepared(bundle, cache) or _with_modules(bundle, found.image, cache, say)
        trouble = f"{found.origin} has the SHA-256 {found.image_sha256}"
    raise KernelUnavailable(
        f"the bundle has no image; it needs {wanted(bundle)}: {trouble}; give it with --image "
        f"FILE, or repeat the failing run with --bundle-image"
    )


def _sources(bundle: Bundle) -> Iterator[DebSource | UpstreamSource]:
    match bundle.entry.source:
        case DebSource(suite) as source:
            # A metapackage may mean another kernel by now.
            yield DebSource(suite, f"linux-image-{bundle.release}")
            if source.package != f"linux-image-{bundle.release}":
                yield source
        case UpstreamSource() as source:
            yield source
