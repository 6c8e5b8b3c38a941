# SPDX-License-Identifier: GPL-2.0-only
"""When a run may say that a known issue no longer occurs: only where it would have shown."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.kernels import Cache
from harness.run import session
from harness.run.request import Progress, Stage
from harness.verdict.results import Capability
from harness.verdict.verdicts import Family
from tests import fake_boots
from tests.fake_boots import GOOD, Outcomes

ISSUES = """
known_issues:
  - check: payload.arrives
    kernels: "*"
    reason: it is late
    owner: net
    expires: 2099-12-31
  - fingerprint: "warning:mptcp_*"
    kernels: "*"
    reason: it warns
    owner: net
    expires: 2099-12-31
"""
(RESULT,), (MPTCP,) = GOOD.stream.results, GOOD.stream.capabilities
#: Of both families, so that the check was tried in all.
BOTH = replace(
    GOOD,
    stream=replace(
        GOOD.stream,
        capabilities=tuple(Capability(MPTCP.name, family, True) for family in Family),
        results=tuple(replace(RESULT, key=replace(RESULT.key, family=family)) for family in Family),
    ),
)


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        ({}, ["payload.arrives", "warning:mptcp_*"]),
        # A payload of the user's may be just the one with which it does not show.
        ({"payload": 9}, []),
        # A report may come about by any check, one that was left out among them.
        ({"checks": ("payload.arrives",)}, ["payload.arrives"]),
        ({"profile": "quick"}, ["payload.arrives"]),
        ({"families": (Family.IPV4,)}, []),
    ],
    ids=str,
)
def test_a_known_issue_is_idle_only_where_it_would_have_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], idle: list[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    outcomes = Outcomes(tmp_path)
    outcomes.install(monkeypatch.setattr)
    outcomes.of["kernel-0"] = BOTH if len(settings.get("families", Family)) > 1 else GOOD
    (tmp_path / "issues.yaml").write_text(ISSUES)
    (entry,) = fake_boots.entries(1)
    run = session.run(
        [replace(entry, known_issues=tmp_path / "issues.yaml")],
        fake_boots.asking(jobs=1, **settings),
        Cache(tmp_path / "cache"),
        lambda _: None,
        threading.Event(),
    )
    said = [note.split()[3] for note in run.notes if "no longer occurs" in note]
    assert said == idle


def test_an_interrupted_run_makes_no_known_issue_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may occur on the kernel that the run did not reach."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("harness.run.matrix.PREPARING", 1)  # so that kernels come to boot in order
    outcomes = Outcomes(tmp_path)
    outcomes.install(monkeypatch.setattr)
    outcomes.of["kernel-0"] = BOTH
    (tmp_path / "issues.yaml").write_text(ISSUES)
    stop = threading.Event()

    def listener(progress: Progress) -> None:
        if progress.stage is Stage.DONE:
            stop.set()

    run = session.run(
        [replace(e, known_issues=tmp_path / "issues.yaml") for e in fake_boots.entries(2)],
        fake_boots.asking(jobs=1),
        Cache(tmp_path / "cache"),
        listener,
        stop,
    )
    assert run.interrupted
    assert [note for note in run.notes if "no longer occurs" in note] == []
