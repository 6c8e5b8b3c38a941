# SPDX-License-Identifier: GPL-2.0-only
"""The socket states that a program can distinguish, and how to bring a socket into each.

Every state is made for MPTCP and for plain TCP by the same calls, so that the two can be compared.
"""

from __future__ import annotations

import _socket
import select

from guest.calls import SIOCOUTQ, ioctl
from guest.lab import MPTCP, TCP, Lab, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Mapping, Optional, Union

    Address = Union[tuple[str, int], tuple[str, int, int, int]]

#: Seconds for a segment to get to the other end; a trace waits up to a dozen times in vain.
SETTLE_S = 4.0
AF_UNSPEC = 0
SHUT_WR = _socket.SHUT_WR
POLLRDHUP = 0x2000
POLLRDNORM, POLLRDBAND, POLLWRNORM, POLLWRBAND = 0x40, 0x80, 0x100, 0x200
#: The kernel adds POLLERR and POLLHUP by itself.
EVERY_EVENT = select.POLLIN | select.POLLOUT | select.POLLPRI | POLLRDHUP
EVERY_EVENT |= POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND
#: What is queued where data is unread.
UNREAD = b"unread" * 40
#: Addresses that no connection can be made to: connect() fails with ENETUNREACH at once.
MULTICAST = {_socket.AF_INET: "224.0.0.1", _socket.AF_INET6: "ff02::1"}


