# SPDX-License-Identifier: GPL-2.0-only
"""Stops system calls while they copy data and hold the locks of the socket.

userfaultfd(2) keeps a page of memory missing until it is released. recv(2) into it, or send(2) from
it, owns the socket's lock for that time, and segments that arrive meanwhile take the paths of a
socket in use: the backlog, the list of joins, work deferred to the end of the call. On a busy
machine that happens occasionally; this makes it happen when a check needs it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys

from guest import abi
from guest.calls import Worker, poll_fd
from guest.checks import Failed, errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

#: Numbers of the call: those of the architectures that have their own, and all others'.
_NUMBERS = {"x86_64": 323, "i686": 374, "i386": 374, "ppc64le": 364, "ppc64": 364, "s390x": 355}
_NUMBER = 282
O_CLOEXEC, O_NONBLOCK = 0o2000000, 0o4000
_API = struct.Struct("=QQQ")
_REGISTER = struct.Struct("=QQQQ")
_ZERO = struct.Struct("=QQQq")
UFFD_API, MISSING = 0xAA, 1
POLLIN = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _request(direction: int, number: int, size: int) -> int:
    # powerpc: asm/ioctl.h; the direction has three bits, and writing is 4.
    shift, direction = (29, 6) if abi.POWERPC else (30, direction)
    return direction << shift | size << 16 | 0xAA << 8 | number


UFFDIO_API = _request(3, 0x3F, _API.size)
UFFDIO_REGISTER = _request(3, 0x00, _REGISTER.size)
UFFDIO_ZEROPAGE = _request(3, 0x04, _ZERO.size)


def _open() -> int:
    machine = os.uname().machine
    if machine == "x86_64" and sys.maxsize < 1 << 32:
        machine = "i386"
    fd = int(_libc.syscall(_NUMBERS.get(machine, _NUMBER), O_CLOEXEC | O_NONBLOCK))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, "userfaultfd: " + errno_name(number))
    return fd


class Stall:
    """A missing page. Raises OSError if the kernel lacks userfaultfd(2)."""

    def __init__(self) -> None:
        self._fd = _open()
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._view = (ctypes.c_char * mmap.PAGESIZE).from_buffer(self._memory)
        self.address = ctypes.addressof(self._view)
        self._gone = False
        self._ioctl(UFFDIO_API, _API.pack(UFFD_API, 0, 0))
        self._ioctl(UFFDIO_REGISTER, _REGISTER.pack(self.address, mmap.PAGESIZE, MISSING, 0))

    def _ioctl(self, request: int, argument: bytes) -> None:
        buffer = ctypes.create_string_buffer(argument, len(argument))
        if _libc.ioctl(self._fd, ctypes.c_ulong(request), buffer) < 0:
            number = ctypes.get_errno()
            raise OSError(number, "ioctl of userfaultfd: " + errno_name(number))

    def wait(self, seconds: float = 10.0) -> None:
        """Wait until a call is stopped at the page."""
        if not poll_fd(self._fd, seconds, POLLIN):
            raise Failed("a call that copies to a missing page", "stopped", "not stopped")

    def let_go(self) -> None:
        """Let the call continue: the page becomes present, filled with zeros."""
        if not self._gone:
            self._gone = True
            self._ioctl(UFFDIO_ZEROPAGE, _ZERO.pack(self.address, mmap.PAGESIZE, 0, 0))

    def close(self) -> None:
        os.close(self._fd)  # this releases the page, too
        self._fd = -1


class StalledCall:
    """recv(2) or send(2) of ``size`` bytes on ``sock`` that is stopped while it owns the socket.

    As a context manager, it lets the call continue at the end. ``result()`` is the return value.
    """

    def __init__(self, sock: _socket.socket, size: int, sends: bool = False) -> None:
        self._stall = Stall()
        call = _libc.send if sends else _libc.recv
        arguments = (sock.fileno(), ctypes.c_void_p(self._stall.address), ctypes.c_size_t(size), 0)
        self._worker = Worker(lambda: call(*arguments))

    def __enter__(self) -> StalledCall:
        try:
            self._stall.wait()
        except Failed:
            self._stall.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stall.let_go()
        self._worker.result()
        self._stall.close()

    def result(self) -> object:
        return self._worker.result()

    def data(self, size: int) -> bytes:
        """The data that recv(2) wrote."""
        return ctypes.string_at(self._stall.address, size)


def probe() -> None:
    """Raises OSError if the kernel lacks userfaultfd(2)."""
    os.close(_open())
