# SPDX-License-Identifier: GPL-2.0-only
"""``nightly``: reports new failures. It is made for a timer."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from harness import nightly
from harness.bisect import bisection, candidates, commit_search, commits
from harness.bisect.commit_search import Onward
from harness.bisect.predicate import Predicate
from harness.bisect.results import CommitEnding, CommitSearch
from harness.cli import arguments, ci
from harness.cli.common import (
    check_writable,
    chosen,
    complain,
    fleet_of,
    listener,
    say,
    stopping,
    width,
)
from harness.cli.matrix import copy_record
from harness.errors import HostError, Interrupted, UsageError
from harness.host import locks, mail, programs
from harness.host.files import write_atomically
from harness.kernels import Cache
from harness.manifest import kernels_yaml
from harness.manifest.entries import GitSource
from harness.manifest.kernels_yaml import Manifest
from harness.manifest.known_issues import KnownIssues
from harness.nightly.ends import Ends
from harness.nightly.night import LastReported, note_begin, note_end
from harness.nightly.results import Night
from harness.records import stored_runs
from harness.records.store import Store
from harness.report import bisect as bisect_report
from harness.report import nightly as report
from harness.report import terminal
from harness.run import workspace
from harness.run.request import RunRequest
from harness.text import printable
from harness.verdict.verdicts import EXIT_INFRASTRUCTURE

#: In the state directory; a nightly holds this lock while it runs.
LOCK = "nightly.lock"
#: Beside it; exists until the report of the night has been delivered.
UNREPORTED = "nightly.unreported"
#: In the run's directory, or in the directory given by --output.
TEXT, MARKDOWN, HTML, MAIL = "nightly.txt", "nightly.md", "nightly.html", "nightly.eml"
#: Seconds after which a night begins no further commit: the report must be there in the morning.
BISECT_TIME = 4 * 3600
#: Seconds that a notification may take: a mail server may be slow, but the night must end.
NOTIFYING = 120.0


def add(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "nightly", run)
    arguments.add_manifest(command)
    arguments.add_selection(command)
    command.add_argument(
        "--notify",
        metavar="CMD",
        help="at the end, run CMD with two more arguments: the path of the Markdown report and the "
        "exit status; its environment names the other reports (docs/nightly.md)",
    )
    _add_mail(command)
    command.add_argument(
        "--wait", action="store_true", help="if another nightly is running, wait until it ends"
    )
    command.add_argument("--no-selftest", action="store_true", help="skip the selftest")
    command.add_argument("--no-bisect", action="store_true", help="skip the bisects")
    command.add_argument(
        "--bisect-time",
        type=arguments.span,
        default=BISECT_TIME,
        metavar="TIME",
        help="build no further commit once the bisects have taken TIME, such as 90m or 8h "
        "(default: 4h); only for kernels from git, or with `defaults: git:` in the manifest",
    )
    command.add_argument(
        "--confirm",
        type=arguments.Number(0, 100),
        default=0,
        metavar="N",
        help="boot a failing kernel N more times, and report whether it fails every time "
        "(default: 0)",
    )
    arguments.add_resources(command)
    arguments.add_fleet(command)
    command.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the results of the matrix to FILE"
    )
    arguments.add_output(command)


def _add_mail(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--mail",
        metavar="TO",
        action="append",
        default=[],
        help="at the end, mail the report with the HTML attached to TO; may be given several times",
    )
    command.add_argument(
        "--mail-from",
        metavar="ADDRESS",
        help="the sender (default: the environment's EMAIL, or this user at this host)",
    )
    command.add_argument(
        "--smtp",
        metavar="HOST[:PORT]",
        help="send mail through this server, with STARTTLS if it offers that (default: sendmail)",
    )


def run(given: argparse.Namespace) -> int:
    """One night under the lock, then the report, then the notification."""
    notification = _command(given.notify)
    mailing = mail.mailing(given.mail, given.mail_from, given.smtp)
    check_writable(given.json)
    if given.output is not None:
        workspace.new_or_empty(given.output)
    cache = Cache(given.cache)
    results = workspace.store_place(given.output)
    with stopping(cache.stop) as stop, _lock(results.with_name(LOCK), stop, wait=given.wait):
        with ci.no_commands():
            night = _night(given, cache, stop, results)
            reached = _show(night, given, notification, mailing)
        if reached and not night.run.interrupted:
            note_end(results.with_name(UNREPORTED))
    ci.report_night(night)
    return night.status if reached else night.status or EXIT_INFRASTRUCTURE


def _lock(
    place: Path, stop: threading.Event, *, wait: bool
) -> contextlib.AbstractContextManager[int]:
    """Let one nightly run at a time: two would slow each other down and bisect the same
    regressions."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if wait:
        return locks.waited_for(place, stop, say, "the nightly that is running")
    return locks.at_once(
        place,
        "another nightly is running, and two would disturb each other; wait for it, or use --wait",
    )


