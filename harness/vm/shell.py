# SPDX-License-Identifier: GPL-2.0-only
"""A shell in the guest instead of the checks: its serial console, connected to a terminal.

Kernel, command line, initramfs and devices are those of any boot, except that the serial port is a
socket instead of a file. The harness connects it to the terminal, because QEMU is in its own
process group, which may not read from a terminal.
"""

from __future__ import annotations

import os
import re
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError
from harness.host.architectures import ARCHITECTURES
from harness.host.programs import TICK
from harness.kernels.kernel_image import PreparedKernel
from harness.vm import commandline, initramfs
from harness.vm.boot import DRAIN, last_words, read_status
from harness.vm.commandline import EVENTS_SOCKET, QEMU_STATUS, Machine
from harness.vm.process import VmProcess, read_available, work_directory

#: Ctrl-A, which begins a command to the harness; the keys that end the VM and that send Ctrl-A.
ESCAPE, QUIT, LITERAL = b"\x01", b"xX", b"\x01aA"
#: How the checker is called in the guest.
CHECKER = "check"

_SCRIPT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin 2>/dev/null
printf '#!/bin/sh\\nexec python3 -I -S /opt/guest/__main__.py "$@"\\n' > /bin/{checker}
chmod +x /bin/{checker}
export HOME=/ PATH=/bin:/usr/bin ENV=/opt/profile TERM={term}
cd /
# Who leads a session gets the first terminal that it opens as its own, and job control with it.
exec setsid sh -c 'exec sh -i < /dev/{console} > /dev/{console} 2>&1'
"""
_PROFILE = """\
stty rows {rows} columns {columns}
# Without -f they ask init to do it, which here is a script.
alias poweroff='poweroff -f' reboot='reboot -f' halt='halt -f'
PS1='guest:\\w# '
echo
echo "{greeting}"
"""


@dataclass(frozen=True)
class ShellPlan:
    """The boot of a shell; ``base`` as in a BootPlan."""

    kernel: PreparedKernel
    base: Path
    qemu: Path
    machine: Machine
    greeting: str


@dataclass(frozen=True)
class Terminal:
    """The user's terminal in raw mode: two descriptors, and its size and type for the guest."""

    read: int
    write: int
    rows: int = 24
    columns: int = 80
    name: str = "vt100"


def run(plan: ShellPlan, terminal: Terminal, stop: threading.Event) -> None:
    """Boot and connect ``terminal`` until the VM ends, the user leaves, or ``stop`` is set.

    Raises :class:`HostError`, and OSError if the host's disk fails.
    """
    commandline.check_memory(plan.kernel, plan.base, plan.machine)
    with work_directory() as work:
        console = work / commandline.CONSOLE_SOCKET
        commandline.lay_out(work, plan.kernel, plan.qemu, console=console)
        initramfs.write(
            work / commandline.INITRAMFS,
            plan.base,
            plan.kernel,
            (),
            {**initramfs.for_a_person(), **_files(plan, terminal)},
        )
        arguments = commandline.command(work, plan.machine, ["sh", "/opt/shell"])
        environment = commandline.environment(work)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(console))
            listener.listen(1)
            with VmProcess(arguments, environment, work, EVENTS_SOCKET) as vm:
                if _Link(vm, listener, terminal, stop).serve():
                    return
                # QEMU closes the console shortly before it ends.
                select.select([vm.exited], [], [], DRAIN)
                words = read_available(vm.console) or b""
            status = read_status(work / QEMU_STATUS)
            if status != 0:
                raise HostError(f"QEMU ended with status {status}; {last_words(words)}")


def _files(plan: ShellPlan, terminal: Terminal) -> dict[str, bytes]:
    term = terminal.name if re.fullmatch("[A-Za-z0-9+-]+", terminal.name) else "vt100"
    harmless = re.sub(r"[^A-Za-z0-9 ,.:;+()'/_-]", "?", plan.greeting)
    profile = _PROFILE.format(rows=terminal.rows, columns=terminal.columns, greeting=harmless)
    console = ARCHITECTURES[plan.machine.arch].console
    script = _SCRIPT.format(checker=CHECKER, term=term, console=console)
    return {"opt/shell": script.encode(), "opt/profile": profile.encode()}


class Keys:
    """Filters commands to the harness out of the typed bytes."""

    def __init__(self) -> None:
        self._escaped = False
        self.left = False

    def pass_on(self, typed: bytes) -> bytes:
        """The part of ``typed`` for the guest; sets :attr:`left` once the user leaves."""
        kept = b""
        for byte in (typed[i : i + 1] for i in range(len(typed))):
            if self._escaped:
                self._escaped = False
                if byte in QUIT:
                    self.left = True
                    break
                kept += ESCAPE if byte in LITERAL else ESCAPE + byte
            elif byte == ESCAPE:
                self._escaped = True
            else:
                kept += byte
        return kept


class _Link:
    """Copies bytes in both directions independently."""

    def __init__(
        self,
        vm: VmProcess,
        listener: socket.socket,
        terminal: Terminal,
        stop: threading.Event,
    ) -> None:
        self._vm = vm
        self._listener = listener
        self._terminal = terminal
        self._stop = stop
        self._keys = Keys()
        self._console: socket.socket | None = None
        self._typed = b""  # typed bytes that the guest has not read yet

    def serve(self) -> bool:
        """Copy until the VM ends (False), or until the user or the program ends it (True)."""
        try:
            while not self._stop.is_set() and not self._keys.left:
                ready = self._wait()
                for descriptor, act in self._actions().items():
                    if descriptor in ready and not act():
                        return False
            return True
        finally:
            if self._console is not None:
                self._console.close()

    def _actions(self) -> dict[int, Callable[[], bool]]:
        """The callback for each ready descriptor; it returns whether to continue."""
        if self._console is None:
            return {self._vm.exited: lambda: False, self._listener.fileno(): self._accept}
        return {
            self._console.fileno(): self._exchange,
            self._terminal.read: self._read_keys,
        }

    def _wait(self) -> set[int]:
        poll = select.poll()
        for descriptor in self._actions():
            if descriptor != self._terminal.read or not self._typed:
                poll.register(descriptor, select.POLLIN)
        if self._console is not None and self._typed:
            poll.register(self._console.fileno(), select.POLLIN | select.POLLOUT)
        return {descriptor for descriptor, _ in poll.poll(1000 * TICK)}

    def _accept(self) -> bool:
        self._console, _ = self._listener.accept()
        self._console.setblocking(False)
        return True

    def _read_keys(self) -> bool:
        typed = os.read(self._terminal.read, 1024)
        self._typed += self._keys.pass_on(typed)
        self._keys.left = self._keys.left or not typed
        return True

    def _exchange(self) -> bool:
        """Copy what is ready; returns False at the end of the output of the guest."""
        assert self._console is not None
        if self._typed:
            try:
                self._typed = self._typed[self._console.send(self._typed) :]
            except BlockingIOError:
                pass  # its buffer is full; try again later
            except OSError:
                return False
        said = read_available(self._console.fileno())
        if said:
            self._show(said)
        return said != b""

    def _show(self, said: bytes) -> None:
        while said:
            said = said[os.write(self._terminal.write, said) :]
