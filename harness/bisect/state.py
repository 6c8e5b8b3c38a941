# SPDX-License-Identifier: GPL-2.0-only
"""The state of a bisect on the disk; after a kill, the same command continues.

Each question has a directory with one file of JSON lines; the first line is the question. A line is
on the disk before its content is used. An incomplete last line was being written when the harness
was killed: it is dropped with a message. Any other damage is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from harness.bisect.predicate import Checks, Outcome, Predicate
from harness.bisect.search import Boots
from harness.errors import Busy, Damaged
from harness.records import prune
from harness.verdict.verdicts import KernelVerdict

FORMAT = 1
FILE = "bisect.jsonl"
#: Every bisect writes less; a line has some hundred bytes.
MAX_BYTES = 64 << 20


Record = dict[str, Any]


class Journal:
    """The records of one bisect, oldest first; all its boots use ``seed``.

    :meth:`add` may be called from any thread.
    """

    def __init__(self, file: IO[bytes], seed: int, records: list[Record]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.seed = seed
        self.records = records

    def add(self, record: Record) -> None:
        """Write ``record``; it is on the disk when this returns. Raises OSError."""
        with self._lock:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.records.append(record)


def place(directory: Path, asked: str) -> Path:
    """The directory below ``directory`` of the bisect with the question ``asked``."""
    return directory / hashlib.sha256(asked.encode()).hexdigest()[:16]


@contextlib.contextmanager
def opened(
    directory: Path, asked: str, seed: int, say: Callable[[str], None], *, fresh: bool = False
) -> Iterator[Journal]:
    """The locked journal in ``directory``; a new one with ``seed`` if there is none, or if
    ``fresh``.

    Raises :class:`Damaged`, :class:`Busy` and OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(prune.in_use(directory))
        except Busy:
            raise Busy(
                f"another harness runs the same bisect (its state is in {directory}); wait for it, "
                f"or end it"
            ) from None
        path = directory / FILE
        if fresh:
            path.unlink(missing_ok=True)
        file = stack.enter_context(path.open("a+b"))
        records, whole = _read(file, path)
        if not records:
            file.truncate(0)
            journal = Journal(file, seed, [])
            journal.add({"e": "begin", "format": FORMAT, "asked": asked, "seed": seed})
            journal.records.clear()
        else:
            if whole < file.seek(0, os.SEEK_END):
                file.truncate(whole)
                say(f"the last line of {path} was incomplete and was dropped; its boot is repeated")
            journal = Journal(file, _begun(records[0], asked, path), records[1:])
        yield journal


def _read(file: IO[bytes], path: Path) -> tuple[list[Record], int]:
    """The complete records, and their length in bytes."""
    file.seek(0)
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _damaged(path, f"it is larger than {MAX_BYTES} bytes")
    records: list[Record] = []
    whole = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(record, dict) or "e" not in record:
                raise ValueError("no record")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise _damaged(path, f"line {number} cannot be read: {error}") from error
        records.append(record)
        whole += len(line)
    return records, whole


def _begun(first: Record, asked: str, path: Path) -> int:
    seed = first.get("seed")
    if first.get("e") != "begin" or first.get("format") != FORMAT or first.get("asked") != asked:
        raise _damaged(path, "its first line is of another bisect")
    if type(seed) is not int:
        raise _damaged(path, "its first line has no seed")
    return seed


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(f"{path}, the state of this bisect, is damaged: {why}; start again with --fresh")


_BOOT, _PREDICATE, _BUILD = "boot", "predicate", "build"
#: The outcomes, the most informative first.
_TELLING = (Outcome.BAD, Outcome.GOOD, Outcome.UNTESTABLE)


@dataclass(frozen=True)
class Made:
    """The outcome of one boot, or, with ``reused_from``, of a boot in that earlier run.

    ``round`` is 0 for the ends. ``seconds`` is the duration of the boot.
    """

    kernel: str
    outcome: Outcome
    why: str
    verdict: KernelVerdict
    round: int
    seconds: float
    reused_from: str = ""


