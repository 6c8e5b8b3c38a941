# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root for another user space than the host's: Debian's Python with the same checker.

It serves kernels of other architectures, and ``abi: i386``, whose 32-bit programs the 64-bit kernel
runs through its compat system calls (CONFIG_IA32_EMULATION). The interpreter, its libraries and the
busybox are packages of Debian, which are not trusted, and nothing of them runs on the host. The
modules are compiled to bytecode, which is the same on all architectures, if the host has a Python
of the same version; otherwise the checker starts 1.4 s later under TCG.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from harness.errors import HostError, KernelUnavailable, Malformed
from harness.host.architectures import ARCHITECTURES, I386, Userland
from harness.kernels import elf
from harness.kernels.cache import Cache
from harness.manifest.entries import Abi, UserSpace
from harness.vm import initramfs

if TYPE_CHECKING:
    from harness.kernels.debian import Package


@dataclass(frozen=True)
class Release:
    """A suite with its version of Python."""

    suite: str
    python: str

    @property
    def packages(self) -> tuple[str, ...]:
        own = (f"python{self.python}-minimal", f"libpython{self.python}-minimal")
        libraries = ("libc6", "libffi8", "zlib1g", "libexpat1")
        return (*own, f"libpython{self.python}-stdlib", *libraries, "busybox-static")

    @property
    def stdlib(self) -> str:
        return f"usr/lib/python{self.python}"


#: In the order in which they are tried; the one with the host's Python comes first. Mirrors lack
#: some packages of other architectures; riscv64 is in Debian from trixie on.
RELEASES = (Release("trixie", "3.13"), Release("sid", "3.13"), Release("bookworm", "3.11"))

_BUSYBOX = re.compile(r"(?:usr/)?bin/busybox")
#: Modules of the full standard library that the checker imports, beyond a minimal Python's.
_MODULES = r"ctypes/(?:\w+/)?\w+\.py"
_MINIMAL = r"(?:\w+/)*\w+\.py"


def prepare(user_space: UserSpace, cache: Cache, busybox: Path, say: Callable[[str], None]) -> Path:
    """The base archive of the guest's root for ``user_space``, built if necessary.

    ``busybox`` is the host's, for the native root. Raises HostError.
    """
    if user_space == UserSpace():
        return initramfs.prepare(cache.root, busybox)
    of = _Foreign(user_space, cache, say)
    errors = []
    for release in _releases():
        try:
            return of.built(release)
        except KernelUnavailable as error:
            errors.append(str(error))
            if cache.stop.is_set():
                break
            say(f"no guest's root for {of.name} from {release.suite}: {error}")
    raise HostError(f"the guest's root for {of.name} cannot be made: {'; '.join(errors)}")


def _releases() -> Sequence[Release]:
    version = initramfs.Interpreter.of_host().version
    return sorted(RELEASES, key=lambda release: release.python != version)


class _Foreign:
    """Builds roots for ``user_space``."""

    def __init__(self, user_space: UserSpace, cache: Cache, say: Callable[[str], None]) -> None:
        is_i386 = user_space.abi is Abi.I386
        self.name = "a 32-bit user space" if is_i386 else user_space.arch.value
        self._debian = "i386" if is_i386 else user_space.arch.value
        self._userland = I386 if is_i386 else ARCHITECTURES[user_space.arch].userland
        self._cache = cache
        self._say = say

    def built(self, release: Release) -> Path:
        """The archive with the packages of ``release``. Raises KernelUnavailable, HostError."""
        packages = self._packages(release)
        identity = "\n".join(f"{package.name} {package.sha256}" for package in packages)
        return initramfs.built(
            self._cache.root,
            f"{identity}\n{_compiler(release)}\n{Path(__file__).read_text()}",
            lambda root: self._build(root, release, packages),
        )

    def _packages(self, release: Release) -> Sequence[Package]:
        from harness.kernels import apt  # only kernels of other user spaces need it

        found = {}
        for name in release.packages:
            found.update(apt.find(release.suite, name, self._cache, self._say, arch=self._debian))
        missing = [name for name in release.packages if name not in found]
        if missing:
            raise KernelUnavailable(
                f"{release.suite} has no {self._debian} package {', '.join(missing)}"
            )
        return [found[name] for name in release.packages]

    def _build(self, root: Path, release: Release, packages: Sequence[Package]) -> None:
        from harness.kernels import apt

        with tempfile.TemporaryDirectory(dir=root.parent, prefix="debs-") as scratch:
            size = sum(package.size for package in packages) / 1e6
            what = f"a Python {release.python} for {self._debian}"
            self._say(f"downloading {what} from {release.suite} ({size:.0f} MB)")
            files = apt.download(
                *(release.suite, packages, Path(scratch), self._cache, self._debian, self._say)
            )
            initramfs.lay_out(root)
            place(root, _members(files, release, self._userland, self._cache), self._userland)
        compiler = _compiler(release)
        if compiler:
            initramfs.compile_modules(compiler, root, release.stdlib)


