# SPDX-License-Identifier: GPL-2.0-only
"""Calls on one connection at the same time, while subflows join and leave.

What happens first depends on the scheduler, what must hold does not: no call hangs, each returns
what it may return, and no byte is lost, repeated or changed.
"""

from __future__ import annotations

import _socket
import os
import struct
import time

from guest import abi, isolation, multipath, pm, sockopt
from guest.calls import POLLIN, Worker, errno_of, poll
from guest.checks import Failed, equal, errno_name, require, scenario_check
from guest.flow import content
from guest.lab import wait_until
from guest.scenarios import Scenario, declare
from guest.states import disconnect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

    from guest.lab import Lab


def usual_slices(_: Lab) -> None:
    """In short slices, calls of two threads overlap in more ways."""
    isolation.long_slices(False)


SCENARIO = declare(Scenario("concurrency", setup=usual_slices, one_family=True)).name
PATHS = ("userspace_pm",)
SIZE = 160_000
READ = 1 << 15
#: Seconds for which something is done again and again.
BUSY_S = 0.03
EBUSY, ENOTCONN, ECONNRESET, EINVAL, EPIPE, ECONNREFUSED = 16, 107, 104, 22, 32, 111
INT = struct.Struct("=i")
#: Options that may be set at any time: level, number, values.
OPTIONS: Sequence[tuple[int, int, Sequence[bytes]]] = (
    (1, 36, (INT.pack(1), INT.pack(2))),  # SO_MARK
    (1, 12, (INT.pack(1), INT.pack(5))),  # SO_PRIORITY
    (1, 7, (INT.pack(90_000), INT.pack(200_000))),  # SO_SNDBUF
    (1, 8, (INT.pack(90_000), INT.pack(200_000))),  # SO_RCVBUF
    (1, 9, (INT.pack(1), INT.pack(0))),  # SO_KEEPALIVE
    (6, 1, (INT.pack(1), INT.pack(0))),  # TCP_NODELAY
    (6, 3, (INT.pack(1), INT.pack(0))),  # TCP_CORK
    (6, 13, (b"reno", b"cubic")),  # TCP_CONGESTION
    (0, 1, (INT.pack(16), INT.pack(8))),  # IP_TOS
    (1, 63, (INT.pack(1), INT.pack(0))),  # SO_TIMESTAMP_NEW
)


def send_all(sock: _socket.socket, data: bytes) -> Worker:
    return Worker(lambda: sock.sendall(data))


def receive(sock: _socket.socket, size: int) -> Worker:
    """Reads ``size`` bytes, or less where the stream ends."""

    def read() -> bytes:
        came = []
        left = size
        while left:
            chunk = sock.recv(min(left, READ))
            if not chunk:
                break
            came.append(chunk)
            left -= len(chunk)
        return b"".join(came)

    return Worker(read)


def intact(got: object, data: bytes) -> None:
    assert isinstance(got, bytes)
    equal("bytes received", len(got), len(data))
    if got != data:
        at = next(n for n in range(len(data)) if data[n] != got[n])
        raise Failed("bytes received", "those that were sent", "another one at %d" % at)


def while_busy(act: Callable[[int], object]) -> int:
    """Call ``act`` again and again for a short time; how often that was."""
    until = time.monotonic() + BUSY_S
    count = 0
    while time.monotonic() < until:
        act(count)
        count += 1
    return count


