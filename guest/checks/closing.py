# SPDX-License-Identifier: GPL-2.0-only
"""How a connection ends: resets and their errors, half-closes, data before the end, SO_LINGER."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import errno
import os
import struct
import time

from guest.calls import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDHUP,
    Blocking,
    equal_events,
    errno_of,
    fails,
    fcntl,
    has_events,
)
from guest.checks import equal, require, scenario_check
from guest.diag import ESTABLISHED
from guest.flow import arrive, at_end, content, exchange, fill, read_to_end, same, small_buffers
from guest.lab import wait_until
from guest.multipath import tcp_infos
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from guest.lab import Lab, Pair

SCENARIO = "effects"
RESET = POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP
SHUT_RD, SHUT_WR, SHUT_RDWR = 0, 1, 2
F_SETFL, F_SETOWN, O_ASYNC = 4, 8, 0x2000


def linger(seconds: int, on: int = 1) -> Callable[[_socket.socket], None]:
    """Sets SO_LINGER."""

    def set_linger(sock: _socket.socket) -> None:
        value = struct.pack("@ii", on, seconds)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, value)

    return set_linger


def is_reset(what: str, sock: _socket.socket) -> None:
    """Fail unless the peer has reset the connection of ``sock``: poll, then recv, then SO_ERROR.

    A socket that has fallen back to TCP, or has heard nothing of its peer since the handshake,
    which is the same to MPTCP, has neither POLLIN nor POLLRDHUP after a reset.
    """
    has_events(what, sock, POLLOUT | POLLERR | POLLHUP)
    fails(what + ": recv", errno.ECONNRESET, sock.recv, 16)
    equal(what + ": SO_ERROR afterwards", _so_error(sock), 0)
    has_events(what + ", SO_ERROR read", sock, POLLOUT | POLLHUP)
    fails(what + ": send afterwards", errno.EPIPE, sock.send, b"x")


def _so_error(sock: _socket.socket) -> int:
    return sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)


@scenario_check("so_linger.zero_resets", scenario=SCENARIO)
@each("client", "server")
def zero_resets(lab: Lab) -> None:
    """With SO_LINGER {1, 0} close(2) resets the connection: the peer gets ECONNRESET."""
    pair = lab.pair()
    closer, peer = _ends(lab, pair)
    exchange(closer, peer, b"forth", b"back")
    linger(0)(closer)
    closer.close()
    equal_events("after the peer's close", peer, RESET)
    is_reset("after the peer's close", peer)
    at_end("recv after the error", peer)


@scenario_check("so_linger.zero_set_before_connect_resets", scenario="inherit")
def zero_before_connect(lab: Lab) -> None:
    """SO_LINGER {1, 0} set before connect() makes close(2) reset the connection."""
    pair = lab.pair(before_connect=linger(0))
    pair.client.close()
    is_reset("after the peer's close", pair.server)


@scenario_check("so_linger.zero_of_the_listener_resets", scenario="inherit")
def zero_of_the_listener(lab: Lab) -> None:
    """SO_LINGER {1, 0} of a listener makes close(2) of an accepted socket reset."""
    pair = lab.pair(before_bind=linger(0))
    pair.server.close()
    is_reset("after the peer's close", pair.client)


@scenario_check("so_linger.zero_after_a_half_close_is_epipe", scenario=SCENARIO)
@each("client", "server")
def zero_after_half_close(lab: Lab) -> None:
    """After a reset by a half-closed peer send(2) fails with EPIPE and recv(2) returns 0."""
    pair = lab.pair()
    closer, peer = _ends(lab, pair)
    exchange(closer, peer, b"forth", b"back")
    closer.shutdown(SHUT_WR)
    at_end("the end of the stream", peer)
    linger(0)(closer)
    closer.close()
    equal_events("after the reset", peer, RESET)
    equal("SO_ERROR", _so_error(peer), errno.EPIPE)
    at_end("recv after the reset", peer)
    fails("send after the reset", errno.EPIPE, peer.send, b"x")


@scenario_check("so_linger.off_does_not_reset", scenario=SCENARIO)
@each("client", "server")
def linger_off(lab: Lab) -> None:
    """Without SO_LINGER, or once it is off again, close(2) ends the stream in order."""
    pair = lab.pair()
    closer, peer = _ends(lab, pair)
    linger(0)(closer)
    linger(0, on=0)(closer)
    arrive(closer, peer, b"last")
    closer.close()
    same("what was sent before close", read_to_end(peer), b"last")


@scenario_check("so_linger.with_time_returns_when_all_is_acked", scenario=SCENARIO)
def linger_with_time(lab: Lab) -> None:
    """With SO_LINGER {1, 20} close(2) waits until the peer has acknowledged all data."""
    pair = lab.pair()
    linger(20)(pair.client)
    data = content(20_000)
    arrive(pair.client, pair.server, data)
    began = time.monotonic()
    pair.client.close()
    took = time.monotonic() - began
    require("close() of what the peer has", took < 10, "below 10 s", "%.1f s" % took)
    same("what was sent before close", read_to_end(pair.server), data)


def _ends(lab: Lab, pair: Pair) -> tuple[_socket.socket, _socket.socket]:
    """The end of the lab's side, and the other one."""
    return (pair.server, pair.client) if lab.side == "server" else (pair.client, pair.server)


