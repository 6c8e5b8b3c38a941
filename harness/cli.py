# SPDX-License-Identifier: GPL-2.0-only
"""The command line: arguments in, exit status out. The only place that prints or exits."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from guest import checks as guest_checks
from harness import (
    __version__,
    arguments,
    host,
    kernels,
    manifest,
    matrix,
    programs,
    prune,
    resume,
    selftest,
    session,
)
from harness.capabilities import CAPABILITIES
from harness.kernels import Cache, KernelUnavailable
from harness.kernels.files import NoHome, write_through
from harness.manifest import KernelEntry, ManifestError
from harness.progress import Listener
from harness.report import plain, table, terminal
from harness.report import selftest as selftest_report
from harness.results import (
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    Family,
    RunResult,
    exit_status,
)
from harness.store import StoreUnusable


class UsageError(Exception):
    """Arguments or a manifest that cannot be worked with; exits with 2."""


class NotWritten(Exception):
    """Results that could not be put where the user wants them; exits with 3."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (docs: README, "Exit status")."""
    if sys.stdout is None:  # the shell's >&-
        complain("standard output is closed; give it a place to go, such as /dev/null")
        return EXIT_INFRASTRUCTURE
    try:
        try:
            programs.adopt_orphans()
            return _run(argv)
        finally:
            sys.stdout.flush()
    except (UsageError, ManifestError, session.OutputRefused, resume.NothingToResume) as error:
        complain(str(error))
        return EXIT_USAGE
    except (
        *(session.SessionUnavailable, KernelUnavailable, StoreUnusable),
        *(NoHome, NotWritten),
    ) as error:
        complain(str(error))
        return EXIT_INFRASTRUCTURE
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): nothing is left to be said.
        _abandon_output()
        return EXIT_INTERRUPTED
    except OSError as error:  # a full disk, a directory that went away: of the host, not a kernel
        _abandon_output()
        hint = "" if error.filename else "; look at the disk, and at where standard output goes"
        complain(f"the host failed: {error.strerror or error}{_file_of(error)}{hint}")
        return EXIT_INFRASTRUCTURE


def _run(argv: Sequence[str] | None) -> int:
    given = arguments.parser(__version__).parse_args(argv)
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "matrix": run_matrix,
        "check": run_check,
        "prepare": run_prepare,
        "list": run_list,
        "doctor": run_doctor,
        "selftest": run_selftest,
        "prune": run_prune,
    }
    return commands[given.command](given)


