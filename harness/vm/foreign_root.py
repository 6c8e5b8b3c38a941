# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root for a 32-bit user space: Debian's i386 Python with the same checker.

The 64-bit kernel under test runs it through its compat system calls (CONFIG_IA32_EMULATION). The
interpreter, its libraries and the busybox are packages of Debian's i386 archive, which are not
trusted. If the host can run i386 programs, the modules are compiled to bytecode; otherwise the
checker starts 1.4 s later under TCG.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.errors import HostError, KernelUnavailable
from harness.kernels import apt, archive
from harness.kernels.cache import Cache
from harness.kernels.debian import Package
from harness.manifest.schema import Abi
from harness.vm import initramfs

SUITE = "trixie"
VERSION = "3.13"
PACKAGES = (
    f"python{VERSION}-minimal",
    f"libpython{VERSION}-minimal",
    f"libpython{VERSION}-stdlib",
    *("libc6", "libffi8", "zlib1g", "libexpat1", "busybox-static"),
)
LIBRARIES = "usr/lib/i386-linux-gnu"
LOADER = "usr/lib/ld-linux.so.2"
STDLIB = f"usr/lib/python{VERSION}"

_PYTHON = re.compile(rf"usr/bin/python{re.escape(VERSION)}")
_BUSYBOX = re.compile(r"(?:usr/)?bin/busybox")
_LOADER = re.compile(r"(?:usr/)?lib/(?:i386-linux-gnu/)?ld-linux\.so\.2")
#: The packages of the interpreter, and of the extension modules below.
_LIBRARY = re.compile(
    r"(?:usr/)?lib/i386-linux-gnu/(lib(?:c|m|dl|pthread|util|z|expat|ffi)\.so\.[0-9.]+)"
)
#: Modules of the full standard library that the checker imports, beyond a minimal Python's.
_MODULE = re.compile(rf"{STDLIB}/ctypes/(?:\w+/)?\w+\.py")
_EXTENSION = re.compile(rf"{STDLIB}/lib-dynload/(?:_ctypes|_socket|fcntl|select|mmap)\.[\w-]+\.so")
_MINIMAL = re.compile(rf"{STDLIB}/(?:\w+/)*\w+\.py|{STDLIB}/lib-dynload/[\w.-]+\.so")
_MEMBERS = (_PYTHON, _BUSYBOX, _LOADER, _LIBRARY, _MODULE, _EXTENSION)


def prepare(abi: Abi, cache: Cache, busybox: Path, say: Callable[[str], None]) -> Path:
    """The base archive of the guest's root for ``abi``, built if necessary.

    ``busybox`` is the host's, for the native root. Raises HostError.
    """
    if abi is Abi.NATIVE:
        return initramfs.prepare(cache.root, busybox)
    try:
        packages = _packages(cache, say)
        identity = "\n".join(f"{package.name} {package.sha256}" for package in packages)
        return initramfs.built(
            cache.root,
            identity + Path(__file__).read_text(),
            lambda root: _build(root, packages, cache, say),
        )
    except KernelUnavailable as error:
        raise HostError(f"the guest's root for a 32-bit user space: {error}") from error


def _packages(cache: Cache, say: Callable[[str], None]) -> Sequence[Package]:
    found = {}
    for name in PACKAGES:
        found.update(apt.find(SUITE, name, cache, say, arch=Abi.I386))
    missing = [name for name in PACKAGES if name not in found]
    if missing:
        raise KernelUnavailable(f"{SUITE} has no i386 package {', '.join(missing)}")
    return [found[name] for name in PACKAGES]


def _build(
    root: Path, packages: Sequence[Package], cache: Cache, say: Callable[[str], None]
) -> None:
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="debs-") as scratch:
        size = sum(package.size for package in packages) / 1e6
        say(f"downloading an i386 Python ({size:.0f} MB)")
        files = apt.download(SUITE, packages, Path(scratch), cache, Abi.I386, say)
        initramfs.lay_out(root)
        for name, data in _members(files, cache):
            for target, mode in _targets(name):
                path = root / target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                path.chmod(mode)
    for needed in ("bin/busybox", "usr/bin/python3", LOADER, f"{STDLIB}/os.py"):
        if not (root / needed).is_file():
            raise KernelUnavailable(f"the packages hold no {needed}")
    (root / "lib").mkdir(exist_ok=True)
    (root / "lib" / "ld-linux.so.2").symlink_to(f"/{LOADER}")
    _compile(root)


def _members(debs: Mapping[str, Path], cache: Cache) -> Iterator[tuple[str, bytes]]:
    for package, path in debs.items():
        kinds = (*_MEMBERS, _MINIMAL) if package.endswith("-minimal") else _MEMBERS

        def is_wanted(name: str, kinds: Sequence[re.Pattern[str]] = kinds) -> bool:
            return any(kind.fullmatch(_plain(name)) for kind in kinds)

        yield from archive.members(path, is_wanted, cache.stop)


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _targets(name: str) -> Iterator[tuple[str, int]]:
    """Where a member of a package goes in the root, and with which mode."""
    name = _plain(name)
    library = _LIBRARY.fullmatch(name)
    if _PYTHON.fullmatch(name):
        yield "usr/bin/python3", 0o755
    elif _BUSYBOX.fullmatch(name):
        yield "bin/busybox", 0o755
    elif _LOADER.fullmatch(name):
        yield LOADER, 0o755
    elif library:
        # The package's symbolic links are left out: a program needs libffi.so.8, but the file is
        # libffi.so.8.1.4.
        stem, _, version = library[1].partition(".so.")
        numbers = version.split(".")
        for count in range(1, len(numbers) + 1):
            yield f"{LIBRARIES}/{stem}.so.{'.'.join(numbers[:count])}", 0o755
    else:
        yield name, 0o644


def _compile(root: Path) -> None:
    """Compile the standard library and the checker to bytecode, if the host runs i386 programs."""
    command = [
        *(str(root / LOADER), "--library-path", str(root / LIBRARIES)),
        *(str(root / "usr/bin/python3"), "-I", "-S", "-m", "compileall", "-q"),
        *("--invalidation-mode", "unchecked-hash", "-s", str(root)),
        *(str(root / STDLIB), str(root / initramfs.CHECKER)),
    ]
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PYTHONHOME": str(root / "usr")},
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired):
        return  # only slower
