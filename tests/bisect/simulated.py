# SPDX-License-Identifier: GPL-2.0-only
"""A series of Debian's kernels whose guests say what a test wants: bytes of their event streams.

What follows from the bytes is found out by the harness itself. As a program it is a bisect to be
killed: it says each kernel whose boot is kept, and goes on with each line on its standard input.
"""

from __future__ import annotations

import functools
import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from guest import events
from harness.bisect import state
from harness.bisect.bisection import Bisect
from harness.bisect.candidates import Candidate, Series
from harness.bisect.predicate import Checks, Predicate
from harness.bisect.results import Bisection
from harness.manifest.expectations import CAPABILITIES
from harness.manifest.kernels_yaml import DebSource, KernelEntry
from harness.verdict import judge
from harness.verdict.results import (
    Attempt,
    BootEnd,
    KernelResult,
    Stream,
    Timing,
    merge_capabilities,
)
from harness.verdict.verdicts import Family
from harness.vm.stream import StreamReader
from tests.vm.support import NONCE, Guest

#: What Debian had in trixie-backports at one time, and some that it had before.
VERSIONS = (
    *("6.16.3-1", "6.16.12-1", "6.17.8-1", "6.17.13-1", "6.18.5-1", "6.18.9-1", "6.18.12-1"),
    *("6.18.15-1", "6.19.6-2", "6.19.8-1", "6.19.10-1", "6.19.11-1", "6.19.13-1", "6.19.14-1"),
    *("7.0.4-1", "7.0.7-1", "7.0.9-1", "7.0.10-1", "7.0.12-2", "7.0.13-1", "7.1.3-1", "7.1.7-1"),
    *("7.1.8-1", "7.1.13-1", "7.2.6-1", "7.2.9-1", "7.2.11-1", "7.2.12-1", "7.3.1-1", "7.3.2-1"),
    *("7.3.4-1", "7.3.4-2"),
)
FAULTY = "mptcp_info.write_seq_counts_sent_bytes"
SOUND = "payload.arrives"
ENTRIES = [[SOUND, "transferred", "server"], [FAULTY, "transferred", "client"]]
WANTED = Checks((FAULTY,))


def candidate(version: str) -> Candidate:
    upstream, revision = version.split("-")
    release = f"{upstream}+deb13{'.1' if revision == '2' and upstream == '7.3.4' else ''}-amd64"
    source = DebSource("trixie-backports", f"linux-image-{release}")
    entry = KernelEntry(f"backports-{release}", source, "the tests")
    return Candidate(entry, release, f"{version}~bpo13+1")


SERIES = Series(tuple(candidate(version) for version in VERSIONS))
COUNT = len(VERSIONS)
NAMES = [candidate.entry.name for candidate in SERIES.candidates]


@functools.cache
def told(release: str, *, fault: bool = False, full_info: bool = True) -> bytes:
    """What the guest sends of a boot to its end."""
    others = [name for name in CAPABILITIES if name not in ("mptcp", "ipv6", "full_info")]
    failing = {"expected": "20", "got": "0", "detail": "0 bytes counted"} if fault else {}
    guest = Guest().hello(release=release).capability("mptcp")
    for name in others:
        guest.capability(name)
    return (
        guest.capability("full_info", present=full_info)
        .plan(ENTRIES)
        .check(0)
        .check(1, events.FAIL if fault else events.PASS, **failing)
        .end()
        .sent
    )


def attempt_of(sent: bytes | None) -> Attempt:
    """The boot in which the guest ``sent`` that; None: it never started; nothing: QEMU did not."""
    if sent is None:
        return Attempt(1, BootEnd.BOOT_DEADLINE, kernel_spoke=True, total_s=60, stream=Stream())
    reader = StreamReader(NONCE, (Family.IPV4,))
    reader.feed(sent)
    if not sent:
        return Attempt(1, BootEnd.LAUNCH_FAILED, "no QEMU")
    return Attempt(1, BootEnd.POWERED_OFF, kernel_spoke=True, stream=reader.finish(), total_s=5)


def result_of(name: str, attempt: Attempt) -> KernelResult:
    families = judge.families(attempt, (Family.IPV4,), {})
    verdict, reason = judge.kernel(attempt, families)
    return KernelResult(
        name,
        verdict,
        reason,
        capabilities=merge_capabilities(attempt.stream.capabilities),
        families=families,
        incidents=attempt.incidents,
        attempts=(attempt,),
        timing=Timing(total_s=attempt.total_s),
    )


@functools.cache
def _result(name: str, sent: bytes | None) -> KernelResult:
    """There are thousands of boots, and few that differ."""
    return result_of(name, attempt_of(sent))


#: What the guest of the kernel at that place sends in its next boot.
Guests = Callable[[int], bytes | None]


class Laboratory:
    """Boots that are simulated; ``booted`` are the names, ``rounds`` those of each call."""

    def __init__(self, guests: Guests) -> None:
        self._guests = guests
        self.rounds: list[list[str]] = []
        self.on_kept: Callable[[str], None] = lambda _: None

    @property
    def booted(self) -> list[str]:
        return [name for names in self.rounds for name in names]

    def test(
        self,
        entries: Sequence[KernelEntry],
        on_result: Callable[[KernelResult], None],
        *,
        stored: bool,
    ) -> None:
        self.rounds.append([entry.name for entry in entries])
        for entry in entries:
            on_result(_result(entry.name, self._guests(NAMES.index(entry.name))))
            self.on_kept(entry.name)


def from_on(first_bad: int, *, unbootable: Sequence[int] = ()) -> Guests:
    """The fault is in every kernel from ``first_bad`` on, and shows in every boot."""

    def guest(place: int) -> bytes | None:
        if place in unbootable:
            return None
        return told(SERIES.candidates[place].release, fault=place >= first_bad)

    return guest


def flaky(first_bad: int, rate: float, seed: int) -> Guests:
    """From ``first_bad`` on the fault shows in a boot with the probability ``rate``."""
    chance = random.Random(seed)

    def guest(place: int) -> bytes:
        fault = place >= first_bad and chance.random() < rate
        return told(SERIES.candidates[place].release, fault=fault)

    return guest


def search(
    laboratory: Laboratory,
    directory: Path,
    *,
    series: Series = SERIES,
    wanted: Predicate | None = WANTED,
    jobs: int = 2,
    confirm: int = 0,
    said: list[str] | None = None,
    stop: threading.Event | None = None,
) -> Bisection:
    """A whole bisect in ``laboratory``, whose state is in ``directory``."""
    say = (said if said is not None else []).append
    stop = stop or threading.Event()
    with state.opened(directory, "the tests", 7, say) as journal:
        bisect = Bisect(series, wanted, laboratory, journal, jobs, confirm, say, stop)
        return bisect.run(lambda *_: ((), ()))


def _main(directory: Path) -> None:
    laboratory = Laboratory(from_on(19))

    def on_kept(name: str) -> None:
        os.write(sys.stdout.fileno(), f"{name}\n".encode())
        sys.stdin.readline()

    laboratory.on_kept = on_kept
    found = search(laboratory, directory)
    first_bad = found.first_bad.name if found.first_bad else found.text
    os.write(sys.stdout.fileno(), f"found {first_bad}\n".encode())


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
