# SPDX-License-Identifier: GPL-2.0-only
"""One boot of one kernel, from virtme-ng's start to the last byte of the console."""

from __future__ import annotations

import select
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from harness.host.architectures import ARCHITECTURES, HOST, Arch
from harness.host.programs import RunningClock
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest import cross_check
from harness.verdict.results import Attempt, BootEnd, Incident
from harness.vm import commandline, hang, incidents, initramfs
from harness.vm.commandline import EVENTS_SOCKET, QEMU_COMMAND, QEMU_STATUS, Machine, Request
from harness.vm.machines import Machines, Start
from harness.vm.process import VmProcess, read_available, work_directory
from harness.vm.stream import MAX_BYTES, StreamReader
from harness.vm.timeline import Mark, Timeline

#: Bytes of console that are kept; a boot has about 40 KB, an endless report any amount.
MAX_CONSOLE = 32 << 20
#: Seconds between checks of the stop request.
TICK = 0.25
#: Seconds to wait for more data: a guest writes in small pieces, and reading each at once keeps a
#: processor half busy that another VM could use. While checks run, the wait is short, because an
#: incident is charged to the check that ran when it was read, and because the socket holds only
#: some 270 events. Before and after them, an event ends the wait, as the end of the VM always does.
NAP, NAP_OF_CONSOLE = 0.005, 0.05
#: Printed by a panicking kernel. With panic=-1 the VM then ends, unless the kernel had not yet read
#: its command line: then it stops.
PANIC = b"Kernel panic - not syncing"
#: Seconds of silence after a panic, by which a kernel that can reboot has rebooted.
PANIC_SILENCE = 5.0
#: Seconds until the pipes of a killed process group are closed.
DRAIN = 2.0
CONSOLE, EVENTS, HANG = "console.log", "events.jsonl", "hang.txt"
#: Ends of a boot in which the guest or its kernel hangs.
HANGS = (
    *(BootEnd.BOOT_DEADLINE, BootEnd.SILENCE_DEADLINE, BootEnd.TOTAL_DEADLINE),
    BootEnd.POWER_OFF_DEADLINE,
)
#: QEMU's command line, as virtme-ng made it.
QEMU_SHOWN = "qemu.txt"


@dataclass(frozen=True)
class Deadlines:
    """Deadlines in seconds, each from the last event of its kind."""

    boot: float  # virtme-ng's start to the guest's hello
    silence: float  # one event to the next
    power_off: float  # the closing event to QEMU's end
    total: float  # for the first round of checks, and again for each further round or program

    @classmethod
    def scaled(
        cls, timeout: float, *, kvm: bool, share: float = 1.0, arch: Arch = HOST
    ) -> Deadlines:
        """The deadlines for a manifest's ``timeout``; four times as long under TCG, and longer for
        an ``arch`` that is slow to emulate.

        ``share`` is the number of VMs for each processor, if above 1.
        """
        factor = (1 if kvm else 4 * ARCHITECTURES[arch].factor) * max(1.0, share)
        return cls(
            boot=max(min(timeout, 30), timeout / 4) * factor,
            silence=max(min(timeout, 12), timeout / 10) * factor,
            # Time for kmemleak to scan, if a kernel has it: see initramfs.INIT.
            power_off=max(min(timeout, 20), timeout / 6) * factor,
            total=timeout * factor,
        )

    def bounded(self, by: Deadlines) -> Deadlines:
        """Each deadline, or that of ``by`` if shorter."""
        return Deadlines(
            boot=min(self.boot, by.boot),
            silence=min(self.silence, by.silence),
            power_off=min(self.power_off, by.power_off),
            total=min(self.total, by.total),
        )


@dataclass(frozen=True)
class BootPlan:
    """Everything that one boot needs."""

    kernel: PreparedKernel
    base: Path  # of the initramfs
    qemu: Path
    machine: Machine
    request: Request
    deadlines: Deadlines
    directory: Path  # for the attempt's files
    number: int = 1
    extra: Mapping[str, bytes] = field(default_factory=dict)  # files in the guest's root
    machines: Machines | None = None  # virtme-ng's command lines; None asks it for each boot


