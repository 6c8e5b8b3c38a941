# SPDX-License-Identifier: GPL-2.0-only
"""Calls that a signal ends, and memory that send(2) and recv(2) cannot use: what is lost, and what
is not.

Python calls again what a signal has ended, so that the calls are made through ctypes.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import ctypes
import errno
import struct
import time

from guest.calls import errno_of
from guest.checks import equal, errno_name, require, scenario_check
from guest.checks.waits import TRIES
from guest.flow import arrive, content, drain, fill, read, same, small_buffers
from guest.lab import TCP
from guest.pages import Pages
from guest.setting import put
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence

    from guest.lab import Lab, Pair

WAITS, FLAGS = "waits", "flags"
SIDES = ("mptcp", "fallback")
MSG_PEEK, MSG_WAITALL, MSG_NOSIGNAL = 0x02, 0x100, 0x4000
#: Seconds between signals: one that comes before the call waits is followed by another.
EVERY_S = 0.02
#: What has not ended by then goes on waiting.
LATE_S = 8.0

_libc = ctypes.CDLL(None, use_errno=True)


def _pair(lab: Lab) -> Pair:
    server = {"server": TCP} if lab.side == "fallback" else {}
    return lab.pair(before_connect=small_buffers, before_bind=small_buffers, **server)


class Signals:
    """SIGALRM again and again within a ``with``; the socket blocks."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._timeout: Optional[float] = None
        self._handler: Any = None

    def __enter__(self) -> Signals:
        self._timeout = self._sock.gettimeout()
        self._sock.settimeout(None)
        self._handler = _signal.signal(_signal.SIGALRM, lambda number, frame: None)
        _signal.setitimer(_signal.ITIMER_REAL, EVERY_S, EVERY_S)
        return self

    def __exit__(self, *unused: object) -> None:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, self._handler)
        self._sock.settimeout(self._timeout)


def _recv(sock: _socket.socket, address: int, size: int, flags: int = 0) -> tuple[int, int]:
    """What recv(2) to ``address`` returns, and its errno."""
    ctypes.set_errno(0)
    got = _libc.recv(sock.fileno(), ctypes.c_void_p(address), ctypes.c_size_t(size), flags)
    return int(got), ctypes.get_errno() if got < 0 else 0


def _send(sock: _socket.socket, address: int, size: int) -> tuple[int, int]:
    """What send(2) from ``address`` returns, and its errno."""
    ctypes.set_errno(0)
    length = ctypes.c_size_t(size)
    got = _libc.send(sock.fileno(), ctypes.c_void_p(address), length, MSG_NOSIGNAL)
    return int(got), ctypes.get_errno() if got < 0 else 0


def _fails(what: str, answer: tuple[int, int], expected: int) -> None:
    said = errno_name(answer[1]) if answer[1] else "%d bytes" % answer[0]
    equal(what, said, errno_name(expected))


def _room(size: int) -> tuple[ctypes.Array[ctypes.c_char], int]:
    buffer = ctypes.create_string_buffer(size)
    return buffer, ctypes.addressof(buffer)


@scenario_check("recv.is_ended_by_a_signal", scenario=WAITS)
@each(*SIDES)
def recv_ended(lab: Lab) -> None:
    """A signal ends a blocked recv(2) with EINTR, also with SO_RCVTIMEO; no data are lost."""
    pair = _pair(lab)
    _, room = _room(100)
    for timeout in (0, 60):
        put(pair.client, "SO_RCVTIMEO", struct.pack("@ll", timeout, 0))
        for flags in (0, MSG_PEEK, MSG_WAITALL):
            with Signals(pair.client):
                what = "recv with flags %#x, SO_RCVTIMEO %d" % (flags, timeout)
                _fails(what, _recv(pair.client, room, 100, flags), errno.EINTR)
    arrive(pair.server, pair.client, b"later")
    same("a read afterwards", pair.client.recv(100), b"later")


@scenario_check("msg_waitall.returns_what_came_before_a_signal", scenario=WAITS)
@each(*SIDES)
def waitall_ended(lab: Lab) -> None:
    """A signal ends MSG_WAITALL with the bytes so far; none is lost."""
    pair = _pair(lab)
    data = content(3000)
    arrive(pair.server, pair.client, data)
    buffer, room = _room(6000)
    with Signals(pair.client):
        equal("recv(MSG_WAITALL)", _recv(pair.client, room, 6000, MSG_WAITALL), (len(data), 0))
    same("what came before", buffer.raw[: len(data)], data)


