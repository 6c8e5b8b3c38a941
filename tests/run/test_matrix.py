# SPDX-License-Identifier: GPL-2.0-only
"""What runs when, and what is tried again. Boots are replaced: their outcomes are the input."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import kernels
from harness.errors import HostError, KernelUnavailable
from harness.host import tools
from harness.kernels import Cache, PreparedKernel
from harness.manifest.entries import (
    DEFAULT_MEMORY_MIB,
    Abi,
    Accel,
    DebSource,
    ImageSource,
    KernelEntry,
    UserSpace,
)
from harness.manifest.expectations import CAPABILITIES
from harness.manifest.fixes import Fix
from harness.manifest.known_issues import KnownIssues
from harness.manifest.plan import Plan
from harness.records.reuse import Results, Setting
from harness.records.store import Run, Store
from harness.records.to_json import kernel_text
from harness.run import attempts, matrix, workspace
from harness.run.attempts import Options
from harness.run.executor import QEMU_OVERHEAD
from harness.run.matrix import Matrix
from harness.run.request import Progress, RunRequest, Stage
from harness.verdict.results import (
    Attempt,
    BootEnd,
    Capability,
    CheckKey,
    CheckResult,
    Confirmed,
    Incident,
    IncidentKind,
    KernelResult,
    Phase,
    RoundFailures,
    Rounds,
    Stream,
    Timing,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from harness.vm import accelerator, boot

KEY = CheckKey(Family.IPV4, "payload.arrives", "segment", "transferred", "server")
STREAM = Stream(
    said_hello=True,
    closed=True,
    release="6.12.1",
    capabilities=tuple(
        Capability(name, Family.IPV4, True) for name in CAPABILITIES if name != "ipv6"
    ),
    results=(CheckResult(KEY, CheckVerdict.PASS),),
)
GOOD = Attempt(1, BootEnd.POWERED_OFF, kernel_spoke=True, stream=STREAM)
DEAD = Attempt(1, BootEnd.VMM_DIED, "QEMU ended with status 137", kernel_spoke=True)
FAILED = replace(
    GOOD, stream=replace(STREAM, results=(CheckResult(KEY, CheckVerdict.FAIL, "wrong"),))
)
WARNING = Incident(IncidentKind.WARNING, "WARNING", "a warning's", "")
CRASHED = replace(
    GOOD,
    stream=replace(STREAM, closed=False, results=(CheckResult(KEY, CheckVerdict.LOST),)),
    incidents=(Incident(IncidentKind.PANIC, "Kernel panic", "a panic's", ""),),
)


class Bench:
    """A matrix whose preparations and boots have the outcomes they are given."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.boots: dict[str, list[Attempt]] = {}
        self.circumstances: dict[str, str] = {}  # the digest of an image, by name
        self.unavailable: dict[str, list[KernelUnavailable]] = {}
        self.choices: dict[str, accelerator.Choice] = {}  # by the kernel that it is found out by
        self.choosing: list[str] = []
        self.progress: list[Progress] = []
        self.kept: list[KernelResult] = []
        self.stop = threading.Event()
        self.number = 0
        self.known_issues: Path | None = None
        self.abi = Abi.NATIVE
        self.during_boot: Callable[[], None] = lambda: None
        self._directory = tmp_path
        self.directory = tmp_path  # of the last run
        monkeypatch.setattr(attempts, "BACK_OFF", (0.0, 0.0))
        monkeypatch.setattr(matrix, "PREPARING", 1)  # so that kernels come to boot in order
        monkeypatch.setattr(kernels, "prepare", self._prepare)
        monkeypatch.setattr(boot, "boot", self._boot)
        monkeypatch.setattr(accelerator, "choose", self._choose)

    def _choose(self, _: object, kernel: PreparedKernel, *__: object) -> accelerator.Choice:
        self.choosing.append(kernel.name)
        return self.choices.get(kernel.name, accelerator.Choice(False, "for the tests"))

    def _prepare(self, entry: KernelEntry, *_: object) -> PreparedKernel:
        if self.unavailable.get(entry.name):
            raise self.unavailable[entry.name].pop(0)
        image = self._directory / "vmlinux"
        digest = self.circumstances.get(entry.name, "0" * 64)
        return PreparedKernel(
            entry.name, "6.12.1", "v", "here", image, digest, self._directory, image
        )

    def _boot(self, plan: boot.BootPlan, *_: object) -> Attempt:
        self.during_boot()
        plan.directory.mkdir(parents=True)
        attempt = self.boots[plan.kernel.name].pop(0)
        place = str(plan.directory / "console.log")
        return replace(attempt, number=plan.number, console=place, events=place)

    def run(
        self, *names: str, jobs: int = 1, reuse: bool = False, confirm: int = 0
    ) -> list[KernelResult]:
        source = DebSource("trixie", "linux-image")
        entries = [
            KernelEntry(name, source, "here", known_issues=self.known_issues, abi=self.abi)
            for name in names
        ]
        known = KnownIssues.read(entries)
        plan = Plan((Family.IPV4,))
        options = Options(
            directory=self._directory / "run",
            roots={UserSpace(abi=self.abi): self._directory},
            qemu=Path("/bin/false"),
            seed=1,
            jobs=jobs,
            request=RunRequest(plan, reuse=reuse, confirm=confirm),
            known=known,
        )
        cache = Cache(self._directory / "cache")
        setting = Setting(plan, "0b", "7.2", "1.42", known)
        self.number += 1
        run = Run(f"run {self.number}", "2026-01-01T00:00:00+00:00", "all", 1, "")
        with Store(self._directory / "results.sqlite") as store:
            store.begin(run)

            def keep(result: KernelResult, circumstances: str) -> None:
                self.kept.append(result)
                text = kernel_text(result)
                store.add(run.id, result.name, result.verdict, text, circumstances)

            options = replace(
                options,
                directory=self._directory / run.id,
                results=Results(store, setting),
            )
            self.directory = options.directory
            whole = Matrix(entries, options, cache, self.progress.append, keep, self.stop)
            return list(whole.run())


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_infrastructure_is_tried_again_and_every_attempt_kept(bench: Bench) -> None:
    bench.boots["k"] = [DEAD, DEAD, GOOD]
    (result,) = bench.run("k")
    assert result.verdict is KernelVerdict.PASS
    assert [attempt.end for attempt in result.attempts] == [
        BootEnd.VMM_DIED,
        BootEnd.VMM_DIED,
        BootEnd.POWERED_OFF,
    ]
    assert [p.stage for p in bench.progress].count(Stage.RETRYING) == 2


