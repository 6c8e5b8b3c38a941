# SPDX-License-Identifier: GPL-2.0-only
"""The objects that a manifest becomes, and the same for one kernel of the command line.

Apart from :mod:`harness.manifest.kernels_yaml`, which reads the file, because `check` reads none,
and pydantic and YAML take 0.1 s to import.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from harness.errors import UsageError
from harness.host.architectures import HOST, Arch
from harness.manifest.expectations import expectations
from harness.manifest.fingerprint import added, apart
from harness.text import quoted
from harness.verdict.results import Expectation

SOURCES = ("deb", "git", "image", "rpm", "tar", "tree", "upstream", "url")
GLOB = "*?["  # the characters that make a package name a pattern


DEFAULT_CPUS = 1
DEFAULT_MEMORY_MIB = 512
DEFAULT_TIMEOUT_S = 120


class Accel(StrEnum):
    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class Abi(StrEnum):
    """The ABI of the guest's user space."""

    NATIVE = "native"
    I386 = "i386"  # 32-bit programs on the 64-bit kernel


@dataclass(frozen=True)
class UserSpace:
    """The user space of a guest, which decides its root."""

    arch: Arch = HOST
    abi: Abi = Abi.NATIVE


class PathKind(StrEnum):
    """The kind of file that a path in the manifest must name."""

    IMAGE = "kernel image"  # any file: whether it is an image shows in the kernel's result
    FILE = "file"
    DIRECTORY = "directory"
    PATCH = "patch"  # or a directory of patches