def set_options(sock: _socket.socket) -> Callable[[int], None]:
    def act(count: int) -> None:
        level, number, values = OPTIONS[count % len(OPTIONS)]
        errno = sockopt.setsockopt(sock.fileno(), level, number, values[count // len(OPTIONS) % 2])
        what = "setsockopt(%d, %d)" % (level, number)
        equal(what, errno_name(errno) if errno else "success", "success")

    return act


@scenario_check("concurrent.options_during_transfer", scenario=SCENARIO, sides=("client", "server"))
def options_during_transfer(lab: Lab) -> None:
    """Setting options during a transfer in both directions never fails and changes no byte."""
    pair = lab.pair()
    data = content(SIZE, lab.seed)
    workers = (
        send_all(pair.client, data),
        receive(pair.server, SIZE),
        send_all(pair.server, data),
        receive(pair.client, SIZE),
    )
    act = set_options(pair.client if lab.side == "client" else pair.server)
    while_busy(act)
    for uncork in (pair.client, pair.server):
        sockopt.setsockopt(uncork.fileno(), 6, 3, INT.pack(0))
    results = [worker.result(20) for worker in workers]
    intact(results[1], data)
    intact(results[3], data)


@scenario_check("concurrent.joins_during_transfer", scenario=SCENARIO, needs=PATHS)
def joins_during_transfer(lab: Lab) -> None:
    """Subflows that join and leave during a transfer lose no byte; mptcpi_subflows falls again."""
    bench = multipath.bench(lab)
    bench.clean()
    ends = bench.connect(lab)
    data = content(SIZE, lab.seed)
    workers = (send_all(ends.client, data), receive(ends.server, SIZE))

    def join_and_leave(count: int) -> None:
        bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)
        bench.pm.add(bench.client_address(3), pm.SUBFLOW, id=3)
        bench.pm.delete(2 + count % 2)
        bench.pm.flush()

    while_busy(join_and_leave)
    intact(workers[1].result(20), data)
    workers[0].result(20)
    multipath.both_have(ends, 0)
    multipath.exchange(ends, b"and on")


@scenario_check("concurrent.options_during_joins", scenario=SCENARIO, needs=PATHS)
def options_during_joins(lab: Lab) -> None:
    """Setting options while subflows join and leave never fails; data still passes afterwards."""
    bench = multipath.bench(lab)
    bench.clean()
    ends = bench.connect(lab)
    act = set_options(ends.client)
    worker = Worker(lambda: while_busy(act))

    def join_and_leave(count: int) -> None:
        bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)
        bench.pm.delete(2)

    while_busy(join_and_leave)
    worker.result(20)
    sockopt.setsockopt(ends.client.fileno(), 6, 3, INT.pack(0))
    multipath.both_have(ends, 0)
    multipath.exchange(ends, content(50_000, lab.seed))


@scenario_check("concurrent.info_during_joins", scenario=SCENARIO, needs=(*PATHS, "full_info"))
def info_during_joins(lab: Lab) -> None:
    """While subflows come and go, each answer about them is complete and consistent."""
    bench = multipath.bench(lab)
    bench.clean()
    ends = bench.connect(lab)

    def look(count: int) -> None:
        full = multipath.Full(ends.client)
        equal("MPTCP_FULL_INFO", full.answer.errno, 0)
        number = full.header.num_subflows
        require("num_subflows", 1 <= number <= 4, "1 to 4", number, full.answer.data)
        equal("ids", len(set(full.ids)), number, full.answer.data)
        found = multipath.Array(ends.client, abi.MPTCP_TCPINFO, abi.TCP_INFO_LAYOUT)
        equal("elements", len(found.elements), found.header.num_subflows, found.answer.data)

    worker = Worker(lambda: while_busy(look))

    def join_and_leave(count: int) -> None:
        bench.pm.add(bench.client_address(2), pm.SUBFLOW, id=2)
        bench.pm.add(bench.client_address(3), pm.SUBFLOW, id=3)
        bench.pm.flush()

    while_busy(join_and_leave)
    worker.result(20)
    multipath.both_have(ends, 0)


@scenario_check(
    "concurrent.diag_during_changes", scenario=SCENARIO, needs=(*PATHS, "mptcp_diag", "inet_diag")
)
def diag_during_changes(lab: Lab) -> None:
    """Dumps are well-formed while sockets come and go; a socket that stays is in them once.

    Where another one comes or goes in the same bucket of the table of tokens within a dump, the
    kernel, which counts places there, may dump it twice or not at all. The next dump has it once.
    """
    bench = multipath.bench(lab)
    bench.clean()
    pair = lab.pair()
    token = multipath.info(pair.client).mptcpi_token
    family = int(lab.family)

    def times() -> int:
        sockets = bench.diag.mptcp_sockets(family=family)
        return sum(one.info.mptcpi_token == token for one in sockets)

    def look(count: int) -> None:
        multipath.wait_for("times that the token is there", times, 1)
        bench.diag.tcp_sockets(family=family)

    worker = Worker(lambda: while_busy(look))

    def come_and_go(count: int) -> None:
        other = lab.pair()
        for sock in (other.client, other.server, other.listener):
            sock.close()

    while_busy(come_and_go)
    worker.result(20)