def test_infrastructure_is_tried_again_at_most_twice(bench: Bench) -> None:
    bench.boots["k"] = [DEAD, DEAD, DEAD, GOOD]
    (result,) = bench.run("k")
    assert result.verdict is KernelVerdict.INFRASTRUCTURE
    assert len(result.attempts) == 3


def test_a_failed_check_is_never_tried_away(bench: Bench) -> None:
    bench.boots["k"] = [FAILED, GOOD]
    (result,) = bench.run("k")
    assert result.verdict is KernelVerdict.FAIL
    assert len(result.attempts) == 1


def test_a_transient_failure_to_prepare_is_tried_again(bench: Bench) -> None:
    bench.unavailable["k"] = [KernelUnavailable("no network", transient=True)]
    bench.boots["k"] = [GOOD]
    (result,) = bench.run("k")
    assert result.verdict is KernelVerdict.PASS


def test_a_kernel_that_cannot_be_had_leaves_the_others_alone(bench: Bench) -> None:
    bench.unavailable["bad"] = [KernelUnavailable("not a kernel")]
    bench.boots["good"] = [GOOD]
    bad, good = bench.run("bad", "good")
    assert (bad.verdict, bad.reason) == (KernelVerdict.INFRASTRUCTURE, "not a kernel")
    assert good.verdict is KernelVerdict.PASS


def test_results_come_in_the_order_of_the_manifest(bench: Bench) -> None:
    names = [f"k{number}" for number in range(8)]
    bench.boots = {name: [GOOD] for name in names}
    assert [result.name for result in bench.run(*names, jobs=3)] == names


def test_each_result_is_kept_as_soon_as_it_is_there(bench: Bench) -> None:
    kept_before_second: list[int] = []
    bench.during_boot = lambda: kept_before_second.append(len(bench.kept))
    bench.boots = {"a": [GOOD], "b": [GOOD]}
    bench.run("a", "b")
    assert kept_before_second == [0, 1]


