# SPDX-License-Identifier: GPL-2.0-only
"""``--repeat`` outside of the boot: what is asked for, kept, reused and shown."""

from __future__ import annotations

import threading
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from harness import cli
from harness.cli import matrix
from harness.errors import UsageError
from harness.manifest import fingerprint
from harness.manifest.plan import Plan
from harness.records import reuse
from harness.records.store import FILE, Store
from harness.report import plain, table
from harness.report.details import rounds_of_check, rounds_summary
from harness.run.request import Progress, Stage
from harness.verdict.results import (
    BootEnd,
    CheckResult,
    CutRound,
    KernelResult,
    RoundFailures,
    Rounds,
    RunResult,
)
from harness.verdict.rounds import MOST, Repeat
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from harness.vm.commandline import Request
from tests import factories, fake_boots
from tests.fake_boots import GOOD, Outcomes
from tests.report.support import Clock

GOOD_ROUNDS = Rounds(asked=200, done=57)
CLIENT = factories.check("mptcp_info.x").key
SERVER = replace(CLIENT, side="server")
BAD_ROUNDS = Rounds(
    asked=200,
    done=200,
    failed=3,
    by_check={"mptcp_info.x": 3},
    failures=(RoundFailures(CLIENT, 3, 17, 1234), RoundFailures(SERVER, 1, 20, 1237)),
)


def asked(*arguments: str) -> Repeat:
    return matrix._repeat(cli.parser().parse_args(["check", "image", *arguments]))


@pytest.mark.parametrize(
    ("arguments", "repeat"),
    [
        ((), Repeat()),
        (("--repeat", "1"), Repeat()),
        (("--repeat", "200"), Repeat(200)),
        (("--until-fail",), Repeat(MOST, until_fail=True)),
        (("--until-fail", "--repeat", "9"), Repeat(9, until_fail=True)),
        (("--for", "10m"), Repeat(MOST, seconds=600)),
        (("--for", "2h", "--repeat", "9"), Repeat(9, seconds=7200)),
    ],
)
def test_what_the_user_says_is_how_often_is_checked(
    arguments: tuple[str, ...], repeat: Repeat
) -> None:
    assert asked(*arguments) == repeat


@pytest.mark.parametrize("more", [["--until-fail"], ["--for", "10m"]])
def test_once_and_until_fail_contradict_each_other(more: list[str]) -> None:
    with pytest.raises(UsageError, match="repeats nothing"):
        asked("--repeat", "1", *more)


@pytest.mark.parametrize(
    "arguments", [("--repeat", "0"), ("--repeat", "1000001"), ("--for", "10"), ("--for", "0s")]
)
def test_a_number_or_time_out_of_bounds_is_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        asked(*arguments)
    assert arguments[0] in capsys.readouterr().err


def test_the_guest_is_asked_for_what_the_user_asked_for() -> None:
    told = Request("n", 1, Plan(repeat=Repeat(9, until_fail=True, seconds=60))).arguments()
    assert {"rounds=9", "until_fail=yes", "seconds=60"} < set(told)
    assert not any("rounds" in argument for argument in Request("n", 1).arguments())


def test_a_result_of_fewer_rounds_is_not_reused_for_more(tmp_path: Path) -> None:
    entry = fake_boots.entries(1)[0]
    kernel = Outcomes(tmp_path).prepare(entry)
    setting = reuse.Setting(Plan(), "0b", "7.2", "1.42")
    more = replace(setting, plan=Plan(repeat=Repeat(100)))
    keys = {
        fingerprint.digest(reuse.circumstances_of(entry, kernel, s, kvm=False))
        for s in (setting, more)
    }
    assert len(keys) == 2


# Interrupted.


