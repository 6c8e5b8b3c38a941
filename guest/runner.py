# SPDX-License-Identifier: GPL-2.0-only
"""Plan, run, emit: takes connections through their phases and every check to a verdict."""

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
    from typing import Callable, Iterable, Iterator, Mapping, Optional, Sequence, Union

    from guest.checks import Check
    from guest.connection import End
    from guest.ktap import Ktap

    Sink = Union[events.Emitter, Ktap]
    Stop = tuple[str, str]  # phase, side
    Outcome = tuple[str, Mapping[str, str]]  # a verdict, and what is told with it

#: What fails a run.
BAD = (events.FAIL, events.ERROR)
FAMILIES = {"ipv4": _socket.AF_INET, "ipv6": _socket.AF_INET6}

BOTH_ENDS_OPEN = tuple((phase, side) for phase in (ESTABLISHED, TRANSFERRED) for side in SIDES)
CLIENT_CLOSES = (*BOTH_ENDS_OPEN, (CLOSED, SERVER))
SERVER_CLOSES = ((CLOSED, CLIENT),)
#: One connection each: its payload and the stops at which its ends are looked at. Only the end
#: that has not closed yet is looked at after a FIN: once both have, the subflow is gone.
CONNECTIONS: Sequence[tuple[str, Sequence[Stop]]] = (
    (SEGMENT, CLIENT_CLOSES),
    (SEGMENT, SERVER_CLOSES),
    (BYTE, CLIENT_CLOSES),
    (BYTE, SERVER_CLOSES),
    (STREAM, CLIENT_CLOSES),
    (STREAM, SERVER_CLOSES),
    (EARLY, ((ESTABLISHED, SERVER), (TRANSFERRED, SERVER))),
)

#: Sizes in bytes between which the seed chooses. A segment fits the smallest MTU that IPv6
#: allows; a stream takes several writes and many reads.
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

    With ``until_fail`` a round with a failure is the last; so is, with ``seconds``, the one in
    which they have passed.
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
    ) -> None:
        self.families = families
        self.seed = seed
        self.selected = selected
        self.size = size
        self.rounds = rounds
        self.until_fail = until_fail
        self.seconds = seconds
        self.profile = profile


class Planned:
    """One connection to make, and the checks to run at its stops."""

    def __init__(
        self, family: str, payload: str, stops: Sequence[Stop], all: Iterable[Check]
    ) -> None:
        self.family = family
        self.payload = payload
        self.checks: dict[Stop, list[Check]] = {}
        for phase, side in stops:
            fitting = [
                c for c in all if payload in c.payloads and phase in c.phases and side in c.sides
            ]
            if fitting:
                self.checks[phase, side] = fitting

    def entries(self) -> Iterator[tuple[Check, str, str]]:
        for (phase, side), items in self.checks.items():
            for item in items:
                yield item, phase, side