class _Stage(Enum):
    BOOT = "boot"
    CHECKS = "checks"
    POWER_OFF = "power-off"


@dataclass(frozen=True)
class Checking:
    """The progress of the checks: the number of results ``done`` and planned.

    From the second round of repeated checks on: the number of rounds, and how many ``failed``.
    """

    done: int
    planned: int
    running: str  # the running checks, or part of a round; "" between them
    repeating: bool = False
    failed: int = 0


#: Called with the progress.
OnProgress = Callable[[Checking], None]


def boot(plan: BootPlan, stop: threading.Event, on_progress: OnProgress) -> Attempt:
    """Boot once and return the observations. Raises OSError only if the host's disk fails.

    Raises commandline.Unsafe if the VM cannot work, for example with too little memory.
    """
    commandline.check_memory(plan.kernel, plan.base, plan.machine)
    plan.directory.mkdir(parents=True, exist_ok=True)
    with work_directory() as work:
        return _Boot(plan, work, stop, on_progress).run()


class _Boot:
    def __init__(
        self, plan: BootPlan, work: Path, stop: threading.Event, on_progress: OnProgress
    ) -> None:
        self._timeline = Timeline()
        self._timeline.reach(Mark.LAY_OUT)
        self._plan = plan
        self._work = work
        self._stop = stop
        self._on_progress = on_progress
        self._reader = StreamReader(
            plan.request.nonce,
            plan.request.plan.families,
            plan.kernel.release,
            plan.request.seed,
            plan.request.plan.repeat,
            [
                program.shown(family)
                for program, family in cross_check.runs(
                    plan.request.plan.programs, plan.request.plan.families
                )
            ],
        )
        self._console = bytearray()
        self._running: list[tuple[int, str]] = []  # console length and check, to assign incidents
        self._events_size = 0
        self._reached: dict[_Stage, float] = {}
        self._exited = False
        self._clock = RunningClock()
        self._panicked = False
        self._asked: bytearray | None = None  # output of the kernel about its hang
        self._notes: tuple[str, ...] = ()
        self._open: set[Callable[[], bool]] = {self._read_console}
        self._ending = select.poll()  # the VM's end
        self._speaking = select.poll()  # that, or an event

    def run(self) -> Attempt:
        plan, work = self._plan, self._work
        commandline.lay_out(work, plan.kernel, plan.qemu)
        initramfs.write(
            work / commandline.INITRAMFS,
            plan.base,
            plan.kernel,
            plan.request.arguments(),
            plan.extra,
        )
        arguments = commandline.command(work, plan.machine)
        start = Start(arguments)
        if plan.machines is not None:
            start = plan.machines.start(work, plan.kernel, plan.qemu, plan.machine)
        environment = commandline.environment(work)
        self._started = self._timeline.reach(Mark.VIRTME_NG)
        self._begun = self._last_event = self._last_round = self._last_sign = self._clock.now()
        with (
            (plan.directory / CONSOLE).open("wb") as self._console_file,
            (plan.directory / EVENTS).open("wb") as self._events_file,
            VmProcess(start.command, environment, work, EVENTS_SOCKET) as self._vm,
            selectors.DefaultSelector() as self._selector,
        ):
            self._selector.register(self._vm.console, selectors.EVENT_READ, self._read_console)
            self._selector.register(self._vm.listener, selectors.EVENT_READ, self._accept)
            self._selector.register(self._vm.exited, selectors.EVENT_READ, self._see_exit)
            end = self._watch()
            ended = time.monotonic()
            status = self._vm.exit_status()
            if end in HANGS and incidents.kernel_spoke(bytes(self._console)):
                self._ask_what_hangs()
            self._vm.kill()
            self._drain()
        _show_command(work / QEMU_COMMAND, plan.directory / QEMU_SHOWN)
        self._open.clear()  # or they and this object would keep each other alive
        attempt = self._attempt(end, status, arguments, ended)
        objection = start.objection()
        if objection and attempt.end is not BootEnd.INTERRUPTED:
            end = BootEnd.INTERRUPTED if self._stop.is_set() else BootEnd.LAUNCH_FAILED
            return replace(attempt, end=end, detail=objection)
        return attempt

    def _watch(self) -> BootEnd:
        """Read console and events until the VM ends or a limit is exceeded."""
        for waiting in (self._ending, self._speaking):
            waiting.register(self._vm.exited, select.POLLIN)
        while True:
            # Read first: after a pause of the harness, data may have waited for long.
            self._serve(0)
            if self._exited:
                return BootEnd.POWERED_OFF
            exceeded, left = self._deadline()
            if exceeded is not None:
                return exceeded
            self._selector.select(min(left, TICK))
            if self._stage() is _Stage.CHECKS:
                self._ending.poll(1000 * NAP)
            else:
                self._speaking.poll(1000 * NAP_OF_CONSOLE)

    def _ask_what_hangs(self) -> None:
        """Write hang.txt. What the kernel prints from now on is not an incident."""
        self._asked = bytearray()
        text = hang.collect(self._work / commandline.MONITOR_SOCKET, self._serve, self._asked)
        if text:
            file = self._plan.directory / HANG
            file.write_text(text, encoding="utf-8", errors="replace")
            self._notes = hang.notes(text, f"{file.parent.name}/{file.name}")

    def _drain(self) -> None:
        """Read what was still in the pipes when the VM ended."""
        deadline = time.monotonic() + DRAIN
        while self._open and time.monotonic() < deadline:
            self._serve(TICK)

    def _serve(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            more: Callable[[], bool] = key.data
            if not more():
                self._selector.unregister(key.fileobj)
                self._open.discard(more)

    def _stage(self) -> _Stage:
        if self._reader.closed or self._reader.broken:
            return _Stage.POWER_OFF
        return _Stage.CHECKS if self._reader.said_hello else _Stage.BOOT

    def _deadline(self) -> tuple[BootEnd | None, float]:
        """The exceeded deadline, if any, and the seconds until the next one."""
        if self._stop.is_set():
            return BootEnd.INTERRUPTED, 0
        if len(self._console) >= MAX_CONSOLE or self._reader.overflowed:
            return BootEnd.STREAM_LIMIT, 0
        deadlines = self._plan.deadlines
        now = self._clock.now()
        limits = {
            _Stage.BOOT: (BootEnd.BOOT_DEADLINE, self._begun + deadlines.boot),
            _Stage.CHECKS: (BootEnd.SILENCE_DEADLINE, self._last_event + deadlines.silence),
            _Stage.POWER_OFF: (BootEnd.POWER_OFF_DEADLINE, self._last_event + deadlines.power_off),
        }
        total = (BootEnd.TOTAL_DEADLINE, self._last_round + deadlines.total)
        panic = (BootEnd.PANICKED, self._last_sign + PANIC_SILENCE)
        known = (limits[self._stage()], total, *([panic] if self._panicked else []))
        end, at = min(known, key=lambda limit: limit[1])
        return (end, 0) if now >= at else (None, at - now)

    # Callbacks of the selector; each returns whether more data may come.

    def _see_exit(self) -> bool:
        self._exited = True
        return False

    def _accept(self) -> bool:
        events = self._vm.accept()
        self._timeline.reach(Mark.QEMU)
        self._selector.register(events, selectors.EVENT_READ, self._read_events)
        self._speaking.register(events, select.POLLIN)
        self._open.add(self._read_events)
        return False

    def _read_console(self) -> bool:
        data = read_available(self._vm.console)
        if data and self._asked is not None:
            self._asked += data[: hang.MAX_CONSOLE - len(self._asked)]
        elif data:
            data = data[: MAX_CONSOLE - len(self._console)]
            self._console += data
            self._timeline.read_console(self._console, len(data))
            self._console_file.write(data)
            self._last_sign = self._clock.now()
            start = max(0, len(self._console) - len(data) - len(PANIC))
            self._panicked = self._panicked or self._console.find(PANIC, start) >= 0
        return data != b""

    def _read_events(self) -> bool:
        assert self._vm.events is not None
        data = read_available(self._vm.events.fileno())
        if data and not self._reader.broken:
            before = (self._reader.rounds, self._reader.programs)
            self._keep(data)
            self._reader.feed(data)
            self._last_event = self._last_sign = self._clock.now()
            if (self._reader.rounds, self._reader.programs) != before:
                self._last_round = self._last_event
            if self._reader.said_hello:
                self._timeline.reach(Mark.PROBES)
            self._reached.setdefault(self._stage(), time.monotonic())
            self._say_progress()
        if data == b"":
            self._timeline.reach(Mark.VIRTME_NG_END)
            self._speaking.unregister(self._vm.events)
        return data != b""

    def _keep(self, data: bytes) -> None:
        """Append to the file of events, up to a limit that also holds for many rounds."""
        self._events_file.write(data[: MAX_BYTES - self._events_size])
        self._events_size = min(self._events_size + len(data), MAX_BYTES)

    def _say_progress(self) -> None:
        reader, running = self._reader, self._reader.running
        if running:
            here = len(self._console)
            if self._running and self._running[-1][0] == here:
                self._running.pop()  # nothing was printed while it ran
            self._running.append((here, running))
        if reader.rounds:
            asked = self._plan.request.plan.repeat.rounds
            failed = reader.failed_rounds
            self._on_progress(Checking(reader.rounds, asked, running, True, failed))
        elif reader.done or running:
            self._on_progress(Checking(reader.done, reader.planned, running))

    def _attempt(
        self, end: BootEnd, status: int | None, arguments: list[str], ended: float
    ) -> Attempt:
        console = bytes(self._console)
        spoke = incidents.kernel_spoke(console)
        qemu_status = read_status(self._work / QEMU_STATUS)
        detail = ""
        if end is BootEnd.POWERED_OFF and qemu_status != 0:
            end = BootEnd.VMM_DIED if spoke else BootEnd.LAUNCH_FAILED
            how = (
                f"virtme-ng ended with status {status}"
                if qemu_status is None
                else (f"QEMU ended with status {qemu_status}")
            )
            detail = f"{how}; last console lines: {last_words(console)}"
        elif not self._reader.said_hello:
            detail = f"the console ends with: {last_words(console)}"
        hello = self._reached.get(_Stage.CHECKS, ended)
        closed = self._reached.get(_Stage.POWER_OFF, ended)
        stream = self._reader.finish(interrupted=end is BootEnd.INTERRUPTED)
        stream = replace(stream, notes=(*stream.notes, *self._notes))
        return Attempt(
            number=self._plan.number,
            end=end,
            detail=detail,
            kernel_spoke=spoke,
            accel="kvm" if self._plan.machine.kvm else "tcg",
            stream=stream,
            incidents=self._incidents(console),
            console=str(self._plan.directory / CONSOLE),
            events=str(self._plan.directory / EVENTS),
            command=tuple(arguments),
            boot_s=round(hello - self._started, 3),
            checks_s=round(closed - hello, 3),
            total_s=round(ended - self._started, 3),
            stopped_s=round(self._clock.stopped_s, 3),
            phases=self._timeline.phases(stream.times_ms, ended),
        )

    def _incidents(self, console: bytes) -> tuple[Incident, ...]:
        """The incidents on the console; a panic without a root or init is due to the environment.

        That holds only before the first event: an init that dies later was killed by something.
        """
        found = incidents.scan(console, self._running)
        if self._reader.said_hello:
            return found
        return tuple(replace(i, environment=incidents.is_environment_panic(i)) for i in found)


def last_words(console: bytes) -> str:
    """The last lines of a console, on one line."""
    lines = console.decode("utf-8", "replace").split("\n")
    words = [line.strip() for line in lines if line.strip()]
    return " | ".join(words[-5:])[-600:] or "nothing"


def _show_command(command: Path, target: Path) -> None:
    """Write QEMU's command line, if it was started, as a person would type it."""
    if command.is_file():
        words = command.read_text(errors="backslashreplace").split("\0")[:-1]
        target.write_text(commandline.for_display(words) + "\n")


def read_status(path: Path) -> int | None:
    """The status that the QEMU wrapper wrote, if any: see commandline.py."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
