# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root: a Python, the checker and a busybox, and nothing else of the host.

The root is the initramfs, so it is in the guest's memory when the kernel starts. With a root over
9p or virtiofs, each page of the interpreter is a separate request: Python took 2 to 4 s to start in
an emulated boot, and takes 0.7 s this way. The kernel needs no 9p, and the guest cannot reach any
file of the host.

The base is built once and kept by content: its key covers the interpreter, busybox, the checker's
sources and this module. A kernel's few modules are in a separate archive.
"""

from __future__ import annotations

import base64
import hashlib
import marshal
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import BinaryIO

import guest
from harness.errors import HostError
from harness.host import files
from harness.kernels.cache import file_sha256
from harness.kernels.kernel_image import PreparedKernel
from harness.kernels.modules import ON_DEMAND

CHECKER = "opt/guest"  # its __main__.py is run as a file; a directory would need runpy
#: Its modules and those of the standard library, compiled, in one file.
COMPILED = f"{CHECKER}/compiled"
#: Bytes before the code in a .pyc file (PEP 552).
_PYC_HEADER = 16
#: The request to the checker; not on the kernel's command line, which is limited to 2 KiB.
REQUEST = "opt/request"
#: What the guest runs in most boots: the checker.
CHECK = ("python3", "-I", "-S", f"/{CHECKER}/__main__.py", "--vm", f"@/{REQUEST}")
DIRECTORIES = (
    "dev", "etc", "proc", "sys", "tmp", "bin", "modules", "on_demand", "opt", "usr/bin", "usr/lib"
)  # fmt: skip
#: Below the checker; only the selftest's boots have it; see harness/selftest.
FAULTS = "faults.py"
#: The programs that INIT and the script call.
APPLETS = ("sh", "mount", "insmod", "ip", "base64", "sleep", "head", "poweroff", "reboot")

#: Does the part of virtme-ng's init that the checker needs, in 0.1 s. It runs the command of `vng
#: --exec`, which virtme-ng passes as `virtme.exec=` in base64 between backquotes. However that
#: command ends, the VM then ends; the event stream has the result.
_INIT = """\
#!/bin/sh
mount -a
for module in /modules/*.ko; do
    [ -e "$module" ] && insmod "$module"
done
ip link set dev lo up
# All of sysrq, for what is asked of a guest that hangs.
[ -e /proc/sys/kernel/sysrq ] && echo 1 > /proc/sys/kernel/sysrq
IFS='`' read -r _ script _ < /proc/cmdline
if [ "$script" = {encoded} ]; then
    # Five processes less.
    /usr/bin/{check}
else
    (eval "$(echo "$script" | base64 -d)")
fi
echo "mptcp-harness: the guest's command ended with status $?"
# Since 5.1 only a kernel with CONFIG_DEBUG_KMEMLEAK has this directory, for a parameter of its own.
if [ -e /sys/module/kmemleak ] && mount -t debugfs debugfs /sys/kernel/debug; then
    leaks=/sys/kernel/debug/kmemleak
    # A leak is what is 5 s old and did not change between two scans.
    echo scan > $leaks && sleep 6 && echo scan > $leaks && head -n 1000 $leaks
fi
poweroff -f || reboot -f
"""

INIT = _INIT.format(
    check=" ".join(CHECK), encoded=base64.b64encode(" ".join(CHECK).encode()).decode()
)

#: What `mount -a` mounts, in one process instead of three.
FSTAB = """\
proc /proc proc defaults 0 0
sysfs /sys sysfs defaults 0 0
devtmpfs /dev devtmpfs defaults 0 0
"""

#: The suffixes of the files beside an archive: its hash, whose time is the archive's last use, and
#: when it was read.
CHECKSUM, VERIFIED = ".sha256", ".verified"

#: Of the versions 3.x of Python, the oldest that the guest gets.
OLDEST_MINOR = 11

#: Run in the root's interpreter: prints the files that importing the checker loads. A name that
#: begins with a question mark may be unknown to that version.
_CLOSURE = """
import sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2].split(","):
    try:
        __import__(name.lstrip("?"))
    except ImportError:
        if name[0] != "?":
            raise
for name, module in sys.modules.items():
    if not name.startswith("guest"):
        print(name, getattr(module, "__file__", None) or "", sep="=", end="\\0")
"""


@dataclass(frozen=True)
class Interpreter:
    """The guest's Python: the distribution's if possible, else the one that runs the harness."""

    executable: Path
    stdlib: Path
    version: str  # "3.11"

    @classmethod
    def of_host(cls, usr: Path = Path("/usr")) -> Interpreter:
        return cls._of_distribution(usr) or cls._of_harness()

    @classmethod
    def _of_distribution(cls, usr: Path) -> Interpreter | None:
        """Distributions optimise their Python with a profile, which makes it a third faster.

        pyenv, for one, does not. None if it is not complete or older than the harness supports.
        """
        executable = (usr / "bin/python3").resolve()
        name = re.fullmatch(r"python(3\.(\d+))", executable.name)
        if name is None or int(name[2]) < OLDEST_MINOR or not os.access(executable, os.X_OK):
            return None
        stdlib = usr / "lib" / executable.name
        if not (stdlib / "ctypes/__init__.py").is_file() or not (stdlib / "os.py").is_file():
            return None
        return cls(executable, stdlib, name[1])

    @classmethod
    def _of_harness(cls) -> Interpreter:
        # The base installation, not the virtual environment of the harness.
        base = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
        stdlib = sysconfig.get_path(
            "stdlib",
            vars={
                "base": sys.base_prefix,
                "installed_base": sys.base_prefix,
                "platbase": sys.base_exec_prefix,
            },
        )
        return cls(base, Path(stdlib), f"{sys.version_info.major}.{sys.version_info.minor}")


def prepare(cache: Path, busybox: Path) -> Path:
    """The base archive below ``cache``, built if necessary.

    ``busybox`` is statically linked. Raises :class:`HostError`.
    """
    interpreter = Interpreter.of_host()
    binaries = "".join(
        f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}\n"
        for path in (interpreter.executable, busybox)
    )
    identity = f"{binaries}{interpreter.version} {interpreter.stdlib}\n"

    def build(root: Path) -> None:
        lay_out(root)
        _copy(busybox, root / "bin/busybox", 0o755)
        _install_python(root, interpreter, Path(guest.__file__).parent)

    return built(cache, identity, build)


def built(cache: Path, identity: str, build: Callable[[Path], None]) -> Path:
    """The archive below ``cache`` of the directory that ``build`` fills, built at most once.

    ``identity`` identifies its content besides the checker. Raises HostError.
    """
    place = cache / "roots" / f"{_key(identity)}.cpio"
    checksum = place.with_suffix(CHECKSUM)
    if _is_whole(place, checksum):
        files.touch(checksum)
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=place.parent) as scratch:
            root, archive = Path(scratch, "root"), Path(scratch, "archive")
            build(root)
            with archive.open("wb") as file:
                writer = CpioWriter(file)
                writer.tree(root)
                # The kernel opens it for init before anything is mounted.
                writer.character_device("dev/console", 5, 1)
                writer.close()
            # Another harness may have been faster; its archive has the same content.
            summary = Path(scratch, "summary")
            summary.write_text(file_sha256(archive))
            summary.replace(checksum)
            archive.replace(place)
    except (OSError, subprocess.CalledProcessError) as error:
        message = f"cannot build the guest's root in {place.parent}: {error}"
        raise HostError(message) from error
    return place


def write(
    target: Path,
    base: Path,
    kernel: PreparedKernel,
    request: Sequence[str],
    extra: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Write the initramfs for a boot of ``kernel``: ``base``, its modules, and the request.

    ``extra`` are files, by name, that replace or supplement the base's.
    """
    shutil.copyfile(base, target)
    with target.open("ab") as file:
        writer = CpioWriter(file)
        for number, module in enumerate(kernel.modules):
            # INIT, or the checker, loads them in the order of their names.
            place = "on_demand" if module.stem in ON_DEMAND else "modules"
            writer.file(f"{place}/{number:02}-{module.name}", module.read_bytes())
        writer.file(REQUEST, "".join(line + "\n" for line in request).encode())
        for parent in sorted({str(p) for name in extra for p in PurePosixPath(name).parents[:-1]}):
            writer.directory(parent)  # the kernel creates no parent directories
        for name, content in extra.items():
            writer.file(name, content, 0o755)  # the loader of a program must be executable too
        writer.close()


def checker() -> dict[str, bytes]:
    """The sources of the checker in the base archive, by their paths in the package."""
    package = Path(guest.__file__).parent
    return {str(path.relative_to(package)): path.read_bytes() for path in _sources(package)}


def instead_of_checker(sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """The ``extra`` files for :func:`write` that make the guest run ``sources``, by path.

    They are not run or compiled here. Of the standard library, they find only what the installed
    checker imports.
    """
    extra = {COMPILED: b""}
    tag = "cpython-" + Interpreter.of_host().version.replace(".", "")
    for name in {**checker(), **sources}:
        path = PurePosixPath(CHECKER, name)
        # The base's bytecode is not compared with its source; Python ignores an empty file.
        compiled = path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc"
        extra[str(path)] = sources.get(name, b"")
        extra[str(compiled)] = b""
    return extra


def _key(identity: str) -> str:
    digest = hashlib.sha256(identity.encode())
    # The layout of the root.
    checker = Path(guest.__file__).parent
    for source in (Path(__file__), Path(__file__), *_sources(checker)):
        digest.update(f"{source.name}\n".encode())
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _is_whole(place: Path, checksum: Path) -> bool:
    """Whether the archive is intact; a power failure or a full disk can damage it."""
    notes = place.with_suffix(VERIFIED)
    try:
        seen = {place.name: files.stamp(place)}
        if files.were_verified(notes, seen, recently=True):
            return True
        if checksum.read_text() != file_sha256(place):
            return False
    except OSError:
        return False
    files.note_verified(notes, seen)
    return True


def _sources(checker: Path) -> list[Path]:
    return sorted(set(checker.rglob("*.py")) - {checker / FAULTS})


def lay_out(root: Path) -> None:
    """Create the directories, init and the checker, which every root has."""
    checker = Path(guest.__file__).parent
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/fstab").write_text(FSTAB)
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    for source in _sources(checker):
        _copy(source, root / CHECKER / source.relative_to(checker))


def _install_python(root: Path, interpreter: Interpreter, checker: Path) -> None:
    """Install the interpreter, the modules that the checker loads, and their libraries."""
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
    # getpath recognises a standard library by this file; os itself is frozen.
    _copy(interpreter.stdlib / "os.py", stdlib / "os.py")
    (stdlib / "lib-dynload").mkdir(exist_ok=True)
    for library in libraries(native):
        _copy(library, root / str(library).lstrip("/"), 0o755)
        # A library beside an interpreter with its own prefix is found through $ORIGIN/../lib.
        if not library.is_relative_to("/usr") and not library.is_relative_to("/lib"):
            (root / "usr/lib" / library.name).symlink_to(library)
    compile_modules(interpreter.executable, root, f"usr/lib/python{interpreter.version}")


def compile_modules(python: Path, root: Path, stdlib: str) -> None:
    """Compile the modules in ``root`` with the host's ``python``, of the same version."""
    subprocess.run(
        [
            *(str(python), "-I", "-S", "-m", "compileall", "-q"),
            # Unchecked: nothing in the guest compares times.
            *("--invalidation-mode", "unchecked-hash", "-s", str(root)),
            *(str(root / stdlib), str(root / CHECKER)),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    (root / COMPILED).write_bytes(_all_compiled(root, stdlib))
    # Python takes a script for bytecode if it begins as such; its parser would take 0.03 s.
    main = root / CHECKER / "__main__.py"
    shutil.copyfile(_bytecode(main), main)


def _all_compiled(root: Path, stdlib: str) -> bytes:
    """The bytecode of all modules in one file, as guest/__main__.py reads it."""
    index: dict[str, tuple[int, int, str]] = {}
    body = b""
    for place, package in ((root / CHECKER, "guest."), (root / stdlib, "")):
        for source in sorted(place.rglob("*.py")):
            name = f"{package}{_module(source, place)}".removesuffix(".__init__")
            code = _bytecode(source).read_bytes()[_PYC_HEADER:]
            index[name] = (len(body), len(code), f"/{source.relative_to(root)}")
            body += code
    # The oldest version of the format that has all that the index needs.
    listed = marshal.dumps(index, 2)
    return b"%08d" % len(listed) + listed + body


def _bytecode(source: Path) -> Path:
    (found,) = (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")
    return found


def _loaded_modules(interpreter: Interpreter, checker: Path) -> Iterator[Path]:
    return _loaded_by(_modules_of(checker), interpreter, checker)


def _modules_of(checker: Path) -> list[str]:
    names = [f"guest.{_module(source, checker)}" for source in _sources(checker)]
    return [name for name in names if not name.endswith(("__main__", ".cli", ".ktap"))]


def imported() -> Mapping[str, str]:
    """The modules that the checker imports in the host's Python, each with its path below the
    standard library; "" if it is built in or an extension."""
    interpreter, checker = Interpreter.of_host(), Path(guest.__file__).parent
    return {
        name: ""
        if file is None or not file.is_relative_to(interpreter.stdlib) or file.suffix != ".py"
        else str(file.relative_to(interpreter.stdlib))
        for name, file in _imports_of(_modules_of(checker), interpreter, checker)
    }


def for_a_person() -> dict[str, bytes]:
    """The ``extra`` files that the checker's own command line needs in addition to the base."""
    interpreter, checker = Interpreter.of_host(), Path(guest.__file__).parent
    # argparse imports these only when it prints something.
    modules = _loaded_by(["guest.cli", "locale", "shutil"], interpreter, checker)
    stdlib = f"usr/lib/python{interpreter.version}"
    return {
        f"{stdlib}/{path.relative_to(interpreter.stdlib)}": path.read_bytes()
        for path in modules
        if path.suffix == ".py" and path.is_relative_to(interpreter.stdlib)
    }


def standard_modules(names: Iterable[str]) -> dict[str, bytes]:
    """The ``extra`` files that a program in the guest needs to import the modules ``names``.

    Those that the standard library does not have are left out.
    """
    interpreter, checker = Interpreter.of_host(), Path(guest.__file__).parent
    known = sorted({name for name in names if name.partition(".")[0] in sys.stdlib_module_names})
    if not known:
        return {}
    modules = [*_loaded_by([f"?{name}" for name in known], interpreter, checker)]
    stdlib = f"usr/lib/python{interpreter.version}"
    native = [path for path in modules if path.suffix == ".so"]
    found = {f"{stdlib}/lib-dynload/{path.name}": path for path in native}
    found |= {str(path).lstrip("/"): path for path in libraries(native)}
    for path in set(modules) - {*native}:
        if path.is_relative_to(interpreter.stdlib):
            found[f"{stdlib}/{path.relative_to(interpreter.stdlib)}"] = path
    return {name: path.read_bytes() for name, path in found.items()}


def _loaded_by(wanted: Sequence[str], interpreter: Interpreter, checker: Path) -> Iterator[Path]:
    """The files of the modules that importing ``wanted`` loads."""
    for _, file in _imports_of(wanted, interpreter, checker):
        if file is not None:
            yield file


def _imports_of(
    wanted: Sequence[str], interpreter: Interpreter, checker: Path
) -> Iterator[tuple[str, Path | None]]:
    """The modules that importing ``wanted`` loads, each with its file unless it is built in."""
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
    for item in answer.stdout.split("\0")[:-1]:
        name, _, file = item.partition("=")
        yield name, Path(file) if file else None


def _module(source: Path, checker: Path) -> str:
    return ".".join(source.relative_to(checker).with_suffix("").parts).removesuffix(".__init__")


def libraries(native: Iterable[Path]) -> list[Path]:
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
    target.chmod(mode)


_ALIGNMENT = 4


class CpioWriter:
    """Writes a cpio archive to ``file``; all members belong to root and have no date."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inode = 0

    def directory(self, name: str, mode: int = 0o755) -> None:
        self._entry(name, stat.S_IFDIR | mode, links=2)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._entry(name, stat.S_IFREG | mode, content)

    def symlink(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, os.fsencode(target))

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._entry(name, stat.S_IFCHR | mode, device=(major, minor))

    def tree(self, root: Path) -> None:
        """Add everything below ``root``, in a fixed order: directories, files and symbolic
        links."""
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_symlink():
                self.symlink(name, str(path.readlink()))
            elif path.is_dir():
                self.directory(name, stat.S_IMODE(path.stat().st_mode))
            else:
                self.file(name, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))

    def close(self) -> None:
        """End the archive; the file stays open."""
        self._entry("TRAILER!!!", 0)

    def _entry(
        self,
        name: str,
        mode: int,
        content: bytes = b"",
        links: int = 1,
        device: tuple[int, int] = (0, 0),
    ) -> None:
        encoded = os.fsencode(name) + b"\0"
        self._inode += 1
        fields = (
            *(self._inode, mode, 0, 0, links, 0, len(content)),  # uid, gid and mtime are 0
            *(0, 0, *device, len(encoded), 0),
        )
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        for part in (header + encoded, content):
            self._file.write(part + bytes(-len(part) % _ALIGNMENT))
