# SPDX-License-Identifier: GPL-2.0-only
"""The results of all calls on a socket in a state, in a fixed order, for MPTCP and plain TCP."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import struct

from guest import abi, calls, sockopt, states
from guest.checks import Failed, errno_name
from guest.lab import MPTCP, Lab, wait_until
from guest.option import IPPROTO_TCP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Mapping, Union

    from guest.states import Placed

    Trace = Mapping[str, str]

SOL_SOCKET = _socket.SOL_SOCKET
SPLICE_F_NONBLOCK = 2
NOSIGNAL, DONTWAIT = _socket.MSG_NOSIGNAL, _socket.MSG_DONTWAIT
SIOCINQ, SIOCOUTQ = calls.SIOCINQ, calls.SIOCOUTQ
SIOCOUTQNSD, SIOCATMARK, UNKNOWN = calls.SIOCOUTQNSD, calls.SIOCATMARK, 0x5499
TCP_IS_MPTCP = 43
#: Of setsockopt(2): no protocol's.
UNKNOWN_LEVEL = 250
SO_PROTOCOL = getattr(_socket, "SO_PROTOCOL", 38)
SO_TYPE, SO_ACCEPTCONN = _socket.SO_TYPE, _socket.SO_ACCEPTCONN
SO_DOMAIN = getattr(_socket, "SO_DOMAIN", 39)
#: States in which the first call gets an error, and other sockets see what each call gets first.
IN_ERROR = ("refused", "reset", "fallback-reset", "unreachable", "disconnected")
_INT = struct.Struct("=i")


def _errno(error: OSError) -> str:
    return errno_name(error.errno) if error.errno else "timed out"


class Tracer:
    """Makes all calls on one socket, and keeps the result of each as text."""

    def __init__(self, lab: Lab, placed: Placed, protocol: int) -> None:
        self.lab = lab
        self.placed = placed
        self.sock = placed.sock
        self.protocol = protocol
        self.said: dict[str, str] = {}

    def call(self, name: str, function: Callable[[], object]) -> bool:
        """Keep the result of ``function()``; returns whether it raised no error."""
        try:
            value = function()
        except OSError as error:
            self.said[name] = _errno(error)
            return False
        self.said[name] = "success" if value is None else str(value)
        return True

    def run(self) -> Trace:
        self.sock.setblocking(False)
        if self.protocol == MPTCP:
            self._ask_mptcp()
        self._look()
        self._use()
        self._shut_down()
        self._start_over()
        return self.said

    def _ask_mptcp(self) -> None:
        fd, said = self.sock.fileno(), self.said
        said["SO_PROTOCOL"] = str(self.sock.getsockopt(SOL_SOCKET, SO_PROTOCOL))
        answer = sockopt.getsockopt(fd, IPPROTO_TCP, TCP_IS_MPTCP, bytes(_INT.size))
        said["TCP_IS_MPTCP"] = _told(answer, lambda: str(_INT.unpack(answer.data)[0]))
        said["MPTCP_INFO"] = _info(fd)
        header = abi.SUBFLOW_DATA_LAYOUT.pack(size_subflow_data=abi.SUBFLOW_DATA_LAYOUT.size)
        for name, option in (
            ("MPTCP_TCPINFO", abi.MPTCP_TCPINFO),
            ("MPTCP_SUBFLOW_ADDRS", abi.MPTCP_SUBFLOW_ADDRS),
        ):
            said[name] = _subflows(fd, option, header, abi.SUBFLOW_DATA_LAYOUT)
        full = abi.FULL_INFO_LAYOUT
        said["MPTCP_FULL_INFO"] = _subflows(fd, abi.MPTCP_FULL_INFO, full.pack(), full)
        answer = sockopt.getsockopt(fd, abi.SOL_MPTCP, 99, bytes(_INT.size))
        said["an unknown option"] = _told(answer, lambda: "success")
        answer = sockopt.getsockopt(fd, UNKNOWN_LEVEL, 1, bytes(_INT.size))
        said["an unknown level"] = _told(answer, lambda: "success")
        number = sockopt.setsockopt(fd, UNKNOWN_LEVEL, 1, bytes(_INT.size))
        said["setting at an unknown level"] = errno_name(number) if number else "success"
        number = sockopt.setsockopt(fd, abi.SOL_MPTCP, abi.MPTCP_INFO, bytes(_INT.size))
        said["setting MPTCP_INFO"] = errno_name(number) if number else "success"

    def run_in_error(self) -> Trace:
        """The calls that report a pending error first, and what the next calls then report."""
        sock, call = self.sock, self.call
        sock.setblocking(False)
        call("recv first", lambda: sock.recv(100, DONTWAIT))
        call("recv second", lambda: sock.recv(100, DONTWAIT))
        call("SO_ERROR after recv", self._error)
        call("poll after the error", self._poll)
        call("send after recv", lambda: sock.send(b"z", NOSIGNAL | DONTWAIT))
        return self.said

    def run_splicing(self) -> Trace:
        """The same where splice() comes first."""
        self.sock.setblocking(False)
        self.call("splice first", self._splice)
        self.call("SO_ERROR after splice", self._error)
        return self.said

    def run_sending(self) -> Trace:
        """The same where send() comes first."""
        sock, call = self.sock, self.call
        sock.setblocking(False)
        call("send first", lambda: sock.send(b"z", NOSIGNAL | DONTWAIT))
        call("send second", lambda: sock.send(b"z", NOSIGNAL | DONTWAIT))
        call("recv after send", lambda: sock.recv(100, DONTWAIT))
        call("SO_ERROR after send", self._error)
        return self.said

    def _look(self) -> None:
        sock, call = self.sock, self.call
        call("poll", self._poll)
        for name, number in (
            ("SO_TYPE", SO_TYPE),
            ("SO_DOMAIN", SO_DOMAIN),
            ("SO_ACCEPTCONN", SO_ACCEPTCONN),
        ):
            call(name, lambda number=number: sock.getsockopt(SOL_SOCKET, number))  # type: ignore[misc]
        call("SO_ERROR", self._error)
        call("SO_ERROR again", self._error)
        call("getsockname", lambda: _shape(sock.getsockname()))
        call("getpeername", lambda: _shape(sock.getpeername()))
        call("the peer's names", self._peer_names)
        for name, number in (
            ("SIOCINQ", SIOCINQ),
            ("SIOCOUTQ", SIOCOUTQ),
            ("SIOCOUTQNSD", SIOCOUTQNSD),
            ("an unknown ioctl", UNKNOWN),
        ):
            call(name, lambda number=number: self._ioctl(number))  # type: ignore[misc]

    def _use(self) -> None:
        sock, call = self.sock, self.call
        call("accept", self._accept)
        call("bind", lambda: sock.bind((self.lab.address, 0)))
        call("recv", lambda: sock.recv(100, DONTWAIT))
        call("recv of 0 bytes", lambda: sock.recv(0, DONTWAIT))
        call("splice", self._splice)
        call("poll after recv", self._poll)
        call("send", lambda: sock.send(b"z", NOSIGNAL | DONTWAIT))
        call("the peer's recv", self._peer_receives)
        call("poll after send", self._poll)
        target = _target(self.lab, self.protocol).getsockname()
        call("connect", lambda: self._begin_connect(target))
        call("connect again", lambda: self._begin_connect(target))
        call("listen", lambda: sock.listen(1))

    def _shut_down(self) -> None:
        sock, call = self.sock, self.call
        before = states.events(sock)
        call("shutdown with a wrong how", lambda: sock.shutdown(3))
        call("shutdown(SHUT_WR)", lambda: sock.shutdown(_socket.SHUT_WR))
        call("the peer's poll after SHUT_WR", self._peer_hangs_up)
        if before & states.POLLRDHUP and not before & select.POLLHUP:  # the peer has closed, too
            wait_until(lambda: states.is_closed(sock), states.SETTLE_S)
        call("send after SHUT_WR", lambda: sock.send(b"z", NOSIGNAL | DONTWAIT))
        call("shutdown(SHUT_RD)", lambda: sock.shutdown(_socket.SHUT_RD))
        call("poll after both", self._poll)
        call("recv after both", lambda: sock.recv(100, DONTWAIT))
        call("shutdown(SHUT_RDWR)", lambda: sock.shutdown(_socket.SHUT_RDWR))
        call("SO_ERROR after shutdown", self._error)

    def _start_over(self) -> None:
        sock, call = self.sock, self.call
        call("connect(AF_UNSPEC)", lambda: states.disconnect(sock))
        call("poll after that", self._poll)
        sock.getsockopt(SOL_SOCKET, _socket.SO_ERROR)
        call("getpeername after that", lambda: _shape(sock.getpeername()))
        listener = self.lab.listener(self.protocol)
        if not call("second connect", lambda: self._connect(listener)):
            return  # EINVAL on 6.1; accept() would then wait for 10 s
        try:
            peer = self.lab.accept(listener, self.protocol)
        except OSError as error:
            self.said["its names"] = "accept: " + _errno(error)
            return
        self.placed.peer = peer
        call("its names", self._peer_names)
        call("its poll", self._poll)
        call("its data", self._exchange)
        call("its poll afterwards", lambda: "%s, %s" % (self._poll(), _events(states.events(peer))))
        if self.protocol == MPTCP:
            for name, end in (("its MPTCP_INFO", sock), ("its peer's MPTCP_INFO", peer)):
                self.said[name] = _info(end.fileno(), counters=True)

    def _begin_connect(self, target: object) -> None:
        """connect(), and what it began is over before the next call."""
        try:
            self.sock.connect(target)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno == errno.EINPROGRESS:
                wait_until(lambda: not states.is_closed(self.sock), states.SETTLE_S)
            raise

    def _connect(self, listener: _socket.socket) -> None:
        self.sock.settimeout(5.0)
        self.sock.connect(listener.getsockname())

    def _exchange(self) -> str:
        peer = self.placed.peer
        assert peer is not None
        self.sock.sendall(b"there")
        there = peer.recv(100)
        peer.sendall(b"and back")
        return "%r, %r" % (there, self.sock.recv(100))

    def _poll(self) -> str:
        return _events(states.events(self.sock))

    def _error(self) -> str:
        number = self.sock.getsockopt(SOL_SOCKET, _socket.SO_ERROR)
        return errno_name(number) if number else "no error"

    def _ioctl(self, number: int) -> int:
        return int(_INT.unpack(fcntl.ioctl(self.sock.fileno(), number, b"\xa5" * _INT.size))[0])

    def _splice(self) -> int:
        source, sink = os.pipe()
        try:
            return calls.splice(self.sock.fileno(), sink, 10, SPLICE_F_NONBLOCK)
        finally:
            os.close(source)
            os.close(sink)

    def _accept(self) -> str:
        fd, address = self.sock._accept()  # type: ignore[attr-defined]
        self.lab.adopt(_socket.socket(self.lab.family, _socket.SOCK_STREAM, self.protocol, fd))
        return "a socket of %s" % _shape(address)

    def _peer_names(self) -> str:
        """Whether each end's local address is the other's remote address."""
        peer = self.placed.peer
        if peer is None or peer.fileno() < 0:
            return "no peer"
        if self.sock.getsockname() != peer.getpeername():
            return "%s here, %s there" % (self.sock.getsockname(), peer.getpeername())
        if self.sock.getpeername() != peer.getsockname():
            return "the peer is %s here, %s there" % (self.sock.getpeername(), peer.getsockname())
        return "the same"

    def _peer_receives(self) -> str:
        peer = self.placed.peer
        if peer is None or peer.fileno() < 0 or self.said["send"] != "1":
            return "nothing"
        peer.settimeout(5.0)
        return repr(peer.recv(100))

    def _peer_hangs_up(self) -> str:
        peer = self.placed.peer
        if peer is None or peer.fileno() < 0:
            return "no peer"
        wanted = states.POLLRDHUP
        return _events(wait_until(lambda: states.events(peer) & wanted, states.SETTLE_S))


def _told(answer: sockopt.Answer, words: Callable[[], str]) -> str:
    return errno_name(answer.errno) if answer.errno else words()


def _info(fd: int, counters: bool = False) -> str:
    """The flags of MPTCP_INFO, and how many subflows or bytes it counts."""
    size = abi.MPTCP_INFO_LAYOUT.size
    answer = sockopt.getsockopt(fd, abi.SOL_MPTCP, abi.MPTCP_INFO, bytes(size))
    if answer.errno:
        return errno_name(answer.errno)
    info = abi.MPTCP_INFO_LAYOUT.view(answer.filled)
    told = "flags %d" % info.mptcpi_flags
    if counters and info.has("mptcpi_bytes_received"):
        told += ", %d sent, %d received" % (info.mptcpi_bytes_sent, info.mptcpi_bytes_received)
    if not counters and info.has("mptcpi_subflows_total"):
        told += ", subflows %d" % info.mptcpi_subflows_total
    return told


def _subflows(fd: int, option: int, request: bytearray, layout: abi.Layout) -> str:
    answer = sockopt.getsockopt(fd, abi.SOL_MPTCP, option, request)
    return _told(answer, lambda: str(layout.view(answer.data).num_subflows))


def _events(found: int) -> str:
    names = (
        ("IN", select.POLLIN),
        ("PRI", select.POLLPRI),
        ("OUT", select.POLLOUT),
        ("ERR", select.POLLERR),
        ("HUP", select.POLLHUP),
        ("RDHUP", states.POLLRDHUP),
        ("RDBAND", states.POLLRDBAND),
        ("WRBAND", states.POLLWRBAND),
    )
    told = ["POLL" + name for name, bit in names if found & bit]
    # These two always go with the plain ones, and are told where they do not.
    for name, bit, plain in (
        ("POLLRDNORM", states.POLLRDNORM, select.POLLIN),
        ("POLLWRNORM", states.POLLWRNORM, select.POLLOUT),
    ):
        if bool(found & bit) != bool(found & plain):
            told.append(name + (" alone" if found & bit else " missing"))
    return " ".join(told) or "no event"


def _shape(address: tuple[object, ...]) -> str:
    """An address, and whether it has a port: which one is the kernel's choice."""
    return "%s %s" % (address[0], "with a port" if address[1] else "without a port")


