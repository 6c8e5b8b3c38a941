# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root for a 32-bit user space, and for other architectures."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HostError, KernelUnavailable
from harness.host.architectures import Arch
from harness.kernels import Cache, apt, archive
from harness.kernels import elf as elf_files
from harness.kernels.debian import Package
from harness.manifest.entries import Abi, UserSpace
from harness.vm import foreign_root, initramfs
from harness.vm.foreign_root import Release
from tests.vm.test_initramfs import entries

I386, S390X = UserSpace(abi=Abi.I386), UserSpace(Arch.S390X)
STDLIB = "./usr/lib/python3.13"


def elf(*needed: str, order: str = ">") -> bytes:
    """An ELF64 file of s390x that needs these libraries."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    starts = [strings.index(name.encode()) for name in needed]
    dynamic = b"".join(struct.pack(order + "qQ", 1, start) for start in starts)
    dynamic += struct.pack(order + "qQ", 0, 0)
    sections = struct.pack(order + "IIQQQQIIQQ", 0, 3, 0, 0, 64, len(strings), 0, 0, 1, 0)
    at = 64 + len(strings)
    sections += struct.pack(order + "IIQQQQIIQQ", 0, 6, 0, 0, at, len(dynamic), 0, 0, 8, 16)
    ident = b"\x7fELF" + bytes([2, 2 if order == ">" else 1, 1])
    table = at + len(dynamic)
    fields = (3, 22, 1, 0, 0, table, 0, 64, 56, 0, 64, 2, 0)
    return struct.pack(order + "16sHHIQQQIHHHHHH", ident, *fields) + strings + dynamic + sections


def test_a_library_has_the_names_that_programs_ask_for() -> None:
    wanted = ["libffi.so.8", "libffi.so.8.1", "libffi.so.8.1.4"]
    assert list(foreign_root._names("libffi.so.8.1.4")) == wanted


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """The members of the packages, of s390x and i386 alike; the module says which it wants."""
    found = {
        "./usr/bin/python3.13": elf("libc.so.6", "libz.so.1"),
        "./usr/bin/busybox": elf(),
        "./usr/lib/i386-linux-gnu/ld-linux.so.2": elf(),
        f"{STDLIB}/lib-dynload/_ctypes.cpython-313-i386-linux-gnu.so": elf(),
        "./usr/lib/s390x-linux-gnu/ld64.so.1": elf(),
        f"{STDLIB}/os.py": b"",
        f"{STDLIB}/lib-dynload/_ctypes.cpython-313-s390x-linux-gnu.so": elf("libffi.so.8"),
        f"{STDLIB}/lib-dynload/_ssl.cpython-313-s390x-linux-gnu.so": elf("libssl.so.3"),
        f"{STDLIB}/ctypes/__init__.py": b"",
        "./usr/share/doc/python3.13/README": b"no",
    }
    for triplet, loader in (("s390x", "ld64.so.1"), ("i386", "ld-linux.so.2")):
        libraries = f"./usr/lib/{triplet}-linux-gnu"
        found[f"{libraries}/libc.so.6"] = elf(loader)
        found[f"{libraries}/libz.so.1.3.1"] = elf("libc.so.6")
        found[f"{libraries}/libffi.so.8.1.4"] = elf()
        found[f"{libraries}/libunused.so.1"] = elf("libnowhere.so.1")
    package = Package("python3.13-minimal", "3.13.5", "", 9, "0" * 64)
    monkeypatch.setattr(Release, "packages", (package.name,))
    monkeypatch.setattr(foreign_root, "RELEASES", (Release("trixie", "3.13"),))
    monkeypatch.setattr(foreign_root, "_compiler", lambda _: None)
    monkeypatch.setattr(initramfs, "imported", lambda: {"os": "os.py", "_ctypes": ""})
    monkeypatch.setattr(apt, "find", lambda *_, **__: {package.name: package})
    monkeypatch.setattr(apt, "download", lambda *_, **__: {package.name: tmp_path / "it.deb"})
    monkeypatch.setattr(
        archive,
        "members",
        lambda _, is_wanted, __: ((n, data) for n, data in found.items() if is_wanted(n)),
    )
    return found


def prepared(tmp_path: Path, user_space: UserSpace = S390X) -> dict[str, Any]:
    cache = Cache(tmp_path / "cache")
    place = foreign_root.prepare(user_space, cache, tmp_path, lambda _: None)
    return dict(entries(place.read_bytes()))


@pytest.mark.usefixtures("members")
def test_the_root_holds_the_interpreter_its_loader_and_the_checker(tmp_path: Path) -> None:
    found = prepared(tmp_path)
    # lib/ld64.so.1 is the path in the ELF header of every program for s390x.
    assert {"usr/bin/python3", "bin/busybox", "lib/ld64.so.1", "init"} <= found.keys()
    assert f"{initramfs.CHECKER}/vm.py" in found
    assert not [name for name in found if "share/doc" in name]


@pytest.mark.usefixtures("members")
def test_the_loader_of_i386_is_where_its_programs_look(tmp_path: Path) -> None:
    assert "lib/ld-linux.so.2" in prepared(tmp_path, I386)


@pytest.mark.usefixtures("members")
def test_the_root_holds_the_libraries_that_are_needed_and_no_others(tmp_path: Path) -> None:
    place = "usr/lib/s390x-linux-gnu/"
    found = [name.removeprefix(place) for name in prepared(tmp_path) if name.startswith(place)]
    assert sorted(found) == ["libc.so.6", "libffi.so.8", "libz.so.1"]


@pytest.mark.usefixtures("members")
def test_an_extension_that_the_checker_does_not_import_is_left_out(tmp_path: Path) -> None:
    assert not [name for name in prepared(tmp_path) if "_ssl" in name]


def test_a_library_that_no_package_has_is_named(members: dict[str, bytes], tmp_path: Path) -> None:
    del members["./usr/lib/s390x-linux-gnu/libffi.so.8.1.4"]
    with pytest.raises(HostError, match=r"_ctypes\.\S+ needs libffi\.so\.8, which no package"):
        prepared(tmp_path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_libraries_of_a_program_of_either_byte_order_are_read(order: str) -> None:
    assert elf_files.needed_libraries(elf("liba.so", "libb.so.2", order=order)) == (
        "liba.so",
        "libb.so.2",
    )


@pytest.mark.parametrize("kept", [5, 40, 70, 200])
def test_a_program_that_is_cut_off_is_damaged(
    members: dict[str, bytes], tmp_path: Path, kept: int
) -> None:
    members["./usr/bin/python3.13"] = elf("libc.so.6", "libz.so.1")[:kept]
    with pytest.raises(HostError, match="the interpreter cannot be used: it is"):
        prepared(tmp_path)


def test_a_package_without_an_interpreter_is_refused(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    del members["./usr/bin/python3.13"]
    with pytest.raises(
        HostError, match=r"32-bit user space .*the packages contain no usr/bin/python"
    ):
        prepared(tmp_path, I386)


def test_the_next_release_serves_where_the_mirror_lacks_packages(
    members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = (Release("trixie", "3.13"), Release("sid", "3.13"))
    monkeypatch.setattr(foreign_root, "RELEASES", releases)

    def download(suite: str, *_: object, **__: object) -> dict[str, Path]:
        if suite == "trixie":
            raise apt.Gone("the mirror no longer has libc6 of trixie")
        return {"python3.13-minimal": tmp_path / "it.deb"}

    monkeypatch.setattr(apt, "download", download)
    said: list[str] = []
    foreign_root.prepare(S390X, Cache(tmp_path / "cache"), tmp_path, said.append)
    assert any("from trixie: the mirror no longer has libc6" in text for text in said)


def test_the_release_with_the_hosts_python_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Host:
        version = "3.11"

    monkeypatch.setattr(initramfs.Interpreter, "of_host", lambda: Host)
    assert [release.suite for release in foreign_root._releases()] == ["bookworm", "trixie", "sid"]


def test_an_archive_without_the_packages_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "find", lambda *_, **__: {})
    with pytest.raises(HostError, match=r"trixie has no s390x package python3\.13-minimal"):
        prepared(tmp_path)


def test_a_mirror_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KernelUnavailable("no network")

    monkeypatch.setattr(apt, "find", fail)
    with pytest.raises(HostError, match="no network"):
        prepared(tmp_path)
