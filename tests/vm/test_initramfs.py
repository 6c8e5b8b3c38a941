# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root: what is in it, and that cpio reads what we write."""

from __future__ import annotations

import io
import marshal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.host import files, tools
from harness.kernels.cache import file_sha256
from harness.kernels.kernel_image import PreparedKernel
from harness.vm import initramfs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return initramfs.prepare(tmp_path_factory.mktemp("cache"), busybox())


def busybox() -> Path:
    """Only its bytes matter here."""
    return tools.find_static_busybox() or Path(sys.executable).resolve()


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name, of all archives in ``archive``, as the kernel reads them."""
    found = {}
    at = 0
    while at < len(archive):
        if archive[at : at + 1] == b"\0":
            at += 4
            continue
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) & ~3
        found[name] = (mode, archive[start : start + size])
        at = (start + size + 3) & ~3
    return found


def test_an_archive_is_what_cpio_reads() -> None:
    file = io.BytesIO()
    writer = initramfs.CpioWriter(file)
    writer.directory("d")
    writer.file("d/odd", b"12345", 0o755)
    writer.symlink("d/link", "odd")
    writer.close()
    if not tools.find("busybox"):
        pytest.skip("no busybox to read the archive with")
    listed = subprocess.run(
        ["busybox", "cpio", "-t", "-v"], input=file.getvalue(), capture_output=True
    ).stdout.decode()
    assert "-rwxr-xr-x" in listed
    assert "d/odd" in listed
    assert "d/link -> odd" in listed


def test_the_root_holds_a_python_the_checker_and_an_init(base: Path) -> None:
    found = entries(base.read_bytes())
    assert found["init"][0] == 0o100755
    assert found["bin/sh"][1] == b"busybox"
    assert found["usr/bin/python3"][0] == 0o100755
    assert f"{initramfs.CHECKER}/__main__.py" in found
    assert found["dev/console"][0] == 0o020600


def test_what_init_mounts_is_there_with_its_places(base: Path) -> None:
    found = entries(base.read_bytes())
    assert b"mount -a\n" in found["init"][1]
    lines = [line.split() for line in found["etc/fstab"][1].decode().splitlines()]
    assert [(place, kind) for _, place, kind, *_ in lines] == [
        *(("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "devtmpfs")),
    ]
    assert all(place.lstrip("/") in found for _, place, *_ in lines)


def test_the_root_holds_nothing_that_the_checker_does_not_load(base: Path) -> None:
    found = entries(base.read_bytes())
    for name in ("argparse", "json", "socket", "ssl", "unittest", "email"):
        assert not [path for path in found if f"/{name}" in path]
    libraries = initramfs.libraries([initramfs.Interpreter.of_host().executable])
    places = [str(library).lstrip("/") for library in libraries]  # below /root, where Python is
    ours = ("usr/", "bin/", "dev/", "opt/", "lib", "init", "etc/fstab")
    files = [path for path, (mode, _) in found.items() if stat.S_ISREG(mode)]
    assert [path for path in files if not path.startswith(ours) and path not in places] == []


def test_the_checker_starts_from_what_is_in_the_root(base: Path, tmp_path: Path) -> None:
    """Unpacked and run with the host's loader: every module it wants is there."""
    for name, (mode, content) in entries(base.read_bytes()).items():
        if name.startswith((initramfs.CHECKER, "usr/lib/python")) and mode & 0o100000:
            place = tmp_path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    stdlib = next((tmp_path / "usr/lib").glob("python3*"))
    script = (
        f"import sys; sys.path[:] = [{str(stdlib)!r}, {str(stdlib / 'lib-dynload')!r}, "
        f"{str(tmp_path / 'opt')!r}]\nimport guest.vm, guest.runner\n"
        "print([check.id for check in guest.runner.checks.all_checks()][0])\n"
        "import guest.schedule, guest.postmortem, faulthandler\n"
        "print(guest.events.encode({'text': '\"\\n\\ud800\\U0001f600'}))"
    )
    done = subprocess.run(
        [str(initramfs.Interpreter.of_host().executable), "-I", "-S", "-c", script],
        capture_output=True,
        text=True,
    )
    said = b'{"text":"\\u0022\\u000a\\ud800\\ud83d\\ude00"}\n'
    assert done.stdout == f"mptcp_info.readable\n{said!r}\n", done.stderr


