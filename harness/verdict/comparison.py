# SPDX-License-Identifier: GPL-2.0-only
"""The differences between two kernels, or between two runs. Pure, no I/O.

A result from which nothing was learned cannot be compared. That is reported and differs from "no
difference". Known issues (:mod:`harness.manifest.known_issues`) are not new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from harness.verdict.results import CheckKey, CheckResult, Incident, KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict

#: Prefix of the checks that the host adds, one for each capability and family.
CAPABILITY = "capability."


class ChangeKind(StrEnum):
    """How a check's result changed; worst first."""

    FAILING = "newly failing"
    LOST = "newly lost"
    ERROR = "newly in error"
    COUNTING = "no longer known"  # it failed before too, but did not count
    UNSUPPORTED = "newly unsupported"
    KNOWN = "newly failing, known"  # does not count
    PASSING = "newly passing"
    SUPPORTED = "newly supported"


@dataclass(frozen=True)
class Change:
    """A check that changed in one way, at ``places`` out of ``compared`` that both results have.

    Each place is the pair of results before and after, with the same key.
    """

    kind: ChangeKind
    check: str
    places: tuple[tuple[CheckResult, CheckResult], ...]
    compared: int

    @property
    def is_worse(self) -> bool:
        """Whether the check newly fails, newly counts, or passed before and gives no result now.

        A check that was lost or in error before is not worse.
        """
        if self.kind in (ChangeKind.FAILING, ChangeKind.COUNTING):
            return True
        if self.kind in (ChangeKind.LOST, ChangeKind.ERROR):
            return any(not before.weight.is_bad for before, _ in self.places)
        if self.kind is ChangeKind.UNSUPPORTED:
            return any(before.verdict is CheckVerdict.PASS for before, _ in self.places)
        return False


@dataclass(frozen=True)
class CapabilityChange:
    """A capability that was gained, lost or altered, in ``families``.

    ``failing`` is set if it is a failure after the change; ``known`` says why that does not count
    (:mod:`harness.manifest.known_issues`).
    """

    name: str
    families: tuple[Family, ...]
    before: bool
    after: bool
    before_detail: str
    after_detail: str
    failing: bool = False
    known: str = ""

    @property
    def is_worse(self) -> bool:
        return self.failing or (self.is_lost and not self.known)

    @property
    def is_lost(self) -> bool:
        return self.before and not self.after

    @property
    def is_gained(self) -> bool:
        return self.after and not self.before


@dataclass(frozen=True)
class Pace:
    """The seconds of the same phase before and after; 0 if it was not measured."""

    what: str
    before_s: float
    after_s: float

    @property
    def ratio(self) -> float | None:
        """The ratio of after to before; None unless both were measured."""
        if self.before_s <= 0 or self.after_s <= 0:
            return None
        return self.after_s / self.before_s


