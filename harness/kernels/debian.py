# SPDX-License-Identifier: GPL-2.0-only
"""Debian's archive: the packages of a kernel, their order, and the mirror of the host's apt."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import KernelUnavailable

#: The packages of a kernel. Up to 6.18, ``image`` has everything. From 6.19 on, ``binary`` has the
#: image, ``modules`` the modules and ``base`` the list of built-in modules, and ``image`` is an
#: empty package that depends on them.
KERNEL_PACKAGE = re.compile(r"linux-(?P<part>image|binary|modules|base)-(?P<release>\d\S*)")
#: linux-image-6.1.0-50-cloud-amd64 and linux-image-6.12.90+deb13.1-cloud-amd64 have one flavour.
_FLAVOUR = re.compile(r"linux-(?:image|binary)-\d[\w.+~]*(?:-\d+)?-(?P<flavour>\D.*)")
_META_OR_KERNEL = re.compile(r"linux-(image|binary|modules|base)-\S+")
# Variants that a pattern must name explicitly: debug symbols, unsigned packages, other flavours of
# the same version (a bisect must not alternate between them), signing templates.
_VARIANTS = ("-dbg", "-unsigned", "-rt", "-cloud", "-template")
_DEPENDENCY = re.compile(r"([a-z0-9][a-z0-9.+-]+)(?::\w+)?\s*(?:\(([<>=]+)\s*([^)\s]+)\))?")


@dataclass(frozen=True)
class Package:
    """A package of an index; ``size`` in bytes, ``depends`` as in the index."""

    name: str
    version: str
    depends: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Archive:
    """An archive other than Debian's: the address of its ``mirror``, and its keyring."""

    mirror: str
    signed_by: Path


@dataclass(frozen=True)
class KernelPackages:
    """A kernel as ``name`` and ``version``, and the packages that hold it.

    ``absent`` are those that the index lacks: Debian's archive keeps old images longer than their
    modules.
    """

    name: str
    version: str
    parts: tuple[Package, ...]
    absent: tuple[str, ...] = ()

    @property
    def release(self) -> str:
        """The end of the name: the release, or the release and ``-unsigned``."""
        return self.name.split("-", 2)[2]


def resolve(index: Mapping[str, Package], name: str, suite: str) -> KernelPackages:
    """The kernel of the package ``name``, which may be a metapackage.

    Raises KernelUnavailable if there is no such package, or no kernel in it.
    """
    if name not in index:
        raise KernelUnavailable(_unknown(index, name, suite))
    found: dict[str, Package] = {}
    absent: dict[str, None] = {}
    waiting = [name]
    while waiting:
        package = index[waiting.pop()]
        found[package.name] = package
        for other, version in _dependencies(package):
            if other not in index or version not in (index[other].version, ""):
                absent[other] = None
            elif other not in found:
                waiting.append(other)
    parts: dict[str, Package] = {}
    for package in found.values():
        match = KERNEL_PACKAGE.fullmatch(package.name)
        if match:
            parts[match["part"]] = package
    main = parts.get("image") or parts.get("binary")
    if main is None:
        raise KernelUnavailable(
            f"the package {name} of {suite} has no kernel image; give a linux-image-* package"
        )
    if "binary" in parts:
        parts.pop("image", None)
    chosen = tuple(parts[part] for part in sorted(parts))
    return KernelPackages(main.name, main.version, chosen, tuple(absent))


def matching(index: Mapping[str, Package], pattern: str, suite: str) -> list[Package]:
    """The kernels of a series, oldest first. Raises KernelUnavailable if there are none.

    Metapackages are left out, and variants (debug symbols, unsigned, real-time) that the pattern
    does not name.
    """
    found = [
        package
        for name, package in index.items()
        if fnmatch.fnmatchcase(name, pattern)
        and name.startswith("linux-image-")
        and KERNEL_PACKAGE.fullmatch(name)
        and not any(variant in name and variant not in pattern for variant in _VARIANTS)
    ]
    if not found:
        raise KernelUnavailable(
            f"no kernel package of {suite} matches {pattern!r}; it has {_some(index)}"
        )
    return sorted(found, key=lambda package: version_key(package.version))


def older(index: Mapping[str, Package], kernel: KernelPackages) -> list[Package]:
    """The kernels of ``index`` of the same flavour that are older than ``kernel``, newest first."""
    flavour = _FLAVOUR.fullmatch(kernel.name)
    if flavour is None:
        return []
    own = version_key(kernel.version)
    found = [
        package
        for name, package in index.items()
        if (match := _FLAVOUR.fullmatch(name)) is not None
        and match["flavour"] == flavour["flavour"]
        and version_key(package.version) < own
    ]
    return sorted(found, key=lambda package: version_key(package.version), reverse=True)


def version_key(version: str) -> tuple[object, ...]:
    """A key that sorts as Debian's versions do (deb-version(7))."""
    epoch, separator, rest = version.partition(":")
    if not separator:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return (int(epoch) if epoch.isdigit() else 0, _part_key(upstream), _part_key(revision))


