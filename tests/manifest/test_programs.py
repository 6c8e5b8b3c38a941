# SPDX-License-Identifier: GPL-2.0-only
"""Programs of ``--cross-check``: what is taken, what is refused before the boot, and with what."""

from __future__ import annotations

import shlex
import shutil
import struct
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.manifest import cross_check
from harness.manifest.cross_check import Program
from harness.manifest.plan import Plan
from harness.verdict.verdicts import Family


def elf(machine: int = 62, interpreter: str = "", kind: int = 2) -> bytes:
    """A program's headers; with an ``interpreter`` it is linked dynamically."""
    name = interpreter.encode() + b"\0"
    segments = [struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(name), len(name), 1)]
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    count = len(segments) if interpreter else 0
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, kind, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    return (header + b"".join(segments)[:56] if count else header).ljust(120, b"\0") + name


def executable(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def test_a_static_program_brings_no_library(tmp_path: Path) -> None:
    path = executable(tmp_path / "mptcp_sockopt", elf())
    (found,) = cross_check.find([f"{shlex.quote(str(path))} -v"])
    assert found.arguments == ("-v",)
    files = cross_check.files([found], tuple(Family))
    assert files == {
        "opt/program/0/mptcp_sockopt": path.read_bytes(),
        "opt/commands/000": b"0\0mptcp_sockopt\0-v",
        "opt/commands/001": b"0\0mptcp_sockopt\0-6\0-v",
    }


def test_a_dynamic_program_brings_its_libraries_and_loader() -> None:
    place = shutil.which("ls")
    assert place is not None
    found = cross_check.find([place])
    names = cross_check.files(found, (Family.IPV4,)).keys()
    assert any("libc.so" in name for name in names)
    assert any("/ld-linux" in name for name in names)


def test_minus_six_comes_first_unless_an_argument_names_the_family() -> None:
    plain = Program(Path("/p/inq"), "0", ("-t", "tcp"))
    assert plain.command(Family.IPV4) == ("inq", "-t", "tcp")
    assert plain.command(Family.IPV6) == ("inq", "-6", "-t", "tcp")
    named = Program(Path("/p/mine"), "0", ("--over={family}",))
    assert named.shown(Family.IPV6) == "mine --over=ipv6"
    assert named.shown(Family.IPV4) == "mine --over=ipv4"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"#!/bin/sh\n", "not an ELF program; give a program compiled for x86-64 Linux"),
        (elf(machine=183), "not a program for x86-64 or i386"),
        (elf(kind=1), "not a program for x86-64 or i386"),
        (elf()[:20], "its ELF header is truncated; give"),
        (
            elf(interpreter="/lib/ld-of-elsewhere.so"),
            "its loader /lib/ld-of-elsewhere.so does not exist",
        ),
    ],
)
def test_what_cannot_run_is_refused_before_the_boot(
    tmp_path: Path, content: bytes, why: str
) -> None:
    path = executable(tmp_path / "program", content)
    with pytest.raises(UsageError, match=why):
        cross_check.find([str(path)])


def test_a_library_that_the_host_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "ldd", b"#!/bin/sh\nprintf '\\tlibabc.so.1 => not found\\n'\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = executable(tmp_path / "program", elf(interpreter="/"))
    with pytest.raises(UsageError, match=r"this host lacks libabc\.so\.1; link it statically"):
        cross_check.find([str(path)])


def test_words_that_name_no_program_are_refused() -> None:
    for text, why in (
        ("", "it names no program"),
        ("'open", "no closing quotation"),
        ("/nonexistent/program", "no such executable file"),
    ):
        with pytest.raises(UsageError, match=why):
            cross_check.find([text])
    with pytest.raises(UsageError, match="at most 8"):
        cross_check.find(["true"] * 9)


def test_a_program_that_changes_meanwhile_is_not_run(tmp_path: Path) -> None:
    path = executable(tmp_path / "program", elf())
    found = cross_check.find([str(path)])
    executable(path, elf() + b"more")
    with pytest.raises(UsageError, match="it changed"):
        cross_check.files(found, tuple(Family))


def test_a_program_too_large_for_the_guest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_check, "MAX_SIZE", 100)
    path = executable(tmp_path / "program", elf())
    with pytest.raises(UsageError, match="at most 0 fit into the guest"):
        cross_check.find([str(path)])


def test_the_guest_is_told_of_programs_only_where_there_are_some() -> None:
    assert "program_s" not in Plan().arguments(1)
    assert "program_s" in Plan(programs=(Program(Path("/p"), "0"),)).arguments(1)
