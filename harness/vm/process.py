# SPDX-License-Identifier: GPL-2.0-only
"""The processes of one VM, their two output streams, and their work directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import Busy
from harness.host import locks
from harness.host.programs import Supervised
from harness.host.tools import Finding, Standing
from harness.vm import commandline

CHUNK = 64 * 1024
#: The prefix of work directories, which no user would choose.
PREFIX = "mptcp-harness-vm."
#: Bytes; a work directory holds sockets, whose paths may have 108 bytes (unix(7)).
LONGEST_PARENT = 60
TMPDIR_REMEDY = "set TMPDIR to a directory with a short, plain path, on a disk without noexec"


class VmProcess:
    """virtme-ng under its supervisor: started on entry, ended on exit with all its children.

    ``console`` (standard error of all of them, where the serial console goes) and ``events`` (the
    guest's port, once QEMU has connected) are read without blocking; ``exited`` is readable once
    virtme-ng has ended. If the harness dies, the directory ``work`` is removed too.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], work: Path, socket_name: str
    ) -> None:
        self._arguments = arguments
        self._environment = environment
        self._work = work
        self._socket_path = work / socket_name
        self.console = -1
        self.exited = -1
        self.events: socket.socket | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            self.listener.bind(str(self._socket_path))
            self.listener.listen(1)
            self.listener.setblocking(False)
            self.console, console = os.pipe()
            stack.callback(os.close, self.console)
            os.set_blocking(self.console, False)
            with os.fdopen(console, "wb") as errors:
                self._kept = stack.enter_context(
                    Supervised(
                        self._arguments,
                        self._environment,
                        output=subprocess.DEVNULL,
                        errors=errors,
                        directory=self._work,
                        removing=self._work,
                    )
                )
            self.exited = self._kept.exited
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.events is not None:
            self.events.close()
        self._open.close()

    def kill(self) -> None:
        """Kill all processes; works even after virtme-ng has ended."""
        self._kept.kill()

    def accept(self) -> socket.socket:
        """Accept QEMU's connection: the event channel of the guest."""
        self.events, _ = self.listener.accept()
        self.events.setblocking(False)
        return self.events

    def exit_status(self) -> int | None:
        """The exit status of virtme-ng, as in a shell; None while it runs."""
        return self._kept.exit_status()


def read_available(descriptor: int) -> bytes | None:
    """The data that can be read without blocking; None if there are none yet, b"" at the end."""
    try:
        return os.read(descriptor, CHUNK)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


@contextlib.contextmanager
def work_directory() -> Iterator[Path]:
    """A new directory with a short, harmless path, for sockets and as a path for virtme-ng.

    Directories left by killed harnesses whose supervisors were killed too are removed. Raises
    commandline.Unsafe if there is no usable place.
    """
    parent = _parent()
    for abandoned in parent.glob(f"{PREFIX}*"):
        with _owned(abandoned) as owned:
            if owned:
                shutil.rmtree(abandoned, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        while True:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            # Otherwise another harness came in between and took it for an abandoned one.
            if stack.enter_context(_owned(path)):
                break
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _parent() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    objections = {}
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", runtime):  # noqa: S108 (mkdtemp)
        objections[parent] = _objection(parent)
        if not objections[parent]:
            return Path(parent)
    said = ", ".join(f"{parent} {why}" for parent, why in objections.items() if parent)
    raise commandline.Unsafe(f"no usable directory for temporary files: {said}; {TMPDIR_REMEDY}")


def _objection(parent: str) -> str:
    """Why ``parent`` cannot hold a work directory, which contains programs; "" if it can."""
    if not commandline.is_harmless(parent) or len(parent) >= LONGEST_PARENT:
        return "has unusual characters, or is too long"
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):  # noqa: PTH112
        return "is not a directory that this user may write to"
    if os.statvfs(parent).f_flag & os.ST_NOEXEC:
        return "is mounted noexec"
    return ""


def doctor() -> Finding:
    """Which temporary directory a VM can be started from, if any."""
    try:
        return Finding("work directory", Standing.OK, str(_parent()))
    except commandline.Unsafe as error:
        return Finding("work directory", Standing.MISSING, str(error), "", TMPDIR_REMEDY)


@contextlib.contextmanager
def _owned(directory: Path) -> Iterator[bool]:
    """Try to lock ``directory``, if it is ours and still exists.

    The kernel releases the lock with its holder; a process id in a file could be reused.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.directory(directory))
            status = directory.lstat()  # a symbolic link is not ours
            ours = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)
        except (OSError, Busy):
            ours = False
        yield ours
