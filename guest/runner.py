# SPDX-License-Identifier: GPL-2.0-only
"""Plan, run, emit: takes connections through their phases and every check to a verdict."""

from __future__ import annotations

import _random
import _socket

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
from guest.connection import Connection, TransferFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, Mapping, Optional, Sequence, Union

    from guest.checks import Check
    from guest.connection import End
    from guest.ktap import Ktap

    Sink = Union[events.Emitter, Ktap]
    Stop = tuple[str, str]  # phase, side

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
    """What to run. ``size`` replaces the seed's choice for every payload."""

    def __init__(
        self,
        families: Sequence[str] = tuple(FAMILIES),
        seed: int = 0,
        selected: Optional[Callable[[str], bool]] = None,
        size: Optional[int] = None,
    ) -> None:
        self.families = families
        self.seed = seed
        self.selected = selected
        self.size = size


class Planned:
    """One connection to make, and the checks to run at its stops."""

    def __init__(
        self, family: str, payload: str, content: bytes, stops: Sequence[Stop], all: Iterable[Check]
    ) -> None:
        self.family = family
        self.payload = payload
        self.content = content
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
    """One run. ``emitter`` is told everything; :attr:`ok` says whether all is well."""

    def __init__(self, options: Options, emitter: Sink) -> None:
        self._options = options
        self._emit = emitter.emit
        self._capabilities: dict[str, dict[str, probe.Finding]] = {}
        self._index = 0
        self.failed = 0

    def run(self) -> int:
        """Probe, plan and check. Returns the number of results emitted."""
        for note in probe.set_up():
            self._emit("note", text=note)
        for family in self._options.families:
            self._probe(family)
        plan = list(self._plan())
        for planned in plan:
            entries = [[item.id, phase, side] for item, phase, side in planned.entries()]
            self._emit("plan", family=planned.family, payload=planned.payload, entries=entries)
        for planned in plan:
            self._run(planned)
        return self._index

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
        wanted = [c for c in checks.all_checks() if selected is None or selected(c.id)]
        for family in self._options.families:
            mptcp = self._capabilities[family].get("mptcp")
            if mptcp is None or not mptcp.present:
                continue  # nothing can be connected; the capabilities say so
            random = Random(self._options.seed)
            contents = {name: random.bytes(self._size(name, random)) for name in SIZES}
            for payload, stops in CONNECTIONS:
                planned = Planned(family, payload, contents[payload], stops, wanted)
                if planned.checks:
                    yield planned

    def _size(self, payload: str, random: Random) -> int:
        drawn = random.between(*SIZES[payload])
        if self._options.size is None:
            return drawn
        # An early payload must fit the buffer of a server that does not read.
        return min(self._options.size, SIZES[EARLY][1]) if payload == EARLY else self._options.size

    def _run(self, planned: Planned) -> None:
        missing = self._missing(planned.family)
        left = list(planned.entries())
        try:
            connection = Connection(FAMILIES[planned.family], planned.content)
        except OSError as error:
            self._give_up(left, "no connection: %s" % error)
            return
        try:
            for phase, side in _stops(planned, connection):
                for item in planned.checks.get((phase, side), ()):
                    left.pop(0)
                    self._check(item, connection.end(side), missing)
        except TransferFailed as error:
            self._give_up(left, "the connection failed: %s" % error)
        finally:
            connection.close()

    def _missing(self, family: str) -> Mapping[str, str]:
        found = self._capabilities[family]
        return {name: finding.detail for name, finding in found.items() if not finding.present}

    def _give_up(self, left: Sequence[tuple[Check, str, str]], why: str) -> None:
        for _ in left:
            self._start()
            self._result(events.FAIL, detail=why)

    def _start(self) -> None:
        self._emit("start", i=self._index)

    def _result(self, verdict: str, **fields: str) -> None:
        if verdict in (events.FAIL, events.ERROR):
            self.failed += 1
        self._emit("result", i=self._index, verdict=verdict, **fields)
        self._index += 1

    def _check(self, item: Check, end: End, missing: Mapping[str, str]) -> None:
        self._start()
        for need in item.needs:
            if need in missing:
                self._result(events.UNSUPPORTED, detail="no %s: %s" % (need, missing[need]))
                return
        try:
            item.function(end)
        except checks.Failed as failed:
            self._result(
                events.FAIL,
                detail=failed.what,
                expected=failed.expected,
                got=failed.got,
                raw=failed.raw[:1024].hex(),
            )
        except abi.Truncated as truncated:
            self._result(events.FAIL, detail="the kernel returned too little", got=str(truncated))
        except sockopt.Overrun as overrun:
            self._result(events.FAIL, detail="the kernel wrote where it may not", got=str(overrun))
        except Exception as error:  # a broken check is reported as such, and the rest goes on
            self._result(events.ERROR, detail=_where(error))
        else:
            self._result(events.PASS)


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
