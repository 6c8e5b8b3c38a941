# SPDX-License-Identifier: GPL-2.0-only
"""All that can be run to be measured, ready to be run; each run is looked at before it counts."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from bench import check, floor, habit, manifests, slowest, stand_in, year
from bench.runner import Failed, Run, Runner
from bench.slowest import Taken
from guest import checks
from harness import kernels
from harness.host import tools
from harness.kernels import Cache, PreparedKernel
from harness.manifest import kernels_yaml
from harness.manifest.kernels_yaml import Accel, DebSource, KernelEntry
from harness.records.stored_runs import RECORD
from harness.verdict.results import Phase
from harness.verdict.verdicts import KernelVerdict
from harness.vm import accelerator

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "kernels.yaml"
MANY = 60
#: The checks that are comparable with the compiled one; two VMs at a time, emulated.
QUICK = ("--profile", "quick")
TWO = ("-j", "2", "--accel", "tcg", *QUICK)
#: What suffices for a VM.
SMALL = "256M"
#: What the compiled check says of a kernel without MPTCP.
NO_MPTCP = "check: no MPTCP socket"


@dataclass(frozen=True)
class Observation:
    """A run, and what the harness recorded of it.

    ``bad`` counts the kernels that are not as expected; ``phases``, of a run with one kernel, are
    the whole of its time; ``peak_mib`` is the harness's own memory where that was measured.
    """

    run: Run
    bad: int = 0
    phases: tuple[Phase, ...] = ()
    peak_mib: float = 0.0
    checks: tuple[Taken, ...] = ()  # the slowest
    results: int = 0  # of a run with one kernel
    checks_s: float = 0.0  # the guest's, in such a run

    def phase_s(self, *names: str) -> float:
        """The seconds of the phases ``names``."""
        return sum(phase.seconds for phase in self.phases if phase.name in names)


def entries() -> tuple[KernelEntry, ...]:
    """The kernels of the default manifest, which are packages; a series is not among them."""
    return tuple(
        entry
        for entry in kernels_yaml.load(MANIFEST).entries
        if not entry.is_series and isinstance(entry.source, DebSource)
    )


def has_mptcp(entry: KernelEntry) -> bool:
    """Whether the manifest expects so."""
    return entry.expect.get("mptcp", True)


class HostLab:
    """Runs what needs neither kernel nor QEMU: queries over a generated year, below ``scratch``."""

    def __init__(self, scratch: Path, say: Callable[[str], None]) -> None:
        self.scratch = scratch
        self._say = say
        self._state = scratch / "year"

    def command(self, arguments: Sequence[str]) -> Observation:
        """A command that needs no run."""
        return Observation(year.ask(arguments, self.scratch))

    def query(self, name: str) -> Observation:
        """A query of ``year.QUERIES``; the first one generates the year."""
        if not self._state.exists():
            self._say(f"generating {year.DAYS} runs of {year.KERNELS} kernels, a minute or more")
            year.generate(self._state)
        return Observation(year.ask(year.QUERIES[name], self._state))

    # With a program in the place of QEMU.

    def standing_in(
        self,
        kernels: int,
        rounds: int = 1,
        life_s: float = stand_in.LIFE_S,
        profile: str = checks.QUICK,
    ) -> Stage:
        """What boots ``kernels`` without QEMU; made once."""
        place = self.scratch / f"stage-{kernels}-{rounds}-{profile}"
        return Stage(place, kernels, rounds, life_s, profile)


class Stage:
    """``kernels`` that are none, a QEMU that is none, and a cache and a state of their own."""

    def __init__(self, place: Path, kernels: int, rounds: int, life_s: float, profile: str) -> None:
        self.place = place
        self._profile = profile
        self._kernels = kernels
        self._rounds = rounds
        if not place.exists():
            place.mkdir()
            stand_in.write_manifest(place / "kernels", kernels)
            stand_in.write_program(place / "qemu", rounds, life_s, profile)
        self._program = next((place / "qemu").glob("qemu-system-*"))

    def run(self) -> Observation:
        """`check` of the only kernel, or `matrix` of all; the first run of a cache is not
        counted."""
        if not (self.place / "cache").exists():
            self._once()
        return self._once()

    def _once(self) -> Observation:
        with tempfile.TemporaryDirectory(dir=self.place) as scratch:
            own, peak, output = Path(scratch, "own"), Path(scratch, "peak"), Path(scratch, "run")
            own.mkdir()
            runner = Runner(own, self._program, None)
            options = [*stand_in.ASKED, "--profile", self._profile]
            options += ["--cache", str(self.place / "cache")]
            if self._rounds > 1:
                options += ["--repeat", str(self._rounds)]
            what = ["check", str(self.place / "kernels/vmlinux-0")]
            if self._kernels > 1:
                what = ["matrix", str(self.place / "kernels/kernels.yaml"), "-j", "2"]
            options += ["--output", str(output)]
            command = [sys.executable, "-m", "bench.peak", str(peak), *what, *options]
            run = runner.run(command, ROOT, {"XDG_STATE_HOME": str(self.place / "state")})
            if run.status != 0 or run.qemus != self._kernels:
                raise Failed(f"mptcp-harness with stand-ins ended with {run.status}: {_tail(run)}")
            record = json.loads((output / RECORD).read_text())
            peak_mib = int(peak.read_text()) / 1024
            return Observation(run, 0, _phases(record, run.seconds), peak_mib)


class Lab(HostLab):
    """Runs everything below ``scratch``; kernels are taken from, and kept in, the user's cache.

    Raises :class:`Failed` or KernelUnavailable where something cannot be got ready.
    """

    def __init__(self, scratch: Path, say: Callable[[str], None], tree: Path | None = None) -> None:
        super().__init__(scratch, say)
        self.tree = tree  # a kernel tree that step has built before
        self.entries = entries()
        self._cache = Cache()
        self._number = 0
        qemu, busybox = tools.find("qemu-system-x86_64"), tools.find_static_busybox()
        assert qemu is not None, "bench.tools.missing() looked for it"
        assert busybox is not None, "bench.tools.missing() looked for it"
        self.qemu = qemu
        self._runner = Runner(self._fresh(), qemu, tools.find("apt-get"), tools.find("make"))
        # Not in /tmp, which virtme-ng's guest has of its own.
        keep = platformdirs.user_cache_path("mptcp-harness-bench")
        self._check = check.build(keep)
        self._kernels: dict[str, PreparedKernel] = {}
        self._images: dict[str, Path] = {}
        for entry in self.entries:
            say(f"getting {entry.name} ready")
            kernel = kernels.prepare(entry, self._cache, say)
            self._kernels[entry.name] = kernel
            self._images[entry.name] = habit.prepare(entry, kernel, keep, self._cache, say)
        self._initramfs = self._fresh() / "initramfs"
        floor.write_initramfs(self._initramfs, busybox, self._check)
        self._small = self._write(manifests.small(self.entries, SMALL))
        self._many = self._write(manifests.many(self.entries, self._images, MANY, self._fresh()))

    def without_kvm(self) -> str:
        """Why KVM cannot be measured; empty where it can."""
        kernel = self._kernels[self.entries[-1].name]
        remembered = self._cache.root / "kvm.json"
        choice = accelerator.choose(Accel.AUTO, kernel, self.qemu, remembered, self._say)
        return "" if choice.kvm else choice.why

    # The harness.

    def harness(self, entry: KernelEntry, accel: str = "tcg") -> Observation:
        """One kernel, both families, the quick checks: those of connections."""
        return self._matrix(MANIFEST, "-k", entry.name, "--accel", accel, *QUICK, boots=1)

    def full(self, entry: KernelEntry) -> Observation:
        """One kernel with all checks."""
        options = ("--accel", "tcg", "--profile", "full")
        return self._matrix(MANIFEST, "-k", entry.name, *options, boots=1)

    def check(self, entry: KernelEntry, accel: str = "tcg") -> Observation:
        """`check` of the image of ``entry``: the quick checks, which every user waits for."""
        directory = self._fresh()
        options = (*QUICK, "--accel", accel, "--output", str(directory / "run"))
        command = [sys.executable, "-m", "harness", "check", str(self._images[entry.name])]
        run = self._runner.run([*command, *options], ROOT)
        shutil.rmtree(directory)
        if run.status != 0 or run.qemus != 1:
            raise Failed(f"`{shlex.join(command)}` ended with status {run.status}: {_tail(run)}")
        return Observation(run)

    def step(self) -> Observation:
        """A step of `git bisect run` on the user's tree: of what is built already."""
        assert self.tree is not None, "without a tree it is not measured"
        options = ("--fresh", "--check", "payload.*")
        command = [sys.executable, "-m", "harness", "step", *options]
        run = self._runner.run(command, self.tree, {"PYTHONPATH": str(ROOT)})
        if run.status not in (0, 1):
            raise Failed(f"`{shlex.join(command)}` ended with status {run.status}: {_tail(run)}")
        return Observation(run)

    def matrix(self) -> Observation:
        """The default manifest, two VMs at a time."""
        return self._matrix(MANIFEST, *TWO, boots=len(self.entries))

    def small(self) -> Observation:
        """The same with little memory; what fails is counted."""
        boots = len(self.entries)
        return self._matrix(self._small, *TWO, boots=boots, may_fail=True)

    def many(self) -> Observation:
        """Sixty kernels in the same mix. They are prepared first: only :meth:`cold` measures an
        empty cache."""
        self._prepare(self._many)
        return self._matrix(self._many, *TWO, boots=MANY)

    def reuse(self) -> Observation:
        """The same after :meth:`many`: nothing has changed since, so nothing may be booted."""
        return self._matrix(self._many, "--reuse", *TWO, boots=0)

    def cold(self) -> Observation:
        """Fetching and preparing the default manifest, with nothing cached."""
        cache = self._fresh()
        try:
            return Observation(self._prepare(MANIFEST, "--cache", str(cache)))
        finally:
            shutil.rmtree(cache)

    def _prepare(self, manifest: Path, *options: str) -> Run:
        command = [sys.executable, "-m", "harness", "prepare", str(manifest), *options]
        run = self._runner.run(command, ROOT)
        if run.status != 0:
            raise Failed(f"`{shlex.join(command)}` ended with status {run.status}: {_tail(run)}")
        return run

    # What it is compared with.

    def habit(self, entry: KernelEntry, *, kvm: bool = False) -> Observation:
        """`vng -r IMAGE` with both families in one boot."""
        return self._vng(entry, {check.IPV4: "./check", check.IPV6: "./check -6"}, kvm=kvm)

    def floor(self, entry: KernelEntry, *, kvm: bool = False) -> Observation:
        """QEMU alone."""
        command = floor.command(self.qemu, self._kernels[entry.name], self._initramfs, kvm=kvm)
        run = self._runner.run(command, self.scratch)
        _require(run, "the floor", entry, (check.IPV4, check.IPV6))
        return Observation(run)

    def loop(self) -> Observation:
        """The plain loop over the default manifest: two boots of each kernel, one per family."""
        turns = []
        for entry in self.entries:
            for said, command in ((check.IPV4, "./check"), (check.IPV6, "./check -6")):
                turns.append(self._turn(entry, said, command))
        return Observation(
            Run(
                seconds=sum(turn.seconds for turn in turns),
                processor_s=sum(turn.processor_s for turn in turns),
                status=0,
                output="",
                qemus=sum(turn.qemus for turn in turns),
                downloading_s=0.0,
            )
        )

    def _turn(self, entry: KernelEntry, said: str, command: str) -> Run:
        """One boot of the loop; where the kernel panicked, another one, at most twice.

        Debian's 7.3.4 did so in one of forty such boots under TCG: a figure of forty would rarely
        be complete. What the panic took is not counted.
        """
        for left in (2, 1, 0):
            try:
                return self._vng(entry, {said: command}).run
            except Failed as failed:
                if not left or "Kernel panic" not in str(failed):
                    raise
                self._say(f"loop: {failed}; booting it again")
        raise AssertionError("the last failure is raised")

    def _vng(
        self, entry: KernelEntry, commands: Mapping[str, str], *, kvm: bool = False
    ) -> Observation:
        """``commands`` by what each says where it succeeds."""
        what = "; ".join(commands.values())
        command = habit.loop(self._images[entry.name], self._check, what, kvm=kvm)
        run = self._runner.run(command, self._check.parent)
        said = tuple(commands) if has_mptcp(entry) else (NO_MPTCP,)
        _require(run, "virtme-ng", entry, said)
        return Observation(run)

    def _matrix(
        self, manifest: Path, *options: str, boots: int, may_fail: bool = False
    ) -> Observation:
        directory = self._fresh()
        peak, output = directory / "peak", directory / "run"
        arguments = ["matrix", str(manifest), *options, "--output", str(output)]
        command = [sys.executable, "-m", "bench.peak", str(peak), *arguments]
        run = self._runner.run(command, ROOT)
        recorded = (output / RECORD).exists()
        if not recorded or run.status not in ((0, 1) if may_fail else (0,)):
            raise Failed(f"mptcp-harness ended with status {run.status}: {_tail(run)}")
        if run.qemus != boots and not may_fail:
            raise Failed(f"mptcp-harness started {run.qemus} VMs where {boots} were to be")
        record = json.loads((output / RECORD).read_text())
        peak_mib = int(peak.read_text()) / 1024
        slow = slowest.of_run(output) if boots == 1 else ()
        shutil.rmtree(directory)
        results, checks_s = _checked(record)
        phases = _phases(record, run.seconds)
        return Observation(run, _bad(record), phases, peak_mib, slow, results, checks_s)

    def _fresh(self) -> Path:
        self._number += 1
        directory = self.scratch / str(self._number)
        directory.mkdir()
        return directory

    def _write(self, text: str) -> Path:
        path = self._fresh() / "kernels.yaml"
        path.write_text(text)
        return path


