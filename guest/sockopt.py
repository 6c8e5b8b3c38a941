# SPDX-License-Identifier: GPL-2.0-only
"""Raw getsockopt(2) and setsockopt(2): any buffer, any length, errno kept, overruns seen.

Python's own ``socket.getsockopt`` can neither pass a buffer in nor report the length that
came back, which is most of what is checked here.
"""

from __future__ import annotations

import struct
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    get_errno,
    set_errno,
)

from guest.abi import SOCKADDR_STORAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Union


# What ctypes makes of _ctypes, as far as quick runs need it: they start without ctypes and os,
# which take a tenth of a second in a VM.
class _Int(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Unsigned(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "I"


class _Pointer(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "P"


class _Char(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class _Libc:
    _handle = dlopen(None, 0)  # type: ignore[arg-type]


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Int


def _function(name: str, *types: type) -> Callable[..., int]:
    """The function ``name`` of libc, which returns an int."""
    found: Any = _Function((name, _Libc))  # type: ignore[arg-type]
    found.argtypes = types
    return found  # type: ignore[no-any-return]


_getsockopt = _function("getsockopt", _Int, _Int, _Int, _Pointer, _Pointer)
_setsockopt = _function("setsockopt", _Int, _Int, _Int, _Pointer, _Unsigned)
_getsockname = _function("getsockname", _Int, _Pointer, _Pointer)
_getpeername = _function("getpeername", _Int, _Pointer, _Pointer)
_LENGTH = struct.Struct("=i")

#: What stands in bytes that the kernel must leave alone: no value of its own, least of all 0.
_MARK = b"\xa5"
#: Bytes of it on each side of a buffer; a multiple of 8, so that the buffer stays aligned. They
#: hold a whole structure of MPTCP, which a kernel with a bug may write to a shorter buffer.
_ROOM = 512
_CANARY = _MARK * _ROOM


class Overrun(Exception):
    """The kernel wrote outside the bytes it was given."""


class Answer:
    """What one call did. ``data`` is the buffer as it is now, ``length`` what optlen became."""

    __slots__ = ("data", "errno", "length")

    def __init__(self, errno: int, length: int, data: bytes) -> None:
        self.errno = errno
        self.length = length
        self.data = data

    @property
    def ok(self) -> bool:
        return self.errno == 0

    @property
    def filled(self) -> bytes:
        """The bytes that the kernel says it filled."""
        return self.data[: max(0, self.length)]


class Buffer:
    """Memory for the kernel to write to, between canaries, at an address aligned to 8."""

    __slots__ = ("_anchor", "_memory", "address", "size")

    def __init__(self, content: Union[bytes, bytearray]) -> None:
        self.size = len(content)
        self._memory = bytearray().join((_CANARY, content, _CANARY))
        # Keeps the memory where it is. An array of ctypes costs five times as much, and a run makes
        # six thousand of these.
        self._anchor = _Char.from_buffer(self._memory)
        self.address = addressof(self._anchor) + _ROOM

    def fill(self, content: bytes) -> None:
        """Use it again: ``content`` is as long as what it was made of."""
        self._memory[_ROOM : _ROOM + self.size] = content

    def content(self, used: Optional[int] = None) -> bytes:
        """The bytes between the canaries.

        Raises :class:`Overrun` when a canary has changed. With ``used``, only that many bytes
        of the content were the kernel's to write, and the rest must still be :func:`unused`,
        which the caller put there.
        """
        memory = self._memory
        if not memory.startswith(_CANARY):
            raise Overrun("bytes before the buffer were overwritten: %s" % memory[:_ROOM].hex())
        if not memory.endswith(_CANARY):
            raise Overrun("bytes after the buffer were overwritten: %s" % memory[-_ROOM:].hex())
        body = bytes(memory[_ROOM : _ROOM + self.size])
        if used is not None and body[used:] != unused(self.size - used):
            raise Overrun("bytes beyond the %d allowed: %s" % (used, body[used:].hex()))
        return body


class _Exchange:
    """The memory of one getsockopt(2): optlen and ``size`` bytes of optval, between canaries."""

    __slots__ = ("_anchor", "end", "memory", "optlen", "optval")

    def __init__(self, size: int) -> None:
        self.end = _VALUE + size
        self.memory = bytearray().join((_CANARY, bytes(_LENGTH.size), _BETWEEN, bytes(size)))
        self.memory += _CANARY
        self._anchor = _Char.from_buffer(self.memory)
        self.optlen = addressof(self._anchor) + _ROOM
        self.optval = addressof(self._anchor) + _VALUE

    def verify(self) -> None:
        """Raise :class:`Overrun` when a canary has changed."""
        memory = self.memory
        if (
            memory.startswith(_CANARY)
            and memory.startswith(_BETWEEN, _ROOM + _LENGTH.size)
            and memory.endswith(_CANARY)
        ):
            return
        for what, place in (
            ("before optlen", slice(0, _ROOM)),
            ("after optlen", slice(_ROOM + _LENGTH.size, _VALUE)),
            ("after the buffer", slice(self.end, None)),
        ):
            if memory[place].strip(_MARK):
                raise Overrun("bytes %s were overwritten: %s" % (what, memory[place].hex()))


#: What stands between optlen and optval, which is aligned to 8.
_BETWEEN = _MARK * (8 - _LENGTH.size + _ROOM)
_VALUE = _ROOM + _LENGTH.size + len(_BETWEEN)
#: Exchanges that are not in use, by the size of optval. What surrounds the six thousand calls of a
#: run costs more than the calls.
_free: dict[int, list[_Exchange]] = {}
#: The most sizes of which they are kept. Sweeps of all sizes would take a megabyte.
_SIZES = 64


def unused(size: int) -> bytes:
    """``size`` bytes that mark a part of a buffer that the kernel must not write to."""
    return _MARK * size


def getsockopt(
    fd: int,
    level: int,
    option: int,
    buffer: Union[bytes, bytearray, Buffer],
    length: Optional[int] = None,
) -> Answer:
    """One getsockopt(2). ``buffer`` goes in as it is and must hold what ``length`` promises.

    ``length`` is optlen, any 32-bit number, by default the buffer's size. A kernel may write
    to the first ``length`` bytes only: canaries behind and before them are checked, and a
    change raises :class:`Overrun`.
    """
    if isinstance(buffer, Buffer):
        exchange, address = _exchange(0), buffer.address
        size = buffer.size
    else:
        size = len(buffer)
        exchange = _exchange(size)
        address = exchange.optval
        exchange.memory[_VALUE : exchange.end] = buffer
    memory = exchange.memory
    _LENGTH.pack_into(memory, _ROOM, size if length is None else length)
    failed = _getsockopt(fd, level, option, address, exchange.optlen)
    errno = get_errno() if failed else 0
    exchange.verify()
    used = _LENGTH.unpack_from(memory, _ROOM)[0]
    body = bytes(memory[_VALUE : exchange.end])
    if len(body) in _free or len(_free) < _SIZES:
        _free.setdefault(len(body), []).append(exchange)  # as clean as it was
    return Answer(errno, used, buffer.content() if isinstance(buffer, Buffer) else body)


def _exchange(size: int) -> _Exchange:
    """Memory that an earlier call left, or new memory if it is in use: in another thread."""
    try:
        return _free[size].pop()
    except (KeyError, IndexError):
        return _Exchange(size)


def setsockopt(fd: int, level: int, option: int, value: bytes) -> int:
    """One setsockopt(2); 0 or errno. Raises :class:`Overrun` if ``value``'s surroundings change."""
    buffer = Buffer(value)
    set_errno(0)
    failed = _setsockopt(fd, level, option, buffer.address, buffer.size)
    buffer.content()
    return get_errno() if failed else 0


def sockname(fd: int) -> tuple[bytes, int]:
    """getsockname(2): a whole struct sockaddr_storage, zeros where unfilled, and its length."""
    return _name(_getsockname, fd)


def peername(fd: int) -> tuple[bytes, int]:
    """getpeername(2), as :func:`sockname`."""
    return _name(_getpeername, fd)


def _name(call: Callable[..., int], fd: int) -> tuple[bytes, int]:
    buffer = Buffer(bytes(SOCKADDR_STORAGE_SIZE))
    length = Buffer(_LENGTH.pack(SOCKADDR_STORAGE_SIZE))
    set_errno(0)
    if call(fd, buffer.address, length.address):
        raise OSError(get_errno(), "getsockname or getpeername failed")
    return buffer.content(), _LENGTH.unpack(length.content())[0]


class Caller:
    """getsockopt and setsockopt through one buffer that is used again: for calls by the thousand.

    Not more than :data:`ROOM` bytes go in and out. What the kernel writes beyond what it was given,
    and to the value it was to read, raises :class:`Overrun`.
    """

    ROOM = 512

    def __init__(self) -> None:
        self._clean = unused(2 * _ROOM + self.ROOM)
        self._memory = bytearray(self._clean)
        self._anchor = _Char.from_buffer(self._memory)
        self._address = addressof(self._anchor) + _ROOM
        self._length = _Int()
        self._length_address = addressof(self._length)

    def get(
        self, fd: int, level: int, option: int, size: int, length: Optional[int] = None
    ) -> tuple[int, int, bytes]:
        """errno, optlen afterwards, and the bytes returned, of an optlen of ``length``.

        ``size`` bytes may be written to, all of them unless given.
        """
        memory = self._memory
        self._length.value = size if length is None else length
        failed = _getsockopt(fd, level, option, self._address, self._length_address)
        errno = get_errno() if failed else 0
        used = self._length.value
        if errno:
            filled = _ROOM
            data = b""
        else:
            filled = _ROOM + max(0, min(used, size))
            data = bytes(memory[_ROOM:filled])
            memory[_ROOM:filled] = self._clean[_ROOM:filled]
        if memory != self._clean:  # as it is before each call
            self._overrun(errno, used, filled, _ROOM + size)
        return errno, used, data

    def _overrun(self, errno: int, used: int, filled: int, end: int) -> None:
        """Raise for bytes that the kernel should have left alone, and clean them."""
        memory = bytearray(self._memory)
        self._memory[:] = self._clean
        if errno:
            raise Overrun("a call that failed wrote %s" % _changed(memory))
        if memory[end:] != self._clean[end:] or memory[:_ROOM] != self._clean[:_ROOM]:
            raise Overrun("bytes around the buffer were overwritten: %s" % _changed(memory))
        raise Overrun("optlen says %d, bytes behind: %s" % (used, memory[filled:end].hex()))

    def set(self, fd: int, level: int, option: int, value: bytes) -> int:
        """0 or errno."""
        memory = self._memory
        end = _ROOM + len(value)
        memory[_ROOM:end] = value
        failed = _setsockopt(fd, level, option, self._address, len(value))
        errno = get_errno() if failed else 0
        kept = memory[_ROOM:end] == value
        if kept:
            memory[_ROOM:end] = self._clean[_ROOM:end]
        if memory != self._clean:
            changed = _changed(memory)
            memory[:] = self._clean
            raise Overrun("setting wrote to its value: %s" % changed)
        return errno


def _changed(memory: bytearray) -> str:
    """The changes: offsets and bytes."""
    mark = _MARK[0]
    places = [i for i, byte in enumerate(memory) if byte != mark]
    if not places:
        return "nothing"
    return "%s at %d" % (memory[places[0] : places[-1] + 1].hex(), places[0] - _ROOM)
