# SPDX-License-Identifier: GPL-2.0-only
"""What is run how often and in which order, and what each figure is made of."""

from __future__ import annotations

import fnmatch
import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench import figures, lab, year
from bench.figures import Figure, Unit, absolute
from bench.lab import MANY, SMALL, HostLab, Lab, Observation
from bench.runner import Failed
from guest import checks
from harness.manifest.kernels_yaml import KernelEntry

#: Of the wall time of `vng -r bzImage`, by the manifest's name; OF_HABIT for all others.
OF_HABIT_BY_NAME = {"debian-6.1": 0.45}
OF_HABIT = 0.6
OF_FLOOR = 1.5
OF_LOOP = 0.38
PROCESSOR_S = 0.15
#: Wall time of one `check` less the life of QEMU.
HOST_S = 0.35
#: Guest time from the kernel's "Run /init" to the first check, under TCG; with KVM.
INIT_S = 0.5
INIT_KVM_S = 0.2
STEP_S = 0.5
#: Seconds of the full profile beyond those of quick.
FULL_S = 15
#: Kernels that are none, on the host alone.
FEW = 4
OF_FOUR = 1.10
PEAK_MIB = 100
REUSE_S = 1.5
COLD_S = 15
KVM_S = 1.0
START_S = 0.15
#: By key of the figure.
STARTS: Mapping[str, Sequence[str]] = {"help": ("--help",), "checks": ("list", "checks")}


@dataclass(frozen=True)
class Times:
    """How often something is run. A pair is run alternately, once each in every round."""

    rounds: int = 5
    many: int = 1  # sixty kernels take five minutes
    cold: int = 1  # and this downloads half a gigabyte
    once: int = 1


@dataclass(frozen=True)
class Subject:
    """Something to be run, ``times`` times; ``needs`` has to be run before."""

    name: str
    times: int
    run: Callable[[Lab], Observation]
    needs: tuple[str, ...] = ()


class Observations:
    """What was seen of each subject, in the order of the rounds."""

    def __init__(self) -> None:
        self._seen: dict[str, list[Observation]] = {}

    def add(self, name: str, observation: Observation) -> None:
        self._seen.setdefault(name, []).append(observation)

    def of(self, name: str) -> Sequence[Observation]:
        """Empty where it was not run."""
        return self._seen.get(name, [])

    def seconds(self, name: str) -> list[float]:
        return [observation.run.seconds for observation in self.of(name)]


@dataclass(frozen=True)
class Planned:
    """A figure that is to be; ``blank`` is what it is until its ``subjects`` were run."""

    blank: Figure
    subjects: tuple[str, ...]
    work_out: Callable[[Observations], Figure]


def planned(entries: Sequence[KernelEntry]) -> list[Planned]:
    """All figures, in the order of the table."""
    with_mptcp = [entry.name for entry in entries if lab.has_mptcp(entry)]
    return [
        *(against_habit(name) for name in with_mptcp),
        *(against_floor(name) for name in with_mptcp),
        *(init(f"init.{name}", name) for name in with_mptcp),
        against_loop(),
        host_time("host", "check", f"host time of one check, {entries[-1].name}"),
        step(),
        processor_time(len(entries)),
        many_against_few(len(entries)),
        peak_memory(),
        full(entries[-1].name),
        small_memory(),
        reuse(),
        cold(),
        *with_kvm(),
        *host_only(),
    ]


def with_kvm() -> list[Planned]:
    """The figures that need KVM."""
    return [
        kvm(),
        host_time("kvm.host", "check.kvm", "with KVM: host time of one check"),
        init("kvm.init", "kvm", INIT_KVM_S),
        floor_with_kvm(),
    ]


def host_only() -> list[Planned]:
    """The figures that need neither kernel nor QEMU."""
    return [
        *(query(name) for name in year.QUERIES),
        *(start(name) for name in STARTS),
        host_time("stand-in.host", "stand-in.check", "host time of one check, stand-in for QEMU"),
        stand_in_processor(),
        stand_in_memory(),
    ]


