# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root for a 32-bit user space."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import HostError, KernelUnavailable
from harness.kernels import Cache, apt, deb
from harness.kernels.debian import Package
from harness.manifest.schema import Abi
from harness.vm import foreign_root, initramfs
from tests.vm.test_initramfs import entries

LIB = "usr/lib/i386-linux-gnu"


@pytest.mark.parametrize(
    ("member", "targets"),
    [
        ("./usr/bin/python3.13", ["usr/bin/python3"]),
        ("./usr/bin/busybox", ["bin/busybox"]),
        ("./usr/lib/i386-linux-gnu/ld-linux.so.2", [foreign_root.LOADER]),
        (f"./{LIB}/libffi.so.8.1.4", [f"{LIB}/libffi.so.{n}" for n in ("8", "8.1", "8.1.4")]),
        ("./usr/lib/python3.13/os.py", ["usr/lib/python3.13/os.py"]),
    ],
)
def test_a_library_is_found_by_the_name_that_programs_ask_for(
    member: str, targets: list[str]
) -> None:
    assert [target for target, _ in foreign_root._targets(member)] == targets


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """The members of the packages; which of them are wanted is the module's to say."""
    members = {
        "./usr/bin/python3.13": b"\x7fELF",
        "./usr/bin/busybox": b"\x7fELF",
        "./usr/lib/i386-linux-gnu/ld-linux.so.2": b"\x7fELF",
        "./usr/lib/python3.13/os.py": b"",
        "./usr/share/doc/python3.13/README": b"no",
        "./usr/lib/python3.13/ctypes/__init__.py": b"",
    }
    package = Package("python3.13-minimal", "3.13.5", "", 9, "0" * 64)
    monkeypatch.setattr(foreign_root, "PACKAGES", (package.name,))
    monkeypatch.setattr(apt, "find", lambda *_, **__: {package.name: package})
    monkeypatch.setattr(apt, "download", lambda *_, **__: {package.name: tmp_path / "it.deb"})
    monkeypatch.setattr(
        deb,
        "members",
        lambda _, is_wanted, __: ((n, data) for n, data in members.items() if is_wanted(n)),
    )
    return members


@pytest.mark.usefixtures("archive")
def test_the_root_holds_the_interpreter_its_loader_and_the_checker(tmp_path: Path) -> None:
    place = foreign_root.prepare(Abi.I386, Cache(tmp_path / "cache"), tmp_path, lambda _: None)
    found = entries(place.read_bytes())
    assert {"usr/bin/python3", "bin/busybox", foreign_root.LOADER, "init"} <= found.keys()
    assert f"{initramfs.CHECKER}/vm.py" in found
    assert not [name for name in found if "share/doc" in name]


def test_a_package_without_an_interpreter_is_refused(
    archive: dict[str, bytes], tmp_path: Path
) -> None:
    del archive["./usr/bin/python3.13"]
    with pytest.raises(HostError, match=r"32-bit user space: the packages hold no usr/bin/python3"):
        foreign_root.prepare(Abi.I386, Cache(tmp_path / "cache"), tmp_path, lambda _: None)


def test_an_archive_without_the_packages_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "find", lambda *_, **__: {})
    with pytest.raises(HostError, match=r"trixie has no i386 package python3\.13-minimal"):
        foreign_root.prepare(Abi.I386, Cache(tmp_path / "cache"), tmp_path, lambda _: None)


def test_a_mirror_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KernelUnavailable("no network")

    monkeypatch.setattr(apt, "find", fail)
    with pytest.raises(HostError, match="no network"):
        foreign_root.prepare(Abi.I386, Cache(tmp_path / "cache"), tmp_path, lambda _: None)
