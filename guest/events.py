# SPDX-License-Identifier: GPL-2.0-only
"""The event vocabulary: the one contract between the guest and the host.

A stream is a sequence of lines, each one JSON object in ASCII. Every event carries ``e``
(its kind), ``n`` (its place in the stream, from 0, without gaps) and ``t`` (the guest's
``CLOCK_MONOTONIC`` in milliseconds, so time since boot). The other fields of each kind are
in :data:`FIELDS`. A well-formed stream is

    hello, (note | capability)*, plan*, (start | result | alive | at)*, further*, run*, end
    further = round, (begin | failure | finish | alive)*, outcome
    run = program, alive*, ended

Each ``plan`` event names the results of one group, in order: those of a connection, or of a
scenario in one family. Results are numbered over all plan events, and groups in the order of these.
``start`` says that a check begins to run, ``result`` how it went. Within a group results come in
order, one check at a time; groups run at the same time, so that events of several interleave. The
verdict ``lost`` needs no ``start``: the check was not run, because the process that runs its group
stopped, and ``detail`` says why.

``at`` has neither ``n`` nor ``t``: the process that runs a group writes it, before each check but
the first, while its parent writes all other events some time later. It names the check that a
crash is charged to, and decides nothing else.

Where the checks are repeated, this was round 0, and each further round goes through the same plan
with :func:`round_seed`. It says little, so that there can be hundreds a minute: that the checks of
group ``g`` ``begin`` and ``finish``, the ``failure`` of a check in full for the first
:data:`MAX_FAILURES` of a round, and as ``outcome`` a letter of :data:`LETTERS` for each planned
result, in order. ``end`` counts the rounds, round 0 too.

``program`` says that run ``p`` of those programs begins which the host wants run after the checks,
``ended`` how it ended (``exit``, ``signal``, ``deadline``, ``not-run``), with its exit status or
signal, and the end of what it wrote.

``alive`` is sent where checks or such a program run and nothing else was said for
:data:`ALIVE_S` seconds. Only ``end`` with the nonce that the host chose for this boot closes a
stream.

The guest uses :class:`Emitter`, the host :func:`parse`.
"""

from __future__ import annotations

import time

# typing costs 0.2 s to import in an emulated VM; a checker treats this name as true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping, Optional, Sequence, Union

    Value = Union[str, int, bool, Sequence["Value"]]

PROTOCOL = 3
#: A line longer than this, in bytes and with its newline, is refused by the host.
MAX_LINE = 128 * 1024
#: Longest text the guest puts into one field; more is cut, and said.
MAX_TEXT = 2048
#: Bytes that a virtio port takes in one write (port_fops_write() of drivers/char/virtio_console.c).
#: A longer one is made in pieces, between which the process of a scenario may write ``at``.
ATOMIC = 32 * 1024
#: Entries of one plan event, so that its line stays below MAX_LINE; a longer group is split.
MAX_ENTRIES = 500
#: Seconds of silence after which the guest says that it is alive.
ALIVE_S = 2.0

PASS = "pass"
FAIL = "fail"
UNSUPPORTED = "unsupported"
ERROR = "error"
LOST = "lost"
#: What a guest may say of a check.
VERDICTS = (PASS, FAIL, UNSUPPORTED, ERROR, LOST)
#: What fails a run.
BAD = (FAIL, ERROR, LOST)
#: A verdict in an ``outcome``.
LETTERS = {PASS: "p", FAIL: "f", UNSUPPORTED: "u", ERROR: "e", LOST: "l"}
#: Of each further round so many failures are told in full, at most.
MAX_FAILURES = 16

#: Fields of each kind of event beside ``e``, ``n`` and ``t``; ``?`` marks one that may be absent.
FIELDS: Mapping[str, Mapping[str, type]] = {
    "hello": {
        "protocol": int,
        "nonce": str,
        "release": str,
        "version": str,
        "machine": str,
        "python": str,
        "seed": int,
        "taint": int,
    },
    "note": {"text": str},
    # family is "" for what belongs to the whole kernel
    "capability": {"name": str, "family": str, "present": bool, "detail": str},
    # payload: of the connection, or the scenario's name; entries: [check id, phase, side] each
    "plan": {"family": str, "payload": str, "scenario": bool, "entries": list},
    "start": {"i": int},
    "result": {
        "i": int,
        "verdict": str,
        "detail?": str,
        "expected?": str,
        "got?": str,
        "raw?": str,
    },
    "round": {"r": int, "seed": int},
    "begin": {"g": int},
    "finish": {"g": int},
    "failure": {
        "i": int,
        "verdict": str,
        "detail?": str,
        "expected?": str,
        "got?": str,
        "raw?": str,
    },
    "outcome": {"r": int, "verdicts": str},
    "program": {"p": int},
    "ended": {"p": int, "how": str, "status": int, "ms": int, "output": str},
    "alive": {},
    "at": {"i": int},
    "end": {"nonce": str, "results": int, "rounds": int, "taint": int},
}