class Evidence:
    """The outcomes for the kernels ``names``; adding one also writes it to the disk.

    Several threads may add outcomes. Failures of the host in an earlier bisect are discarded and
    tried again. Raises Damaged.
    """

    def __init__(self, journal: Journal, names: Sequence[str]) -> None:
        self._journal = journal
        self._names = names
        self._made: dict[str, list[Made]] = {name: [] for name in names}
        self.predicate: Predicate | None = None
        self.all: list[Made] = []
        self.unbuildable: set[str] = set()
        for record in journal.records:
            self._recall(record)

    def add(self, made: Made) -> None:
        """Store the outcome. Raises OSError."""
        self._journal.add({"e": _BOOT, **asdict(made)})
        self._note(made)

    def add_predicate(self, found: Checks) -> None:
        """Store the difference between the ends as the predicate."""
        self._journal.add({"e": _PREDICATE, "checks": found.globs})
        self.predicate = found

    def add_unbuildable(self, kernel: str, why: str) -> None:
        """Store that ``kernel`` cannot be built. Raises OSError."""
        self._journal.add({"e": _BUILD, "kernel": kernel, "why": why})
        self._note_unbuildable(kernel, why)

    @property
    def booted(self) -> int:
        """The number of boots of this bisect."""
        booted = (made for made in self.all if made.kernel not in self.unbuildable)
        return sum(1 for made in booted if not made.reused_from and _was_booted(made))

    @property
    def rounds(self) -> int:
        return max((made.round for made in self.all), default=0)

    def boots(self, place: int) -> Boots:
        outcomes = [made.outcome for made in self._of(place)]
        return Boots(
            outcomes.count(Outcome.GOOD),
            outcomes.count(Outcome.BAD),
            outcomes.count(Outcome.UNTESTABLE),
        )

    def why(self, place: int) -> str:
        """The reason of the most informative boot."""
        for outcome in _TELLING:
            for made in self._of(place):
                if made.outcome is outcome:
                    return made.why
        return ""

    def host_failed(self, place: int) -> bool:
        """Whether nothing is known about the kernel because the host failed."""
        made = self._of(place)
        return bool(made) and all(one.verdict is KernelVerdict.INFRASTRUCTURE for one in made)

    def reused_from(self, place: int) -> str:
        return next((made.reused_from for made in self._of(place) if made.reused_from), "")

    def seconds(self, place: int) -> float:
        """The duration of a boot of the kernel; 0 if there was none."""
        return max((made.seconds for made in self._of(place)), default=0.0)

    def _of(self, place: int) -> list[Made]:
        return self._made[self._names[place]]

    def _recall(self, record: Record) -> None:
        if record["e"] == _PREDICATE:
            self.predicate = _checks(record)
            return
        if record["e"] == _BUILD:
            self._note_unbuildable(*_unbuildable(record, self._made))
            return
        made = _made(record, self._made)
        if made.verdict is not KernelVerdict.INFRASTRUCTURE:
            self._note(made)

    def _note_unbuildable(self, kernel: str, why: str) -> None:
        self.unbuildable.add(kernel)
        verdict = KernelVerdict.BOOT_FAILURE
        self._note(Made(kernel, Outcome.UNTESTABLE, why, verdict, self.rounds, 0.0))

    def _note(self, made: Made) -> None:
        self.all.append(made)
        self._made[made.kernel].append(made)


def _was_booted(made: Made) -> bool:
    """Whether the kernel was booted; one that is not available was not."""
    return made.verdict is not KernelVerdict.INFRASTRUCTURE or made.seconds > 0


def _checks(record: Record) -> Checks:
    globs = record.get("checks")
    if not isinstance(globs, list) or not globs or not all(type(g) is str for g in globs):
        raise _odd(record)
    return Checks(tuple(globs))


def _unbuildable(record: Record, names: Collection[str]) -> tuple[str, str]:
    kernel, why = record.get("kernel"), record.get("why")
    if not isinstance(kernel, str) or not isinstance(why, str) or kernel not in names:
        raise _odd(record)
    return kernel, why


def _made(record: Record, names: Collection[str]) -> Made:
    """Parse ``record`` strictly; it must be of a kernel in ``names``."""
    told: dict[str, Any] = {name: value for name, value in record.items() if name != "e"}
    if record["e"] != _BOOT or told.keys() != {field.name for field in fields(Made)}:
        raise _odd(record)
    texts = (told["kernel"], told["why"], told["reused_from"])
    if not all(type(text) is str for text in texts) or told["kernel"] not in names:
        raise _odd(record)
    if type(told["round"]) is not int or type(told["seconds"]) not in (int, float):
        raise _odd(record)
    try:
        told["outcome"] = Outcome(told["outcome"])
        told["verdict"] = KernelVerdict(told["verdict"])
    except ValueError:
        raise _odd(record) from None
    return Made(**told)


def _odd(record: Record) -> Damaged:
    return Damaged(
        f"the state of this bisect has an invalid line ({str(record)[:200]}); start again with "
        f"--fresh"
    )
