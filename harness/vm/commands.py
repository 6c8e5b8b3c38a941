# SPDX-License-Identifier: GPL-2.0-only
"""Programs that the host names, one after another in one guest, instead of the checks.

Kernel, command line, initramfs and devices are those of any boot; only the checker's process is
another (guest/agent.py, which describes the frames), and the port is read in both directions. What
the guest sends is bounded, and not trusted.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.host.programs import RunningClock
from harness.kernels.kernel_image import PreparedKernel
from harness.verdict.results import Incident
from harness.vm import commandline, incidents, initramfs
from harness.vm.boot import CONSOLE, MAX_CONSOLE, Deadlines, last_words
from harness.vm.commandline import EVENTS_SOCKET, PORT, Machine
from harness.vm.initramfs import CHECKER
from harness.vm.process import VmProcess, read_available, work_directory

_HEADER = struct.Struct(">cI")
_FILE, _APPEND, _MOVE, _RUN = b"f", b"a", b"m", b"r"
_HELLO, _OUTPUT, _LOG, _END = b"h", b"o", b"k", b"e"
#: Bytes of a frame that the guest may send, and of a file in one that it gets.
_MOST, _CHUNK = 1 << 16, 1 << 20
#: Bytes of a program's output, and of the log of the kernel meanwhile, that are kept.
MAX_OUTPUT = 16 << 20
#: Seconds between two looks at the request to stop.
_TICK = 0.2
#: Seconds that a guest may take longer than its program.
_GRACE_S = 10.0
_ENDED = "its VM ended"
_SCRIPT = ("python3", "-I", "-S", f"/{CHECKER}/__main__.py", "--agent", PORT)


class GuestLost(HarnessError):
    """The guest does not answer: it crashed, hung, or ended. The text says what its console
    shows."""


@dataclass(frozen=True)
class CommandPlan:
    """The boot of a guest for programs; ``base`` as in a BootPlan, its console goes to
    ``directory``."""

    kernel: PreparedKernel
    base: Path
    qemu: Path
    machine: Machine
    deadlines: Deadlines
    directory: Path


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    ``status`` is its exit status, or minus the signal that ended it. ``output`` is what it wrote to
    standard output and error, ``log`` what the kernel logged meanwhile.
    """

    command: tuple[str, ...]
    status: int
    output: str
    log: str
    timed_out: bool = False


@dataclass
class _Heard:
    """The output and end of a program so far."""

    output: bytearray = field(default_factory=bytearray)
    log: bytearray = field(default_factory=bytearray)


@contextlib.contextmanager
def booted(plan: CommandPlan, stop: threading.Event) -> Iterator[Guest]:
    """A guest, from its hello to the end of the context; then its VM is ended.

    Raises GuestLost if it does not come up in time, commandline.Unsafe and OSError.
    """
    commandline.check_memory(plan.kernel, plan.base, plan.machine)
    plan.directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(work_directory())
        commandline.lay_out(work, plan.kernel, plan.qemu)
        initramfs.write(work / commandline.INITRAMFS, plan.base, plan.kernel, ())
        arguments = commandline.command(work, plan.machine, _SCRIPT)
        environment = commandline.environment(work)
        vm = stack.enter_context(VmProcess(arguments, environment, work, EVENTS_SOCKET))
        console = stack.enter_context(_Console(vm.console, plan.directory / CONSOLE))
        guest = Guest(plan, vm, console, stop)
        stack.callback(vm.kill)
        guest.wait_for_hello()
        yield guest


class _Console:
    """Keeps the console in a file and in memory, from a thread: the guest must not wait for it."""

    def __init__(self, descriptor: int, place: Path) -> None:
        self._descriptor = descriptor
        self._place = place
        self._content = bytearray()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)

    def __enter__(self) -> _Console:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def content(self) -> bytes:
        return bytes(self._content)

    def settle(self, seconds: float) -> None:
        """Wait until the VM has closed it, at most so long."""
        self._thread.join(seconds)

    def _read(self) -> None:
        with self._place.open("wb") as file:
            while not self._over.is_set():
                if not select.select([self._descriptor], [], [], _TICK)[0]:
                    continue
                data = read_available(self._descriptor)
                if data == b"":
                    return
                data = (data or b"")[: MAX_CONSOLE - len(self._content)]
                self._content += data
                file.write(data)
                file.flush()