@scenario_check("concurrent.two_readers", scenario=SCENARIO)
def two_readers(lab: Lab) -> None:
    """Two readers of one socket get each byte once."""
    pair = lab.pair()
    data = content(SIZE, lab.seed)
    readers = [_reader(pair.server) for _ in range(2)]
    send_all(pair.client, data).result(20)
    pair.client.shutdown(_socket.SHUT_WR)
    _all_once([reader.result(20) for reader in readers], data)


def _reader(sock: _socket.socket) -> Worker:
    def read() -> Sequence[bytes]:
        came: list[bytes] = []
        while True:
            chunk = sock.recv(500)  # many calls: a race may come with each
            if not chunk:
                return came
            came.append(chunk)

    return Worker(read)


def _all_once(results: Sequence[object], data: bytes) -> None:
    """The chunks together have the bytes of ``data``, each as often."""
    chunks = [chunk for result in results for chunk in result]  # type: ignore[attr-defined]
    equal("bytes of all readers", sum(len(chunk) for chunk in chunks), len(data))
    # Chunks come in no known order: compare how often each value is there.
    values = range(0, 256, 5)
    expected = [data.count(value) for value in values]
    joined = b"".join(chunks)
    equal("bytes by value", [joined.count(value) for value in values], expected)


@scenario_check("concurrent.two_writers", scenario=SCENARIO)
def two_writers(lab: Lab) -> None:
    """The data of two writers on one socket arrive once, in the order of each writer."""
    pair = lab.pair()
    half = SIZE // 2
    writers = [send_all(pair.client, bytes([value]) * half) for value in (1, 2)]
    got = receive(pair.server, 2 * half).result(20)
    for writer in writers:
        writer.result(20)
    assert isinstance(got, bytes)
    equal("bytes of each writer", (got.count(1), got.count(2)), (half, half))


@scenario_check("concurrent.parent_and_child", scenario=SCENARIO)
def parent_and_child(lab: Lab) -> None:
    """A socket that a child inherited stays connected when the parent closes it."""
    pair = lab.pair()
    child = os.fork()
    if child == 0:
        try:
            pair.server.settimeout(20)
            got = pair.client.recv(100)
            pair.client.sendall(got)
        finally:
            os._exit(0)
    pair.client.close()
    pair.server.sendall(b"to the child")
    equal("echo", pair.server.recv(100), b"to the child")
    os.waitpid(child, 0)
    equal("end once the child is gone", pair.server.recv(100), b"")


def outcome(worker: Worker) -> object:
    """What a call returned, or its errno; Failed if it still waits."""
    try:
        return worker.result(10)
    except OSError as error:
        return error.errno if error.errno is not None else "timeout"


@scenario_check("concurrent.shutdown_ends_recv", scenario=SCENARIO)
def shutdown_ends_recv(lab: Lab) -> None:
    """shutdown() ends a recv() that waits in another thread, with the end of the stream."""
    pair = lab.pair()
    pair.server.settimeout(None)
    worker = Worker(lambda: pair.server.recv(10))
    worker.wait_blocked()
    pair.server.shutdown(_socket.SHUT_RDWR)
    equal("recv()", outcome(worker), b"")


