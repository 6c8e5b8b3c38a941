# SPDX-License-Identifier: GPL-2.0-only
"""The ``git bisect`` that goes on, in a kernel tree, where prebuilt kernels end."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from harness.bisect.candidates import Candidate
from harness.bisect.predicate import Predicate
from harness.manifest.kernels_yaml import DebSource, UpstreamSource

# "6.17.8-1~bpo13+1", "6.17~rc3-1~exp1", "6.6", "6.12.117-dirty", "6.12.0-rc3+".
_VERSION = re.compile(r"(\d+\.\d+)(?:\.(\d+))?(?:[~-]rc(\d+))?")


@dataclass(frozen=True)
class Continuing:
    """``text`` is "" where no tags are known; ``notes`` say what to mind."""

    text: str = ""
    notes: tuple[str, ...] = ()


def command(
    good: Candidate, bad: Candidate, wanted: Predicate, *, reverse: bool = False
) -> Continuing:
    """From ``good`` to ``bad``; ``reverse`` where the good one is the newer, for git then asks
    which commit mended it."""
    tags = [tag(candidate) for candidate in (good, bad)]
    if not all(tags):
        return Continuing(notes=("no git bisect is named: of a kernel its tag is not known",))
    if tags[0] == tags[1]:
        debian = any(isinstance(c.entry.source, DebSource) for c in (good, bad))
        whose = "Debian's" if debian else "their"
        why = f"both kernels are made of {tags[0]}: what differs is in {whose} patches or settings"
        return Continuing(notes=(why,))
    step = f"mptcp-harness step {_argument(wanted)}"
    if reverse:
        # git's old term is what step calls bad: 0 and 1 change places, all else stays.
        swapped = shlex.quote(f"{step}; s=$?; [ $s -le 1 ] && exit $((1 - s)); exit $s")
        start = f"git bisect start --term-old=broken --term-new=fixed {tags[0]} {tags[1]}"
        return Continuing(f"{start} && git bisect run sh -c {swapped}", _notes(good, bad))
    return Continuing(
        f"git bisect start {tags[1]} {tags[0]} && git bisect run {step}", _notes(good, bad)
    )


def tag(candidate: Candidate) -> str:
    """The tag of the stable or mainline release that ``candidate`` is made of, "" if unknown."""
    match = _VERSION.match(candidate.version or candidate.release)
    if match is None:
        return ""
    # Mainline's 6.17.0 is tagged v6.17.
    stable = f".{match[2]}" if match[2] and int(match[2]) else ""
    return f"v{match[1]}{stable}" + (f"-rc{match[3]}" if match[3] else "")


def _argument(wanted: Predicate) -> str:
    option, _, value = str(wanted).partition(" ")
    return f"{option} {shlex.quote(value)}" if value else option


def _notes(good: Candidate, bad: Candidate) -> tuple[str, ...]:
    notes = []
    if any(isinstance(candidate.entry.source, DebSource) for candidate in (good, bad)):
        notes.append(
            "the tags are those of the upstream releases; Debian's kernels have patches and a "
            "configuration of their own, so see in the tree that both ends are as they were here"
        )
    elif not all(isinstance(c.entry.source, UpstreamSource) for c in (good, bad)):
        notes.append("the tags are guessed from the releases: a build may be of another commit")
    branches = {_branch(candidate) for candidate in (good, bad)}
    if len(branches) > 1:
        notes.append(
            "the tags are on different stable branches: git bisect first tests where they part"
        )
    return tuple(notes)


def _branch(candidate: Candidate) -> str:
    match = _VERSION.match(candidate.version or candidate.release)
    return match[1] if match else ""
