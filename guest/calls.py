# SPDX-License-Identifier: GPL-2.0-only
"""System calls that Python's socket objects lack: poll, ioctl, splice, and calls with a deadline.

select, fcntl and threading would do, and cost an emulated VM 0.1 s each in every boot.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import _thread
import ctypes
import errno as _errno
import os
import struct
import time

from guest import abi
from guest.checks import Failed, equal, errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Sequence

_libc = ctypes.CDLL(None, use_errno=True)

POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP = 0x1, 0x2, 0x4, 0x8, 0x10
POLLRDNORM, POLLWRNORM, POLLRDHUP = 0x40, 0x100, 0x2000
#: What is asked for; the kernel adds POLLERR and POLLHUP by itself.
ALL_EVENTS = POLLIN | POLLPRI | POLLOUT | POLLRDHUP
_EVENTS = (
    (POLLIN, "POLLIN"),
    (POLLPRI, "POLLPRI"),
    (POLLOUT, "POLLOUT"),
    (POLLERR, "POLLERR"),
    (POLLHUP, "POLLHUP"),
    (POLLRDHUP, "POLLRDHUP"),
)

#: Of asm/ioctls.h and linux/sockios.h. SIOCINQ is FIONREAD, SIOCOUTQ is TIOCOUTQ.
SIOCINQ, SIOCOUTQ = (0x4004667F, 0x40047473) if abi.POWERPC else (0x541B, 0x5411)
SIOCOUTQNSD, SIOCATMARK = 0x894B, 0x8905

_POLLFD = struct.Struct("=ihh")
_INT = struct.Struct("=i")


def poll(sock: _socket.socket, timeout_s: float = 0.0, events: int = ALL_EVENTS) -> int:
    """The events of poll(2) that ``sock`` has, waiting ``timeout_s`` for one at most."""
    return poll_each([(sock, events)], timeout_s)[0]


def poll_fd(fd: int, timeout_s: float, events: int) -> int:
    """The events of poll(2) of any descriptor."""
    buffer = ctypes.create_string_buffer(_POLLFD.pack(fd, events, 0), _POLLFD.size)
    if _libc.poll(buffer, ctypes.c_ulong(1), int(timeout_s * 1000)) < 0:
        raise OSError(ctypes.get_errno(), "poll failed")
    return int(_POLLFD.unpack(buffer.raw)[2])


def poll_each(
    wanted: Sequence[tuple[_socket.socket, int]], timeout_s: float = 0.0
) -> Sequence[int]:
    """The events of each socket, of those asked for, waiting ``timeout_s`` for one at most."""
    entries = b"".join(_POLLFD.pack(sock.fileno(), events, 0) for sock, events in wanted)
    buffer = ctypes.create_string_buffer(entries, len(entries))
    if _libc.poll(buffer, ctypes.c_ulong(len(wanted)), int(timeout_s * 1000)) < 0:
        raise OSError(ctypes.get_errno(), "poll failed")
    return [int(got) for _, _, got in _POLLFD.iter_unpack(buffer.raw)]


def events_text(mask: int) -> str:
    """``POLLIN|POLLOUT`` for 5."""
    return "|".join(name for bit, name in _EVENTS if mask & bit) or "no events"


def equal_events(what: str, sock: _socket.socket, expected: int, seconds: float = 5.0) -> None:
    """Fail unless poll(2) reports exactly ``expected`` within ``seconds``."""
    deadline = time.monotonic() + seconds
    got = poll(sock)
    while got != expected and time.monotonic() < deadline:
        time.sleep(0.001)
        got = poll(sock)
    equal("poll " + what, events_text(got), events_text(expected))


def has_events(what: str, sock: _socket.socket, wanted: int, seconds: float = 5.0) -> int:
    """Fail unless poll(2) reports at least ``wanted`` within ``seconds``; returns the events."""
    deadline = time.monotonic() + seconds
    got = poll(sock)
    while got & wanted != wanted and time.monotonic() < deadline:
        time.sleep(0.001)
        got = poll(sock)
    if got & wanted != wanted:
        raise Failed("poll " + what, events_text(wanted) + " at least", events_text(got))
    return got


def ioctl(sock: _socket.socket, request: int) -> int:
    """The int that ``request`` writes. Raises OSError."""
    value = ctypes.create_string_buffer(b"\xa5" * _INT.size, _INT.size)
    if _libc.ioctl(sock.fileno(), ctypes.c_ulong(request), value) < 0:
        number = ctypes.get_errno()
        raise OSError(number, errno_name(number))
    return int(_INT.unpack(value.raw)[0])


def fcntl(sock: _socket.socket, command: int, value: int) -> int:
    """fcntl(2) with an int. Raises OSError."""
    got = _libc.fcntl(sock.fileno(), ctypes.c_int(command), ctypes.c_long(value))
    if got < 0:
        number = ctypes.get_errno()
        raise OSError(number, errno_name(number))
    return int(got)


def splice(source: int, sink: int, length: int, flags: int = 0) -> int:
    """splice(2) without offsets. Raises OSError."""
    moved = _libc.splice(source, None, sink, None, ctypes.c_size_t(length), ctypes.c_uint(flags))
    if moved < 0:
        number = ctypes.get_errno()
        raise OSError(number, errno_name(number))
    return int(moved)


def errno_of(call: Callable[..., object], *arguments: object) -> int:
    """0, or the errno that ``call`` fails with. A timeout of Python's own counts as ETIMEDOUT."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or _errno.ETIMEDOUT
    return 0