class Guest:
    """A guest that runs programs."""

    def __init__(
        self, plan: CommandPlan, vm: VmProcess, console: _Console, stop: threading.Event
    ) -> None:
        self._plan = plan
        self._vm = vm
        self._console = console
        self._stop = stop
        self._clock = RunningClock()
        self._port: socket.socket | None = None
        self.release = ""
        self.lost = ""  # why it does not answer

    @property
    def console(self) -> str:
        return self._console.content().decode("utf-8", "replace")

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """The kernel's reports on the console so far."""
        return incidents.scan(self._console.content())

    def wait_for_hello(self) -> None:
        until = self._clock.now() + self._plan.deadlines.boot
        self._wait_readable(self._vm.listener, until, "it does not start")
        self._port = self._vm.accept()
        kind, content = self._frame(until, "it does not start")
        if kind != _HELLO:
            raise self._gone(f"its first event is {kind!r} instead of hello")
        self.release = content.decode("utf-8", "replace")

    def put(self, path: str, content: bytes) -> None:
        """Write or replace a file of the guest, executable. Raises OSError, GuestLost."""
        parts = [content[start : start + _CHUNK] for start in range(0, len(content) or 1, _CHUNK)]
        kinds = [_FILE, *[_APPEND] * (len(parts) - 1), _MOVE]
        for kind, part in zip(kinds, [*parts, b""], strict=True):
            self._send(kind, path.encode() + b"\0" + part)
            how, _, why = self._end(_Heard(), _GRACE_S + self._plan.deadlines.silence)
            if how != "exit":
                raise OSError(f"{path} cannot be written in the guest: {why}")

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], timeout_s: float
    ) -> Ended:
        """Run ``command`` for at most ``timeout_s``, and return how it ended.

        Raises OSError if the guest cannot run it, and GuestLost.
        """
        variables = [f"{name}={value}" for name, value in environment.items()]
        fields = [str(int(1000 * timeout_s)), str(len(variables)), *variables, *command]
        heard = _Heard()
        self._send(_RUN, b"\0".join(field.encode("utf-8", "surrogateescape") for field in fields))
        how, number, why = self._end(heard, timeout_s + _GRACE_S)
        if how == "failed":
            raise OSError(f"the guest cannot run {command[0]}: {why}")
        return Ended(
            command=tuple(command),
            status=-9 if how == "deadline" else -number if how == "signal" else number,
            output=heard.output.decode("utf-8", "replace"),
            log=heard.log.decode("utf-8", "replace"),
            timed_out=how == "deadline",
        )

    def _end(self, heard: _Heard, within_s: float) -> tuple[str, int, str]:
        """Read until the end of a program or of a file: how, its status, and why not."""
        until = self._clock.now() + within_s
        while True:
            kind, content = self._frame(until, f"it did not answer for {within_s:.0f} s")
            if kind == _END:
                how, _, rest = content.decode("utf-8", "replace").partition(" ")
                number, _, why = rest.partition(" ")
                if not number.isdecimal():
                    raise self._gone(f"it ends a program as {content[:100]!r}")
                return how, int(number), why
            if kind not in (_OUTPUT, _LOG):
                raise self._gone(f"it sends {kind!r}")
            kept = heard.output if kind == _OUTPUT else heard.log
            kept += content[: MAX_OUTPUT - len(kept)]

    def _frame(self, until: float, why: str) -> tuple[bytes, bytes]:
        kind, size = _HEADER.unpack(self._read(_HEADER.size, until, why))
        if size > _MOST:
            raise self._gone(f"it sends {size} bytes at once")
        return kind, self._read(size, until, why)

    def _read(self, size: int, until: float, why: str) -> bytes:
        assert self._port is not None, "wait_for_hello() comes first"
        found = bytearray()
        while len(found) < size:
            self._wait_readable(self._port, until, why)
            try:
                data = self._port.recv(size - len(found))
            except BlockingIOError:
                continue
            except OSError:  # it died with a request unread
                data = b""
            if not data:
                raise self._gone(_ENDED)
            found += data
        return bytes(found)

    def _send(self, kind: bytes, content: bytes) -> None:
        if self.lost or self._port is None:
            raise GuestLost(self.lost or "the guest has ended")
        data = memoryview(_HEADER.pack(kind, len(content)) + content)
        until = self._clock.now() + _GRACE_S + self._plan.deadlines.silence
        while data:
            self._wait(self._port, until, "it takes nothing", writing=True)
            try:
                data = data[self._port.send(data) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._gone(_ENDED) from None

    def _wait_readable(self, what: socket.socket, until: float, why: str) -> None:
        self._wait(what, until, why, writing=False)

    def _wait(self, what: socket.socket, until: float, why: str, *, writing: bool) -> None:
        """Wait until ``what`` is ready. Raises GuestLost at ``until``, and if the VM has ended."""
        reading: list[Any] = [self._vm.exited, *([] if writing else [what])]
        while True:
            ready, free, _ = select.select(reading, [what] if writing else [], [], _TICK)
            if what in (*ready, *free):
                return
            if self._vm.exited in ready:
                raise self._gone(_ENDED)
            if self._stop.is_set():
                raise self._gone("interrupted")
            if self._clock.now() > until:
                raise self._gone(why)

    def _gone(self, why: str) -> GuestLost:
        """The guest is of no more use: end its VM, and say what the console has."""
        if why == _ENDED:
            self._console.settle(_GRACE_S)
        self._vm.kill()
        self._console.settle(_GRACE_S)
        console = self._console.content()
        crash = next((i for i in incidents.scan(console) if i.kind.is_crash), None)
        shown = crash.title if crash else f"its console ends with: {last_words(console)}"
        self.lost = f"the guest of {self._plan.kernel.release} is lost: {why}; {shown}"
        return GuestLost(self.lost)
