# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios on the running kernel: one that hangs, dies or leaves something harms no other."""

from __future__ import annotations

import _socket
import _thread
import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guest import checks, child, events, isolation, lab, postmortem, runner, scenarios, schedule
from guest.checks import Check
from guest.checks.concurrency import usual_slices
from guest.lab import Lab, wait_until
from guest.scenarios import Scenario
from harness.verdict.results import Stream
from harness.verdict.rounds import Repeat
from harness.verdict.verdicts import CheckVerdict, Family
from harness.vm.stream import StreamReader

pytestmark = [
    pytest.mark.mptcp,
    pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root"),
]
NONCE = "0" * 16
ROOT = Path(__file__).parents[2]
NAMESPACE = Path("/proc/self/ns/net")
#: Of a check that does not end. Longer than a fork takes on a busy machine.
SOON_S = 1.0

Function = Callable[[Lab], object]


class World:
    """The checks there are, for a test, and what a run of them says."""

    port = -1

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.declared: dict[str, Scenario] = {}
        self.said: list[tuple[str, dict[str, Any]]] = []

    def scenario(self, name: str, *functions: Function, **more: Any) -> None:
        """A scenario with a check ``name.0``, ``name.1``, … for each of ``functions``."""
        self.declared[name] = Scenario(name, **{"deadline_s": 30.0, **more})
        for number, function in enumerate(functions):
            self.check(f"{name}.{number}", name, function)

    def check(self, id: str, scenario: str, function: Function, **more: Any) -> None:
        given = {"needs": (), "phases": ("run",), "sides": ("both",), "covers": "", **more}
        self.checks.append(
            Check(id, function, payloads=(scenario,), scenario=scenario, **given)  # type: ignore[arg-type]
        )

    def run(self, seed: int = 7, rounds: int = 1, families: tuple[str, ...] = ("ipv4",)) -> Stream:
        """What the host makes of a run of all checks."""
        self.said.clear()
        sent: list[bytes] = []
        self.hold = (emitter := events.Emitter(sent.append)).hold

        def emit(kind: str, **fields: Any) -> None:
            self.said.append((kind, fields))
            emitter.emit(kind, **fields)

        hello = {name: "" for name, kind in events.FIELDS["hello"].items() if kind is str}
        numbers = {"protocol": events.PROTOCOL, "seed": seed, "taint": 0}
        emit("hello", **{**hello, **numbers, "nonce": NONCE})
        self.emit = emit
        run = runner.Runner(runner.Options(families, seed, rounds=rounds), self)  # type: ignore[arg-type]
        results = run.run()
        emit("end", nonce=NONCE, results=results, rounds=run.rounds, taint=0)
        wanted = tuple(map(Family, families))
        reader = StreamReader(NONCE, wanted, seed=seed, repeat=Repeat(rounds))
        reader.feed(b"".join(sent))
        stream = reader.finish()
        assert stream.errors == ()
        return stream

    def verdicts(self, **more: Any) -> dict[str, str]:
        return {result.key.id: str(result.verdict) for result in self.run(**more).results}

    def place(self, kind: str, index: int) -> int:
        """Where in the stream the event about check ``index`` stands."""
        return next(
            n for n, (k, fields) in enumerate(self.said) if k == kind and fields["i"] == index
        )


def killed_and_alive() -> list[int]:
    """Processes that were killed: on a busy host one that spins takes a while to end."""
    isolation.reap_killed()
    return [pid for pid in isolation.children() if pid in isolation._killed]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    monkeypatch.setattr(checks, "all_checks", lambda profile: made.checks)
    monkeypatch.setattr(scenarios, "_declared", made.declared)
    yield made
    assert wait_until(lambda: not killed_and_alive(), 20), killed_and_alive()


def good(lab: Lab) -> None:
    """Data goes through a connection of the scenario's own."""
    pair = lab.pair()
    pair.client.sendall(b"x")
    assert pair.server.recv(1) == b"x"


def bad(lab: Lab) -> None:
    checks.equal("a number", 1, 2, b"raw")


def spins(lab: Lab) -> None:
    while True:
        pass


def sleeps(lab: Lab) -> None:
    lab.socket().settimeout(None)
    time.sleep(3600)


def reads_forever(lab: Lab) -> None:
    pair = lab.pair()
    pair.server.settimeout(None)
    pair.server.recv(1)


def dies(lab: Lab) -> None:
    os.kill(os.getpid(), 9)


def exits(lab: Lab) -> None:
    os._exit(3)


