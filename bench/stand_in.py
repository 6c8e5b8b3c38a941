# SPDX-License-Identifier: GPL-2.0-only
"""A program in the place of QEMU, for what the harness costs without a kernel.

It says what a kernel and its checker say when everything passes, and lives as long as a VM with KVM
may. So boots cost nothing beyond the harness's own work, which is what is measured.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guest import checks, events
from guest.probe import Finding
from guest.runner import Options, Planned, Runner
from harness.host import tools
from harness.host.architectures import HOST
from harness.manifest.expectations import CAPABILITIES
from harness.verdict.judge import OF_IPV6

if TYPE_CHECKING:
    from guest.runner import Report

RELEASE = "7.3.4-stand-in"
SEED = 7
#: Seconds for which the program runs, as a VM with KVM may.
LIFE_S = 1.0
#: What the harness must be told for the recorded events to be an answer.
ASKED = ("--seed", str(SEED), "--accel", "tcg")
#: Stands for the nonce of a boot in the recorded events.
_NONCE = "@" * 32
_KERNEL_LINES = 400

_PROGRAM = """\
#!{python} -ISB
import os, sys, time, _socket
ended = time.monotonic() + {life}
if sys.argv[1:2] == ["--version"]:
    print("QEMU emulator version 7.2.22 (a stand-in)")
    sys.exit()
options = dict(zip(sys.argv, sys.argv[1:]))
port = next(word for word in sys.argv if word.startswith("socket,id=mptcp,"))
with open(options["-initrd"], "rb") as file:
    file.seek(-(1 << 16), 2)
    nonce = file.read().partition(b"\\nnonce=")[2][:32]
with open({directory!r} + "/console", "rb") as file:
    os.write(2, file.read())
with open({directory!r} + "/events", "rb") as file:
    said = file.read().replace({nonce!r}, nonce)
channel = _socket.socket(_socket.AF_UNIX)
channel.connect(port.partition("path=")[2])
while said:
    said = said[channel.send(said):]
time.sleep(max(0, ended - time.monotonic()))
os.write(2, b"[    4.000000] reboot: Power down\\n")
"""


class _Recorder(Runner):
    """A checker on a kernel that has and passes everything."""

    def _probe(self, family: str) -> None:
        names = [name for name in CAPABILITIES if family == "ipv6" or name not in OF_IPV6]
        self._capabilities[family] = dict.fromkeys(names, Finding(True, ""))
        for name in names:
            self._emit("capability", name=name, family=family, present=True, detail="")

    def _round(self, plan: Any, seed: int, report: Report) -> None:
        for group in plan:
            self._group(group, report)

    def _group(self, group: Planned, report: Report) -> None:
        for index in range(group.first, group.first + len(group.entries)):
            report.start(index)
            report.result(index, events.PASS, {})


def events_of(rounds: int = 1, profile: str = checks.QUICK) -> bytes:
    """The event stream of a boot, with a placeholder for its nonce."""
    said: list[bytes] = []
    emitter = events.Emitter(said.append)
    hello: Mapping[str, str] = {"nonce": _NONCE, "release": RELEASE, "version": "#1 SMP"}
    emitter.emit(
        "hello",
        protocol=events.PROTOCOL,
        **hello,
        machine="x86_64",
        python="3.11.2",
        seed=SEED,
        taint=0,
    )
    runner = _Recorder(Options(seed=SEED, rounds=rounds, profile=profile), emitter)
    results = runner.run()
    emitter.emit("end", nonce=_NONCE, results=results, rounds=runner.rounds, taint=0)
    return b"".join(said)


def console() -> bytes:
    """What a kernel prints until it runs init, of the usual length."""
    lines = [f"Linux version {RELEASE} (builder@host) #1 SMP", *map(_kernel_line, range(400))]
    lines.append("Run /init as init process")
    return "".join(f"[{n * 0.005:12.6f}] {line}\n" for n, line in enumerate(lines)).encode()


def _kernel_line(number: int) -> str:
    return f"pci 0000:00:{number:04x}: BAR 0 [mem 0xfe{number:06x}-0xfe{number:06x}] assigned"


def write_program(
    place: Path, rounds: int = 1, life_s: float = LIFE_S, profile: str = checks.QUICK
) -> Path:
    """Write the program, and what it says, below the new directory ``place``."""
    place.mkdir()
    (place / "events").write_bytes(events_of(rounds, profile))
    (place / "console").write_bytes(console())
    program = place / tools.qemu_of(HOST).programs[0]
    program.write_text(
        _PROGRAM.format(
            python=sys.executable, life=life_s, directory=str(place), nonce=_NONCE.encode()
        )
    )
    program.chmod(0o755)
    return program


def write_manifest(place: Path, count: int) -> Path:
    """Write a manifest of ``count`` kernels and their images below the new directory ``place``."""
    place.mkdir()
    entries = []
    for number in range(count):
        (place / f"vmlinux-{number}").write_bytes(vmlinux(number))
        entries.append(f"  - {{name: kernel-{number}, image: vmlinux-{number}}}\n")
    manifest = place / "kernels.yaml"
    manifest.write_text("kernels:\n" + "".join(entries))
    return manifest


def vmlinux(number: int = 0) -> bytes:
    """What the harness takes for a kernel with its drivers built in; ``number`` makes it unique."""
    text = random.Random(number).randbytes(1 << 20)  # noqa: S311 (not a secret)
    said = f"Linux version {RELEASE} (builder@host) (gcc 12) #1 SMP Fri\n\0"
    said += "virtio-pci\0virtio_console\0"
    names = b"\0.text\0.rodata\0.shstrtab\0"
    note = struct.pack("<III", 4, 4, 18) + b"Xen\0" + bytes(4)
    parts = [text, said.encode(), names]
    start = 64 + 2 * 56 + len(note)
    sections, at = [bytes(64)], start
    for name, part in zip((1, 7, 15), parts, strict=True):
        sections.append(struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, len(part), 0, 0, 1, 0))
        at += len(part)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, at, 0, 64, 56, 2, 64, 4, 3
    )  # fmt: skip
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, at, 0, 0)
    segments += struct.pack("<IIQQQQQQ", 4, 4, 64 + 2 * 56, 0, 0, len(note), 0, 0)
    return header + segments + note + b"".join(parts) + b"".join(sections)
