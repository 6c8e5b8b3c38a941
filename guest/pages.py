# SPDX-License-Identifier: GPL-2.0-only
"""Addresses that a system call must refuse: unmapped, read-only, or crossing a page's end.

The calls here take addresses as they are. What the kernel writes to memory that is ours is looked
for in the bytes before the end of the page.
"""

from __future__ import annotations

import ctypes
import struct

from guest import sockopt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

PAGE = 65536  # a multiple of every page size
_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2
_MAP_PRIVATE, _MAP_ANONYMOUS = 0x02, 0x20
_FAILED = ctypes.c_void_p(-1).value
_LENGTH = struct.Struct("=i")
_MARK = b"\xa5"


class Pages:
    """Three pages: writable, not accessible, read-only."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_long,
        )
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        both, flags = _PROT_READ | _PROT_WRITE, _MAP_PRIVATE | _MAP_ANONYMOUS
        start: int = libc.mmap(None, 3 * PAGE, both, flags, -1, 0)
        if start == _FAILED:
            raise OSError(ctypes.get_errno(), "mmap failed")
        self._libc = libc
        self.writable = start
        self.unmapped = start + PAGE
        self.read_only = start + 2 * PAGE
        self._protect(self.unmapped, _PROT_NONE)

    def _protect(self, address: int, how: int) -> None:
        if self._libc.mprotect(address, PAGE, how):
            raise OSError(ctypes.get_errno(), "mprotect failed")

    def read_only_with(self, content: bytes) -> int:
        """The address of ``content`` in a page that cannot be written."""
        self._protect(self.read_only, _PROT_READ | _PROT_WRITE)
        ctypes.memmove(self.read_only, content, len(content))
        self._protect(self.read_only, _PROT_READ)
        return self.read_only

    def at_the_end(self, content: bytes) -> int:
        """The address of ``content``, whose last byte is the last one that is mapped."""
        room = _MARK * 64 + content
        ctypes.memmove(self.unmapped - len(room), room, len(room))
        return self.unmapped - len(content)

    def before(self, size: int) -> bytes:
        """The 64 bytes before the last ``size`` ones that are mapped: marks, unless written to."""
        return ctypes.string_at(self.unmapped - size - 64, 64)

    def bad_for(self, request: bytes) -> Iterator[tuple[str, int]]:
        """Buffers for the answer to ``request`` that are not fully writable, each with its name."""
        yield "unmapped", self.unmapped
        yield "NULL", 0
        yield "read-only", self.read_only_with(request)
        yield "the end of a page", self.at_the_end(request[: len(request) // 2])


UNTOUCHED = _MARK * 64


def getsockopt(fd: int, level: int, option: int, value: int, length: int) -> int:
    """getsockopt(2) with two addresses; 0 or errno."""
    ctypes.set_errno(0)
    return ctypes.get_errno() if sockopt._getsockopt(fd, level, option, value, length) else 0


def setsockopt(fd: int, level: int, option: int, value: int, size: int) -> int:
    """setsockopt(2) with an address; 0 or errno."""
    ctypes.set_errno(0)
    return ctypes.get_errno() if sockopt._setsockopt(fd, level, option, value, size) else 0


class Length:
    """An optlen in memory."""

    def __init__(self, value: int) -> None:
        self._int = ctypes.c_int(value)
        self.address = ctypes.addressof(self._int)
