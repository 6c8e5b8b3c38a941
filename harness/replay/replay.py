# SPDX-License-Identifier: GPL-2.0-only
"""Boots a bundle's kernel, judges it like the matrix, and compares it with the bundle's failure."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guest import events
from harness.bundle import Bundle
from harness.errors import UsageError
from harness.host.architectures import ARCHITECTURES
from harness.kernels import Cache, PreparedKernel
from harness.manifest.entries import Accel, KernelEntry
from harness.manifest.known_issues import KnownIssues
from harness.replay import image
from harness.run import workspace as workspaces
from harness.run.attempts import Attempts, Options
from harness.run.request import Progress, RunRequest, Stage
from harness.verdict.failures import Again, Comparison, MachineUsed, Tried, compare
from harness.verdict.verdicts import EXIT_FAILED, EXIT_INFRASTRUCTURE, EXIT_OK, KernelVerdict
from harness.vm import accelerator, initramfs

Say = Callable[[str], None]


@dataclass(frozen=True)
class ReplayRequest:
    """The request of the user. ``qemu`` replaces the usual one; with ``vary``, both are used."""

    image: Path | None = None
    qemu: Path | None = None
    vary: bool = False
    times: int = 1


def run(
    bundle: Bundle,
    request: ReplayRequest,
    workspace: workspaces.Workspace,
    cache: Cache,
    say: Say,
    on_row: Callable[[ReplayRow], object],
    stop: threading.Event,
) -> tuple[Tried, ...]:
    """Boot the kernel of ``bundle`` again. Once ``stop`` is set, the remaining boots are left out.

    ``say`` gets each difference from the original boot, ``on_row`` each boot. Raises UsageError for
    wrong arguments and for the bundle's known issues, and KernelUnavailable.
    """
    name = ARCHITECTURES[bundle.entry.arch].qemu
    qemu = check_qemu(request.qemu, name) if request.qemu else None
    workspace.check(bundle.entry.user_space)
    own = workspace.qemus.get(bundle.entry.arch, workspace.qemu)
    kernel = replace(image.find(bundle, request.image, cache, say), arch=bundle.entry.arch)
    machines = Machines(kernel, own, cache, say, stop)
    cpus = bundle.entry.cpus
    if request.vary:
        other = qemu or another_qemu(own)
        choices = tuple(machines.varied(bundle.kvm, cpus, other))
    else:
        choices = (replace(machines, qemu=qemu or own).as_it_failed(bundle.kvm, cpus),)
    replay = _Replay(bundle, kernel, workspace, _checker(bundle, workspace, say), say, stop)
    return tuple(replay.on(choice, request.times, on_row) for choice in choices)


def exit_status(tried: Sequence[Tried]) -> int:
    """The exit status: 1 if any boot failed, 0 if none did and all were conclusive."""
    boots = [again for one in tried for again in one.again]
    if any(again.failed for again in boots):
        return EXIT_FAILED
    return EXIT_INFRASTRUCTURE if Again.UNTESTED in boots or not boots else EXIT_OK


class _Replay:
    """Boots the ``kernel`` of a bundle; ``extra`` makes the guest run the bundle's checker."""

    def __init__(
        self,
        bundle: Bundle,
        kernel: PreparedKernel,
        workspace: workspaces.Workspace,
        extra: Mapping[str, bytes],
        say: Say,
        stop: threading.Event,
    ) -> None:
        self._bundle = bundle
        self._kernel = kernel
        self._workspace = workspace
        self._extra = extra
        self._say = say
        self._stop = stop
        self._entry, self._known = _known_issues(bundle, workspace.directory)
        _compare_expectations(bundle, say)

    def on(self, choice: MachineChoice, times: int, on_row: Callable[[ReplayRow], object]) -> Tried:
        """Boot ``times`` times on the machine of ``choice``, one after another."""
        machine = choice.machine
        if choice.obstacle:
            return Tried(machine, (), choice.obstacle)
        again = []
        for number in range(1, times + 1):
            row = None if self._stop.is_set() else self._boot(choice, number)
            if row is None:
                break
            on_row(row)
            again.append(row.comparison.again)
        return Tried(machine, tuple(again))

    def _boot(self, choice: MachineChoice, number: int) -> ReplayRow | None:
        machine = choice.machine
        entry = replace(self._entry, cpus=machine.cpus)
        directory = self._directory(choice, number)
        options = self._options(choice, directory)
        result = Attempts(entry, self._kernel, choice.kvm, options, self._tell, self._stop).run()
        if result is None:
            return None
        last = result.attempts[-1].console if result.attempts else ""
        return ReplayRow(
            machine=machine,
            number=number,
            verdict=result.verdict,
            reason=result.reason,
            comparison=compare(self._bundle.result, result),
            seconds=result.timing.total_s,
            console=str(directory / last) if last else "",
        )

    def _directory(self, choice: MachineChoice, number: int) -> Path:
        own = self._workspace.qemus.get(self._entry.arch, self._workspace.qemu)
        other = "" if choice.qemu == own else "-other-qemu"
        name = f"{choice.machine.accel}-{choice.machine.cpus}{other}-{number}"
        return self._workspace.directory / name

    def _options(self, choice: MachineChoice, directory: Path) -> Options:
        asked = self._bundle.asked
        return Options(
            directory=directory,
            roots=self._workspace.roots,
            qemu=choice.qemu,
            qemus={self._entry.arch: choice.qemu},
            machines=self._workspace.machines,
            seed=asked.seed,
            jobs=1,
            request=RunRequest(asked.plan),
            known=self._known,
            extra=self._extra,
        )

    def _tell(self, progress: Progress) -> None:
        if progress.stage is Stage.RETRYING:
            self._say(progress.detail)