def test_an_interrupted_run_returns_what_was_finished(bench: Bench) -> None:
    def interrupt() -> None:
        if bench.kept:
            bench.stop.set()

    bench.during_boot = interrupt
    interrupted = replace(GOOD, end=BootEnd.INTERRUPTED)
    bench.boots = {"a": [GOOD], "b": [interrupted], "c": [GOOD]}
    assert [result.name for result in bench.run("a", "b", "c")] == ["a"]


def last(bench: Bench) -> Progress:
    return [progress for progress in bench.progress if progress.kernel][-1]


def test_a_good_result_takes_the_place_of_a_boot(bench: Bench) -> None:
    bench.boots["k"] = [GOOD]
    bench.run("k")
    (result,) = bench.run("k", reuse=True)
    assert result.verdict is KernelVerdict.PASS
    assert result.reused_from is not None
    assert (last(bench).verdict, last(bench).detail) == ("pass", "reused from run run 1")


def test_a_reused_result_is_kept_as_one_of_this_run(bench: Bench) -> None:
    bench.boots["k"] = [GOOD]
    bench.run("k")
    bench.run("k", reuse=True)
    assert [result.reused_from is None for result in bench.kept] == [True, False]


def test_without_being_asked_nothing_is_reused(bench: Bench) -> None:
    bench.boots["k"] = [GOOD, GOOD]
    bench.run("k")
    (result,) = bench.run("k")
    assert result.reused_from is None


def test_a_failing_kernel_is_tested_again_and_that_is_said(bench: Bench) -> None:
    bench.boots["k"] = [FAILED, GOOD]
    bench.run("k")
    (result,) = bench.run("k", reuse=True)
    why = "the last result was fail: testing again"
    assert (result.verdict, result.notes[0]) == (KernelVerdict.PASS, why)
    assert Progress("k", Stage.WAITING, why) in bench.progress


def test_a_reused_result_is_that_of_the_last_boot(bench: Bench) -> None:
    bench.boots["k"] = [GOOD]
    bench.run("k")
    bench.run("k", reuse=True)
    (result,) = bench.run("k", reuse=True)
    assert result.reused_from is not None
    assert result.reused_from.run == "run 1"


def test_only_kernels_that_have_a_result_are_reused(bench: Bench) -> None:
    bench.boots = {"a": [GOOD]}
    bench.run("a")
    bench.boots = {"b": [FAILED]}
    bench.circumstances["b"] = "1" * 64
    a, b = bench.run("a", "b", reuse=True)
    assert (a.reused_from is None, b.reused_from is None) == (False, True)


def test_a_flaky_kernel_is_not_reused_and_that_is_said(bench: Bench) -> None:
    bench.boots["k"] = [FAILED, GOOD, GOOD]
    bench.run("k", confirm=1)
    (result,) = bench.run("k", reuse=True)
    assert result.notes[0] == "the last result was fail (flaky 1 of 2): testing again"


def test_a_failure_that_comes_every_time_is_confirmed(bench: Bench) -> None:
    bench.boots["k"] = [FAILED, FAILED, FAILED]
    (result,) = bench.run("k", confirm=2)
    assert result.confirmed == Confirmed(boots=3, bad=3)
    assert result.reason == "fails 3 of 3: payload.arrives: wrong"
    assert [attempt.number for attempt in result.attempts] == [1, 2, 3]


def test_a_failure_that_does_not_come_again_stays_one(bench: Bench) -> None:
    bench.boots["k"] = [FAILED, GOOD, GOOD, GOOD]
    (result,) = bench.run("k", confirm=3)
    assert result.verdict is KernelVerdict.FAIL
    assert result.reason.startswith("flaky 1 of 4: ")
    assert [attempt.verdict for attempt in result.attempts] == ["fail", "pass", "pass", "pass"]


def test_the_worst_of_several_boots_counts(bench: Bench) -> None:
    bench.boots["k"] = [FAILED, CRASHED, GOOD]
    (result,) = bench.run("k", confirm=2)
    assert result.verdict is KernelVerdict.CRASH
    assert result.reason == "flaky 2 of 3: Kernel panic"
    (check,) = result.families[Family.IPV4].checks[-1:]
    assert check.verdict is CheckVerdict.FAIL


