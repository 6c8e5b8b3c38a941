# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's counters in /proc/net, for this thread's network namespace."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

PLACE = "/proc/thread-self/net/"
_ROOM = 1 << 16
#: A line of names, split: it is the same each time.
_names: dict[bytes, list[str]] = {}


def _read(name: str) -> str:
    return _read_bytes(name).decode()


def _read_bytes(name: str) -> bytes:
    """Without a file object, which costs an emulated processor more than the reading."""
    fd = os.open(PLACE + name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(fd, _ROOM)]
        while parts[-1]:
            parts.append(os.read(fd, _ROOM))
    finally:
        os.close(fd)
    return b"".join(parts)


def numbers(group: str) -> tuple[Sequence[str], Sequence[bytes]]:
    """Names and numbers of ``group`` in /proc/net/netstat; empty without that group."""
    data = b"\n" + _read_bytes("netstat")
    prefix = b"\n%s: " % group.encode()
    lines = data.split(prefix, 2)
    if len(lines) != 3:
        return (), ()
    names, values = lines[1], lines[2].split(b"\n", 1)[0]
    known = _names.get(names)
    if known is None:
        known = _names[names] = names.decode().split()
    return known, values.split()


def counters(group: str = "MPTcpExt") -> dict[str, int]:
    """The counters of ``group`` in /proc/net/netstat by name; empty without that group."""
    names, values = numbers(group)
    return dict(zip(names, map(int, values)))


def dropped_syns() -> int:
    """The SYNs of all listeners that were dropped because their accept queue was full."""
    return counters("TcpExt").get("ListenOverflows", 0)


class Since:
    """How far the counters have moved since this was made.

    ``start`` are the names of this kernel's counters. Only numbers that are asked for, or that
    changed, are converted.
    """

    def __init__(self) -> None:
        self.start, self._first = numbers("MPTcpExt")

    def moved(self) -> dict[str, int]:
        """Every counter that changed, with its difference."""
        names, now = numbers("MPTcpExt")
        both = zip(names, self._first, now)
        return {name: int(value) - int(before) for name, before, value in both if value != before}

    def of(self, name: str) -> int:
        """The change of the counter ``name``; 0 if this kernel lacks it."""
        names, now = numbers("MPTcpExt")
        if name not in names:
            return 0
        place = names.index(name)
        return int(now[place]) - int(self._first[place])


def sockets(protocol: str) -> int:
    """Sockets of ``protocol`` ("MPTCP", "MPTCPv6", ...) as /proc/net/protocols counts them.

    -1 if there is no such line.
    """
    for line in _read("protocols").split("\n"):
        fields = line.split()
        if fields and fields[0] == protocol:
            return int(fields[2])
    return -1


def sockstat(protocol: str, name: str) -> int:
    """sockstat("TCP", "inuse"): a number of /proc/net/sockstat or sockstat6; -1 if not there."""
    for line in (_read("sockstat") + _read("sockstat6")).split("\n"):
        fields = line.split()
        if fields and fields[0] == protocol + ":":
            numbers = dict(zip(fields[1::2], fields[2::2]))
            return int(numbers[name]) if name in numbers else -1
    return -1