def select(plans: Sequence[Planned], globs: Sequence[str]) -> list[Planned]:
    """Those whose keys match. Raises ValueError with the first of ``globs`` that matches none."""
    keys = [plan.blank.key for plan in plans]
    for glob in globs:
        if not fnmatch.filter(keys, glob):
            raise ValueError(glob)
    return [
        plan
        for plan in plans
        if not globs or any(fnmatch.fnmatchcase(plan.blank.key, glob) for glob in globs)
    ]


def subjects(entries: Sequence[KernelEntry], times: Times) -> list[Subject]:
    """All there is to run, in the order of a round: what is compared stands side by side."""
    by_kernel = [
        subject
        for entry in entries
        if lab.has_mptcp(entry)
        for subject in _of_kernel(entry, times.rounds)
    ]
    newest = entries[-1]
    return [
        *by_kernel,
        Subject("check", times.rounds, lambda lab: lab.check(newest)),
        Subject("step", times.rounds, Lab.step),
        Subject("matrix", times.rounds, Lab.matrix),
        Subject("loop", times.rounds, Lab.loop),
        Subject("full", times.once, lambda lab: lab.full(newest)),
        Subject("small", times.once, Lab.small),
        Subject("many", times.many, Lab.many),
        Subject("reuse", times.rounds, Lab.reuse, needs=("many",)),
        Subject("cold", times.cold, Lab.cold),
        Subject("harness.kvm", times.rounds, lambda lab: lab.harness(newest, "kvm")),
        Subject("habit.kvm", times.rounds, lambda lab: lab.habit(newest, kvm=True)),
        Subject("check.kvm", times.rounds, lambda lab: lab.check(newest, "kvm")),
        Subject("floor.kvm", times.rounds, lambda lab: lab.floor(newest, kvm=True)),
        *host_subjects(times),
    ]


def host_subjects(times: Times) -> list[Subject]:
    """The subjects of the figures of :func:`host_only`; a HostLab can run them."""
    return [
        *(
            Subject(f"query.{name}", times.rounds, functools.partial(_query, name))
            for name in year.QUERIES
        ),
        *(
            Subject(f"start.{name}", times.rounds, functools.partial(_start, name))
            for name in STARTS
        ),
        Subject("stand-in.check", times.rounds, lambda lab: lab.standing_in(1).run()),
        Subject("stand-in.matrix", times.rounds, lambda lab: lab.standing_in(FEW).run()),
        Subject("stand-in.many", times.once, _stand_in_many),
    ]


def _stand_in_many(lab: HostLab) -> Observation:
    return lab.standing_in(MANY, life_s=0.1, profile=checks.FULL).run()


def _start(name: str, lab: HostLab) -> Observation:
    return lab.command(STARTS[name])


def _query(name: str, lab: HostLab) -> Observation:
    return lab.query(name)


def _of_kernel(entry: KernelEntry, rounds: int) -> Iterator[Subject]:
    yield Subject(f"harness.{entry.name}", rounds, lambda lab: lab.harness(entry))
    yield Subject(f"habit.{entry.name}", rounds, lambda lab: lab.habit(entry))
    yield Subject(f"floor.{entry.name}", rounds, lambda lab: lab.floor(entry))