@scenario_check("close.with_unread_data_resets", scenario=SCENARIO)
@each("client", "server")
def unread_data_resets(lab: Lab) -> None:
    """close(2) with unread data resets the connection, as TCP does (RFC 2525, 2.17)."""
    pair = lab.pair()
    closer, peer = _ends(lab, pair)
    arrive(peer, closer, b"never read")
    closer.close()
    equal_events("after close with unread data", peer, RESET)
    is_reset("after close with unread data", peer)


@scenario_check("close.delivers_what_was_sent", scenario="buffers")
@each("client", "server")
def delivers_what_was_sent(lab: Lab) -> None:
    """close(2) delivers all data, then the end of the stream, even if the buffers are full."""
    pair = lab.pair(before_connect=small_buffers, before_bind=small_buffers)
    closer, peer = _ends(lab, pair)
    sent = fill(closer)
    closer.close()
    same("what was sent before close", read_to_end(peer), sent)
    equal_events("at the end", peer, POLLIN | POLLOUT | POLLRDHUP)


@scenario_check("shutdown.half_close_keeps_the_other_way", scenario=SCENARIO)
@each("client", "server")
def half_close(lab: Lab) -> None:
    """After SHUT_WR the peer can still send a large amount of data, and then close."""
    pair = lab.pair()
    closer, peer = _ends(lab, pair)
    closer.sendall(b"request")
    closer.shutdown(SHUT_WR)
    same("before the end", read_to_end(peer), b"request")
    exchange(peer, closer, content(100_000), what="a transfer after a half-close")
    peer.shutdown(SHUT_WR)
    at_end("the other end", closer)
    for sock in (closer, peer):
        equal_events("after both ends", sock, POLLIN | POLLOUT | POLLHUP | POLLRDHUP)
        equal("SO_ERROR after both ends", _so_error(sock), 0)


@scenario_check("shutdown.write_fails_with_epipe", scenario=SCENARIO)
@each("client", "server")
def write_after_shutdown(lab: Lab) -> None:
    """After SHUT_WR send(2) fails with EPIPE, recv(2) works, and poll(2) reports POLLOUT."""
    pair = lab.pair()
    closer, peer = _ends(lab, pair)
    closer.shutdown(SHUT_WR)
    fails("send", errno.EPIPE, closer.send, b"x")
    equal_events("after SHUT_WR", closer, POLLOUT)
    equal_events("of the peer", peer, POLLIN | POLLOUT | POLLRDHUP)
    arrive(peer, closer, b"more")
    equal_events("after SHUT_WR with data", closer, POLLIN | POLLOUT)
    same("data after SHUT_WR", closer.recv(16), b"more")


@scenario_check("shutdown.read_ends_the_stream", scenario=SCENARIO)
@each("client", "server")
def read_after_shutdown(lab: Lab) -> None:
    """After SHUT_RD recv(2) returns the queued data, then 0; send(2) still works."""
    pair = lab.pair()
    closer, peer = _ends(lab, pair)
    arrive(peer, closer, b"here")
    closer.shutdown(SHUT_RD)
    equal_events("after SHUT_RD", closer, POLLIN | POLLOUT | POLLRDHUP)
    same("data from before SHUT_RD", closer.recv(16), b"here")
    with Blocking(closer, what="recv after SHUT_RD"):
        equal("recv after SHUT_RD", len(closer.recv(16)), 0)
    arrive(closer, peer, b"still sent")
    equal_events("of the peer", peer, POLLIN | POLLOUT)
    equal("SO_ERROR of the peer", _so_error(peer), 0)


@scenario_check("shutdown.both_ways_hangs_up", scenario=SCENARIO)
@each("client", "server")
def shutdown_both(lab: Lab) -> None:
    """After SHUT_RDWR poll(2) reports POLLHUP, send(2) EPIPE, recv(2) 0; the peer reads EOF."""
    pair = lab.pair()
    closer, peer = _ends(lab, pair)
    closer.shutdown(SHUT_RDWR)
    equal_events("after SHUT_RDWR", closer, POLLIN | POLLOUT | POLLHUP | POLLRDHUP)
    fails("send after SHUT_RDWR", errno.EPIPE, closer.send, b"x")
    at_end("recv after SHUT_RDWR", closer)
    at_end("recv of the peer", peer)
    equal_events("of the peer", peer, POLLIN | POLLOUT | POLLRDHUP)


@scenario_check("shutdown.closes_the_subflows", scenario=SCENARIO, needs=("tcpinfo",))
def shutdown_closes_the_subflows(lab: Lab) -> None:
    """The TCP subflows are closed once both ends have shut down and acknowledged it."""
    pair = lab.pair()
    exchange(pair.client, pair.server, b"forth", b"back")
    pair.client.shutdown(SHUT_WR)
    at_end("recv of the server", pair.server)
    pair.server.shutdown(SHUT_WR)
    at_end("recv of the client", pair.client)
    for name, sock in (("client", pair.client), ("server", pair.server)):
        closed = wait_until(lambda sock=sock: tcp_infos(sock)[0].tcpi_state != ESTABLISHED)  # type: ignore[misc]
        require("subflow of the " + name, closed, "closing or closed", "established")