def writes_nonsense(lab: Lab) -> None:
    for fd in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(fd, b"\xff" * 64)
    time.sleep(3600)


def test_outcomes_reach_the_host_as_they_are(world: World) -> None:
    world.scenario("plain", good, bad, lambda lab: 1 / 0)
    stream = world.run(families=("ipv4", "ipv6"))
    for family in Family:
        passed, failed, broke = [r for r in stream.results if r.key.family is family]
        assert passed.verdict is CheckVerdict.PASS
        assert passed.key.payload == "plain"
        assert failed.verdict is CheckVerdict.FAIL
        assert (failed.detail, failed.expected, failed.got) == ("a number", "2", "1")
        assert bytes.fromhex(failed.raw) == b"raw"
        assert broke.verdict is CheckVerdict.ERROR
        assert "ZeroDivisionError" in broke.detail


def stops_among_others(world: World, function: Function) -> str:
    """What is said of a check that ends its scenario, after all others were judged."""
    world.scenario("before", good)
    world.scenario("stops", good, function, good, good, deadline_s=SOON_S)
    world.scenario("waits", lambda lab: time.sleep(0.3), good, waits=True)
    world.scenario("after", good)
    stream = world.run()
    found = {result.key.id: result for result in stream.results}
    assert found["stops.1"].verdict is CheckVerdict.FAIL
    assert found["stops.2"].verdict is found["stops.3"].verdict is CheckVerdict.LOST
    assert found["stops.2"].detail.startswith("not run after stops.1 (run/both): ")
    assert all(
        result.verdict is CheckVerdict.PASS
        for id, result in found.items()
        if id not in ("stops.1", "stops.2", "stops.3")
    )
    return f"{found['stops.1'].detail}: {found['stops.1'].got}"


@pytest.mark.parametrize("function", [sleeps, reads_forever, dies, exits, writes_nonsense])
def test_a_process_that_stops_loses_its_own_checks_only(world: World, function: Function) -> None:
    stops_among_others(world, function)


def stopped(world: World, function: Function) -> str:
    """What is said of a check that ends its scenario."""
    world.scenario("stops", function, deadline_s=SOON_S)
    (result,) = world.run().results
    return f"{result.detail}: {result.got}"


def test_a_busy_loop_loses_its_own_checks_only_and_is_placed_in_python(world: World) -> None:
    said = stops_among_others(world, spins)
    assert said.startswith("it did not end within 1 s: ")
    assert "state R" in said
    assert "in spins" in said
    assert "child.py" not in said


def test_a_system_call_that_does_not_return_is_named_with_its_stack(world: World) -> None:
    said = stopped(world, reads_forever)
    assert "state S" in said
    assert "system call 45 " in said  # recvfrom(2)
    assert "mptcp_recvmsg" in said
    assert "in reads_forever" in said


def test_the_signal_that_killed_it_is_named(world: World) -> None:
    assert "its process was killed by SIGKILL" in stopped(world, dies)


def test_the_status_with_which_it_ended_is_named(world: World) -> None:
    assert "its process ended with status 3" in stopped(world, exits)


def leaves_a_child(lab: Lab) -> None:
    """One in the scenario's session, and one that has left it; both hold all its files."""
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
        os.write(2, b"")
        while True:
            time.sleep(3600)


def leaves_a_thread(lab: Lab) -> None:
    _thread.start_new_thread(time.sleep, (3600,))


@pytest.mark.parametrize("function", [leaves_a_child, leaves_a_thread])
def test_what_a_check_leaves_behind_does_not_outlive_the_run(
    world: World, function: Function
) -> None:
    before = isolation.children()
    world.scenario("leaves", function, good)
    world.scenario("after", good)
    started = time.monotonic()
    assert set(world.verdicts().values()) == {"pass"}
    assert time.monotonic() - started < 20
    assert isolation.children() == before


def test_what_a_check_forked_says_nothing_in_its_name(world: World) -> None:
    def forks(lab: Lab) -> None:
        if os.fork() == 0:
            raise AssertionError("in the child of a check")
        time.sleep(0.1)

    world.scenario("forks", forks, good)
    assert world.verdicts() == {"forks.0": "pass", "forks.1": "pass"}


def test_a_setup_that_fails_is_an_error_of_each_check(world: World) -> None:
    def setup(lab: Lab) -> None:
        raise OSError(95, "no such link type")

    world.scenario("broken", good, good, setup=setup)
    world.scenario("plain", good)
    stream = world.run()
    first, second, other = stream.results
    assert first.verdict is second.verdict is CheckVerdict.ERROR
    assert "the scenario broken cannot be prepared: OSError: [Errno 95] no such" in second.detail
    assert other.verdict is CheckVerdict.PASS


