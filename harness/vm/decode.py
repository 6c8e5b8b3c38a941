# SPDX-License-Identifier: GPL-2.0-only
"""Source lines for the frames of a trace, where a vmlinux with debug information is at hand.

By nm(1) and addr2line(1) of binutils; the kernel's own scripts/decode_stacktrace.sh asks the same
two. A frame names ``symbol+offset/size``: symbols of one name are told apart by their size.
"""

from __future__ import annotations

import itertools
import mmap
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError

#: Seconds for each program: a vmlinux with debug information has 500 MB.
PATIENCE = 120.0
TOOLS = ("nm", "addr2line")

_FRAME = re.compile(r"(?P<symbol>[A-Za-z_][\w.]*)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)")
# Compiler, number and time of the build are in it.
_BANNER = re.compile(rb"Linux version [^\r\n]+")
_ADDRESS = re.compile(r"0x[0-9a-f]+")


@dataclass(frozen=True)
class _Frame:
    symbol: str
    offset: int
    size: int
    is_return: bool  # behind a call, which may be the last of its line


def decode(text: str, vmlinux: Path) -> str:
    """``text`` with source lines behind each frame of the kernel itself, inlined callers too.

    Frames of modules, and what ``vmlinux`` does not know, stay. Raises :class:`HostError`.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise HostError(f"{' and '.join(missing)} would tell the source lines: install binutils")
    lines = text.split("\n")
    found = {number: frame for number, line in enumerate(lines) if (frame := _frame(line))}
    if not found:
        return text
    start = _addresses(vmlinux, set(found.values()))
    places = _places(vmlinux, start.values())
    for number, frame in found.items():
        place = places.get(start.get(frame, -1))
        if place:
            lines[number] += f" ({place})"
    return "\n".join(lines)


def decode_all(texts: Sequence[str], vmlinux: Path) -> list[str]:
    """:func:`decode` for each of ``texts``, with one look into ``vmlinux``, which takes seconds."""
    lines = iter(decode("\n".join(texts), vmlinux).split("\n"))
    return ["\n".join(itertools.islice(lines, text.count("\n") + 1)) for text in texts]


def is_of(vmlinux: Path, console: bytes) -> bool:
    """Whether ``vmlinux`` is of the very build that says ``Linux version …`` on ``console``."""
    said = _BANNER.search(console)
    try:
        with vmlinux.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return said is not None and data.find(said[0].rstrip()) >= 0
    except (OSError, ValueError):  # ValueError: it is empty
        return False


def _frame(line: str) -> _Frame | None:
    match = _FRAME.search(line)
    if match is None or re.match(r" \[\w+\]", line[match.end() :]):
        return None  # a module's: `mptcp_sendmsg+0x1/0x2 [mptcp]`
    is_return = "RIP:" not in line
    return _Frame(match["symbol"], int(match["offset"], 16), int(match["size"], 16), is_return)


def _addresses(vmlinux: Path, frames: Iterable[_Frame]) -> dict[_Frame, int]:
    """Where the frames lie, as far as that is one place."""
    wanted = {frame.symbol for frame in frames}
    starts: dict[tuple[str, int], set[int]] = defaultdict(set)
    ordered = []
    for line in _run("nm", "-n", str(vmlinux)).splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] in "tTwW":
            ordered.append((int(fields[0], 16), fields[2]))
    # The kernel takes for a symbol's size what lies before the next one (kallsyms).
    following = sorted({address for address, _ in ordered})
    after = dict(itertools.pairwise(following))
    for address, name in ordered:
        if name in wanted:
            starts[name, after.get(address, address) - address].add(address)
    return {
        frame: min(places) + frame.offset - frame.is_return
        for frame in frames
        if len(places := starts.get((frame.symbol, frame.size), set())) == 1
    }


def _places(vmlinux: Path, addresses: Iterable[int]) -> Mapping[int, str]:
    """``file:line``, the innermost of inlined functions first, by address."""
    asked = [f"{address:#x}" for address in addresses]
    if not asked:
        return {}
    told: dict[int, list[str]] = {}
    here: list[str] = []
    for line in _run("addr2line", "-a", "-i", "-e", str(vmlinux), *asked).splitlines():
        if _ADDRESS.fullmatch(line):
            here = told.setdefault(int(line, 16), [])
        elif not line.startswith("??"):
            here.append(line.partition(" (discriminator")[0])
    root = f"{vmlinux.resolve().parent}/"  # the tree that was built, if it was built there
    return {
        address: ", ".join(os.path.normpath(place).removeprefix(root) for place in places)
        for address, places in told.items()
    }


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{command[0]} failed: {error}") from error
    if done.returncode != 0:
        raise HostError(f"{command[0]} failed: {done.stderr.strip()[:200]}")
    return done.stdout