def fails(what: str, errno: int, call: Callable[..., object], *arguments: object) -> None:
    """Fail unless ``call`` fails with ``errno``."""
    got = errno_of(call, *arguments)
    equal(what, errno_name(got) if got else "success", errno_name(errno) if errno else "success")


class Blocking:
    """Makes ``sock`` blocking within a ``with``, for ``seconds`` at most.

    A socket of Python's with a timeout is nonblocking, so that the kernel's own waiting is never
    reached. A call that is still waiting after ``seconds`` is ended by a signal and fails the
    check, so that a kernel that never wakes the caller costs one check, not the scenario.
    """

    def __init__(self, sock: _socket.socket, seconds: float = 5.0, what: str = "") -> None:
        self._sock = sock
        self._seconds = seconds
        self._what = what or "a blocking call"
        self._timeout: Optional[float] = None
        self._handler: Any = None
        self._over = False

    def __enter__(self) -> Blocking:
        self._timeout = self._sock.gettimeout()
        self._sock.settimeout(None)
        self._handler = _signal.signal(_signal.SIGALRM, self._expired)
        # Again and again: a signal that arrives just before the call would be lost.
        _signal.setitimer(_signal.ITIMER_REAL, self._seconds, 0.5)
        return self

    def __exit__(self, *unused: object) -> None:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, self._handler)
        self._sock.settimeout(self._timeout)

    def _expired(self, *unused: object) -> None:
        if self._over:
            return  # it would end what handles the first one's failure: on a slow host, the process
        self._over = True
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        what = "%s still waits after %.1f s" % (self._what, self._seconds)
        raise Failed(what, "an end", "none")


class Worker:
    """``call`` in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._done = _thread.allocate_lock()
        self._done.acquire()
        self._task = 0
        self.value: object = None
        self.error: Optional[BaseException] = None
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        self._task = _thread.get_native_id()
        try:
            self.value = self._call()
        except BaseException as error:  # it is for the one who asks
            self.error = error
        finally:
            self._done.release()

    def wait_blocked(self, seconds: float = 3.0) -> bool:
        """Wait until the thread sleeps in the kernel, other than for a lock of Python's.

        False where the kernel does not say so in time (/proc/PID/wchan needs KALLSYMS and a
        caller that may trace): a check then sees less, but nothing wrong.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.002)
            if self._task and not self._done.locked():
                return False
            where = _read("/proc/self/task/%d/wchan" % self._task) if self._task else "0"
            if not where:
                time.sleep(0.02)  # the kernel does not say; most likely it waits by now
                return False
            if where != "0" and not where.startswith("futex"):
                return True
        return False

    def result(self, seconds: float = 5.0, busy_s: Optional[float] = None) -> object:
        """What ``call`` returned; raises what it raised. Fails the check after ``seconds``.

        With ``busy_s`` also once this process has used as much of the processor meanwhile: a call
        that spins need not be waited for, and a slow machine does not count as one.
        """
        until, used = time.monotonic() + seconds, time.process_time()
        while not self._done.acquire(timeout=seconds if busy_s is None else seconds / 25):
            if busy_s is not None and time.process_time() - used > busy_s:
                what = "a call in a thread used the processor for %.0f s" % busy_s
                raise Failed(what, "an end", "none")
            if time.monotonic() >= until:
                what = "a call in a thread still waits after %.0f s" % seconds
                raise Failed(what, "an end", "none")
        self._done.release()
        if self.error is not None:
            raise self.error
        return self.value


def _read(path: str) -> str:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(file, 256).decode("ascii", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(file)