_targets: dict[tuple[int, int], tuple[Lab, _socket.socket]] = {}
#: A state that could not be reached is not tried again by each check: that may have taken seconds.
_traces: dict[tuple[int, str, int], Union[Trace, Failed]] = {}


def _target(lab: Lab, protocol: int) -> _socket.socket:
    """A listener to connect to; its accept queue is never read."""
    key = lab.family, protocol
    if key not in _targets:
        own = Lab(lab.family)
        _targets[key] = own, own.listener(protocol, backlog=200)
    return _targets[key][1]


def trace_of(family: int, state: str, protocol: int = MPTCP) -> Trace:
    """The results of all calls on a socket of ``protocol`` in ``state``: made once, then kept."""
    key = family, state, protocol
    if key not in _traces:
        lab = Lab(family)
        try:
            trace = dict(Tracer(lab, states.place(lab, state, protocol), protocol).run())
            if state in IN_ERROR:
                for run in (Tracer.run_in_error, Tracer.run_sending, Tracer.run_splicing):
                    trace.update(run(Tracer(lab, states.place(lab, state, protocol), protocol)))
            _traces[key] = trace
        except OSError as error:
            _traces[key] = Failed("a socket in the state %r" % state, "success", str(error))
        finally:
            lab.close()
    found = _traces[key]
    if isinstance(found, Failed):
        raise found
    return found


def forget() -> None:
    """Discard all traces; the next request records them again."""
    _traces.clear()
    while _targets:
        _targets.popitem()[1][0].close()