def _checker(bundle: Bundle, workspace: workspaces.Workspace, say: Say) -> dict[str, bytes]:
    """The files that replace the checker in the guest's root by that of ``bundle``."""
    installed = initramfs.checker()
    if bundle.checker == installed:
        if bundle.versions.get("guest") != workspace.base.stem:
            say("the guest's root differs from the failing boot's, in its Python or busybox")
        return {}
    names = {**installed, **bundle.checker}
    differing = [name for name in names if installed.get(name) != bundle.checker.get(name)]
    what = f"the checker of the bundle differs from the installed one in {', '.join(differing)}"
    if bundle.protocol != events.PROTOCOL:
        say(
            f"{what} and uses version {bundle.protocol} of the protocol, but this harness reads "
            f"version {events.PROTOCOL}: the installed one is used"
        )
        return {}
    say(f"{what}: the bundle's is used")
    return initramfs.instead_of_checker(bundle.checker)


def _known_issues(bundle: Bundle, directory: Path) -> tuple[KernelEntry, KnownIssues]:
    """The entry, and the known issues of ``bundle`` as of the day of its failure."""
    entry = bundle.entry
    if bundle.known_issues is not None:
        entry = replace(entry, known_issues=directory / "known_issues.yaml")
        (directory / "known_issues.yaml").write_bytes(bundle.known_issues)
    return entry, replace(KnownIssues.read([entry]), today=bundle.created.date())


def _compare_expectations(bundle: Bundle, say: Say) -> None:
    entry, release = bundle.entry, bundle.result.release
    expected = entry.expected(release)
    now = {name: expectation.present for name, expectation in expected.items()}
    changed = [name for name in now if bundle.expected.get(name, now[name]) != now[name]]
    if changed:
        say(f"this harness has different expectations of this kernel: {', '.join(changed)}")


#: Where a user may have installed one, besides PATH.
PLACES = ("/usr/local/bin", "/usr/bin", "/opt/qemu/bin", "/usr/local/qemu/bin")


@dataclass(frozen=True)
class MachineChoice:
    """A machine and its ``qemu``; ``obstacle`` says why it is not available, if so."""

    machine: MachineUsed
    qemu: Path
    obstacle: str = ""

    @property
    def kvm(self) -> bool:
        return self.machine.accel == "kvm"


@dataclass
class Machines:
    """The machines of this host for ``kernel``; ``qemu`` is the usual one."""

    kernel: PreparedKernel
    qemu: Path
    cache: Cache
    say: Callable[[str], None]
    stop: threading.Event

    def as_it_failed(self, kvm: bool, cpus: int) -> MachineChoice:
        """The machine closest to the failing one; ``say`` gets the differences."""
        if kvm:
            usable, why = self._kvm()
            if not usable:
                self.say(f"it failed under KVM but is booted under TCG: {why}")
                kvm = False
        return self._choice(self.qemu, kvm=kvm, cpus=cpus)

    def varied(self, kvm: bool, cpus: int, other: Path | None) -> Iterator[MachineChoice]:
        """Both accelerators, one and two processors, and QEMU ``other``; the failing one first."""
        usable, why = self._kvm()
        obstacle = "" if usable else f"KVM was not tried: {why}"
        numbers = sorted({1, 2, cpus}, key=lambda number: (number != cpus, number))
        for accel in (kvm, not kvm):
            for number in numbers:
                yield self._choice(
                    self.qemu, kvm=accel, cpus=number, obstacle=obstacle if accel else ""
                )
        if other is not None:
            yield self._choice(other, kvm=kvm and usable, cpus=cpus)

    def _choice(self, program: Path, *, kvm: bool, cpus: int, obstacle: str = "") -> MachineChoice:
        shown = accelerator.qemu_version(program, self.cache)
        if program != self.qemu:
            shown += f" ({program})"
        return MachineChoice(MachineUsed("kvm" if kvm else "tcg", cpus, shown), program, obstacle)

    def _kvm(self) -> tuple[bool, str]:
        """Whether to try KVM, and if not, why."""
        choice = accelerator.choose(
            *(Accel.AUTO, self.kernel, self.qemu, self.cache.root / "kvm.json"),
            self.say,
            self.stop,
        )
        # If only this kernel fails under KVM, that may be the failure itself.
        usable = choice.kvm or not choice.settled
        return usable, choice.why.partition(" because ")[2] or choice.why


def check_qemu(given: Path, name: str) -> Path:
    """``given`` as an absolute path. Raises :class:`UsageError`."""
    if given.name != name or not os.access(given, os.X_OK) or given.is_dir():
        raise UsageError(
            f"--qemu {given}: it is not a program named {name}, under which virtme-ng looks for "
            f"it; give one, or a symbolic link to it"
        )
    return given.absolute()


def another_qemu(first: Path) -> Path | None:
    """Another QEMU on this host than ``first``."""
    for directory in (*os.get_exec_path(), *PLACES):
        place = Path(directory, first.name)
        if os.access(place, os.X_OK) and place.is_file() and not place.samefile(first):
            return place.absolute()
    return None


@dataclass(frozen=True)
class ReplayRow:
    """A boot, the ``number``-th on its machine. ``console`` is "" if nothing was booted."""

    machine: MachineUsed
    number: int
    verdict: KernelVerdict
    reason: str
    comparison: Comparison
    seconds: float
    console: str