@pytest.mark.parametrize(("setup", "how"), [(dies, "killed by SIGKILL"), (sleeps, "not end")])
def test_a_setup_that_stops_is_an_error_of_each_check(
    world: World, setup: Function, how: str
) -> None:
    world.scenario("broken", good, good, setup=setup, deadline_s=SOON_S)
    results = world.run().results
    assert {result.verdict for result in results} == {CheckVerdict.ERROR}
    assert all(how in result.detail for result in results)


def test_a_setup_prepares_its_own_namespace(world: World) -> None:
    def setup(lab: Lab) -> None:
        lab.listener()  # stays open as long as the scenario

    def namespace(lab: Lab) -> None:
        mine = str(NAMESPACE.readlink())
        checks.require("it is another", mine not in seen, "another", mine)
        sockets = Path("/proc/net/tcp").read_text().splitlines()[1:]
        checks.equal("sockets", len(sockets), 1)

    seen = {str(NAMESPACE.readlink())}
    world.scenario("prepared", namespace, namespace, setup=setup)
    assert set(world.verdicts().values()) == {"pass"}


def test_each_check_gets_a_lab_of_its_own_and_its_sockets_are_closed(world: World) -> None:
    left: list[Lab] = []

    def opens(lab: Lab) -> None:
        left.append(lab)
        lab.listener()

    def finds_none(lab: Lab) -> None:
        checks.require("it is another", lab is not left[0], "another", "the same")
        checks.equal("sockets", len(Path("/proc/net/tcp").read_text().splitlines()), 1)

    world.scenario("two", opens, finds_none)
    assert set(world.verdicts().values()) == {"pass"}


def test_a_lab_that_cannot_be_closed_is_an_error(world: World) -> None:
    world.scenario("unclean", lambda lab: lab.afterwards(lambda: 1 / 0), good)
    assert world.verdicts() == {"unclean.0": "error", "unclean.1": "pass"}


def test_scenarios_that_wait_run_at_the_same_time(world: World) -> None:
    world.scenario("busy", good, good)
    for number in range(3):
        world.scenario(f"waits{number}", lambda lab: time.sleep(1.0), waits=True)
    assert set(world.verdicts().values()) == {"pass"}
    ends = [world.place("result", i) for i in (2, 3, 4)]
    assert max(world.place("start", i) for i in (2, 3, 4)) < min(ends)
    assert world.place("result", 1) < min(ends), "what keeps the processor busy runs meanwhile"


def test_scenarios_that_keep_the_processor_busy_run_one_after_another(world: World) -> None:
    for number in range(3):
        world.scenario(f"busy{number}", good)
    world.run()
    words = [(k, fields["i"]) for k, fields in world.said if k in ("start", "result")]
    assert words == [(k, i) for i in range(3) for k in ("start", "result")]


def test_no_more_scenarios_wait_at_once_than_may(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "MAX_WAITING", 2)
    begun = multiprocessing.Semaphore(0)

    def waits_for_another(lab: Lab) -> None:
        begun.release()
        checks.require("another began", wait_until(lambda: begun.get_value() > 1, 60), "yes", "no")

    for number in range(5):
        world.scenario(f"waits{number}", waits_for_another, waits=True)
    assert set(world.verdicts().values()) == {"pass"}
    running = most = 0
    for kind, _ in world.said:
        running += {"start": 1, "result": -1}.get(kind, 0)
        most = max(most, running)
    assert most == 2


def test_a_long_wait_is_no_silence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "ALIVE_S", 0.05)
    monkeypatch.setattr(schedule, "NAP_S", 0.01)
    world.scenario("long", lambda lab: time.sleep(0.4), waits=True)
    world.run()
    assert sum(kind == "alive" for kind, _ in world.said) >= 3


def test_what_lacks_a_capability_is_not_run(world: World) -> None:
    world.scenario("mixed", setup=bad)
    world.check("mixed.absent", "mixed", dies, needs=("telepathy",))
    world.run()  # nobody says that it is absent
    found = runner._lacking(world.checks[0], {"telepathy": "asked"})
    assert found == "no telepathy: asked"


