# SPDX-License-Identifier: GPL-2.0-only
"""The process group of one VM, and the two streams that come out of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.vm import keeper

CHUNK = 64 * 1024


class VmProcess:
    """virtme-ng under its keeper: started on entry, gone on exit with all it started.

    ``console`` (standard error of all of them, where the serial console goes) and ``events``
    (the guest's port, once QEMU has connected) are read without blocking.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], work: Path, socket_name: str
    ) -> None:
        self._arguments = arguments
        self._environment = environment
        self._work = work
        self._socket_path = work / socket_name
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self.console = -1
        self.listener = socket.socket(socket.AF_UNIX)
        self.events: socket.socket | None = None
        self.exited = -1  # a pidfd: readable once the keeper is gone

    def __enter__(self) -> Self:
        self.listener.bind(str(self._socket_path))
        self.listener.listen(1)
        self.listener.setblocking(False)
        lifeline, self._lifeline = os.pipe()
        self.console, console = os.pipe()
        os.set_blocking(self.console, False)
        # Not -m: the keeper must start in milliseconds, without our packages.
        command = [sys.executable, "-I", "-S", str(keeper.__file__), *self._arguments]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=lifeline,
                stdout=subprocess.DEVNULL,
                stderr=console,
                env=dict(self._environment),
                cwd=self._work,
                start_new_session=True,
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(lifeline)
            os.close(console)
        self.exited = os.pidfd_open(self._process.pid)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        assert self._process is not None
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for descriptor in (self._lifeline, self.console, self.exited):
            if descriptor >= 0:
                os.close(descriptor)
        self.listener.close()
        if self.events is not None:
            self.events.close()

    def kill(self) -> None:
        """End the whole group at once. Of use even when its leader is gone."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def accept(self) -> socket.socket:
        """The guest's end of the event channel: QEMU has connected."""
        self.events, _ = self.listener.accept()
        self.events.setblocking(False)
        return self.events

    def exit_status(self) -> int | None:
        """The status of virtme-ng, as a shell says it; None while it runs."""
        assert self._process is not None
        return self._process.poll()


def read_available(descriptor: int) -> bytes | None:
    """What can be read now without blocking; None for nothing yet, b"" at the end."""
    try:
        return os.read(descriptor, CHUNK)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""
