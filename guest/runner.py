# SPDX-License-Identifier: GPL-2.0-only
"""Plans the results, takes connections through their phases, runs every check and emits the
verdicts."""

from __future__ import annotations

import _random
import _socket
import time

from guest import abi, checks, events, probe, sockopt
from guest.checks import (
    BYTE,
    CLIENT,
    CLOSED,
    EARLY,
    ESTABLISHED,
    SEGMENT,
    SERVER,
    SIDES,
    STREAM,
    TRANSFERRED,
)
from guest.connection import Connection, Patience, TransferFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Generator, Iterator, Mapping, Optional, Sequence, Union

    from guest.checks import Check
    from guest.child import Item
    from guest.connection import End
    from guest.ktap import Ktap
    from guest.lab import Lab

    Sink = Union[events.Emitter, Ktap]
    Emit = Callable[..., Any]
    Report = Union["_FirstRound", "_FurtherRound"]
    Stop = tuple[str, str]  # phase, side
    Entry = tuple[Check, str, str]  # and the phase and side it is run at
    Outcome = tuple[str, Mapping[str, str]]  # a verdict, and what is told with it

FAMILIES = {"ipv4": _socket.AF_INET, "ipv6": _socket.AF_INET6}

BOTH_ENDS_OPEN = tuple((phase, side) for phase in (ESTABLISHED, TRANSFERRED) for side in SIDES)
CLIENT_CLOSES = (*BOTH_ENDS_OPEN, (CLOSED, SERVER))
SERVER_CLOSES = ((CLOSED, CLIENT),)
#: One connection each: its payload, and the stops at which its ends are checked. After a FIN, only
#: the end that has not closed is checked: once both have, the subflow is gone.
CONNECTIONS: Sequence[tuple[str, Sequence[Stop]]] = (
    (SEGMENT, CLIENT_CLOSES),
    (SEGMENT, SERVER_CLOSES),
    (BYTE, CLIENT_CLOSES),
    (BYTE, SERVER_CLOSES),
    (STREAM, CLIENT_CLOSES),
    (STREAM, SERVER_CLOSES),
    (EARLY, ((ESTABLISHED, SERVER), (TRANSFERRED, SERVER))),
)

#: The ranges of sizes, in bytes, from which the seed chooses. A segment fits the minimum MTU of
#: IPv6; a stream needs several writes and many reads.
SIZES = {BYTE: (1, 1), SEGMENT: (128, 1200), STREAM: (70_000, 100_000), EARLY: (128, 1200)}


class Random:
    """Numbers and bytes from one seed, the same on every Python."""

    def __init__(self, seed: int) -> None:
        self._source = _random.Random(seed)  # random.py imports hashlib and more

    def between(self, least: int, most: int) -> int:
        return least + self._source.getrandbits(32) % (most - least + 1)

    def bytes(self, size: int) -> bytes:
        return self._source.getrandbits(8 * size).to_bytes(size, "little")


class Options:
    """What to run, and in how many rounds. ``size`` replaces the seed's choice for every payload.

    With ``until_fail``, a round with a failure is the last; with ``seconds``, so is the round in
    which that time has passed. ``slowness`` multiplies the deadlines of scenarios' checks.
    """

    def __init__(
        self,
        families: Sequence[str] = tuple(FAMILIES),
        seed: int = 0,
        selected: Optional[Callable[[str], bool]] = None,
        size: Optional[int] = None,
        rounds: int = 1,
        until_fail: bool = False,
        seconds: Optional[int] = None,
        profile: str = checks.FULL,
        slowness: float = 1.0,
    ) -> None:
        self.families = families
        self.seed = seed
        self.selected = selected
        self.size = size
        self.rounds = rounds
        self.until_fail = until_fail
        self.seconds = seconds
        self.profile = profile
        self.slowness = slowness


