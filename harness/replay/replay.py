# SPDX-License-Identifier: GPL-2.0-only
"""The boots of a replay, judged as the matrix judges, and compared with the bundle's failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guest import events
from harness.bundle import Bundle
from harness.kernels import Cache, PreparedKernel
from harness.manifest.kernels_yaml import KernelEntry
from harness.manifest.known_issues import KnownIssues
from harness.replay import image
from harness.replay.machines import Choice, Machines, Row, another_qemu, check_qemu
from harness.run import workspace
from harness.run.attempts import Attempts, Options
from harness.run.progress import Progress, Stage
from harness.run.request import RunRequest
from harness.verdict.dependence import Tried
from harness.verdict.reproduction import Again, compare
from harness.verdict.results import EXIT_FAILED, EXIT_INFRASTRUCTURE, EXIT_OK
from harness.vm import initramfs

Say = Callable[[str], None]


@dataclass(frozen=True)
class ReplayRequest:
    """What the user asked for. ``qemu`` is used instead of the usual one, or with ``vary`` too."""

    image: Path | None = None
    qemu: Path | None = None
    vary: bool = False
    times: int = 1


def run(
    bundle: Bundle,
    request: ReplayRequest,
    ground: workspace.Ground,
    cache: Cache,
    say: Say,
    on_row: Callable[[Row], object],
    stop: threading.Event,
) -> tuple[Tried, ...]:
    """Boot the kernel of ``bundle`` again; what is missing once ``stop`` is set has no boots.

    ``say`` is told what is not as it was, ``on_row`` of each boot. Raises UsageError for
    what the user named and for the bundle's known issues, and KernelUnavailable.
    """
    qemu = check_qemu(request.qemu) if request.qemu else None
    kernel = image.find(bundle, request.image, cache, say)
    machines = Machines(kernel, ground.qemu, cache, say, stop)
    cpus = bundle.entry.cpus
    if request.vary:
        other = qemu or another_qemu(ground.qemu)
        choices = tuple(machines.varied(bundle.kvm, cpus, other))
    else:
        choices = (replace(machines, qemu=qemu or ground.qemu).as_it_failed(bundle.kvm, cpus),)
    replay = _Replay(bundle, kernel, ground, _checker(bundle, ground, say), say, stop)
    return tuple(replay.on(choice, request.times, on_row) for choice in choices)


def exit_status(tried: Sequence[Tried]) -> int:
    """1 where any boot failed; 0 where none did, and each told something."""
    boots = [again for one in tried for again in one.again]
    if any(again.failed for again in boots):
        return EXIT_FAILED
    return EXIT_INFRASTRUCTURE if Again.UNTESTED in boots or not boots else EXIT_OK


class _Replay:
    """Boots of one bundle's ``kernel``; ``extra`` is what makes the guest run its checker."""

    def __init__(
        self,
        bundle: Bundle,
        kernel: PreparedKernel,
        ground: workspace.Ground,
        extra: Mapping[str, bytes],
        say: Say,
        stop: threading.Event,
    ) -> None:
        self._bundle = bundle
        self._kernel = kernel
        self._ground = ground
        self._extra = extra
        self._say = say
        self._stop = stop
        self._entry, self._known = _known_issues(bundle, ground.directory)
        _compare_expectations(bundle, say)

    def on(self, choice: Choice, times: int, on_row: Callable[[Row], object]) -> Tried:
        """``times`` boots on the machine of ``choice``, one after another."""
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

    def _boot(self, choice: Choice, number: int) -> Row | None:
        machine = choice.machine
        entry = replace(self._entry, cpus=machine.cpus)
        directory = self._directory(choice, number)
        options = self._options(choice, directory)
        result = Attempts(entry, self._kernel, choice.kvm, options, self._tell, self._stop).run()
        if result is None:
            return None
        last = result.attempts[-1].console if result.attempts else ""
        return Row(
            machine=machine,
            number=number,
            verdict=result.verdict,
            reason=result.reason,
            comparison=compare(self._bundle.result, result),
            seconds=result.timing.total_s,
            console=str(directory / last) if last else "",
        )

    def _directory(self, choice: Choice, number: int) -> Path:
        other = "" if choice.qemu == self._ground.qemu else "-other-qemu"
        name = f"{choice.machine.accel}-{choice.machine.cpus}{other}-{number}"
        return self._ground.directory / name

    def _options(self, choice: Choice, directory: Path) -> Options:
        asked = self._bundle.asked
        return Options(
            directory=directory,
            roots=self._ground.roots,
            qemu=choice.qemu,
            seed=asked.seed,
            jobs=1,
            request=RunRequest(asked.plan),
            known=self._known,
            extra=self._extra,
        )

    def _tell(self, progress: Progress) -> None:
        if progress.stage is Stage.RETRYING:
            self._say(progress.detail)


def _checker(bundle: Bundle, ground: workspace.Ground, say: Say) -> dict[str, bytes]:
    """What has to be put into the guest's root so that it has the checker of ``bundle``."""
    installed = initramfs.checker()
    if bundle.checker == installed:
        if bundle.versions.get("guest") != ground.base.stem:
            say("the guest's root differs from the failing boot's, in its Python or busybox")
        return {}
    names = {**installed, **bundle.checker}
    differing = [name for name in names if installed.get(name) != bundle.checker.get(name)]
    what = f"the checker of the bundle differs from the installed one in {', '.join(differing)}"
    if bundle.protocol != events.PROTOCOL:
        say(
            f"{what}, and reports in version {bundle.protocol} of the protocol, of which this "
            f"harness reads {events.PROTOCOL}: the installed one is used"
        )
        return {}
    say(f"{what}: the bundle's is used")
    return initramfs.instead_of_checker(bundle.checker)


def _known_issues(bundle: Bundle, directory: Path) -> tuple[KernelEntry, KnownIssues]:
    """The entry with the known issues of ``bundle``, as of the day of its failure."""
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
        say(f"this harness expects otherwise of this kernel: {', '.join(changed)}")
