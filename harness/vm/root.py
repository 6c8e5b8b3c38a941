# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root: a Python, the checker and a busybox, and nothing else of the host.

It is shared read-only with every VM of a run, so it is built once and kept by content: the key
covers the interpreter, busybox and the checker's sources.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import guest
from harness import host

CHECKER = "opt/guest"  # and its __main__.py is run as a file: a directory needs runpy
#: What virtme-ng's init mounts on or writes to; the root itself is read-only.
DIRECTORIES = (
    *("dev", "etc", "home", "lib/modules", "proc", "root", "run", "sys", "tmp"),
    *("usr/bin", "usr/lib", "var/log", "var/tmp", "bin", "opt"),
)
#: Read or bind-mounted over by virtme-ng's init.
EMPTY_FILES = ("etc/fstab", "etc/hosts", "etc/shadow", "etc/sudoers")
#: Applets that virtme-ng's `init=/bin/sh -c …` and its init call by name.
APPLETS = ("sh", "bash", "mount", "mkdir", "ip", "poweroff")

#: Run in the interpreter that goes into the root: prints what importing the checker loads.
_CLOSURE = """
import sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2].split(","):
    __import__(name)
for name, module in sys.modules.items():
    if not name.startswith("guest") and getattr(module, "__file__", None):
        print(module.__file__, end="\\0")
"""


class RootUnavailable(Exception):
    """The guest's root could not be built; a sentence with the remedy."""


@dataclass(frozen=True)
class Interpreter:
    """The Python that goes into the guest: the one that runs the harness."""

    executable: Path
    stdlib: Path
    version: str  # "3.11"

    @classmethod
    def of_host(cls) -> Interpreter:
        # The base installation, not the virtual environment that the harness runs in.
        base = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
        variables = {"installed_base": sys.base_prefix, "platbase": sys.base_exec_prefix}
        stdlib = Path(sysconfig.get_path("stdlib", vars={**variables, "base": sys.base_prefix}))
        return cls(base, stdlib, f"{sys.version_info.major}.{sys.version_info.minor}")


def prepare(cache: Path) -> Path:
    """The guest's root below ``cache``, built if it is not there yet.

    Raises :class:`RootUnavailable` where busybox or ``ldd`` is missing, or the disk is full.
    """
    busybox = host.find_static_busybox()
    if busybox is None:
        raise RootUnavailable(
            "no statically linked busybox was found, and the VM's initramfs needs one: "
            "install busybox-static"
        )
    interpreter = Interpreter.of_host()
    checker = Path(guest.__file__).parent
    place = cache / "roots" / _key(interpreter, busybox, checker)
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=place.parent) as scratch:
            new = Path(scratch) / "root"
            _build(new, interpreter, busybox, checker)
            try:
                new.rename(place)
            except OSError:
                if not place.is_dir():  # else another harness was faster, with the same content
                    raise
    except (OSError, subprocess.CalledProcessError) as error:
        raise RootUnavailable(
            f"cannot build the guest's root in {place.parent}: {error}"
        ) from error
    return place


def _key(interpreter: Interpreter, busybox: Path, checker: Path) -> str:
    digest = hashlib.sha256()
    for path in (interpreter.executable, busybox):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    digest.update(f"{sys.version} {interpreter.stdlib}\n".encode())
    # What is laid out, and how, is written here.
    digest.update(Path(__file__).read_bytes())
    for source in _sources(checker):
        digest.update(f"{source.relative_to(checker)}\n".encode())
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _sources(checker: Path) -> list[Path]:
    return sorted(checker.rglob("*.py"))


def _build(root: Path, interpreter: Interpreter, busybox: Path, checker: Path) -> None:
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in EMPTY_FILES:
        (root / name).touch()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    _copy(busybox, root / "bin/busybox", 0o755)
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    for source in _sources(checker):
        _copy(source, root / CHECKER / source.relative_to(checker))
    _install_python(root, interpreter, checker)


def _install_python(root: Path, interpreter: Interpreter, checker: Path) -> None:
    """The interpreter, the modules that the checker loads, and the libraries all of them need."""
    python = root / "usr/bin/python3"
    _copy(interpreter.executable, python, 0o755)
    stdlib = root / f"usr/lib/python{interpreter.version}"
    native = [interpreter.executable]
    for module in _loaded_modules(interpreter, checker):
        if module.suffix == ".so":
            native.append(module)
            _copy(module, stdlib / "lib-dynload" / module.name, 0o755)
        elif module.is_relative_to(interpreter.stdlib):
            _copy(module, stdlib / module.relative_to(interpreter.stdlib))
    # What getpath takes for the sign of a standard library; os itself is frozen.
    _copy(interpreter.stdlib / "os.py", stdlib / "os.py")
    (stdlib / "lib-dynload").mkdir(exist_ok=True)
    for library in _libraries(native):
        _copy(library, root / str(library).lstrip("/"), 0o755)
        # A library beside an interpreter of its own prefix is found through $ORIGIN/../lib.
        if not library.is_relative_to("/usr") and not library.is_relative_to("/lib"):
            _copy(library, root / "usr/lib" / library.name, 0o755)
    compiled = [str(stdlib), str(root / CHECKER)]
    # Unchecked: in the guest nothing compares times, and a compiled file must never be rewritten.
    subprocess.run(
        [
            *(str(interpreter.executable), "-I", "-S", "-m", "compileall", "-q"),
            *("--invalidation-mode", "unchecked-hash", "-s", str(root), *compiled),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


def _loaded_modules(interpreter: Interpreter, checker: Path) -> Iterator[Path]:
    names = [f"guest.{_module(source, checker)}" for source in _sources(checker)]
    wanted = [name for name in names if not name.endswith(("__main__", ".cli", ".ktap"))]
    answer = subprocess.run(
        [
            *(str(interpreter.executable), "-I", "-S", "-c", _CLOSURE),
            *(str(checker.parent), ",".join(wanted)),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    for file in answer.stdout.split("\0")[:-1]:
        yield Path(file)


def _module(source: Path, checker: Path) -> str:
    return ".".join(source.relative_to(checker).with_suffix("").parts).removesuffix(".__init__")


def _libraries(native: Iterable[Path]) -> list[Path]:
    """The shared libraries and the loader of ``native``, as ldd(1) resolves them."""
    found: set[Path] = set()
    for binary in native:
        answer = subprocess.run(
            ["ldd", str(binary)], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        for line in answer.stdout.splitlines():
            found.update(Path(word) for word in line.split() if word.startswith("/"))
    return sorted(path for path in found if path.is_file())


def _copy(source: Path, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(os.path.realpath(source), target)
    # Whatever the umask: under another user's QEMU the guest must still be able to read it.
    target.chmod(mode)
