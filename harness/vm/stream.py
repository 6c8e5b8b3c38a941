# SPDX-License-Identifier: GPL-2.0-only
"""The guest's event stream, read strictly: what it says is untrusted input.

The grammar is in :mod:`guest.events`. The first violation ends the reading: what came before
stands, everything planned and not heard of by then stays ``lost``, and the violation is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from guest import events
from harness.verdict.results import (
    Capability,
    CheckKey,
    CheckResult,
    CheckVerdict,
    CutRound,
    Family,
    Rounds,
    Stream,
)
from harness.verdict.rounds import ONCE, Impossible, Repeat, Tally

#: Bytes of a whole stream; a full run has about 100 KB. Of each further round, too.
MAX_BYTES = 16 << 20
#: Results of one boot; a full run has about 900.
MAX_RESULTS = 50_000
MAX_NOTES = 100
#: A full run has about 20.
MAX_CAPABILITIES = 1000

Event = Mapping[str, Any]


class _Violation(Exception):
    """The stream breaks its grammar; the text says how."""


class StreamReader:
    """Takes bytes as they come; :meth:`finish` gives the :class:`Stream` they amount to."""

    def __init__(
        self,
        nonce: str,
        families: Sequence[Family],
        release: str | None = None,
        seed: int | None = None,
        repeat: Repeat = ONCE,
    ) -> None:
        """``release`` and ``seed`` are what hello has to say, where they are known.

        ``repeat`` is what was asked of the guest.
        """
        self._nonce = nonce
        self._release = release
        self._seed = seed
        self._families = families
        self._buffer = b""
        self._bytes = 0
        self._expected_number = 0
        self._time = 0
        self._hello: Event | None = None
        self._end: Event | None = None
        self._capabilities: dict[tuple[str, Family | None], Capability] = {}
        self._notes: list[str] = []
        self._plan: list[CheckKey] = []
        self._planned: set[CheckKey] = set()
        self._results: list[CheckResult] = []
        self._running: CheckKey | None = None
        self._repeat = repeat
        self._connections: list[int] = []  # of each planned one the index of its first result
        self._tally: Tally | None = None  # once the first round is over
        self._connection: int | None = None  # the last one of a further round under way
        self._told: dict[int, CheckResult] = {}  # its failures
        self._times: dict[str, int] = {}
        self._errors: list[str] = []
        self._handlers = {
            "hello": self._on_hello,
            "note": self._on_note,
            "capability": self._on_capability,
            "plan": self._on_plan,
            "start": self._on_start,
            "result": self._on_result,
            "round": self._on_round,
            "connection": self._on_connection,
            "failure": self._on_failure,
            "outcome": self._on_outcome,
            "end": self._on_end,
        }

    @property
    def said_hello(self) -> bool:
        return self._hello is not None

    @property
    def closed(self) -> bool:
        return self._end is not None

    @property
    def broken(self) -> bool:
        """Nothing more is read."""
        return bool(self._errors)

    @property
    def overflowed(self) -> bool:
        """The guest sent more than :data:`MAX_BYTES`."""
        return self._bytes > MAX_BYTES

    @property
    def running(self) -> str:
        """The check that was started and has not reported, or the part of a further round."""
        if self._running is not None:
            return str(self._running)
        cut = self._under_way()
        return str(cut) if cut is not None and cut.during else ""

    @property
    def rounds(self) -> int:
        """Those that are done."""
        return 0 if self._tally is None else self._tally.done

    @property
    def failed_rounds(self) -> int:
        return 0 if self._tally is None else self._tally.failed

    @property
    def done(self) -> int:
        return len(self._results)

    @property
    def planned(self) -> int:
        return len(self._plan)

    def feed(self, data: bytes) -> None:
        """Take more of the stream."""
        self._bytes += len(data)
        if self.broken:
            return
        if self._bytes > MAX_BYTES:
            self._errors.append(f"the guest sent more than {MAX_BYTES >> 20} MiB of events")
            return
        self._buffer += data
        for line in self._lines():
            try:
                self._accept(events.parse(line))
            except (events.Malformed, _Violation) as error:
                self._errors.append(f"event {self._expected_number}: {error}")
                return

    def _lines(self) -> Iterator[bytes]:
        *lines, self._buffer = self._buffer.split(b"\n")
        yield from (line + b"\n" for line in lines)
        if len(self._buffer) > events.MAX_LINE:
            yield self._buffer

    def finish(self, *, interrupted: bool = False) -> Stream:
        """All that was said. Called once, when no more can come.

        What is missing of a further round is lost, unless it was ``interrupted`` by the user.
        """
        if not self.broken:
            if self._buffer and not interrupted:
                self._errors.append(f"the stream was cut within event {self._expected_number}")
            elif self.closed:
                self._errors += self._omissions()
        cut = self._under_way()
        results: Iterable[CheckResult] = self._results
        if self._tally is not None:
            self._tally.cut_off(self._told)
            lost_from = self._connections[max(0, self._connection or 0)] if cut else None
            results = self._tally.results(None if interrupted else lost_from)
        lost = [CheckResult(key, CheckVerdict.LOST) for key in self._plan[len(self._results) :]]
        hello, end = self._hello or {}, self._end or {}
        return Stream(
            said_hello=self.said_hello,
            closed=self.closed,
            release=hello.get("release", ""),
            version=hello.get("version", ""),
            python=hello.get("python", ""),
            seed=hello.get("seed"),
            capabilities=tuple(self._capabilities.values()),
            results=(*results, *lost),
            notes=tuple(self._notes),
            errors=tuple(self._errors),
            new_taint=end.get("taint", 0) & ~hello.get("taint", 0),
            times_ms=dict(self._times),
            rounds=self._rounds(cut),
        )

    def _rounds(self, cut: CutRound | None) -> Rounds | None:
        if not self._repeat.repeats:
            return None
        return Rounds(self._repeat.rounds, 0) if self._tally is None else self._tally.rounds(cut)

    def _under_way(self) -> CutRound | None:
        """The further round that has begun and is not over."""
        if self._tally is None or self._connection is None:
            return None
        during = ""
        if self._connection >= 0:
            first = self._plan[self._connections[self._connection]]
            during = f"{first.family} {first.payload} checks".replace("  ", " ")
        return CutRound(self._tally.done, self._tally.seed, during)

    def _omissions(self) -> Iterator[str]:
        """What a complete run cannot lack: silence about a family is not a pass."""
        planned = {key.family for key in self._plan}
        for family in self._families:
            ipv6 = self._capabilities.get(("ipv6", family))
            mptcp = self._capabilities.get(("mptcp", family))
            if mptcp is None and (ipv6 is None or ipv6.present):
                yield f"the guest did not say whether {family} has MPTCP"
            elif mptcp is not None and mptcp.present and family not in planned:
                yield f"{family} has MPTCP, and the guest planned no check for it"

    def _accept(self, event: Event) -> None:
        if event["n"] != self._expected_number:
            raise _Violation(f"numbered {event['n']}")
        if event["t"] < self._time:
            raise _Violation("its time goes backwards")
        if self.closed:
            raise _Violation("something follows the closing event")
        if (event["e"] == "hello") != (self._hello is None):
            raise _Violation("hello must come first, and once")
        self._handlers[event["e"]](event)
        self._expected_number += 1
        self._time = event["t"]

    def _on_hello(self, event: Event) -> None:
        if event["nonce"] != self._nonce:
            raise _Violation("its nonce is not this boot's")
        if event["protocol"] != events.PROTOCOL:
            raise _Violation(f"protocol {event['protocol']}, this harness speaks {events.PROTOCOL}")
        if self._release not in (None, event["release"]):
            raise _Violation(f"it runs {event['release']!r}, {self._release!r} was booted")
        if self._seed not in (None, event["seed"]):
            raise _Violation(f"its seed is {event['seed']}, {self._seed} was asked for")
        self._hello = event
        self._times["hello"] = event["t"]

    def _on_note(self, event: Event) -> None:
        if self._results or self._running or len(self._notes) >= MAX_NOTES:
            raise _Violation("a note out of place")
        self._notes.append(event["text"])

    def _on_capability(self, event: Event) -> None:
        if self._plan:
            raise _Violation("a capability after the plan")
        family = _family(event["family"]) if event["family"] else None
        key = (event["name"], family)
        if key in self._capabilities:
            raise _Violation(f"capability {event['name']} twice")
        if len(self._capabilities) >= MAX_CAPABILITIES:
            raise _Violation(f"more than {MAX_CAPABILITIES} capabilities")
        self._capabilities[key] = Capability(
            event["name"], family, event["present"], event["detail"]
        )

    def _on_plan(self, event: Event) -> None:
        if self._results or self._running:
            raise _Violation("a plan after the first check")
        if len(self._plan) + len(event["entries"]) > MAX_RESULTS:
            raise _Violation(f"more than {MAX_RESULTS} results planned")
        family = _family(event["family"])
        if not event["entries"]:
            raise _Violation("a connection is planned, and no check on it")
        self._connections.append(len(self._plan))
        for check, phase, side in event["entries"]:
            key = CheckKey(family, check, event["payload"], phase, side)
            if key in self._planned:
                raise _Violation(f"{key} is planned twice")
            self._planned.add(key)
            self._plan.append(key)

    def _on_start(self, event: Event) -> None:
        if self._running is not None:
            raise _Violation(f"a check starts while {self._running} runs")
        if event["i"] != len(self._results) or event["i"] >= len(self._plan):
            raise _Violation(f"check {event['i']} starts out of order, or was never planned")
        self._running = self._plan[event["i"]]
        self._times.setdefault(self._running.family.value, event["t"])

    def _on_result(self, event: Event) -> None:
        if self._running is None or event["i"] != len(self._results):
            raise _Violation(f"a result for check {event['i']}, which does not run")
        self._results.append(_result(self._running, event))
        self._running = None
        if len(self._results) == len(self._plan) and self._repeat.repeats:
            self._tally = Tally(self._repeat, self._hello_seed(), self._results)

    def _hello_seed(self) -> int:
        assert self._hello is not None, "it comes first"
        seed: int = self._hello["seed"]
        return seed

    def _on_round(self, event: Event) -> None:
        tally = self._tally
        if tally is None or self._connection is not None or tally.is_over:
            raise _Violation(f"round {event['r']} begins, and should not")
        if (event["r"], event["seed"]) != (tally.done, tally.seed):
            raise _Violation(
                f"round {event['r']} with seed {event['seed']} begins, not round {tally.done} "
                f"with seed {tally.seed}"
            )
        self._connection = -1
        self._times.setdefault("rounds", event["t"])

    def _on_connection(self, event: Event) -> None:
        if self._connection is None or event["c"] != self._connection + 1:
            raise _Violation(f"connection {event['c']} out of order")
        if event["c"] >= len(self._connections):
            raise _Violation(f"connection {event['c']} was never planned")
        self._connection = event["c"]

    def _on_failure(self, event: Event) -> None:
        if self._connection is None or self._connection < 0:
            raise _Violation("a failure of no round")
        index = event["i"]
        first, *rest = [*self._connections[self._connection :], len(self._plan)]
        if not max(first, max(self._told, default=-1) + 1) <= index < rest[0]:
            raise _Violation(f"a failure of check {index}, which does not run")
        if len(self._told) >= events.MAX_FAILURES:
            raise _Violation(f"more than {events.MAX_FAILURES} failures in full")
        self._told[index] = _result(self._plan[index], event)

    def _on_outcome(self, event: Event) -> None:
        if self._tally is None or self._connection is None or event["r"] != self._tally.done:
            raise _Violation(f"an outcome of round {event['r']}, which is not under way")
        if self._connection != len(self._connections) - 1:
            raise _Violation(f"an outcome after {self._connection + 1} connections")
        try:
            self._tally.add(event["verdicts"], self._told)
        except Impossible as error:
            raise _Violation(str(error)) from None
        self._connection = None
        self._told = {}
        self._bytes = 0

    def _on_end(self, event: Event) -> None:
        if event["nonce"] != self._nonce:
            raise _Violation("its nonce is not this boot's")
        if not event["results"] == len(self._results) == len(self._plan):
            raise _Violation(
                f"it closes after {len(self._results)} of {len(self._plan)} planned results "
                f"and speaks of {event['results']}"
            )
        rounds = 1 if self._tally is None else self._tally.done
        if self._connection is not None or event["rounds"] != rounds:
            raise _Violation(f"it closes after {rounds} rounds and speaks of {event['rounds']}")
        if self._tally and not self._tally.may_end(event["t"] - self._times["hello"]):
            raise _Violation(f"it closes after {rounds} of {self._repeat.rounds} rounds")
        self._end = event
        self._times["end"] = event["t"]


def _result(key: CheckKey, event: Event) -> CheckResult:
    told = {name: event.get(name, "") for name in ("detail", "expected", "got", "raw")}
    return CheckResult(key, CheckVerdict(event["verdict"]), **told)


def _family(name: str) -> Family:
    try:
        return Family(name)
    except ValueError:
        raise _Violation(f"unknown family {name!r}") from None
