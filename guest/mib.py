# SPDX-License-Identifier: GPL-2.0-only
"""Counters that the kernel shows in /proc/net, of this thread's network namespace."""

from __future__ import annotations

PLACE = "/proc/thread-self/net/"


def _read(name: str) -> str:
    with open(PLACE + name, "rb") as file:
        return file.read().decode()


def counters(group: str = "MPTcpExt") -> dict[str, int]:
    """The counters of ``group`` in /proc/net/netstat by name; empty without that group."""
    prefix = group + ": "
    lines = [
        line[len(prefix) :].split()
        for line in _read("netstat").split("\n")
        if line.startswith(prefix)
    ]
    return dict(zip(lines[0], map(int, lines[1]))) if len(lines) == 2 else {}


class Since:
    """How far the counters have moved since this was made."""

    def __init__(self) -> None:
        self.start = counters()

    def moved(self) -> dict[str, int]:
        """Every counter that is another than at the start, and by how much."""
        now = counters()
        return {
            name: value - self.start.get(name, 0)
            for name, value in now.items()
            if value != self.start.get(name, 0)
        }

    def of(self, name: str) -> int:
        """How far ``name`` has moved; 0 for a counter that this kernel lacks."""
        return counters().get(name, 0) - self.start.get(name, 0)


def sockets(protocol: str) -> int:
    """Sockets of ``protocol`` ("MPTCP", "MPTCPv6", ...) as /proc/net/protocols counts them.

    -1 where it has no such line.
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
