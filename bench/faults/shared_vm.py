# SPDX-License-Identifier: GPL-2.0-only
"""Several faults in one VM, switched on in turn: for hosts without KVM, where a boot takes long.

A fault may be given only the checks that are nearest to it (bench.faults.nearest). After a crash or
a hang another VM goes on with the next fault.
"""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.faults import in_guest, nearest
from bench.faults.catalogue import Fault
from bench.faults.kernel import NotBuilt
from bench.faults.sweep import Scope, abis, sound_for
from harness.host import tools
from harness.kernels.cache import Cache
from harness.manifest.entries import Abi, UserSpace
from harness.vm import foreign_root, initramfs

#: Seconds without a line after which the guest counts as hung.
SILENCE = 200
#: Boots that may fail before the first fault.
_TRIES = 3
_CRASHES = ("Kernel panic", "BUG: ", "Oops", "general protection fault")
_COMPLAINTS = ("WARNING: ", "refcount_t:")
#: Only warnings and worse: a message within a line of ours would spoil it.
_APPEND = "console=ttyS0 rdinit=/init panic=-1 loglevel=5"
_INIT = b"""\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
ip link set dev lo up
python3 -I -S /opt/in_guest.py
poweroff -f || reboot -f
"""
Record = dict[str, Any]


class SharedBoots:
    """Runs faults of ``image`` in ``jobs`` VMs, with all checks in both families, or with
    the families and checks that ``checks`` names for a fault.

    ``abis`` has the user space of each fault that is not seen by the native one.
    """

    def __init__(
        self,
        image: Path,
        directory: Path,
        jobs: int,
        checks: Mapping[str, Sequence[str]],
        abis: Mapping[str, Abi],
    ) -> None:
        self._image = image
        self._directory = directory
        self._jobs = jobs
        self._checks = checks
        self._abis = abis
        busybox, qemu = tools.find_static_busybox(), tools.find("qemu-system-x86_64")
        if busybox is None or qemu is None:
            raise NotBuilt("there is no static busybox, or no QEMU")
        directory.mkdir(parents=True, exist_ok=True)
        self._qemu = qemu
        # The native one in this directory: the sources of a sweep are kept apart from others'.
        self._bases = {
            abi: foreign_root.prepare(
                UserSpace(abi=abi),
                Cache(directory) if abi is Abi.NATIVE else Cache(),
                busybox,
                print,
            )
            for abi in dict.fromkeys(abis.values())
        }

    def __call__(self, names: Sequence[str]) -> dict[str, Record]:
        """What the checks gave, by fault, in the form of the records of ``matrix``."""
        shares = [names[number :: self._jobs] for number in range(self._jobs)]
        with ThreadPoolExecutor(self._jobs) as pool:
            found = pool.map(self._share, range(self._jobs), shares)
        return {name: record for share in found for name, record in share.items()}

    def _share(self, number: int, names: Sequence[str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        failures = 0
        while left := self._next([name for name in names if name not in found]):
            lines = self._boot(number, left)
            seen = records(lines)
            if not seen:
                # An emulated kernel that starts on a busy host panics now and then.
                failures += 1
                if failures == _TRIES:
                    raise NotBuilt(f"the VM did not come to {left[0]}: {lines[-1:]}")
                continue
            console = self._directory / f"{number}-{left[0]}.console"
            console.write_text("\n".join(lines) + "\n")
            found |= seen
        return found

    def _next(self, names: Sequence[str]) -> Sequence[str]:
        """Those of ``names`` that can share a VM with the first one."""
        return [name for name in names if self._abi(name) is self._abi(names[0])]

    def _abi(self, name: str) -> Abi:
        return self._abis.get(name, Abi.NATIVE)

    def _boot(self, number: int, names: Sequence[str]) -> list[str]:
        """The console's lines of one VM."""
        root = self._directory / f"root-{number}.cpio"
        todo = "".join(" ".join((name, *self._checks.get(name, ()))) + "\n" for name in names)
        _write_root(root, self._bases[self._abi(names[0])], todo)
        command = [
            *(str(self._qemu), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-machine", "q35,accel=tcg", "-cpu", "max", "-m", "1G", "-serial", "stdio"),
            *("-kernel", str(self._image), "-initrd", str(root), "-append", _APPEND),
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C ends it by way of this process
        )
        try:
            return list(_lines(process))
        finally:
            process.kill()
            process.wait()


class TieredBoots:
    """Gives each fault the checks named for it, then those of its group, then all, until one fails.

    Without ``everything`` it stops at those of the group.
    """

    def __init__(
        self,
        image: Path,
        directory: Path,
        jobs: int,
        faults: Sequence[Fault],
        *,
        everything: bool,
    ) -> None:
        self._abis = abis(faults)
        named = {fault.name: _given(fault, nearest.named(fault)) for fault in faults}
        group = {fault.name: _given(fault, nearest.of_group(fault)) for fault in faults}
        tiers = {Scope.NAMED: named, Scope.GROUP: group}
        if everything:
            tiers[Scope.ALL] = {}
        self._tiers = {
            scope: SharedBoots(image, directory / scope, jobs, checks, self._abis)
            for scope, checks in tiers.items()
        }
        self._everything = SharedBoots(image, directory / "all", jobs, {}, self._abis)
        self._names = named.keys()
        self._sound_bad: dict[str, set[str]] = {}

    def __call__(self, names: Sequence[str]) -> dict[str, Record]:
        if not self._names & set(names):  # the sound kernel
            sound = self._everything(names)
            self._sound_bad |= {name: _bad(record) for name, record in sound.items()}
            return sound
        found: dict[str, Record] = {}
        left = list(names)
        for scope, boots in self._tiers.items():
            records = boots(left)
            found |= {name: record | {"_scope": scope} for name, record in records.items()}
            left = [name for name in left if not self._is_caught(name, found[name])]
            if not left:
                break
        return found

    def _is_caught(self, name: str, record: Record) -> bool:
        if record["verdict"] == "fail":
            return bool(_bad(record) - self._sound_bad[sound_for(name, self._abis)])
        return bool(record["verdict"] != "pass")


def _given(fault: Fault, places: Sequence[str]) -> list[str]:
    ids = nearest.ids(places)
    return [*nearest.families(fault, ids), *ids]


def _bad(record: Record) -> set[str]:
    return {check["id"] for family in record["families"].values() for check in family["checks"]}


def records(lines: Sequence[str]) -> dict[str, Record]:
    """A record for each fault that the console's lines tell of, the last one perhaps cut off."""
    found: dict[str, Record] = {}
    name, said = "", []  # type: tuple[str, list[str]]
    for line in lines:
        _, mark, text = line.partition(in_guest.MARK + " ")
        words = text.split()
        if mark and words[:1] == ["on"]:
            if not name:  # else it is switched off; `end` follows
                name, said = words[1], []
        elif mark and words[:1] == ["end"]:
            found[name] = _record(name, said, float(words[2]), ended=True)
            name = ""
        elif name:
            said.append(line)
    if name:
        found[name] = _record(name, said, 0.0, ended=False)
    return found


def _record(name: str, lines: Sequence[str], seconds: float, *, ended: bool) -> Record:
    families: dict[str, Any] = {}
    incidents, running, broken = [], "", False
    for line in lines:
        _, mark, said = line.partition(in_guest.MARK + " ")
        words = said.split()
        if not mark:
            if any(sign in line for sign in (*_CRASHES, *_COMPLAINTS)):
                incidents.append({"title": line.strip(), "check": running})
        elif words[0] == "start":
            running = words[2]
        elif words[0] == "broken":
            broken = True
        elif words[0] in in_guest.BAD:
            verdict, family, check, phase, side, payload = words
            result = {"id": check, "phase": phase, "side": side, "payload": payload}
            bad = families.setdefault(family, {"verdict": "fail", "checks": []})
            bad["checks"].append(result | {"verdict": verdict})
    crashed = any(sign in incident["title"] for incident in incidents for sign in _CRASHES)
    verdict = "crash" if crashed else "hang" if not ended else "fail" if families else "pass"
    if broken:
        verdict = "infrastructure"
    if verdict == "hang" and running:
        incidents.append({"title": "hang", "check": running})
    return {
        "name": name,
        "verdict": "warning" if verdict == "pass" and incidents else verdict,
        "reason": incidents[0]["title"] if incidents else "",
        "families": families,
        "incidents": incidents,
        "timing": {"total_s": seconds},
        "_on": True,  # its name is what the guest read back from the switch
    }


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """The console's lines, until it ends or is silent for too long."""
    assert process.stdout is not None
    waiting = selectors.DefaultSelector()
    waiting.register(process.stdout, selectors.EVENT_READ)
    rest = b""
    last = time.monotonic()
    while time.monotonic() - last < SILENCE:
        if not waiting.select(timeout=1):
            continue
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            return
        last = time.monotonic()
        *full, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace").rstrip() for line in full)


def _write_root(target: Path, base: Path, todo: str) -> None:
    shutil.copyfile(base, target)
    with target.open("ab") as file:
        writer = initramfs.CpioWriter(file)
        writer.file("init", _INIT, 0o755)
        writer.file("opt/in_guest.py", Path(in_guest.__file__).read_bytes())
        writer.file("opt/faults", todo.encode())
        writer.close()
