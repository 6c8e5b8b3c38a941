# SPDX-License-Identifier: GPL-2.0-only
"""Transfers data through a connection: in both directions at once, and until it is full."""

from __future__ import annotations

import _random
import _socket
import time

from guest.calls import POLLIN, POLLOUT, SIOCINQ, ioctl, poll, poll_each
from guest.checks import Failed, equal
from guest.connection import IO_DEADLINE
from guest.lab import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence, Union

MSG_PEEK, MSG_DONTWAIT = 0x02, 0x40
#: A prime near 64 KiB, so that content shifted by a page or a segment is detected.
_BLOCK = 65521
_READ = 1 << 17
#: Random bytes, twice. They take the longest to make, so content of any seed is a part of them.
_BYTES = _random.Random(1).getrandbits(8 * _BLOCK).to_bytes(_BLOCK, "little") * 2
#: Spreads the beginnings for similar seeds.
_FACTOR = 40503
#: The longest content of more than a block requested so far, by its beginning.
_contents: dict[int, bytes] = {}


def content(size: int, seed: int = 0) -> bytes:
    """``size`` bytes, the same for the same ``seed``."""
    start = seed * _FACTOR % _BLOCK
    if size <= _BLOCK:
        return _BYTES[start : start + size]
    known = _contents.get(start, b"")
    if len(known) < size:
        known = _contents[start] = _BYTES[start : start + _BLOCK] * (size // _BLOCK + 1)
    return known if len(known) == size else known[:size]


def recv_now(sock: _socket.socket, size: int, flags: int = 0) -> bytes:
    """recv(2) without waiting. For a socket with a timeout, Python waits whatever the flags."""
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        return sock.recv(size, flags)
    finally:
        sock.settimeout(timeout)


def send_now(sock: _socket.socket, data: Union[bytes, memoryview], flags: int = 0) -> int:
    """send(2) without waiting."""
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        return sock.send(data, flags)
    finally:
        sock.settimeout(timeout)


def queued(sock: _socket.socket, most: int = _READ) -> bytes:
    """The data queued at ``sock``, without consuming them."""
    try:
        return recv_now(sock, most, MSG_PEEK)
    except BlockingIOError:
        return b""


def arrive(source: _socket.socket, sink: _socket.socket, data: bytes) -> None:
    """Send ``data``, and wait until it is queued at ``sink``."""
    before = _arrived(sink)
    source.sendall(data)
    wait_queued(sink, before + len(data))


def wait_queued(sink: _socket.socket, size: int) -> None:
    """Wait until ``size`` bytes can be read from ``sink``, as long as more arrive."""
    seen = [_arrived(sink)]

    def more() -> bool:
        seen.append(_arrived(sink))
        return seen[-1] > seen[-2]

    while seen[-1] < size:
        if not wait_until(more):
            raise Failed("data that arrive within 5 s", "%d bytes" % size, "%d" % seen[-1])


def _arrived(sink: _socket.socket) -> int:
    """The number of readable bytes: SIOCINQ, or the length of a peek if that is larger.

    Kernels before 6.15 show fewer bytes to a peek, and SIOCINQ exists since 5.17.
    """
    shown = len(queued(sink))
    try:
        counted = ioctl(sink, SIOCINQ)
    except OSError:
        return shown
    # With data from a SYN it is INT_MAX (seen from 6.18 to 7.3).
    return max(shown, counted if counted < _READ else 0)


def arrived_at_rest(sink: _socket.socket) -> int:
    """The number of readable bytes, once it has not grown for 50 ms."""
    before, now = -1, _arrived(sink)
    while now > before:
        time.sleep(0.05)
        before, now = now, _arrived(sink)
    return now


def read(sock: _socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes, or all bytes before the end of the stream."""
    chunks = []
    while size > 0:
        chunk = sock.recv(min(size, _READ))
        if not chunk:
            break
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def read_to_end(sock: _socket.socket) -> bytes:
    """All bytes up to the end of the stream."""
    return read(sock, 1 << 62)


def begins(what: str, got: bytes, expected: bytes) -> None:
    """Fail unless ``got`` is a non-empty prefix of ``expected``."""
    if not got and expected:
        raise Failed(what, "some bytes", "none")
    same(what, got, expected[: len(got)])


def same(what: str, got: bytes, expected: bytes) -> None:
    """Fail unless ``got`` is ``expected``, naming the first difference."""
    if got == expected:
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected))
    )
    raise Failed(
        what + ": content",
        "%d bytes, at %d: %s" % (len(expected), at, expected[at : at + 16].hex() or "the end"),
        "%d bytes, at %d: %s" % (len(got), at, got[at : at + 16].hex() or "the end"),
        got[at : at + 64],
    )


class _Stream:
    """One direction of :func:`exchange`."""

    def __init__(self, source: _socket.socket, sink: _socket.socket, data: bytes) -> None:
        self.source = source
        self.sink = sink
        self.data = data
        self.left = memoryview(data)
        self.chunks: list[bytes] = []
        self.missing = len(data)

    def step(self, chunk: int) -> bool:
        """Send and receive what is possible now; returns whether anything moved."""
        moved = False
        if self.left:
            try:
                self.left = self.left[send_now(self.source, self.left[:chunk]) :]
                moved = True
            except BlockingIOError:
                pass
        try:
            got = recv_now(self.sink, _READ)
        except BlockingIOError:
            return moved
        if not got and self.missing:
            where = len(self.data) - self.missing
            raise Failed("the stream's end", "after %d bytes" % len(self.data), "after %d" % where)
        self.chunks.append(got)
        self.missing -= len(got)
        return moved or bool(got)


def exchange(
    one: _socket.socket,
    other: _socket.socket,
    forth: bytes,
    back: bytes = b"",
    chunk: int = 1 << 16,
    what: str = "a transfer",
) -> None:
    """Send ``forth`` from ``one`` to ``other`` and ``back`` the other way, both at once.

    Fails the check if the received data differ from those sent. ``chunk`` is the size of one send.
    """
    streams = [_Stream(one, other, forth), _Stream(other, one, back)]
    deadline = time.monotonic() + IO_DEADLINE
    while any(stream.missing for stream in streams):
        moved = [stream.step(chunk) for stream in streams if stream.missing]
        if any(moved):
            deadline = time.monotonic() + IO_DEADLINE
        elif time.monotonic() > deadline:
            got = ", ".join("%d of %d" % (len(s.data) - s.missing, len(s.data)) for s in streams)
            raise Failed(what + " that goes on", "all bytes", got)
        else:
            _wait_any(streams)
    for stream in streams:
        same(what, b"".join(stream.chunks), stream.data)


def _wait_any(streams: Sequence[_Stream]) -> None:
    """Wait until one of ``streams`` may continue."""
    wanted = [(stream.sink, POLLIN) for stream in streams if stream.missing]
    wanted += [(stream.source, POLLOUT) for stream in streams if stream.left]
    began = time.monotonic()
    poll_each(wanted, 0.05)
    if time.monotonic() - began < 0.0005:
        time.sleep(0.0005)  # poll returned at once although nothing can be done


def small_buffers(sock: _socket.socket) -> None:
    """Set small SO_SNDBUF and SO_RCVBUF, so that :func:`fill` is fast."""
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 32768)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, 32768)


def fill(sock: _socket.socket, least: int = 512, most: int = 1 << 20) -> bytes:
    """Send until ``sock`` does not accept ``least`` more bytes; returns the bytes sent.

    Then poll(2) must not report POLLOUT; otherwise the check fails.
    """
    data = content(most)
    at, chunk, quiet = 0, 1 << 16, 0
    deadline = time.monotonic() + IO_DEADLINE
    while quiet < 3:
        if at + chunk > most:
            raise Failed("a send buffer that fills up", "EAGAIN", "%d bytes taken" % at)
        try:
            at += send_now(sock, data[at : at + chunk])
            quiet = 0
            deadline = time.monotonic() + IO_DEADLINE
        except BlockingIOError:
            # A large send may be refused when a small one still fits.
            if chunk > least:
                chunk = max(chunk // 8, least)
            elif not poll(sock, 0.005, POLLOUT):
                quiet += 1
            elif time.monotonic() > deadline:
                raise Failed("poll of a full socket", "no POLLOUT", "POLLOUT") from None
            else:
                quiet = 0
                time.sleep(0.001)
    return data[:at]


def drain(sock: _socket.socket, size: int) -> bytes:
    """Read ``size`` bytes, as long as more arrive; returns the bytes read."""
    chunks: list[bytes] = []
    got = 0
    deadline = time.monotonic() + IO_DEADLINE
    while got < size:
        try:
            chunk = recv_now(sock, min(_READ, size - got))
        except BlockingIOError:
            if time.monotonic() > deadline:
                break
            poll(sock, 0.05, POLLIN)
            continue
        if not chunk:
            break
        got += len(chunk)
        chunks.append(chunk)
        # A receiver that was full opens its window in steps, by probes that back off.
        deadline = time.monotonic() + IO_DEADLINE
    return b"".join(chunks)


def at_end(what: str, sock: _socket.socket) -> None:
    """Fail unless the stream ends here."""
    got: Optional[bytes] = None
    try:
        got = sock.recv(64)
    except OSError as error:
        raise Failed(what, "the end of the stream", str(error)) from None
    equal(what, len(got), 0, got)