class Placed:
    """A socket in a state. ``address`` is a listener that may be connected to."""

    __slots__ = ("address", "fd", "listener", "peer", "sock")

    def __init__(
        self,
        sock: _socket.socket,
        listener: Optional[_socket.socket] = None,
        peer: Optional[_socket.socket] = None,
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.listener = listener
        self.peer = peer


def events(sock: _socket.socket) -> int:
    """The events that poll(2) reports for ``sock`` at once, with all events requested."""
    poller = select.poll()
    poller.register(sock.fileno(), EVERY_EVENT)
    found = poller.poll(0)
    return found[0][1] if found else 0


def _await(sock: _socket.socket, wanted: int) -> None:
    """Wait for all of the poll events ``wanted``; the checks say what is missing."""
    wait_until(lambda: events(sock) & wanted == wanted, SETTLE_S)


def is_closed(sock: _socket.socket) -> bool:
    """Whether ``sock`` has no peer, or lost it: poll(2) may report that earlier."""
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


def _await_closed(sock: _socket.socket) -> None:
    wait_until(lambda: is_closed(sock), SETTLE_S)


def _is_acknowledged(sock: _socket.socket) -> bool:
    """Whether SIOCOUTQ, which also counts a FIN, is 0; true where there is none (before 5.17)."""
    try:
        return ioctl(sock, SIOCOUTQ) == 0
    except OSError:
        return True


def _await_acknowledged(sock: _socket.socket) -> None:
    wait_until(lambda: _is_acknowledged(sock), SETTLE_S)


def _fresh(lab: Lab, protocol: int) -> Placed:
    return Placed(lab.socket(protocol))


def _bound(lab: Lab, protocol: int) -> Placed:
    sock = lab.socket(protocol)
    sock.bind((lab.address, 0))
    return Placed(sock)


def _listening(lab: Lab, protocol: int) -> Placed:
    return Placed(lab.listener(protocol))


def _listening_unbound(lab: Lab, protocol: int) -> Placed:
    """listen() has chosen a port."""
    sock = lab.socket(protocol)
    sock.listen(8)
    return Placed(sock)


def _unreachable(lab: Lab, protocol: int) -> Placed:
    """connect() failed at once."""
    sock = lab.socket(protocol)
    sock.connect_ex((MULTICAST[lab.family], 9))
    return Placed(sock)


def _pending(lab: Lab, protocol: int) -> Placed:
    """A connection is in the accept queue."""
    listener = lab.listener(protocol)
    lab.socket(protocol).connect(listener.getsockname())
    _await(listener, select.POLLIN)
    return Placed(listener)


def _connecting(lab: Lab, protocol: int) -> Placed:
    """The listener's backlog is full: the SYN is dropped."""
    listener = lab.listener(TCP, backlog=0)
    address = listener.getsockname()
    for _ in range(2):
        sock = lab.socket(protocol)
        sock.setblocking(False)
        sock.connect_ex(address)
        wait_until(lambda: events(listener) & select.POLLIN, SETTLE_S)
    return Placed(sock, listener)


def _refused(lab: Lab, protocol: int) -> Placed:
    closed = lab.socket(TCP)
    closed.bind((lab.address, 0))
    sock = lab.socket(protocol)
    sock.setblocking(False)
    sock.connect_ex(closed.getsockname())
    _await(sock, select.POLLERR)
    return Placed(sock)


def _client(lab: Lab, protocol: int) -> Placed:
    pair = lab.pair(protocol, protocol)
    return Placed(pair.client, pair.listener, pair.server)


def _server(lab: Lab, protocol: int) -> Placed:
    pair = lab.pair(protocol, protocol)
    return Placed(pair.server, pair.listener, pair.client)


def _unread(lab: Lab, protocol: int) -> Placed:
    placed = _server(lab, protocol)
    _peer(placed).send(UNREAD)
    _await(placed.sock, select.POLLIN)
    return placed


def _shut(lab: Lab, protocol: int) -> Placed:
    """Closed for writing here; the peer is open."""
    placed = _client(lab, protocol)
    placed.sock.shutdown(SHUT_WR)
    _await(_peer(placed), POLLRDHUP)
    _await_acknowledged(placed.sock)
    return placed


def _peer_shut(lab: Lab, protocol: int) -> Placed:
    placed = _client(lab, protocol)
    _peer(placed).shutdown(SHUT_WR)
    _await(placed.sock, POLLRDHUP)
    return placed


def _closed_first(lab: Lab, protocol: int) -> Placed:
    """Closed for writing by both, here first."""
    placed = _shut(lab, protocol)
    _peer(placed).shutdown(SHUT_WR)
    _await_closed(placed.sock)
    return placed


def _closed_last(lab: Lab, protocol: int) -> Placed:
    """Closed for writing by both, the peer first."""
    placed = _peer_shut(lab, protocol)
    placed.sock.shutdown(SHUT_WR)
    _await_closed(placed.sock)
    return placed


def _reset(lab: Lab, protocol: int) -> Placed:
    return _reset_by_peer(_client(lab, protocol))


def _reset_by_peer(placed: Placed) -> Placed:
    """The peer closes with data unread."""
    placed.sock.send(b"x")
    peer = _peer(placed)
    _await(peer, select.POLLIN)
    peer.close()
    _await(placed.sock, select.POLLHUP)
    return placed


def _disconnected(lab: Lab, protocol: int) -> Placed:
    return _disconnected_here(_client(lab, protocol))


def _disconnected_here(placed: Placed) -> Placed:
    disconnect(placed.sock)
    _await_closed(_peer(placed))
    return placed


def _reconnected(lab: Lab, protocol: int) -> Placed:
    placed = _disconnected(lab, protocol)
    assert placed.listener is not None
    placed.sock.connect(placed.listener.getsockname())
    placed.peer = lab.accept(placed.listener, protocol)
    return placed


def _fallback(lab: Lab, protocol: int) -> Placed:
    """The peer is a plain TCP socket."""
    pair = lab.pair(protocol, TCP)
    return Placed(pair.client, pair.listener, pair.server)


def _fallback_peer_shut(lab: Lab, protocol: int) -> Placed:
    placed = _fallback(lab, protocol)
    _peer(placed).shutdown(SHUT_WR)
    _await(placed.sock, POLLRDHUP)
    return placed


def _fallback_closed(lab: Lab, protocol: int) -> Placed:
    placed = _fallback_peer_shut(lab, protocol)
    placed.sock.shutdown(SHUT_WR)
    _await_closed(placed.sock)
    _await_acknowledged(placed.sock)
    return placed


def _fallback_reset(lab: Lab, protocol: int) -> Placed:
    return _reset_by_peer(_fallback(lab, protocol))


def _fallback_disconnected(lab: Lab, protocol: int) -> Placed:
    return _disconnected_here(_fallback(lab, protocol))


def _fallback_server(lab: Lab, protocol: int) -> Placed:
    """Accepted from a plain TCP client."""
    pair = lab.pair(TCP, protocol)
    return Placed(pair.server, pair.listener, pair.client)


STATES: Mapping[str, Callable[[Lab, int], Placed]] = {
    "fresh": _fresh,
    "bound": _bound,
    "listening": _listening,
    "listening-unbound": _listening_unbound,
    "pending": _pending,
    "unreachable": _unreachable,
    "connecting": _connecting,
    "refused": _refused,
    "client": _client,
    "server": _server,
    "unread": _unread,
    "shut": _shut,
    "peer-shut": _peer_shut,
    "closed-first": _closed_first,
    "closed-last": _closed_last,
    "reset": _reset,
    "disconnected": _disconnected,
    "reconnected": _reconnected,
    "fallback": _fallback,
    "fallback-peer-shut": _fallback_peer_shut,
    "fallback-closed": _fallback_closed,
    "fallback-reset": _fallback_reset,
    "fallback-disconnected": _fallback_disconnected,
    "fallback-server": _fallback_server,
}


def place(lab: Lab, state: str, protocol: int = MPTCP) -> Placed:
    """A new socket of ``protocol`` in ``state``, closed with ``lab``."""
    return STATES[state](lab, protocol)


def disconnect(sock: _socket.socket) -> None:
    """connect(2) to an address of AF_UNSPEC. Raises OSError."""
    number = connect_unspecified(sock.fileno())
    if number:
        raise OSError(number, "connect(AF_UNSPEC) failed")


def connect_unspecified(fd: int) -> int:
    """0 or errno of disconnecting ``fd``; Python's own connect() knows no such address."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.connect(fd, bytes(16), 16) else 0


def _peer(placed: Placed) -> _socket.socket:
    assert placed.peer is not None
    return placed.peer
