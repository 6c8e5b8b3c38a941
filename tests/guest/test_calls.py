# SPDX-License-Identifier: GPL-2.0-only
"""Calls that wait, and data both ways: what guest/calls.py, flow.py and variants.py promise."""

from __future__ import annotations

import _socket
import errno
import socket
import time

import pytest

from guest import calls, flow, variants
from guest.checks import Failed
from guest.lab import Lab


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def test_poll_says_what_it_is_asked_for(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    other.send(b"x")
    assert calls.poll(one) == calls.POLLIN | calls.POLLOUT
    assert calls.poll(one, events=calls.POLLIN) == calls.POLLIN
    assert list(calls.poll_each([(one, calls.POLLOUT), (other, calls.POLLIN)])) == [
        calls.POLLOUT,
        0,
    ]


def test_events_have_names() -> None:
    assert calls.events_text(calls.POLLIN | calls.POLLHUP) == "POLLIN|POLLHUP"
    assert calls.events_text(0) == "no events"


def test_wrong_events_fail(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(Failed, match="poll at first"):
        calls.equal_events("at first", pair[0], calls.POLLIN, 0)
    with pytest.raises(Failed, match="poll at first"):
        calls.has_events("at first", pair[0], calls.POLLIN, 0)


def test_ioctl_counts_bytes(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].send(b"four")
    assert calls.ioctl(pair[0], calls.SIOCINQ) == 4


def test_a_refused_ioctl_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(OSError, match="ENOTTY"):
        calls.ioctl(pair[0], 0x1234)


def test_fails_wants_the_errno(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].settimeout(0)
    calls.fails("recv", errno.EAGAIN, pair[0].recv, 1)
    with pytest.raises(Failed, match="recv"):
        calls.fails("recv", errno.EINVAL, pair[0].recv, 1)
    with pytest.raises(Failed, match="send"):
        calls.fails("send", errno.EINVAL, pair[0].send, b"x")


def test_a_call_that_blocks_for_ever_is_ended(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(Failed, match="recv still waits"), calls.Blocking(pair[0], 0.05, "recv"):
        pair[0].recv(1)
    assert pair[0].gettimeout() is None


def test_what_handles_the_end_of_a_wait_is_not_ended(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    handled = []

    def waits() -> None:
        try:
            pair[0].recv(1)
        finally:
            time.sleep(0.7)  # the timer's next turn
            handled.append(True)

    with pytest.raises(Failed), calls.Blocking(pair[0], 0.05):
        waits()
    assert handled


def test_a_worker_is_seen_to_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    worker = calls.Worker(lambda: pair[0].recv(4))
    worker.wait_blocked()
    pair[1].send(b"data")
    assert worker.result() == b"data"
    assert not worker.wait_blocked()


def test_a_workers_error_is_raised(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].settimeout(0)
    with pytest.raises(BlockingIOError):
        calls.Worker(lambda: pair[0].recv(4)).result()


def test_a_worker_that_does_not_end_fails(pair: tuple[socket.socket, socket.socket]) -> None:
    worker = calls.Worker(lambda: pair[0].recv(4))
    with pytest.raises(Failed, match="still waits"):
        worker.result(0.01)
    pair[1].send(b"x")
    worker.result()


def test_a_worker_that_spins_is_not_waited_for() -> None:
    """Of 5 s in which it would be, it uses the processor for a hundredth of one."""
    over: list[bool] = []

    def spins() -> None:
        while not over:
            pass

    worker = calls.Worker(spins)
    with pytest.raises(Failed, match="used the processor"):
        worker.result(5.0, busy_s=0.01)
    over.append(True)
    worker.result()


def test_a_worker_that_waits_does_not_count_as_one_that_spins(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    worker = calls.Worker(lambda: pair[0].recv(4))
    with pytest.raises(Failed, match="still waits"):
        worker.result(0.05, busy_s=5.0)
    pair[1].send(b"x")
    assert worker.result(busy_s=5.0) == b"x"


def test_content_is_the_same_for_a_seed() -> None:
    assert flow.content(100_000) == flow.content(100_000)
    assert flow.content(1000) != flow.content(1000, 1)
    assert flow.content(1000) == flow.content(100_000)[:1000]
    assert flow.content(200_000)[: 1 << 16] != flow.content(200_000)[1 << 16 : 2 << 16]


def test_an_exchange_moves_both_ways(pair: tuple[socket.socket, socket.socket]) -> None:
    flow.exchange(pair[0], pair[1], flow.content(500_000), flow.content(300_000, 1))


def test_other_content_names_its_place() -> None:
    data = flow.content(1000)
    with pytest.raises(Failed) as failed:
        flow.same("a read", data[:500] + b"?" + data[501:], data)
    assert "at 500" in failed.value.got
    with pytest.raises(Failed):
        flow.same("a read", data[:-1], data)


def test_an_early_end_fails(pair: tuple[socket.socket, socket.socket]) -> None:
    class Ending:
        """Sends half of what it is given, then ends."""

        def gettimeout(self) -> None: ...
        def settimeout(self, value: float | None) -> None: ...

        def send(self, data: bytes, flags: int = 0) -> int:
            pair[0].send(data[: len(data) // 2])
            pair[0].shutdown(socket.SHUT_WR)
            return len(data)

        def recv(self, size: int, flags: int = 0) -> bytes:
            raise BlockingIOError

    with pytest.raises(Failed, match="the stream's end"):
        flow.exchange(Ending(), pair[1], b"more than half")  # type: ignore[arg-type]


def test_more_data_are_no_end(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].send(b"x")
    with pytest.raises(Failed, match="the end"):
        flow.at_end("the end", pair[0])


def test_each_variant_runs_and_is_named() -> None:
    seen: list[str] = []

    @variants.each("one", "two")
    def check(lab: Lab) -> None:
        """Something."""
        seen.append(lab.side)
        if lab.side == "two":
            raise Failed("what", "expected", "got")

    with pytest.raises(Failed) as failed:
        check(Lab(_socket.AF_INET))
    assert seen == ["one", "two"]
    assert failed.value.what == "two: what"
    assert check.__doc__ == "Something."
