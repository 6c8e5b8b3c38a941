# SPDX-License-Identifier: GPL-2.0-only
"""One MPTCP connection over loopback, with both ends, and its phases.

This process drives both ends in turn, so that results do not depend on the scheduler: the same
kernel and seed give the same results.
"""

from __future__ import annotations

# socket.py imports enum and selectors, which takes 0.2 s in an emulated VM; its C half is enough.
import _socket
import time

from guest import abi, sockopt
from guest.checks import CLIENT, SERVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, TypeVar

    T = TypeVar("T")

LOOPBACK = {_socket.AF_INET: "127.0.0.1", _socket.AF_INET6: "::1"}
#: The timeout in seconds of a call that cannot block on a correct kernel.
IO_DEADLINE = 10.0
#: Seconds to wait for data or acknowledgements in flight; loopback needs microseconds.
SETTLE_DEADLINE = 5.0
#: The same for a check that has already timed out once.
RETRY_DEADLINE = 0.2
#: Bytes asked of one recv(2), so that a stream takes several.
READ_SIZE = 8192
#: The most bytes in flight, one read: with more, the last piece waits 40 ms for Nagle's algorithm
#: and the delayed acknowledgement.
IN_FLIGHT = READ_SIZE


class TransferFailed(Exception):
    """The connection failed or data did not arrive, so nothing further can be checked."""


class Patience:
    """How long a check waits for a value to settle.

    A check that has timed out fails at every place. Waiting as long at each place and in each round
    would take minutes on a broken kernel.
    """

    def __init__(self) -> None:
        self.check = ""  # the one that runs
        self._in_vain: set[str] = set()

    @property
    def seconds(self) -> float:
        return RETRY_DEADLINE if self.check in self._in_vain else SETTLE_DEADLINE

    def exhausted(self) -> None:
        self._in_vain.add(self.check)


class End:
    """One side of a connection, and the data that went through it."""

    def __init__(self, side: str, sock: _socket.socket, began: float, patience: Patience) -> None:
        self.side = side
        self.patience = patience
        self.sock = sock
        self.fd = sock.fileno()
        self.family = sock.family
        self.began = began  # monotonic, before the connection was made
        self.sent = 0  # bytes written so far
        self.received = 0  # bytes read so far
        self.peer_closed = False  # the peer's FIN was read
        self.content = b""  # everything read
        self.expected = b""  # everything the peer was told to write
        #: MPTCP_INFO before this end read or wrote anything; later samples are relative to it.
        self.first_info: Optional[abi.View] = None
        #: Bytes that had arrived, unread, when first_info was taken.
        self.early = 0
        self.peer: End

    def take_first_info(self) -> None:
        answer = self.mptcp_info()
        if answer.ok:
            self.first_info = abi.MPTCP_INFO_LAYOUT.view(answer.filled)

    def mptcp_info(self, size: int = 2 * abi.MPTCP_INFO_LAYOUT.size) -> sockopt.Answer:
        """MPTCP_INFO into ``size`` bytes, by default more than any kernel returns."""
        return sockopt.getsockopt(self.fd, abi.SOL_MPTCP, abi.MPTCP_INFO, bytes(size))


