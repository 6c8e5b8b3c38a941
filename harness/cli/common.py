# SPDX-License-Identifier: GPL-2.0-only
"""Shared by the commands: selection of kernels and checks, progress, signals, and messages."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import HostError, UsageError
from harness.host.files import write_through
from harness.text import plural, printable
from harness.verdict.verdicts import Family

if TYPE_CHECKING:
    from harness.kernels import Cache
    from harness.manifest.entries import KernelEntry
    from harness.manifest.plan import Profile
    from harness.run.request import Fleet, Listener
    from harness.run.shards import Part
    from harness.verdict.results import Shard

# What only some functions need is imported there: pydantic and the modules of a boot take longer
# than `history`, `runs` and `compare` may.


def profile_of(given: argparse.Namespace) -> Profile:
    """The profile of --profile; without it, quick if --check names only quick checks, else full."""
    from harness.manifest.plan import Profile

    if given.profile is not None:
        chosen: Profile = given.profile
        return chosen
    if given.check is None:
        return Profile.FULL
    named = [name for glob in globs(given.check) for name in fnmatch.filter(all_names(), glob)]
    quick = all_names(Profile.QUICK)
    return Profile.QUICK if named and set(named) <= {*quick} else Profile.FULL


def all_names(profile: Profile | None = None) -> list[str]:
    """The names of all checks of ``profile`` (None: of all profiles), and of all capabilities as
    capability.NAME."""
    from guest import checks as guest_checks
    from harness.manifest.expectations import CAPABILITIES
    from harness.manifest.plan import Profile
    from harness.verdict.judge import CAPABILITY

    ids = [check.id for check in guest_checks.all_checks(profile or Profile.FULL)]
    return [*ids, *(CAPABILITY + name for name in CAPABILITIES)]


def matching_checks(
    pattern: str | None, profile: Profile, families: Sequence[Family]
) -> tuple[str, ...]:
    """The checks of ``profile`` that match ``pattern``; empty if all of them match.

    Raises UsageError, also where none of them runs in ``families``.
    """
    from guest import checks as guest_checks
    from harness.manifest.plan import Profile, families_of

    if pattern is None:
        return ()
    known = [check.id for check in guest_checks.all_checks(profile)]
    found: set[str] = set()
    for glob in globs(pattern):
        matching = fnmatch.filter(known, glob)
        if not matching:
            of = "" if profile is Profile.FULL else f" of the profile {profile}"
            raise UsageError(
                f"--check {glob!r} matches no check{of}; `mptcp-harness list checks` shows them"
            )
        found.update(matching)
    if not families_of(found) & {*families}:
        raise UsageError(
            f"--check {pattern!r} matches no check of {' or '.join(families)}; omit --family"
        )
    return tuple(name for name in known if name in found) if len(found) < len(known) else ()


def check_pattern(pattern: str | None, profile: Profile) -> None:
    """Raise UsageError if a part of ``pattern`` matches no check or capability of the
    ``profile``."""
    from harness.manifest.plan import Profile

    known = all_names(profile)
    of = "" if profile is Profile.FULL else f" of the profile {profile}"
    for glob in globs(pattern) if pattern is not None else ():
        if not fnmatch.filter(known, glob):
            raise UsageError(
                f"--check {glob!r} matches no check{of} and no capability.NAME; `mptcp-harness "
                "list checks` and `mptcp-harness list capabilities` show them"
            )


def globs(pattern: str) -> list[str]:
    """The patterns in a list separated by commas."""
    return [part.strip() for part in pattern.split(",")]


def chosen(given: argparse.Namespace, cache: Cache) -> list[KernelEntry]:
    """The manifest's kernels that -k names, or all. Every part of -k must match a kernel."""
    from harness import kernels
    from harness.manifest import kernels_yaml
    from harness.run import matrix

    entries = kernels_yaml.load(given.manifest).entries
    wanted = globs(given.kernels) if given.kernels else []
    found = matrix.select(
        entries, ",".join(wanted) or None, lambda entry: kernels.expand(entry, cache)
    )
    names = [entry.name for entry in (*entries, *found)]
    idle = [glob for glob in wanted if not fnmatch.filter(names, glob)]
    if idle or not found:
        asked = (
            f"no kernel matches {idle[0]!r}" if idle else "all entries are series; name one with -k"
        )
        has = ", ".join(entry.name for entry in entries)
        raise UsageError(f"{given.manifest}: {asked}; it has {has}")
    return found


