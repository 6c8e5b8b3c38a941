# SPDX-License-Identifier: GPL-2.0-only
"""Checks of bugs that mainline has: what holds for plain TCP passes them."""

from __future__ import annotations

import pytest

from guest import checks, events, states
from guest.checks import fastopen, unrepaired
from guest.ktap import Ktap
from guest.lab import MPTCP, TCP, Lab
from guest.runner import Options, Runner
from tests.guest import namespaces

#: What TCP has, too.
OF_TCP = [item for item in checks.all_checks() if item.payloads == (unrepaired.SCENARIO,)]
BUGS = [item for item in checks.all_checks() if item.bug]


def with_tcp() -> None:
    """Have each lab of this process make sockets of plain TCP."""
    of_lab = (Lab.socket, Lab.listener, Lab.accept, Lab.pair)
    for function in (*of_lab, states.place, fastopen.opened):
        defaults = function.__defaults__ or ()
        function.__defaults__ = tuple(TCP if value == MPTCP else value for value in defaults)


@pytest.mark.skipif(not namespaces.available(), reason="needs root for a network namespace")
@pytest.mark.parametrize("family", namespaces.FAMILIES)
def test_plain_tcp_passes(family: str) -> None:
    items = [item for item in OF_TCP if family in item.families]
    assert namespaces.failures(family, items, with_tcp) == []


def test_a_known_bug_is_expected_to_fail(capsys: pytest.CaptureFixture[str]) -> None:
    bug = BUGS[0]
    said = Ktap([])
    entries = [[bug.id, "run", "both"], ["payload.intact", "run", "both"]]
    said.emit("plan", family="ipv4", payload="x", scenario=True, entries=entries)
    said.emit("start", i=0)
    said.emit("result", i=0, verdict=events.FAIL, detail="it waits")
    assert said.finish() == 0
    said.emit("result", i=1, verdict=events.FAIL)
    assert said.finish() == 1
    out = capsys.readouterr().out
    assert f"not ok 1 - ipv4 {bug.id} (x/run/both) # TODO known bug: {bug.bug}" in out


def test_a_known_bug_that_breaks_is_no_failure_that_is_expected() -> None:
    said = Ktap([])
    entries = [[BUGS[0].id, "run", "both"]]
    said.emit("plan", family="ipv4", payload="x", scenario=True, entries=entries)
    said.emit("start", i=0)
    said.emit("result", i=0, verdict=events.ERROR)
    assert said.finish() == 1


class Nowhere:
    """Takes events, and forgets them."""

    port = -1

    def emit(self, kind: str, **fields: object) -> None:
        pass

    def hold(self, on: bool) -> None:
        pass


def planned(options: Options) -> set[str]:
    run = Runner(options, Nowhere())  # type: ignore[arg-type]
    for family in options.families:
        run._probe(family)
    return {entry.id for group in run._plan() for entry, _, _ in group.entries}


@pytest.mark.mptcp
def test_rounds_leave_out_what_always_fails_unless_it_is_asked_for() -> None:
    bugs = {item.id for item in BUGS}
    assert planned(Options()) >= bugs
    assert planned(Options(rounds=2)).isdisjoint(bugs)
    assert planned(Options(rounds=2, selected=bugs.__contains__)) == bugs