def _part_key(part: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    # "~" sorts before the end, the end before letters, letters before all else.
    pairs = re.findall(r"(\D*)(\d*)", part)
    key = []
    for text, number in pairs:
        if not text and not number:
            continue
        weights = [
            -1 if c == "~" else ord(c) if c.isascii() and c.isalpha() else ord(c) + 256
            for c in text
        ]
        key.append(((*weights, 0), int(number or "0")))
    key.append(((0,), 0))
    return tuple(key)


def _dependencies(package: Package) -> Iterator[tuple[str, str]]:
    """Kernel packages on which ``package`` depends in exactly one version: (name, version).

    Ubuntu's depend on a release without a version (""): the name contains it.
    """
    for alternatives in package.depends.split(","):
        for alternative in alternatives.split("|"):
            match = _DEPENDENCY.match(alternative.strip())
            if match is None:
                continue
            exact = match[2] == "=" and _META_OR_KERNEL.fullmatch(match[1])
            if exact or (not match[2] and KERNEL_PACKAGE.fullmatch(match[1])):
                yield match[1], match[3] or ""
                break


def _unknown(index: Mapping[str, Package], name: str, suite: str) -> str:
    near = difflib.get_close_matches(name, index, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {_some(index)}"
    return f"{suite} has no kernel package {name}; {hint}"


def _some(index: Iterable[str]) -> str:
    names = sorted(name for name in index if name.startswith("linux-image-"))
    names = [name for name in names if not any(variant in name for variant in _VARIANTS)]
    shown = ", ".join(names[:6]) or "no linux-image packages"
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")


_RELEASES = re.compile(
    r"(?:buster|bullseye|bookworm|trixie|forky|duke|(?:old){0,2}stable|testing|unstable|sid)"
    r"(?:-updates|-proposed-updates|-backports(?:-sloppy)?|(?P<security>-security|/updates))?"
    r"|experimental|rc-buggy"
)
_ONE_LINE = re.compile(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<rest>[^\s\[]+\s.*)")


@dataclass(frozen=True)
class AptSource:
    """A source of packages. ``signed_by`` is as in the file, or empty."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of deb822(5) text, each as a dict with lower-case field names."""
    fields: dict[str, str] = {}
    last = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line.strip()
        else:
            name, _, value = line.partition(":")
            last = name.strip().lower()
            fields[last] = value.strip()


def parse_sources(text: str) -> Iterator[AptSource]:
    """The binary sources that are enabled in a ``.sources`` file."""
    for fields in stanzas(text):
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "without", "off", "0")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield AptSource(uri, suite, components, fields.get("signed-by", ""))


def parse_list(text: str) -> Iterator[AptSource]:
    """The binary sources in a ``.list`` file."""
    for line in text.splitlines():
        found = _ONE_LINE.fullmatch(line.split("#")[0])
        if found is None:
            continue
        uri, *rest = found["rest"].split()
        options = [option.partition("=") for option in (found["options"] or "").split()]
        signed_by = " ".join(value for name, _, value in options if name.lower() == "signed-by")
        if rest:
            yield AptSource(uri, rest[0], tuple(rest[1:]), signed_by)


def configured_sources(config: str) -> list[AptSource]:
    """The host's sources. ``config`` is what ``apt-config shell`` prints for LIST and PARTS."""
    settings = dict(
        part.split("=", 1) for part in shlex.split(config, comments=True) if "=" in part
    )
    found: list[AptSource] = []
    files = [Path(settings["LIST"])] if "LIST" in settings else []
    if "PARTS" in settings and Path(settings["PARTS"]).is_dir():
        files += sorted(Path(settings["PARTS"]).iterdir())
    for file in files:
        parse = {".list": parse_list, ".sources": parse_sources}.get(file.suffix)
        if parse is None or not file.is_file():
            continue
        with contextlib.suppress(PermissionError):  # files with passwords belong to root
            found += parse(file.read_text(errors="replace"))
    return found


def choose_mirror(sources: Iterable[AptSource], suite: str) -> str | None:
    """The URI of a mirror that has ``suite``: Debian's archive, or its security archive.

    Other archives have suites of the same names. An entry with Debian's key is preferred, then one
    whose URI ends like Debian's. A wrong choice is useless but not dangerous: apt verifies
    everything with Debian's keys.
    """
    wanted = _RELEASES.fullmatch(suite)
    security = bool(wanted and wanted["security"])
    best: tuple[int, str] | None = None
    for source in sources:
        match = _RELEASES.fullmatch(source.suite)
        if match is None or bool(match["security"]) != security:
            continue
        if "main" not in source.components or source.uri.startswith("cdrom:"):
            continue
        ends = r"/debian-security(\.list)?/?" if security else r"/debian(\.list)?/?"
        rank = 2 * ("debian-archive" in source.signed_by) + bool(re.search(ends + "$", source.uri))
        if best is None or rank > best[0]:
            best = (rank, source.uri)
    return best[1] if best else None
