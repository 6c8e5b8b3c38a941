# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own selftests of MPTCP against the same faults, for comparison.

``mptcp_sockopt``, ``mptcp_inq`` and ``mptcp_connect`` are compiled from the same source and run in
one VM, in which the faults are switched on in turn; after a crash or hang another VM goes on with
the next fault. ``mptcp_diag`` only prints what it is told, and is left out.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.faults.kernel import NotBuilt
from harness.host import tools
from harness.host.files import write_atomically
from harness.vm import initramfs

DIRECTORY = "tools/testing/selftests/net/mptcp"
PROGRAMS = ("mptcp_sockopt", "mptcp_inq", "mptcp_connect")
#: Seconds without a line after which the VM counts as hung.
SILENCE = 180
_MARK = "@@"
_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ip link set dev lo up
switch=/sys/module/mptcp/parameters/fault
dd if=/dev/urandom of=/tmp/sent bs=1024 count=300 2>/dev/null
try() {{ name=$1; shift; timeout -s KILL 20 "$@" >/tmp/said 2>&1; echo "{mark} $fault $name $?"; }}
transfer() {{
	rm -f /tmp/got
	timeout -s KILL 20 mptcp_connect $1 -l -p 10000 -s MPTCP -t 10 $2 </tmp/sent >/tmp/got &
	pid=$!
	for i in 1 2 3 4 5 6 7 8 9; do
		cat /proc/net/tcp /proc/net/tcp6 | grep -q ':2710 .* 0A ' && break; sleep 0.2
	done
	timeout -s KILL 20 mptcp_connect $1 -p 10000 -s MPTCP -t 10 $2 </tmp/sent >/tmp/back || return 1
	wait $pid && cmp -s /tmp/sent /tmp/got && cmp -s /tmp/sent /tmp/back
}}
for fault in $(cat /faults); do
	echo $fault >$switch
	echo "{mark} $fault on $(cat $switch)"
	try mptcp_sockopt mptcp_sockopt
	try mptcp_sockopt mptcp_sockopt -6
	for args in "" -6; do
		try mptcp_inq mptcp_inq $args -t mptcp -r mptcp
	done
	transfer "" 127.0.0.1 2>/dev/null >/dev/null; echo "{mark} $fault mptcp_connect $?"
	transfer "" ::1 2>/dev/null >/dev/null; echo "{mark} $fault mptcp_connect $?"
	echo none >$switch
done
echo "{mark} end"
poweroff -f
"""


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
    image: Path, programs: Path, faults: Sequence[str], say: Callable[[str], None]
) -> list[Found]:
    """What the programs say of each of ``faults``; "none" comes first and is among the results."""
    left = ["none", *faults]
    found: list[Found] = []
    while left:
        done, died = _boot(image, programs, left)
        found += done
        left = left[len(done) :]
        if died and left:
            say(f"selftests: the VM {died} with {left[0]}")
            found.append(Found(left.pop(0), died=died))
        elif not died and left:
            raise NotBuilt(f"the selftests' VM ended before {left[0]}")
    return found


def keep(path: Path, found: Sequence[Found]) -> None:
    """Add ``found`` to what ``path`` has."""
    known = {each.fault: each for each in recall(path)} | {each.fault: each for each in found}
    write_atomically(path, json.dumps([asdict(each) for each in known.values()], indent=1) + "\n")


def recall(path: Path) -> list[Found]:
    """What was kept in ``path``; nothing where there is no such file."""
    if not path.exists():
        return []
    kept = json.loads(path.read_text())
    return [Found(each["fault"], tuple(each["failed"]), each["died"]) for each in kept]


def _boot(image: Path, programs: Path, faults: Sequence[str]) -> tuple[list[Found], str]:
    """One VM: the faults that it came through, and how it ended otherwise."""
    initramfs = programs / f"initramfs.{os.getpid()}"
    _write(initramfs, programs, faults)
    qemu = tools.find("qemu-system-x86_64")
    if qemu is None:
        raise NotBuilt("there is no QEMU")
    command = [
        *(str(qemu), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", "q35,accel=tcg", "-cpu", "max", "-m", "512M", "-serial", "stdio"),
        *(
            "-kernel",
            str(image),
            "-initrd",
            str(initramfs),
            "-append",
            "console=ttyS0 panic=-1 loglevel=5",
        ),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        return _read(_lines(process))
    finally:
        process.kill()
        process.wait()
        initramfs.unlink()


def _read(lines: Iterator[str]) -> tuple[list[Found], str]:
    done: list[Found] = []
    fault, failed = "", []  # type: tuple[str, list[str]]
    for line in lines:
        words = line.partition(_MARK)[2].split()
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


def _write(target: Path, programs: Path, faults: Sequence[str]) -> None:
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
        writer.file("init", _INIT.format(mark=_MARK).encode(), 0o755)
        writer.close()
