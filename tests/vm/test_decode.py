# SPDX-License-Identifier: GPL-2.0-only
"""Against a small program with debug information, whose source lies beside it:

gcc -g -O1 -fno-pie -no-pie -nostdlib -ffreestanding -fno-asynchronous-unwind-tables prog.c
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.errors import HostError
from harness.vm import traces
from tests.replacing import replaced

VMLINUX = Path(__file__).parents[1] / "data/traced/vmlinux"
needs_binutils = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in traces.BINUTILS), reason="binutils is not installed"
)


@needs_binutils
@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("[    1.0] RIP: 0010:broken+0x0/0x6", "prog.c:1"),
        # A return address belongs to the call before it, here one that was inlined.
        ("[    1.0]  caller+0x5/0xa", "prog.c:4, prog.c:8"),
        ("[    1.0]  ? caller+0x5/0xa", "prog.c:4, prog.c:8"),
    ],
)
def test_frame_gets_its_source_line(line: str, place: str) -> None:
    assert traces.decode(f"before\n{line}\nafter", VMLINUX) == f"before\n{line} ({place})\nafter"


@needs_binutils
@pytest.mark.parametrize(
    "line",
    [
        "[    1.0]  caller+0x5/0xa [mptcp]",  # of a module, whose addresses are others
        "[    1.0]  caller+0x5/0xb",  # another function of that name
        "[    1.0]  elsewhere+0x5/0xa",
        "nothing of the kind",
    ],
)
def test_other_lines_stay_as_they_are(line: str) -> None:
    assert traces.decode(line, VMLINUX) == line


@needs_binutils
def test_file_that_is_no_vmlinux_is_said(tmp_path: Path) -> None:
    image = tmp_path / "vmlinux"
    image.write_text("no image")
    with pytest.raises(HostError, match="nm failed"):
        traces.decode("caller+0x5/0xa", image)


@needs_binutils
def test_several_traces_are_told_apart_as_they_were() -> None:
    texts = ["RIP: 0010:broken+0x0/0x6\nafter", "", "\n", "nothing", " caller+0x5/0xa"]
    alone = [traces.decode(text, VMLINUX) for text in texts]
    assert traces.decode_all(texts, VMLINUX) == alone


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="install binutils"):
        traces.decode("caller+0x5/0xa", VMLINUX)


def test_vmlinux_is_known_by_the_banner_of_its_build(tmp_path: Path) -> None:
    vmlinux = tmp_path / "vmlinux"
    banner = b"Linux version 6.1.0 (me@here) (gcc 12.2) #7 SMP Mon Nov 23 12:00:00 UTC 2026"
    vmlinux.write_bytes(b"\x7fELF\0" + banner + b"\n\0more")
    console = b"SeaBIOS\r\n[    0.000000] " + banner + b"\r\n[    0.000000] Command line: x"
    assert traces.is_vmlinux_of(vmlinux, console)
    assert not traces.is_vmlinux_of(vmlinux, replaced(console, b"#7", b"#8"))
    assert not traces.is_vmlinux_of(vmlinux, b"nothing of the kind")
    vmlinux.write_bytes(b"")
    assert not traces.is_vmlinux_of(vmlinux, console)