class Planned:
    """A group of results: the checks of one connection, or of a scenario in one family.

    ``payload`` is the connection's, or the scenario's name. Results are numbered from ``first``.
    """

    def __init__(self, family: str, payload: str, entries: Sequence[Entry], first: int) -> None:
        self.family = family
        self.payload = payload
        self.entries = entries
        self.first = first
        self._by_stop: dict[Stop, list[Check]] = {}
        for check, phase, side in entries:
            self._by_stop.setdefault((phase, side), []).append(check)

    @property
    def is_connection(self) -> bool:
        return not self.entries[0][0].scenario

    def at(self, stop: Stop) -> Sequence[Check]:
        return self._by_stop.get(stop, ())


class _FirstRound:
    """Reports the start and the result of each check."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.failed = 0

    def start(self, index: int) -> None:
        self._emit("start", i=index)

    def result(self, index: int, verdict: str, told: Mapping[str, str]) -> None:
        self.failed += verdict in events.BAD
        self._emit("result", i=index, verdict=verdict, **told)


class _FurtherRound:
    """Reports briefly, see :mod:`guest.events`."""

    def __init__(self, emit: Emit, plan: Sequence[Planned]) -> None:
        self._emit = emit
        self._begins = {group.first: number for number, group in enumerate(plan)}
        self._ends = {
            group.first + len(group.entries) - 1: number for number, group in enumerate(plan)
        }
        self._letters = [""] * sum(len(group.entries) for group in plan)
        self.failed = 0

    def start(self, index: int) -> None:
        number = self._begins.pop(index, None)
        if number is not None:
            self._emit("begin", g=number)

    def result(self, index: int, verdict: str, told: Mapping[str, str]) -> None:
        self.start(index)  # a check that did not run may be the first of its group
        if verdict in events.BAD:
            self.failed += 1
            if self.failed <= events.MAX_FAILURES:
                self._emit("failure", i=index, verdict=verdict, **told)
        self._letters[index] = events.LETTERS[verdict]
        if index in self._ends:
            self._emit("finish", g=self._ends[index])

    def verdicts(self) -> str:
        return "".join(self._letters)


class Runner:
    """One run. ``emitter`` gets all events; :attr:`failed` counts bad results."""

    def __init__(self, options: Options, emitter: Sink) -> None:
        self._options = options
        self._sink = emitter
        self._emit: Emit = emitter.emit
        self._capabilities: dict[str, dict[str, probe.Finding]] = {}
        self._paths: Optional[Mapping[str, probe.Finding]] = None
        self._patience = Patience()
        self.failed = 0
        self.rounds = 0

    def run(self) -> int:
        """Probe, plan and check, with all rounds. Returns the number of planned results."""
        started = time.monotonic()
        for note in probe.set_up():
            self._emit("note", text=note)
        for family in self._options.families:
            self._probe(family)
        plan = self._plan()
        for group in plan:
            entries = [[item.id, phase, side] for item, phase, side in group.entries]
            self._emit(
                "plan",
                family=group.family,
                payload=group.payload,
                scenario=not group.is_connection,
                entries=entries,
            )
        first = _FirstRound(self._emit)
        self._round(plan, self._options.seed, first)
        self.failed += first.failed
        self.rounds = 1
        while plan and not self._is_over(time.monotonic() - started):
            self._further_round(plan)
            self.rounds += 1
        return sum(len(group.entries) for group in plan)

    def _is_over(self, seconds: float) -> bool:
        options = self._options
        return (
            self.rounds >= options.rounds
            or (options.until_fail and self.failed > 0)
            or (options.seconds is not None and seconds >= options.seconds)
        )

    def _probe(self, family: str) -> None:
        found = probe.capabilities(FAMILIES[family])
        found.update(self._of_scenarios(found))
        self._capabilities[family] = found
        for name, finding in found.items():
            self._emit(
                "capability",
                name=name,
                family=family,
                present=finding.present,
                detail=finding.detail,
            )

    def _of_scenarios(self, found: Mapping[str, probe.Finding]) -> Mapping[str, probe.Finding]:
        """The capabilities that only scenarios need; probed once for both families."""
        usable = found["mptcp"].present if "mptcp" in found else False
        if self._options.profile == checks.QUICK or not usable:
            return {}
        from guest import isolation  # and os and ctypes, without which quick runs start

        if isolation.unavailable():
            return {}
        if self._paths is None:
            from guest import path_probe

            self._paths = path_probe.capabilities()
        return self._paths

    def _plan(self) -> Sequence[Planned]:
        selected = self._options.selected
        all = checks.all_checks(self._options.profile)
        if selected is not None:
            wanted = [item for item in all if selected(item.id)]
        else:
            # Rounds search for intermittent failures, not for bugs of every kernel.
            wanted = [item for item in all if not item.bug or self._options.rounds == 1]
        plan: list[Planned] = []
        first = 0
        for family in self._options.families:
            mptcp = self._capabilities[family].get("mptcp")
            if mptcp is None or not mptcp.present:
                continue  # nothing can be connected; the capabilities say so
            for payload, entries in _groups(family, wanted):
                plan.append(Planned(family, payload, entries, first))
                first += len(entries)
        return plan

    def _further_round(self, plan: Sequence[Planned]) -> None:
        """Run another round with the next seed."""
        seed = events.round_seed(self._options.seed, self.rounds)
        self._emit("round", r=self.rounds, seed=seed)
        report = _FurtherRound(self._emit, plan)
        self._round(plan, seed, report)
        self.failed += report.failed
        self._emit("outcome", r=self.rounds, verdicts=report.verdicts())

    def _round(self, plan: Sequence[Planned], seed: int, report: Report) -> None:
        """Run every check once: those of connections, then those of scenarios."""
        contents = self._contents(seed)
        for group in plan:
            if group.is_connection:
                self._connection(group, contents[group.payload], report)
        scenes = [group for group in plan if not group.is_connection]
        if scenes:
            self._scenarios(scenes, seed, report, self._sink.port if self.rounds == 0 else -1)

    def _scenarios(self, plan: Sequence[Planned], seed: int, report: Report, port: int) -> None:
        # Imported here, because quick runs do not need it.
        from guest import isolation, scenarios
        from guest.child import Item, Job
        from guest.schedule import Schedule

        unavailable = isolation.unavailable()
        jobs: dict[tuple[str, str], list[Item]] = {}
        for group in plan:
            missing = self._missing(group.family)
            items = jobs.setdefault((group.family, group.payload), [])
            for index, (check, phase, side) in enumerate(group.entries, group.first):
                lacking = unavailable or _lacking(check, missing)
                items.append(Item(index, check, phase, side, lacking))
        Schedule(
            [
                Job(scenarios.named(name), FAMILIES[family], items, seed, _outcome, port)
                for (family, name), items in jobs.items()
            ],
            report,
            self._sink,
            self._options.slowness,
        ).run()

    def _contents(self, seed: int) -> Mapping[str, bytes]:
        """The data of each payload, the same in both families."""
        random = Random(seed)
        return {name: random.bytes(self._size(name, random)) for name in SIZES}

    def _size(self, payload: str, random: Random) -> int:
        drawn = random.between(*SIZES[payload])
        if self._options.size is None:
            return drawn
        # An early payload must fit into the buffer of a server that does not read.
        return min(self._options.size, SIZES[EARLY][1]) if payload == EARLY else self._options.size

    def _connection(self, group: Planned, content: bytes, report: Report) -> None:
        """Run the checks of ``group`` in order."""
        index = group.first
        outcomes = self._outcomes(group, content)
        for _ in group.entries:
            report.start(index)
            report.result(index, *next(outcomes))
            index += 1
        outcomes.close()

    def _outcomes(self, planned: Planned, content: bytes) -> Generator[Outcome, None, None]:
        missing = self._missing(planned.family)
        left = len(planned.entries)
        try:
            connection = Connection(FAMILIES[planned.family], content, patience=self._patience)
        except OSError as error:
            yield from _give_up(left, "no connection: %s" % error)
            return
        why = ""
        try:
            for phase, side in _stops(planned, connection):
                for item in planned.at((phase, side)):
                    left -= 1
                    yield self._outcome(item, connection.end(side), missing)
        except TransferFailed as error:
            why = "the connection failed: %s" % error
        finally:
            connection.close()
        yield from _give_up(left, why)

    def _outcome(self, item: Check, end: End, missing: Mapping[str, str]) -> Outcome:
        lacking = _lacking(item, missing)
        if lacking:
            return events.UNSUPPORTED, {"detail": lacking}
        self._patience.check = item.id
        return _outcome(item, end)

    def _missing(self, family: str) -> Mapping[str, str]:
        found = self._capabilities[family]
        return {name: finding.detail for name, finding in found.items() if not finding.present}


def _groups(family: str, wanted: Sequence[Check]) -> Iterator[tuple[str, Sequence[Entry]]]:
    """The groups of ``family``: names and entries."""
    wanted = [item for item in wanted if family in item.families]
    for payload, stops in CONNECTIONS:
        entries = [
            (item, phase, side)
            for phase, side in stops
            for item in wanted
            if payload in item.payloads and phase in item.phases and side in item.sides
        ]
        if entries:
            yield payload, entries
    for name in dict.fromkeys([item.scenario for item in wanted if item.scenario]):
        entries = [
            (item, phase, side)
            for item in wanted
            if item.scenario == name
            for phase in item.phases
            for side in item.sides
        ]
        for start in range(0, len(entries), events.MAX_ENTRIES):
            yield name, entries[start : start + events.MAX_ENTRIES]


def _lacking(item: Check, missing: Mapping[str, str]) -> str:
    """The first capability that ``item`` needs and the kernel lacks, with the reason; or ""."""
    for need in item.needs:
        if need in missing:
            return "no %s: %s" % (need, missing[need])
    return ""


def _give_up(left: int, why: str) -> Iterator[Outcome]:
    for _ in range(left):
        yield events.FAIL, {"detail": why}


def _outcome(item: Check, subject: Union[End, Lab]) -> Outcome:
    """The outcome of ``item`` for ``subject``."""
    try:
        item.function(subject)  # type: ignore[arg-type]
    except checks.Failed as failed:
        told = {
            "detail": failed.what,
            "expected": failed.expected,
            "got": failed.got,
            "raw": failed.raw[:1024].hex(),
        }
        return events.FAIL, told
    except abi.Truncated as truncated:
        what = "the kernel returned too little"
        return events.FAIL, {"detail": what, "got": str(truncated)}
    except sockopt.Overrun as overrun:
        what = "the kernel wrote where it may not"
        return events.FAIL, {"detail": what, "got": str(overrun)}
    except OSError as error:  # an unexpected error of a call
        return events.FAIL, {"detail": "a call failed", "got": _where(error)}
    except Exception as error:  # a broken check is an error; the others continue
        return events.ERROR, {"detail": _where(error)}
    return events.PASS, {}


def _stops(planned: Planned, connection: Connection) -> Iterator[Stop]:
    """Take ``connection`` through its phases, stopping where its ends are to be checked.

    Any failure on the way becomes TransferFailed, because an OSError from elsewhere, such as a
    report that cannot be written, must not be mistaken for the connection's.
    """
    try:
        yield from _phases(planned, connection)
    except (OSError, sockopt.Overrun) as error:
        raise TransferFailed(str(error)) from None


def _phases(planned: Planned, connection: Connection) -> Iterator[Stop]:
    if planned.payload == EARLY:
        connection.send_early()
    for side in SIDES:
        connection.end(side).take_first_info()
    yield from ((ESTABLISHED, side) for side in SIDES)
    connection.transfer()
    yield from ((TRANSFERRED, side) for side in SIDES)
    closing = dict.fromkeys([side for _, phase, side in planned.entries if phase == CLOSED])
    for side in closing:
        connection.finish(connection.end(side).peer)
        yield CLOSED, side


def _where(error: BaseException) -> str:
    """Kind, text and place of an exception, without the traceback module."""
    text = "%s: %s" % (type(error).__name__, error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None:
        code = trace.tb_frame.f_code
        text += " (%s:%d in %s)" % (code.co_filename, trace.tb_lineno, code.co_name)
    return text
