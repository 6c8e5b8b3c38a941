# SPDX-License-Identifier: GPL-2.0-only
"""Connections that go through steps, and checks of what each step changes.

A step does one thing (deletes an endpoint, announces an address) and says what must follow: fields
of MPTCP_INFO at both ends, MPTcpExt counters, events of the path managers, subflows in diag. A
script is a sequence of steps on one connection. It is run once; every step is a check of its own.
"""

from __future__ import annotations

from guest import mib, multipath
from guest.checks import Failed, equal, scenario_check
from guest.lab import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Sequence

    from guest import diag, pm
    from guest.lab import Lab

    Expected = dict[str, object]
    Events = Sequence[dict[str, object]]

CLIENT, SERVER = "client", "server"
#: Seconds for what must follow a step, and once something did not, for each further step.
PATIENCE_S, SHORT_PATIENCE_S = 6.0, 0.5


class Step:
    """One step. ``act`` gets the running :class:`Script`; None of an expectation: not looked at.

    ``silent`` are kinds of events of which there must be no other than those of ``events``.
    """

    def __init__(
        self,
        name: str,
        says: str,
        act: Callable[[Script], object],
        client: Optional[Expected] = None,
        server: Optional[Expected] = None,
        counters: Optional[dict[str, int]] = None,
        events: Optional[Callable[[Script], Events]] = None,
        needs: Sequence[str] = (),
        silent: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.says = says
        self.act = act
        self.client = client
        self.server = server
        self.counters = counters
        self.events = events
        self.needs = needs
        self.silent = silent


class Outcome:
    """The observations after one step."""

    def __init__(self) -> None:
        self.error: Optional[Failed] = None
        self.client: Expected = {}
        self.server: Expected = {}
        self.counters: dict[str, int] = {}
        self.events: Sequence[dict[str, object]] = ()
        self.expected_events: Sequence[dict[str, object]] = ()


class Script:
    """Runs steps one after the other, on the connection that ``connect`` makes."""

    def __init__(
        self, lab: Lab, connect: Callable[[Script], multipath.Ends], steps: Sequence[Step]
    ) -> None:
        self.bench = multipath.bench(lab)
        self.family = lab.family
        self.memory: dict[str, object] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._patience = PATIENCE_S
        self.bench.clean()
        self.bench.quiet()
        self.ends = connect(self)
        for step in steps:
            self.outcomes[step.name] = self._take(step)
        self.bench.finish(self.ends)
        self.bench.clean()

    def _take(self, step: Step) -> Outcome:
        since = mib.Since()
        self.bench.events.forget()
        outcome = Outcome()
        try:
            step.act(self)
        except Failed as reason:
            outcome.error = reason
            return outcome
        except OSError as error:
            outcome.error = Failed(step.name, "success", str(error))
            return outcome
        # What some kernels lack is not waited for on all.
        patience = SHORT_PATIENCE_S if step.needs else self._patience
        if not wait_until(lambda: self._look(step, outcome, since), patience) and not step.needs:
            self._patience = SHORT_PATIENCE_S
        return outcome

    def _look(self, step: Step, outcome: Outcome, since: mib.Since) -> bool:
        """Whether all is as the step says; what was seen is in ``outcome``."""
        outcome.client = _fields(self.ends.client, step.client)
        outcome.server = _fields(self.ends.server, step.server)
        as_said = outcome.client == _known(step.client, outcome.client)
        as_said = as_said and outcome.server == _known(step.server, outcome.server)
        if step.counters is not None:
            moved = since.moved()
            outcome.counters = {n: v for n, v in moved.items() if n not in multipath.IN_FLIGHT}
            as_said = as_said and outcome.counters == _shown(step.counters, since)
        if step.events is not None:
            outcome.expected_events = _sorted(step.events(self))
            outcome.events = self._events(outcome.expected_events, step.silent)
            as_said = as_said and list(outcome.events) == list(outcome.expected_events)
        return as_said

    def _events(self, expected: Events, silent: Sequence[int]) -> Events:
        """The events of this connection, each with what is expected of its kind."""
        sides = {self.ends.token: CLIENT, self.ends.server_token: SERVER, None: "none"}
        keys: dict[object, set[str]] = {kind: {"kind", "side"} for kind in silent}
        for one in expected:
            keys.setdefault(one["kind"], set()).update(one)
        found = []
        for event in self.bench.events.read():
            if event.kind in keys and event.token in sides:
                found.append(_projected(event, sides[event.token], keys[event.kind]))
        return _sorted(found)

    def records(self, side: str) -> Sequence[diag.Record]:
        pairs = multipath.addresses(getattr(self.ends, side))
        return [self.bench.diag.tcp(*pair) for pair in pairs]


def _projected(event: pm.Event, side: str, keys: set[str]) -> dict[str, object]:
    found: dict[str, object] = {"kind": event.kind, "side": side}
    for key in keys - {"kind", "side"}:
        if key in event.PORTS:
            found[key] = event.port(key)
        elif key in event.ADDRESSES:
            found[key] = event.address(key)
        else:
            found[key] = event.number(key)
    return found


def _sorted(events: Events) -> Events:
    return sorted(events, key=lambda one: sorted((k, str(v)) for k, v in one.items()))


def _fields(sock: object, expected: Optional[Expected]) -> Expected:
    """The expected fields as MPTCP_INFO has them; without those that the kernel lacks."""
    if not expected:
        return {}
    info = multipath.info(sock)  # type: ignore[arg-type]
    return {name: getattr(info, name) for name in expected if info.has(name)}


def _known(expected: Optional[Expected], found: Expected) -> Expected:
    return {name: value for name, value in (expected or {}).items() if name in found}


def _shown(expected: dict[str, int], since: mib.Since) -> dict[str, int]:
    """Without counters that the kernel does not have."""
    return {n: v for n, v in expected.items() if n in since.start or not since.start}


def register(
    prefix: str,
    scenario: str,
    connect: Callable[[Script], multipath.Ends],
    steps: Sequence[Step],
    needs: Sequence[str],
    families: Sequence[str] = ("ipv4", "ipv6"),
) -> None:
    """One check for each of ``steps``, which run on one connection."""

    def story(lab: Lab) -> Script:
        return multipath.bench(lab).story(prefix, lambda: Script(lab, connect, steps))

    for step in steps:
        _register(prefix, scenario, story, step, needs, families)


def _register(
    prefix: str,
    scenario: str,
    story: Callable[[Lab], Script],
    step: Step,
    needs: Sequence[str],
    families: Sequence[str],
) -> None:
    def function(lab: Lab) -> None:
        script = story(lab)
        for look in (_check_done, _check_info, _check_counters, _check_events):
            look(step, script.outcomes[step.name])

    function.__doc__ = step.says
    scenario_check(
        "%s.%s" % (prefix, step.name),
        scenario=scenario,
        needs=(*needs, *step.needs),
        families=families,
    )(function)


def _check_done(step: Step, outcome: Outcome) -> None:
    if outcome.error is not None:
        raise outcome.error


def _check_info(step: Step, outcome: Outcome) -> None:
    equal("client's MPTCP_INFO", outcome.client, _known(step.client, outcome.client))
    equal("server's MPTCP_INFO", outcome.server, _known(step.server, outcome.server))


def _check_counters(step: Step, outcome: Outcome) -> None:
    if step.counters is not None:
        now = mib.counters()
        expected = {n: v for n, v in step.counters.items() if n in now}
        equal("MPTcpExt counters that moved", outcome.counters, expected)


def _check_events(step: Step, outcome: Outcome) -> None:
    equal("events", outcome.events, outcome.expected_events)