class Desk:
    """Somebody who repeats the checks of one kernel, and presses Ctrl-C in the middle."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outcomes = Outcomes(directory)
        self.stop = threading.Event()

    def run(self, rounds: Rounds, *results: CheckResult, **request: object) -> RunResult:
        stream = replace(GOOD.stream, closed=False, rounds=rounds, results=results)
        attempt = replace(GOOD, end=BootEnd.INTERRUPTED, stream=stream)
        self.outcomes.of["kernel-0"] = attempt
        chosen = fake_boots.asking(jobs=1, repeat=Repeat(200), **request)
        return fake_boots.run(self.directory, fake_boots.entries(1), self._hear, chosen, self.stop)

    def _hear(self, progress: Progress) -> None:
        if progress.stage is Stage.BOOTING and progress.kernel:
            self.stop.set()

    def kept(self) -> list[str]:
        with Store(self.directory / "state" / "mptcp-harness" / FILE) as store:
            (run,) = [store.run(path.name) for path in self._runs()]
            assert run is not None
            return [kept.verdict for kept in store.results(run.id)]

    def _runs(self) -> list[Path]:
        return list((self.directory / "state" / "mptcp-harness" / "runs").iterdir())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    desk = Desk(tmp_path)
    desk.outcomes.install(monkeypatch.setattr)
    return desk


def test_an_interrupted_repeat_is_reported(desk: Desk) -> None:
    run = desk.run(GOOD_ROUNDS, *GOOD.stream.results)
    (kernel,) = run.kernels
    assert run.interrupted
    assert kernel.verdict is KernelVerdict.INFRASTRUCTURE
    assert kernel.reason == "interrupted after 57 of 200 rounds, none of which failed"
    assert kernel.rounds == GOOD_ROUNDS


def test_an_interrupted_repeat_is_begun_anew_by_resume(desk: Desk) -> None:
    desk.run(GOOD_ROUNDS, *GOOD.stream.results)
    assert desk.kept() == []
    desk.stop.clear()
    desk.run(GOOD_ROUNDS, *GOOD.stream.results, resume=True)
    assert desk.outcomes.booted == ["kernel-0", "kernel-0"]


def test_a_failure_before_the_interruption_is_kept(desk: Desk) -> None:
    failed = replace(GOOD.stream.results[0], verdict=CheckVerdict.FAIL, detail="no (round 3)")
    run = desk.run(replace(GOOD_ROUNDS, failed=1), failed)
    assert run.kernels[0].verdict is KernelVerdict.FAIL
    assert desk.kept() == ["fail"]
    with pytest.raises(UsageError):
        desk.run(GOOD_ROUNDS, failed, resume=True)


def test_an_interruption_in_the_first_round_leaves_nothing(desk: Desk) -> None:
    run = desk.run(Rounds(200, 0))
    assert run.missing == ("kernel-0",)


# Shown.


def shown(kernel: KernelResult) -> str:
    text = table.render(factories.run(kernel), width=100, colour=False, unicode=False)
    return " ".join(text.split())


def test_a_kernel_that_passed_every_round_says_how_many() -> None:
    kernel = replace(factories.kernel(), rounds=Rounds(asked=200, done=200))
    assert "rounds 200 rounds, none failed" in shown(kernel)


def test_a_failure_says_in_how_many_rounds_and_which_seed_repeats_it() -> None:
    failed = factories.check("mptcp_info.x", CheckVerdict.FAIL, detail="odd (round 17, seed 1234)")
    kernel = replace(factories.failing(factories.kernel(), failed), rounds=BAD_ROUNDS)
    text = shown(kernel)
    assert "200 rounds, 3 failed; the first was round 17: --seed 1234 repeats it" in text
    assert "in 3 of 200 rounds; first in round 17, seed 1234" in text


def test_places_that_failed_less_often_are_told_apart() -> None:
    assert rounds_of_check(BAD_ROUNDS, "mptcp_info.x").endswith(
        "ipv4 segment established server: 1 round"
    )


def test_a_check_that_never_failed_has_nothing_to_say() -> None:
    assert rounds_of_check(BAD_ROUNDS, "mptcp_info.y") == ""


def test_a_round_that_was_cut_off_is_said() -> None:
    cut = replace(GOOD_ROUNDS, cut=CutRound(57, 64, "ipv6 stream checks"))
    assert rounds_summary(cut) == (
        "57 of 200 rounds, none failed; cut off during ipv6 stream checks in round 57, seed 64"
    )


def test_a_repeat_without_end_does_not_speak_of_a_million() -> None:
    assert rounds_summary(Rounds(asked=MOST, done=57)) == "57 rounds, none failed"


def test_progress_without_a_terminal_tells_of_rounds_now_and_then() -> None:
    stream, clock = StringIO(), Clock()
    with plain.plain(["k"], stream, clock=clock) as listener:
        for done in range(1, 100):
            listener(Progress("k", Stage.REPEATING, "none failed", done, 200))
            clock.now += 1
    lines = [line.split("] ")[1] for line in stream.getvalue().splitlines()[1:]]
    assert lines == [f"k: {n} of 200 rounds, none failed" for n in (1, 31, 61, 91)]