@scenario_check("shutdown.end_follows_all_data", scenario=SCENARIO)
@each("client", "server")
def end_follows_all_data(lab: Lab) -> None:
    """The end of the stream is reported after the last byte was read, not on arrival."""
    pair = lab.pair()
    closer, peer = _ends(lab, pair)
    data = content(30_000)
    arrive(closer, peer, data)
    closer.shutdown(SHUT_WR)
    equal_events("with data before the end", peer, POLLIN | POLLOUT | POLLRDHUP)
    same("data before the end", read_to_end(peer), data)
    fails("a second SHUT_WR", 0, closer.shutdown, SHUT_WR)
    at_end("once more", peer)


@scenario_check("accept.after_the_client_closed", scenario=SCENARIO)
def accept_after_close(lab: Lab) -> None:
    """accept(2) of a client that sent and closed gives its data, then the end of the stream."""
    listener = lab.listener()
    client = lab.socket()
    client.connect(listener.getsockname())
    client.sendall(b"hello")
    client.close()
    time.sleep(0.005)
    server = lab.accept(listener)
    same("what was sent", read_to_end(server), b"hello")
    arrive_or_reset = errno_of(server.send, b"x")
    require(
        "send to a client that closed",
        arrive_or_reset in (0, errno.EPIPE, errno.ECONNRESET),
        "success, EPIPE or ECONNRESET",
        arrive_or_reset,
    )


@scenario_check("accept.after_the_client_half_closed", scenario=SCENARIO)
def accept_after_half_close(lab: Lab) -> None:
    """A client that half-closed before accept(2) can be read to the end, and answered."""
    listener = lab.listener()
    client = lab.socket()
    client.connect(listener.getsockname())
    client.sendall(b"request")
    client.shutdown(SHUT_WR)
    time.sleep(0.005)
    server = lab.accept(listener)
    same("what was sent", read_to_end(server), b"request")
    exchange(server, client, content(50_000), what="the answer")
    server.close()
    at_end("the end of the answer", client)


@scenario_check("accept.after_the_client_reset", scenario=SCENARIO)
def accept_after_reset(lab: Lab) -> None:
    """The listener still works after a client reset its connection before accept(2)."""
    listener = lab.listener()
    client = lab.socket()
    client.connect(listener.getsockname())
    linger(0)(client)
    client.close()
    time.sleep(0.005)
    second = lab.socket()
    second.connect(listener.getsockname())
    second.sendall(b"second")
    for _ in range(2):
        server = lab.accept(listener)
        try:
            data = server.recv(16)
        except OSError as error:
            # Which one depends on whether the reset was seen before accept(2) or after it.
            allowed = (errno.ECONNRESET, errno.ENOTCONN)
            require("recv of a reset connection", error.errno in allowed, "ECONNRESET", error)
            continue
        if data:
            same("what the second client sent", data, b"second")
            return
    equal("recv of the second client", "nothing", "its data")


@scenario_check("close.of_a_listener_resets_waiting_clients", scenario=SCENARIO)
def listener_close(lab: Lab) -> None:
    """close(2) of a listener resets the connections in its accept queue."""
    listener = lab.listener()
    address = listener.getsockname()
    clients = [lab.socket() for _ in range(3)]
    for client in clients:
        client.connect(address)
    clients[1].sendall(b"data")
    listener.close()
    for client in clients:
        has_events("of a client nobody accepted", client, POLLOUT | POLLHUP)
        require("send to nobody", errno_of(client.send, b"x") != 0, "an error", "success")
    fails("a new connect()", errno.ECONNREFUSED, lab.socket().connect, address)


@scenario_check("sigio.is_sent", scenario=SCENARIO)
@each("data", "end", "reset")
def sigio(lab: Lab) -> None:
    """With O_ASYNC and F_SETOWN data, the end of the stream and a reset send SIGIO."""
    pair = lab.pair()
    exchange(pair.client, pair.server, b"forth", b"back")
    seen: list[int] = []
    before = _signal.signal(_signal.SIGIO, lambda number, frame: seen.append(number))
    try:
        fcntl(pair.server, F_SETOWN, os.getpid())
        fcntl(pair.server, F_SETFL, O_ASYNC | os.O_NONBLOCK)
        if lab.side == "data":
            pair.client.sendall(b"x")
        elif lab.side == "end":
            pair.client.shutdown(SHUT_WR)
        else:
            linger(0)(pair.client)
            pair.client.close()
        equal("SIGIO", wait_until(lambda: len(seen) > 0), True)
    finally:
        fcntl(pair.server, F_SETFL, os.O_NONBLOCK)
        _signal.signal(_signal.SIGIO, before)