@scenario_check("send.is_ended_by_a_signal", scenario=WAITS)
@each(*SIDES)
def send_ended(lab: Lab) -> None:
    """A signal ends a blocked send(2) with the bytes taken so far, or with EINTR."""
    pair = _pair(lab)
    data = content(1 << 20)
    buffer = ctypes.create_string_buffer(data, len(data))
    with Signals(pair.client):
        taken, number = _send(pair.client, ctypes.addressof(buffer), len(data))
        require("send", 0 < taken < len(data), "a part", errno_name(number) if number else taken)
    sent = data[:taken] + fill(pair.client)
    with Signals(pair.client):
        again = _send(pair.client, ctypes.addressof(buffer), len(data))
    # The peer may have taken a little more by then.
    if again[0] > 0:
        sent += data[: again[0]]
        with Signals(pair.client):
            again = _send(pair.client, ctypes.addressof(buffer), len(data))
    _fails("send without room", again, errno.EINTR)
    same("what was taken", drain(pair.server, len(sent)), sent)


@scenario_check("splice.is_ended_by_a_signal", scenario=WAITS)
@each(*SIDES)
def splice_ended(lab: Lab) -> None:
    """A signal ends a blocked splice(2) with EINTR."""
    pair = _pair(lab)
    _, sink = lab.pipe()
    size = ctypes.c_size_t(10)
    with Signals(pair.client):
        ctypes.set_errno(0)
        got = _libc.splice(pair.client.fileno(), None, sink, None, size, 0)
        _fails("splice", (got, ctypes.get_errno()), errno.EINTR)


@scenario_check("connect.goes_on_after_a_signal", scenario=WAITS)
def connect_goes_on(lab: Lab) -> None:
    """A signal ends a blocked connect(2) with EINTR; the next one fails with EALREADY."""
    address = lab.full_listener().getsockname()
    sock = lab.socket()
    name = _sockaddr(lab, address)
    with Signals(sock):
        ctypes.set_errno(0)
        got = _libc.connect(sock.fileno(), name, len(name))
        _fails("connect", (got, ctypes.get_errno()), errno.EINTR)
    sock.settimeout(0)
    number = errno_of(sock.connect, address)
    equal("connect again", errno_name(number) if number else "success", "EALREADY")


def _sockaddr(lab: Lab, address: Sequence[Any]) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    host = _socket.inet_pton(lab.family, address[0])
    port = struct.pack(">H", address[1])
    head = struct.pack("=H", lab.family) + port
    return head + (host + bytes(8) if lab.family == _socket.AF_INET else bytes(4) + host + bytes(4))


_pages: list[Pages] = []


def _memory() -> Pages:
    if not _pages:
        _pages.append(Pages())
    return _pages[0]


@scenario_check("recv.to_a_bad_pointer_takes_nothing", scenario=FLAGS)
@each(*SIDES)
def recv_to_a_bad_pointer(lab: Lab) -> None:
    """recv(2) into unwritable memory fails with EFAULT and takes no data."""
    pair = _pair(lab)
    memory = _memory()
    data = content(3000)
    arrive(pair.server, pair.client, data)
    for where, address in (
        ("unmapped", memory.unmapped),
        ("read-only", memory.read_only_with(bytes(200))),
        ("the end of a page", memory.at_the_end(bytes(100))),
    ):
        for flags in (MSG_PEEK, 0):
            answer = _recv(pair.client, address, 200, flags)
            _fails("recv to %s" % where, answer, errno.EFAULT)
    arrive(pair.server, pair.client, b"more")
    same("a read afterwards", read(pair.client, len(data) + 4), data + b"more")


@scenario_check("send.from_a_bad_pointer_sends_nothing", scenario=FLAGS)
@each(*SIDES)
def send_from_a_bad_pointer(lab: Lab) -> None:
    """send(2) from unreadable memory fails with EFAULT and sends nothing."""
    pair = _pair(lab)
    memory = _memory()
    for at, (where, address) in enumerate(
        (("unmapped", memory.unmapped), ("the end of a page", memory.at_the_end(bytes(100))))
    ):
        _fails("send from %s" % where, _send(pair.client, address, 200), errno.EFAULT)
        word = b"word %d" % at
        arrive(pair.client, pair.server, word)
        same("what comes afterwards", pair.server.recv(100), word)


@scenario_check("so_rcvtimeo.ends_splice", scenario=WAITS)
@each(*SIDES)
def timeout_ends_splice(lab: Lab) -> None:
    """splice(2) fails with EAGAIN after SO_RCVTIMEO."""
    pair = _pair(lab)
    _, sink = lab.pipe()
    put(pair.client, "SO_RCVTIMEO", struct.pack("@ll", 0, 60_000))
    pair.client.settimeout(None)
    for _ in range(TRIES):
        began = time.monotonic()
        ctypes.set_errno(0)
        got = _libc.splice(pair.client.fileno(), None, sink, None, ctypes.c_size_t(10), 0)
        took = time.monotonic() - began
        _fails("splice", (got, ctypes.get_errno()), errno.EAGAIN)
        if took >= 0.049:
            break
    require("splice: seconds", 0.049 <= took < LATE_S, "0.06", "%.3f" % took)