def test_what_any_boot_showed_is_shown(bench: Bench) -> None:
    warned = replace(GOOD, incidents=(WARNING,))
    bench.boots["k"] = [warned, replace(FAILED, incidents=(WARNING,)), CRASHED]
    (result,) = bench.run("k", confirm=2)
    assert [incident.title for incident in result.incidents] == ["Kernel panic", "WARNING"]


def test_a_good_kernel_needs_no_confirmation(bench: Bench) -> None:
    bench.boots["k"] = [GOOD]
    (result,) = bench.run("k", confirm=3)
    assert (len(result.attempts), result.confirmed) == (1, None)


def test_a_boot_that_says_nothing_confirms_nothing(bench: Bench) -> None:
    bench.boots["k"] = [FAILED, DEAD, FAILED, DEAD, DEAD, DEAD]
    (result,) = bench.run("k", confirm=2)
    assert result.confirmed == Confirmed(boots=2, bad=2)
    assert "only 1 of 2 more boots gave a result" in result.notes
    assert len(result.attempts) == 6


def test_a_failure_is_kept_when_its_confirmation_is_interrupted(bench: Bench) -> None:
    def interrupt() -> None:
        if len(bench.boots["k"]) == 1:
            bench.stop.set()

    bench.during_boot = interrupt
    bench.boots["k"] = [FAILED, replace(GOOD, end=BootEnd.INTERRUPTED)]
    (result,) = bench.run("k", confirm=3)
    assert result.verdict is KernelVerdict.FAIL


UNSETTLED = accelerator.Choice(False, "the kernel may be broken", settled=False)


def test_the_accelerator_is_found_out_once(bench: Bench) -> None:
    bench.boots = {"a": [GOOD], "b": [GOOD]}
    bench.run("a", "b")
    assert bench.choosing == ["a"]


def test_a_kernel_that_does_not_boot_under_kvm_does_not_decide_for_the_others(
    bench: Bench,
) -> None:
    bench.circumstances = {"a": "a" * 64, "b": "b" * 64}
    bench.choices = {"a": UNSETTLED, "b": accelerator.Choice(True, "KVM boots kernels here")}
    bench.boots = {"a": [GOOD], "b": [GOOD], "c": [GOOD]}
    bench.run("a", "b", "c")
    assert bench.choosing == ["a", "b"]
    said = [progress.detail for progress in bench.progress if progress.stage is Stage.BOOTING]
    assert [detail for detail in said if detail in ("TCG", "KVM")] == ["TCG", "KVM", "KVM"]


def test_what_one_image_said_of_the_accelerator_holds_for_that_image(bench: Bench) -> None:
    bench.choices = {"a": UNSETTLED}
    bench.boots["a"] = [GOOD, GOOD]
    bench.run("a", reuse=True)  # asked before it is looked for, and before it is booted
    assert bench.choosing == ["a"]


KNOWN = """\
known_issues:
  - check: payload.arrives
    kernels: 6.12.*
    reason: it is late
    owner: net
    expires: {}-12-31
"""


@pytest.mark.parametrize(
    ("year", "verdict", "note"),
    [
        (9999, KernelVerdict.PASS, ()),
        (
            2020,
            KernelVerdict.FAIL,
            ("payload.arrives was known until 2020-12-31: it is late (net)",),
        ),
    ],
)
def test_a_known_issue_does_not_count_until_it_expires(
    tmp_path: Path, bench: Bench, year: int, verdict: KernelVerdict, note: tuple[str, ...]
) -> None:
    bench.known_issues = tmp_path / "issues.yaml"
    bench.known_issues.write_text(KNOWN.format(year))
    bench.boots["k"] = [FAILED]
    (result,) = bench.run("k")
    assert (result.verdict, result.notes) == (verdict, note)


@pytest.mark.parametrize(
    ("abi", "verdict"), [(Abi.I386, KernelVerdict.PASS), (Abi.NATIVE, KernelVerdict.FAIL)]
)
def test_a_known_issue_of_32_bit_programs_excuses_no_other(
    tmp_path: Path, bench: Bench, abi: Abi, verdict: KernelVerdict
) -> None:
    bench.abi = abi
    bench.known_issues = tmp_path / "issues.yaml"
    bench.known_issues.write_text(KNOWN.format(9999) + "    abi: i386\n")
    bench.boots["k"] = [FAILED]
    (result,) = bench.run("k")
    assert result.verdict is verdict


