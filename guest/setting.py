# SPDX-License-Identifier: GPL-2.0-only
"""Set and read options by their name in :mod:`guest.options`, for checks of their effects."""

from __future__ import annotations

import _socket
import struct

from guest import option, options, sockopt
from guest.checks import equal, errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Union

    from guest.option import Option

_INT = struct.Struct("=i")
IPPROTO_TCP = option.IPPROTO_TCP
SOL_SOCKET = option.SOL_SOCKET


def named(name: str) -> Option:
    return options.BY_NAME[name]


def put(sock: _socket.socket, name: str, value: Union[int, bytes]) -> None:
    """Set the option ``name``, an int unless bytes are given. Fails the check where it fails."""
    known = named(name)
    data = _INT.pack(value) if isinstance(value, int) else value
    errno = sockopt.setsockopt(sock.fileno(), known.level, known.number, data)
    equal("setting " + name, errno_name(errno) if errno else "success", "success")


def putting(name: str, value: Union[int, bytes]) -> Callable[[_socket.socket], None]:
    """A function of a socket that sets the option on it."""

    def put_it(sock: _socket.socket) -> None:
        put(sock, name, value)

    return put_it


def get(sock: _socket.socket, name: str, size: int = _INT.size) -> bytes:
    """The bytes that the option ``name`` reads as. Fails the check where it cannot be read."""
    known = named(name)
    answer = sockopt.getsockopt(sock.fileno(), known.level, known.number, bytes(size))
    equal("reading " + name, errno_name(answer.errno) if answer.errno else "success", "success")
    return answer.filled


def get_int(sock: _socket.socket, name: str) -> int:
    """The int that the option ``name`` reads as."""
    data = get(sock, name)
    equal("size of " + name, len(data), _INT.size, data)
    return int(_INT.unpack(data)[0])