@pytest.mark.parametrize("places", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_checks_that_lack_a_capability_stand_anywhere(
    world: World, places: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        runner.Runner, "_missing", lambda *_: {"telepathy": "the kernel has never heard of it"}
    )
    world.scenario("mixed")
    for number in range(3):
        needs = ("telepathy",) if number in places else ()
        function = dies if needs else good
        world.check(f"mixed.{number}", "mixed", function, needs=needs)
    expected = ["unsupported" if number in places else "pass" for number in range(3)]
    assert list(world.verdicts().values()) == expected


@pytest.mark.parametrize("waits", [False, True])
def test_scenarios_after_one_that_lacks_everything_run_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    monkeypatch.setattr(schedule, "MAX_WAITING", 1)
    for name in ("first", "second"):
        world.scenario(name, waits=waits)
        world.check(f"{name}.lacking", name, bad, needs=("teleport",))
    world.scenario("third", good, waits=waits)
    monkeypatch.setattr(runner.Runner, "_missing", lambda *_: {"teleport": "absent"})
    assert world.verdicts() == {
        "first.lacking": "unsupported",
        "second.lacking": "unsupported",
        "third.0": "pass",
    }


def test_what_lacks_a_capability_is_unsupported_after_a_death_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.Runner, "_missing", lambda *_: {"telepathy": "absent"})
    world.scenario("mixed", dies)
    world.check("mixed.1", "mixed", good, needs=("telepathy",))
    world.check("mixed.2", "mixed", good)
    assert list(world.verdicts().values()) == ["fail", "unsupported", "lost"]


def test_a_check_is_run_in_its_families_phases_and_sides(world: World) -> None:
    def notes(lab: Lab) -> None:
        where = f"{int(lab.family)} {lab.phase} {lab.side}"
        checks.equal(where, where in wanted, True)

    wanted = {f"10 {phase} {side}" for phase in ("new", "old") for side in ("a", "b")}
    world.scenario("where", good)
    world.check("where.v6", "where", notes, families=["ipv6"], phases=["new", "old"], sides="ab")
    results = world.run(families=("ipv4", "ipv6")).results
    assert {result.verdict for result in results} == {CheckVerdict.PASS}
    assert len(results) == 2 + 4


BOTH = ("ipv4", "ipv6")


def test_one_process_runs_both_families_each_in_a_namespace_of_its_own(world: World) -> None:
    """A fork costs an emulated processor 0.1 s."""
    seen: list[str] = []

    def notes(lab: Lab) -> None:
        seen.append(str(NAMESPACE.readlink()))
        checks.equal("seen", (os.getpid(), seen), None)

    world.scenario("both", notes, setup=lambda lab: lab.socket())
    first, second = [result.got for result in world.run(families=BOTH).results]
    assert eval(first)[0] == eval(second)[0]
    assert len(set(eval(second)[1])) == 2


def test_scenarios_that_wait_run_in_both_families_at_once(world: World) -> None:
    world.scenario("long", lambda lab: checks.equal("pid", os.getpid(), 0), waits=True)
    first, second = [result.got for result in world.run(families=BOTH).results]
    assert first != second


@pytest.mark.parametrize("stop", [dies, exits, bad])
def test_the_second_family_is_run_whatever_becomes_of_the_first(
    world: World, stop: Function
) -> None:
    def of_ipv4(lab: Lab) -> None:
        if lab.family == _socket.AF_INET:
            stop(lab)

    world.scenario("both", good, of_ipv4, good)
    world.scenario("next", good)
    stream = world.run(families=BOTH)
    bad_ones = [str(result.key.family) for result in stream.results if result.verdict != "pass"]
    assert len(stream.results) == 8
    assert set(bad_ones) == {"ipv4"}
    assert [str(r.verdict) for r in stream.results[4:]] == ["pass"] * 4


def test_a_setup_that_fails_in_one_family_leaves_the_other(world: World) -> None:
    def only_ipv6(lab: Lab) -> None:
        assert lab.family == _socket.AF_INET6

    world.scenario("both", good, good, setup=only_ipv6)
    verdicts = [str(result.verdict) for result in world.run(families=BOTH).results]
    assert verdicts == ["error", "error", "pass", "pass"]


def test_the_second_family_begins_once_the_first_was_told(world: World) -> None:
    """What takes the kernel down in it is charged to it, not to the last check of the first."""
    world.scenario("both", good, good)
    world.run(families=BOTH, rounds=2)
    order = [(kind, fields["i"]) for kind, fields in world.said if kind in ("start", "result")]
    assert order == [(kind, index) for index in range(4) for kind in ("start", "result")]


