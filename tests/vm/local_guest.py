# SPDX-License-Identifier: GPL-2.0-only
"""A guest for programs whose agent is a process of this host: no VM is between the two sides."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from harness.vm.boot import Deadlines
from harness.vm.commands import CommandPlan, Guest

ROOT = Path(__file__).parents[2]
AGENT = "import sys; from guest.agent import Agent; Agent(int(sys.argv[1])).serve()"
SOON = 60.0


class Vm:
    """The guest's process on this host instead of in a VM; ``theirs`` is its end of the port."""

    def __init__(self, *command: str) -> None:
        command = command or (sys.executable, "-c", AGENT)
        self.ours, theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.exited, exited = os.pipe()
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno())], pass_fds=(theirs.fileno(), exited), cwd=ROOT
            )
        os.close(exited)  # its end is the end of the process
        self.listener = self.ours  # as if it had connected

    def accept(self) -> socket.socket:
        return self.ours

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        self.kill()
        self.process.wait()
        self.ours.close()
        os.close(self.exited)


class Console:
    def __init__(self, content: bytes = b"") -> None:
        self._content = content

    def content(self) -> bytes:
        return self._content

    def settle(self, seconds: float) -> None:
        pass


def guest_of(vm: Any, console: Any, stop: threading.Event | None = None) -> Guest:
    nothing: Any = None
    kernel: Any = type("Kernel", (), {"release": "6.12"})
    deadlines = Deadlines(SOON, SOON, SOON, SOON)
    plan = CommandPlan(kernel, nothing, nothing, nothing, deadlines, nothing)
    return Guest(plan, vm, console, stop or threading.Event())
