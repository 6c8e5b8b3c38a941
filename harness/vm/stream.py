# SPDX-License-Identifier: GPL-2.0-only
"""Reads the guest's event stream strictly; it is untrusted input.

The grammar is in :mod:`guest.events`. Reading ends at the first violation, which is kept. Earlier
results remain, and planned results that are missing by then stay ``lost``.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guest import events
from harness.errors import Malformed
from harness.verdict.results import (
    Capability,
    CheckKey,
    CheckResult,
    CutRound,
    ProgramEnd,
    ProgramRun,
    Rounds,
    Stream,
)
from harness.verdict.rounds import ONCE, Repeat, Tally
from harness.verdict.verdicts import CheckVerdict, Family

#: Bytes of a whole stream, and of each further round; a full run has about 1 MB.
MAX_BYTES = 16 << 20
#: Results of one boot; a full run has several thousand.
MAX_RESULTS = 50_000
MAX_NOTES = 100
#: A full run has about 20.
MAX_CAPABILITIES = 1000
#: Keys, and results that passed, that all boots share; and the characters of what names a check.
MAX_SHARED = 8192
USUAL = 200

Event = Mapping[str, Any]


class _Violation(Exception):
    """The stream breaks its grammar; the text says how."""


@dataclass
class _Group:
    """The results that one plan event names: from ``first`` up to ``end``.

    ``next`` is the next result; in a further round, the first whose failure may be reported.
    ``over``: it has finished in the current further round. ``at``: the check that its process
    reports to be at.
    """

    first: int
    end: int
    scenario: bool
    next: int = field(init=False)
    over: bool = False
    at: int = -1

    def __post_init__(self) -> None:
        self.next = self.first


class StreamReader:
    """Reads the bytes of a stream; :meth:`finish` returns the :class:`Stream`."""

    def __init__(
        self,
        nonce: str,
        families: Sequence[Family],
        release: str | None = None,
        seed: int | None = None,
        repeat: Repeat = ONCE,
        programs: Sequence[str] = (),
    ) -> None:
        """``release`` and ``seed`` are the expected values in hello, if known.

        ``repeat`` is as in the request; ``programs`` run after the checks.
        """
        self._nonce = nonce
        self._release = release
        self._seed = seed
        self._families = families
        self._programs = programs
        self._ended: list[ProgramRun] = []
        self._in_program = False
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
        self._results: dict[int, CheckResult] = {}
        self._repeat = repeat
        self._groups: list[_Group] = []
        self._firsts: list[int] = []  # the index of the first result of each group
        self._active: dict[int, _Group] = {}  # running groups, by their first result
        self._started = False  # a check did, so that the plan is complete
        self._tally: Tally | None = None  # once the first round is over
        self._repeating = False  # a further round is under way
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
            "begin": self._on_begin,
            "finish": self._on_finish,
            "failure": self._on_failure,
            "alive": self._on_alive,
            "outcome": self._on_outcome,
            "program": self._on_program,
            "ended": self._on_ended,
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
        """Whether a violation ended the reading."""
        return bool(self._errors)

    @property
    def overflowed(self) -> bool:
        """Whether the guest sent more than :data:`MAX_BYTES`."""
        return self._bytes > MAX_BYTES

    @property
    def running(self) -> str:
        """The checks that have started but not reported, or the part of a further round, or a
        program."""
        if self._in_program:
            return f"the program {self._programs[len(self._ended)]}"
        if not self._repeating:
            at = (max(group.next, group.at) for group in self._active.values())
            return ", ".join(str(self._plan[index]) for index in at)
        cut = self._under_way()
        return str(cut) if cut is not None and cut.during else ""

    @property
    def rounds(self) -> int:
        """The number of finished rounds."""
        return 0 if self._tally is None else self._tally.done

    @property
    def programs(self) -> int:
        """The number of programs that have ended."""
        return len(self._ended)

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
        """The content of the stream. Called once, at its end.

        Missing results of a further round are lost, unless the user ``interrupted`` it.
        """
        if not self.broken:
            if self._buffer and not interrupted:
                self._errors.append(f"the stream was cut within event {self._expected_number}")
            elif self.closed:
                self._errors += self._omissions()
        cut = self._under_way()
        results: Iterable[CheckResult] = [
            self._results.get(index) or CheckResult(key, CheckVerdict.LOST)
            for index, key in enumerate(self._plan)
        ]
        if self._tally is not None:
            self._tally.cut_off(self._told)
            results = self._tally.results([] if interrupted else self._lost_of_round())
        hello, end = self._hello or {}, self._end or {}
        return Stream(
            said_hello=self.said_hello,
            closed=self.closed,
            release=hello.get("release", ""),
            version=hello.get("version", ""),
            python=hello.get("python", ""),
            seed=hello.get("seed"),
            capabilities=tuple(self._capabilities.values()),
            results=tuple(results),
            running=self.running,
            notes=tuple(self._notes),
            errors=tuple(self._errors),
            new_taint=end.get("taint", 0) & ~hello.get("taint", 0),
            times_ms=dict(self._times),
            rounds=self._rounds(cut),
            programs=tuple(self._ended),
        )

    def _rounds(self, cut: CutRound | None) -> Rounds | None:
        if not self._repeat.repeats:
            return None
        return Rounds(self._repeat.rounds, 0) if self._tally is None else self._tally.rounds(cut)

    def _under_way(self) -> CutRound | None:
        """The further round that has begun but not finished."""
        if self._tally is None or not self._repeating:
            return None
        running = (self._plan[first] for first in self._active)
        names = ", ".join(" ".join(filter(None, (k.family, k.payload))) for k in running)
        return CutRound(self._tally.done, self._tally.seed, f"{names} checks" if names else "")

    def _lost_of_round(self) -> set[int]:
        """The missing results of the current round."""
        if not self._repeating:
            return set()
        open_groups = (group for group in self._groups if not group.over)
        return {index for group in open_groups for index in range(group.first, group.end)}

    def _omissions(self) -> Iterator[str]:
        """What a complete run must contain: silence about a family is not a pass."""
        planned = {key.family for key in self._plan}
        for family in self._families:
            mptcp = self._capabilities.get(("mptcp", family))
            if mptcp is None and not self._lacks_ipv6(family):
                yield f"the guest did not report whether {family} has MPTCP"
            elif mptcp is not None and mptcp.present and family not in planned:
                yield f"{family} has MPTCP, and the guest planned no check for it"

    def _lacks_ipv6(self, family: Family) -> bool:
        """Whether ``family`` is IPv6 and the kernel lacks it, or lacks MPTCP over it."""
        found = [self._capabilities.get((name, family)) for name in ("ipv6", "mptcp_ipv6")]
        absent = any(capability is not None and not capability.present for capability in found)
        return family is Family.IPV6 and absent

    def _accept(self, event: Event) -> None:
        if event["e"] == "at":
            self._on_at(event)
            return
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
            raise _Violation(f"protocol {event['protocol']}, this harness uses {events.PROTOCOL}")
        if self._release not in (None, event["release"]):
            raise _Violation(f"it runs {event['release']!r}, {self._release!r} was booted")
        if self._seed not in (None, event["seed"]):
            raise _Violation(f"its seed is {event['seed']}, {self._seed} was asked for")
        self._hello = event
        self._times["hello"] = event["t"]

    def _on_note(self, event: Event) -> None:
        if self._started or len(self._notes) >= MAX_NOTES:
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
        if self._started:
            raise _Violation("a plan after the first check")
        if len(self._plan) + len(event["entries"]) > MAX_RESULTS:
            raise _Violation(f"more than {MAX_RESULTS} results planned")
        family = _family(event["family"])
        if not event["entries"]:
            raise _Violation("a group is planned, and no check in it")
        first = len(self._plan)
        self._groups.append(_Group(first, first + len(event["entries"]), event["scenario"]))
        self._firsts.append(first)
        for check, phase, side in event["entries"]:
            key = _key(family, check, event["payload"], phase, side)
            if key in self._planned:
                raise _Violation(f"{key} is planned twice")
            self._planned.add(key)
            self._plan.append(key)

    def _group_of(self, index: int) -> _Group:
        """The group whose next result in the first round is ``index``."""
        if 0 <= index < len(self._plan) != len(self._results):
            group = self._groups[bisect_right(self._firsts, index) - 1]
            if group.next == index:
                return group
        raise _Violation(f"check {index} is out of order, or was never planned")

    def _on_start(self, event: Event) -> None:
        group = self._group_of(event["i"])
        if group.first in self._active:
            raise _Violation(f"check {event['i']} starts, but is already running")
        self._started = True
        self._active[group.first] = group
        mark = "scenarios" if group.scenario else self._plan[group.next].family.value
        self._times.setdefault(mark, event["t"])

    def _on_result(self, event: Event) -> None:
        group = self._group_of(event["i"])
        # What was not run never started.
        runs = self._active.pop(group.first, None) is not None
        if runs == (event["verdict"] == events.LOST):
            how = "is running, but is lost" if runs else "does not run"
            raise _Violation(f"a result for check {event['i']}, which {how}")
        self._results[event["i"]] = _result(self._plan[event["i"]], event)
        group.next += 1
        if len(self._results) == len(self._plan) and self._repeat.repeats:
            first = [self._results[index] for index in range(len(self._plan))]
            self._tally = Tally(self._repeat, self._hello_seed(), first, self._firsts)

    def _on_at(self, event: Event) -> None:
        """It only affects ``running``, because any process of the guest may have written it.

        It may be late, but not before the plan or after the end.
        """
        if self.closed or not 0 <= event["i"] < len(self._plan):
            raise _Violation(f"at check {event['i']}, which was never planned or is over")
        self._groups[bisect_right(self._firsts, event["i"]) - 1].at = event["i"]

    def _on_alive(self, event: Event) -> None:
        if not self._active and not self._in_program:
            raise _Violation("alive, but no check is running")

    def _on_program(self, event: Event) -> None:
        number = len(self._ended)
        if len(self._results) < len(self._plan) or self._repeating or self._in_program:
            raise _Violation(f"program {event['p']} begins, but something else is running")
        if event["p"] != number or number >= len(self._programs):
            raise _Violation(f"program {event['p']} begins, of {len(self._programs)}")
        self._in_program = True

    def _on_ended(self, event: Event) -> None:
        if not self._in_program or event["p"] != len(self._ended):
            raise _Violation(f"program {event['p']} ends, but is not running")
        try:
            end = ProgramEnd(event["how"])
        except ValueError:
            raise _Violation(f"program {event['p']} ends as {event['how']!r}") from None
        run = ProgramRun(end, event["status"], event["ms"] / 1000, event["output"])
        self._ended.append(run)
        self._in_program = False

    def _hello_seed(self) -> int:
        assert self._hello is not None, "it comes first"
        seed: int = self._hello["seed"]
        return seed

    def _on_round(self, event: Event) -> None:
        tally = self._tally
        if tally is None or self._repeating or tally.is_over:
            raise _Violation(f"round {event['r']} begins, but should not")
        if (event["r"], event["seed"]) != (tally.done, tally.seed):
            raise _Violation(
                f"round {event['r']} with seed {event['seed']} begins, not round {tally.done} "
                f"with seed {tally.seed}"
            )
        self._repeating = True
        for group in self._groups:
            group.over = False
        self._times.setdefault("rounds", event["t"])

    def _in_round(self, number: int) -> _Group:
        """Group ``number`` of the current further round."""
        if not self._repeating:
            raise _Violation(f"group {number} of no round")
        if not 0 <= number < len(self._groups):
            raise _Violation(f"group {number} was never planned")
        return self._groups[number]

    def _on_begin(self, event: Event) -> None:
        group = self._in_round(event["g"])
        if group.first in self._active or group.over:
            raise _Violation(f"group {event['g']} begins twice")
        self._active[group.first] = group
        group.next = group.first

    def _on_finish(self, event: Event) -> None:
        group = self._in_round(event["g"])
        if self._active.pop(group.first, None) is None:
            raise _Violation(f"group {event['g']} finishes, but is not running")
        group.over = True

    def _on_failure(self, event: Event) -> None:
        if not self._repeating:
            raise _Violation("a failure of no round")
        index = event["i"]
        group = self._groups[max(0, bisect_right(self._firsts, index) - 1)]
        if not (group.first in self._active and group.next <= index < group.end):
            raise _Violation(f"a failure of check {index}, which does not run")
        if len(self._told) >= events.MAX_FAILURES:
            raise _Violation(f"more than {events.MAX_FAILURES} failures in full")
        self._told[index] = _result(self._plan[index], event)
        group.next = index + 1

    def _on_outcome(self, event: Event) -> None:
        if self._tally is None or not self._repeating or event["r"] != self._tally.done:
            raise _Violation(f"an outcome of round {event['r']}, which is not under way")
        if not all(group.over for group in self._groups):
            over = sum(group.over for group in self._groups)
            raise _Violation(f"an outcome after {over} of {len(self._groups)} groups")
        try:
            self._tally.add(event["verdicts"], self._told)
        except Malformed as error:
            raise _Violation(str(error)) from None
        self._repeating = False
        self._told = {}
        self._bytes = 0

    def _on_end(self, event: Event) -> None:
        if event["nonce"] != self._nonce:
            raise _Violation("its nonce is not this boot's")
        if not event["results"] == len(self._results) == len(self._plan):
            raise _Violation(
                f"it closes after {len(self._results)} of {len(self._plan)} planned results "
                f"and reports {event['results']}"
            )
        if self._in_program or len(self._ended) < len(self._programs):
            raise _Violation(
                f"it closes after {len(self._ended)} of {len(self._programs)} programs"
            )
        rounds = 1 if self._tally is None else self._tally.done
        if self._repeating or event["rounds"] != rounds:
            raise _Violation(f"it closes after {rounds} rounds and reports {event['rounds']}")
        if self._tally and not self._tally.may_end(event["t"] - self._times["hello"]):
            raise _Violation(f"it closes after {rounds} of {self._repeat.rounds} rounds")
        self._end = event
        self._times["end"] = event["t"]


# The results of all kernels are kept until the end of a run, and most are the same in each boot.
# What a hostile guest may have made up is not kept any longer than its own results.
_shared_key = functools.lru_cache(MAX_SHARED)(CheckKey)
_passed = functools.lru_cache(MAX_SHARED)(lambda key: CheckResult(key, CheckVerdict.PASS))


def _key(family: Family, *names: str) -> CheckKey:
    key = CheckKey(family, *names)
    return _shared_key(family, *names) if _is_usual(key) else key


def _is_usual(key: CheckKey) -> bool:
    return len(key.id) + len(key.payload) + len(key.phase) + len(key.side) <= USUAL


#: What a result may say beside its verdict.
_TOLD = frozenset(("detail", "expected", "got", "raw"))


def _result(key: CheckKey, event: Event) -> CheckResult:
    if event["verdict"] == events.PASS and not event.keys() & _TOLD and _is_usual(key):
        return _passed(key)
    told = {name: event.get(name, "") for name in _TOLD}
    return CheckResult(key, CheckVerdict(event["verdict"]), **told)


def _family(name: str) -> Family:
    try:
        return Family(name)
    except ValueError:
        raise _Violation(f"unknown family {name!r}") from None