class Runner:
    """One run. ``emitter`` is told everything; :attr:`failed` counts what is not well."""

    def __init__(self, options: Options, emitter: Sink) -> None:
        self._options = options
        self._emit = emitter.emit
        self._capabilities: dict[str, dict[str, probe.Finding]] = {}
        self._patience = Patience()
        self.failed = 0
        self.rounds = 0

    def run(self) -> int:
        """Probe, plan and check, as often as wanted. Returns the number of results planned."""
        started = time.monotonic()
        for note in probe.set_up():
            self._emit("note", text=note)
        for family in self._options.families:
            self._probe(family)
        plan = list(self._plan())
        for planned in plan:
            entries = [[item.id, phase, side] for item, phase, side in planned.entries()]
            self._emit("plan", family=planned.family, payload=planned.payload, entries=entries)
        results = self._first_round(plan)
        self.rounds = 1
        while plan and not self._is_over(time.monotonic() - started):
            self._further_round(plan)
            self.rounds += 1
        return results

    def _is_over(self, seconds: float) -> bool:
        options = self._options
        return (
            self.rounds >= options.rounds
            or (options.until_fail and self.failed > 0)
            or (options.seconds is not None and seconds >= options.seconds)
        )

    def _probe(self, family: str) -> None:
        found = probe.capabilities(FAMILIES[family])
        self._capabilities[family] = found
        for name, finding in found.items():
            self._emit(
                "capability",
                name=name,
                family=family,
                present=finding.present,
                detail=finding.detail,
            )

    def _plan(self) -> Iterator[Planned]:
        selected = self._options.selected
        all = checks.all_checks(self._options.profile)
        wanted = [c for c in all if selected is None or selected(c.id)]
        for family in self._options.families:
            mptcp = self._capabilities[family].get("mptcp")
            if mptcp is None or not mptcp.present:
                continue  # nothing can be connected; the capabilities say so
            for payload, stops in CONNECTIONS:
                planned = Planned(family, payload, stops, wanted)
                if planned.checks:
                    yield planned

    def _first_round(self, plan: Sequence[Planned]) -> int:
        """Every check with its start and its result, each in an event. How many there were."""
        contents = self._contents(self._options.seed)
        index = 0

        def start() -> None:
            self._emit("start", i=index)

        for planned in plan:
            for verdict, told in self._outcomes(planned, contents[planned.payload], start):
                self.failed += verdict in BAD
                self._emit("result", i=index, verdict=verdict, **told)
                index += 1
        return index

    def _further_round(self, plan: Sequence[Planned]) -> None:
        """Once more with another seed, and in few words: see :mod:`guest.events`."""
        seed = events.round_seed(self._options.seed, self.rounds)
        self._emit("round", r=self.rounds, seed=seed)
        contents = self._contents(seed)
        letters: list[str] = []
        failures = 0
        for number, planned in enumerate(plan):
            self._emit("connection", c=number)
            for verdict, told in self._outcomes(planned, contents[planned.payload], _nothing):
                if verdict in BAD:
                    failures += 1
                    if failures <= events.MAX_FAILURES:
                        self._emit("failure", i=len(letters), verdict=verdict, **told)
                letters.append(events.LETTERS[verdict])
        self.failed += failures
        self._emit("outcome", r=self.rounds, verdicts="".join(letters))

    def _contents(self, seed: int) -> Mapping[str, bytes]:
        """What is sent, by payload; the same in each family."""
        random = Random(seed)
        return {name: random.bytes(self._size(name, random)) for name in SIZES}

    def _size(self, payload: str, random: Random) -> int:
        drawn = random.between(*SIZES[payload])
        if self._options.size is None:
            return drawn
        # An early payload must fit the buffer of a server that does not read.
        return min(self._options.size, SIZES[EARLY][1]) if payload == EARLY else self._options.size

    def _outcomes(
        self, planned: Planned, content: bytes, start: Callable[[], None]
    ) -> Iterator[Outcome]:
        """Of every check of ``planned``, in its order; ``start`` is called before each."""
        missing = self._missing(planned.family)
        left = sum(map(len, planned.checks.values()))
        try:
            connection = Connection(FAMILIES[planned.family], content, patience=self._patience)
        except OSError as error:
            yield from _give_up(left, "no connection: %s" % error, start)
            return
        why = ""
        try:
            for phase, side in _stops(planned, connection):
                for item in planned.checks.get((phase, side), ()):
                    left -= 1
                    start()
                    yield _outcome(item, connection.end(side), missing)
        except TransferFailed as error:
            why = "the connection failed: %s" % error
        finally:
            connection.close()
        yield from _give_up(left, why, start)

    def _missing(self, family: str) -> Mapping[str, str]:
        found = self._capabilities[family]
        return {name: finding.detail for name, finding in found.items() if not finding.present}


def _nothing() -> None:
    """No word of a check's start."""


def _give_up(left: int, why: str, start: Callable[[], None]) -> Iterator[Outcome]:
    for _ in range(left):
        start()
        yield events.FAIL, {"detail": why}


def _outcome(item: Check, end: End, missing: Mapping[str, str]) -> Outcome:
    for need in item.needs:
        if need in missing:
            return events.UNSUPPORTED, {"detail": "no %s: %s" % (need, missing[need])}
    end.patience.check = item.id
    try:
        item.function(end)
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
    except Exception as error:  # a broken check is reported as such, and the rest goes on
        return events.ERROR, {"detail": _where(error)}
    return events.PASS, {}


def _stops(planned: Planned, connection: Connection) -> Iterator[Stop]:
    """Take ``connection`` through its phases, pausing where its ends are to be looked at.

    Whatever goes wrong on the way is TransferFailed: an OSError from elsewhere, such as a report
    that cannot be written, must not be taken for the connection's.
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
    closing = [side for phase, side in planned.checks if phase == CLOSED]
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