@pytest.mark.parametrize("replaced", [False, True])
def test_the_checker_runs_from_one_file_unless_it_is_replaced(
    base: Path, tmp_path: Path, replaced: bool
) -> None:
    """Python's search for 45 modules takes 0.05 s under TCG, and its parser 0.03 s."""
    found = {name: content for name, (_, content) in entries(base.read_bytes()).items()}
    main = f"{initramfs.CHECKER}/__main__.py"
    files = {name: found[name] for name in (main, initramfs.COMPILED)}
    assert not files[main].startswith(b"#")  # bytecode
    if replaced:
        sources = {**initramfs.checker(), "vm.py": b"import ctypes\nraise OSError(ctypes.__file__)"}
        files |= initramfs.instead_of_checker(sources)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [initramfs.Interpreter.of_host().executable, "-I", "-S", main, "--vm", "@nothing"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    said = "OSError: /usr" if replaced else "No such file or directory: 'nothing'"
    assert said in done.stderr.splitlines()[-1]


def test_what_is_compiled_is_every_module_of_the_checker(base: Path) -> None:
    compiled = entries(base.read_bytes())[initramfs.COMPILED][1]
    size = int(compiled[:8])
    index = marshal.loads(compiled[8 : 8 + size])
    names = {
        ".".join(("guest", *Path(name).with_suffix("").parts)).removesuffix(".__init__")
        for name in initramfs.checker()
    }
    assert names <= {*index}
    for start, length, _ in index.values():
        marshal.loads(compiled[8 + size + start :][:length])


def _distribution(usr: Path, name: str, *modules: str) -> None:
    """A distribution's Python below ``usr``, with ``modules`` in its library."""
    (usr / "bin").mkdir(parents=True)
    (usr / "bin" / name).write_bytes(b"")
    (usr / "bin" / name).chmod(0o755)
    (usr / "bin/python3").symlink_to(name)
    for module in modules:
        place = usr / "lib" / name / module
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")


def test_the_guest_gets_the_python_of_the_distribution(tmp_path: Path) -> None:
    _distribution(tmp_path, "python3.12", "os.py", "ctypes/__init__.py")
    found = initramfs.Interpreter.of_host(tmp_path)
    assert found == initramfs.Interpreter(
        tmp_path / "bin/python3.12", tmp_path / "lib/python3.12", "3.12"
    )


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("python3.10", ("os.py", "ctypes/__init__.py")),  # too old
        ("python3.12", ("os.py",)),  # Debian's python3-minimal has no ctypes
        ("python3.12", ()),  # the library is elsewhere
        ("pypy3.12", ("os.py", "ctypes/__init__.py")),
    ],
)
def test_the_guest_gets_the_python_of_the_harness_where_that_is_of_no_use(
    name: str, modules: tuple[str, ...], tmp_path: Path
) -> None:
    _distribution(tmp_path, name, *modules)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert initramfs.Interpreter.of_host(tmp_path).version == version
    assert not initramfs.Interpreter.of_host(tmp_path).executable.is_relative_to(tmp_path)


def test_a_second_prepare_builds_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(initramfs, "lay_out", fail)
    assert initramfs.prepare(base.parents[1], busybox()) == base


def test_modules_follow_in_the_order_in_which_they_load(base: Path, tmp_path: Path) -> None:
    modules = []
    for name in ("virtio_ring.ko", "virtio.ko", "inet_diag.ko", "mptcp_diag.ko"):
        (tmp_path / name).write_bytes(name.encode())
        modules.append(tmp_path / name)
    kernel = PreparedKernel(
        "k", "6.1", "v", "o", base, "0" * 64, tmp_path, base, modules=tuple(modules)
    )
    initramfs.write(tmp_path / "whole", base, kernel, ["nonce=ab", "seed=1"])
    found = entries((tmp_path / "whole").read_bytes())
    names = [name for name in sorted(found) if name.startswith("modules/")]
    assert names == ["modules/00-virtio_ring.ko", "modules/01-virtio.ko"]
    # What is loaded by the checker lies where INIT does not look.
    names = [name for name in sorted(found) if name.startswith("on_demand/")]
    assert names == ["on_demand/02-inet_diag.ko", "on_demand/03-mptcp_diag.ko"]
    assert "init" in found
    assert found[initramfs.REQUEST][1] == b"nonce=ab\nseed=1\n"


def test_a_root_that_was_just_read_is_not_read_again(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLED", -1.0)
    base.with_suffix(initramfs.VERIFIED).unlink(missing_ok=True)  # of an earlier test
    read: list[Path] = []
    real = file_sha256

    def noted(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(initramfs, "file_sha256", noted)
    places = [initramfs.prepare(base.parents[1], busybox()) for _ in range(3)]
    assert (places, read) == ([base] * 3, [base])
    monkeypatch.setattr(files, "host_start", lambda: "another")
    initramfs.prepare(base.parents[1], busybox())
    assert read == [base, base]


def test_a_torn_root_is_built_again(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that was read before."""
    monkeypatch.setattr(files, "SETTLED", -1.0)
    initramfs.prepare(base.parents[1], busybox())
    whole = base.read_bytes()
    base.write_bytes(whole[: len(whole) // 2])
    assert initramfs.prepare(base.parents[1], busybox()) == base
    assert len(base.read_bytes()) == len(whole)


def test_a_script_finds_the_modules_that_it_imports() -> None:
    found = initramfs.standard_modules(["json", "socket", "no_such_module", "guest"])
    names = {name.partition("/python")[2].partition("/")[2] for name in found}
    assert {"json/__init__.py", "json/decoder.py", "re/__init__.py", "socket.py"} <= names


def test_a_module_that_the_guests_python_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its version may be another one than that of the harness."""
    newer = sys.stdlib_module_names | {"module_of_a_later_version"}
    monkeypatch.setattr(sys, "stdlib_module_names", newer)
    found = initramfs.standard_modules(["json", "module_of_a_later_version"])
    assert any(name.endswith("/json/decoder.py") for name in found)


def test_a_script_that_imports_nothing_needs_nothing() -> None:
    assert initramfs.standard_modules(["guest.abi"]) == {}
