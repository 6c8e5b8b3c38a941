# SPDX-License-Identifier: GPL-2.0-only
"""Programs that the guest runs after the checks: what it tells of their ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from guest import events, isolation, programs


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a script as a program, and returns the events that come of it."""
    monkeypatch.setattr(programs, "PLACE", str(tmp_path / "program"))
    monkeypatch.setattr(programs, "COMMANDS", str(tmp_path / "commands"))
    monkeypatch.setattr(isolation, "unavailable", lambda: "this is the host")

    def run(script: str, *arguments: str, deadline_s: float = 60.0) -> list[dict[str, Any]]:
        place = tmp_path / "program/0"
        place.mkdir(parents=True)
        (place / "mine").write_text(script)
        (place / "mine").chmod(0o755)
        (tmp_path / "commands").mkdir()
        words = ("0", "mine", *arguments)
        (tmp_path / "commands/000").write_bytes("\0".join(words).encode())
        written: list[bytes] = []
        assert programs.run_all(events.Emitter(written.append), deadline_s) == 1
        isolation.adopt_orphans(False)
        return [events.parse(line) for line in b"".join(written).splitlines(keepends=True)]

    return run


def end(found: list[dict[str, Any]]) -> tuple[str, int]:
    assert found[0]["e"] == "program"
    assert (found[-1]["e"], found[-1]["p"]) == ("ended", 0)
    return found[-1]["how"], found[-1]["status"]


def test_the_status_and_the_end_of_the_output_are_told(run: Any) -> None:
    script = "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do printf '%400s' .; done\necho $1 >&2\nexit 3\n"
    found = run(script, "-6")
    assert end(found) == ("exit", 3)
    assert found[-1]["output"].endswith("-6\n")
    assert len(found[-1]["output"]) == programs.TAIL


def test_a_signal_is_told(run: Any) -> None:
    assert end(run("#!/bin/sh\nkill -ABRT $$\n")) == ("signal", 6)


def test_a_program_that_hangs_is_ended_with_what_it_started(run: Any) -> None:
    began = time.monotonic()
    found = run("#!/bin/sh\necho begun\nsleep 600 &\nsleep 600\n", deadline_s=0.3)
    assert end(found) == ("deadline", 0)
    assert found[-1]["output"] == "begun\n"
    assert time.monotonic() - began < 60


def test_what_a_program_leaves_behind_delays_nothing(run: Any) -> None:
    began = time.monotonic()
    assert end(run("#!/bin/sh\nsleep 600 &\nexit 0\n")) == ("exit", 0)
    assert time.monotonic() - began < 60


def test_the_guest_says_that_it_is_alive_meanwhile(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "ALIVE_S", 0.0)
    found = run("#!/bin/sh\nexec sleep 0.3\n")
    assert "alive" in [event["e"] for event in found]


def test_a_program_that_the_kernel_does_not_take_was_not_run(run: Any) -> None:
    found = run("\x7fELF is this no program\n")
    assert end(found) == ("not-run", 0)
    assert "Exec format error" in found[-1]["output"]


def test_output_of_any_kind_becomes_text(run: Any) -> None:
    assert run("#!/bin/sh\nprintf '\\377\\001'\n")[-1]["output"] == "\\xff\x01"