LATE = Fix("0123456789ab", "mptcp: arrive", fixed="6.13", checks=("payload.arrives",))


@pytest.mark.parametrize(
    ("fix", "verdict", "missing"),
    [
        (LATE, KernelVerdict.PASS, ["0123456789ab"]),  # bench's kernel is a 6.12.1
        (replace(LATE, fixed="6.12"), KernelVerdict.FAIL, []),
    ],
)
def test_a_bug_of_an_older_kernel_does_not_count_and_its_fix_is_named(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    fix: Fix,
    verdict: KernelVerdict,
    missing: list[str],
) -> None:
    monkeypatch.setattr(attempts, "FIXES", (fix,))
    bench.boots["k"] = [FAILED]
    (result,) = bench.run("k")
    assert result.verdict is verdict
    assert [found.commit for found in result.missing_fixes] == missing


def entry(name: str, *, series: bool = False, **changes: object) -> KernelEntry:
    return replace(
        KernelEntry(name, ImageSource(Path("/x"), None, None), "here", is_series=series),
        **changes,  # type: ignore[arg-type]
    )


ENTRIES = [entry("debian-6.1"), entry("debian-6.12"), entry("updates", series=True)]


def chosen(pattern: str | None) -> list[str]:
    def expand(series: KernelEntry) -> list[KernelEntry]:
        if not series.is_series:
            return [series]
        return [entry(f"{series.name}-{number}") for number in (1, 2)]

    return [item.name for item in matrix.select(ENTRIES, pattern, expand)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (None, ["debian-6.1", "debian-6.12"]),
        ("debian-6.1", ["debian-6.1"]),
        ("debian-*", ["debian-6.1", "debian-6.12"]),
        ("updates", ["updates-1", "updates-2"]),
        ("updates-2", ["updates-2"]),
        ("debian-6.1,updates-1", ["debian-6.1", "updates-1"]),
        ("*-1", ["updates-1"]),
        ("nothing", []),
    ],
)
def test_a_pattern_chooses_kernels_and_those_of_series(
    pattern: str | None, names: list[str]
) -> None:
    assert chosen(pattern) == names


def test_a_series_that_cannot_match_is_not_read() -> None:
    def expand(series: KernelEntry) -> list[KernelEntry]:
        assert not series.is_series, "its index would be fetched for nothing"
        return [series]

    assert matrix.select(ENTRIES, "debian-6.1*", expand)


@pytest.mark.parametrize(
    ("memory", "cpus", "count", "jobs"),
    [(512, 1, 9, 2), (512, 1, 1, 1), (512, 2, 9, 1), (2048, 1, 9, 1), (100_000, 8, 9, 1)],
)
def test_as_many_vms_as_processors_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch, memory: int, cpus: int, count: int, jobs: int
) -> None:
    monkeypatch.setattr(tools, "processors", lambda: 2)
    monkeypatch.setattr(tools, "available_memory_mib", lambda: 2500)
    wanted = [entry(str(i), memory_mib=memory, cpus=cpus, accel=Accel.TCG) for i in range(count)]
    assert matrix.default_jobs(wanted) == jobs


def test_a_known_failure_hides_no_error_of_another_round(bench: Bench, tmp_path: Path) -> None:
    """Round 0 fails as is known; in round 1 the check broke."""
    bench.known_issues = tmp_path / "issues.yaml"
    bench.known_issues.write_text(KNOWN.format(2099))
    failures = RoundFailures(KEY, count=2, first=0, seed=1, errors=1)
    rounds = Rounds(asked=3, done=3, failed=2, by_check={KEY.id: 2}, failures=(failures,))
    known = replace(rounds, failures=(replace(failures, errors=0),))
    for counted, verdict in ((known, KernelVerdict.PASS), (rounds, KernelVerdict.FAIL)):
        bench.boots = {"k": [replace(FAILED, stream=replace(FAILED.stream, rounds=counted))]}
        (result,) = bench.run("k")
        assert result.verdict is verdict