def _members(
    debs: Mapping[str, Path], release: Release, userland: Userland, cache: Cache
) -> Iterator[tuple[str, bytes]]:
    """The wanted files of the packages, by their paths in the root."""
    from harness.kernels import archive

    loader = PurePosixPath(userland.loader).name
    imported = initramfs.imported()
    # What is an extension in one version may be built into the interpreter of another.
    extensions = "|".join(sorted(name for name in imported if "." not in name))
    sources, minimal_sources = _MODULES, _MINIMAL
    if _compiler(release):  # of the same version: these files and no others
        paths = sorted(path for path in {"os.py", *imported.values()} if path)
        sources = minimal_sources = "|".join(map(re.escape, paths))
    common = (
        re.compile(rf"usr/bin/python{re.escape(release.python)}"),
        _BUSYBOX,
        re.compile(rf"(?:usr/)?lib(?:64)?/(?:{userland.triplet}/)?(?:[\w.-]+\.so[.\d]*|{loader})"),
        re.compile(rf"{release.stdlib}/(?:{sources}|lib-dynload/(?:{extensions})\.[\w-]+\.so)"),
    )
    minimal = re.compile(rf"{release.stdlib}/(?:{minimal_sources})")
    for package, path in debs.items():
        kinds = (*common, minimal) if package.endswith("-minimal") else common

        def is_wanted(name: str, kinds: Sequence[re.Pattern[str]] = kinds) -> bool:
            return any(kind.fullmatch(name.removeprefix("./")) for kind in kinds)

        for name, data in archive.members(path, is_wanted, cache.stop):
            yield name.removeprefix("./"), data


def place(root: Path, members: Iterator[tuple[str, bytes]], userland: Userland) -> None:
    """Put the ``members`` of packages where the guest looks for them, the needed libraries alone.

    Raises KernelUnavailable if one of the programs or libraries is not among them.
    """
    loader = PurePosixPath(userland.loader)
    libraries: dict[str, bytes] = {}
    native: list[tuple[str, bytes]] = []
    for name, data in members:
        path = PurePosixPath(name)
        if path.name.startswith("python3") and path.parent.name == "bin":
            native.append(("the interpreter", data))
            _write(root / "usr/bin/python3", data, 0o755)
        elif _BUSYBOX.fullmatch(name):
            _write(root / "bin/busybox", data, 0o755)
        elif path.name == loader.name:
            _write(root / loader, data, 0o755)
            libraries[path.name] = b""
        elif path.parent.name == "lib-dynload":
            native.append((path.name, data))
            _write(root / path, data, 0o755)
        elif ".so" in path.name:
            libraries.update(dict.fromkeys(_names(path.name), data))
        else:
            _write(root / path, data, 0o644)
    for wanted in ("bin/busybox", "usr/bin/python3", userland.loader):
        if not (root / wanted).is_file():
            raise KernelUnavailable(f"the packages contain no {wanted}")
    for name, data in _needed(native, libraries).items():
        if data:
            _write(root / userland.libraries / name, data, 0o755)


def _names(file: str) -> Iterator[str]:
    """The names under which programs may ask for a library.

    The package's symbolic links are left out: a program needs libffi.so.8, but the file is
    libffi.so.8.1.4.
    """
    stem, _, version = file.partition(".so")
    numbers = version.strip(".").split(".")
    for count in range(1, len(numbers) + 1):
        yield f"{stem}.so.{'.'.join(numbers[:count])}" if version else file


def _needed(
    native: Sequence[tuple[str, bytes]], libraries: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The libraries that ``native`` needs, and those that these need (DT_NEEDED)."""
    found: dict[str, bytes] = {}
    waiting = list(native)
    while waiting:
        user, data = waiting.pop()
        try:
            names = elf.needed_libraries(data) if data else ()
        except Malformed as error:
            raise KernelUnavailable(f"{user} cannot be used: {error}") from error
        for name in names:
            if name not in libraries:
                raise KernelUnavailable(f"{user} needs {name}, which no package has")
            if name not in found:
                found[name] = libraries[name]
                waiting.append((name, libraries[name]))
    return found


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def _compiler(release: Release) -> Path | None:
    """The host's Python, if its bytecode is that of ``release``."""
    host = initramfs.Interpreter.of_host()
    return host.executable if host.version == release.python else None
