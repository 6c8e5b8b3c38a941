# SPDX-License-Identifier: GPL-2.0-only
"""Runs programs in the guest that the host names, one after another; harness/vm/commands.py is the
host's side.

Both sides write frames to the port: a letter, the length of the rest (32 bits, big endian), the
rest. Of the host:

    f, a  a file: its path, NUL, its content; ``a`` appends
    m     the end of a file: its path. Only now it replaces another one, which may be in use
    r     a program: milliseconds that it may run, the number of variables, the variables as
          NAME=VALUE, its name, its arguments; separated by NULs

Of the guest:

    h     hello: the kernel's release
    o     output of the program
    k     what the kernel logged meanwhile
    e     the end: how, a space, its status or signal; then why it could not be run
"""

from __future__ import annotations

import os
import select
import struct
import time

from guest import isolation, vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

HEADER = struct.Struct(">cI")
FILE, APPEND, MOVE, RUN = b"f", b"a", b"m", b"r"
HELLO, OUTPUT, LOG, END = b"h", b"o", b"k", b"e"
#: How a program, or the writing of a file, ended.
EXIT, SIGNAL, DEADLINE, FAILED = b"exit", b"signal", b"deadline", b"failed"
#: Bytes of a frame's rest that this side writes.
MOST = 1 << 14
#: Seconds between two looks at a program, and for a killed one to end.
_LOOK_S, _GRACE_S = 0.02, 2.0


class Agent:
    """Serves the host at the descriptor ``port``, until its end."""

    def __init__(self, port: int, log: int = -1) -> None:
        self._port = port
        self._log = log  # /dev/kmsg, non-blocking

    def serve(self) -> None:
        self._send(HELLO, os.uname().release.encode())
        while True:
            header = self._read(HEADER.size)
            if not header:
                return
            kind, size = HEADER.unpack(header)
            content = self._read(size)
            if kind == RUN:
                self._run(content.split(b"\0"))
            else:
                self._write_file(kind, content)

    def _run(self, fields: Sequence[bytes]) -> None:
        count = int(fields[1])
        variables, words = fields[2 : 2 + count], fields[2 + count :]
        environment = dict(variable.split(b"=", 1) for variable in variables)
        self._read_log()  # what came between two programs is of neither
        output, said = os.pipe()
        failed, why = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(words, environment, said, why, parent)
        os.close(said)
        os.close(why)
        os.set_blocking(output, False)
        end = self._watch(pid, output, time.monotonic() + int(fields[0]) / 1000)
        self._forward(output)
        os.close(output)
        reason = os.read(failed, 1000)
        os.close(failed)
        self._send(LOG, self._read_log())
        self._send(END, b"%s 0 %s" % (FAILED, reason) if reason else end)

    def _watch(self, pid: int, output: int, deadline: float) -> bytes:
        """Forward the output of ``pid`` until it ends; returns how it did."""
        killed = False
        while True:
            select.select([output], [], [], _LOOK_S)
            if not self._forward(output):
                time.sleep(_LOOK_S)  # it has closed its output but still runs
            status = isolation.reap(pid)
            if status is not None:
                break
            if time.monotonic() > deadline:
                killed = True
                deadline += 60.0
                isolation.kill_session(pid)
        if killed:
            return b"%s 0" % DEADLINE
        if os.WIFSIGNALED(status):
            return b"%s %d" % (SIGNAL, os.WTERMSIG(status))
        return b"%s %d" % (EXIT, os.WEXITSTATUS(status))

    def _forward(self, output: int) -> bool:
        """Send what the program wrote; returns whether more may come."""
        for _ in range(64):
            try:
                data = os.read(output, MOST)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._send(OUTPUT, data)
        return True

    def _write_file(self, kind: bytes, content: bytes) -> None:
        path, _, data = content.partition(b"\0")
        new = path + b".new"
        try:
            if kind == MOVE:
                os.chmod(new, 0o755)  # noqa: S103
                os.rename(new, path)
            else:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(new, "ab" if kind == APPEND else "wb") as file:
                    file.write(data)
        except OSError as error:
            self._send(END, b"%s 0 %s" % (FAILED, str(error).encode()))
            return
        self._send(END, b"%s 0" % EXIT)

    def _read_log(self) -> bytes:
        """The records of the kernel's log since the last call, as dmesg(1) shows them."""
        lines = []
        while self._log >= 0:
            try:
                record = os.read(self._log, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # records were overwritten
            except OSError:
                break
            prefix, _, text = record.partition(b";")
            microseconds = int(prefix.split(b",")[2])
            line = text.split(b"\n", 1)[0]
            lines.append(b"[%5d.%06d] %s\n" % (*divmod(microseconds, 1000000), line))
        return b"".join(lines)

    def _read(self, size: int) -> bytes:
        """Read exactly ``size`` bytes; b"" if the host closed the channel."""
        parts = []
        while size:
            data = os.read(self._port, min(size, 1 << 16))
            if not data:
                return b""
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def _send(self, kind: bytes, content: bytes) -> None:
        for start in range(0, len(content) or 1, MOST):
            part = content[start : start + MOST]
            data = HEADER.pack(kind, len(part)) + part
            while data:
                data = data[os.write(self._port, data) :]


def _become(
    words: Sequence[bytes],
    environment: dict[bytes, bytes],
    said: int,
    failed: int,
    parent: int,
) -> None:
    """Turn this process into the program."""
    try:
        isolation.enter(parent)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir("/")
        _execute(words, environment)
    except BaseException as error:
        os.write(failed, str(error).encode())
    os._exit(127)


def _execute(words: Sequence[bytes], environment: dict[bytes, bytes]) -> None:
    """As execvpe() of os, which imports more modules than a guest has. Raises OSError."""
    name = words[0]
    places = [b""] if b"/" in name else environment.get(b"PATH", b"").split(b":")
    for place in places:
        path = place + b"/" + name if place else name
        if os.path.exists(path) or place == places[-1]:
            os.execve(path, list(words), environment)  # noqa: S606  (there is no shell to start it)


def _open_log() -> int:
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(log, 0, os.SEEK_END)
    except OSError:
        return -1
    return log


def main(arguments: Sequence[str]) -> int:
    """``arguments`` has the name of the port."""
    os.system("/bin/busybox --install -s /bin 2>/dev/null")  # noqa: S605
    vm.load_modules()
    port = vm.open_port(arguments[0], os.O_RDWR)
    isolation.adopt_orphans(True)
    Agent(port, _open_log()).serve()
    return 0