def _show(
    night: Night,
    given: argparse.Namespace,
    notification: Sequence[str],
    mailing: mail.Mailing | None,
) -> bool:
    """Print the report, run the notification and send the mail, if any; returns whether the report
    was delivered."""
    directory = _directory(night, given)
    place = directory / MARKDOWN
    glyphs = terminal.glyphs_for(sys.stdout)
    sys.stdout.write(report.render(night, glyphs, width=width()))
    say(f"the report is in {place}")
    notified = not notification or _notify(notification, directory, night)
    return (mailing is None or _mail(mailing, directory, night)) and notified


def _command(text: str | None) -> list[str]:
    """The words of --notify. Its program must exist before the night begins, not only after it."""
    try:
        words = shlex.split(text or "")
    except ValueError as error:
        raise UsageError(f"--notify {text!r}: {error}") from None
    if text is not None and (not words or shutil.which(words[0]) is None):
        raise UsageError(f"--notify {text!r}: no such program; give its path")
    return words


def _night(given: argparse.Namespace, cache: Cache, stop: threading.Event, results: Path) -> Night:
    manifest = kernels_yaml.load(given.manifest)
    entries = manifest.entries
    kernels = chosen(given, cache)
    KnownIssues.read(kernels)  # report an invalid file now, not after the selftest
    request = nightly.NightRequest(
        manifest=given.manifest,
        entries=entries,
        clone=manifest.clone,
        chosen=kernels,
        store=results,
        jobs=given.jobs,
        accel=given.accel,
        confirm=given.confirm,
        fleet=fleet_of(given),
        output=given.output,
        selftest=not given.no_selftest,
        bisect=not given.no_bisect,
        last_reported=_begin(results),
    )
    names = [entry.name for entry in kernels]
    search = _search(manifest, given, cache, stop, results)
    return nightly.run(
        *(request, cache, lambda: listener(names), say, search),
        lambda night: _write(night, given, results),
        stop,
    )


def _begin(results: Path) -> LastReported:
    """Note beside the store ``results`` that a night begins whose report is not yet delivered."""
    with Store(results) as store:
        if store.damage is not None:
            complain(str(store.damage))
        newest = next((run.id for run in store.runs(1)), "")
    return note_begin(results.with_name(UNREPORTED), newest)


