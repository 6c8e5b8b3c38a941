# SPDX-License-Identifier: GPL-2.0-only
"""Results: pure data, without I/O.

Missing data is the worst case: a planned check without a result is ``lost``, and a boot whose
stream has no closing event cannot pass. The rules are in :mod:`harness.verdict.judge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Self

from harness.verdict.verdicts import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    CheckVerdict,
    Family,
    KernelVerdict,
)

# A run of sixty kernels holds a hundred thousand of these two, so they have slots.


@dataclass(frozen=True, order=True, slots=True)
class CheckKey:
    """The subject of one result. ``payload`` names the size of the transfer (``byte``, …)."""

    family: Family
    id: str
    payload: str
    phase: str
    side: str

    def __str__(self) -> str:
        where = "/".join(part for part in (self.payload, self.phase, self.side) if part)
        return f"{self.family} {self.id} ({where})" if where else f"{self.family} {self.id}"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The verdict on one check. ``expected``, ``got`` and ``raw`` (hexadecimal) are set if it
    failed.

    ``known`` says until when and why a failure does not count: see
    :mod:`harness.manifest.known_issues`.
    """

    key: CheckKey
    verdict: CheckVerdict
    detail: str = ""
    expected: str = ""
    got: str = ""
    raw: str = ""
    known: str = ""

    @property
    def weight(self) -> CheckVerdict:
        """The verdict as it counts for the family: a known failure counts as a pass."""
        return CheckVerdict.PASS if self.known else self.verdict


@dataclass(frozen=True)
class Capability:
    """What the guest found by probing: ``present`` in ``family``, or in the whole kernel (None)."""

    name: str
    family: Family | None
    present: bool
    detail: str = ""


@dataclass(frozen=True)
class Expectation:
    """Whether a capability is expected, and ``why`` (a kernel version, or the manifest).

    ``strict`` is set if the manifest declares it: then presence is a failure if absence was
    declared. An expectation by version never fails because of a backport.
    """

    present: bool
    why: str
    strict: bool = False


class IncidentKind(StrEnum):
    PANIC = "panic"
    OOPS = "oops"
    BUG = "bug"
    GPF = "general-protection-fault"
    WARNING = "warning"
    KASAN = "kasan"
    KCSAN = "kcsan"
    KFENCE = "kfence"
    KMEMLEAK = "kmemleak"
    UBSAN = "ubsan"
    LOCKDEP = "lockdep"
    RCU = "rcu"
    SOFT_LOCKUP = "soft-lockup"
    HARD_LOCKUP = "hard-lockup"
    HUNG_TASK = "hung-task"
    PAGE_ALLOCATION = "page-allocation"
    OUT_OF_MEMORY = "out-of-memory"
    REFCOUNT = "refcount"
    ATOMIC_SLEEP = "scheduling-while-atomic"
    TAINT = "taint"

    @property
    def is_crash(self) -> bool:
        return self in (
            IncidentKind.PANIC,
            IncidentKind.OOPS,
            IncidentKind.BUG,
            IncidentKind.GPF,
        )


@dataclass(frozen=True)
class Incident:
    """A report on the console. ``fingerprint`` is the same for the same bug in another boot.

    ``environment`` marks a panic that is due to the boot environment, not the kernel: no root, no
    init. ``known`` is as in :class:`CheckResult`.
    """

    kind: IncidentKind
    title: str
    fingerprint: str
    excerpt: str
    check: str | None = None
    environment: bool = False
    known: str = ""


class BootEnd(Enum):
    """How a boot ended, as the host saw it."""

    POWERED_OFF = "the VM powered off"
    LAUNCH_FAILED = "QEMU did not start the kernel"
    VMM_DIED = "QEMU died"
    BOOT_DEADLINE = "the guest did not start in time"
    SILENCE_DEADLINE = "the guest fell silent"
    TOTAL_DEADLINE = "the boot exceeded its deadline"
    POWER_OFF_DEADLINE = "the VM did not power off"
    STREAM_LIMIT = "the guest sent more than is allowed"
    INTERRUPTED = "interrupted"
    PANICKED = "the kernel panicked and did not reboot"


@dataclass(frozen=True)
class RoundFailures:
    """One result that was bad in ``count`` rounds, ``first`` in the round with ``seed``.

    In ``errors`` of them the check itself is broken.
    """

    key: CheckKey
    count: int
    first: int
    seed: int
    errors: int = 0


@dataclass(frozen=True)
class CutRound:
    """A round that did not complete; ``during`` names what was being checked."""

    number: int
    seed: int
    during: str = ""

    def __str__(self) -> str:
        return f"{self.during or 'the start'} in round {self.number}, seed {self.seed}"


