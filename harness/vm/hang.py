# SPDX-License-Identifier: GPL-2.0-only
"""Collects evidence from a hanging guest before its VM is ended.

QEMU reports the registers of every processor. On x86-64, whose machine has a keyboard, a kernel
that still handles it prints its blocked tasks, the backtraces of its processors, its memory and all
tasks: sysrq w, l, m and t
(Documentation/admin-guide/sysrq.rst), which :mod:`harness.vm.initramfs` allows.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.host.architectures import ARCHITECTURES

#: Seconds for everything together.
LIMIT = 8.0
#: Seconds until a kernel begins to print an answer, and of silence after which it is complete.
BEGINS, QUIET = 1.0, 0.4
#: Bytes of one answer of QEMU, and of the console that are kept.
MAX_ANSWER, MAX_CONSOLE = 1 << 20, 4 << 20
ASKED = ("info cpus", "info registers -a")
SYSRQ = {
    "w": "tasks that are blocked",
    "l": "backtraces of the processors",
    "m": "memory",
    "t": "all tasks",
}
#: The prefixes of the names of the checker's processes.
CHECKER = "python3"
#: The number of notes, and of frames in each, that a report shows; the file has everything.
MAX_NOTES, MAX_FRAMES = 6, 6

#: Reads the console for at most so many seconds.
Pump = Callable[[float], None]

_COUNTERS = "|".join(data.program_counter for data in ARCHITECTURES.values())
_COUNTER = re.compile(rf"^CPU#(\d+)$|\b({_COUNTERS})([0-9a-f]{{8,16}})\b", re.MULTILINE)
#: The start of a task's backtrace, or of the interrupted task's on a processor.
_TASK = re.compile(r"\btask:(\S+) +state:(\S)|(<TASK>)")
_INSTRUCTION = re.compile(r"\bRIP: 0010:([A-Za-z_][\w.]*)\+0x")
_FRAME = re.compile(r"^(?:\[[^]]*\]\s*)*([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[\w+\])?$")


class _Monitor:
    """QEMU's monitor protocol (QMP) on a socket of this boot."""

    def __init__(self, path: Path, pump: Pump, deadline: float) -> None:
        self._pump = pump
        self._deadline = deadline
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def greet(self) -> None:
        self._next("QMP")
        self._call("qmp_capabilities")

    def ask(self, command: str) -> str:
        """The answer to a ``command`` of the human monitor."""
        return str(self._call("human-monitor-command", {"command-line": command}))

    def _call(self, name: str, arguments: dict[str, str] | None = None) -> Any:
        request = {"execute": name, "arguments": arguments or {}}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return self._next("return")

    def _next(self, wanted: str) -> Any:
        """The member ``wanted`` of the next object that has it; events may come in between."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                answer = json.loads(line)
                if wanted in answer:
                    return answer[wanted]
                if "error" in answer:
                    raise ValueError(f"QEMU refuses: {answer['error']}")
                continue
            if len(line) > MAX_ANSWER or time.monotonic() > self._deadline:
                raise TimeoutError("QEMU does not answer")
            with contextlib.suppress(BlockingIOError):
                if not (data := self._socket.recv(65536)):
                    raise EOFError("QEMU is gone")
                self._buffer += data
                continue
            self._pump(0.02)


def collect(path: Path, pump: Pump, console: bytearray) -> str:
    """Everything that can be collected in LIMIT seconds, as text; "" for nothing.

    ``path`` is the socket of QEMU's monitor; ``pump`` appends the output to ``console``.
    """
    deadline = time.monotonic() + LIMIT
    found: list[str] = []
    with contextlib.suppress(OSError, EOFError, ValueError):
        monitor = _Monitor(path, pump, deadline)
        with contextlib.closing(monitor):
            monitor.greet()
            found += [f"(qemu) {command}\n{monitor.ask(command).strip()}\n" for command in ASKED]
            for key, what in SYSRQ.items():
                start = len(console)
                monitor.ask(f"sendkey alt-sysrq-{key}")
                _wait_until_quiet(pump, console, deadline)
                printed = bytes(console[start:]).decode("utf-8", "replace").replace("\r", "")
                found.append(f"sysrq {key}: {what}\n{printed.strip() or 'nothing was printed'}\n")
    return "\n".join(found)


def _wait_until_quiet(pump: Pump, console: bytearray, deadline: float) -> None:
    size, start = len(console), len(console)
    changed = time.monotonic()
    while (now := time.monotonic()) < deadline:
        pump(0.05)
        if len(console) > size:
            size, changed = len(console), now
        elif now - changed > (QUIET if size > start else BEGINS):
            return


def notes(text: str, file: str) -> tuple[str, ...]:
    """The lines of :func:`collect` that a report shows; ``file`` has everything."""
    if not text:
        return ()
    found = [f"what it was doing: see {file}", *_processors(text), *_tasks(text)]
    return tuple(found[: MAX_NOTES + 1])


def _processors(text: str) -> list[str]:
    registers = text.partition("(qemu) info registers -a\n")[2].partition("\nsysrq ")[0]
    number, found = "0", []
    for match in _COUNTER.finditer(registers):
        if match[1]:
            number = match[1]
        else:
            name = re.match(r"\w+", match[2])
            found.append(f"CPU {number} was at {name[0] if name else 'PC'} {match[3]}")
    return found


def _tasks(text: str) -> list[str]:
    """Blocked tasks, tasks on the processors, and the positions of the checker's processes."""
    parts = {key: _section(text, key) for key in SYSRQ}
    checker = [(who, frames) for who, frames in _traces(parts["t"]) if who.startswith(CHECKER)]
    found = [*_traces(parts["w"]), *_traces(parts["l"]), *checker]
    return [f"{who} was in {' < '.join(frames)}" for who, frames in found if frames]


def _section(text: str, key: str) -> str:
    """The output after the sysrq ``key``."""
    return text.partition(f"sysrq {key}: {SYSRQ[key]}\n")[2].partition("\n\nsysrq ")[0]


def _traces(text: str) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for line in text.split("\n"):
        if match := _TASK.search(line):
            if match[1]:
                found.append((f"{match[1]} ({match[2]})", []))
            elif not found or not found[-1][0].endswith(")"):
                found.append(("a processor", []))
        elif found and len(found[-1][1]) < MAX_FRAMES:
            frame = _FRAME.match(line.strip()) or _INSTRUCTION.search(line)
            found[-1][1].extend([frame[1]] if frame else [])
    return found