def test_a_family_of_which_nothing_can_run_is_passed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: runner.Runner, family: str) -> dict[str, str]:
        return {"wings": "it has none"} if family == lacks else {}

    monkeypatch.setattr(runner.Runner, "_missing", missing)
    world.scenario("both")
    for name in "ab":
        world.check(f"both.{name}", "both", good, needs=["wings"])
    world.scenario("next", good)
    for lacks in BOTH:
        results = world.run(families=BOTH).results
        assert {r.key.family for r in results if r.verdict != "pass"} == {Family(lacks)}
        assert sum(r.verdict == CheckVerdict.UNSUPPORTED for r in results) == 2


def test_memory_that_is_freed_is_kept_by_the_scenarios(world: World) -> None:
    """A buffer of 1 MiB that is made again and again is not faulted in and cleared each time."""

    def faults() -> int:
        return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[7])

    def allocates(lab: Lab) -> None:
        bytearray(1 << 20)
        before = faults()
        for _ in range(20):
            bytearray(1 << 20)
        checks.require("page faults", faults() - before < 256, "few", faults() - before)

    world.scenario("memory", allocates)
    assert set(world.verdicts().values()) == {"pass"}


def test_scenarios_run_in_long_slices(world: World) -> None:
    """SCHED_BATCH comes with them, and so does the end of both."""

    def batch(lab: Lab) -> None:
        checks.equal("policy", os.sched_getscheduler(0), os.SCHED_BATCH)

    world.scenario("usual", batch)
    world.scenario("waits", batch, waits=True)
    assert set(world.verdicts().values()) == {"pass"}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_calls_on_one_connection_run_in_the_usual_slices(world: World) -> None:
    def other(lab: Lab) -> None:
        checks.equal("policy", os.sched_getscheduler(0), os.SCHED_OTHER)

    world.scenario("concurrent", other, setup=usual_slices)
    assert set(world.verdicts().values()) == {"pass"}


def test_seeds_are_of_the_run_the_check_and_the_place() -> None:
    def seed(run: int, id: str = "a.b", phase: str = "p", side: str = "s") -> int:
        item = Check(id, good, (), (), (), (), "", scenario="x")  # type: ignore[arg-type]
        return child.seed_of(run, child.Item(0, item, phase, side))

    assert seed(1) == seed(1)
    different = {seed(1), seed(2), seed(1, "a.c"), seed(1, phase="q"), seed(1, side="t")}
    assert len(different) == 5


