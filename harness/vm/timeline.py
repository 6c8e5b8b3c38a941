# SPDX-License-Identifier: GPL-2.0-only
"""When a boot got how far, and the phases that this divides it into.

A phase lasts from its mark to the next one that was seen: where a mark is missing, as after a
panic, the time goes to the phase that was under way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum

from harness.verdict.results import Phase


class Mark(StrEnum):
    """Each begins the phase of its name; in the order of a boot that goes well."""

    LAY_OUT = "lay-out"  # the work directory and the initramfs
    VIRTME_NG = "virtme-ng"  # its start-up
    QEMU = "qemu"  # has connected the event channel; its start-up, and the firmware
    KERNEL = "kernel"  # its first line, to which decompression belongs where there is any
    INIT = "init"  # the kernel runs /init: modules, and Python's start
    PROBES = "probes"  # the checker's hello: capabilities and the plan
    IPV4 = "ipv4"  # the first check of a connection in this family begins
    IPV6 = "ipv6"
    SCENARIOS = "scenarios"  # the first check of a scenario begins
    ROUNDS = "rounds"  # the second round of repeated checks begins
    POWER_OFF = "power-off"  # the closing event
    QEMU_END = "qemu-end"  # the kernel's last line
    VIRTME_NG_END = "virtme-ng-end"  # QEMU has closed the event channel


#: What the console says at a mark. A guest can print these too, and mislead about its speed only.
_CONSOLE = {
    Mark.KERNEL: b"Linux version ",
    Mark.INIT: b"Run /init as init process",
    Mark.QEMU_END: b"reboot: Power down",
}
_LONGEST = max(map(len, _CONSOLE.values()))
#: The guest's own times, see Stream.times_ms.
_GUEST = {
    "ipv4": Mark.IPV4,
    "ipv6": Mark.IPV6,
    "scenarios": Mark.SCENARIOS,
    "rounds": Mark.ROUNDS,
    "end": Mark.POWER_OFF,
}


class Timeline:
    """Marks of one boot in the host's monotonic seconds; the first sight of each counts."""

    def __init__(self) -> None:
        self._reached: dict[Mark, float] = {}

    def reach(self, mark: Mark) -> float:
        """``mark`` is reached now, if it was not before; the time that is now."""
        now = time.monotonic()
        self._reached.setdefault(mark, now)
        return now

    def read_console(self, console: bytearray, new: int) -> None:
        """The last ``new`` bytes of ``console`` have just been read."""
        fresh = console[max(0, len(console) - new - _LONGEST) :]
        for mark, words in _CONSOLE.items():
            if mark not in self._reached and words in fresh:
                self.reach(mark)

    def phases(self, times_ms: Mapping[str, int], ended: float) -> tuple[Phase, ...]:
        """The phases up to ``ended``, in order; together they are the whole time.

        The guest's events carry its own times, which say more than when they were read here: a
        busy host reads several at once. Its hello ties them to the host's clock.
        """
        reached = dict(self._reached)
        hello = reached.get(Mark.PROBES)
        if hello is not None and "hello" in times_ms:
            for name, mark in _GUEST.items():
                if name in times_ms:
                    at = hello + (times_ms[name] - times_ms["hello"]) / 1000
                    reached[mark] = min(at, ended)
        marks = sorted(reached.items(), key=lambda item: item[1])
        ends = [at for _, at in marks[1:]] + [ended]
        return tuple(
            Phase(mark.value, round(end - at, 3))
            for (mark, at), end in zip(marks, ends, strict=True)
        )