@dataclass(frozen=True)
class Rounds:
    """The rounds of a boot with repeated checks; they count from 0.

    ``failed`` of the ``done`` rounds had a bad result. ``by_check`` has, for each check, the number
    of rounds in which it was bad at any place.
    """

    asked: int
    done: int
    failed: int = 0
    by_check: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[RoundFailures, ...] = ()
    cut: CutRound | None = None


class ProgramEnd(StrEnum):
    """How a program that the guest ran after the checks ended."""

    EXIT = "exit"
    SIGNAL = "signal"
    DEADLINE = "deadline"  # it was killed
    NOT_RUN = "not-run"  # the guest's kernel could not execute it
    LOST = "lost"  # the guest did not report it


@dataclass(frozen=True)
class ProgramRun:
    """The result of such a program as the guest reports it. ``output`` is the end of its output."""

    end: ProgramEnd
    status: int = 0  # exit status or signal
    seconds: float = 0.0
    output: str = ""


@dataclass(frozen=True)
class Stream:
    """The content of the guest's event stream, verified against the protocol.

    ``errors`` are violations of the protocol, in order; a single one makes the boot ``lost``.
    ``results`` has every planned result, missing ones as ``lost``. ``running`` names what was
    running when the stream stopped. ``times_ms`` has the guest's time at ``hello``, at the first
    check of a connection in each family (``ipv4``, ``ipv6``), at the first check of a scenario
    (``scenarios``), at the second round (``rounds``) and at ``end``. ``rounds`` is set if the
    checks were to be repeated.
    """

    said_hello: bool = False
    closed: bool = False
    release: str = ""
    version: str = ""
    python: str = ""
    seed: int | None = None
    capabilities: tuple[Capability, ...] = ()
    results: tuple[CheckResult, ...] = ()
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    new_taint: int = 0  # bits of /proc/sys/kernel/tainted set between hello and end
    times_ms: Mapping[str, int] = field(default_factory=dict)  # since boot
    rounds: Rounds | None = None
    running: str = ""
    programs: tuple[ProgramRun, ...] = ()  # those that ended, in the order in which they ran


