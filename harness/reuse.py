# SPDX-License-Identifier: GPL-2.0-only
"""Results of earlier runs, by the circumstances that they came about in.

A kernel need not be booted again where nothing changed on which its result depends: image and
modules, the guest, what was asked of it, the machine around it, what is expected, and the code
that judges. All of that makes the key of a file below ``results`` in the cache. Every result is
kept but those that say nothing about a kernel; only good ones take the place of a boot.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import __version__
from harness.capabilities import expectations
from harness.kernels import Cache, PreparedKernel, files
from harness.known_issues import KnownIssues, digest
from harness.manifest import DebSource, KernelEntry
from harness.report.as_json import kernel_text
from harness.report.from_json import Fields, Malformed, earlier_run, kernel_from_json
from harness.results import EarlierRun, Family, KernelResult, KernelVerdict, Timing

#: Of the files and of the keys: a file of another harness is found by no key, or refused.
FORMAT = 1
#: How many results in the same circumstances must have been good for the next to be reused.
STEADY = 3
_HEAD = '{{"sha256": "{}", "record": '
_TAIL = "}\n"


@dataclass(frozen=True)
class Setting:
    """What the kernels of a run share. ``seed`` is None where each run has a seed of its own."""

    base: str  # the key of the guest's root, see harness.vm.initramfs
    qemu: str
    virtme_ng: str
    families: tuple[Family, ...]
    checks: tuple[str, ...]
    payload: int | None
    seed: int | None
    known: KnownIssues = field(default_factory=KnownIssues)


@dataclass(frozen=True)
class Answer:
    """``result``, to be shown instead of a boot; if None, ``why`` is what is to be said, if any."""

    result: KernelResult | None = None
    why: str = ""


@dataclass(frozen=True)
class _Record:
    """A file's content; ``before`` are the verdicts in the same circumstances, newest first."""

    run: EarlierRun
    before: tuple[KernelVerdict, ...]
    kernel: KernelResult

    @property
    def verdicts(self) -> tuple[KernelVerdict, ...]:
        return (self.kernel.verdict, *self.before)


class Results:
    """The results in ``cache`` for a run in ``setting``; ``run`` is what is noted of new ones."""

    def __init__(self, cache: Cache, setting: Setting, run: EarlierRun) -> None:
        self._cache = cache
        self._setting = setting
        self._run = run

    def find(self, entry: KernelEntry, kernel: PreparedKernel, *, kvm: bool) -> Answer:
        """The last result of ``entry`` in these circumstances, as ``kernel`` is called now."""
        circumstances = circumstances_of(entry, kernel, self._setting, kvm=kvm)
        place = self._place(circumstances)
        try:
            record = _read(place, circumstances)
        except FileNotFoundError:
            return Answer()
        except (OSError, Malformed) as error:
            return Answer(None, f"the kept result in {place} is of no use ({error}): testing again")
        if not record.kernel.verdict.as_expected:
            return Answer(None, f"the last result was {record.kernel.verdict}: testing again")
        if len(set(record.verdicts)) > 1:
            several = ", ".join(record.verdicts)
            return Answer(None, f"the last results were {several}: testing again")
        files.touch(place)
        return Answer(_renewed(record, entry, kernel))

    def keep(self, entry: KernelEntry, kernel: PreparedKernel, result: KernelResult) -> None:
        """Keep ``result``, which a boot of ``kernel`` had, unless nothing was learned by it.

        Raises OSError where the disk does not take it.
        """
        if result.verdict is KernelVerdict.INFRASTRUCTURE:
            return
        kvm = result.accel == "kvm"
        circumstances = circumstances_of(entry, kernel, self._setting, kvm=kvm)
        place = self._place(circumstances)
        try:
            before = _verdicts(_open(place, circumstances))[: STEADY - 1]
        except (OSError, ValueError):
            before = ()
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {
            "format": FORMAT,
            "circumstances": circumstances,
            "run": asdict(replace(self._run, finished=finished)),
            "before": list(before),
        }
        # In this order: what stands last is already text.
        text = json.dumps(record, allow_nan=False).removesuffix("}")
        text += f', "kernel": {kernel_text(result)}}}'
        files.write_atomically(place, _HEAD.format(_sha256(text)) + text + _TAIL)

    def _place(self, circumstances: Mapping[str, Any]) -> Path:
        return self._cache.directory("results") / f"{key(circumstances)}.json"