@scenario_check("concurrent.disconnect_under_recv", scenario=SCENARIO)
def disconnect_under_recv(lab: Lab) -> None:
    """connect(AF_UNSPEC) under a recv() that waits is refused with EBUSY, or ends it."""
    pair = lab.pair()
    pair.client.settimeout(None)
    worker = Worker(lambda: pair.client.recv(10))
    worker.wait_blocked()
    errno = errno_of(disconnect, pair.client)
    require("connect(AF_UNSPEC)", errno in (0, EBUSY), "success or EBUSY", errno)
    if errno == EBUSY:
        pair.server.sendall(b"goes on")
        equal("recv()", outcome(worker), b"goes on")
        return
    got = outcome(worker)
    require("recv()", got in (b"", ENOTCONN, ECONNRESET, EPIPE), "the end or an error", got)


@scenario_check("concurrent.data_wakes_poll", scenario=SCENARIO)
def data_wakes_poll(lab: Lab) -> None:
    """Data and the end of the stream each wake a poll() that waits in another thread."""
    pair = lab.pair()
    acts: Sequence[Callable[[], object]] = (
        lambda: pair.client.sendall(b"x"),
        lambda: pair.client.shutdown(_socket.SHUT_WR),
    )
    for act in acts:
        worker = Worker(lambda: poll(pair.server, 10, POLLIN))
        worker.wait_blocked()
        act()
        equal("poll()", outcome(worker), POLLIN)
        pair.server.recv(1)


@scenario_check("concurrent.shutdown_ends_accept", scenario=SCENARIO)
def shutdown_ends_accept(lab: Lab) -> None:
    """shutdown() of a listener ends an accept() that waits in another thread: EINVAL."""
    listener = lab.listener()
    listener.settimeout(None)
    worker = Worker(lambda: listener._accept())  # type: ignore[attr-defined]
    worker.wait_blocked()
    listener.shutdown(_socket.SHUT_RDWR)
    equal("accept()", outcome(worker), EINVAL)


@scenario_check("concurrent.close_while_connecting", scenario=SCENARIO)
def close_while_connecting(lab: Lab) -> None:
    """No connection stays established if it is closed right after connect(2)."""
    bench = multipath.bench(lab)
    bench.quiet()
    listener = lab.listener(backlog=32)
    for _ in range(12):
        sock = lab.socket()
        sock.setblocking(False)
        try:
            sock.connect(listener.getsockname())
        except BlockingIOError:
            pass
        sock.close()
    listener.close()
    bench.quiet()


@scenario_check("concurrent.accept_and_close", scenario=SCENARIO)
def accept_and_close(lab: Lab) -> None:
    """A listener that is closed while clients connect resets or refuses them; none hangs."""
    listener = lab.listener(backlog=32)
    address = listener.getsockname()

    def knock() -> Sequence[object]:
        found: list[object] = []
        for _ in range(20):
            sock = _socket.socket(lab.family, _socket.SOCK_STREAM, abi.IPPROTO_MPTCP)
            sock.settimeout(10)
            try:
                sock.connect(address)
                found.append(sock.recv(1))
            except OSError as error:
                found.append(error.errno)
            finally:
                sock.close()
        return found

    worker = Worker(knock)
    for _ in range(5):
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        os.close(fd)
    listener.close()
    got = worker.result(30)
    assert isinstance(got, list)
    odd = [one for one in got if one not in (b"", ECONNREFUSED, ECONNRESET)]
    equal("outcomes of the clients", odd, [])


@scenario_check("concurrent.reset_under_send", scenario=SCENARIO, sides=("client", "server"))
def reset_under_send(lab: Lab) -> None:
    """A reset by the peer ends a send() that waits for room, with an error."""
    pair = lab.pair()
    near, far = (pair.client, pair.server) if lab.side == "client" else (pair.server, pair.client)
    near.settimeout(None)
    near.setsockopt(1, 7, 60_000)
    far.setsockopt(1, 8, 60_000)
    worker = Worker(lambda: near.sendall(bytes(16 << 20)))
    worker.wait_blocked()
    far.setsockopt(1, 13, struct.pack("=ii", 1, 0))
    far.close()
    got = outcome(worker)
    require("send()", got in (ECONNRESET, EPIPE), "ECONNRESET or EPIPE", got)
    require("end", bool(wait_until(lambda: poll(near, 0))), "an event", "none")