#: Told by the next event that cannot wait: of use to nobody before.
WAITING = ("result", "round", "failure", "finish", "outcome")


def round_seed(seed: int, number: int) -> int:
    """The seed of round ``number`` in a run with ``seed``: the next one each time.

    Round 0 has the run's own, so that a run with the seed of any round begins with that round.
    """
    return (seed + number) % (1 << 63)


class Malformed(Exception):
    """A line that is not an event of this vocabulary; the text says why."""


def parse(line: bytes) -> dict[str, Any]:
    """The event on ``line`` as a dict with exactly the fields of its kind.

    Raises :class:`Malformed` for anything else: not ASCII, not JSON, unknown kind, a field
    missing, unknown or of another type, nested where flat is meant.
    """
    global _parser
    if _parser is None:
        _parser = _Parser()
    return _parser.parse(line)


class _Parser:
    """Parses lines, on the host's side only: json imports re, which costs a VM 0.1 s."""

    def __init__(self) -> None:
        import json
        import re

        self._decode = json.JSONDecoder(object_pairs_hook=_unique).decode
        # Nearly all lines are of two forms, for which this says what JSON would say.
        number = rb'"%s":(0|[1-9][0-9]{0,17})'
        numbers = b",".join([number % name for name in (b"n", b"t", b"i")])
        usual = rb'\{"e":"(start|result)",' + numbers + rb'(,"verdict":"pass")?\}\n?'
        self._usual = re.compile(usual).fullmatch
        #: The fields that an event of each kind must and may have, with their types.
        self._wanted: dict[str, dict[str, type]] = {}
        self._known: dict[str, dict[str, type]] = {}
        for kind, fields in FIELDS.items():
            base: dict[str, type] = {"e": str} if kind == "at" else {"e": str, "n": int, "t": int}
            wanted = {name: of for name, of in fields.items() if not name.endswith("?")}
            self._wanted[kind] = {**base, **wanted}
            self._known[kind] = {**base, **{name.rstrip("?"): of for name, of in fields.items()}}

    def parse(self, line: bytes) -> dict[str, Any]:
        found = self._usual(line)
        if found is not None:
            kind, n, t, i, verdict = found.groups()
            if kind == b"start" and verdict is None:
                return {"e": "start", "n": int(n), "t": int(t), "i": int(i)}
            if kind == b"result" and verdict is not None:
                return {"e": "result", "n": int(n), "t": int(t), "i": int(i), "verdict": PASS}
        if len(line) > MAX_LINE:
            raise Malformed("line of %d bytes, at most %d allowed" % (len(line), MAX_LINE))
        try:
            event = self._decode(line.decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise Malformed("not JSON in ASCII: %s" % error) from None
        if not isinstance(event, dict):
            raise Malformed("not an object")
        kind = event.get("e")
        if not isinstance(kind, str) or kind not in FIELDS:
            raise Malformed("unknown kind of event %r" % (kind,))
        self._check_fields(kind, event)
        _check_values(event)
        return event

    def _check_fields(self, kind: str, event: dict[str, Any]) -> None:
        known = self._known[kind]
        for name, value in event.items():
            expected = known.get(name)
            if expected is None:
                raise Malformed("%s: unknown field %r" % (kind, name))
            if type(value) is not expected:  # a bool is an int to isinstance()
                text = "%s: field %r is not of type %s"
                raise Malformed(text % (kind, name, expected.__name__))
            if type(value) is int and not -(1 << 63) <= value < 1 << 63:
                raise Malformed("%s: field %r does not fit into 64 bits" % (kind, name))
        for name in self._wanted[kind]:
            if name not in event:
                raise Malformed("%s: field %r is missing" % (kind, name))


#: Made for the first line.
_parser: Optional[_Parser] = None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    event = dict(pairs)
    if len(event) != len(pairs):
        raise ValueError("a key stands twice")
    return event


def _check_values(event: dict[str, Any]) -> None:
    if event["e"] == "result" and event["verdict"] not in VERDICTS:
        raise Malformed("result: unknown verdict %r" % event["verdict"])
    if event["e"] == "failure" and event["verdict"] not in BAD:
        raise Malformed("failure: %r is none" % event["verdict"])
    if event["e"] == "plan":
        for entry in event["entries"]:
            if not (
                isinstance(entry, list)
                and len(entry) == 3
                and all(isinstance(part, str) for part in entry)
            ):
                raise Malformed("plan: an entry is not [check, phase, side]")


def encode(fields: Mapping[str, Value]) -> bytes:
    """``fields``, whose names are words, as one line of ASCII JSON.

    Without the json package (see :func:`parse`).
    """
    parts = ['"' + name + '":' + _value(value) for name, value in fields.items()]
    return ("{" + ",".join(parts) + "}\n").encode("ascii")


def _value(value: Value) -> str:
    if isinstance(value, str):
        return _quoted.get(value) or _text(value)
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return "%d" % value
    return "[" + ",".join([_value(item) for item in value]) + "]"


#: Names of checks, phases and sides, and other words: a plan has each many times.
_quoted: dict[str, str] = {}
#: The length that no word has, and the most words that are kept.
_WORD, _WORDS = 60, 2000


def _text(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        quoted = '"' + text + '"'
        if len(text) < _WORD and len(_quoted) < _WORDS:
            _quoted[text] = quoted
        return quoted
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    """As JSON has it. By hand, for the root of a VM lacks the codec for UTF-16."""
    if character.isascii() and character.isprintable() and character not in '"\\':
        return character
    code = ord(character)
    if code < 0x10000:
        return "\\u%04x" % code
    code -= 0x10000
    return "\\u%04x\\u%04x" % (0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF))


class Emitter:
    """Writes events to ``write``, numbered and stamped.

    Events of :data:`WAITING` wait for the next one, so that a check costs one write: its result is
    of use to nobody before the next check starts, but the start of a check must be out before
    the check can take the kernel down. Of a further round, so must that of a group's.

    ``port`` is the descriptor that ``write`` writes to, where forked processes may do so, too.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        clock: Callable[[], float] = time.monotonic,
        port: int = -1,
    ) -> None:
        self._write = write
        self._held = False
        self.port = port
        self._clock = clock
        self._number = 0
        self._pending = b""

    def emit(self, kind: str, **fields: Value) -> None:
        """Write one event; strings longer than :data:`MAX_TEXT` are cut."""
        line = self._line(kind, fields, MAX_TEXT)
        if len(line) > ATOMIC and kind in ("result", "failure"):
            line = self._line(kind, fields, MAX_TEXT // 4)
        self._number += 1
        self._pending += line
        if kind not in WAITING and not self._held:
            self._flush()

    def hold(self, on: bool) -> None:
        """Let all events wait until they are held no longer."""
        self._held = on
        if not on and self._pending:
            self._flush()

    def _line(self, kind: str, fields: Mapping[str, Value], most: int) -> bytes:
        # Put together here, for encode() takes twice as long, and there are thousands.
        # Most of them are of two kinds.
        if kind == "start":
            line = '{"e":"start","n":%d,"t":%d,"i":%d}\n'
            return (line % (self._number, self._clock() * 1000, fields["i"])).encode("ascii")
        if kind == "result" and fields["verdict"] == PASS and len(fields) == 2:
            line = '{"e":"result","n":%d,"t":%d,"i":%d,"verdict":"pass"}\n'
            return (line % (self._number, self._clock() * 1000, fields["i"])).encode("ascii")
        line = '{"e":"%s","n":%d,"t":%d' % (kind, self._number, self._clock() * 1000)
        for name, value in fields.items():
            if isinstance(value, str) and len(value) > most and name != "verdicts":
                value = value[:most] + "... (%d characters in all)" % len(value)
            line += ',"' + name + '":' + _value(value)
        return (line + "}\n").encode("ascii")

    def _flush(self) -> None:
        """Write what waits, in whole lines."""
        pending, self._pending = self._pending, b""
        while len(pending) > ATOMIC:
            end = pending.rfind(b"\n", 0, ATOMIC) + 1 or pending.find(b"\n") + 1
            self._write(pending[:end])
            pending = pending[end:]
        if pending:
            self._write(pending)


def at(index: int) -> bytes:
    """The event of that name, as its line."""
    return b'{"e":"at","i":%d}\n' % index
