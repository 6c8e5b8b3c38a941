# SPDX-License-Identifier: GPL-2.0-only
"""Records when a boot reached each mark, and the phases between the marks.

A phase lasts from its mark to the next one that was observed. If a mark is missing, as after a
panic, its time belongs to the phase before it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum

from harness.verdict.results import Phase


class Mark(StrEnum):
    """Each mark begins the phase of its name; in the order of a good boot."""

    LAY_OUT = "lay-out"  # the work directory and the initramfs
    VIRTME_NG = "virtme-ng"  # its start-up
    QEMU = "qemu"  # has connected the event channel; its start-up, and the firmware
    KERNEL = "kernel"  # its first line; decompression, if any, comes before it
    INIT = "init"  # the kernel runs /init: modules, and Python's start
    PROBES = "probes"  # the checker's hello: capabilities and the plan
    IPV4 = "ipv4"  # the first check of a connection in this family begins
    IPV6 = "ipv6"
    SCENARIOS = "scenarios"  # the first check of a scenario begins
    ROUNDS = "rounds"  # the second round of repeated checks begins
    POWER_OFF = "power-off"  # the closing event
    QEMU_END = "qemu-end"  # the kernel's last line
    VIRTME_NG_END = "virtme-ng-end"  # QEMU has closed the event channel


#: The console output at a mark. A guest can print it too, which misleads only about its speed.
_CONSOLE = {
    Mark.KERNEL: b"Linux version ",
    Mark.INIT: b"Run /init as init process",
    Mark.QEMU_END: b"reboot: Power down",
}
_LONGEST = max(map(len, _CONSOLE.values()))
#: The marks of the guest's own times, see Stream.times_ms.
_GUEST = {
    "ipv4": Mark.IPV4,
    "ipv6": Mark.IPV6,
    "scenarios": Mark.SCENARIOS,
    "rounds": Mark.ROUNDS,
    "end": Mark.POWER_OFF,
}


class Timeline:
    """The marks of one boot in the host's monotonic seconds; the first occurrence counts."""

    def __init__(self) -> None:
        self._reached: dict[Mark, float] = {}

    def reach(self, mark: Mark) -> float:
        """Record ``mark`` as reached now unless it was before; returns the current time."""
        now = time.monotonic()
        self._reached.setdefault(mark, now)
        return now

    def read_console(self, console: bytearray, new: int) -> None:
        """Look for marks in the last ``new`` bytes of ``console``, which were just read."""
        fresh = console[max(0, len(console) - new - _LONGEST) :]
        for mark, words in _CONSOLE.items():
            if mark not in self._reached and words in fresh:
                self.reach(mark)

    def phases(self, times_ms: Mapping[str, int], ended: float) -> tuple[Phase, ...]:
        """The phases up to ``ended``, in order; they add up to the total time.

        The guest's events have its own times, which are more accurate than the time of reading,
        because a busy host reads several at once. The hello synchronises them with the host's
        clock.
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
