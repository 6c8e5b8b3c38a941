# SPDX-License-Identifier: GPL-2.0-only
"""The sockets of a check in a scenario.

A scenario (:mod:`guest.scenarios`) has its own process and network namespace, so that it does not
affect others. Each of its checks gets a :class:`Lab` and makes the sockets that it needs. They are
closed after the check.
"""

from __future__ import annotations

import _socket
import os
import time

from guest import abi
from guest.connection import IO_DEADLINE, LOOPBACK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, TypeVar

    T = TypeVar("T")
    Setup = Callable[[_socket.socket], object]

MPTCP = abi.IPPROTO_MPTCP
TCP = _socket.IPPROTO_TCP


class Pair:
    """Two connected ends, and the listener that the server was accepted from."""

    __slots__ = ("client", "listener", "server")

    def __init__(
        self, client: _socket.socket, server: _socket.socket, listener: _socket.socket
    ) -> None:
        self.client = client
        self.server = server
        self.listener = listener


class Lab:
    """Sockets of one check. ``family`` is AF_INET or AF_INET6; ``phase`` and ``side`` say where
    the check runs, as its declaration lists them; ``seed`` is the run's."""

    def __init__(self, family: int, phase: str = "", side: str = "", seed: int = 0) -> None:
        self.family = family
        self.phase = phase
        self.side = side
        self.seed = seed
        self.address = LOOPBACK[family]
        self._open: list[_socket.socket] = []
        self._undo: list[Callable[[], object]] = []

    def socket(self, protocol: int = MPTCP) -> _socket.socket:
        """A stream socket with a deadline for each call, closed after the check."""
        return self.adopt(_socket.socket(self.family, _socket.SOCK_STREAM, protocol))

    def adopt(self, sock: _socket.socket) -> _socket.socket:
        """Have ``sock`` closed after the check, and its calls given a deadline."""
        sock.settimeout(IO_DEADLINE)
        self._open.append(sock)
        return sock

    def listener(
        self, protocol: int = MPTCP, before: Optional[Setup] = None, backlog: int = 8
    ) -> _socket.socket:
        """A listening socket on a free port; ``before`` is called on it before bind()."""
        sock = self.socket(protocol)
        if before is not None:
            before(sock)
        sock.bind((self.address, 0))
        sock.listen(backlog)
        return sock

    def full_listener(self) -> _socket.socket:
        """A listener that answers no SYN, because its backlog of one connection is full."""
        listener = self.listener(backlog=0)
        self.socket().connect(listener.getsockname())
        # connect() returns before the last packet of the handshake reaches the listener.
        wait_until(lambda: _is_readable(listener))
        return listener

    def accept(self, listener: _socket.socket, protocol: int = MPTCP) -> _socket.socket:
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        return self.adopt(_socket.socket(self.family, _socket.SOCK_STREAM, protocol, fd))

    def pair(
        self,
        client: int = MPTCP,
        server: int = MPTCP,
        before_connect: Optional[Setup] = None,
        before_bind: Optional[Setup] = None,
    ) -> Pair:
        """A connection between a socket of protocol ``client`` and a listener of ``server``.

        If one of them is :data:`TCP`, the other falls back. ``before_connect`` is called on the
        client, ``before_bind`` on the listener.
        """
        listener = self.listener(server, before_bind)
        near = self.socket(client)
        if before_connect is not None:
            before_connect(near)
        near.connect(listener.getsockname())
        return Pair(near, self.accept(listener, server), listener)

    def pipe(self) -> tuple[int, int]:
        """A pipe: the end to read from and the end to write to, closed after the check."""
        source, sink = os.pipe()
        self.afterwards(lambda: os.close(source))
        self.afterwards(lambda: os.close(sink))
        return source, sink

    def afterwards(self, undo: Callable[[], object]) -> None:
        """Call ``undo`` after the check, in reverse order, before the sockets are closed."""
        self._undo.append(undo)

    def close(self) -> None:
        """Undo and close everything, even if one of them fails; raises the first error."""
        errors = []
        for undo in (*reversed(self._undo), *(sock.close for sock in reversed(self._open))):
            try:
                undo()
            except Exception as error:
                errors.append(error)
        self._undo.clear()
        self._open.clear()
        if errors:
            raise errors[0]


_slowness = 1.0


def wait_longer(slowness: float) -> None:
    """Make every later wait of this process and its children ``slowness`` times as long."""
    global _slowness
    _slowness = slowness


def wait_until(condition: Callable[[], T], seconds: float = 5.0) -> T:
    """``condition()`` once it is true, or its last value when ``seconds`` are over.

    On a slow kernel or a busy host the time is longer: see :func:`wait_longer`.
    """
    deadline = time.monotonic() + _slowness * seconds
    pause = 0.0005
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _is_readable(sock: _socket.socket) -> bool:
    from guest.calls import POLLIN, poll

    return bool(poll(sock, 0, POLLIN))


def write_sysctl(name: str, value: str) -> None:
    """Set ``net.…`` of this network namespace, with dots or slashes. Raises OSError."""
    fd = os.open("/proc/sys/" + name.replace(".", "/"), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def has_root() -> bool:
    return os.geteuid() == 0
