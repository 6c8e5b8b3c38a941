# SPDX-License-Identifier: GPL-2.0-only
"""Event streams as a guest would send them, to be spoiled."""

from __future__ import annotations

from itertools import count
from typing import Any

from guest import events

NONCE = "0123456789abcdef"
ENTRIES = [
    ["mptcp_info.readable", "established", "client"],
    ["payload.arrives", "closed", "server"],
]


class Guest:
    """Writes a stream; each method adds what a sound guest would say next.

    Its clock is its own, so that the same calls give the same bytes.
    """

    def __init__(self) -> None:
        self.sent = b""
        times = count(1.0, 0.001)
        self._emitter = events.Emitter(self._write, lambda: next(times))

    def _write(self, data: bytes) -> None:
        self.sent += data

    @property
    def said(self) -> bytes:
        """With what waits for the next event."""
        return self.sent + self._emitter._pending

    def say(self, kind: str, **fields: Any) -> Guest:
        self._emitter.emit(kind, **fields)
        return self

    def hello(self, **changes: Any) -> Guest:
        fields = {
            "protocol": events.PROTOCOL,
            "nonce": NONCE,
            "release": "6.12.1",
            "version": "#1 SMP",
            "machine": "x86_64",
            "python": "3.11.2",
            "seed": 7,
            "taint": 0,
            **changes,
        }
        return self.say("hello", **fields)

    def capability(self, name: str = "mptcp", present: bool = True, family: str = "ipv4") -> Guest:
        return self.say("capability", name=name, family=family, present=present, detail="asked")

    def plan(
        self,
        entries: list[list[str]] | None = None,
        payload: str = "segment",
        scenario: bool = False,
    ) -> Guest:
        chosen = ENTRIES if entries is None else entries
        return self.say("plan", family="ipv4", payload=payload, scenario=scenario, entries=chosen)

    def check(self, index: int, verdict: str = events.PASS, **told: str) -> Guest:
        self.say("start", i=index)
        return self.say("result", i=index, verdict=verdict, **told)

    def further(self, number: int, verdicts: str = "pp", *told: dict[str, Any]) -> Guest:
        """A further round of one group, with the failures that are ``told``."""
        self.say("round", r=number, seed=7 + number).say("begin", g=0)
        for failure in told:
            self.say("failure", **failure)
        return self.say("finish", g=0).say("outcome", r=number, verdicts=verdicts)

    def end(self, results: int = len(ENTRIES), **changes: Any) -> Guest:
        fields = {"nonce": NONCE, "results": results, "rounds": 1, "taint": 0, **changes}
        return self.say("end", **fields)


def sound() -> bytes:
    """A whole stream of one family in which everything passes."""
    return Guest().hello().capability().plan().check(0).check(1).end().sent