def _require(run: Run, what: str, entry: KernelEntry, said: tuple[str, ...]) -> None:
    if not all(words in run.output for words in said):
        missing = " and ".join(f"'{words}'" for words in said)
        raise Failed(f"{what} with {entry.name} did not say {missing}: {_tail(run)}")


def _tail(run: Run) -> str:
    lines = [line.strip() for line in run.output.splitlines() if line.strip()]
    return " | ".join(lines[-5:])[-600:] or "it said nothing"


def _bad(record: Mapping[str, Any]) -> int:
    return sum(not KernelVerdict(kernel["verdict"]).as_expected for kernel in record["kernels"])


def _checked(record: Mapping[str, Any]) -> tuple[int, float]:
    """How many results a run with one kernel has, and the seconds that they took."""
    if len(record["kernels"]) != 1:
        return 0, 0.0
    (kernel,) = record["kernels"]
    results = sum(len(family["checks"]) for family in kernel["families"].values())
    return results, kernel["timing"]["checks_s"]


def _phases(record: Mapping[str, Any], seconds: float) -> tuple[Phase, ...]:
    """All that the ``seconds`` of a run with one kernel went to."""
    if len(record["kernels"]) != 1:
        return ()
    phases = [Phase("start-up", record["run"]["timing"]["startup_s"])]
    for phase in record["kernels"][0]["timing"]["phases"]:
        phases.append(Phase(phase["name"], phase["seconds"]))
    rest = seconds - sum(phase.seconds for phase in phases)
    return (*phases, Phase("report", round(max(rest, 0.0), 3)))