def _search(
    manifest: Manifest,
    given: argparse.Namespace,
    cache: Cache,
    stop: threading.Event,
    results: Path,
) -> nightly.Search:
    """A bisect like that of ``mptcp-harness bisect --repo``; its answer goes into the report."""
    began: list[float] = []

    def is_late() -> bool:
        return time.monotonic() > began[0] + float(given.bisect_time)

    def search(ends: Ends, sought: Predicate) -> Sequence[str]:
        began.append(time.monotonic())
        request = RunRequest(
            jobs=given.jobs,
            accel=given.accel,
            confirm=given.confirm,
            fleet=fleet_of(given),
            manifest=given.manifest,
            output=given.output and given.output / "bisects" / ends.bad,
            store=results,
        )
        onward = Onward(manifest.clone, is_late)
        if ends.commits is not None:
            good, bad = ends.commits
            asking = (sought, onward, request, cache, listener, say, stop)
            in_git = commit_search.search(good, bad, *asking)
            lines = bisect_report.render_commits(in_git).splitlines()
            return [*lines, *_continuing(in_git, ends, sought, given)]
        changes = commits.teller(cache, say)
        series = candidates.between(manifest.entries, ends.good, ends.bad, cache, say)
        from_git = isinstance(series.candidates[0].entry.source, GitSource)
        found = bisection.bisect(
            *(series, sought, request, cache, listener, say, changes, stop),
            onward=onward if manifest.clone or from_git else None,
        )
        lines = bisect_report.render(found).splitlines()
        return [*lines, *_continuing(found.commits, ends, sought, given)]

    return search


def _continuing(
    found: CommitSearch | None, ends: Ends, sought: Predicate, given: argparse.Namespace
) -> Sequence[str]:
    """The command that continues a search for a commit that ran out of time."""
    if found is None or found.ending is not CommitEnding.OUT_OF_TIME:
        return ()
    what = str(sought).split(" ", 1)
    if ends.commits is None:
        named = ["--good", ends.good, "--bad", ends.bad, *what, "--profile", "full"]
        words = ["bisect", str(given.manifest), *named, "--repo", found.repository]
        return (f"to continue: {shlex.join(['mptcp-harness', *words])}",)
    start = shlex.join(["git", "bisect", "start", found.bad, found.good])
    step = shlex.join(["mptcp-harness", "step", *what, "--profile", "full"])
    return (f"to continue, in {found.repository}: {start} && git bisect run {step}",)


def _directory(night: Night, given: argparse.Namespace) -> Path:
    return Path(given.output or night.run.directory).absolute()


def _write(night: Night, given: argparse.Namespace, store: Path) -> None:
    """Write the report as text, as Markdown and as HTML, and --json."""
    from harness.cli import pages

    directory = _directory(night, given)
    write_atomically(directory / TEXT, report.render(night, terminal.UNICODE))
    write_atomically(directory / MARKDOWN, report.to_markdown(night))
    write_atomically(directory / HTML, pages.of_night(night, store))
    if given.json is not None:
        copy_record(Path(night.run.directory, stored_runs.RECORD), given.json)


def _notify(command: Sequence[str], directory: Path, night: Night) -> bool:
    """Run ``command``; returns whether it succeeded."""
    place = directory / MARKDOWN
    reports = {
        "MPTCP_HARNESS_TEXT": str(directory / TEXT),
        "MPTCP_HARNESS_MARKDOWN": str(place),
        "MPTCP_HARNESS_HTML": str(directory / HTML),
        "MPTCP_HARNESS_SUMMARY": printable(night.summary),
    }
    trouble = ""
    try:
        done = programs.run(
            [*command, str(place), str(night.status)],
            {**os.environ, **reports},
            stop=threading.Event(),  # an interrupted night is reported too
            timeout=NOTIFYING,
        )
        if done.returncode:
            trouble = f"status {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}"
    except (OSError, Interrupted, subprocess.TimeoutExpired) as error:
        trouble = str(error)
    if trouble:
        complain(f"--notify {shlex.join(command)} failed ({trouble}); the report is in {place}")
    return not trouble


def _mail(mailing: mail.Mailing, directory: Path, night: Night) -> bool:
    """Send the report; returns whether it was taken."""
    page = (directory / HTML).read_text(encoding="utf-8")
    file = directory / MAIL
    try:
        mail.send(report.to_mail(night, page), mailing, file)
    except HostError as error:
        complain(f"{error}; the mail is in {file}")
        return False
    return True