class Clock:
    """In place of ``time``: two seconds pass from one look to the next."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 2
        return self.now


def test_a_result_says_how_long_its_kernel_took_to_prepare(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is an earlier one; of that run nothing else is this one's."""
    monkeypatch.setattr(matrix, "time", Clock())
    bench.boots = {"k": [replace(GOOD, boot_s=7.0, phases=(Phase("kernel", 7.0),))]}
    (booted,) = bench.run("k")
    assert (booted.timing.prepare_s, booted.timing.boot_s) == (2.0, 7.0)
    assert booted.timing.phases == (Phase("prepare", 2.0), Phase("kernel", 7.0))
    (reused,) = bench.run("k", reuse=True)
    assert reused.timing == Timing(prepare_s=2.0)


# Memory.


class Gates:
    """In place of the gate: what each VM asked for, and which of them are let in."""

    def __init__(self, available: Callable[[], int]) -> None:
        self.available = available
        self.asked: list[int] = []
        self.inside = 0

    @contextmanager
    def wait(self, mib: int, *_: object) -> Iterator[None]:
        self.asked.append(mib)
        self.inside += 1
        yield
        self.inside -= 1


def test_a_kernel_is_booted_once_there_is_memory_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates: list[Gates] = []

    def gate(available: Callable[[], int]) -> Gates:
        gates.append(Gates(available))
        return gates[-1]

    during: list[int] = []
    monkeypatch.setattr(workspace, "MemoryGate", gate)
    bench.during_boot = lambda: during.append(gates[0].inside)
    bench.boots = {"a": [GOOD], "b": [GOOD]}
    bench.run("a", "b")
    assert gates[0].asked == [DEFAULT_MEMORY_MIB + QEMU_OVERHEAD] * 2
    assert gates[0].available is tools.available_memory_mib
    assert during == [1, 1]


# A fault of the harness.


def broken(*_: object) -> None:
    raise LookupError("nobody expected this")


def test_a_fault_in_one_boot_is_no_end_of_the_others(bench: Bench) -> None:
    bench.boots = {"odd": [], "good": [GOOD]}  # of the first nothing is left to be given
    odd, good = bench.run("odd", "good")
    assert (odd.verdict, good.verdict) == (KernelVerdict.INFRASTRUCTURE, KernelVerdict.PASS)
    assert odd.reason.startswith("the harness failed, not the kernel: IndexError: pop from empty")
    text = (bench.directory / "kernels/odd/attempt-1/traceback.txt").read_text()
    assert "kernels/odd/attempt-1/traceback.txt" in odd.reason
    assert text.startswith("Traceback (most recent call last)")
    assert "in _boot" in text


def test_a_fault_while_a_kernel_is_prepared_is_no_end_of_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = kernels.prepare

    def odd(entry: KernelEntry, *more: Any) -> PreparedKernel:
        if entry.name == "odd":
            broken()
        return prepare(entry, *more)

    monkeypatch.setattr(kernels, "prepare", odd)
    bench.boots = {"good": [GOOD]}
    first, good = bench.run("odd", "good")
    assert (first.verdict, good.verdict) == (KernelVerdict.INFRASTRUCTURE, KernelVerdict.PASS)
    assert "LookupError: nobody expected this" in first.reason
    assert (bench.directory / "kernels/odd/attempt-1/traceback.txt").is_file()


def test_a_fault_while_it_is_judged_is_kept_with_its_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.verdict.judge.unexcused", broken)
    bench.boots = {"odd": [GOOD]}
    (odd,) = bench.run("odd")
    assert odd.verdict is KernelVerdict.INFRASTRUCTURE
    assert "in _judge" in (bench.directory / "kernels/odd/attempt-1/traceback.txt").read_text()


def test_a_fault_of_the_harness_is_not_tried_again(bench: Bench) -> None:
    bench.boots = {"odd": []}
    bench.run("odd")
    assert [p.stage for p in bench.progress if p.stage is Stage.RETRYING] == []


def test_a_store_that_cannot_be_read_ends_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unusable(*_: object, **__: object) -> None:
        raise HostError("no")

    monkeypatch.setattr(Results, "find", unusable)
    with pytest.raises(HostError):
        bench.run("k", reuse=True)
