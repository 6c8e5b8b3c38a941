# SPDX-License-Identifier: GPL-2.0-only
"""What a night found is news until somebody was told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli, nightly
from harness.cli.nightly import UNREPORTED
from harness.nightly.night import LastReported, note_begin, note_end
from harness.nightly.results import Night, Selftest
from tests import factories

MANIFEST = """
kernels:
  - {name: stable, deb: {suite: trixie, package: linux-image-amd64}}
"""


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a night is noted; each finds the same, and nothing is booted."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "kernels.yaml").write_text(MANIFEST)
    return tmp_path / "state" / "mptcp-harness" / UNREPORTED


def night(
    note: Path, monkeypatch: pytest.MonkeyPatch, *more: str, interrupted: bool = False
) -> int:
    manifest = note.parents[2] / "kernels.yaml"
    run = replace(
        factories.run(factories.kernel()), directory=str(note.parent), interrupted=interrupted
    )
    made = Night(str(manifest), Selftest(skipped=True), run)
    monkeypatch.setattr(nightly, "run", lambda *_: made)
    return cli.main(["nightly", str(manifest), *more])


def test_who_reads_the_report_was_told(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert night(note, monkeypatch) == 0
    assert not note.exists()


def test_nobody_was_told_where_the_notification_failed(
    note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert night(note, monkeypatch, "--notify", "false") == 3
    assert note.exists()


def test_an_interrupted_night_told_too_little(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert night(note, monkeypatch, interrupted=True) == 130
    assert note.exists()


def test_the_first_night_that_nobody_was_told_of_counts(tmp_path: Path) -> None:
    note = tmp_path / UNREPORTED
    assert note_begin(note, "first") == LastReported("first")
    assert note_begin(note, "second") == LastReported("first", unreported=True)
    note_end(note)
    assert note_begin(note, "third") == LastReported("third")
