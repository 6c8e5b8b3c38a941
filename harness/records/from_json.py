# SPDX-License-Identifier: GPL-2.0-only
"""The inverse of :mod:`harness.records.to_json`: reads results of kernels, and whole runs.

The input may be damaged, edited or from another version. Anything that does not have exactly the
right shape is refused, so that nothing becomes a pass by default.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from harness.errors import Malformed
from harness.manifest import fingerprint
from harness.records.to_json import SCHEMA, boot_end_word
from harness.verdict.results import (
    Attempt,
    BootEnd,
    CheckKey,
    CheckResult,
    Confirmed,
    CrossCheck,
    CutRound,
    EarlierRun,
    FamilyResult,
    Incident,
    IncidentKind,
    KernelResult,
    MissingFix,
    Phase,
    ProgramEnd,
    ProgramRun,
    RoundFailures,
    Rounds,
    RunResult,
    Shard,
    Stream,
    Timing,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict

_T = TypeVar("_T")


class Fields:
    """A JSON object whose members are taken one by one, with their types checked."""

    def __init__(self, where: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise Malformed(f"{where} is not an object")
        self._where = where
        self._left = dict(value)

    def take(self, name: str, kind: type[_T]) -> _T:
        """The member ``name``, which must be exactly of type ``kind``: 1 is neither True nor
        1.0."""
        if name not in self._left:
            raise Malformed(f"{self._where} lacks {name!r}")
        value = self._left.pop(name)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise Malformed(f"{self._where}: {name!r} is not of type {kind.__name__}")
        return value

    def text(self, name: str) -> str:
        return self.take(name, str)

    def word(self, name: str, words: Callable[[str], _T]) -> _T:
        """The member ``name`` as one of a closed set."""
        text = self.take(name, str)
        try:
            return words(text)
        except (ValueError, KeyError) as error:
            raise Malformed(f"{self._where}: {name!r} cannot be {text[:64]!r}") from error

    def optional_word(self, name: str, words: Callable[[str], _T]) -> _T | None:
        """As :meth:`word`, for a member that may be null but not absent."""
        if self._left.get(name, ...) is None:
            del self._left[name]
            return None
        return self.word(name, words)

    def has(self, name: str) -> bool:
        return name in self._left

    def optional(self, name: str, kind: type[_T]) -> _T | None:
        """The member ``name``, which may be null but not absent."""
        if self._left.get(name, ...) is None:
            del self._left[name]
            return None
        return self.take(name, kind)

    def later(self, name: str, kind: type[_T]) -> _T | None:
        """As :meth:`optional`, for a member that records of older harnesses lack."""
        return self.optional(name, kind) if name in self._left else None

    def added(self, name: str, kind: type[_T], otherwise: _T) -> _T:
        """As :meth:`take`; ``otherwise`` is the value for records of older harnesses, which lack
        it."""
        return self.take(name, kind) if name in self._left else otherwise

    def fields(self, name: str) -> Fields:
        return Fields(f"{self._where}.{name}", self.take(name, dict))

    def each(
        self, name: str, make: Callable[[Fields], _T], *, since: bool = False
    ) -> tuple[_T, ...]:
        """The objects in the list ``name``, converted by ``make``; with ``since``, older records
        lack it."""
        items: list[Any] = self.added(name, list, []) if since else self.take(name, list)
        return tuple(make(Fields(f"{self._where}.{name}[{i}]", x)) for i, x in enumerate(items))

    def texts(self, name: str) -> tuple[str, ...]:
        items = self.take(name, list)
        if not all(type(item) is str for item in items):
            raise Malformed(f"{self._where}: {name!r} contains something other than text")
        return tuple(items)

    def mapping(self, name: str, kind: type[_T]) -> dict[str, _T]:
        """The object ``name``, whose members have arbitrary names and one type."""
        items = self.fields(name)
        return {key: items.take(key, kind) for key in list(items._left)}

    def end(self) -> None:
        """Raise Malformed if a member was not taken."""
        if self._left:
            raise Malformed(f"{self._where} has {next(iter(self._left))!r}, which is unknown")


_ENDS = {boot_end_word(end): end for end in BootEnd}
#: Added to the record of a run by ``check --against``; not part of the run.
COMPARISON = "comparison"
_CHECK = ("id", "phase", "side", "verdict", "detail")
_CHECK_MORE = ("payload", "expected", "got", "raw", "known")


def kernel_from_json(value: Any, *, checks: bool = True) -> KernelResult:
    """The result in ``value``, which was read from JSON. Raises :class:`Malformed`.

    JSON has only the errors of an attempt's stream, and not whether an incident is due to the
    environment; the rest is as in a new :class:`Stream` and :class:`Incident`.
    """
    try:
        return _kernel(Fields("kernel", value), checks)
    except RecursionError as error:
        raise Malformed("kernel: nested too deeply") from error


def kernel_from_text(text: str, *, checks: bool = True) -> KernelResult:
    """The result in the JSON ``text``; without ``checks``, which take most of the time, its
    families have none. Raises :class:`Malformed`."""
    try:
        return kernel_from_json(json.loads(text), checks=checks)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"kernel: not JSON: {error}") from error


def run_from_text(text: str) -> RunResult:
    """The run in the JSON ``text``. Raises :class:`Malformed`."""
    try:
        return _whole(json.loads(text))
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON: {error}") from error


def _kernel(given: Fields, checks: bool) -> KernelResult:
    families = given.mapping("families", dict)
    result = KernelResult(
        name=given.text("name"),
        verdict=given.word("verdict", KernelVerdict),
        reason=given.text("reason"),
        release=given.text("release"),
        version=given.text("version"),
        origin=given.text("origin"),
        image_sha256=given.text("image_sha256"),
        accel=given.text("accel"),
        capabilities=given.mapping("capabilities", bool),
        families=dict(_family(name, value, checks) for name, value in families.items()),
        incidents=given.each("incidents", _incident),
        attempts=given.each("attempts", _attempt),
        notes=given.texts("notes"),
        timing=_timing(given.fields("timing")),
        reused_from=_earlier(given.optional("reused_from", dict)),
        confirmed=_confirmed(given.optional("confirmed", dict)),
        rounds=_rounds(given.later("rounds", dict)),
        missing_fixes=given.each("missing_fixes", _missing_fix, since=True),
        cross_checks=given.each("cross_checks", _cross_check, since=True),
        abi=given.added("abi", str, "native"),
        host=given.added("host", str, ""),
        arch=given.added("arch", str, "amd64"),
    )
    given.end()
    return result


def _missing_fix(given: Fields) -> MissingFix:
    fix = MissingFix(
        commit=given.text("commit"),
        title=given.text("title"),
        fixed_in=given.text("fixed_in"),
        checks=given.texts("checks"),
    )
    given.end()
    return fix


def _cross_check(given: Fields) -> CrossCheck:
    run = ProgramRun(
        end=given.word("end", ProgramEnd),
        status=given.take("status", int),
        seconds=given.take("seconds", float),
        output=given.text("output"),
    )
    found = CrossCheck(
        program=given.text("program"),
        family=given.word("family", Family),
        run=run,
        agrees=given.optional("agrees", bool),
        detail=given.text("detail"),
    )
    given.end()
    return found


def _earlier(value: dict[str, Any] | None) -> EarlierRun | None:
    if value is None:
        return None
    given = Fields("kernel.reused_from", value)
    run = EarlierRun(
        run=given.text("run"),
        finished=given.text("finished"),
        seed=given.take("seed", int),
        directory=given.text("directory"),
        total_s=given.added("total_s", float, 0.0),
    )
    given.end()
    return run


def _confirmed(value: dict[str, Any] | None) -> Confirmed | None:
    if value is None:
        return None
    given = Fields("kernel.confirmed", value)
    confirmed = Confirmed(given.take("boots", int), given.take("bad", int))
    given.end()
    return confirmed


def _rounds(value: dict[str, Any] | None) -> Rounds | None:
    if value is None:
        return None
    given = Fields("kernel.rounds", value)
    rounds = Rounds(
        asked=given.take("asked", int),
        done=given.take("done", int),
        failed=given.take("failed", int),
        by_check=given.mapping("by_check", int),
        failures=given.each("failures", _round_failures),
        cut=_cut(given.optional("cut", dict)),
    )
    given.end()
    return rounds


def _round_failures(given: Fields) -> RoundFailures:
    key = CheckKey(
        given.word("family", Family),
        *(given.text(name) for name in ("check", "payload", "phase", "side")),
    )
    numbers = (given.take(name, int) for name in ("count", "first", "seed", "errors"))
    failures = RoundFailures(key, *numbers)
    given.end()
    return failures


def _cut(value: dict[str, Any] | None) -> CutRound | None:
    if value is None:
        return None
    given = Fields("kernel.rounds.cut", value)
    cut = CutRound(given.take("number", int), given.take("seed", int), given.text("during"))
    given.end()
    return cut


def _family(name: str, value: Mapping[str, Any], checks: bool) -> tuple[Family, FamilyResult]:
    where = f"kernel.families.{name[:16]}"
    given = Fields(where, value)
    try:
        family = Family(name)
    except ValueError as error:
        raise Malformed(f"{where} is unknown") from error
    verdict = given.word("verdict", CheckVerdict)
    listed = given.take("checks", list)
    given.end()
    found = tuple(_check(where, family, check) for check in listed) if checks else ()
    return family, FamilyResult(verdict, found)


def _check(where: str, family: Family, value: Any) -> CheckResult:
    """A kernel has a thousand checks, most of them equal in all kernels, so Fields is too slow."""
    if not isinstance(value, dict):
        raise Malformed(f"{where}: a check is not an object")
    try:
        return _shared_check(family, tuple(value), tuple(value.values()))
    except (TypeError, ValueError) as error:  # TypeError: a value that is not even hashable
        raise Malformed(f"{where}: a check: {error}") from error


@functools.lru_cache(maxsize=4096)
def _shared_check(
    family: Family, names: tuple[str, ...], values: tuple[object, ...]
) -> CheckResult:
    """Text only equals text, so an entry found in the cache was validated."""
    given: dict[str, Any] = dict(zip(names, values, strict=True))
    strange = given.keys() - {*_CHECK, *_CHECK_MORE} or set(_CHECK) - given.keys()
    if strange or not all(type(text) is str for text in values):
        raise ValueError(f"its members are not {', '.join(_CHECK)} as text, and some more")
    key = CheckKey(family, given["id"], given.get("payload", ""), given["phase"], given["side"])
    said = {name: given.get(name, "") for name in ("detail", "expected", "got", "raw", "known")}
    return CheckResult(key, CheckVerdict(given["verdict"]), **said)


def _incident(given: Fields) -> Incident:
    incident = Incident(
        kind=given.word("kind", IncidentKind),
        title=given.text("title"),
        fingerprint=given.text("fingerprint"),
        excerpt=given.text("excerpt"),
        check=given.optional("check", str),
        known=given.text("known"),
    )
    given.end()
    return incident


def _attempt(given: Fields) -> Attempt:
    attempt = Attempt(
        number=given.take("number", int),
        end=given.word("end", _ENDS.__getitem__),
        verdict=given.optional_word("verdict", KernelVerdict),
        detail=given.text("detail"),
        accel=given.text("accel"),
        stream=Stream(errors=given.texts("errors")),
        console=given.text("console"),
        events=given.text("events"),
        command=given.texts("command"),
        boot_s=given.take("boot_s", float),
        checks_s=given.take("checks_s", float),
        total_s=given.take("total_s", float),
        phases=given.each("phases", _phase),
    )
    given.end()
    return attempt


def _timing(given: Fields) -> Timing:
    timing = Timing(
        prepare_s=given.take("prepare_s", float),
        boot_s=given.take("boot_s", float),
        checks_s=given.take("checks_s", float),
        total_s=given.take("total_s", float),
        phases=given.each("phases", _phase),
    )
    given.end()
    return timing


def _phase(given: Fields) -> Phase:
    phase = Phase(given.text("name"), given.take("seconds", float))
    given.end()
    return phase


# A whole run.


def _whole(value: Any) -> RunResult:
    if isinstance(value, dict):
        value = {name: member for name, member in value.items() if name != COMPARISON}
    given = Fields("record", value)
    schema = given.take("schema", int)
    if schema != SCHEMA:
        raise Malformed(f"its schema is {schema}, but this mptcp-harness reads {SCHEMA}")
    head = given.fields("run")
    kernels = given.take("kernels", list)
    given.end()
    run = _run(head, kernels)
    names = [kernel.name for kernel in run.kernels]
    if len(set(names)) < len(names):
        raise Malformed("two kernels have the same name")
    return run


def _run(given: Fields, kernels: list[Any]) -> RunResult:
    timing = given.fields("timing")
    question = given.later("asked", dict)
    asked = fingerprint.text(question) if question is not None else ""
    run = RunResult(
        id=given.text("id"),
        started=given.text("started"),
        finished=given.text("finished"),
        harness_version=given.text("harness_version"),
        host=given.text("host"),
        qemu=given.text("qemu"),
        virtme_ng=given.text("virtme_ng"),
        accel=given.text("accel"),
        seed=given.take("seed", int),
        interrupted=given.take("interrupted", bool),
        missing=given.texts("missing"),
        directory=given.text("directory"),
        startup_s=timing.take("startup_s", float),
        notes=given.texts("notes"),
        kernels=tuple(kernel_from_json(kernel) for kernel in kernels),
        asked=asked,
        code=given.added("code", str, ""),
        shard=shard_in(asked),
    )
    timing.end()
    given.end()
    return run


def shard_in(asked: str) -> Shard | None:
    """The shard that the canonical question ``asked`` is about, if any. Raises Malformed."""
    value = json.loads(asked).get("shard") if asked else None
    if value is None:
        return None
    given = Fields("record.run.asked.shard", value).fields(Shard.__name__)
    shard = Shard(
        given.take("number", int),
        given.take("of", int),
        given.texts("kernels"),
        given.text("manifest"),
    )
    given.end()
    return shard