class Sharded(NamedTuple):
    """The kernels to test, and the shard that they are, if they are one."""

    entries: list[KernelEntry]
    shard: Shard | None = None


def sharded(entries: list[KernelEntry], given: argparse.Namespace) -> Sharded:
    """The part of ``entries`` that --shard asks for, or all."""
    if given.shard is None:
        if given.durations and not getattr(given, "list_shards", None):
            raise UsageError("--durations divides kernels into shards: give --shard, or omit it")
        return Sharded(entries)
    part = divided(entries, given, given.shard.of)[given.shard.number - 1]
    names = f": {', '.join(part.kernels)}" if len(part.kernels) <= 8 else ""
    say(f"shard {part.shard}: {len(part.kernels)} of {plural(len(entries), 'kernel')}{names}")
    return Sharded([entry for entry in entries if entry.name in part.kernels], part.shard)


def divided(entries: list[KernelEntry], given: argparse.Namespace, of: int) -> list[Part]:
    """``entries`` in ``of`` shards, by the durations that --durations names."""
    from harness.run import shards, workspace

    names = [entry.name for entry in entries]
    place = workspace.store_place(getattr(given, "output", None))
    return shards.parts(entries, shards.durations(given.durations, names, place), of)


def fleet_of(given: argparse.Namespace) -> Fleet | None:
    """The fleet of --fleet, checked before anything begins. Raises UsageError."""
    consoles = getattr(given, "fleet_consoles", False)
    if given.fleet is None:
        if given.fleet_certificates is not None or consoles:
            raise UsageError("--fleet-certificates and --fleet-consoles belong to --fleet ADDRESS")
        return None
    from harness.run import fleet_workers
    from harness.run.request import Fleet

    wanted = Fleet(given.fleet, given.fleet_certificates, consoles)
    fleet_workers.security(wanted)
    return wanted


def check_fingerprint(text: str | None) -> None:
    """Raise UsageError for an empty fingerprint, which would be a prefix of every other."""
    if text is not None and not text.strip():
        raise UsageError(
            "--incident '': a fingerprint cannot be empty; give one from the report of a run"
        )


#: What ``--json`` without a file means.
STDOUT = Path("-")


def check_writable(path: Path | None, option: str = "--json") -> None:
    """Raise UsageError if ``path`` cannot be written, before minutes are spent on booting."""
    if path is None:
        return
    if path == STDOUT:
        raise UsageError(
            f"{option} -: the table goes to standard output; give a file, or a FIFO such as bash's "
            ">(…)"
        )
    if path.is_dir():
        raise UsageError(f"{option} {path}: this is a directory; give a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"{option} {path}: not writable; give another file")
    directory = path.resolve().parent if path.is_symlink() else path.parent
    if not path.exists() and not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {path}: the directory does not exist or is not writable")


def write(option: str, path: Path, text: str, remedy: str = "") -> None:
    """Write ``text`` to the ``path`` of the user's ``option``. Raises HostError with the
    ``remedy``."""
    try:
        write_through(path, text)
    except OSError as error:
        hint = f"; {remedy}" if remedy else ""
        why = error.strerror or error
        raise HostError(f"{option} {path}: cannot be written: {why}{hint}") from error


@contextlib.contextmanager
def stopping(stop: threading.Event) -> Iterator[threading.Event]:
    """Set ``stop`` at the first Ctrl-C, SIGTERM or SIGHUP; a second one ends the program."""
    previous: dict[int, Any] = {}

    def on_signal(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, previous[number])

    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if caught is signal.SIGHUP and signal.getsignal(caught) is signal.SIG_IGN:
            continue  # nohup's
        previous[caught] = signal.signal(caught, on_signal)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def listener(names: Sequence[str]) -> contextlib.AbstractContextManager[Listener]:
    """The progress of a run, for a terminal or for a log."""
    from harness.report import plain

    lively = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if not lively:
        return plain.plain(names, sys.stdout)
    from harness.report import live  # rich takes another 20 ms, and most runs do not need it

    return live.live(names, sys.stdout)


def colourful() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def families(given: argparse.Namespace) -> tuple[Family, ...]:
    """The family of --family, or both."""
    return (given.family,) if given.family else tuple(Family)


def width() -> int:
    """The columns of standard output; 100 if it is not a terminal."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


def say(text: str) -> None:
    """Print one line on standard output, escaped for a terminal."""
    print(printable(text), flush=True)


def complain(text: str) -> None:
    """Print a message on standard error, escaped for a terminal."""
    for line in text.splitlines():
        print(printable(line), file=sys.stderr, flush=True)