def circumstances_of(
    entry: KernelEntry, kernel: PreparedKernel, setting: Setting, *, kvm: bool
) -> dict[str, Any]:
    """All that a result depends on, as JSON has it.

    Where a kernel lies is not among it, its name only where known issues may go by that.
    """
    known = setting.known.of(entry)
    expected = expectations(kernel.release, isinstance(entry.source, DebSource), entry.expect)
    return {
        "format": FORMAT,
        "harness": [__version__, judging()],
        "image": kernel.image_sha256,
        # An image boots as it is or unpacked, see harness.kernels.assemble.
        "unpacked": kernel.boot_image.name != kernel.image.name,
        "modules": list(kernel.modules_sha256),
        "base": setting.base,
        "qemu": setting.qemu,
        "virtme_ng": setting.virtme_ng,
        "accel": "kvm" if kvm else "tcg",
        "cpus": entry.cpus,
        "memory_mib": entry.memory_mib,
        "timeout_s": entry.timeout_s,
        "append": list(entry.append),
        "families": [family.value for family in setting.families],
        "checks": list(setting.checks),
        "payload": setting.payload,
        "seed": "random" if setting.seed is None else setting.seed,
        "expect": {name: [e.present, e.strict] for name, e in expected.items()},
        "known_issues": digest(known, entry.name, setting.known.today) if known else None,
    }


def key(circumstances: Mapping[str, Any]) -> str:
    """SHA-256 of ``circumstances``, in the one way to write them down."""
    return _sha256(json.dumps(circumstances, sort_keys=True, separators=(",", ":")))


@functools.cache
def judging() -> str:
    """SHA-256 of the code by which the harness boots and judges, so that a change of it counts."""
    here = Path(__file__).parent
    names = ("judge.py", "keeper.py", "known_issues.py", "programs.py", "results.py")
    sources = [*(here / name for name in names), *sorted((here / "vm").glob("*.py"))]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.name} {hashlib.sha256(source.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _renewed(record: _Record, entry: KernelEntry, kernel: PreparedKernel) -> KernelResult:
    """The result of ``record`` as one of this run: its boots and their times were another's."""
    return replace(
        record.kernel,
        name=entry.name,
        version=kernel.version,
        origin=kernel.origin,
        attempts=(),
        timing=Timing(),
        reused_from=record.run,
    )


def _read(place: Path, circumstances: Mapping[str, Any]) -> _Record:
    """Raises :class:`Malformed` for all that :meth:`Results.keep` did not write there."""
    try:
        given = _open(place, circumstances)
        record = _Record(
            run=earlier_run(given.fields("run")),
            before=tuple(map(KernelVerdict, given.texts("before"))),
            kernel=kernel_from_json(given.take("kernel", dict)),
        )
        given.end()
    except ValueError as error:
        raise Malformed(str(error)) from error
    if record.kernel.reused_from is not None:
        raise Malformed("it was reused itself")
    return record


def _open(place: Path, circumstances: Mapping[str, Any]) -> Fields:
    """The record in the file ``place``, if that is whole and of ``circumstances``; else Malformed.

    Of the record itself only the outermost members are known.
    """
    try:
        text = place.read_bytes().decode("ascii")
        start = len(_HEAD.format("0" * 64))
        body = text[start:].removesuffix(_TAIL)
        if text[:start] != _HEAD.format(_sha256(body)):
            raise Malformed("it is damaged")
        given = Fields("the file", json.loads(body))
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from error
    if given.take("format", int) != FORMAT:
        raise Malformed("it is of another version")
    if given.take("circumstances", dict) != circumstances:
        raise Malformed("it is of other circumstances")
    return given


def _verdicts(given: Fields) -> tuple[KernelVerdict, ...]:
    """Of the record in ``given`` and of those before it, newest first. Raises ValueError."""
    last = Fields("the result", given.take("kernel", dict)).text("verdict")
    return tuple(map(KernelVerdict, (last, *given.texts("before"))))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
