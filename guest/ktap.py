# SPDX-License-Identifier: GPL-2.0-only
"""The checker's events as KTAP 1: https://docs.kernel.org/dev-tools/ktap.html"""

from __future__ import annotations

from guest import checks, events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Sequence


class Ktap:
    """Prints events for people, in place of an :class:`~guest.events.Emitter`.

    Each capability has a line: skipped if it is absent, failed if it is absent but ``required``.
    All further rounds of ``repeated`` checks share the last line. A known bug of all kernels is
    expected to fail, which KTAP calls TODO.
    """

    def __init__(self, required: Sequence[str], repeated: bool = False) -> None:
        self._required = required
        self._repeated = repeated
        self._round = (0, 0)  # the number and the seed of the one under way
        self._rounds_failed: list[tuple[int, int]] = []
        self._capabilities: list[tuple[bool, str]] = []
        self._plan: list[str] = []
        self._bugs: dict[int, str] = {}
        self._number = 0
        self._failed = 0

    port = -1  # no process but this one prints

    def hold(self, on: bool) -> None:
        """Nothing waits here."""

    def emit(self, kind: str, **fields: Any) -> None:
        """One event, see :data:`guest.events.FIELDS`."""
        if kind == "note":
            print("# " + fields["text"])
        elif kind == "capability":
            self._capability(**fields)
        elif kind == "plan":
            for name, phase, side in fields["entries"]:
                bug = checks.bug_of(name)
                if bug:
                    self._bugs[len(self._plan)] = bug
                where = "%s/%s/%s" % (fields["payload"], phase, side)
                self._plan.append("%s %s (%s)" % (fields["family"], name, where))
        elif kind == "start" and not self._number:
            self._open()
        elif kind == "result":
            self._result(**fields)
        elif kind == "round":
            self._round = (fields["r"], fields["seed"])
        elif kind == "failure":
            self._failure(**fields)

    def finish(self) -> int:
        """Print what is left; returns how many lines are not ok."""
        if not self._number:
            self._open()
        if self._repeated:
            failed = len(self._rounds_failed)
            description = "%d further rounds, %d failed" % (self._round[0], failed)
            if failed:
                description += ", the first with --seed %d" % self._rounds_failed[0][1]
            self._line(not failed, description)
        return self._failed

    def _open(self) -> None:
        print("1..%d" % (len(self._capabilities) + len(self._plan) + self._repeated))
        for good, description in self._capabilities:
            self._line(good, description)

    def _capability(self, name: str, family: str, present: bool, detail: str) -> None:
        description = "%s capability.%s" % (family, name)
        good = present or name not in self._required
        if detail:
            description += " # SKIP " + detail if good and not present else " (%s)" % detail
        self._capabilities.append((good, description))

    def _result(self, i: int, verdict: str, **told: str) -> None:
        description = self._plan[i]
        if verdict == events.UNSUPPORTED:
            description += " # SKIP " + told.pop("detail", "")
        expected = verdict == events.FAIL and i in self._bugs
        if expected:
            description += " # TODO known bug: " + self._bugs[i]
        self._line(verdict in (events.PASS, events.UNSUPPORTED), description, expected)
        self._tell(told)

    def _failure(self, i: int, verdict: str, **told: str) -> None:
        if self._round not in self._rounds_failed[-1:]:
            self._rounds_failed.append(self._round)
        print("# round %d, seed %d: %s: %s" % (*self._round, verdict, self._plan[i]))
        self._tell(told)

    def _tell(self, told: Mapping[str, str]) -> None:
        for name, text in told.items():
            if text:
                print("# %s: %s" % (name, text))

    def _line(self, good: bool, description: str, expected: bool = False) -> None:
        self._number += 1
        self._failed += not good and not expected
        print("%s %d - %s" % ("ok" if good else "not ok", self._number, description), flush=True)