def needed(plans: Sequence[Planned], all_subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects of ``plans`` and what these need, in the order given."""
    names = {name for plan in plans for name in plan.subjects}
    names |= {need for subject in all_subjects if subject.name in names for need in subject.needs}
    return [subject for subject in all_subjects if subject.name in names]


def observe(
    chosen: Sequence[Subject], lab: Lab, say: Callable[[str], None]
) -> tuple[Observations, dict[str, str]]:
    """Run ``chosen`` round by round; and why a subject is to be left out, by its name.

    A subject that failed once is not run again, nor is what needs it.
    """
    seen, failures = Observations(), dict[str, str]()
    rounds = max((subject.times for subject in chosen), default=0)
    for number in range(1, rounds + 1):
        for subject in chosen:
            if number > subject.times or subject.name in failures:
                continue
            blocked = [need for need in subject.needs if need in failures]
            if blocked:
                failures[subject.name] = failures[blocked[0]]
                continue
            where = f"round {number} of {subject.times}: {subject.name}"
            try:
                observation = subject.run(lab)
            except Failed as failed:
                failures[subject.name] = str(failed)
                say(f"{where} FAILED: {failed}")
            else:
                seen.add(subject.name, observation)
                say(f"{where} {observation.run.seconds:.2f} s")
    return seen, failures


def figure(plan: Planned, seen: Observations, failures: Mapping[str, str]) -> Figure:
    """The figure itself, or its blank with what went wrong."""
    for name in plan.subjects:
        if name in failures:
            return figures.failed(plan.blank, f"{name}: {failures[name]}")
    return plan.work_out(seen)


# The figures, one by one.


def _pair(blank: Figure, ours: str, theirs: str) -> Planned:
    return Planned(
        blank,
        (ours, theirs),
        lambda seen: figures.against(blank, seen.seconds(ours), seen.seconds(theirs)),
    )


def against_habit(name: str) -> Planned:
    target = OF_HABIT_BY_NAME.get(name, OF_HABIT)
    blank = Figure(f"habit.{name}", f"{name} against `vng -r bzImage`", Unit.RATIO, target)
    return _pair(blank, f"harness.{name}", f"habit.{name}")


def against_floor(name: str) -> Planned:
    blank = Figure(f"floor.{name}", f"{name} against QEMU alone", Unit.RATIO, OF_FLOOR)
    return _pair(blank, f"harness.{name}", f"floor.{name}")


def init(key: str, name: str, target: float = INIT_S) -> Planned:
    what = f"{name}: from /init to the first check, by the guest"
    blank = Figure(key, what, Unit.SECONDS, target)
    subject = f"harness.{name}"

    def work_out(seen: Observations) -> Figure:
        return absolute(blank, [each.phase_s("init", "probes") for each in seen.of(subject)])

    return Planned(blank, (subject,), work_out)


def host_time(key: str, subject: str, what: str) -> Planned:
    note = "wall time less the life of QEMU"
    blank = Figure(key, what, Unit.SECONDS, HOST_S, note=note)
    return Planned(
        blank, (subject,), lambda seen: absolute(blank, [o.run.host_s for o in seen.of(subject)])
    )


def step() -> Planned:
    what, note = "a step of git bisect: less make and QEMU", "on the tree of --tree, built before"
    blank = Figure("step", what, Unit.SECONDS, STEP_S, note=note)
    return Planned(
        blank, ("step",), lambda seen: absolute(blank, [o.run.host_s for o in seen.of("step")])
    )


def stand_in_processor() -> Planned:
    what, note = "processor time per kernel, stand-ins for QEMU", f"of a matrix of {FEW} kernels"
    blank = Figure("stand-in.processor", what, Unit.SECONDS, PROCESSOR_S, note=note)
    subject = "stand-in.matrix"
    return Planned(
        blank,
        (subject,),
        lambda seen: absolute(blank, [o.run.processor_s / FEW for o in seen.of(subject)]),
    )


def stand_in_memory() -> Planned:
    what = f"peak memory of the harness, {MANY} stand-ins, all checks"
    blank = Figure("stand-in.memory", what, Unit.MIB, PEAK_MIB)
    subject = "stand-in.many"
    return Planned(
        blank, (subject,), lambda seen: absolute(blank, [o.peak_mib for o in seen.of(subject)])
    )


def against_loop() -> Planned:
    note = "the loop boots each kernel twice, once for each family"
    blank = Figure("loop", "matrix -j 2 against the plain loop", Unit.RATIO, OF_LOOP, note=note)
    return _pair(blank, "matrix", "loop")


def processor_time(kernels: int) -> Planned:
    what, note = "processor time outside QEMU, per kernel", f"of the matrix of {kernels} kernels"
    blank = Figure("processor", what, Unit.SECONDS, PROCESSOR_S, note=note)

    def work_out(seen: Observations) -> Figure:
        values = [observation.run.processor_s / kernels for observation in seen.of("matrix")]
        return absolute(blank, values)

    return Planned(blank, ("matrix",), work_out)


def many_against_few(kernels: int) -> Planned:
    what = f"{MANY} kernels against {kernels}, time per kernel"
    blank = Figure("many", what, Unit.RATIO, OF_FOUR)

    def work_out(seen: Observations) -> Figure:
        ours = [seconds / MANY for seconds in seen.seconds("many")]
        theirs = [seconds / kernels for seconds in seen.seconds("matrix")]
        return figures.unpaired(blank, ours, theirs)

    return Planned(blank, ("matrix", "many"), work_out)


def peak_memory() -> Planned:
    blank = Figure("memory", f"peak memory of the harness, {MANY} kernels", Unit.MIB, PEAK_MIB)

    def work_out(seen: Observations) -> Figure:
        return absolute(blank, [observation.peak_mib for observation in seen.of("many")])

    return Planned(blank, ("many",), work_out)


def full(name: str) -> Planned:
    what = f"{name}: all checks, beyond the quick ones"
    blank = Figure("full", what, Unit.SECONDS, FULL_S)

    def work_out(seen: Observations) -> Figure:
        quick = statistics.median(o.checks_s for o in seen.of(f"harness.{name}"))
        runs = seen.of("full")
        note = f"{1000 * runs[0].checks_s / runs[0].results:.1f} ms for each of its results"
        return replace(absolute(blank, [o.checks_s - quick for o in runs]), note=note)

    return Planned(blank, (f"harness.{name}", "full"), work_out)


def small_memory() -> Planned:
    blank = Figure("small", f"kernels that fail in {SMALL.removesuffix('M')} MiB", Unit.FAILURES, 0)

    def work_out(seen: Observations) -> Figure:
        return absolute(blank, [float(observation.bad) for observation in seen.of("small")])

    return Planned(blank, ("small",), work_out)


def reuse() -> Planned:
    note = "no VM was started"
    blank = Figure("reuse", f"--reuse, {MANY} unchanged kernels", Unit.SECONDS, REUSE_S, note=note)
    return Planned(blank, ("reuse",), lambda seen: absolute(blank, seen.seconds("reuse")))


def cold() -> Planned:
    what = "first fetch and prepare, without the download"
    blank = Figure("cold", what, Unit.SECONDS, COLD_S)

    def work_out(seen: Observations) -> Figure:
        runs = [observation.run for observation in seen.of("cold")]
        download = statistics.median(run.downloading_s for run in runs)
        note = f"beside {download:.1f} s in which apt-get fetched packages and their lists"
        values = [run.seconds - run.downloading_s for run in runs]
        return replace(absolute(blank, values), note=note)

    return Planned(blank, ("cold",), work_out)


def kvm() -> Planned:
    blank = Figure("kvm", "with KVM: seconds beyond bare `vng`", Unit.SECONDS, KVM_S)

    def work_out(seen: Observations) -> Figure:
        pairs = zip(seen.seconds("harness.kvm"), seen.seconds("habit.kvm"), strict=True)
        return absolute(blank, [ours - theirs for ours, theirs in pairs])

    return Planned(blank, ("harness.kvm", "habit.kvm"), work_out)


def floor_with_kvm() -> Planned:
    blank = Figure("kvm.floor", "with KVM: against QEMU alone", Unit.RATIO, OF_FLOOR)
    return _pair(blank, "harness.kvm", "floor.kvm")


def start(name: str) -> Planned:
    what = f"a command that only prints: {' '.join(STARTS[name])}"
    blank = Figure(f"start.{name}", what, Unit.SECONDS, START_S)
    subject = f"start.{name}"
    return Planned(blank, (subject,), lambda seen: absolute(blank, seen.seconds(subject)))


def query(name: str) -> Planned:
    what = f"a year of nights: {' '.join(year.QUERIES[name])}"
    blank = Figure(f"query.{name}", what, Unit.SECONDS, year.QUERY_S)
    subject = f"query.{name}"
    return Planned(blank, (subject,), lambda seen: absolute(blank, seen.seconds(subject)))