def test_a_process_says_at_once_which_check_comes_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so in the first round only."""
    said, world.port = os.pipe()
    monkeypatch.setattr(schedule, "NAP_S", 10.0)  # its parent does not look before it has ended
    monkeypatch.setattr(child, "keep_only", lambda *wanted: None)

    def listens(lab: Lab) -> None:
        heard = os.read(said, 4096)
        checks.require("said", heard in (events.at(1), events.at(2)), "the check", heard)

    world.scenario("says", good, listens, good)
    os.set_blocking(said, False)
    assert set(world.verdicts().values()) == {"pass"}
    assert os.read(said, 4096) == events.at(2)
    assert set(world.verdicts(rounds=2).values()) == {"pass"}
    with pytest.raises(BlockingIOError):  # the second round read the rest of the first
        os.read(said, 4096)


def test_the_same_seed_gives_the_same_results(world: World) -> None:
    world.scenario("seeds", *[lambda lab: checks.equal("seed", lab.seed, -1)] * 3)
    once, again = world.run(seed=3), world.run(seed=3)
    assert once.results == again.results
    assert {r.got for r in once.results}.isdisjoint(r.got for r in world.run(seed=4).results)


def test_rounds_repeat_scenarios_with_the_seeds_of_rounds(world: World) -> None:
    def fails_once(lab: Lab) -> None:
        item = child.Item(0, world.checks[0], "run", "both")
        checks.require("seed", lab.seed != child.seed_of(9, item), "another", lab.seed)

    world.scenario("once", fails_once, good)
    world.scenario("waits", good, waits=True)
    stream = world.run(seed=7, rounds=4)
    assert stream.rounds is not None
    assert (stream.rounds.done, stream.rounds.failed) == (4, 1)
    (failure,) = stream.rounds.failures
    assert (failure.key.id, failure.first, failure.seed) == ("once.0", 2, 9)


def test_a_death_in_a_later_round_loses_the_rest_of_that_round(world: World) -> None:
    def dies_late(lab: Lab) -> None:
        item = child.Item(0, world.checks[1], "run", "both")
        if lab.seed == child.seed_of(8, item):
            os._exit(1)

    world.scenario("late", good, dies_late, good)
    stream = world.run(seed=7, rounds=3)
    assert [str(r.verdict) for r in stream.results] == ["pass", "fail", "lost"]
    assert stream.rounds is not None
    assert (stream.rounds.done, stream.rounds.failed) == (3, 1)


def test_a_long_scenario_is_planned_in_parts_and_runs_as_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_ENTRIES", 2)
    me: list[int] = []

    def same(lab: Lab) -> None:
        me.append(os.getpid())
        checks.equal("process", me[0], os.getpid())

    world.scenario("long", same, same, same, exits, same)
    stream = world.run(rounds=2)
    assert sum(kind == "plan" for kind, _ in world.said) == 3
    assert [str(r.verdict) for r in stream.results] == ["pass"] * 3 + ["fail", "lost"]


def test_after_one_hang_others_get_less_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "IMPATIENT_S", 0.5)
    world.scenario("first", sleeps, deadline_s=SOON_S)
    world.scenario("second", sleeps, deadline_s=2.0)
    first, second = world.run().results
    assert first.detail == "it did not end within 1 s"
    assert second.detail == "it did not end within 0 s"


def test_a_slow_kernel_has_longer_for_each_check() -> None:
    """As one with KASAN has by its timeout in the manifest."""
    nobody: Any = None
    run = schedule._Run([child.Job(Scenario("slow"), _socket.AF_INET, [], 0, nobody)])
    wanted = schedule.Schedule([], nobody, nobody, slowness=5)
    assert wanted._deadline_s(run) == 5 * scenarios.DEADLINE_S
    wanted._impatient = True
    assert wanted._deadline_s(run) == 5 * schedule.IMPATIENT_S


def test_a_slow_kernel_has_longer_for_each_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(lab, "_slowness", 1.0)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    nobody: Any = None
    schedule.Schedule([], nobody, nobody, slowness=3).run()
    assert not lab.wait_until(lambda: False, 10.0)
    assert 130.0 < now[0] < 130.1


def test_a_user_without_root_is_told_why_scenarios_are_skipped() -> None:
    script = (
        "import os, sys; sys.path.insert(0, %r)\n"
        "from guest import checks, cli\n"
        "checks.scenario_check('a.b', scenario='s')(lambda lab: None)\n"
        "os.geteuid = lambda: 65534\n"
        "sys.exit(cli.main(['-4', '--check', '[ap].[br]*']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script % str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (skipped,) = (line for line in done.stdout.splitlines() if " a.b " in line)
    assert skipped.startswith("ok ")
    assert skipped.endswith("# SKIP needs root for a network namespace")


def test_a_check_may_write_to_a_closed_socket_in_a_persons_run() -> None:
    """SIGPIPE has its default there, so that head ends it."""
    script = (
        "import sys; sys.path.insert(0, %r)\n"
        "from guest import checks, cli\n"
        "def peer_gone(lab):\n"
        "    pair = lab.pair(checks_tcp, checks_tcp)\n"
        "    pair.server.close()\n"
        "    try:\n"
        "        for _ in range(1000): pair.client.send(b'x')\n"
        "    except OSError: return\n"
        "    raise AssertionError('no error')\n"
        "checks_tcp = 6\n"
        "checks.scenario_check('a.b', scenario='s')(peer_gone)\n"
        "sys.exit(cli.main(['-4', '--check', 'a.b']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script % str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_lab_closes_everything_though_one_thing_cannot_be_undone() -> None:
    made = Lab(_socket.AF_INET)
    sock = made.socket()
    done: list[str] = []
    made.afterwards(lambda: done.append("first"))
    made.afterwards(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.close()
    assert done == ["first"]
    assert sock.fileno() == -1


def test_threads_of_a_traceback_are_told_apart() -> None:
    said = (
        "Thread 0x00007f3eabf30b80 (most recent call first):\n"
        '  File "/a/x.py", line 3 in other\n'
        "\n"
        "Current thread 0x00007f3eabf30b81 (most recent call first):\n"
        '  File "/a/y.py", line 4 in inner\n'
        '  File "/a/y.py", line 9 in check\n'
        '  File "/a/runner.py", line 300 in _outcome\n'
        '  File "/a/child.py", line 1 in _work\n'
    )
    assert postmortem.place(said) == (
        '"/a/x.py", line 3 in other; thread "/a/y.py", line 4 in inner < "/a/y.py", line 9 in check'
    )