@dataclass(frozen=True)
class Phase:
    """A phase of a boot and its duration; docs/performance.md explains the names."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """One boot, kept whether or not it decided the verdict. Paths are relative to the run.

    ``verdict`` is the verdict of this boot alone; None before it is judged.
    """

    number: int
    end: BootEnd
    detail: str = ""
    kernel_spoke: bool = False  # the console showed the kernel's own banner
    accel: str = ""
    stream: Stream = field(default_factory=Stream)
    incidents: tuple[Incident, ...] = ()
    console: str = ""
    events: str = ""
    command: tuple[str, ...] = ()
    boot_s: float = 0.0  # from the start of virtme-ng to hello
    checks_s: float = 0.0  # from hello to end
    total_s: float = 0.0
    phases: tuple[Phase, ...] = ()
    verdict: KernelVerdict | None = None
    stopped_s: float = 0.0  # in which the harness was stopped; not stored


@dataclass(frozen=True)
class FamilyResult:
    verdict: CheckVerdict
    checks: tuple[CheckResult, ...]


@dataclass(frozen=True)
class Timing:
    """Seconds."""

    prepare_s: float = 0.0
    boot_s: float = 0.0
    checks_s: float = 0.0
    total_s: float = 0.0
    phases: tuple[Phase, ...] = ()  # the preparation, and the phases of the attempt that decided


@dataclass(frozen=True)
class EarlierRun:
    """The run that a result was reused from: its id, when the kernel was finished, its directory.

    ``finished`` is ISO 8601 in UTC, ``total_s`` the duration of its boots. The directory may have
    been removed since.
    """

    run: str
    finished: str
    seed: int
    directory: str
    total_s: float = 0.0


@dataclass(frozen=True)
class Confirmed:
    """``bad`` of ``boots`` conclusive boots of a kernel missed its expected verdict."""

    boots: int
    bad: int

    def __str__(self) -> str:
        return f"{'flaky' if self.bad < self.boots else 'fails'} {self.bad} of {self.boots}"


@dataclass(frozen=True)
class CrossCheck:
    """The result of a program for one family; ``agrees`` is None if the program says nothing.

    ``program`` is its command line; ``detail`` says how it ended, and whether it agrees.
    """

    program: str
    family: Family
    run: ProgramRun
    agrees: bool | None
    detail: str

    def __str__(self) -> str:
        return f"cross-check: {self.program}: {self.detail}"


@dataclass(frozen=True)
class MissingFix:
    """A mainline fix that a kernel lacks, as the ``checks`` show.

    ``commit`` has 12 digits; ``fixed_in`` is the mainline version that has it.
    """

    commit: str
    title: str
    fixed_in: str
    checks: tuple[str, ...]


@dataclass(frozen=True)
class KernelResult:
    """The result of one kernel. ``confirmed`` is set if a bad result was confirmed."""

    name: str
    verdict: KernelVerdict
    reason: str
    release: str = ""
    version: str = ""
    origin: str = ""
    image_sha256: str = ""
    accel: str = ""
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    families: Mapping[Family, FamilyResult] = field(default_factory=dict)
    incidents: tuple[Incident, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()
    timing: Timing = field(default_factory=Timing)
    reused_from: EarlierRun | None = None
    confirmed: Confirmed | None = None
    rounds: Rounds | None = None
    missing_fixes: tuple[MissingFix, ...] = ()
    cross_checks: tuple[CrossCheck, ...] = ()
    abi: str = "native"  # of the guest's user space
    host: str = ""  # that tested it, if not the run's
    arch: str = "amd64"

    @property
    def is_unfinished(self) -> bool:
        """Whether it was interrupted after good rounds only, which is not enough for a result."""
        interrupted = self.attempts and self.attempts[-1].end is BootEnd.INTERRUPTED
        return bool(interrupted) and self.verdict is KernelVerdict.INFRASTRUCTURE

    @property
    def known(self) -> tuple[str, ...]:
        """The known issues that occurred."""
        return known_issues_of(self.families, self.incidents)

    def phase_s(self, name: str) -> float:
        """The seconds of a phase of the boot that decided; 0 if it was not measured."""
        return sum(phase.seconds for phase in self.timing.phases if phase.name == name)

    @classmethod
    def infrastructure(cls, name: str, reason: str, **known: object) -> Self:
        """The result of a kernel about which nothing was learned."""
        return cls(name, KernelVerdict.INFRASTRUCTURE, reason, **known)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Shard:
    """Part ``number``, from 1, of the ``of`` parts of a list of ``kernels``, which are names.

    ``manifest`` is the digest of their entries.
    """

    number: int
    of: int
    kernels: tuple[str, ...] = ()
    manifest: str = ""

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class RunResult:
    """A whole run. Times are ISO 8601 in UTC; ``host``, ``qemu``, … are for people.

    ``missing`` names the kernels without a result if the run was interrupted. ``asked`` is the
    canonical question (harness.records.reuse), ``code`` a hash of the code that judged, and
    ``shard`` is set if the run was part of a larger one; all are empty in older records.
    """

    id: str
    started: str
    finished: str
    harness_version: str
    host: str
    qemu: str
    virtme_ng: str
    accel: str
    seed: int
    kernels: tuple[KernelResult, ...]
    directory: str = ""
    interrupted: bool = False
    missing: tuple[str, ...] = ()
    startup_s: float = 0.0  # from the start of the process to the first preparation
    notes: tuple[str, ...] = ()
    asked: str = ""
    code: str = ""
    shard: Shard | None = None


MAX_INCIDENTS = 50
#: The start of a check's ``known`` if a missing fix explains its failure.
KNOWN_BUG = "known bug of this kernel"


def exit_status(run: RunResult) -> int:
    """The exit status of ``run``; a bad kernel outweighs one that could not be tested."""
    verdicts = [kernel.verdict for kernel in run.kernels]
    if run.interrupted:
        return EXIT_INTERRUPTED
    if any(not v.as_expected and v is not KernelVerdict.INFRASTRUCTURE for v in verdicts):
        return EXIT_FAILED
    if KernelVerdict.INFRASTRUCTURE in verdicts:
        return EXIT_INFRASTRUCTURE
    if not verdicts and run.shard is None:  # there may be more shards than kernels
        return EXIT_INFRASTRUCTURE
    return EXIT_OK


def known_issues_of(
    families: Mapping[Family, FamilyResult], incidents: Sequence[Incident]
) -> tuple[str, ...]:
    """The ``known`` texts of the checks of ``families`` and of ``incidents``, each once."""
    checks = [check.known for result in families.values() for check in result.checks]
    said = dict.fromkeys([*checks, *(incident.known for incident in incidents)])
    return tuple(text for text in said if text)


def merge_capabilities(found: Sequence[Capability]) -> dict[str, bool]:
    """Capabilities by name; present only if present in every family that was probed."""
    merged: dict[str, bool] = {}
    for capability in found:
        merged[capability.name] = merged.get(capability.name, True) and capability.present
    return merged
