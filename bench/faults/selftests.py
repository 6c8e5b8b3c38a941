# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own selftests of MPTCP against the same faults, for comparison.

``mptcp_sockopt``, ``mptcp_inq``, ``mptcp_diag`` and ``mptcp_connect`` are compiled from the same
source and run in one VM, in which the faults are switched on in turn; after a crash or hang another
VM goes on with the next fault. What is run is in data/selftests.sh.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from bench.faults.catalogue import DATA
from bench.faults.kernel import NotBuilt
from harness.host import tools
from harness.host.files import write_atomically
from harness.vm import initramfs

DIRECTORY = "tools/testing/selftests/net/mptcp"
PROGRAMS = ("mptcp_sockopt", "mptcp_inq", "mptcp_diag", "mptcp_connect")
#: Seconds without a line after which the VM counts as hung.
SILENCE = 180
_MARK = "@@"
#: Boots that may fail before the first fault.
_TRIES = 3
_APPEND = "console=ttyS0 panic=-1 loglevel=5"
#: Init of their VM: what is run, and how.
SCRIPT = DATA / "selftests.sh"
#: Committed, so that docs/detection.md says what they catch wherever it is written.
KEPT = Path(__file__).with_name("selftests.json")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """Of one fault: the programs that failed, or that the VM ended."""

    fault: str
    failed: tuple[str, ...] = ()
    died: str = ""

    @property
    def caught(self) -> bool:
        return bool(self.failed or self.died)


def build(tree: Path, directory: Path) -> Path:
    """The programs, static, in a directory of their own. Raises NotBuilt."""
    place = directory / "selftests"
    place.mkdir(exist_ok=True)
    for name in PROGRAMS:
        command = ["gcc", "-static", "-O1", "-w", "-idirafter", str(tree / "tools/include")]
        command += [str(tree / DIRECTORY / f"{name}.c"), "-o", str(place / name)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            raise NotBuilt(f"{name} does not compile: {run.stderr[-300:]}")
    return place


def run_all(
    image: Path,
    programs: Path,
    faults: Sequence[str],
    say: Say,
    extra: Mapping[str, bytes] = MappingProxyType({}),
    on_line: Say = lambda _: None,
) -> list[Found]:
    """What the programs say of each of ``faults``; "none" comes first and is among the results.

    ``extra`` are files of the VM's root; ``on_line`` gets each line of the console.
    Raises NotBuilt.
    """
    left = ["none", *faults]
    found: list[Found] = []
    failures = 0
    while left:
        lines = _boot(image, programs, left, extra, on_line)
        if not any(f"{_MARK} {left[0]} on" in line for line in lines):
            # An emulated kernel that starts on a busy host panics now and then.
            failures += 1
            if failures == _TRIES:
                raise NotBuilt(f"the selftests' VM did not come to {left[0]}: {lines[-1:]}")
            continue
        done, died = read(lines)
        found += done
        left = left[len(done) :]
        if left and not died:
            raise NotBuilt(f"the selftests' VM ended before {left[0]}")
        if left:
            say(f"selftests: the VM {died} with {left[0]}, {len(left)} faults are left")
            found.append(Found(left.pop(0), died=died))
    return found


def keep(found: Sequence[Found], path: Path = KEPT) -> None:
    """Add ``found`` to what ``path`` has."""
    known = {each.fault: each for each in recall(path)} | {each.fault: each for each in found}
    lines = [json.dumps(asdict(known[name])) for name in sorted(known)]
    write_atomically(path, "[\n" + ",\n".join(lines) + "\n]\n")


def recall(path: Path = KEPT) -> list[Found]:
    """What was kept in ``path``; nothing where there is no such file."""
    if not path.exists():
        return []
    kept = json.loads(path.read_text())
    return [Found(each["fault"], tuple(each["failed"]), each["died"]) for each in kept]


def _boot(
    image: Path,
    programs: Path,
    faults: Sequence[str],
    extra: Mapping[str, bytes],
    on_line: Say,
) -> list[str]:
    """The console of one VM."""
    initramfs = programs / f"initramfs.{os.getpid()}"
    _write(initramfs, programs, faults, extra)
    qemu = tools.find("qemu-system-x86_64")
    if qemu is None:
        raise NotBuilt("there is no QEMU")
    command = [
        *(str(qemu), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", "q35,accel=tcg", "-cpu", "max", "-m", "512M", "-serial", "stdio"),
        *("-kernel", str(image), "-initrd", str(initramfs), "-append", _APPEND),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    lines: list[str] = []
    try:
        for line in _lines(process):
            lines.append(line)
            on_line(line)
        return lines
    finally:
        process.kill()
        process.wait()
        initramfs.unlink()


def read(lines: Iterable[str]) -> tuple[list[Found], str]:
    """The faults that a VM came through, and how it ended otherwise."""
    done: list[Found] = []
    fault, failed = "", []  # type: tuple[str, list[str]]
    for line in lines:
        words = line.partition(f"{_MARK} ")[2].split()
        if "Kernel panic" in line or "BUG: " in line:
            return done, "crashed"
        if not words:
            continue
        if words[0] == "end" or words[1] == "on":
            if fault:
                done.append(Found(fault, tuple(dict.fromkeys(failed))))
            if words[0] == "end":
                return done, ""
            fault, failed = words[0], []
        elif words[2] != "0":
            failed.append(words[1])
    return done, "hung or ended"


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """The console's lines, until it ends or is silent for too long."""
    assert process.stdout is not None
    waiting = selectors.DefaultSelector()
    waiting.register(process.stdout, selectors.EVENT_READ)
    rest, last = b"", time.monotonic()
    while time.monotonic() - last < SILENCE:
        if not waiting.select(timeout=1):
            continue
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            return
        last = time.monotonic()
        *full, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in full)


def _write(target: Path, programs: Path, faults: Sequence[str], extra: Mapping[str, bytes]) -> None:
    busybox = tools.find_static_busybox()
    if busybox is None:
        raise NotBuilt("there is no static busybox")
    with target.open("wb") as file:
        writer = initramfs.CpioWriter(file)
        for name in ("bin", "dev", "proc", "sys", "tmp"):
            writer.directory(name)
        writer.character_device("dev/console", 5, 1)
        writer.file("bin/busybox", busybox.read_bytes(), 0o755)
        for name in PROGRAMS:
            writer.file(f"bin/{name}", (programs / name).read_bytes(), 0o755)
        writer.file("faults", "\n".join(faults).encode() + b"\n", 0o644)
        writer.file("init", SCRIPT.read_bytes(), 0o755)
        for name, content in extra.items():
            writer.file(name, content)
        writer.close()