def _file_of(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _abandon_output() -> None:
    """Where standard output takes nothing any more, let Python not try it again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_matrix(given: argparse.Namespace) -> int:
    """Test the manifest's kernels."""
    cache = Cache(given.cache)
    chosen = _chosen(given, cache)
    return _test(chosen, given, cache)


def run_check(given: argparse.Namespace) -> int:
    """Test one image."""
    entry = manifest.for_image(given.image, given.modules)
    return _test([entry], given, Cache(given.cache))


def _test(entries: Sequence[KernelEntry], given: argparse.Namespace, cache: Cache) -> int:
    wishes = session.Wishes(
        families=(given.family,) if given.family else tuple(Family),
        checks=_matching_checks(given.check),
        payload=given.payload,
        seed=given.seed,
        jobs=given.jobs,
        accel=given.accel,
        output=given.output,
        reuse=given.reuse,
        resume=given.resume,
        confirm=given.confirm,
        manifest=given.manifest,
    )
    _check_writable(given.json)
    names = [entry.name for entry in entries]
    with _stopping(cache.stop) as stop, _listener(names) as listener:
        run = session.run(entries, wishes, cache, listener, stop)
    _report(run, given.json)
    return exit_status(run)


def _report(run: RunResult, json_file: Path | None) -> None:
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    glyphs = terminal.glyphs_for(sys.stdout)
    text = table.render(run, width=width, colour=_colourful(), unicode=glyphs.unicode)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    finally:
        if json_file is not None:
            _copy_record(Path(run.directory, session.RECORD), json_file)


def _copy_record(record: Path, target: Path) -> None:
    try:
        # Not composed again: of sixty kernels that takes half a second.
        write_through(target, record.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotWritten(
            f"--json {target}: it could not be written: {error.strerror}; the same is in {record}"
        ) from error


def run_prepare(given: argparse.Namespace) -> int:
    """Fetch and unpack only."""
    cache = Cache(given.cache)
    chosen = _chosen(given, cache)
    with (
        _stopping(cache.stop) as stop,
        cache.scratch(),  # meanwhile nothing that is used is pruned
        ThreadPoolExecutor(matrix.PREPARING) as preparers,
    ):
        ready = list(preparers.map(lambda entry: _prepare(entry, cache), chosen))
    if stop.is_set():
        complain("interrupted")
        return EXIT_INTERRUPTED
    return EXIT_OK if all(ready) else EXIT_INFRASTRUCTURE


def _prepare(entry: KernelEntry, cache: Cache) -> bool:
    def say(text: str) -> None:
        print(f"{entry.name}: {text}", flush=True)

    if cache.stop.is_set():
        return False
    try:
        ready = kernels.prepare(entry, cache, say)
    except KernelUnavailable as error:
        complain(f"{entry.name}: {error}")
        return False
    say(f"{ready.release} ready in {ready.root}")
    return True


def run_list(given: argparse.Namespace) -> int:
    """Show kernels, checks or capabilities."""
    {"kernels": _list_kernels, "checks": _list_checks, "capabilities": _list_capabilities}[
        given.what
    ](given)
    return EXIT_OK


def _list_kernels(given: argparse.Namespace) -> None:
    for entry in manifest.load(given.manifest).entries:
        kind = "series" if entry.is_series else "kernel"
        print(f"{entry.name:24} {kind}  {entry.source}")


def _list_checks(_: argparse.Namespace) -> None:
    for check in guest_checks.all_checks():
        print(check.id)
        print(f"    {check.summary}")
        print(
            f"    needs {', '.join(check.needs)}; at {', '.join(check.phases)}; "
            f"on {', '.join(check.sides)}; with {', '.join(check.payloads)}"
        )
        print(f"    covers {check.covers}")


def _list_capabilities(_: argparse.Namespace) -> None:
    for spec in CAPABILITIES.values():
        since = f"mainline {spec.since[0]}.{spec.since[1]}" if spec.since else "always"
        print(f"{spec.name:14} {since:14} {spec.meaning}")


def run_doctor(given: argparse.Namespace) -> int:
    """Say what this host lacks, and the command that mends it."""
    cache = Cache(given.cache).root
    kept = prune.doctor(cache, session.runs_directory(), session.store_file())
    findings = (*host.doctor(cache), *kept)
    for finding in findings:
        what = " ".join(word for word in (finding.found, finding.version) if word)
        print(f"{finding.standing:8} {finding.subject:22} {terminal.printable(what)}")
        if finding.remedy:
            print(f"{'':31} {terminal.printable(finding.remedy)}")
    lacking = any(finding.standing is host.Standing.MISSING for finding in findings)
    return EXIT_INFRASTRUCTURE if lacking else EXIT_OK


def run_prune(given: argparse.Namespace) -> int:
    """Remove what has long not been used, and say what that was."""
    runs = session.runs_directory()
    removed = prune.prune(Cache(given.cache), runs, given.keep, dry_run=given.dry_run)
    for item in removed:
        path = terminal.printable(str(item.paths[0]))
        print(
            f"{prune.mebibytes(item.size):>12}  {'obsolete' if item.obsolete else 'old':8}  {path}"
        )
    stored = prune.prune_store(session.store_file(), given.keep, dry_run=given.dry_run)
    kinds = (*prune.KINDS, prune.LEFT, prune.RUNS)
    totals = [*(prune.total(removed, kind) for kind in kinds), stored]
    what = prune.summary(totals) or "nothing"
    size = sum(kind.size for kind in totals)
    print(f"{'would be removed' if given.dry_run else 'removed'}: {what}; {size} bytes")
    return EXIT_OK


def run_selftest(given: argparse.Namespace) -> int:
    """Boot a good kernel with one fault after another, and see whether each is seen."""
    started = time.monotonic()
    cache = Cache(given.cache)
    try:
        faults = selftest.select(given.only)
    except selftest.UnknownFault as error:
        raise UsageError(f"--only: {error}") from None
    chosen = _chosen(given, cache)
    wishes = selftest.Wishes(faults, bool(given.kernels), given.jobs, given.accel, given.output)

    def say(text: str) -> None:
        print(terminal.printable(text), flush=True)

    with _stopping(cache.stop) as stop:
        rows = selftest.run(
            chosen,
            wishes,
            cache,
            say,
            lambda row: print(selftest_report.line(row), flush=True),
            stop,
        )
    print(selftest_report.summary(rows, len(faults) + 1, time.monotonic() - started))
    return EXIT_INTERRUPTED if stop.is_set() else selftest.exit_status(rows, wishes)


def _matching_checks(pattern: str | None) -> tuple[str, ...]:
    if pattern is None:
        return ()
    known = [check.id for check in guest_checks.all_checks()]
    found: set[str] = set()
    for glob in _globs(pattern):
        matching = fnmatch.filter(known, glob)
        if not matching:
            raise UsageError(
                f"--check {glob!r} matches no check; `mptcp-harness list checks` shows them"
            )
        found.update(matching)
    return tuple(name for name in known if name in found) if len(found) < len(known) else ()


def _globs(pattern: str) -> list[str]:
    """The members of a list separated by commas; none may be empty or match nothing."""
    return [part.strip() for part in pattern.split(",")]


def _chosen(given: argparse.Namespace, cache: Cache) -> list[KernelEntry]:
    """The manifest's kernels that the user named, or all; every part of -k must name some."""
    entries = manifest.load(given.manifest).entries
    globs = _globs(given.kernels) if given.kernels else []
    chosen = matrix.select(
        entries, ",".join(globs) or None, lambda entry: kernels.expand(entry, cache)
    )
    names = [entry.name for entry in (*entries, *chosen)]
    idle = [glob for glob in globs if not fnmatch.filter(names, glob)]
    if idle or not chosen:
        asked = f"no kernel matches {idle[0]!r}" if idle else "no kernel but series"
        has = ", ".join(entry.name for entry in entries)
        raise UsageError(f"{given.manifest}: {asked}; it has {has}")
    return chosen


def _check_writable(path: Path | None) -> None:
    """Better now than after ten minutes of booting."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"--json {path}: it is a directory; name a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"--json {path}: it is not writable; name another file")
    directory = path.resolve().parent if path.is_symlink() else path.parent
    if not path.exists() and not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(f"--json {path}: its directory does not exist or is not writable")


@contextlib.contextmanager
def _stopping(stop: threading.Event) -> Iterator[threading.Event]:
    """``stop``, set by the first Ctrl-C, SIGTERM or hang-up; the second ends the program."""
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


def _listener(names: Sequence[str]) -> contextlib.AbstractContextManager[Listener]:
    lively = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if not lively:
        return plain.plain(names, sys.stdout)
    from harness.report import live  # rich takes 20 ms, which most runs have no use for

    return live.live(names, sys.stdout)


def _colourful() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def complain(text: str) -> None:
    """One message on standard error, with nothing in it that a terminal would obey."""
    for line in text.splitlines():
        print(terminal.printable(line), file=sys.stderr, flush=True)
