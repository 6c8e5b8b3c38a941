# SPDX-License-Identifier: GPL-2.0-only
"""Reads ``kernels.yaml`` into frozen objects, or reports all of its errors at once.

:mod:`harness.manifest.positions` has the position of each value, :mod:`harness.manifest.schema` the
type of each key. This module has the rules between the keys of an entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.host.architectures import HOST, Arch
from harness.manifest import positions, schema
from harness.manifest.entries import (
    DEFAULT_CPUS,
    DEFAULT_MEMORY_MIB,
    DEFAULT_TIMEOUT_S,
    GLOB,
    SOURCES,
    Abi,
    Accel,
    DebSource,
    FileSource,
    GitSource,
    ImageSource,
    KernelEntry,
    ManifestError,
    Source,
    TreeSource,
    UpstreamSource,
    UrlSource,
    for_image,
)
from harness.manifest.expectations import contradictions
from harness.manifest.positions import Data, DataPath, Document, Problem, show_path
from harness.manifest.schema import ArchiveModel, DebModel, EntryModel, GitModel, SharedModel
from harness.text import quoted

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "Accel",
    "DebSource",
    "FileSource",
    "GitSource",
    "ImageSource",
    "KernelEntry",
    "Manifest",
    "ManifestError",
    "Source",
    "TreeSource",
    "UpstreamSource",
    "UrlSource",
    "for_image",
    "load",
]

#: The memory (MiB) and the seconds that configurations need by their names, unless an entry says
#: otherwise: KASAN takes an eighth of the memory, and each makes a kernel several times slower.
HEAVY = {
    "debug": (2048, 600),
    "debug.config": (2048, 600),
    "kasan": (1536, 400),
    "kcsan": (1536, 400),
    "lockdep": (1024, 300),
    "kmemleak": (1024, 300),
    "gcov": (768, 240),
}


@dataclass(frozen=True)
class Manifest:
    """The entries of the file ``path``, in its order. ``clone`` is the ``git`` of its defaults."""

    path: Path
    entries: tuple[KernelEntry, ...]
    clone: str = ""


def load(path: Path) -> Manifest:
    """The manifest at ``path``; relative paths in it start at its directory.

    Raises :class:`ManifestError` with every error of the file, each
    ``file:line:column: path: what is wrong, what would be right``.
    """
    try:
        document = positions.parse(_read(path))
    except positions.DocumentError as error:
        raise _error(path, [error.problem]) from None
    model, problems = schema.validate(document, path.parent)
    problems += [*document.problems, *_cross_check(document)]
    if model is None or problems:
        raise _error(path, problems)
    entries = []
    for index, entry in enumerate(model.kernels):
        place = document.values["kernels", index]
        where = f"{path}:{place.line}:{place.column}"
        entries.append(_entry(entry, model.defaults, where))
    return Manifest(path, tuple(entries), model.defaults.git or "")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(positions.MAX_BYTES + 1)
    except FileNotFoundError:
        raise ManifestError(
            (
                f"{path}: no such file; give a manifest, or run the command in the directory of "
                f"kernels.yaml",
            )
        ) from None
    except IsADirectoryError:
        text = f"{path}: this is a directory, not a manifest; give the file in it"
        raise ManifestError((text,)) from None
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        text = f"{path}: the manifest cannot be read: {said}; check its path and permissions"
        raise ManifestError((text,)) from None
    if len(content) > positions.MAX_BYTES:
        text = f"{path}: larger than {positions.MAX_BYTES} bytes, not a manifest; give another file"
        raise ManifestError((text,))
    return content


def _error(path: Path, problems: list[Problem]) -> ManifestError:
    return ManifestError(
        tuple(
            f"{path}:{p.position.line}:{p.position.column}: {p.path}: {p.text}"
            for p in sorted(set(problems))
        )
    )


def _entry(entry: EntryModel, defaults: SharedModel, where: str) -> KernelEntry:
    """``entry`` with ``defaults`` applied: ``expect`` is merged by name, ``append`` follows
    theirs."""
    both = (defaults.append or []) + (entry.append or [])
    needs = [HEAVY.get(name, (0, 0)) for name in (entry.git.config if entry.git else ())]
    memory, timeout = (max(values) for values in zip((0, 0), *needs, strict=True))
    return KernelEntry(
        name=entry.name or entry.series or "",
        source=_source(entry, defaults),
        where=where,
        is_series=entry.series is not None,
        cpus=entry.cpus or defaults.cpus or DEFAULT_CPUS,
        memory_mib=entry.memory or max(defaults.memory or DEFAULT_MEMORY_MIB, memory),
        accel=entry.accel or defaults.accel or Accel.AUTO,
        abi=entry.abi or defaults.abi or Abi.NATIVE,
        arch=entry.arch or defaults.arch or HOST,
        timeout_s=entry.timeout or max(defaults.timeout or DEFAULT_TIMEOUT_S, timeout),
        append=tuple(argument for group in both for argument in group),
        expect={**(defaults.expect or {}), **(entry.expect or {})},
        known_issues=entry.known_issues or defaults.known_issues,
    )


def _source(entry: EntryModel, defaults: SharedModel) -> Source:
    sha256 = entry.sha256.lower() if entry.sha256 else None
    for name in ("deb", "rpm", "tar"):
        given: DebModel | ArchiveModel | None = getattr(entry, name)
        if given is not None and given.file:
            return FileSource(name, given.file, sha256)
    if entry.deb is not None:
        deb = entry.deb
        assert deb.suite, "the cross-check wants both where there is no file"
        assert deb.package
        return DebSource(deb.suite, deb.package, sha256, deb.mirror, deb.signed_by)
    if entry.git is not None:
        return _git_source(entry.git, defaults, sha256)
    if entry.url is not None:
        file_sha256 = entry.url.sha256.lower() if entry.url.sha256 else None
        return UrlSource(entry.url.image, entry.url.modules, file_sha256, sha256)
    if entry.image is not None:
        return ImageSource(entry.image, entry.modules, sha256)
    if entry.tree is not None:
        return TreeSource(entry.tree, sha256)
    assert entry.upstream is not None, "the cross-check lets no entry pass without a source"
    return UpstreamSource(entry.upstream, sha256)


def _git_source(git: GitModel, defaults: SharedModel, sha256: str | None) -> GitSource:
    repository, ref = git.repo or defaults.git, git.ref or git.refs
    assert repository, "the cross-check wants both"
    assert ref
    return GitSource(repository, ref, git.config, git.toolchain, git.patches, git.fetch, sha256)


def _cross_check(document: Document) -> Iterator[Problem]:
    """Errors between the keys of an entry, and between entries.

    Works on the untyped data, so that these errors are reported together with the schema's.
    """
    data = document.data if isinstance(document.data, dict) else {}
    defaults, kernels = data.get("defaults"), data.get("kernels")
    default_expect = _expect(defaults)
    yield from _contradictions(document, ("defaults",), default_expect)
    lines: dict[str, int] = {}
    for index, entry in enumerate(kernels if isinstance(kernels, list) else []):
        if not isinstance(entry, dict):
            continue
        path: DataPath = ("kernels", index)
        yield from _check_name(document, path, entry, lines)
        yield from _check_source(document, path, entry)
        yield from _check_deb(document, (*path, "deb"), entry.get("deb"))
        yield from _check_git(document, path, entry, defaults)
        yield from _check_series(document, path, entry)
        yield from _check_arch(document, path, entry, defaults)
        if "expect" in entry:
            yield from _contradictions(document, path, default_expect | _expect(entry))


def _check_name(
    document: Document, path: DataPath, entry: dict[str, Data], lines: dict[str, int]
) -> Iterator[Problem]:
    """Check the entry's name and add its line to ``lines``, which holds the first line of each
    name."""
    given = [key for key in ("name", "series") if key in entry]
    if not given:
        yield _at(document, path, "neither 'name' nor 'series'; give the kernel a name")
    elif len(given) == 2:
        text = "both a name and a series; use 'name' for one kernel, 'series' for many"
        yield _at_key(document, (*path, "series"), text)
    for key in given[:1]:
        name = entry[key]
        if not isinstance(name, str) or not name:
            continue
        if name in lines:
            text = f"{quoted(name)} is already the name in line {lines[name]}; choose another one"
            yield _at(document, (*path, key), text)
        lines.setdefault(name, document.values[*path, key].line)


def _check_source(document: Document, path: DataPath, entry: dict[str, Data]) -> Iterator[Problem]:
    given = [key for key in SOURCES if key in entry]
    if not given:
        yield _at(document, path, f"no source; give one of {', '.join(SOURCES)}")
    if len(given) > 1:
        text = f"{len(given)} sources, {' and '.join(given)}; keep one of them"
        yield _at(document, path, text)
    if "modules" in entry and given and "image" not in given:
        text = f"belongs to 'image', but this entry has {given[0]!r}; remove it"
        yield _at_key(document, (*path, "modules"), text)


def _check_deb(document: Document, path: DataPath, deb: Data | None) -> Iterator[Problem]:
    """A package of an archive has a suite and a name; a file has neither."""
    if not isinstance(deb, dict):
        return
    if "file" in deb:
        for key in ("suite", "package", "mirror", "signed_by"):
            if key in deb:
                yield _at_key(
                    document,
                    (*path, key),
                    "belongs to a package of an archive, not to a 'file'; remove one of the two",
                )
        return
    for key in ("suite", "package"):
        if key not in deb:
            text = (
                f"the key {key!r} is missing; expected a mapping such as {{suite: bookworm, "
                "package: linux-image-amd64}, or {file: linux-image.deb}"
            )
            yield _at(document, path, text)
    for key, other in (("mirror", "signed_by"), ("signed_by", "mirror")):
        if key in deb and other not in deb:
            text = f"the key {other!r} is missing; another archive has its own keyring"
            yield _at_key(document, (*path, key), text)


def _check_git(
    document: Document, path: DataPath, entry: dict[str, Data], defaults: Data | None
) -> Iterator[Problem]:
    """A kernel from git has a clone; one kernel has a ref, a series a pattern of refs."""
    git = entry.get("git")
    if not isinstance(git, dict):
        return
    if "repo" not in git and not (isinstance(defaults, dict) and "git" in defaults):
        text = "no clone; give its path or address as 'git' under 'defaults', or as 'repo' here"
        yield _at(document, (*path, "git"), text)
    wanted, other = ("refs", "ref") if "series" in entry else ("ref", "refs")
    if other in git:
        text = f"a series has 'refs', a pattern; a kernel has 'ref'; write {wanted!r}"
        yield _at_key(document, (*path, "git", other), text)
    elif wanted not in git:
        example = "'v6.12.*'" if wanted == "refs" else "origin/export"
        text = f"the key {wanted!r} is missing; expected one such as {example}"
        yield _at(document, (*path, "git"), text)


def _check_series(document: Document, path: DataPath, entry: dict[str, Data]) -> Iterator[Problem]:
    is_series = "series" in entry
    for key in SOURCES:
        if is_series and key in entry and key not in ("deb", "git"):
            text = (
                "a series takes its kernels from 'deb' or 'git'; write 'name' instead of 'series'"
            )
            yield _at_key(document, (*path, key), text)
    if is_series and "sha256" in entry:
        text = "each kernel of a series has its own image and hash; remove it"
        yield _at_key(document, (*path, "sha256"), text)
    deb = entry.get("deb")
    package = deb.get("package") if isinstance(deb, dict) else None
    if not isinstance(package, str) or not package:
        return
    is_pattern = any(character in package for character in GLOB)
    package_path = (*path, "deb", "package")
    if is_pattern and not is_series:
        text = f"{quoted(package)} is a pattern of many kernels; write 'series' instead of 'name'"
        yield _at(document, package_path, text)
    if is_series and not is_pattern:
        text = (
            f"{quoted(package)} is one package; give a pattern such as "
            "'linux-image-6.12.*-amd64', or write 'name' instead of 'series'"
        )
        yield _at(document, package_path, text)


def _check_arch(
    document: Document, path: DataPath, entry: dict[str, Data], defaults: Data | None
) -> Iterator[Problem]:
    """Keys that only some architectures have."""
    shared = defaults if isinstance(defaults, dict) else {}
    arch = entry.get("arch", shared.get("arch", HOST.value))
    if arch not in tuple(Arch) or arch == Arch.AMD64:
        return  # another error, or the architecture that has everything
    if entry.get("abi", shared.get("abi")) == Abi.I386:
        key = "abi" if "abi" in entry else "arch" if "arch" in entry else ""
        text = f"abi: i386 needs a kernel for amd64, and this one is for {arch}; remove one of them"
        yield _at(document, (*path, key) if key else path, text)
    if "upstream" in entry:
        text = f"virtme-ng downloads builds for amd64, not for {arch}; give 'deb' or 'image'"
        yield _at_key(document, (*path, "upstream"), text)
    if "git" in entry:
        text = f"git refs are built for amd64, not for {arch}; build it yourself and give 'tree'"
        yield _at_key(document, (*path, "git"), text)


def _expect(holder: Data | None) -> dict[str, bool]:
    expect = holder.get("expect") if isinstance(holder, dict) else None
    pairs = expect.items() if isinstance(expect, dict) else ()
    return {name: value == "true" for name, value in pairs if value in ("true", "false")}


def _contradictions(
    document: Document, path: DataPath, expect: Mapping[str, bool]
) -> Iterator[Problem]:
    for present, absent in contradictions(expect):
        text = f"{present}: true contradicts {absent}: false, which it needs; remove one"
        yield _at(document, (*path, "expect"), text)


def _at(document: Document, path: DataPath, text: str) -> Problem:
    return Problem(document.values[path], show_path(path), text)


def _at_key(document: Document, path: DataPath, text: str) -> Problem:
    return Problem(document.keys[path], show_path(path), text)