def locate(text: str, base: Path, wanted: PathKind) -> Path:
    """The absolute path of ``text``, relative to the directory ``base``; ``~`` is expanded.

    Raises ValueError, with a sentence for the user, if it is missing or of another kind.
    """
    if match := re.search("(?:https?|ftp|file):/", text):
        hint = "download it first and give the file" if match[0] != "file:/" else "give its path"
        raise ValueError(f"{quoted(text[match.start() :])} is an address, not a path; {hint}")
    if not text.isprintable():
        raise ValueError(f"expected a path, found {quoted(text)} with unprintable characters")
    try:
        path = (base / Path(text).expanduser()).absolute()
        mode = path.stat().st_mode
    except RuntimeError:
        raise ValueError(
            f"no home directory is known for {quoted(text)}; write the path out"
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        hint = "" if text.startswith(("/", "~")) else " relative to the manifest's directory"
        raise ValueError(f"no {wanted} {quoted(text)}{hint}; correct the path") from None
    except PermissionError as error:
        if wanted is PathKind.IMAGE:
            return path
        raise ValueError(f"{quoted(text)} cannot be read: {error.strerror}") from None
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "not a file name on this system"
        raise ValueError(f"{quoted(text)} cannot be read: {said}") from None
    if wanted is PathKind.DIRECTORY and not stat.S_ISDIR(mode):
        archive = re.search(r"\.(tar|tgz|deb|rpm)\b", path.name)
        hint = "; unpack it, and give the directory" if archive else ""
        raise ValueError(f"expected a directory, but {quoted(text)} is not one{hint}")
    if wanted is PathKind.FILE and not stat.S_ISREG(mode):
        raise ValueError(f"expected a file, but {quoted(text)} is not one")
    return path


# ``sha256`` of a source is the expected hash of the kernel's image, in lower case.


@dataclass(frozen=True)
class DebSource:
    """A package of a suite; in a series, ``package`` is a pattern of :mod:`fnmatch`.

    Without ``mirror``, the archive is Debian's; ``signed_by`` is the keyring of another one.
    """

    suite: str
    package: str
    sha256: str | None = None
    mirror: str | None = field(default=None, metadata=added())
    signed_by: Path | None = field(default=None, metadata=added())


@dataclass(frozen=True)
class ImageSource:
    """A bzImage or vmlinux. ``image`` exists, but its content was not checked."""

    image: Path
    modules: Path | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class TreeSource:
    """A built kernel tree."""

    tree: Path
    sha256: str | None = None


@dataclass(frozen=True)
class UpstreamSource:
    """A mainline or stable ``tag`` such as ``v6.6``, whose build virtme-ng downloads."""

    tag: str
    sha256: str | None = None


@dataclass(frozen=True)
class FileSource:
    """The packages or archives that hold one kernel, in the ``format`` deb, rpm or tar."""

    format: str
    files: tuple[Path, ...]
    sha256: str | None = None


@dataclass(frozen=True)
class GitSource:
    """A commit of the clone ``repository``, a path or an address; in a series, ``ref`` is a
    pattern of :mod:`fnmatch`.

    ``config`` names fragments: ours, absolute paths, or files of the tree. ``patches`` are files
    and directories. ``compiler`` is gcc or clang. With ``fetch``, the clone is updated first.
    """

    repository: str
    ref: str
    config: tuple[str, ...] = ()
    compiler: str = "gcc"
    patches: tuple[Path, ...] = ()
    fetch: bool = False
    sha256: str | None = None


@dataclass(frozen=True)
class UrlSource:
    """Addresses of an image or archive, and of an archive of modules.

    ``file_sha256`` is that of the first file, in lower case.
    """

    image: str
    modules: str | None = None
    file_sha256: str | None = None
    sha256: str | None = None


Source: TypeAlias = (
    DebSource | FileSource | GitSource | ImageSource | TreeSource | UpstreamSource | UrlSource
)


@dataclass(frozen=True)
class KernelEntry:
    """One entry with the defaults applied. Paths are absolute.

    ``name`` is unique in its manifest and safe as a file name. ``append`` holds one kernel
    argument each. ``where`` is ``file:line:column``, for messages.
    """

    name: str
    source: Source
    where: str = field(metadata=apart("a position in a file decides nothing"))
    is_series: bool = False
    cpus: int = DEFAULT_CPUS
    memory_mib: int = DEFAULT_MEMORY_MIB
    accel: Accel = Accel.AUTO
    timeout_s: int = DEFAULT_TIMEOUT_S
    append: tuple[str, ...] = ()
    expect: Mapping[str, bool] = field(default_factory=dict)
    known_issues: Path | None = None
    abi: Abi = Abi.NATIVE  # of the guest's user space
    # The host's own where the manifest names none; see for_image and _entry.
    arch: Arch = field(default=Arch.AMD64, metadata=added())

    @property
    def user_space(self) -> UserSpace:
        return UserSpace(self.arch, self.abi)

    @property
    def slowness(self) -> float:
        """How much longer than most this kernel takes for everything, by its timeout: one with
        KASAN and lockdep, five times."""
        return max(1.0, self.timeout_s / DEFAULT_TIMEOUT_S)

    def expected(self, release: str) -> Mapping[str, Expectation]:
        """The capabilities that the kernel with this ``release`` must have."""
        is_debian = isinstance(self.source, DebSource) and self.source.mirror is None
        return expectations(release, is_debian, self.expect)


class ManifestError(UsageError):
    """The ``errors`` of a manifest in the file's order, one line each."""

    def __init__(self, errors: tuple[str, ...]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def for_image(image: Path, modules: Path | None = None, arch: Arch = HOST) -> KernelEntry:
    """An entry for one ``image`` without a manifest, named after its file, with the defaults.

    Raises :class:`ManifestError` if the image or the directory ``modules`` is missing.
    """
    errors, found = [], []
    for path, kind in ((image, PathKind.IMAGE), (modules, PathKind.DIRECTORY)):
        try:
            here = Path.cwd()
            found.append(path and locate(str(here / path), here, kind))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ManifestError(tuple(errors))
    return of_command_line(image, ImageSource(found[0] or image, found[1]), arch)


def of_command_line(path: Path, source: Source, arch: Arch = HOST) -> KernelEntry:
    """An entry for ``source`` without a manifest, named after ``path``, with the defaults."""
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", path.name).lstrip("._+-")[:80]
    return KernelEntry(safe or "image", source, "the command line", arch=arch)
