# SPDX-License-Identifier: GPL-2.0-only
"""`report --site DIR`: static pages of all kept runs, with an index.

What is there stays: the work grows with what is new.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from harness.cli import pages
from harness.cli.pages import MAX_RUNS
from harness.errors import HostError
from harness.host.files import recall, write_atomically
from harness.records import stored_runs
from harness.records.summaries import RunSummary
from harness.report import html
from harness.text import plural

#: In a site: what is known of its pages, by run.
STATE = "site.json"
INDEX = "index.html"
SCHEMA = 1
#: More runs than any store has.
MOST = 100_000
_FILE = re.compile(r"run-[A-Za-z0-9][A-Za-z0-9_-]{0,80}\.html")


def write_site(directory: Path, store: Path) -> str:
    """Write a page for each run of ``store`` and an index to ``directory``; returns a summary.

    A page that is there stays, unless its run has got more results since. The page of a run that
    is no longer kept is removed. Raises HarnessError.
    """
    found = stored_runs.summaries(store, MOST, lambda _: True, times=True)
    runs = {run.id: run for run in reversed(found)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        known = _known(directory)
        kept = {run.id: _stamp(run) for run in runs.values()}  # the newest first
        gone = [run for run in known if run not in kept]
        for run in gone:
            (directory / known.pop(run)["file"]).unlink(missing_ok=True)
        made = 0
        for run in reversed(kept):  # oldest first, as they would have come
            there = known.get(run)
            if there is None or there["stamp"] != kept[run] or not _is_there(directory, there):
                known[run] = _write_one(directory, run, kept[run], store)
                _remember(directory, known)  # an interrupted site goes on here
                made += 1
        entries = [_entry(run, known[run]) for run in kept]
        last = list(reversed(list(runs.values())[:MAX_RUNS]))
        write_atomically(directory / INDEX, html.index(entries, last))
        _remember(directory, known)
    except OSError as error:
        raise HostError(f"--site {directory}: cannot be written ({error.strerror})") from error
    removed = f", {len(gone)} removed" if gone else ""
    return f"{directory / INDEX}: {plural(len(kept), 'run')}, {made} written{removed}"


def _stamp(run: RunSummary) -> str:
    """Changes when the run gets a result; the page of a run is not written twice otherwise."""
    return f"{run.finished} {len(run.kernels)}"


def _write_one(directory: Path, run_id: str, stamp: str, store: Path) -> dict[str, Any]:
    run = stored_runs.find(run_id, store)
    page = html.page(run, pages.context_of(run, store))
    file = f"run-{re.sub('[^A-Za-z0-9_-]', '-', run_id)[:80]}.html"
    write_atomically(directory / file, page.text)
    about = {"file": file, "started": run.started, "sentence": page.sentence, "good": page.good}
    return {"stamp": stamp, **about}


def _entry(run: str, known: dict[str, Any]) -> html.Entry:
    return html.Entry(
        run, str(known["started"]), known["file"], str(known["sentence"]), bool(known["good"])
    )


def _is_there(directory: Path, known: dict[str, Any]) -> bool:
    return (directory / str(known["file"])).is_file()


def _known(directory: Path) -> dict[str, dict[str, Any]]:
    """What :func:`_remember` wrote; empty if there is none, or if it is damaged."""
    found = recall(directory / STATE)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        return {}
    return {run: about for run, about in found.get("runs", {}).items() if _is_sound(about)}


def _is_sound(about: object) -> bool:
    """Whether ``about`` is that of a page, in a file of this directory."""
    if not isinstance(about, dict) or not {"stamp", "started", "sentence", "good"} <= about.keys():
        return False
    return _FILE.fullmatch(str(about.get("file"))) is not None


def _remember(directory: Path, known: dict[str, dict[str, Any]]) -> None:
    write_atomically(directory / STATE, json.dumps({"schema": SCHEMA, "runs": known}, indent=1))