@dataclass(frozen=True)
class Difference:
    """The differences from ``before`` to ``after``.

    ``cannot`` says why they cannot be compared; then everything else is empty. ``still`` are the
    checks that count as bad in both. ``only_before`` and ``only_after`` are results that only one
    of them has; they are not compared.
    """

    before: KernelResult
    after: KernelResult
    cannot: str = ""
    changes: tuple[Change, ...] = ()
    capabilities: tuple[CapabilityChange, ...] = ()
    new_incidents: tuple[Incident, ...] = ()
    gone_incidents: tuple[Incident, ...] = ()
    still: tuple[str, ...] = ()
    only_before: tuple[CheckKey, ...] = ()
    only_after: tuple[CheckKey, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lost(self) -> tuple[CapabilityChange, ...]:
        return tuple(change for change in self.capabilities if change.is_lost)

    @property
    def gained(self) -> tuple[CapabilityChange, ...]:
        return tuple(change for change in self.capabilities if change.is_gained)

    @property
    def altered(self) -> tuple[CapabilityChange, ...]:
        """Capabilities whose presence did not change but whose answer did, such as a size."""
        return tuple(change for change in self.capabilities if change.before == change.after)

    @property
    def paces(self) -> tuple[Pace, ...]:
        then, now = self.before.timing, self.after.timing
        return (
            Pace("boot", then.boot_s, now.boot_s),
            Pace("checks", then.checks_s, now.checks_s),
        )

    @property
    def verdict_is_worse(self) -> bool:
        """Whether the kernel's verdict is worse because of checks that were compared."""
        if self.cannot or _rank(self.after.verdict) >= _rank(self.before.verdict):
            return False
        return not self.verdict_is_of_the_rest

    @property
    def verdict_is_of_the_rest(self) -> bool:
        """Whether ``after`` fails only because of checks that ``before`` does not have."""
        return (
            self.after.verdict is KernelVerdict.FAIL
            and bool(self.only_after)
            and not self.still
            and not any(after.weight.is_bad for c in self.changes for _, after in c.places)
            and not any(capability.failing for capability in self.capabilities)
        )

    @property
    def is_worse(self) -> bool:
        """Whether something is newly wrong."""
        return (
            self.verdict_is_worse
            or bool(self.new_incidents)
            or any(change.is_worse for change in self.changes)
            or any(change.is_worse for change in self.capabilities)
        )

    @property
    def is_same(self) -> bool:
        """Whether everything that was compared is equal; times are ignored."""
        return not (
            self.cannot
            or self.changes
            or self.capabilities
            or self.new_incidents
            or self.gone_incidents
            or self.before.verdict is not self.after.verdict
        )


@dataclass(frozen=True)
class RunDifference:
    """The differences between two runs, kernel by kernel, in the order of ``after``.

    ``new`` are the kernels that only ``after`` has. ``gone`` are the names of those that ``after``
    was not meant to test, and ``missing`` of those that it did not reach because it was
    interrupted. ``cannot`` is as in :class:`Difference`.
    """

    before: RunResult
    after: RunResult
    cannot: str = ""
    kernels: tuple[Difference, ...] = ()
    new: tuple[KernelResult, ...] = ()
    gone: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_worse(self) -> bool:
        """Whether something is newly wrong, including a new kernel that misses its expected
        verdict."""
        return any(kernel.is_worse for kernel in self.kernels) or any(
            not kernel.verdict.as_expected and kernel.verdict is not KernelVerdict.INFRASTRUCTURE
            for kernel in self.new
        )

    @property
    def is_complete(self) -> bool:
        """Whether every kernel of ``after`` was tested, and compared if ``before`` has it."""
        untested = [k for k in self.new if k.verdict is KernelVerdict.INFRASTRUCTURE]
        return not (
            self.cannot or self.missing or untested or any(kernel.cannot for kernel in self.kernels)
        )


def kernels(before: KernelResult, after: KernelResult) -> Difference:
    """The differences from ``before`` to ``after``: two kernels, or one kernel in two runs."""
    then, now = _by_key(before), _by_key(after)
    cannot = _untested(before) or _untested(after)
    if not cannot and then and now and not then.keys() & now.keys():
        cannot = (
            f"{before.name} and {after.name} have no check in common; test both with the same "
            f"--check and --family"
        )
    if cannot:
        return Difference(before, after, cannot)
    common = [(result, now[key]) for key, result in then.items() if key in now]
    # A failure that is no longer known counts for the first time.
    counted = {incident.fingerprint for incident in before.incidents if not incident.known}
    seen = {incident.fingerprint for incident in after.incidents}
    return Difference(
        before,
        after,
        changes=_changes(common),
        capabilities=_capabilities(before, after, common),
        new_incidents=_each_once(
            i for i in after.incidents if i.fingerprint not in counted and not i.known
        ),
        gone_incidents=_each_once(i for i in before.incidents if i.fingerprint not in seen),
        still=_names(
            new.key.id
            for old, new in common
            if new.weight.is_bad and new.verdict is old.verdict and not old.known
        ),
        only_before=tuple(key for key in then if key not in now),
        only_after=tuple(key for key in now if key not in then),
        notes=_notes(before, after),
    )


def runs(before: RunResult, after: RunResult) -> RunDifference:
    """The differences from ``before`` to ``after``; kernels are matched by name."""
    then = {kernel.name: kernel for kernel in before.kernels}
    now = {kernel.name for kernel in after.kernels}
    missing = tuple(name for name in after.missing if name not in now)
    cannot = ""
    if not now & then.keys():
        cannot = f"the runs {before.id} and {after.id} have no kernel in common"
    return RunDifference(
        before,
        after,
        cannot,
        kernels=tuple(kernels(then[k.name], k) for k in after.kernels if k.name in then),
        new=tuple(kernel for kernel in after.kernels if kernel.name not in then),
        gone=tuple(name for name in then if name not in now and name not in missing),
        missing=missing,
        notes=tuple(
            f"{what} {old or 'unknown'} before, {new or 'unknown'} after"
            for what, old, new in (
                ("mptcp-harness", before.harness_version, after.harness_version),
                ("QEMU", before.qemu, after.qemu),
                ("virtme-ng", before.virtme_ng, after.virtme_ng),
                ("host:", before.host, after.host),
            )
            if old != new
        ),
    )


def kind_of(before: CheckResult, after: CheckResult) -> ChangeKind | None:
    """How a check changed at one place; None if it did not."""
    if after.known:
        return None if before.verdict is after.verdict else ChangeKind.KNOWN
    if before.verdict is after.verdict:
        return ChangeKind.COUNTING if before.known else None
    match after.verdict:
        case CheckVerdict.FAIL:
            return ChangeKind.FAILING
        case CheckVerdict.LOST:
            return ChangeKind.LOST
        case CheckVerdict.ERROR:
            return ChangeKind.ERROR
        case CheckVerdict.UNSUPPORTED:
            return ChangeKind.UNSUPPORTED
        case CheckVerdict.PASS:
            return ChangeKind.PASSING if before.verdict.is_bad else ChangeKind.SUPPORTED


def _changes(common: Iterable[tuple[CheckResult, CheckResult]]) -> tuple[Change, ...]:
    """The changes, worst kinds first, each with its checks in the order of the plan."""
    compared: dict[str, int] = {}
    found: dict[tuple[ChangeKind, str], list[tuple[CheckResult, CheckResult]]] = {}
    for before, after in common:
        compared[after.key.id] = compared.get(after.key.id, 0) + 1
        kind = kind_of(before, after)
        if kind is not None and not _is_told_by_capability(before, after):
            found.setdefault((kind, after.key.id), []).append((before, after))
    order = list(ChangeKind)
    changes = [
        Change(kind, check, tuple(places), compared[check])
        for (kind, check), places in found.items()
    ]
    return tuple(sorted(changes, key=lambda change: order.index(change.kind)))


def _is_told_by_capability(before: CheckResult, after: CheckResult) -> bool:
    """Whether ``capability.NAME`` changed because the capability was gained or lost."""
    then, now = _presence(before), _presence(after)
    return then is not None and now is not None and then != now


def _capabilities(
    before: KernelResult,
    after: KernelResult,
    common: Iterable[tuple[CheckResult, CheckResult]],
) -> tuple[CapabilityChange, ...]:
    """The changed capabilities, lost ones first. Families with the same change are joined."""
    alike: dict[CapabilityChange, list[Family]] = {}
    told = set()
    for old, new in common:
        then, now = _presence(old), _presence(new)
        if then is None or now is None:
            continue
        name = new.key.id.removeprefix(CAPABILITY)
        told.add(name)
        if then != now or _answer(old) != _answer(new):
            failing = then != now and new.weight.is_bad
            change = CapabilityChange(
                name, (), then, now, _answer(old), _answer(new), failing, new.known
            )
            alike.setdefault(change, []).append(new.key.family)
    for name, present in before.capabilities.items():  # of the kernel, not of a family
        if name not in told and after.capabilities.get(name, present) != present:
            alike[CapabilityChange(name, (), present, not present, "", "")] = []
    changes = [replace(change, families=tuple(of)) for change, of in alike.items()]
    return tuple(sorted(changes, key=lambda c: (not c.is_lost, not c.is_gained)))


def _presence(result: CheckResult) -> bool | None:
    """Whether ``capability.NAME`` found it; None if it gave no answer, or for another check."""
    if not result.key.id.startswith(CAPABILITY):
        return None
    match result.verdict:
        case CheckVerdict.PASS:
            return True
        case CheckVerdict.UNSUPPORTED:
            return False
        case CheckVerdict.FAIL if result.expected in ("present", "absent"):
            return result.expected == "absent"
    return None


def _answer(result: CheckResult) -> str:
    """A description of the kernel's answer, without the expectation."""
    if result.verdict is CheckVerdict.FAIL:
        return result.got.partition(": ")[2]
    return result.detail


def _by_key(kernel: KernelResult) -> Mapping[CheckKey, CheckResult]:
    return {check.key: check for family in kernel.families.values() for check in family.checks}


def _rank(verdict: KernelVerdict) -> int:
    """The rank of a verdict; lower is worse, and all expected verdicts are equal."""
    return len(KernelVerdict) if verdict.as_expected else list(KernelVerdict).index(verdict)


def _untested(kernel: KernelResult) -> str:
    if kernel.verdict is not KernelVerdict.INFRASTRUCTURE:
        return ""
    return f"{kernel.name} could not be tested: {kernel.reason}"


def _each_once(incidents: Iterable[Incident]) -> tuple[Incident, ...]:
    return tuple({incident.fingerprint: incident for incident in incidents}.values())


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _notes(before: KernelResult, after: KernelResult) -> tuple[str, ...]:
    """Notes for a reader who compares the two."""
    said = []
    if before.image_sha256 and before.image_sha256 == after.image_sha256:
        said.append("both are the same image")
    if before.accel and after.accel and before.accel != after.accel:
        said.append(
            f"{before.accel.upper()} before, {after.accel.upper()} after: times are not comparable"
        )
    for when, kernel in (("before", before), ("after", after)):
        if kernel.reused_from is not None:
            said.append(
                f"the result {when} was reused from run {kernel.reused_from.run}: "
                "its times are not known"
            )
        if kernel.confirmed is not None:
            said.append(f"confirmed {when}: {kernel.confirmed} boots")
    return tuple(said)