class Connection:
    """An established connection. ``payload`` is what the client sends and the server echoes."""

    def __init__(
        self,
        family: int,
        payload: bytes,
        protocol: int = abi.IPPROTO_MPTCP,
        patience: Optional[Patience] = None,
    ) -> None:
        self.payload = payload
        patience = patience or Patience()
        began = time.monotonic()
        listener = _socket.socket(family, _socket.SOCK_STREAM, protocol)
        client = _socket.socket(family, _socket.SOCK_STREAM, protocol)
        try:
            # Port 0: the kernel chooses a free port.
            listener.bind((LOOPBACK[family], 0))
            listener.listen(1)
            client.settimeout(IO_DEADLINE)
            client.connect(listener.getsockname())
            listener.settimeout(IO_DEADLINE)
            server_fd, _ = listener._accept()  # type: ignore[attr-defined]
        except OSError:
            client.close()
            raise
        finally:
            listener.close()
        server = _socket.socket(family, _socket.SOCK_STREAM, protocol, server_fd)
        server.settimeout(IO_DEADLINE)
        self.client = End(CLIENT, client, began, patience)
        self.server = End(SERVER, server, began, patience)
        self.client.peer, self.server.peer = self.server, self.client

    def end(self, side: str) -> End:
        return self.client if side == CLIENT else self.server

    def send_early(self) -> None:
        """Write the payload before the server uses its socket, and wait until it has arrived."""
        self.client.sock.sendall(self.payload)
        self.client.sent += len(self.payload)
        self.server.expected += self.payload
        self.server.early = len(self.payload)

    def transfer(self) -> None:
        """Send the payload, or the rest of it, to the server and back."""
        self._pump(self.client, self.payload[self.client.sent :], len(self.payload))
        self._pump(self.server, self.payload, len(self.payload))

    def _pump(self, source: End, data: bytes, want: int) -> None:
        """Write ``data`` at ``source`` and read at its peer until that has ``want`` bytes.

        At most :data:`IN_FLIGHT` bytes are in flight: if data fill the peer's buffer, MPTCP
        retransmits some when the window opens (seen from 96 KiB on), which tcp_info counts.
        """
        sink = source.peer
        sink.expected += data
        left = memoryview(data)
        chunks = []
        deadline = time.monotonic() + IO_DEADLINE
        source.sock.setblocking(False)
        sink.sock.setblocking(False)
        try:
            while left or sink.received < want:
                progress = 0
                room = IN_FLIGHT - (source.sent - sink.received)
                if left and room > 0:
                    progress = _try_send(source, left[:room])
                    left = left[progress:]
                chunk = _try_read(sink)
                if chunk:
                    chunks.append(chunk)
                    sink.received += len(chunk)
                elif not progress:
                    if time.monotonic() > deadline:
                        raise TransferFailed(
                            "%s read %d of %d bytes in %d s"
                            % (sink.side, sink.received, want, IO_DEADLINE)
                        )
                    time.sleep(0.0005)
        finally:
            sink.content += b"".join(chunks)
            source.sock.settimeout(IO_DEADLINE)
            sink.sock.settimeout(IO_DEADLINE)

    def finish(self, closer: End) -> None:
        """Close ``closer`` for writing, and read its FIN at the other end."""
        closer.sock.shutdown(_socket.SHUT_WR)
        rest = closer.peer.sock.recv(READ_SIZE)
        if rest:
            raise TransferFailed(
                "%s expected the end of the stream, %d more bytes came: %s"
                % (closer.peer.side, len(rest), rest[:64].hex())
            )
        closer.peer.peer_closed = True

    def close(self) -> None:
        self.client.sock.close()
        self.server.sock.close()
        # The ends hold each other, and in a VM nobody collects what is in a cycle.
        del self.client.peer, self.server.peer


def _try_send(source: End, data: memoryview) -> int:
    try:
        written = source.sock.send(data)
    except BlockingIOError:
        return 0
    source.sent += written
    return written


def _try_read(sink: End) -> bytes:
    try:
        chunk = sink.sock.recv(READ_SIZE)
    except BlockingIOError:
        return b""
    if not chunk:
        raise TransferFailed(
            "%s read the end of the stream after %d bytes" % (sink.side, sink.received)
        )
    return chunk


def settle(end: End, sample: Callable[[], T], settled: Callable[[T], bool]) -> T:
    """``sample()`` of ``end`` once it is ``settled``, or its last value at the deadline.

    Data and acknowledgements in flight need a moment: poll with short, growing pauses.
    """
    deadline = time.monotonic() + end.patience.seconds
    pause = 0.0002
    while True:
        value = sample()
        if settled(value):
            return value
        if time.monotonic() > deadline:
            end.patience.exhausted()
            return value
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
